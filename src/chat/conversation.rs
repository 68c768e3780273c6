//! Messages in the form of OpenAI's API, and tools beside them.

use serde_json::{Map, Value};

use super::ChatError;

/// Older names of a thought; all of them are shown to a template, as `transformers` does.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A list of messages, each a mapping with a `role`, and the tools that the assistant may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
}

impl Conversation {
    /// From data: a list of mappings with `role` and `content` (and `tool_calls` and others, which are the
    /// template's business), or with `from` and `value` as in ShareGPT.
    ///
    /// # Errors
    /// [`ChatError::Messages`] when it is something else.
    pub fn new(messages: Value, tools: Option<Value>) -> Result<Self, ChatError> {
        let Value::Array(messages) = messages else {
            return Err(ChatError::Messages("they are not a list".to_string()));
        };
        if messages.is_empty() {
            return Err(ChatError::Messages("the list is empty".to_string()));
        }
        let messages = (1..)
            .zip(messages)
            .map(|(number, message)| match message {
                Value::Object(message) => self::message(message)
                    .map_err(|reason| ChatError::Messages(format!("message {number} {reason}"))),
                _ => Err(ChatError::Messages(format!(
                    "message {number} is not a mapping"
                ))),
            })
            .collect::<Result<_, _>>()?;
        let tools = match tools {
            None | Some(Value::Null) => None,
            Some(Value::Array(tools)) if tools.is_empty() => None,
            Some(Value::Array(tools)) => Some(tools),
            Some(_) => return Err(ChatError::Messages("`tools` is not a list".to_string())),
        };
        Ok(Self { messages, tools })
    }

    /// From pairs of role and text.
    pub fn turns(turns: &[(&str, &str)]) -> Self {
        let message =
            |(role, content): &(&str, &str)| serde_json::json!({"role": role, "content": content});
        Self {
            messages: turns.iter().map(message).collect(),
            tools: None,
        }
    }

    /// The messages, in order.
    pub fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// The tools.
    pub fn tools(&self) -> Option<&[Value]> {
        self.tools.as_deref()
    }

    /// Role of a message.
    pub fn role(&self, message: usize) -> Option<&str> {
        self.messages.get(message)?.get("role")?.as_str()
    }

    /// The conversation before its last message, if the assistant says that one, and what it says.
    pub fn split_last(&self) -> Option<(Self, String)> {
        let (last, before) = self.messages.split_last()?;
        if before.is_empty() || last.get("role")?.as_str()? != "assistant" {
            return None;
        }
        let said = last.get("content").and_then(Value::as_str)?;
        let before = Self {
            messages: before.to_vec(),
            tools: self.tools.clone(),
        };
        Some((before, said.to_string()))
    }
}

fn message(mut message: Map<String, Value>) -> Result<Value, String> {
    if let (None, Some(Value::String(from))) = (message.get("role"), message.get("from")) {
        let role = match from.as_str() {
            "human" => "user",
            "gpt" | "chatgpt" | "bard" | "model" => "assistant",
            "function" | "observation" => "tool",
            other => other,
        };
        let content = message.get("value").cloned().unwrap_or(Value::Null);
        let mut named = Map::new();
        named.insert("role".to_string(), role.into());
        named.insert("content".to_string(), content);
        message = named;
    }
    match message.get("role") {
        Some(Value::String(_)) => {}
        Some(_) => return Err("has a `role` that is no text".to_string()),
        None => return Err("has no `role`".to_string()),
    }
    let has_content = message
        .get("content")
        .is_some_and(|content| !content.is_null());
    if !has_content && !message.contains_key("tool_calls") {
        return Err("has neither `content` nor `tool_calls`".to_string());
    }
    let thought = (REASONING.iter())
        .find_map(|name| message.get(*name).filter(|thought| !thought.is_null()))
        .cloned();
    if let Some(thought) = thought {
        message.entry("thinking").or_insert_with(|| thought.clone());
        message.insert("reasoning_content".to_string(), thought);
    }
    Ok(Value::Object(message))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sharegpt_becomes_openai() {
        let chat = Conversation::new(
            json!([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]),
            None,
        )
        .unwrap();
        assert_eq!(
            chat,
            Conversation::turns(&[("user", "a"), ("assistant", "b")])
        );
        let (before, said) = chat.split_last().unwrap();
        assert_eq!(
            (before, said.as_str()),
            (Conversation::turns(&[("user", "a")]), "b")
        );
    }

    #[test]
    fn other_forms_are_refused_with_the_number_of_the_message() {
        for (messages, part) in [
            (json!("hi"), "not a list"),
            (json!([]), "empty"),
            (
                json!([{"role": "user", "content": "a"}, "b"]),
                "message 2 is not a mapping",
            ),
            (json!([{"content": "a"}]), "message 1 has no `role`"),
            (
                json!([{"role": "user", "content": null}]),
                "neither `content` nor `tool_calls`",
            ),
        ] {
            let error = Conversation::new(messages, None).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.hint().is_some());
        }
    }
}
