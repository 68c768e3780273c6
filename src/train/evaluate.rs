//! The value of a model on rows, without gradients.

use autopeft_adapters::Pass;
use candle_core::Device;

use crate::data::{Encoded, Padding, Target, collate_many, eval_order, in_row_order};
use crate::error::Result;
use crate::metrics::Evaluation;
use crate::task::{Answer, Objective};

/// Outputs of every row, targets or not, in the order of the rows.
///
/// # Errors
/// When the model cannot be evaluated.
pub fn outputs(
    model: &dyn Objective,
    data: &Encoded,
    padding: Padding,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<Vec<f64>>> {
    let order = eval_order(&data.lengths(), batch_size)?;
    let mut numbered = Vec::with_capacity(data.rows.len());
    for batch in collate_many(data, &order, padding, device) {
        let batch = batch?;
        numbered.extend(batch.rows.iter().copied().zip(model.outputs(&batch)?));
    }
    Ok(in_row_order(numbered))
}

/// What the model says of every row, in the order of the rows.
///
/// # Errors
/// When the model cannot be evaluated, or a row has no target.
pub fn answers(
    model: &dyn Objective,
    data: &Encoded,
    padding: Padding,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<Answer>> {
    let order = eval_order(&data.lengths(), batch_size)?;
    let mut numbered = Vec::with_capacity(data.rows.len());
    for batch in collate_many(data, &order, padding, device) {
        let batch = batch?;
        let answers = model.outcome(&batch, &Pass::eval())?.answers();
        numbered.extend(batch.rows.iter().copied().zip(answers));
    }
    Ok(in_row_order(numbered))
}

/// Loss and agreement with the targets; rows without one are an error of the data stage, so that every row
/// counts here.
///
/// # Errors
/// When the model cannot be evaluated.
pub fn evaluate(
    model: &dyn Objective,
    data: &Encoded,
    padding: Padding,
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation> {
    let answers = answers(model, data, padding, batch_size, device)?;
    let targets: Vec<&Target> = (data.rows.iter())
        .filter_map(|row| row.target.as_ref())
        .collect();
    Ok(Evaluation::of(&answers, &targets))
}
