//! Measures of predicted tokens.

use super::{Evaluation, Scores};
use crate::task::Answer;

/// Of all tokens together, whatever row they are in.
pub(super) fn evaluation(answers: &[Answer]) -> Evaluation {
    let (mut examples, mut sum, mut all, mut right) = (0, 0.0, 0usize, 0usize);
    for answer in answers {
        if let Answer::Tokens {
            loss,
            tokens,
            correct,
        } = answer
        {
            examples += 1;
            sum += loss;
            all += tokens;
            right += correct;
        }
    }
    let loss = sum / all.max(1) as f64;
    Evaluation {
        examples,
        loss,
        scores: Scores::Tokens {
            tokens: all,
            perplexity: loss.exp(),
            token_accuracy: right as f64 / all.max(1) as f64,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_counts_alike() {
        let row = |loss, tokens, correct| Answer::Tokens {
            loss,
            tokens,
            correct,
        };
        let evaluation = evaluation(&[row(6.0, 3, 1), row(2.0, 1, 1)]);
        assert_eq!((evaluation.examples, evaluation.loss), (2, 2.0));
        let expected = Scores::Tokens {
            tokens: 4,
            perplexity: 2f64.exp(),
            token_accuracy: 0.5,
        };
        assert_eq!(evaluation.scores, expected);
    }
}
