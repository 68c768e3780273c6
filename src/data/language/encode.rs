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
        let turn = |text: &str| Conversation::turns(&[("user", text)]);
        let rendered = match (&passage.content, self.template) {
            (Content::Text(text) | Content::Completion(text, _), Some(template))
                if self.as_chat =>
            {
                self.opened(template, &turn(text))
            }
            (Content::Text(text), _) => return opening(self.tokenizer, text).map_err(failed),
            (Content::Completion(prompt, _), _) => {
                let (separator, _) = self.separators();
                let text = format!("{prompt}{separator}");
                return opening(self.tokenizer, &text).map_err(failed);
            }
            (Content::Chat(chat), Some(template)) => {
                let before = chat.split_last().map(|(before, _)| before);
                self.opened(template, before.as_ref().unwrap_or(chat))
            }
            (Content::Chat(_), None) => Err(NO_TEMPLATE.to_string()),
        };
        let encoding = self
            .tokenizer
            .encode(rendered.map_err(failed)?, false)
            .map_err(|error| failed(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What of the separator is not in [`Self::prompt`], but precedes the text that follows it.
    pub fn lead(&self, passage: &Passage) -> &str {
        let is_plain = !self.as_chat || self.template.is_none();
        match passage.content {
            Content::Completion(..) if is_plain => self.separators().1,
            Content::Completion(..) | Content::Text(_) | Content::Chat(_) => "",
        }
    }

    /// The separator's part that ends the prompt, and the spaces behind it: tokenizers put a space and the word that follows
    /// it into one token, which has to be learned, and no prompt in training ends with a space alone.
    fn separators(&self) -> (&str, &str) {
        let end = self.separator.trim_end_matches(' ').len();
        self.separator.split_at(end)
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
                let (separator, lead) = self.separators();
                let prompt = format!("{prompt}{separator}");
                self.completed(tokenizer, &prompt, &format!("{lead}{completion}"))
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
        let ids = encoding.get_ids().to_vec();
        let is_learned = |(start, end): &(usize, usize)| {
            end > start
                && (rendered.learned.iter()).any(|span| span.start <= *start && *start < span.end)
        };
        let marks: Vec<bool> = match self.learned {
            Learned::All => vec![true; ids.len()],
            Learned::Completion => encoding.get_offsets().iter().map(is_learned).collect(),
        };
        Ok(match is_plain {
            true => self.ended(ids, marks),
            false => (ids, marks),
        })
    }

    /// A prompt and what follows it, tokenized together where that leaves the prompt the tokens that are generated from.
    /// Otherwise these come first, and what follows is tokenized by itself.
    fn completed(
        &self,
        tokenizer: &Tokenizer,
        prompt: &str,
        completion: &str,
    ) -> Result<(Vec<u32>, Vec<bool>), String> {
        let text = format!("{prompt}{completion}");
        let learned = std::iter::once(prompt.len()..text.len()).collect();
        let (ids, marks) = self.marked(tokenizer, &Rendered { text, learned }, true)?;
        let mut opened = opening(tokenizer, prompt)?;
        // Everything behind a prompt is learned, so a token that both have a part in shows as one that is not.
        let follows = marks.get(opened.len()).copied().unwrap_or(false);
        if ids.starts_with(&opened) && (follows || completion.is_empty()) {
            return Ok((ids, marks));
        }
        let rest = tokenizer
            .encode(completion, false)
            .map_err(|error| error.to_string())?;
        let mut marks = vec![self.learned == Learned::All; opened.len()];
        marks.resize(opened.len() + rest.len(), true);
        opened.extend(rest.get_ids());
        Ok(self.ended(opened, marks))
    }

    /// The same with the token that ends a text, which is learned.
    fn ended(&self, mut ids: Vec<u32>, mut marks: Vec<bool>) -> (Vec<u32>, Vec<bool>) {
        if let Some(end) = self.end {
            if ids.last() == Some(&end) {
                marks.pop();
            } else {
                ids.push(end);
            }
            marks.push(true);
        }
        (ids, marks)
    }
}

/// Token numbers of a text that goes on, without what the tokenizer puts at the end of one.
fn opening(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, String> {
    let encoding = tokenizer
        .encode(text, true)
        .map_err(|error| error.to_string())?;
    let added = encoding.get_special_tokens_mask();
    let last = added.iter().rposition(|added| *added == 0);
    let mut ids = encoding.get_ids().to_vec();
    ids.truncate(last.map_or(ids.len(), |last| last + 1));
    Ok(ids)
}

const NO_TEMPLATE: &str = "the model has no chat template for messages";

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// A byte-level tokenizer like GPT-2's, with few tokens: `ĠYes` takes the space before it, `ĊĊ` two line ends.
    fn tokenizer() -> Tokenizer {
        let pieces = [
            "<s>", "</s>", "Q", ":", "Y", "e", "s", "Ġ", "Ċ", "Ye", "Yes", "ĠYes", "ĊĊ",
        ];
        let vocab: serde_json::Map<String, serde_json::Value> = (0u32..)
            .zip(pieces)
            .map(|(id, piece)| (piece.to_string(), id.into()))
            .collect();
        let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
        let special = |id: u32, content: &str| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        };
        let special_of = |id: &str| serde_json::json!({"SpecialToken": {"id": id, "type_id": 0}});
        let named =
            |id: &str, number: u32| serde_json::json!({"id": id, "ids": [number], "tokens": [id]});
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [special(0, "<s>"), special(1, "</s>")],
            "pre_tokenizer": bytes, "decoder": bytes,
            "post_processor": {"type": "TemplateProcessing",
                "single": [special_of("<s>"), {"Sequence": {"id": "A", "type_id": 0}}, special_of("</s>")],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": named("<s>", 0), "</s>": named("</s>", 1)}},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": ["Y e", "Ye s", "Ġ Yes", "Ċ Ċ"]},
        });
        Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    /// The pieces that are generated from, all of a row, and the learned ones.
    fn pieces(separator: &str, prompt: &str, completion: &str) -> [String; 3] {
        let tokenizer = tokenizer();
        let encoder = PassageEncoder {
            tokenizer: &tokenizer,
            template: None,
            as_chat: false,
            end: Some(1),
            separator,
            learned: Learned::Completion,
            max_length: 32,
        };
        let passage = Passage {
            content: Content::Completion(prompt.into(), Some(completion.into())),
            line: 1,
        };
        let encoded = encoder.encode(std::slice::from_ref(&passage)).unwrap();
        let row = &encoded.rows[0];
        let Some(Target::Tokens(marks)) = &row.target else {
            panic!("{:?}", row.target)
        };
        let show = |ids: &mut dyn Iterator<Item = u32>| {
            let pieces: Vec<String> = ids.map(|id| tokenizer.id_to_token(id).unwrap()).collect();
            pieces.join(" ")
        };
        let learned = row.input_ids.iter().zip(marks).filter(|(_, mark)| **mark);
        let prompt = encoder.prompt(&passage).unwrap();
        assert!(row.input_ids.starts_with(&prompt), "{separator:?}");
        [
            show(&mut prompt.into_iter()),
            show(&mut row.input_ids.iter().copied()),
            show(&mut learned.map(|(id, _)| *id)),
        ]
    }

    #[test]
    fn a_row_begins_with_the_tokens_that_are_generated_from_and_all_that_follows_is_learned() {
        for (separator, prompt, completion, expected) in [
            (
                "\n",
                "Q:",
                "Yes",
                ["<s> Q : Ċ", "<s> Q : Ċ Yes </s>", "Yes </s>"],
            ),
            // The space is the word's.
            (
                " ",
                "Q:",
                "Yes",
                ["<s> Q :", "<s> Q : ĠYes </s>", "ĠYes </s>"],
            ),
            (
                ": ",
                "Q",
                "Yes",
                ["<s> Q :", "<s> Q : ĠYes </s>", "ĠYes </s>"],
            ),
            (
                "  ",
                "Q:",
                "Yes",
                ["<s> Q :", "<s> Q : Ġ ĠYes </s>", "Ġ ĠYes </s>"],
            ),
            // Line ends at the end of a text are one token, before a word they are two.
            (
                "\n\n",
                "Q:",
                "Yes",
                ["<s> Q : ĊĊ", "<s> Q : ĊĊ Yes </s>", "Yes </s>"],
            ),
            (
                "\n",
                "Q:",
                "\nYes",
                ["<s> Q : Ċ", "<s> Q : Ċ Ċ Yes </s>", "Ċ Yes </s>"],
            ),
            // What would be one token is two.
            (
                "Y",
                "Q:",
                "es",
                ["<s> Q : Y", "<s> Q : Y e s </s>", "e s </s>"],
            ),
            ("", "Q:", "Yes", ["<s> Q :", "<s> Q : Yes </s>", "Yes </s>"]),
        ] {
            assert_eq!(
                pieces(separator, prompt, completion),
                expected,
                "{separator:?}"
            );
        }
    }
}
