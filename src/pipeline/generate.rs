//! Text from a language model with its adapter, and its scores against what should have been said.

use candle_core::DType;

use super::apply::{Adapted, Network};
use super::rows::passage_encoder;
use crate::data::language::{Content, Passage};
use crate::error::{Error, Result};
use crate::generate::{Sampler, SamplerOptions, Stop, TextStream, generate};
use crate::metrics::{Overlap, bleu, rouge};
use crate::models::{CausalLm, ModelError};
use crate::recipe::Recipe;

/// How text is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How a token is chosen.
    pub sampler: SamplerOptions,
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// Texts that end it, beside the model's own end tokens; they are not part of the result.
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            sampler: SamplerOptions::default(),
            max_new_tokens: 128,
            stop: Vec::new(),
        }
    }
}

impl Adapted {
    /// Whether it generates text; otherwise it predicts labels or numbers.
    pub fn is_language(&self) -> bool {
        matches!(self.network, Network::Language(_))
    }

    /// The tokens that follow a prompt.
    ///
    /// # Errors
    /// When it is no language model, or the prompt has no token or more than the model has positions.
    pub fn generate_tokens(&self, prompt: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
        self.tokens(prompt, options, &mut |_| Ok(true))
    }

    /// The text that follows a passage's prompt; `on_text` sees every piece as soon as it is final.
    ///
    /// # Errors
    /// As for [`Adapted::generate_tokens`], when the prompt cannot be rendered or tokenized, and those of `on_text`.
    pub fn generate(
        &self,
        recipe: &Recipe,
        passage: &Passage,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<String> {
        let encoder = passage_encoder(recipe, &self.base, self.manifest.max_length)?;
        let prompt = encoder.prompt(passage)?;
        let mut stream = TextStream::new(&self.base.tokenizer);
        let mut lead = encoder.lead(passage);
        let mut text = Held::new(&options.stop);
        self.tokens(&prompt, options, &mut |token| {
            let piece = stream.push(token)?;
            let piece = text.add(behind(&mut lead, &piece));
            if !piece.is_empty() {
                on_text(&piece)?;
            }
            Ok(!text.stopped)
        })?;
        let mut rest = String::new();
        if !text.stopped {
            rest = text.add(behind(&mut lead, &stream.finish()?));
        }
        rest.push_str(&text.release());
        if !rest.is_empty() {
            on_text(&rest)?;
        }
        Ok(text.given)
    }

    /// BLEU and ROUGE of what is generated greedily for the first `most` distinct prompts, against all completions
    /// that the rows have for each; `None` when no row has a completion.
    ///
    /// # Errors
    /// As for [`Adapted::generate`].
    pub fn score_generation(
        &self,
        recipe: &Recipe,
        passages: &[Passage],
        most: usize,
        options: &GenerateOptions,
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Option<(Overlap, usize)>> {
        let encoder = passage_encoder(recipe, &self.base, self.manifest.max_length)?;
        let mut prompts: Vec<(String, &Passage)> = Vec::new();
        let mut references: Vec<Vec<String>> = Vec::new();
        for passage in passages {
            let Some(answer) = encoder.answer(passage) else {
                continue;
            };
            let key = match &passage.content {
                Content::Completion(prompt, _) => prompt.clone(),
                Content::Chat(chat) => format!("{:?}", chat.split_last().map(|(before, _)| before)),
                Content::Text(_) => continue,
            };
            match prompts.iter().position(|(known, _)| *known == key) {
                Some(at) => references
                    .get_mut(at)
                    .into_iter()
                    .for_each(|list| list.push(answer.clone())),
                None if prompts.len() < most => {
                    prompts.push((key, passage));
                    references.push(vec![answer]);
                }
                None => {}
            }
        }
        if prompts.is_empty() {
            return Ok(None);
        }
        let mut texts = Vec::with_capacity(prompts.len());
        for (_, passage) in &prompts {
            let text = self.generate(recipe, passage, options, &mut |_| Ok(()))?;
            texts.push(text.trim().to_string());
            on_done(texts.len());
        }
        let overlap = Overlap {
            bleu: bleu(&texts, &references),
            rouge: rouge(&texts, &references),
        };
        Ok(Some((overlap, texts.len())))
    }

    fn tokens(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(u32) -> Result<bool>,
    ) -> Result<Vec<u32>> {
        let model = self.language()?;
        if prompt.is_empty() {
            return Err(Error::Conflict {
                what: "the prompt has no token".to_string(),
                hint: "give a prompt with text".to_string(),
            });
        }
        let stop = Stop {
            tokens: self.base.text.stops.clone(),
            max_new_tokens: options.max_new_tokens,
        };
        let mut cache = model.cache();
        let mut next = |unseen: &[u32]| -> Result<Vec<f32>> {
            let scores = model.advance(unseen, &mut cache)?;
            Ok(scores.to_dtype(DType::F32)?.to_vec1()?)
        };
        let mut sampler = Sampler::new(options.sampler);
        generate(prompt, &stop, &mut sampler, &mut next, on_token)
    }

    fn language(&self) -> Result<&dyn CausalLm> {
        match &self.network {
            Network::Language(model) => Ok(model.as_ref()),
            Network::Head(_) => Err(ModelError::NotCausal {
                model_type: self.manifest.model_type.clone(),
            }
            .into()),
        }
    }
}

/// A piece of an answer without the spaces that belong to the separator before it, of which `lead` is left.
fn behind<'a>(lead: &mut &str, piece: &'a str) -> &'a str {
    let mut piece = piece;
    while let (Some(left), Some(rest)) = (lead.strip_prefix(' '), piece.strip_prefix(' ')) {
        (*lead, piece) = (left, rest);
    }
    if !piece.is_empty() {
        *lead = "";
    }
    piece
}

/// Text on its way out, held back as long as it may be the start of a text that ends the generation.
struct Held<'a> {
    stop: &'a [String],
    pending: String,
    given: String,
    stopped: bool,
}

impl<'a> Held<'a> {
    fn new(stop: &'a [String]) -> Self {
        Self {
            stop,
            pending: String::new(),
            given: String::new(),
            stopped: false,
        }
    }

    /// Adds a piece; what of the text is final now.
    fn add(&mut self, piece: &str) -> String {
        self.pending.push_str(piece);
        let stops = self.stop.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops
            .clone()
            .filter_map(|stop| self.pending.find(stop.as_str()))
            .min()
        {
            self.pending.truncate(at);
            self.stopped = true;
            return self.release();
        }
        let starts = |from: usize| {
            let end = self.pending.get(from..).unwrap_or_default();
            stops.clone().any(|stop| stop.starts_with(end))
        };
        let held = self
            .pending
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| starts(*at))
            .unwrap_or(self.pending.len());
        let rest = self.pending.split_off(held);
        let text = std::mem::replace(&mut self.pending, rest);
        self.given.push_str(&text);
        text
    }

    /// What is held, which is final after all.
    fn release(&mut self) -> String {
        let text = std::mem::take(&mut self.pending);
        self.given.push_str(&text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_of_the_separator_are_no_part_of_the_answer() {
        let mut lead = "  ";
        let pieces = [" ", "", "  Yes", " it"].map(|piece| behind(&mut lead, piece).to_string());
        assert_eq!(pieces.concat(), " Yes it");
        let mut lead = " ";
        let pieces = ["Yes", " it"].map(|piece| behind(&mut lead, piece).to_string());
        assert_eq!(pieces.concat(), "Yes it");
    }

    #[test]
    fn a_text_that_ends_the_generation_is_found_across_pieces_and_not_shown() {
        let stop = ["END".to_string()];
        let mut held = Held::new(&stop);
        assert_eq!(held.add("a E"), "a ");
        assert_eq!(held.add("x"), "Ex");
        assert_eq!(held.add("yE"), "y");
        assert_eq!(held.add("ND and more"), "");
        assert!(held.stopped);
        assert_eq!(held.given, "a Exy");
        let mut open = Held::new(&stop);
        assert_eq!(open.add("aEN"), "a");
        assert_eq!(open.release(), "EN");
        assert_eq!(open.given, "aEN");
    }
}
