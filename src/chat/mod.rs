//! Chat templates: the text that a model was trained on for a list of messages, rendered as `transformers` does.
//!
//! A template is a Jinja program in `tokenizer_config.json` (`chat_template`) or `chat_template.jinja`. The rules
//! are those of `transformers.utils.chat_template_utils`: blocks are trimmed, `tojson` is `json.dumps` without
//! escapes, `raise_exception` and `strftime_now` are there, and so are Python's string methods.
//!
//! ```
//! use autopeft::chat::{ChatTemplate, Conversation};
//! let template = ChatTemplate::parse("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", &[])?;
//! let chat = Conversation::turns(&[("user", "hi"), ("assistant", "hello")]);
//! assert_eq!(template.render(&chat, false)?, "<user>hi<assistant>hello");
//! // What the model is to learn: the text of the assistant's turns.
//! let spans = template.render_spans(&chat)?;
//! assert_eq!(&spans.text[spans.learned[0].clone()], "<assistant>hello");
//! # Ok::<(), autopeft::chat::ChatError>(())
//! ```

mod conversation;
mod error;
mod python;
mod source;

use std::ops::Range;

use chrono::{DateTime, Local, TimeZone};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::Regex;
use serde_json::{Map, Value as Json};

pub use conversation::Conversation;
pub use error::ChatError;
pub use source::{SpecialTokens, of_config, read};

/// The names under which the templates of an environment are kept: for every conversation, and for one with tools.
const NAME: &str = "default";
const WITH_TOOLS: &str = "tool_use";
/// Instructions that a template may run: far more than any real one needs, so that a broken one ends.
const FUEL: u64 = 50_000_000;

/// A model's chat template, ready to render.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Map<String, Json>,
    has_tool_use: bool,
    uses_tools: bool,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// Bytes of the text that the model is to learn: the assistant's turns with what ends them.
    pub learned: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Compiles a template; `tokens` are what it may name, such as (`bos_token`, `<s>`).
    ///
    /// # Errors
    /// [`ChatError::Template`] when it is no Jinja program.
    pub fn parse(source: &str, tokens: &[(&str, &str)]) -> Result<Self, ChatError> {
        let tokens = tokens
            .iter()
            .map(|(name, token)| ((*name).to_string(), Json::from(*token)))
            .collect();
        Self::with_tokens(source, None, tokens)
    }

    /// `tool_use` is what `transformers` takes in place of `source` for a conversation with tools.
    fn with_tokens(
        source: &str,
        tool_use: Option<&str>,
        tokens: Map<String, Json>,
    ) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| ChatError::template(&error))?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_formatter(python::write);
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: String| {
            strftime(&Local::now(), &format)
        });
        for (name, source) in [(NAME, Some(source)), (WITH_TOOLS, tool_use)] {
            if let Some(source) = source {
                environment
                    .add_template_owned(name, without_generation_tags(source))
                    .map_err(|error| ChatError::template(&error))?;
            }
        }
        Ok(Self {
            environment,
            tokens,
            has_tool_use: tool_use.is_some(),
            uses_tools: tool_use.unwrap_or(source).contains("tools"),
        })
    }

    /// The same template at a fixed time, for `strftime_now`.
    pub fn at(mut self, now: DateTime<Local>) -> Self {
        self.environment
            .add_function("strftime_now", move |format: String| {
                strftime(&now, &format)
            });
        self
    }

    /// Whether the template looks at the tools of a conversation.
    pub fn uses_tools(&self) -> bool {
        self.uses_tools
    }

    /// The text of a conversation; with `add_generation_prompt` also the words that open the assistant's turn.
    ///
    /// # Errors
    /// [`ChatError::Refused`] when the template raises an exception (roles that must alternate, say),
    /// [`ChatError::Template`] when it fails.
    pub fn render(
        &self,
        chat: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        self.render_messages(chat.messages(), chat, add_generation_prompt)
    }

    fn render_messages(
        &self,
        messages: &[Json],
        chat: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let template = self
            .environment
            .get_template(match self.has_tool_use && chat.tools().is_some() {
                true => WITH_TOOLS,
                false => NAME,
            })
            .map_err(|error| ChatError::template(&error))?;
        let own = context! {
            messages => Value::from(Serde(messages)),
            tools => chat.tools().map(|tools| Value::from(Serde(tools))),
            documents => Value::from(()),
            add_generation_prompt => add_generation_prompt,
        };
        let tokens = Value::from(Serde(&self.tokens));
        template
            .render(context! { ..own, ..tokens })
            .map_err(|error| ChatError::template(&error))
    }

    /// The text of a conversation, and which of it the assistant says. A turn starts where the prompt of the
    /// turns before it ends, and ends where the text up to it does.
    ///
    /// # Errors
    /// As for [`ChatTemplate::render`]; [`ChatError::NoAssistant`] without an assistant's turn;
    /// [`ChatError::NotIncremental`] when the text up to the last turn is not where the whole text starts.
    pub fn render_spans(&self, chat: &Conversation) -> Result<Rendered, ChatError> {
        let messages = chat.messages();
        let text = self.render(chat, false)?;
        let turns: Vec<usize> = (0..messages.len())
            .filter(|turn| chat.role(*turn) == Some("assistant"))
            .collect();
        let Some(last) = turns.last().copied() else {
            return Err(ChatError::NoAssistant);
        };
        let mut learned: Vec<Range<usize>> = Vec::new();
        for turn in turns {
            let prompt = self.render_messages(messages.get(..turn).unwrap_or_default(), chat, true);
            let upto = self.render_messages(messages.get(..=turn).unwrap_or_default(), chat, false);
            let (start, end) = match (prompt, upto) {
                (Ok(prompt), Ok(upto)) if text.starts_with(&prompt) => (prompt.len(), upto),
                // A template may open a turn with words that a finished turn lacks (an empty thought, say), or
                // refuse a chat that does not start with the user.
                (_, Ok(upto)) => match self.common_start(messages, turn, chat, &text) {
                    Some(start) => (start, upto),
                    None => continue,
                },
                (_, Err(error)) if turn == last => return Err(error),
                (_, Err(_)) => continue,
            };
            // Templates that drop earlier thoughts change earlier turns when a later one is there: those are
            // not learned, since no text that the model sees later has them.
            if text.starts_with(&end) && start < end.len() {
                learned.push(start..end.len());
            }
        }
        match learned.is_empty() {
            true => Err(ChatError::NotIncremental),
            false => Ok(Rendered { text, learned }),
        }
    }

    /// Where a turn starts by the text of the turns before it alone, without an opened turn.
    fn common_start(
        &self,
        messages: &[Json],
        turn: usize,
        chat: &Conversation,
        text: &str,
    ) -> Option<usize> {
        let before = self
            .render_messages(messages.get(..turn)?, chat, false)
            .ok()?;
        text.starts_with(&before).then_some(before.len())
    }
}

/// `{% generation %}` marks the assistant's words for `transformers`; it prints nothing.
fn without_generation_tags(source: &str) -> String {
    let replace = |text: &str, tag: &str, with: &str| {
        let pattern = format!(r"\{{%(-?|\+?)\s*{tag}\s*(-?|\+?)%\}}");
        match Regex::new(&pattern) {
            Ok(regex) => regex.replace_all(text, with).into_owned(),
            Err(_) => text.to_string(),
        }
    };
    let opened = replace(source, "generation", "{%${1} if true ${2}%}");
    replace(&opened, "endgeneration", "{%${1} endif ${2}%}")
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(
        ErrorKind::InvalidOperation,
        error::raised(&message),
    ))
}

/// The time in a format of C's `strftime`; a format that does not exist stays as it is.
fn strftime<Tz: TimeZone>(now: &DateTime<Tz>, format: &str) -> String
where
    Tz::Offset: std::fmt::Display,
{
    use std::fmt::Write;
    let mut text = String::new();
    match write!(text, "{}", now.format(format)) {
        Ok(()) => text,
        Err(_) => format.to_string(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::parse(source, &[("bos_token", "<s>"), ("eos_token", "</s>")]).unwrap()
    }

    fn render(source: &str) -> String {
        let chat = Conversation::turns(&[("user", "a"), ("assistant", "b"), ("user", "c")]);
        template(source).render(&chat, true).unwrap()
    }

    /// What each prints with jinja2 3.1.6 under the settings of `transformers` 5.
    #[test]
    fn expressions_print_as_in_python() {
        for (source, expected) in [
            (
                "{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a', none] }}",
                "True None 1.0 [1, 'a', None]",
            ),
            (
                "{{ {'a': \"it's\", 'b': [true]} }}",
                "{'a': \"it's\", 'b': [True]}",
            ),
            (
                "{{ {'a': '<b> é', 'c': [1.5, none, true]} | tojson }}",
                "{\"a\": \"<b> é\", \"c\": [1.5, null, true]}",
            ),
            (
                "{{ {'b': 1, 'a': []} | tojson(indent=2) }}",
                "{\n  \"b\": 1,\n  \"a\": []\n}",
            ),
            (
                "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}",
                "{\"a\":2,\"b\":1}",
            ),
            (
                "{{ {'a': 'é'} | tojson(ensure_ascii=true) }}",
                "{\"a\": \"\\u00e9\"}",
            ),
            (
                "{% for m in messages[::-1] %}{{ m.content }}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}",
                "cb",
            ),
            (
                "{{ messages[-1]['content'].upper() + ' x y '.strip().split(' ')[-1] }}",
                "Cy",
            ),
            (
                "{%- set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            (
                "  {% if true %}\n  x\n  {% endif %}\n{{ bos_token }}{{ nothing }}\n",
                "  x\n<s>",
            ),
            ("{% generation %}a{% endgeneration %}", "a"),
            (
                "{{ messages[0].content is string }} {{ tools is none }} {{ missing is defined }}",
                "True True False",
            ),
        ] {
            assert_eq!(render(source), expected, "{source}");
        }
    }

    #[test]
    fn an_exception_of_a_template_is_told_in_its_words() {
        let error = template("{{ raise_exception('roles must alternate') }}")
            .render(&Conversation::turns(&[("user", "a")]), false)
            .unwrap_err();
        assert!(
            matches!(&error, ChatError::Refused { message } if message == "roles must alternate"),
            "{error:?}"
        );
        let broken = ChatTemplate::parse("{% if %}", &[]).unwrap_err();
        assert!(matches!(broken, ChatError::Template { .. }) && broken.hint().is_some());
    }

    #[test]
    fn a_conversation_with_tools_takes_the_template_for_tools() {
        let config = json!({"chat_template": [
            {"name": "default", "template": "plain {{ messages[0].content }}"},
            {"name": "tool_use", "template": "{{ tools | length }} tools {{ messages[0].content }}"},
        ]});
        let (_, template) = of_config(config.as_object().unwrap()).unwrap();
        let template = template.unwrap();
        let messages = json!([{"role": "user", "content": "a"}]);
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let with = Conversation::new(messages.clone(), Some(tools)).unwrap();
        let without = Conversation::new(messages, None).unwrap();
        assert_eq!(template.render(&with, false).unwrap(), "1 tools a");
        assert_eq!(template.render(&without, false).unwrap(), "plain a");
        assert!(template.uses_tools());
    }

    #[test]
    fn time_is_written_as_by_strftime() {
        let then = chrono::Utc.with_ymd_and_hms(2024, 7, 26, 9, 5, 3).unwrap();
        assert_eq!(strftime(&then, "%d %b %Y"), "26 Jul 2024");
        assert_eq!(strftime(&then, "%B %A %H:%M"), "July Friday 09:05");
        assert_eq!(strftime(&then, "%Q!"), "%Q!");
    }

    #[test]
    fn every_turn_of_the_assistant_is_learned_with_its_end() {
        let chat = Conversation::turns(&[
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
        ]);
        let rendered = template(
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
        )
        .render_spans(&chat)
        .unwrap();
        let learned: Vec<&str> = rendered
            .learned
            .iter()
            .map(|span| &rendered.text[span.clone()])
            .collect();
        assert_eq!(learned, ["b</s>", "d</s>"]);
    }

    #[test]
    fn turns_that_a_later_turn_changes_are_not_learned() {
        let source = "{% for m in messages %}[{{ m.role }}]{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
        let chat = Conversation::turns(&[
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
        ]);
        let rendered = template(source).render_spans(&chat).unwrap();
        let learned: Vec<&str> = rendered
            .learned
            .iter()
            .map(|span| &rendered.text[span.clone()])
            .collect();
        assert_eq!(learned, ["d"]);
        let nobody = Conversation::turns(&[("user", "a")]);
        assert!(matches!(
            template(source).render_spans(&nobody),
            Err(ChatError::NoAssistant)
        ));
    }
}
