//! From cells to examples. A row that cannot be used is told with file, line and reason.

use std::fmt;

use super::{
    DataError,
    columns::Columns,
    jsonl,
    labels::LabelValue,
    source::Format,
    table::{Cell, RawRow, Table},
};

/// A row whose label is not yet an index.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub text: String,
    pub pair: Option<String>,
    pub label: Option<RawLabel>,
    pub line: usize,
}

/// What the label column of a task holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LabelKind {
    /// The name or number of one class.
    #[default]
    OneOfMany,
    /// A list of names or numbers of labels; in a file without lists, names between `|` or `,`.
    AnyOfMany,
    /// A number, or a list of numbers.
    Numbers,
}

/// A label before names become indices.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RawLabel {
    One(LabelValue),
    Several(Vec<LabelValue>),
    Numbers(Vec<f64>),
}

/// The rows of one file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRows {
    /// The file.
    pub file: String,
    /// `line`, or `row` for formats without lines.
    pub unit: &'static str,
    /// All rows of the file, usable or not.
    pub rows: usize,
    /// How many cannot be used.
    pub total: usize,
    /// The first ten of them.
    pub first: Vec<BadRow>,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Its line (or row), counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl BadRows {
    const SHOWN: usize = 10;

    pub(super) fn new(file: &str, format: Format) -> Self {
        Self {
            file: file.into(),
            unit: format.unit(),
            rows: 0,
            total: 0,
            first: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, line: usize, reason: String) {
        self.total += 1;
        if self.first.len() < Self::SHOWN {
            self.first.push(BadRow { line, reason });
        }
    }
}

impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            unit,
            rows,
            total,
            first,
            ..
        } = self;
        write!(f, "{total} of {rows} rows of `{file}` cannot be used")?;
        for BadRow { line, reason } in first {
            write!(f, "\n  {file}, {unit} {line}: {reason}")?;
        }
        match total - first.len() {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// Usable rows, and the others. All rows of the table are in one of the two.
pub(super) fn read(
    table: &Table<'_>,
    columns: &Columns,
    kind: LabelKind,
    skip_bad_rows: bool,
) -> Result<(Vec<Row>, BadRows), DataError> {
    let wanted: Vec<&str> = [
        Some(&columns.text),
        columns.pair.as_ref(),
        columns.label.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(String::as_str)
    .collect();
    let class_names = columns
        .label
        .as_deref()
        .and_then(|label| table.class_names(label));
    let raw = table.rows(&wanted)?;
    let mut bad = BadRows::new(&table.file, table.format);
    bad.rows = raw.len();
    let mut rows = Vec::with_capacity(raw.len());
    for RawRow { line, cells } in raw {
        let read = |cells| {
            row(
                line,
                cells,
                columns,
                kind,
                class_names.as_deref(),
                table.format,
            )
        };
        match cells.and_then(read) {
            Ok(row) => rows.push(row),
            Err(reason) => bad.add(line, reason),
        }
    }
    if bad.total > 0 && !skip_bad_rows {
        return Err(DataError::BadRows(bad));
    }
    if rows.is_empty() {
        return Err(DataError::AllRowsBad(bad));
    }
    Ok((rows, bad))
}

fn row(
    line: usize,
    cells: Vec<Cell>,
    columns: &Columns,
    kind: LabelKind,
    class_names: Option<&[String]>,
    format: Format,
) -> Result<Row, String> {
    let mut cells = cells.into_iter();
    let mut next = || cells.next().unwrap_or(Cell::Missing);
    let text = text(next(), &columns.text)?;
    let pair = columns
        .pair
        .as_ref()
        .map(|name| self::text(next(), name))
        .transpose()?;
    let label = columns
        .label
        .as_ref()
        .map(|name| match kind {
            LabelKind::OneOfMany => label(next(), name, class_names).map(RawLabel::One),
            LabelKind::AnyOfMany => match (next(), format) {
                // Where a list is a text, the empty one is an empty field.
                (Cell::Missing, Format::Csv | Format::Tsv) => Ok(RawLabel::Several(Vec::new())),
                (cell, _) => several(cell, name, class_names).map(RawLabel::Several),
            },
            LabelKind::Numbers => numbers(next(), name).map(RawLabel::Numbers),
        })
        .transpose()?;
    Ok(Row {
        text,
        pair,
        label,
        line,
    })
}

pub(super) fn text(cell: Cell, column: &str) -> Result<String, String> {
    let found = match cell {
        Cell::Text(text) | Cell::Untyped(text) if text.trim().is_empty() => "is empty",
        Cell::Text(text) | Cell::Untyped(text) => return Ok(text),
        Cell::Missing => "is missing or empty",
        Cell::Integer(_) | Cell::Fraction(_) => "is a number, not a text",
        Cell::Bool(_) => "is a boolean, not a text",
        Cell::Other(kind) => return Err(format!("`{column}` is {kind}, not a text")),
        Cell::Json(value) => {
            let kind = jsonl::kind(&value);
            return Err(format!("`{column}` is {kind}, not a text"));
        }
    };
    Err(format!("`{column}` {found}"))
}

fn label(cell: Cell, column: &str, class_names: Option<&[String]>) -> Result<LabelValue, String> {
    let fraction = |text: &str| {
        Err(format!(
            "label `{column}` is the fraction {text}; classes are integers or strings"
        ))
    };
    match cell {
        Cell::Integer(id) => match class_names {
            None => Ok(LabelValue::Integer(id)),
            Some(names) => match usize::try_from(id).ok().and_then(|id| names.get(id)) {
                Some(name) => Ok(LabelValue::Name(name.clone())),
                None if id == -1 => Err(format!(
                    "label `{column}` is -1, which marks rows without a label"
                )),
                None => Err(format!(
                    "label `{column}` is {id}, but the file names {} classes",
                    names.len()
                )),
            },
        },
        Cell::Text(text) => match text.trim() {
            "" => Err(format!("label `{column}` is empty")),
            name => Ok(LabelValue::Name(name.into())),
        },
        Cell::Untyped(text) => match text.trim() {
            "" => Err(format!("label `{column}` is empty")),
            text if is_fraction(text) => fraction(text),
            text => Ok(LabelValue::from_untyped(text)),
        },
        Cell::Bool(value) => Ok(LabelValue::Name(value.to_string())),
        Cell::Fraction(value) => fraction(&format!("{value:?}")),
        Cell::Missing => Err(format!("label `{column}` is missing or empty")),
        Cell::Other(kind) => Err(format!(
            "label `{column}` is {kind}, not an integer or string"
        )),
        Cell::Json(value) => Err(format!(
            "label `{column}` is {}, not an integer or string",
            jsonl::kind(&value)
        )),
    }
}

/// The labels of a list; a row may have none.
fn several(
    cell: Cell,
    column: &str,
    class_names: Option<&[String]>,
) -> Result<Vec<LabelValue>, String> {
    match cell {
        Cell::Json(serde_json::Value::Array(items)) => items
            .into_iter()
            .map(|item| label(jsonl::cell(item), column, class_names))
            .collect(),
        Cell::Text(text) | Cell::Untyped(text) => text
            .split(['|', ','])
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| label(Cell::Untyped(name.to_string()), column, class_names))
            .collect(),
        other => Ok(vec![label(other, column, class_names)?]),
    }
}

/// The numbers to be predicted.
fn numbers(cell: Cell, column: &str) -> Result<Vec<f64>, String> {
    let number = |cell: Cell| {
        let number = match &cell {
            Cell::Integer(number) => Some(*number as f64),
            Cell::Fraction(number) => Some(*number),
            Cell::Text(text) | Cell::Untyped(text) => text.trim().parse().ok(),
            Cell::Missing => return Err(format!("label `{column}` is missing or empty")),
            Cell::Bool(_) | Cell::Json(_) | Cell::Other(_) => None,
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => Ok(number),
            None => Err(format!("label `{column}` is not a finite number")),
        }
    };
    match cell {
        Cell::Json(serde_json::Value::Array(items)) if !items.is_empty() => items
            .into_iter()
            .map(|item| number(jsonl::cell(item)))
            .collect(),
        other => Ok(vec![number(other)?]),
    }
}

/// A number with a point, such as `3.8`; words like `nan` and versions like `1.2.3` are names.
fn is_fraction(text: &str) -> bool {
    text.contains('.')
        && !text.contains(|c: char| c.is_ascii_alphabetic())
        && text.parse::<f64>().is_ok()
}
