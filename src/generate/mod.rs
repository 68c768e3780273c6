//! Generation of text: token after token from a language model, as `transformers` chooses them.
//!
//! The scores of each step go through the repetition penalty, then the temperature, then top-p, in this order; without
//! a temperature the largest score is taken.

mod sampler;
mod text;

pub use sampler::{Sampler, SamplerOptions};
pub use text::TextStream;

use crate::error::Result;

/// When generation ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// Tokens that end it; they are not part of the result.
    pub tokens: Vec<u32>,
    /// Most new tokens.
    pub max_new_tokens: usize,
}

/// Generates from a prompt. `next` takes the tokens that the model has not seen yet and gives the scores of the one
/// that follows; `on_token` sees every token as it comes and answers whether to go on.
///
/// # Errors
/// Those of `next` and `on_token`.
pub fn generate(
    prompt: &[u32],
    stop: &Stop,
    sampler: &mut Sampler,
    next: &mut dyn FnMut(&[u32]) -> Result<Vec<f32>>,
    on_token: &mut dyn FnMut(u32) -> Result<bool>,
) -> Result<Vec<u32>> {
    let mut history = prompt.to_vec();
    let mut unseen = prompt.to_vec();
    let mut generated = Vec::new();
    while generated.len() < stop.max_new_tokens {
        let token = sampler.choose(&next(&unseen)?, &history);
        if stop.tokens.contains(&token) {
            break;
        }
        history.push(token);
        generated.push(token);
        unseen = vec![token];
        if !on_token(token)? {
            break;
        }
    }
    Ok(generated)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// A model that counts: the token after n is n + 1.
    fn counting(seen: &mut Vec<Vec<u32>>) -> impl FnMut(&[u32]) -> Result<Vec<f32>> {
        |unseen| {
            seen.push(unseen.to_vec());
            let last = *unseen.last().unwrap();
            Ok((0..10)
                .map(|token| f32::from(u8::from(token == last + 1)))
                .collect())
        }
    }

    #[test]
    fn the_prompt_is_read_once_and_a_stop_token_is_not_part_of_the_result() {
        let (mut seen, mut told) = (Vec::new(), Vec::new());
        let stop = Stop {
            tokens: vec![6],
            max_new_tokens: 100,
        };
        let mut sampler = Sampler::new(SamplerOptions::default());
        let mut on_token = |token| {
            told.push(token);
            Ok(true)
        };
        let generated = generate(
            &[1, 2],
            &stop,
            &mut sampler,
            &mut counting(&mut seen),
            &mut on_token,
        );
        assert_eq!(generated.unwrap(), [3, 4, 5]);
        assert_eq!(told, [3, 4, 5]);
        assert_eq!(seen, [vec![1, 2], vec![3], vec![4], vec![5]]);
    }

    #[test]
    fn a_limit_or_a_listener_ends_it() {
        let stop = Stop {
            tokens: Vec::new(),
            max_new_tokens: 2,
        };
        let mut sampler = Sampler::new(SamplerOptions::default());
        let mut run = |stop: &Stop, go_on: bool| {
            generate(
                &[1],
                stop,
                &mut sampler,
                &mut counting(&mut Vec::new()),
                &mut |_| Ok(go_on),
            )
            .unwrap()
        };
        assert_eq!(run(&stop, true), [2, 3]);
        assert_eq!(run(&stop, false), [2]);
    }
}
