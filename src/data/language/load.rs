//! Reads passages, and holds some out.

use std::collections::HashSet;

use serde_json::Value;

use super::columns::{PassageColumns, PassageNames};
use crate::chat::Conversation;
use crate::data::rows::{BadRows, text};
use crate::data::source::Source;
use crate::data::table::{Cell, RawRow, Table};
use crate::data::{DataError, Validation, split};

/// Which passages to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct PassageSpec {
    /// The training rows.
    pub train: Source,
    /// The validation rows; `None` cuts them off from the training rows.
    pub validation: Option<Source>,
    /// The share of rows to cut off, above 0 and below 1. Not used with a validation source.
    pub validation_share: f64,
    /// Columns named by the user.
    pub columns: PassageNames,
    /// Leave out rows that cannot be used, and count them, instead of refusing the file.
    pub skip_bad_rows: bool,
    /// Use at most this many rows of the training source (before validation rows are cut off).
    pub max_rows: Option<usize>,
    /// Decides the split and the subset.
    pub seed: u64,
}

/// What a row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text, all of which is learned.
    Text(String),
    /// A prompt and what follows it; `None` where it is to be written.
    Completion(String, Option<String>),
    /// A conversation.
    Chat(Conversation),
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// What it holds.
    pub content: Content,
    /// Where it stands in its file: line, or row of a Parquet file, counted from 1.
    pub line: usize,
}

impl Passage {
    /// Makes a text a prompt that is to be answered.
    pub fn ask(&mut self) {
        if let Content::Text(text) = &mut self.content {
            self.content = Content::Completion(std::mem::take(text), None);
        }
    }
}

/// Passages to train and to measure on, and what there is to tell about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Passages {
    /// Rows to train on, in the order of the file.
    pub train: Vec<Passage>,
    /// Rows to measure on, in the order of the file.
    pub validation: Vec<Passage>,
    /// Where they came from.
    pub validation_from: Validation,
    /// The columns in use.
    pub columns: PassageColumns,
    /// Rows left out because they cannot be used, by file; only files that have any.
    pub skipped: Vec<BadRows>,
    /// Usable rows left out because of `max_rows`.
    pub beyond_max_rows: usize,
    /// Validation rows that also are training rows: they make the result look too good.
    pub overlap: usize,
}

/// Loads training and validation passages.
///
/// # Errors
/// Those of reading a file and of choosing its columns; [`DataError::TooFewRows`] when no row can be held out.
pub fn load_passages(spec: &PassageSpec) -> Result<Passages, DataError> {
    let share = spec.validation_share;
    if spec.validation.is_none() && !(share > 0.0 && share < 1.0) {
        return Err(DataError::ValidationShare(share));
    }
    let (mut train, columns, bad) =
        read_passages(&spec.train, &spec.columns, true, spec.skip_bad_rows)?;
    let mut skipped = vec![bad];
    let before = train.len();
    if let Some(max_rows) = spec.max_rows.filter(|max_rows| *max_rows < before) {
        train = pick(
            &train,
            &split::subset(&vec![0; before], max_rows, spec.seed),
        );
    }
    let beyond_max_rows = before - train.len();
    let (validation, validation_from) = match &spec.validation {
        Some(source) => {
            let (rows, _, bad) = read_passages(source, &columns.names(), true, spec.skip_bad_rows)?;
            skipped.push(bad);
            (rows, Validation::Given)
        }
        None => {
            let (kept, held_out) = split::cut_off(&vec![0; train.len()], share, spec.seed);
            if held_out.is_empty() {
                return Err(DataError::TooFewRows {
                    file: spec.train.name(),
                    rows: train.len(),
                    classes: 1,
                });
            }
            let validation = pick(&train, &held_out);
            train = pick(&train, &kept);
            (validation, Validation::CutOff(share))
        }
    };
    skipped.retain(|bad| bad.total > 0);
    let known: HashSet<String> = train.iter().map(key).collect();
    let overlap = validation
        .iter()
        .filter(|row| known.contains(&key(row)))
        .count();
    Ok(Passages {
        train,
        validation,
        validation_from,
        columns,
        skipped,
        beyond_max_rows,
        overlap,
    })
}

/// Reads the passages of one file. Without `with_completion` prompts alone are enough, and what follows them is
/// not read.
///
/// # Errors
/// Those of reading a file and of choosing its columns.
pub fn read_passages(
    source: &Source,
    names: &PassageNames,
    with_completion: bool,
    skip_bad_rows: bool,
) -> Result<(Vec<Passage>, PassageColumns, BadRows), DataError> {
    let table = Table::open(source)?;
    let columns = PassageColumns::choose(&table.file, &table.columns, names, with_completion)?;
    let raw = table.rows(&columns.used())?;
    let mut bad = BadRows::new(&table.file, table.format);
    bad.rows = raw.len();
    let mut rows = Vec::with_capacity(raw.len());
    for RawRow { line, cells } in raw {
        match cells.and_then(|cells| content(cells, &columns)) {
            Ok(content) => rows.push(Passage { content, line }),
            Err(reason) => bad.add(line, reason),
        }
    }
    if bad.total > 0 && !skip_bad_rows {
        return Err(DataError::BadRows(bad));
    }
    if rows.is_empty() {
        return Err(DataError::AllRowsBad(bad));
    }
    Ok((rows, columns, bad))
}

fn content(cells: Vec<Cell>, columns: &PassageColumns) -> Result<Content, String> {
    let mut cells = cells.into_iter();
    let mut next = || cells.next().unwrap_or(Cell::Missing);
    Ok(match columns {
        PassageColumns::Text(name) => Content::Text(text(next(), name)?),
        PassageColumns::Completion(prompt, completion) => {
            let prompt = text(next(), prompt)?;
            let completion = completion.as_ref().map(|name| text(next(), name));
            Content::Completion(prompt, completion.transpose()?)
        }
        PassageColumns::Instruction(instruction, input, completion) => {
            let mut prompt = text(next(), instruction)?;
            match next() {
                Cell::Missing => {}
                Cell::Text(empty) | Cell::Untyped(empty) if empty.trim().is_empty() => {}
                cell => {
                    prompt.push('\n');
                    prompt.push_str(&text(cell, input)?);
                }
            }
            let completion = completion.as_ref().map(|name| text(next(), name));
            Content::Completion(prompt, completion.transpose()?)
        }
        PassageColumns::Messages(messages, tools) => {
            let messages = json(next(), messages)?
                .ok_or_else(|| format!("`{messages}` is missing or empty"))?;
            let tools = match tools {
                Some(name) => json(next(), name)?,
                None => None,
            };
            let chat = Conversation::new(messages, tools).map_err(|error| error.to_string())?;
            Content::Chat(chat)
        }
    })
}

/// A list or mapping, as it is or as a text that holds one.
fn json(cell: Cell, column: &str) -> Result<Option<Value>, String> {
    match cell {
        Cell::Missing => Ok(None),
        Cell::Json(value) => Ok(Some(value)),
        Cell::Text(text) | Cell::Untyped(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| format!("`{column}` is a text that holds no JSON: {error}")),
        Cell::Integer(_) | Cell::Fraction(_) | Cell::Bool(_) | Cell::Other(_) => {
            Err(format!("`{column}` is not a list of messages"))
        }
    }
}

fn pick(rows: &[Passage], numbers: &[usize]) -> Vec<Passage> {
    let rows = numbers
        .iter()
        .filter_map(|number| rows.get(*number).cloned());
    rows.collect()
}

fn key(passage: &Passage) -> String {
    match &passage.content {
        Content::Text(text) => text.clone(),
        Content::Completion(prompt, completion) => {
            format!(
                "{prompt}\u{1f}{}",
                completion.as_deref().unwrap_or_default()
            )
        }
        Content::Chat(chat) => serde_json::to_string(chat.messages()).unwrap_or_default(),
    }
}
