//! The value of a model on rows, without gradients.

use autopeft_adapters::Pass;
use candle_core::{DType, Device};

use crate::data::{Encoded, Padding, collate_many, eval_order, in_row_order};
use crate::error::Result;
use crate::metrics::Evaluation;
use crate::models::Model;

/// Logits of every row, in the order of the rows.
///
/// # Errors
/// When the model cannot be evaluated.
pub fn logits(
    model: &dyn Model,
    data: &Encoded,
    padding: Padding,
    batch_size: usize,
    device: &Device,
) -> Result<Vec<Vec<f64>>> {
    let order = eval_order(&data.lengths(), batch_size)?;
    let mut numbered = Vec::with_capacity(data.rows.len());
    for batch in collate_many(data, &order, padding, device) {
        let batch = batch?;
        let logits = model.forward(&batch.inputs, &Pass::eval())?;
        let rows: Vec<Vec<f64>> = logits
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F64)?
            .to_vec2()?;
        numbered.extend(batch.rows.into_iter().zip(rows));
    }
    Ok(in_row_order(numbered))
}

/// Loss and agreement with the labels; rows without a label are an error of the data stage, so that
/// every row counts here.
///
/// # Errors
/// When the model cannot be evaluated.
pub fn evaluate(
    model: &dyn Model,
    data: &Encoded,
    padding: Padding,
    batch_size: usize,
    device: &Device,
) -> Result<Evaluation> {
    let logits = logits(model, data, padding, batch_size, device)?;
    let labels: Vec<u32> = data.rows.iter().filter_map(|row| row.label).collect();
    Ok(Evaluation::new(&logits, &labels))
}
