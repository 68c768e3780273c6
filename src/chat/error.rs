//! What can be wrong with a chat template, or with a conversation for it.

use std::path::PathBuf;

/// Marks the message of `raise_exception` on its way through the engine.
const RAISED: &str = "raise_exception: ";

/// An error of a chat template. Messages are lower case; [`ChatError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is no Jinja program, or fails.
    #[error("the chat template fails: {reason}")]
    Template {
        /// The engine's reason.
        reason: String,
    },
    /// The template refuses the conversation.
    #[error("the chat template refuses the conversation: {message}")]
    Refused {
        /// In the template's words.
        message: String,
    },
    /// A conversation without a turn to learn.
    #[error("no message has the role `assistant`, so there is nothing to learn")]
    NoAssistant,
    /// The assistant's turns cannot be found in the text.
    #[error("the assistant's turns cannot be told apart in the text of the chat template")]
    NotIncremental,
    /// Messages of another form.
    #[error("the messages cannot be used: {0}")]
    Messages(String),
    /// The model has no template.
    #[error("the model `{model}` has no chat template")]
    NoTemplate {
        /// The model.
        model: String,
    },
    /// A file of the tokenizer cannot be read.
    #[error("cannot read `{path}`: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

impl ChatError {
    pub(super) fn template(error: &minijinja::Error) -> Self {
        let mut source: Option<&dyn std::error::Error> = Some(error);
        let mut reasons = Vec::new();
        while let Some(error) = source {
            let text = error.to_string();
            if let Some((_, message)) = text.split_once(RAISED) {
                let message = message.split(RAISED_END).next().unwrap_or_default();
                return Self::Refused {
                    message: message.to_string(),
                };
            }
            reasons.push(text);
            source = error.source();
        }
        Self::Template {
            reason: reasons.join(": "),
        }
    }

    /// What to do about it, in one sentence.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Template { .. } | Self::NotIncremental => {
                "put a corrected `chat_template.jinja` into the model's folder, or give rows of `prompt` and `completion`"
            }
            Self::Refused { .. } => {
                "change the order or the roles of the messages as the template asks"
            }
            Self::NoAssistant => {
                "give conversations with at least one message of the role `assistant`"
            }
            Self::Messages(_) => {
                "a conversation is a list such as `[{\"role\": \"user\", \"content\": \"…\"}, {\"role\": \"assistant\", \"content\": \"…\"}]`"
            }
            Self::NoTemplate { .. } => {
                "use an instruction-tuned model, put a `chat_template.jinja` into its folder, or give rows of `prompt` and `completion`"
            }
            Self::File { .. } => return None,
        };
        Some(hint.to_string())
    }
}

/// Ends the message of `raise_exception`.
const RAISED_END: char = '\u{1f}';

/// The message of `raise_exception`, to be found again.
pub(super) fn raised(message: &str) -> String {
    format!("{RAISED}{message}{RAISED_END}")
}
