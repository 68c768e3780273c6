//! A source as a table: named columns, and rows of the columns asked for.

use std::borrow::Cow;

use super::{
    DataError,
    delimited::Delimited,
    jsonl,
    parquet::ParquetTable,
    source::{Format, Source},
};

/// One value of a row, as far as its format tells types apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// Null, absent, or an empty field.
    Missing,
    Text(String),
    Integer(i64),
    Fraction(f64),
    Bool(bool),
    /// A field of a format without types (CSV, TSV).
    Untyped(String),
    /// A list or an object of a format that has them.
    Json(serde_json::Value),
    /// Anything else: named, not kept.
    Other(&'static str),
}

/// The cells asked for, or why the row cannot be read.
#[derive(Debug)]
pub(super) struct RawRow {
    /// Counted from 1: a line of a text file, a row of a Parquet file.
    pub line: usize,
    pub cells: Result<Vec<Cell>, String>,
}

/// An opened source.
pub(super) struct Table<'a> {
    pub file: String,
    pub format: Format,
    pub columns: Vec<String>,
    content: Content<'a>,
}

enum Content<'a> {
    Json(Cow<'a, [u8]>),
    Delimited(Delimited<'a>),
    Parquet(ParquetTable),
    Lines(Cow<'a, [u8]>),
}

impl<'a> Table<'a> {
    /// Opens a source and finds its columns.
    pub fn open(source: &'a Source) -> Result<Self, DataError> {
        let format = source.format()?;
        let file = source.name();
        let (columns, content) = match format {
            Format::Parquet => {
                let table = ParquetTable::open(source)?;
                (table.columns(), Content::Parquet(table))
            }
            Format::JsonLines => {
                let bytes = nonempty(source)?;
                (jsonl::columns(&bytes, &file)?, Content::Json(bytes))
            }
            Format::Csv | Format::Tsv => {
                let bytes = nonempty(source)?;
                let delimiter = if format == Format::Csv { b',' } else { b'\t' };
                let (columns, table) = Delimited::open(bytes, delimiter);
                (columns, Content::Delimited(table))
            }
            Format::Lines => (vec!["text".into()], Content::Lines(nonempty(source)?)),
        };
        for (index, column) in columns.iter().enumerate() {
            // Index columns written without a name are harmless: nobody can ask for them.
            if !column.is_empty() && columns.iter().take(index).any(|other| other == column) {
                return Err(DataError::DuplicateColumn {
                    file,
                    column: column.clone(),
                });
            }
        }
        Ok(Self {
            file,
            format,
            columns,
            content,
        })
    }

    /// All rows, each with the cells of `columns` in that order.
    pub fn rows(&self, columns: &[&str]) -> Result<Vec<RawRow>, DataError> {
        let rows = match &self.content {
            Content::Json(bytes) => jsonl::rows(bytes, columns),
            Content::Delimited(table) => table.rows(&self.columns, columns),
            Content::Parquet(table) => table.rows(columns)?,
            Content::Lines(bytes) => lines(bytes)
                .map(|(line, bytes)| RawRow {
                    line,
                    cells: text(bytes).map(|text| vec![Cell::Text(text.into())]),
                })
                .collect(),
        };
        if rows.is_empty() {
            return Err(DataError::NoRows {
                file: self.file.clone(),
                columns: self.columns.clone(),
            });
        }
        Ok(rows)
    }

    /// Names of the integer labels of a column, where the file carries them.
    pub fn class_names(&self, column: &str) -> Option<Vec<String>> {
        match &self.content {
            Content::Parquet(table) => table.class_names(column),
            Content::Json(_) | Content::Delimited(_) | Content::Lines(_) => None,
        }
    }
}

/// Lines counted from 1, without their ends. The end of the last line starts no new one.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes
        .strip_suffix(b"\n")
        .unwrap_or(bytes)
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Bytes as text, or the reason why not.
pub(super) fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 text (byte {} of it)", error.valid_up_to() + 1))
}

fn nonempty(source: &Source) -> Result<Cow<'_, [u8]>, DataError> {
    let bytes = source.read()?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(DataError::Empty {
            file: source.name(),
        });
    }
    Ok(bytes)
}
