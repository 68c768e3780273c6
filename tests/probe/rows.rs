//! Labelled rows for the tiny models, spliced from the words of their fixture's texts.

use std::path::PathBuf;

use autopeft::data::{Encoded, Example, Padding, Target, encode};
use tokenizers::Tokenizer;

use super::golden::device;

/// Rows of different lengths with 3 classes; the first four are the fixture's own texts.
pub fn rows(name: &str, count: usize) -> (Encoded, Padding) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name);
    let text = std::fs::read_to_string(folder.join("rows.json")).expect("rows");
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let texts: Vec<(String, Option<String>)> = rows
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().map(str::to_string);
            (text("text").expect("a text"), text("text_pair"))
        })
        .collect();
    let words: Vec<&str> = texts
        .iter()
        .flat_map(|(text, pair)| {
            text.split(' ')
                .chain(pair.iter().flat_map(|p| p.split(' ')))
        })
        .collect();
    let spliced = |row: usize| {
        let length = 2 + (5 * row) % 9;
        let chosen = (0..length).map(|at| words[(7 * row + (1 + row % 4) * at) % words.len()]);
        (chosen.collect::<Vec<_>>().join(" "), None)
    };
    let examples: Vec<Example> = (0..count)
        .map(|row| {
            let (text, pair) = texts.get(row).cloned().unwrap_or_else(|| spliced(row));
            Example {
                text,
                pair,
                target: Some(Target::Class((row as u32 + row as u32 / 5) % 3)),
                line: row + 1,
            }
        })
        .collect();
    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).expect("a tokenizer");
    let encoded = encode(&tokenizer, &examples, 32).expect("token numbers");
    let padding = Padding::new(Some(0), &tokenizer, 32);
    (encoded, padding)
}

/// Rows on the processor.
pub fn on_host(encoded: &Encoded, padding: Padding) -> autopeft::train::Rows<'_> {
    autopeft::train::Rows {
        encoded,
        padding,
        device: device(),
    }
}
