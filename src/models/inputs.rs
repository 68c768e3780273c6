//! One batch of token numbers, checked against the model before it runs.

use candle_core::{DType, Device, Tensor};

use super::{Config, ModelError};

/// A padded batch of token sequences. All tensors are `u32` of shape (batch, sequence).
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Token numbers.
    pub input_ids: Tensor,
    /// Which text of a pair a token belongs to. Families without token types ignore it.
    pub token_type_ids: Tensor,
    /// 1 for a token, 0 for padding.
    pub attention_mask: Tensor,
    /// Which passage of its row a token belongs to; `None` where every row is one passage. For language models.
    pub segments: Option<Tensor>,
}

impl Inputs {
    /// A batch of single texts, filled up with `pad_token_id` to the longest.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn padded(
        sequences: &[Vec<u32>],
        pad_token_id: u32,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let length = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let shape = (sequences.len(), length);
        let fill = |value: &dyn Fn(&[u32], usize) -> u32| {
            let numbers: Vec<u32> = sequences
                .iter()
                .flat_map(|sequence| (0..length).map(|position| value(sequence, position)))
                .collect();
            Tensor::from_vec(numbers, shape, device)
        };
        Ok(Self {
            input_ids: fill(&|sequence, position| {
                sequence.get(position).copied().unwrap_or(pad_token_id)
            })?,
            token_type_ids: Tensor::zeros(shape, DType::U32, device)?,
            attention_mask: fill(&|sequence, position| u32::from(position < sequence.len()))?,
            segments: None,
        })
    }

    /// Sequences of one length without padding, (batch, sequence).
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn single(input_ids: &Tensor) -> Result<Self, ModelError> {
        Ok(Self {
            token_type_ids: input_ids.zeros_like()?,
            attention_mask: input_ids.ones_like()?,
            input_ids: input_ids.clone(),
            segments: None,
        })
    }

    /// The segments on the host, where there are any.
    pub(super) fn segment_rows(&self) -> Result<Option<Vec<Vec<u32>>>, ModelError> {
        let rows = self.segments.as_ref().map(Tensor::to_vec2);
        Ok(rows.transpose()?)
    }

    /// Checks the batch against the model, and returns the token numbers by row. On a GPU an index out of range
    /// would otherwise read other memory.
    pub(super) fn check(&self, config: &Config) -> Result<Vec<Vec<u32>>, ModelError> {
        let expected = self.input_ids.dims();
        let tensors = [
            ("input_ids", &self.input_ids),
            ("token_type_ids", &self.token_type_ids),
            ("attention_mask", &self.attention_mask),
        ];
        for (name, tensor) in tensors {
            if expected.len() != 2
                || expected.contains(&0)
                || tensor.dims() != expected
                || tensor.dtype() != DType::U32
            {
                return Err(ModelError::Inputs {
                    name,
                    expected: expected.to_vec(),
                    got: tensor.dims().to_vec(),
                    dtype: tensor.dtype().as_str(),
                });
            }
        }
        let (_, length) = self.input_ids.dims2()?;
        if length > config.max_length() {
            return Err(ModelError::TooLong {
                length,
                max_length: config.max_length(),
            });
        }
        let ids = bounded(&self.input_ids, "token id", config.vocab_size)?;
        if config.type_vocab_size > 0 {
            bounded(&self.token_type_ids, "token type", config.type_vocab_size)?;
        }
        Ok(ids)
    }

    /// What is added to attention scores, (batch, 1, 1, sequence): 0 for a token, the type's lowest number for
    /// padding, as in `transformers`. `None` when nothing is padding.
    pub(super) fn additive_mask(&self, dtype: DType) -> Result<Option<Tensor>, ModelError> {
        let rows = self.attention_mask.to_vec2::<u32>()?;
        if rows.iter().flatten().all(|&real| real != 0) {
            return Ok(None);
        }
        let lowest = match dtype {
            DType::F16 => -65504.0,
            _ => f64::from(f32::MIN),
        };
        let (batch, length) = self.attention_mask.dims2()?;
        let numbers: Vec<f64> = rows
            .iter()
            .flatten()
            .map(|&real| if real == 0 { lowest } else { 0.0 })
            .collect();
        let mask = Tensor::from_vec(numbers, (batch, 1, 1, length), &Device::Cpu)?;
        // A number near the lowest of f32 would become infinite in bf16, and a row of infinities NaN.
        let mask = match dtype {
            DType::BF16 => (mask * 0.99)?,
            _ => mask,
        };
        Ok(Some(
            mask.to_dtype(dtype)?
                .to_device(self.attention_mask.device())?,
        ))
    }
}

fn bounded(tensor: &Tensor, what: &'static str, size: usize) -> Result<Vec<Vec<u32>>, ModelError> {
    let rows = tensor.to_vec2::<u32>()?;
    for (example, row) in rows.iter().enumerate() {
        for (position, &value) in row.iter().enumerate() {
            if value as usize >= size {
                return Err(ModelError::OutOfVocabulary {
                    example,
                    position,
                    what,
                    value,
                    size,
                });
            }
        }
    }
    Ok(rows)
}
