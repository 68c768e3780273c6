//! How much the training rows have to say, and how many parameters that is enough for.
//!
//! A set that has far more parameters than there is to learn, and sees the rows often, learns them by heart: its training loss ends near
//! zero, and what it says of other rows is too sure. How far a budget may be filled is a matter of the rows, then, not of the model. What they
//! can teach is at most their labels' code length under the model as it was found: one untrained loss, in nats, for each label or
//! learned token (the description length of data: Rissanen 1978; prequential: Voita and Titov 2020, <https://arxiv.org/abs/2003.12298>).

use autopeft_adapters::Pass;

use super::measure::Measured;
use super::prepare::Prepared;
use crate::data::Target;
use crate::error::Result;

/// Passes over the rows from which on they are learnt by heart: up to two, larger sets did no harm.
const PASSES: f64 = 2.0;
/// LoRA+'s ratio where rows are seen often: the one that its authors take (Hayou, Ghosh and Yu 2024, <https://arxiv.org/abs/2402.12354>).
const LORAPLUS_LR_RATIO: f64 = 16.0;

/// Whether a training of so many steps passes over its rows often enough to learn them by heart.
pub(super) fn sees_rows_often(prepared: &Prepared<'_>, steps: usize) -> bool {
    let recipe = &prepared.recipe.train;
    let examples = (recipe.batch_size).saturating_mul(recipe.accumulate);
    let sequences = prepared.training_rows().encoded.rows.len();
    steps.saturating_mul(examples) as f64 > PASSES * sequences as f64
}

/// Rate of a LoRA's `B` as a multiple of its `A`'s, the recipe's or, without one, by how often the kept set's training sees the rows: an
/// `A` that hardly moves learns less by heart, and where rows are new, less than there is to learn.
pub(super) fn loraplus_lr_ratio(prepared: &Prepared<'_>) -> f64 {
    let often = sees_rows_often(prepared, prepared.horizon.after);
    let by_rows = if often { LORAPLUS_LR_RATIO } else { 1.0 };
    (prepared.recipe.train.loraplus_lr_ratio).unwrap_or(by_rows)
}

/// Loss of the model as it was found, by a measuring batch; `None` where it does not matter, since the training of what is kept passes
/// over the rows at most twice.
///
/// # Errors
/// When the model cannot be evaluated.
pub(super) fn untrained_loss(prepared: &Prepared<'_>) -> Result<Option<f64>> {
    if !sees_rows_often(prepared, prepared.horizon.after) {
        return Ok(None);
    }
    let rows = prepared.measuring_order()?.next_rows_beside(&[]);
    let batch = prepared.measuring_rows().batch(&rows)?;
    let outcome = prepared.model.outcome(&batch, &Pass::eval())?;
    Ok(Some(outcome.loss()))
}

/// Nats in the labels of the training rows; `None` where they do not limit a set: the training passes over them at most twice,
/// or the loss is no code length (regression).
pub(super) fn nats(prepared: &Prepared<'_>, measured: &Measured) -> Option<f64> {
    let untrained = measured.untrained_loss?;
    let rows = &prepared.data.train.rows;
    let labels = rows.iter().map(|row| labels(row.target.as_ref()));
    let labels: usize = labels.sum::<Option<usize>>()?;
    Some(untrained * labels as f64)
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
