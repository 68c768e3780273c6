//! Passages to token numbers, with a mark on every token that is learned.

use rayon::prelude::*;
use tokenizers::Tokenizer;

use super::load::{Content, Passage};
use crate::chat::{ChatTemplate, Conversation, Rendered};
use crate::data::{DataError, Encoded, EncodedRow, Target};

/// Which tokens of a passage are learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Learned {
    /// What follows a prompt, or what the assistant says; of a plain text everything.
    #[default]
    Completion,
    /// Everything.
    All,
}

/// How passages become token numbers.
#[derive(Debug, Clone, Copy)]
pub struct PassageEncoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The model's chat template. With one, prompts and completions become turns of a chat if `as_chat` holds.
    pub template: Option<&'a ChatTemplate>,
    /// Whether prompt and completion are turns of a chat.
    pub as_chat: bool,
    /// The token that ends a text; it is added, and learned, where no chat template ends the turn.
    pub end: Option<u32>,
    /// Stands between prompt and completion where they are not turns of a chat.
    pub separator: &'a str,
    /// Which tokens are learned.
    pub learned: Learned,
    /// Most tokens of a row; longer ones lose their end.
    pub max_length: usize,
}

impl PassageEncoder<'_> {
    /// Token numbers and marks of every passage, in their order. A passage of which nothing is left to learn
    /// within `max_length` is left out and counted in [`Encoded::without_tokens`].
    ///
    /// # Errors
    /// [`DataError::Tokenize`] with the line of the first row that cannot be rendered or tokenized;
    /// [`DataError::NothingLearned`] when no row is left.
    pub fn encode(&self, passages: &[Passage]) -> Result<Encoded, DataError> {
        let mut tokenizer = self.tokenizer.clone();
        tokenizer.with_padding(None);
        // Never fails: taking truncation away needs no check.
        let _ = tokenizer.with_truncation(None);
        let rows: Vec<_> = passages
            .par_iter()
            .map(|passage| {
                self.row(&tokenizer, passage)
                    .map_err(|message| DataError::Tokenize {
                        line: passage.line,
                        message,
                    })
            })
            .collect();
        let mut encoded = Encoded::default();
        for row in rows {
            let (ids, marks) = row?;
            let is_long = ids.len() > self.max_length;
            encoded.truncated += usize::from(is_long);
            let keep = ids.len().min(self.max_length);
            let marks: Vec<bool> = marks.into_iter().take(keep).collect();
            // Nothing precedes the first token, so nothing predicts it.
            if !marks.iter().skip(1).any(|mark| *mark) {
                encoded.without_tokens += 1;
                continue;
            }
            encoded.rows.push(EncodedRow {
                input_ids: ids.into_iter().take(keep).collect(),
                token_type_ids: vec![0; keep],
                target: Some(Target::Tokens(marks)),
                segments: Vec::new(),
                passages: Vec::new(),
            });
        }
        if encoded.rows.is_empty() {
            return Err(DataError::NothingLearned {
                rows: passages.len(),
                max_length: self.max_length,
            });
        }
        Ok(encoded)
    }

    /// Token numbers of what precedes the answer, to generate from.
    ///
    /// # Errors
    /// [`DataError::Tokenize`] with the line of the row, when it cannot be rendered or tokenized.
    pub fn prompt(&self, passage: &Passage) -> Result<Vec<u32>, DataError> {
        let failed = |message: String| DataError::Tokenize {
            line: passage.line,
            message,
        };
        let (text, add_special) = match (&passage.content, self.template) {
            (Content::Text(text), Some(template)) if self.as_chat => (
                self.opened(template, &Conversation::turns(&[("user", text)])),
                false,
            ),
            (Content::Text(text), _) => (Ok(text.clone()), true),
            (Content::Completion(prompt, _), Some(template)) if self.as_chat => (
                self.opened(template, &Conversation::turns(&[("user", prompt)])),
                false,
            ),
            (Content::Completion(prompt, _), _) => {
                (Ok(format!("{prompt}{}", self.separator)), true)
            }
            (Content::Chat(chat), Some(template)) => {
                let before = chat.split_last().map(|(before, _)| before);
                (
                    self.opened(template, before.as_ref().unwrap_or(chat)),
                    false,
                )
            }
            (Content::Chat(_), None) => (Err(NO_TEMPLATE.to_string()), false),
        };
        let encoding = self
            .tokenizer
            .encode(text.map_err(failed)?, add_special)
            .map_err(|error| failed(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What a passage should be answered by, where it says.
    pub fn answer(&self, passage: &Passage) -> Option<String> {
        match &passage.content {
            Content::Text(_) => None,
            Content::Completion(_, completion) => completion.clone(),
            Content::Chat(chat) => chat.split_last().map(|(_, said)| said),
        }
    }

    fn opened(&self, template: &ChatTemplate, chat: &Conversation) -> Result<String, String> {
        template
            .render(chat, true)
            .map_err(|error| error.to_string())
    }

    fn row(
        &self,
        tokenizer: &Tokenizer,
        passage: &Passage,
    ) -> Result<(Vec<u32>, Vec<bool>), String> {
        let chat = |chat: &Conversation| {
            let template = self.template.ok_or_else(|| NO_TEMPLATE.to_string())?;
            let spans = template
                .render_spans(chat)
                .map_err(|error| error.to_string())?;
            self.marked(tokenizer, &spans, false)
        };
        match &passage.content {
            Content::Chat(conversation) => chat(conversation),
            Content::Completion(prompt, completion) => {
                let completion = completion.as_deref().unwrap_or_default();
                if self.as_chat && self.template.is_some() {
                    let turns = [("user", prompt.as_str()), ("assistant", completion)];
                    return chat(&Conversation::turns(&turns));
                }
                let start = prompt.len() + self.separator.len();
                let text = format!("{prompt}{}{completion}", self.separator);
                let end = text.len();
                let learned = std::iter::once(start..end).collect();
                self.marked(tokenizer, &Rendered { text, learned }, true)
            }
            Content::Text(text) => {
                let learned = std::iter::once(0..text.len()).collect();
                let text = text.clone();
                self.marked(tokenizer, &Rendered { text, learned }, true)
            }
        }
    }

    /// Token numbers of a text, each with whether it lies in what is learned. `is_plain` texts get the
    /// tokenizer's own special tokens, and the one that ends a text.
    fn marked(
        &self,
        tokenizer: &Tokenizer,
        rendered: &Rendered,
        is_plain: bool,
    ) -> Result<(Vec<u32>, Vec<bool>), String> {
        let encoding = tokenizer
            .encode(rendered.text.as_str(), is_plain)
            .map_err(|error| error.to_string())?;
        let mut ids = encoding.get_ids().to_vec();
        let is_learned = |(start, end): &(usize, usize)| {
            end > start
                && (rendered.learned.iter()).any(|span| span.start <= *start && *start < span.end)
        };
        let mut marks: Vec<bool> = match self.learned {
            Learned::All => vec![true; ids.len()],
            Learned::Completion => encoding.get_offsets().iter().map(is_learned).collect(),
        };
        if let Some(end) = self.end.filter(|_| is_plain) {
            if ids.last() == Some(&end) {
                marks.pop();
            } else {
                ids.push(end);
            }
            marks.push(true);
        }
        Ok((ids, marks))
    }
}

const NO_TEMPLATE: &str = "the model has no chat template for messages";
