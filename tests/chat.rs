//! Chat templates of well-known forms against what `transformers` renders (`tests/fixtures/make_chat.py`).
#![expect(
    clippy::unwrap_used,
    reason = "a failure to set up is a failure of the test"
)]

use std::path::PathBuf;

use autopeft::chat::{ChatError, ChatTemplate, Conversation};
use chrono::{Local, TimeZone};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat")
}

fn fixture() -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("rendered.json")).unwrap()).unwrap()
}

fn template(name: &str) -> ChatTemplate {
    let source = std::fs::read_to_string(folder().join(format!("{name}.jinja"))).unwrap();
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let then = Local.with_ymd_and_hms(2024, 7, 26, 9, 5, 3).unwrap();
    ChatTemplate::parse(&source, &tokens).unwrap().at(then)
}

fn chat(fixture: &Value, name: &str) -> Conversation {
    let chat = &fixture["chats"][name];
    Conversation::new(chat["messages"].clone(), Some(chat["tools"].clone())).unwrap()
}

#[test]
fn every_template_renders_what_transformers_does() {
    let fixture = fixture();
    let rows = fixture["rendered"].as_array().unwrap();
    assert!(rows.len() >= 5 * 14, "{} rows", rows.len());
    for row in rows {
        let (name, chat_name) = (
            row["template"].as_str().unwrap(),
            row["chat"].as_str().unwrap(),
        );
        let prompt = row["add_generation_prompt"].as_bool().unwrap();
        let got = template(name).render(&chat(&fixture, chat_name), prompt);
        let place = format!("{name}, {chat_name}, prompt {prompt}");
        match (row["text"].as_str(), row["error"].as_str()) {
            (Some(text), _) => assert_eq!(got.expect(&place), text, "{place}"),
            (None, Some(error)) => match got {
                Err(ChatError::Refused { message }) => assert_eq!(message, error, "{place}"),
                other => panic!("{place}: {other:?} is not the refusal {error}"),
            },
            (None, None) => panic!("{place}: neither text nor error"),
        }
    }
}

#[test]
fn what_the_assistant_says_is_found_in_every_template() {
    let fixture = fixture();
    for (name, expected) in [
        ("chatml", ["In Sweden.<|im_end|>\n", " Bye.\n<|im_end|>\n"]),
        (
            "chatml_tools",
            ["In Sweden.<|im_end|>\n", " Bye.\n<|im_end|>\n"],
        ),
        ("llama3", ["In Sweden.<|eot_id|>", "Bye.<|eot_id|>"]),
        ("mistral", [" In Sweden.</s>", " Bye.</s>"]),
        (
            "gemma",
            ["In Sweden.<end_of_turn>\n", "Bye.<end_of_turn>\n"],
        ),
        ("zephyr", ["In Sweden.</s>\n", " Bye.\n</s>\n"]),
    ] {
        let rendered = template(name)
            .render_spans(&chat(&fixture, "long"))
            .unwrap();
        let learned: Vec<&str> = rendered
            .learned
            .iter()
            .map(|span| &rendered.text[span.clone()])
            .collect();
        assert_eq!(learned, expected, "{name}");
    }
}
