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
/// Name of a prompt that may have a text to be worked on beside it, and the names of that text's column, in lower case.
const TASK: (&str, &[&str]) = ("instruction", &["input", "context"]);
/// Names of a column of one text, in lower case.
const TEXT: &[&str] = &["text", "content", "document", "story", "article"];
/// Name of the column of the tools of a conversation.
const TOOLS: &str = "tools";

/// Columns named by the user; `None` leaves the choice to convention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassageNames {
    /// The text column.
    pub text: Option<String>,
    /// The column of prompts, which are that column alone.
    pub prompt: Option<String>,
    /// The column of what stands below the prompt in rows that have it; used with `prompt`, where the file has it.
    pub input: Option<String>,
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
    /// An instruction, the text that it is about, which may be empty, and what follows the two.
    Instruction(String, String, Option<String>),
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
            let input = names.input.as_ref().filter(|name| columns.contains(name));
            return Ok(match input.cloned() {
                Some(input) => Self::Instruction(prompt, input, completion),
                None => Self::Completion(prompt, completion),
            });
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
                    found.push(Self::prompt(columns, prompt, Some(completion)));
                }
                _ => {}
            }
        }
        if found.is_empty() && !with_completion {
            let alone = COMPLETIONS.iter().find_map(|(prompt, _)| find(prompt));
            found.extend(alone.map(|prompt| Self::prompt(columns, prompt, None)));
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

    /// A prompt found by convention, with the text beside it that belongs to it.
    fn prompt(columns: &[String], prompt: &str, completion: Option<&String>) -> Self {
        let (task, inputs) = TASK;
        let mut inputs = inputs.iter().filter(|_| prompt.to_lowercase() == task);
        let input = inputs.find_map(|name| {
            let mut columns = columns.iter();
            columns.find(|column| column.to_lowercase() == *name)
        });
        let completion = completion.cloned();
        match input {
            Some(input) => Self::Instruction(prompt.to_string(), input.clone(), completion),
            None => Self::Completion(prompt.to_string(), completion),
        }
    }

    /// Whether rows are prompts that something follows.
    pub fn are_prompts(&self) -> bool {
        match self {
            Self::Completion(..) | Self::Instruction(..) => true,
            Self::Text(_) | Self::Messages(..) => false,
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
            Self::Instruction(instruction, input, completion) => {
                [instruction.as_str(), input.as_str()]
                    .into_iter()
                    .chain(completion.as_deref())
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
            Self::Instruction(instruction, input, completion) => {
                names.prompt = Some(instruction.clone());
                names.input = Some(input.clone());
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
        .any(|columns| columns.are_prompts() && columns.used().last() == Some(&completion))
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
            Self::Instruction(instruction, input, None) => {
                write!(f, "prompt from `{instruction}` with `{input}`")
            }
            Self::Instruction(instruction, input, Some(completion)) => write!(
                f,
                "prompt from `{instruction}` with `{input}`, completion from `{completion}`"
            ),
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
                "prompt from `instruction` with `input`, completion from `output`",
            ),
            (
                vec!["instruction", "context", "response", "category"],
                "prompt from `instruction` with `context`, completion from `response`",
            ),
            (
                vec!["instruction", "output"],
                "prompt from `instruction`, completion from `output`",
            ),
            (
                vec!["input", "output"],
                "prompt from `input`, completion from `output`",
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
    fn a_named_prompt_is_exactly_that_column() {
        let names = PassageNames {
            prompt: Some("instruction".into()),
            ..PassageNames::default()
        };
        assert_eq!(
            choose(&["instruction", "input", "output"], &names).unwrap(),
            "prompt from `instruction`, completion from `output`"
        );
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
