//! Rows to tensors: a batch is padded to its longest row, not to the model's limit.

use candle_core::{Device, Tensor};
use tokenizers::Tokenizer;

use super::{DataError, encode::Encoded, encode::EncodedRow, target::Targets};
use crate::models::Inputs;

/// A padded batch on a device.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What the model reads; padding has token type 0 and mask 0.
    pub inputs: Inputs,
    /// What the rows teach; `None` if a row has no target.
    pub targets: Option<Targets>,
    /// The row of each line of the batch in the encoded data.
    pub rows: Vec<usize>,
    /// Tokens in the batch, padding not counted.
    pub num_tokens: usize,
}

impl Batch {
    /// The batch several times, one copy after the other.
    ///
    /// # Errors
    /// When a tensor cannot be copied.
    pub fn repeated(&self, copies: usize) -> candle_core::Result<Self> {
        let repeat = |tensor: &Tensor| tensor.repeat((copies, 1));
        let Inputs {
            input_ids,
            token_type_ids,
            attention_mask,
            segments,
        } = &self.inputs;
        Ok(Self {
            inputs: Inputs {
                input_ids: repeat(input_ids)?,
                token_type_ids: repeat(token_type_ids)?,
                attention_mask: repeat(attention_mask)?,
                segments: segments.as_ref().map(repeat).transpose()?,
            },
            targets: (self.targets.as_ref())
                .map(|targets| targets.repeated(copies, input_ids.elem_count())),
            rows: self.rows.repeat(copies),
            num_tokens: self.num_tokens * copies,
        })
    }
}

/// How short rows are filled up, on the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// The id of the padding token.
    pub id: u32,
    /// The padded length is a multiple of this (8 suits tensor cores; 1 pads least).
    pub multiple_of: usize,
    /// The padded length never exceeds this for the sake of `multiple_of`.
    pub max_length: usize,
}

impl Padding {
    /// The padding id of the model's `config.json` if it has one (RoBERTa numbers its positions by
    /// it), else that of the tokenizer, else 0: the mask hides padding, whatever its id.
    pub fn new(config_pad_id: Option<u32>, tokenizer: &Tokenizer, max_length: usize) -> Self {
        let own = || tokenizer.get_padding().map(|padding| padding.pad_id);
        let by_name = || {
            ["[PAD]", "<pad>"]
                .iter()
                .find_map(|name| tokenizer.token_to_id(name))
        };
        let id = config_pad_id.or_else(own).or_else(by_name).unwrap_or(0);
        Self {
            id,
            multiple_of: 1,
            max_length,
        }
    }

    fn length(&self, longest: usize) -> usize {
        let multiple = longest.next_multiple_of(self.multiple_of.max(1));
        longest.max(multiple.min(self.max_length))
    }
}

/// Makes the batch of these rows.
///
/// # Errors
/// [`DataError::NoBatches`] without rows, [`DataError::NoSuchRow`] for a row number that is not in
/// the data, [`DataError::Tensor`] if the device refuses.
pub fn collate(
    encoded: &Encoded,
    rows: &[usize],
    padding: Padding,
    device: &Device,
) -> Result<Batch, DataError> {
    let member = |row: &usize| {
        let absent = || DataError::NoSuchRow {
            row: *row,
            rows: encoded.rows.len(),
        };
        encoded.rows.get(*row).ok_or_else(absent)
    };
    let members: Vec<&EncodedRow> = rows.iter().map(member).collect::<Result<_, _>>()?;
    let longest = members.iter().map(|member| member.input_ids.len()).max();
    let length = padding.length(
        longest
            .filter(|length| *length > 0)
            .ok_or(DataError::NoBatches)?,
    );

    let size = members.len() * length;
    let mut ids = Vec::with_capacity(size);
    let mut types = Vec::with_capacity(size);
    let mut mask = Vec::with_capacity(size);
    for member in &members {
        let (own, padded) = (member.input_ids.len(), ids.len() + length);
        ids.extend_from_slice(&member.input_ids);
        ids.resize(padded, padding.id);
        types.extend_from_slice(&member.token_type_ids);
        types.resize(padded, 0);
        mask.resize(mask.len() + own, 1_u32);
        mask.resize(padded, 0);
    }
    let segments: Option<Vec<u32>> = (members.iter())
        .any(|member| !member.segments.is_empty())
        .then(|| {
            let rows = members.iter().flat_map(|member| segments(member, length));
            rows.collect()
        });
    let num_tokens = members.iter().map(|member| member.input_ids.len()).sum();
    let targets = Targets::gather(&members, length);
    let shape = (members.len(), length);
    let tensors = || -> candle_core::Result<_> {
        Ok((
            Tensor::from_vec(ids, shape, device)?,
            Tensor::from_vec(types, shape, device)?,
            Tensor::from_vec(mask, shape, device)?,
            segments
                .map(|segments| Tensor::from_vec(segments, shape, device))
                .transpose()?,
        ))
    };
    let (input_ids, token_type_ids, attention_mask, segments) =
        tensors().map_err(|source| DataError::Tensor {
            rows: shape.0,
            length,
            source,
        })?;
    Ok(Batch {
        inputs: Inputs {
            input_ids,
            token_type_ids,
            attention_mask,
            segments,
        },
        targets,
        rows: rows.to_vec(),
        num_tokens,
    })
}

/// Number of the passage of each token, padding being one more.
fn segments(row: &EncodedRow, length: usize) -> Vec<u32> {
    let whole = [row.input_ids.len()];
    let lengths = if row.segments.is_empty() {
        &whole[..]
    } else {
        &row.segments
    };
    let mut numbers: Vec<u32> = (0u32..)
        .zip(lengths)
        .flat_map(|(number, length)| std::iter::repeat_n(number, *length))
        .collect();
    numbers.resize(length, u32::MAX);
    numbers
}

/// Makes one batch after another, as they are asked for.
pub fn collate_many<'a>(
    encoded: &'a Encoded,
    batches: &'a [Vec<usize>],
    padding: Padding,
    device: &'a Device,
) -> impl Iterator<Item = Result<Batch, DataError>> + 'a {
    batches
        .iter()
        .map(move |rows| collate(encoded, rows, padding, device))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::target::Target, super::tests::tokenizer, *};

    const PADDING: Padding = Padding {
        id: 9,
        multiple_of: 1,
        max_length: 512,
    };

    /// Rows of these lengths; row `r` holds the token `100 + r` and the label `r`.
    fn rows(lengths: &[usize]) -> Encoded {
        let row = |(row, length): (usize, &usize)| EncodedRow {
            input_ids: vec![100 + row as u32; *length],
            token_type_ids: vec![1; *length],
            segments: Vec::new(),
            passages: Vec::new(),
            target: Some(Target::Class(row as u32)),
        };
        Encoded {
            rows: lengths.iter().enumerate().map(row).collect(),
            ..Encoded::default()
        }
    }

    fn values(tensor: &Tensor) -> Vec<Vec<u32>> {
        tensor.to_vec2().expect("a matrix of u32")
    }

    #[test]
    fn a_batch_is_padded_to_its_longest_row() {
        let batch = collate(&rows(&[2, 9, 3]), &[2, 0], PADDING, &Device::Cpu).expect("batch");
        assert_eq!(
            values(&batch.inputs.input_ids),
            [[102, 102, 102], [100, 100, 9]]
        );
        assert_eq!(values(&batch.inputs.attention_mask), [[1, 1, 1], [1, 1, 0]]);
        assert_eq!(values(&batch.inputs.token_type_ids), [[1, 1, 1], [1, 1, 0]]);
        assert_eq!(batch.targets, Some(Targets::Classes(vec![2, 0])));
        assert_eq!((batch.rows, batch.num_tokens), (vec![2, 0], 5));
    }

    #[test]
    fn multiples_round_up_but_not_beyond_the_limit() {
        let padding = Padding {
            multiple_of: 8,
            max_length: 12,
            ..PADDING
        };
        assert_eq!(
            [1, 8, 9, 12].map(|longest| padding.length(longest)),
            [8, 8, 12, 12]
        );
    }

    #[test]
    fn rows_without_labels_make_batches_without_labels() {
        let mut encoded = rows(&[1, 1]);
        encoded.rows[1].target = None;
        let batch = collate(&encoded, &[0, 1], PADDING, &Device::Cpu).expect("batch");
        assert!(batch.targets.is_none());
        let refused = |rows: &[usize]| collate(&encoded, rows, PADDING, &Device::Cpu).err();
        assert!(matches!(refused(&[]), Some(DataError::NoBatches)));
        assert!(matches!(
            refused(&[0, 2]),
            Some(DataError::NoSuchRow { row: 2, rows: 2 })
        ));
    }

    #[test]
    fn padding_id_is_that_of_the_config_first() {
        assert_eq!(Padding::new(Some(5), &tokenizer(), 8).id, 5);
        assert_eq!(Padding::new(None, &tokenizer(), 8).id, 0);
    }

    #[test]
    fn a_repeated_batch_is_that_of_the_repeated_rows() {
        let targets: [fn(u32) -> Target; 4] = [
            Target::Class,
            |row| Target::Numbers(vec![f64::from(row), 0.5]),
            |row| Target::Flags(vec![row == 1, true]),
            |row| Target::Tokens((0..4).map(|at| at > row).collect()),
        ];
        for target in targets {
            let mut encoded = rows(&[4, 4, 4]);
            for (row, number) in encoded.rows.iter_mut().zip(0..) {
                row.target = Some(target(number));
            }
            encoded.rows[0].segments = vec![1, 3];
            let batch =
                |rows: &[usize]| collate(&encoded, rows, PADDING, &Device::Cpu).expect("a batch");
            let (once, thrice) = (batch(&[2, 0]), batch(&[2, 0, 2, 0, 2, 0]));
            let repeated = once.repeated(3).expect("a batch");
            let tensors = |Inputs {
                               input_ids,
                               token_type_ids,
                               attention_mask,
                               segments,
                           }: &Inputs| {
                let segments = segments.as_ref().expect("segments");
                [input_ids, token_type_ids, attention_mask, segments].map(values)
            };
            assert_eq!(tensors(&repeated.inputs), tensors(&thrice.inputs));
            assert!(thrice.targets.is_some());
            assert_eq!(repeated.targets, thrice.targets);
            assert_eq!(repeated.rows, thrice.rows);
            assert_eq!(repeated.num_tokens, thrice.num_tokens);
        }
    }

    fn without_files() -> ProptestConfig {
        ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    proptest! {
        #![proptest_config(without_files())]

        #[test]
        fn the_mask_marks_exactly_the_tokens(
            lengths in prop::collection::vec(1_usize..20, 1..12),
            multiple_of in 1_usize..9,
        ) {
            let encoded = rows(&lengths);
            let all: Vec<usize> = (0..lengths.len()).collect();
            let padding = Padding { multiple_of, ..PADDING };
            let batch = collate(&encoded, &all, padding, &Device::Cpu).expect("batch");
            let (ids, mask) = (values(&batch.inputs.input_ids), values(&batch.inputs.attention_mask));
            for (row, length) in lengths.iter().enumerate() {
                prop_assert_eq!(ids[row].len() % multiple_of, 0);
                for (position, (id, mask)) in ids[row].iter().zip(&mask[row]).enumerate() {
                    let token = position < *length;
                    prop_assert_eq!((*id, *mask), if token { (100 + row as u32, 1) } else { (9, 0) });
                }
            }
            prop_assert_eq!(batch.num_tokens, lengths.iter().sum::<usize>());
        }
    }
}
