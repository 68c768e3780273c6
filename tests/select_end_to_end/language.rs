//! A tiny language model from recipe to result, and the result in use.

use std::fs;
use std::path::PathBuf;

use autopeft::data::Source;
use autopeft::data::language::{PassageNames, read_passages};
use autopeft::metrics::Scores;
use autopeft::models::LoadOptions;
use autopeft::pipeline::{Adapted, GenerateOptions};
use autopeft::recipe::Recipe;
use candle_core::{DType, Device};
use serde_json::json;

use crate::bench::Bench;

fn llama() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/llama");
    format!("model={}", path.display())
}

/// What follows depends on the prompt.
fn rows(count: usize, chat: bool) -> String {
    let row = |number: usize| {
        let (prompt, completion) = [
            ("name: Blue Spice", "Blue Spice is a pub."),
            ("area: riverside", "It is by the river."),
            ("The movie was slow", "It was dull, a mess."),
        ][number % 3];
        let row = if chat {
            json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]})
        } else {
            json!({"prompt": prompt, "completion": completion})
        };
        row.to_string() + "\n"
    };
    (0..count).map(row).collect()
}

fn bench(chat: bool) -> Bench {
    let bench = Bench::new();
    bench.file("train.jsonl", &rows(12, chat));
    bench.file("validation.jsonl", &rows(6, chat));
    bench
}

const SETTINGS: [&str; 5] = [
    "task.max_length=64",
    "train.steps=40",
    "train.learning_rate=0.03",
    "select.budget=600",
    "superset.bias.enabled=false",
];

#[test]
fn a_language_model_is_selected_trained_exported_and_read_back() {
    for (task, chat, packing) in [
        ("causal-lm", false, "false"),
        ("instruction", true, "true"),
        ("instruction", false, "false"),
    ] {
        let bench = bench(chat);
        let (llama, task_setting) = (llama(), format!("task.type={task}"));
        let packing_setting = format!("task.packing={packing}");
        let settings: Vec<&str> = [
            llama.as_str(),
            task_setting.as_str(),
            packing_setting.as_str(),
        ]
        .into_iter()
        .chain(SETTINGS)
        .collect();
        let report = bench.report(&settings);
        let place = format!("{task}, chat {chat}, packing {packing}");
        assert!(
            report.kept_parameters > 0 && report.kept_parameters <= 600,
            "{place}"
        );
        assert_eq!(report.head_parameters, 0, "{place}");
        let (first, last) = (
            &report.held_out[0].evaluation,
            &report.held_out.last().unwrap().evaluation,
        );
        assert!(
            last.loss < 0.6 * first.loss,
            "{place}: {} is not below {}",
            last.loss,
            first.loss
        );
        assert!(
            matches!(last.scores, Scores::Tokens { tokens, .. } if tokens > 20),
            "{place}"
        );
        let config = fs::read_to_string(bench.out().join("adapter_config.json")).unwrap();
        assert!(config.contains("\"CAUSAL_LM\""), "{config}");
        let card = fs::read_to_string(bench.out().join("README.md")).unwrap();
        assert!(
            card.contains("AutoModelForCausalLM") && card.contains("perplexity"),
            "{card}"
        );

        let recipe_file = bench.out().join("recipe.yaml");
        let recipe = Recipe::load(recipe_file.to_str().unwrap(), &[]).unwrap();
        let adapted = Adapted::open(
            &bench.out(),
            &recipe.model,
            4,
            Device::Cpu,
            DType::F32,
            LoadOptions::default(),
        )
        .unwrap();
        assert!(adapted.is_language());
        let file = Source::File(bench.path("validation.jsonl"));
        let (passages, ..) = read_passages(&file, &PassageNames::default(), true, false).unwrap();
        let again = adapted.evaluate_passages(&recipe, &passages).unwrap();
        assert!(
            (again.loss - last.loss).abs() < 1e-4,
            "{place}: {again:?} is not {last:?}"
        );

        let options = GenerateOptions {
            max_new_tokens: 12,
            ..GenerateOptions::default()
        };
        let mut pieces = String::new();
        let mut on_text = |piece: &str| {
            pieces.push_str(piece);
            Ok(())
        };
        let text = adapted
            .generate(&recipe, &passages[0], &options, &mut on_text)
            .unwrap();
        assert_eq!(text, pieces, "{place}");
        assert!(!text.is_empty(), "{place}");
        let (overlap, prompts) = adapted
            .score_generation(&recipe, &passages, 10, &options, &mut |_| ())
            .unwrap()
            .unwrap();
        assert_eq!(prompts, 3, "{place}");
        assert!((0.0..=100.0).contains(&overlap.bleu) && overlap.rouge.rouge1 <= 1.0);
        // Text that was learned shares words with what was to be said.
        assert!(overlap.rouge.rouge1 > 0.0, "{place}: {text:?} {overlap:?}");
    }
}

#[test]
fn rows_of_a_chat_need_a_template_and_an_assistant() {
    let bench = bench(true);
    let llama = llama();
    bench.file(
        "train.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"good\"}]}\n",
    );
    let settings = [llama.as_str(), "task.type=instruction"];
    bench.refused_early(&settings, &["row 1", "assistant"]);
    bench.file("train.jsonl", "{\"messages\": \"good\"}\n");
    bench.refused_early(&settings, &["line 1", "`messages`"]);
    bench.refused_early(
        &[&llama, "task.type=causal-lm", "export.target=adapterhub"],
        &["adapterhub"],
    );
}
