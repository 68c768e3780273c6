//! JSON lines: one object a line; blank lines are not rows.

use serde_json::{Map, Value};

use super::{
    DataError,
    rows::BadRows,
    source::Format,
    table::{Cell, RawRow, lines, text},
};

/// Rows looked at to learn the columns: a key may be absent from some rows.
const LOOKED_AT: usize = 1000;

/// Keys of the first rows, in the order of appearance.
pub(super) fn columns(bytes: &[u8], file: &str) -> Result<Vec<String>, DataError> {
    // Lines inside an array may happen to be objects: they must not pass for all of its rows.
    let content = bytes.trim_ascii();
    if content.starts_with(b"[") && content.ends_with(b"]") {
        return Err(DataError::JsonArray { file: file.into() });
    }
    let mut columns: Vec<String> = Vec::new();
    let mut bad = BadRows::new(file, Format::JsonLines);
    for (line, object) in objects(bytes).take(LOOKED_AT) {
        match object {
            Ok(object) => {
                for key in object.keys() {
                    if !columns.contains(key) {
                        columns.push(key.clone());
                    }
                }
            }
            Err(reason) => bad.add(line, reason),
        }
        bad.rows += 1;
    }
    if bad.total > 0 && bad.total == bad.rows {
        return Err(DataError::BadRows(bad));
    }
    Ok(columns)
}

/// The named values of every row.
pub(super) fn rows(bytes: &[u8], columns: &[&str]) -> Vec<RawRow> {
    objects(bytes)
        .map(|(line, object)| RawRow {
            line,
            cells: object.map(|mut object| {
                columns
                    .iter()
                    .map(|column| {
                        object
                            .get_mut(*column)
                            .map_or(Cell::Missing, |value| cell(value.take()))
                    })
                    .collect()
            }),
        })
        .collect()
}

fn objects(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<Map<String, Value>, String>)> {
    lines(bytes)
        .filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
        .map(|(number, line)| (number, object(line)))
}

fn object(line: &[u8]) -> Result<Map<String, Value>, String> {
    let value = serde_json::from_str(text(line)?).map_err(|error| {
        // serde_json counts lines within what it was given, which is always one line.
        let message = error.to_string();
        let what = message.split(" at line ").next().unwrap_or_default();
        format!("not JSON: {what} (column {})", error.column())
    })?;
    match value {
        Value::Object(object) => Ok(object),
        other => Err(format!("the row is {}, not an object", kind(&other))),
    }
}

pub(super) fn cell(value: Value) -> Cell {
    match value {
        Value::Null => Cell::Missing,
        Value::String(text) => Cell::Text(text),
        Value::Bool(value) => Cell::Bool(value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Cell::Integer(integer),
            // Hashes used as labels: too large for a signed integer, and no fraction.
            (None, Some(large)) => Cell::Text(large.to_string()),
            (None, None) => Cell::Fraction(number.as_f64().unwrap_or(f64::NAN)),
        },
        other => Cell::Json(other),
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
