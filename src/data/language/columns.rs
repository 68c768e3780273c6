//! Which columns hold the text, the prompt and its completion, or the messages: as named, or by convention.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::data::DataError;
use crate::data::columns::{Role, ambiguous, named};

/// Names of a column of messages, in lower case.
const MESSAGES: &[&str] = &[
    "messages",
    "conversations",
    "conversation",
    "chat",
    "dialog",
];
/// Names of a prompt and its completion, in lower case.
const COMPLETIONS: &[(&str, &str)] = &[
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
    ("source", "target"),
    ("meaning_representation", "human_reference"),
];
/// Names of a column of one text, in lower case.
const TEXT: &[&str] = &["text", "content", "document", "story", "article"];
/// Name of the column of the tools of a conversation.
const TOOLS: &str = "tools";

/// Columns named by the user; `None` leaves the choice to convention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassageNames {
    /// The text column.
    pub text: Option<String>,
    /// The column of prompts.
    pub prompt: Option<String>,
    /// The column of completions.
    pub completion: Option<String>,
    /// The column of messages.
    pub messages: Option<String>,
}

/// The columns in use, to be shown and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassageColumns {
    /// One text.
    Text(String),
    /// A prompt and what follows it; without the second where completions were not asked for.
    Completion(String, Option<String>),
    /// A list of messages, and a list of tools.
    Messages(String, Option<String>),
}

impl PassageColumns {
    /// Chooses the columns of a file. Without `with_completion` a prompt alone is enough.
    ///
    /// # Errors
    /// Names the columns of the file and the flag to use, if a named column is absent, no column fits by
    /// convention, or several do.
    pub(super) fn choose(
        file: &str,
        columns: &[String],
        names: &PassageNames,
        with_completion: bool,
    ) -> Result<Self, DataError> {
        let named = |name: &String, role| named(file, columns, name, role);
        let find = |name: &str| columns.iter().find(|column| column.to_lowercase() == name);
        let tools = find(TOOLS).cloned();
        let completion_of = |prompt: &String| {
            let known = COMPLETIONS
                .iter()
                .filter(|(first, _)| *first == prompt.to_lowercase())
                .find_map(|(_, second)| find(second));
            known.cloned()
        };
        if let Some(messages) = &names.messages {
            return Ok(Self::Messages(named(messages, Role::Messages)?, tools));
        }
        if let Some(text) = &names.text {
            return Ok(Self::Text(named(text, Role::Text)?));
        }
        if names.prompt.is_some() || names.completion.is_some() {
            let prompt = match &names.prompt {
                Some(prompt) => named(prompt, Role::Prompt)?,
                None => find("prompt")
                    .cloned()
                    .ok_or_else(|| none(file, Role::Prompt, columns))?,
            };
            let completion = match &names.completion {
                Some(completion) => Some(named(completion, Role::Completion)?),
                None => completion_of(&prompt),
            };
            if with_completion && completion.is_none() {
                return Err(none(file, Role::Completion, columns));
            }
            return Ok(Self::Completion(prompt, completion));
        }
        Self::by_convention(file, columns, tools, with_completion)
    }

    fn by_convention(
        file: &str,
        columns: &[String],
        tools: Option<String>,
        with_completion: bool,
    ) -> Result<Self, DataError> {
        let find = |name: &str| columns.iter().find(|column| column.to_lowercase() == name);
        let mut found: Vec<Self> = MESSAGES
            .iter()
            .filter_map(|name| find(name))
            .map(|messages| Self::Messages(messages.clone(), tools.clone()))
            .collect();
        let mut prompts: Vec<&String> = Vec::new();
        for (prompt, completion) in COMPLETIONS {
            let Some(prompt) = find(prompt) else {
                continue;
            };
            match find(completion) {
                // An `instruction` with an `input` and an `output` is one task, not two.
                Some(completion) if !prompts.contains(&prompt) && !taken(&found, completion) => {
                    prompts.push(prompt);
                    found.push(Self::Completion(prompt.clone(), Some(completion.clone())));
                }
                _ => {}
            }
        }
        if found.is_empty() && !with_completion {
            let alone = COMPLETIONS.iter().find_map(|(prompt, _)| find(prompt));
            found.extend(alone.map(|prompt| Self::Completion(prompt.clone(), None)));
        }
        if found.is_empty() {
            let texts = TEXT.iter().filter_map(|name| find(name));
            found.extend(texts.cloned().map(Self::Text));
        }
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(none(file, Role::Text, columns)),
            several => {
                let names = several.iter().map(|columns| columns.used().join(" + "));
                Err(ambiguous(file, Role::Text, names.collect(), columns))
            }
        }
    }

    /// The columns, in the order in which they are read.
    pub fn used(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            Self::Completion(first, second) | Self::Messages(first, second) => {
                std::iter::once(first.as_str())
                    .chain(second.as_deref())
                    .collect()
            }
        }
    }

    /// These columns as names to ask for in another file of the same make.
    pub fn names(&self) -> PassageNames {
        let mut names = PassageNames::default();
        match self {
            Self::Text(text) => names.text = Some(text.clone()),
            Self::Completion(prompt, completion) => {
                names.prompt = Some(prompt.clone());
                names.completion.clone_from(completion);
            }
            Self::Messages(messages, _) => names.messages = Some(messages.clone()),
        }
        names
    }
}

fn taken(found: &[PassageColumns], completion: &str) -> bool {
    found
        .iter()
        .any(|columns| matches!(columns, PassageColumns::Completion(_, Some(known)) if known == completion))
}

fn none(file: &str, role: Role, columns: &[String]) -> DataError {
    DataError::NoColumn {
        file: file.into(),
        role,
        columns: columns.into(),
    }
}

impl fmt::Display for PassageColumns {
    /// What was taken for what, such as ``prompt from `prompt`, completion from `response` ``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "text from `{text}`"),
            Self::Completion(prompt, None) => write!(f, "prompt from `{prompt}`"),
            Self::Completion(prompt, Some(completion)) => {
                write!(f, "prompt from `{prompt}`, completion from `{completion}`")
            }
            Self::Messages(messages, None) => write!(f, "messages from `{messages}`"),
            Self::Messages(messages, Some(tools)) => {
                write!(f, "messages from `{messages}`, tools from `{tools}`")
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn choose(columns: &[&str], names: &PassageNames) -> Result<String, DataError> {
        let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
        PassageColumns::choose("f", &columns, names, true).map(|columns| columns.to_string())
    }

    #[test]
    fn usual_names_are_found_and_shown() {
        for (columns, expected) in [
            (vec!["id", "Text"], "text from `Text`"),
            (
                vec!["prompt", "completion", "id"],
                "prompt from `prompt`, completion from `completion`",
            ),
            (
                vec!["instruction", "input", "output"],
                "prompt from `instruction`, completion from `output`",
            ),
            (
                vec!["messages", "tools", "prompt"],
                "messages from `messages`, tools from `tools`",
            ),
        ] {
            assert_eq!(
                choose(&columns, &PassageNames::default()).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn convention_does_not_guess_between_two_answers() {
        let error = choose(
            &["messages", "prompt", "response"],
            &PassageNames::default(),
        )
        .unwrap_err();
        assert!(
            matches!(&error, DataError::AmbiguousColumn { candidates, .. } if candidates.len() == 2),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("--"));
        let error = choose(&["a", "b"], &PassageNames::default()).unwrap_err();
        assert!(matches!(error, DataError::NoColumn { .. }));
        let names = PassageNames {
            completion: Some("response".into()),
            ..PassageNames::default()
        };
        let chosen = choose(&["messages", "prompt", "response"], &names).unwrap();
        assert_eq!(chosen, "prompt from `prompt`, completion from `response`");
    }
}
