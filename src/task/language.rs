//! The loss of a language model: cross-entropy of each learned token, a slice of the tokens at a time.
//!
//! `L = (1/N) Σ_s Σ_t ℓ_st` over the N learned tokens t of the sequences s. Tokens drawn from the model one by one
//! are independent, and their gradients have the mean 0, so `u_s = Σ_t J_stᵀ (p_st - ŷ_st)` has the sum of the
//! tokens' Gauss-Newton matrices as the mean of `u_s u_sᵀ`: one derivative for each sequence is enough.

use autopeft_adapters::Pass;
use autopeft_adapters::ops::{SlicedLoss, TokenLabels, sliced_cross_entropy};
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Answer, Local, Objective, Outcome};
use crate::data::{Batch, DataError, Targets, TokenTargets};
use crate::error::Result;
use crate::models::CausalLm;

impl Objective for Box<dyn CausalLm + '_> {
    fn outcome<'a>(&'a self, batch: &'a Batch, pass: &Pass) -> Result<Box<dyn Outcome + 'a>> {
        let Some(Targets::Tokens(targets)) = &batch.targets else {
            return Err(DataError::NoTargets.into());
        };
        let hidden = self
            .as_ref()
            .hidden_at(&batch.inputs, &targets.places, pass)?;
        let labels = TokenLabels::Given(&targets.labels);
        let loss = sliced_cross_entropy(&hidden, labels, None, self.unembedding())?;
        Ok(Box::new(Tokens {
            model: self.as_ref(),
            hidden,
            targets,
            loss,
        }))
    }

    /// The logits after the last token that is learned, or else after the last token.
    fn outputs(&self, batch: &Batch) -> Result<Vec<Vec<f64>>> {
        let length = batch.inputs.input_ids.dim(1)?;
        let mask: Vec<Vec<u32>> = batch.inputs.attention_mask.to_vec2()?;
        let mut places = Vec::with_capacity(mask.len());
        let mut learned = 0;
        for (row, mask) in mask.iter().enumerate() {
            let last = match &batch.targets {
                Some(Targets::Tokens(targets)) => {
                    learned += targets.counts.get(row).copied().unwrap_or(0);
                    targets.places.get(learned.wrapping_sub(1)).copied()
                }
                _ => None,
            };
            let tokens = mask.iter().filter(|real| **real != 0).count().max(1);
            places.push(last.unwrap_or(u32::try_from(row * length + tokens - 1).unwrap_or(0)));
        }
        let last = (self.as_ref()).hidden_at(&batch.inputs, &places, &Pass::eval())?;
        let logits = self.as_ref().unembed(&last)?;
        Ok(logits
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F64)?
            .to_vec2()?)
    }
}

/// What a pass said of the learned tokens.
struct Tokens<'a> {
    model: &'a dyn CausalLm,
    /// What predicts each of them, (tokens, hidden).
    hidden: Tensor,
    targets: &'a TokenTargets,
    loss: SlicedLoss,
}

impl Outcome for Tokens<'_> {
    fn losses(&self, copies: usize) -> Vec<f64> {
        let tokens = (self.loss.losses.len() / copies.max(1)).max(1);
        let copies = self.loss.losses.chunks(tokens);
        copies
            .map(|losses| losses.iter().sum::<f64>() / losses.len() as f64)
            .collect()
    }

    fn count(&self) -> f64 {
        self.targets.labels.len() as f64
    }

    fn answers(&self) -> Vec<Answer> {
        let mut tokens = (self.loss.losses.iter())
            .zip(&self.loss.likeliest)
            .zip(&self.targets.labels);
        let rows = self.targets.counts.iter().map(|count| {
            let (mut loss, mut correct) = (0.0, 0);
            for ((token_loss, likeliest), label) in tokens.by_ref().take(*count) {
                loss += token_loss;
                correct += usize::from(likeliest == label);
            }
            Answer::Tokens {
                loss,
                tokens: *count,
                correct,
            }
        });
        rows.collect()
    }

    fn scalar(&self) -> Result<Tensor> {
        Ok((&self.loss.sum / self.count())?)
    }

    /// Never: the outputs are as many as tokens times the vocabulary.
    fn exact(&self, _: usize) -> Result<Option<Local>> {
        Ok(None)
    }

    fn drawn(&self, random: &mut ChaCha8Rng) -> Result<Tensor> {
        let uniforms: Vec<f64> = self
            .targets
            .labels
            .iter()
            .map(|_| random.random())
            .collect();
        let labels = TokenLabels::Drawn(&uniforms);
        let unembedding = self.model.unembedding();
        let loss = sliced_cross_entropy(&self.hidden, labels, None, unembedding)?;
        Ok(loss.sum)
    }
}
