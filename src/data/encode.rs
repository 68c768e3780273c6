//! Texts to token ids, in parallel, in the order of the rows.

use rayon::prelude::*;
use tokenizers::{
    EncodeInput, PostProcessor, Tokenizer, TruncationDirection, TruncationParams,
    TruncationStrategy,
};

use super::{DataError, load::Example, target::Target};

/// Rows as token ids.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Encoded {
    /// The rows, in the order of the examples.
    pub rows: Vec<EncodedRow>,
    /// Rows that were longer than the limit and lost their end.
    pub truncated: usize,
    /// Rows whose text gave no token but special ones.
    pub without_tokens: usize,
}

/// One row as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedRow {
    /// Ids with special tokens, without padding.
    pub input_ids: Vec<u32>,
    /// 0 for the first text, 1 for the second where the tokenizer tells them apart.
    pub token_type_ids: Vec<u32>,
    /// Lengths of the passages that are packed into the row; empty for a single one.
    pub segments: Vec<usize>,
    /// Numbers of these passages among the rows before packing.
    pub passages: Vec<usize>,
    /// What the row teaches, if it is known.
    pub target: Option<Target>,
}

impl Encoded {
    /// Length of each row in tokens.
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(|row| row.input_ids.len()).collect()
    }

    /// The examples that a row has: it alone, or the numbers of what was packed into it.
    pub fn examples_of(&self, row: usize) -> Vec<usize> {
        match self.rows.get(row) {
            Some(EncodedRow { passages, .. }) if !passages.is_empty() => passages.clone(),
            _ => vec![row],
        }
    }

    /// All tokens, padding not counted.
    pub fn num_tokens(&self) -> usize {
        self.rows.iter().map(|row| row.input_ids.len()).sum()
    }
}

/// Tokenizes examples with special tokens, at most `max_length` tokens a row.
///
/// Of a pair, the longer text is shortened first. The tokenizer's own settings for padding and
/// length are not used; the side it cuts is.
///
/// # Errors
/// [`DataError::MaxLength`] if the special tokens leave no room, [`DataError::Tokenize`] with the
/// line of the first row that is refused.
pub fn encode(
    tokenizer: &Tokenizer,
    examples: &[Example],
    max_length: usize,
) -> Result<Encoded, DataError> {
    let pairs = examples.iter().any(|example| example.pair.is_some());
    let special = tokenizer
        .get_post_processor()
        .map_or(0, |post| post.added_tokens(pairs));
    let texts = if pairs { 2 } else { 1 };
    if max_length < special + texts {
        return Err(DataError::MaxLength {
            max_length,
            special,
        });
    }
    let mut tokenizer = tokenizer.clone();
    let direction = tokenizer
        .get_truncation()
        .map_or(TruncationDirection::Right, |own| own.direction);
    let strategy = TruncationStrategy::LongestFirst;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(Some(TruncationParams {
            direction,
            max_length,
            strategy,
            stride: 0,
        }))
        .map_err(|error| DataError::Tokenize {
            line: 0,
            message: error.to_string(),
        })?;

    let rows: Vec<_> = examples
        .par_iter()
        .map(|example| encode_row(&tokenizer, example))
        .collect();
    let mut encoded = Encoded {
        rows: Vec::with_capacity(rows.len()),
        ..Encoded::default()
    };
    for row in rows {
        let (row, truncated, without_tokens) = row?;
        encoded.rows.push(row);
        encoded.truncated += usize::from(truncated);
        encoded.without_tokens += usize::from(without_tokens);
    }
    Ok(encoded)
}

/// The row, whether it was cut, and whether it has no token of its text.
fn encode_row(
    tokenizer: &Tokenizer,
    example: &Example,
) -> Result<(EncodedRow, bool, bool), DataError> {
    let text = example.text.as_str();
    let input: EncodeInput<'_> = match example.pair.as_deref() {
        Some(pair) => (text, pair).into(),
        None => text.into(),
    };
    let refused = |message: String| DataError::Tokenize {
        line: example.line,
        message,
    };
    let encoding = tokenizer
        .encode_fast(input, true)
        .map_err(|error| refused(error.to_string()))?;
    if encoding.is_empty() {
        return Err(refused("it gives no tokens".into()));
    }
    let row = EncodedRow {
        input_ids: encoding.get_ids().to_vec(),
        token_type_ids: encoding.get_type_ids().to_vec(),
        segments: Vec::new(),
        passages: Vec::new(),
        target: example.target.clone(),
    };
    let without_tokens = encoding
        .get_special_tokens_mask()
        .iter()
        .all(|special| *special == 1);
    Ok((row, !encoding.get_overflowing().is_empty(), without_tokens))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::tokenizer, *};

    fn example(text: &str, pair: Option<&str>) -> Example {
        Example {
            text: text.into(),
            pair: pair.map(str::to_string),
            target: Some(Target::Class(1)),
            line: 7,
        }
    }

    fn ids(text: &str, pair: Option<&str>, max_length: usize) -> Encoded {
        encode(&tokenizer(), &[example(text, pair)], max_length).expect("encodes")
    }

    // Ids of the test tokenizer: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, a 4, b 5, c 6, d 7.

    #[test]
    fn special_tokens_and_types_follow_the_template() {
        let encoded = ids("a b", Some("c"), 16);
        assert_eq!(encoded.rows[0].input_ids, [2, 4, 5, 3, 6, 3]);
        assert_eq!(encoded.rows[0].token_type_ids, [0, 0, 0, 0, 1, 1]);
        assert_eq!(encoded.rows[0].target, Some(Target::Class(1)));
        assert_eq!((encoded.truncated, encoded.num_tokens()), (0, 6));
    }

    #[test]
    fn long_rows_are_cut_and_counted_and_the_longer_text_first() {
        let encoded = ids("a b c d a b", None, 4);
        assert_eq!(encoded.rows[0].input_ids, [2, 4, 5, 3]);
        assert_eq!(encoded.truncated, 1);
        let encoded = ids("a b c d a", Some("d"), 7);
        assert_eq!(encoded.rows[0].input_ids, [2, 4, 5, 6, 3, 7, 3]);
        assert_eq!(encoded.truncated, 1);
    }

    #[test]
    fn settings_stored_in_the_tokenizer_neither_pad_nor_cut() {
        let mut stored = tokenizer();
        stored.with_padding(Some(tokenizers::PaddingParams {
            strategy: tokenizers::PaddingStrategy::Fixed(12),
            ..Default::default()
        }));
        let params = TruncationParams {
            max_length: 3,
            ..Default::default()
        };
        stored.with_truncation(Some(params)).expect("fits");
        let encoded = encode(&stored, &[example("a b c", None)], 16).expect("encodes");
        assert_eq!(encoded.rows[0].input_ids, [2, 4, 5, 6, 3]);
    }

    #[test]
    fn too_short_a_limit_is_refused_before_any_row() {
        for (pair, max_length) in [(None, 2), (Some("b"), 4), (None, 0)] {
            let error = encode(&tokenizer(), &[example("a", pair)], max_length).expect_err("short");
            assert!(matches!(error, DataError::MaxLength { .. }), "{error}");
        }
        assert_eq!(
            ids("a a", Some("b b"), 5).rows[0].input_ids,
            [2, 4, 3, 5, 3]
        );
    }

    #[test]
    fn texts_without_a_token_are_counted() {
        let encoded = ids("\u{200b}", None, 8);
        assert_eq!(
            (encoded.without_tokens, encoded.rows[0].input_ids.len()),
            (0, 3),
            "[UNK] is a token"
        );
        let encoded = ids(" ", None, 8);
        assert_eq!(
            (encoded.without_tokens, encoded.rows[0].input_ids.len()),
            (1, 2)
        );
    }

    #[test]
    fn many_rows_keep_their_order() {
        let texts = ["a", "b", "c", "d"];
        let examples: Vec<Example> = (0..999)
            .map(|row| example(texts[row * row % 4], None))
            .collect();
        let encoded = encode(&tokenizer(), &examples, 8).expect("encodes");
        for (row, encoded) in encoded.rows.iter().enumerate() {
            assert_eq!(encoded.input_ids[1] as usize, 4 + row * row % 4);
        }
    }
}
