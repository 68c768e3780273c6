//! How much the training rows have to say, and how many parameters that is enough for.
//!
//! A set that has far more parameters than there is to learn, and sees the rows often, learns them by heart: its training loss ends near
//! zero, and what it says of other rows is too sure. How far a budget may be filled is a matter of the rows, then, not of the model. What they
//! can teach is at most their labels' code length under the model as it was found: one untrained loss, in nats, for each label or
//! learned token (the description length of data: Rissanen 1978; prequential: Voita and Titov 2020, <https://arxiv.org/abs/2003.12298>).

use super::measure::Measured;
use super::prepare::Prepared;
use crate::data::Target;
use crate::report::Stage;

/// Passes over the rows from which on they are learnt by heart: up to two, larger sets did no harm.
const PASSES: f64 = 2.0;

/// Whether a training of so many steps passes over its rows often enough to learn them by heart.
pub(super) fn sees_rows_often(prepared: &Prepared<'_>, steps: usize) -> bool {
    let recipe = &prepared.recipe.train;
    let examples = (recipe.batch_size).saturating_mul(recipe.accumulate);
    let sequences = prepared.training_rows().encoded.rows.len();
    steps.saturating_mul(examples) as f64 > PASSES * sequences as f64
}

/// Nats in the labels of the training rows; `None` where they do not limit a set: the training passes over them at most twice,
/// the loss is no code length (regression), or it was not measured.
pub(super) fn nats(prepared: &Prepared<'_>, measured: &Measured) -> Option<f64> {
    let untrained = (measured.held_out.iter()).find(|value| value.stage == Stage::Untrained)?;
    if !sees_rows_often(prepared, prepared.horizon.after) {
        return None;
    }
    let rows = &prepared.data.train.rows;
    let labels = rows.iter().map(|row| labels(row.target.as_ref()));
    let labels: usize = labels.sum::<Option<usize>>()?;
    Some(untrained.evaluation.loss * labels as f64)
}

/// Predictions that the loss of a row is the mean of, or is summed over; `None` where they are no probabilities.
fn labels(target: Option<&Target>) -> Option<usize> {
    match target? {
        Target::Class(_) => Some(1),
        Target::Flags(flags) => Some(flags.len()),
        Target::Tokens(learned) => Some(learned.iter().skip(1).filter(|learned| **learned).count()),
        Target::Numbers(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_label_a_flag_or_a_token_to_each_prediction() {
        assert_eq!(labels(Some(&Target::Class(3))), Some(1));
        assert_eq!(labels(Some(&Target::Flags(vec![true, false]))), Some(2));
        // Nothing is before the first token to predict it from.
        let tokens = Target::Tokens(vec![true, false, true, true]);
        assert_eq!(labels(Some(&tokens)), Some(2));
        assert_eq!(labels(Some(&Target::Numbers(vec![0.5]))), None);
        assert_eq!(labels(None), None);
    }
}
