//! The choice of one token, by the rules and in the order of `transformers` (`RepetitionPenaltyLogitsProcessor`,
//! `TemperatureLogitsWarper`, `TopPLogitsWarper`).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Scores are divided by it; `None` takes the largest score ("greedy").
    pub temperature: Option<f64>,
    /// The likeliest tokens that have this probability together compete, 0 to 1; of no use when greedy.
    pub top_p: f64,
    /// The score of a token that was there is divided by it, or multiplied where it is negative (Keskar et al.
    /// 2019, <https://arxiv.org/abs/1909.05858>, section 4.1); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: None,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Chooses tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler with its own stream of random numbers.
    pub fn new(options: SamplerOptions) -> Self {
        Self {
            options,
            random: ChaCha8Rng::seed_from_u64(options.seed),
        }
    }

    /// The token after `history`, by the scores of all tokens.
    pub fn choose(&mut self, scores: &[f32], history: &[u32]) -> u32 {
        let mut scores = scores.to_vec();
        self.penalize(&mut scores, history);
        let Some(temperature) = self.options.temperature.filter(|t| *t > 0.0) else {
            return largest(&scores);
        };
        let nucleus = nucleus(&scores, temperature, self.options.top_p);
        let all: f64 = nucleus.iter().map(|(_, p)| p).sum();
        let mut rest = self.random.random::<f64>() * all;
        for (token, p) in &nucleus {
            rest -= p;
            if rest < 0.0 {
                return *token;
            }
        }
        nucleus.last().map_or(0, |(token, _)| *token)
    }

    fn penalize(&self, scores: &mut [f32], history: &[u32]) {
        let penalty = self.options.repetition_penalty as f32;
        if penalty == 1.0 {
            return;
        }
        let mut seen = history.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score < 0.0 {
                    *score * penalty
                } else {
                    *score / penalty
                };
            }
        }
    }
}

/// Tokens that may be drawn, the likeliest first, with their probabilities among all. A token stays while those
/// before it have less than `top_p`; the first always stays.
fn nucleus(scores: &[f32], temperature: f64, top_p: f64) -> Vec<(u32, f64)> {
    let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = scores
        .iter()
        .map(|score| (f64::from(*score - maximum) / temperature).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    let mut tokens: Vec<(u32, f64)> = (0u32..).zip(weights.into_iter().map(|w| w / sum)).collect();
    if top_p >= 1.0 {
        return tokens;
    }
    tokens.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut before = 0.0;
    let kept = tokens
        .iter()
        .take_while(|(_, p)| {
            let stays = before < top_p;
            before += p;
            stays
        })
        .count();
    tokens.truncate(kept.max(1));
    tokens
}

/// The token with the largest score; the first of equals.
fn largest(scores: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, score) in (0u32..).zip(scores) {
        if *score > best.1 {
            best = (token, *score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(options: SamplerOptions, scores: &[f32], token: u32) -> f64 {
        const DRAWS: usize = 4000;
        let mut sampler = Sampler::new(options);
        let hits = (0..DRAWS)
            .filter(|_| sampler.choose(scores, &[]) == token)
            .count();
        hits as f64 / DRAWS as f64
    }

    #[test]
    fn draws_follow_the_probabilities_at_a_temperature() {
        let scores = [0.0, 3f32.ln()];
        let at = |temperature| SamplerOptions {
            temperature: Some(temperature),
            ..SamplerOptions::default()
        };
        // The standard deviation of 4000 draws is below 0.008.
        assert!((share(at(1.0), &scores, 1) - 0.75).abs() < 0.03);
        assert!((share(at(0.5), &scores, 1) - 0.9).abs() < 0.03);
        assert_eq!(share(SamplerOptions::default(), &scores, 1), 1.0);
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_it() {
        let scores = [0.5f32, 0.3, 0.2].map(f32::ln);
        let kept = |top_p| {
            let tokens = nucleus(&scores, 1.0, top_p);
            tokens
                .into_iter()
                .map(|(token, _)| token)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(0.4), [0]);
        assert_eq!(kept(0.7), [0, 1]);
        assert_eq!(kept(0.9), [0, 1, 2]);
        assert_eq!(kept(0.0), [0]);
    }

    #[test]
    fn a_penalty_lowers_what_was_there_whatever_its_sign() {
        let choose = |scores: &[f32], history: &[u32]| {
            let options = SamplerOptions {
                repetition_penalty: 2.0,
                ..SamplerOptions::default()
            };
            Sampler::new(options).choose(scores, history)
        };
        assert_eq!(choose(&[3.0, 2.0], &[]), 0);
        assert_eq!(
            choose(&[3.0, 2.0], &[0, 0]),
            1,
            "1.5 is less than 2, however often it was there"
        );
        assert_eq!(choose(&[-1.0, -1.5], &[0]), 1, "-2 is less than -1.5");
    }
}
