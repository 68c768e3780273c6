//! Tokens to text as they come.

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Gives the text that each new token completes. A token may end in the middle of a character, and a word's first
/// space may depend on what is before it: so the text of all tokens is compared with what was given.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that starts with nothing.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            tokens: Vec::new(),
            given: 0,
        }
    }

    /// Adds a token; the text that is new and final.
    ///
    /// # Errors
    /// When the tokenizer does not know the token.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let text = self.text()?;
        // The sign of an incomplete character: more tokens decide what it is.
        if text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        Ok(self.rest_of(&text))
    }

    /// What is left, complete or not.
    ///
    /// # Errors
    /// When the tokenizer does not know a token.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.text()?;
        Ok(self.rest_of(&text))
    }

    /// The whole text so far, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer does not know a token.
    pub fn text(&self) -> Result<String> {
        self.tokenizer
            .decode(&self.tokens, true)
            .map_err(|error| Error::Tokenizer {
                path: "tokenizer.json".to_string(),
                reason: error.to_string(),
            })
    }

    fn rest_of(&mut self, text: &str) -> String {
        let rest = text.get(self.given..).unwrap_or_default().to_string();
        self.given = text.len();
        rest
    }
}
