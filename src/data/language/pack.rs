//! Packing: several passages in one row, so that no place is lost to padding.

use crate::data::{Encoded, EncodedRow, Target};

/// Puts passages together into rows of at most `max_length` tokens, the longest first, each into the fullest row
/// that has room ("best fit decreasing"). [`EncodedRow::segments`] tells where each ends; attention and positions
/// stay within a passage, and the first token of a passage is not learned.
pub fn pack(encoded: &Encoded, max_length: usize) -> Encoded {
    let mut order: Vec<(usize, &EncodedRow)> = encoded.rows.iter().enumerate().collect();
    order.sort_by_key(|(_, row)| std::cmp::Reverse(row.input_ids.len()));
    // By room: for each number of free places the rows that have it.
    let mut open: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    let mut packed: Vec<EncodedRow> = Vec::new();
    for (number, row) in order {
        let length = row.input_ids.len();
        let fit = open.range(length..).next().map(|(room, _)| *room);
        let place = fit.and_then(|room| {
            let places = open.get_mut(&room)?;
            let place = places.pop();
            if places.is_empty() {
                open.remove(&room);
            }
            place
        });
        let place = place.unwrap_or(packed.len());
        if place == packed.len() {
            packed.push(EncodedRow {
                input_ids: Vec::new(),
                token_type_ids: Vec::new(),
                target: Some(Target::Tokens(Vec::new())),
                segments: Vec::new(),
                passages: Vec::new(),
            });
        }
        if let Some(into) = packed.get_mut(place) {
            append(into, row);
            into.passages.push(number);
            let room = max_length.saturating_sub(into.input_ids.len());
            open.entry(room).or_default().push(place);
        }
    }
    Encoded {
        rows: packed,
        truncated: encoded.truncated,
        without_tokens: encoded.without_tokens,
    }
}

fn append(into: &mut EncodedRow, row: &EncodedRow) {
    into.input_ids.extend_from_slice(&row.input_ids);
    into.token_type_ids.extend_from_slice(&row.token_type_ids);
    into.segments.push(row.input_ids.len());
    if let (Some(Target::Tokens(all)), Some(Target::Tokens(marks))) =
        (&mut into.target, &row.target)
    {
        all.push(false);
        all.extend(marks.iter().skip(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lengths: &[usize]) -> Encoded {
        let row = |(number, length): (usize, &usize)| EncodedRow {
            input_ids: vec![number as u32; *length],
            token_type_ids: vec![0; *length],
            target: Some(Target::Tokens(vec![true; *length])),
            segments: Vec::new(),
            passages: Vec::new(),
        };
        Encoded {
            rows: lengths.iter().enumerate().map(row).collect(),
            ..Encoded::default()
        }
    }

    #[test]
    fn every_passage_is_whole_in_one_row_and_rows_are_full() {
        let packed = pack(&rows(&[3, 8, 5, 2, 6]), 8);
        let segments: Vec<&[usize]> = packed
            .rows
            .iter()
            .map(|row| row.segments.as_slice())
            .collect();
        assert_eq!(segments, [&[8][..], &[6, 2], &[5, 3]]);
        assert_eq!(packed.rows[1].input_ids, [4, 4, 4, 4, 4, 4, 3, 3]);
        // Their input ids are their numbers here.
        assert_eq!(packed.examples_of(1), [4, 3]);
        assert_eq!(rows(&[3, 8]).examples_of(1), [1]);
        let Some(Target::Tokens(marks)) = &packed.rows[1].target else {
            panic!("no marks")
        };
        assert_eq!(*marks, [false, true, true, true, true, true, false, true]);
    }
}
