//! CSV and TSV with a header line; blank lines are not rows.
//!
//! CSV follows RFC 4180. TSV comes in two kinds: quoted like CSV, and raw, where a quote is a
//! character like any other (the files of GLUE). Reading a raw file as quoted would join lines,
//! so the kind is found out first.

use std::borrow::Cow;

use csv::{ByteRecord, ReaderBuilder};

use super::table::{Cell, RawRow, text};

/// An opened CSV or TSV file.
pub(super) struct Delimited<'a> {
    bytes: Cow<'a, [u8]>,
    delimiter: u8,
    quoted: bool,
}

/// A record and where it starts.
struct Record {
    line: usize,
    start: usize,
    fields: ByteRecord,
}

impl<'a> Delimited<'a> {
    /// Columns and table. Column names lose surrounding white space.
    pub fn open(bytes: Cow<'a, [u8]>, delimiter: u8) -> (Vec<String>, Self) {
        let quoted = delimiter != b'\t' || !is_raw(&bytes, delimiter);
        let columns = records(&bytes, delimiter, quoted)
            .next()
            .map(|header| {
                header
                    .fields
                    .iter()
                    .map(|name| String::from_utf8_lossy(name).trim().to_string())
                    .collect()
            })
            .unwrap_or_default();
        (
            columns,
            Self {
                bytes,
                delimiter,
                quoted,
            },
        )
    }

    /// The cells of `wanted` of every row.
    pub fn rows(&self, columns: &[String], wanted: &[&str]) -> Vec<RawRow> {
        let indices: Vec<Option<usize>> = wanted
            .iter()
            .map(|name| columns.iter().position(|column| column == name))
            .collect();
        let mut last_start = 0;
        let mut rows: Vec<RawRow> = records(&self.bytes, self.delimiter, self.quoted)
            .skip(1)
            .map(|record| {
                last_start = record.start;
                RawRow {
                    line: record.line,
                    cells: cells(&record.fields, columns.len(), &indices),
                }
            })
            .collect();
        if let Some(row) = rows.last_mut()
            && self.quoted
            && self.unclosed(last_start)
        {
            row.cells = Err("a quote opened in this row is never closed".into());
        }
        rows
    }

    /// Whether the last record still is inside quotes at the end of the file: then a record added
    /// behind it becomes part of it.
    fn unclosed(&self, start: usize) -> bool {
        let mut tail = self.bytes.get(start..).unwrap_or_default().to_vec();
        tail.extend_from_slice(b"\nx\n");
        records(&tail, self.delimiter, true).count() == 1
    }
}

fn cells(
    fields: &ByteRecord,
    width: usize,
    indices: &[Option<usize>],
) -> Result<Vec<Cell>, String> {
    if fields.len() != width {
        return Err(format!(
            "{} fields, but the header has {width}",
            fields.len()
        ));
    }
    indices
        .iter()
        .map(|index| {
            let field = index
                .and_then(|index| fields.get(index))
                .unwrap_or_default();
            let field = text(field)?;
            Ok(if field.trim().is_empty() {
                Cell::Missing
            } else {
                Cell::Untyped(field.into())
            })
        })
        .collect()
}

fn records(bytes: &[u8], delimiter: u8, quoted: bool) -> impl Iterator<Item = Record> {
    let reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(quoted)
        .flexible(true)
        .has_headers(false)
        .from_reader(bytes);
    // Reading from memory with varying widths allowed has no way to fail.
    reader
        .into_byte_records()
        .map_while(Result::ok)
        .map(move |fields| {
            let (mut start, mut line) = fields.position().map_or((0, 1), |place| {
                (place.byte() as usize, place.line() as usize)
            });
            // The reader's position is before the blank lines and line ends that it passes over.
            while let Some(end @ (b'\r' | b'\n')) = bytes.get(start) {
                line += usize::from(*end == b'\n');
                start += 1;
            }
            Record {
                line,
                start,
                fields,
            }
        })
}

/// Whether quotes in a file mean themselves: all rows are equally wide without quoting, and some
/// field begins with a quote that does not enclose the field.
fn is_raw(bytes: &[u8], delimiter: u8) -> bool {
    let mut width = None;
    let mut literal = false;
    for record in records(bytes, delimiter, false) {
        if *width.get_or_insert(record.fields.len()) != record.fields.len() {
            return false;
        }
        literal |= record
            .fields
            .iter()
            .any(|field| field.first() == Some(&b'"') && !is_enclosed(field));
    }
    literal
}

/// Whether a field is `"…"` with every quote inside doubled.
fn is_enclosed(field: &[u8]) -> bool {
    let Some(inner) = field
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""))
    else {
        return false;
    };
    let mut quotes = 0;
    for byte in inner {
        if *byte == b'"' {
            quotes += 1;
        } else if quotes % 2 == 1 {
            return false;
        } else {
            quotes = 0;
        }
    }
    quotes % 2 == 0
}
