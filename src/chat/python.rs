//! Values as Python writes them: `str()` where a template prints one, `json.dumps` for `tojson`.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};
use serde_json::Value as Json;

/// Prints a value into the text.
pub(super) fn write(
    out: &mut Output<'_>,
    _: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Undefined => return Ok(()),
        ValueKind::String => value.to_str().map(|text| text.to_string()),
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            serde_json::to_value(value).ok().map(|json| repr(&json))
        }
        _ => None,
    };
    let text = text.unwrap_or_else(|| value.to_string());
    out.write_str(&text)
        .map_err(|error| Error::new(ErrorKind::WriteFailure, error.to_string()))
}

/// `repr()` of plain data.
fn repr(value: &Json) -> String {
    match value {
        Json::Null => "None".to_string(),
        Json::Bool(true) => "True".to_string(),
        Json::Bool(false) => "False".to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => quoted(text),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(repr).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", quoted(key), repr(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// A string in Python's quotes: single ones, unless it has some and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c == quote => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)` of `transformers`.
pub(super) fn to_json(
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<String, Error> {
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let separators: Option<(String, String)> = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let parts: Vec<String> = pair.try_iter()?.map(|part| part.to_string()).collect();
            match <[String; 2]>::try_from(parts) {
                Ok([item, key]) => Some((item, key)),
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        "`separators` must be a pair",
                    ));
                }
            }
        }
        _ => None,
    };
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let default = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or((default.to_string(), ": ".to_string()));
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    let dump = Dump {
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
        indent,
        item,
        key,
    };
    let mut text = String::new();
    dump.value(&json, 0, &mut text);
    Ok(text)
}

struct Dump {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<usize>,
    item: String,
    key: String,
}

impl Dump {
    fn value(&self, value: &Json, depth: usize, text: &mut String) {
        match value {
            Json::Array(items) if !items.is_empty() => {
                text.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.next(at, depth + 1, text);
                    self.value(item, depth + 1, text);
                }
                self.line(depth, text);
                text.push(']');
            }
            Json::Object(entries) if !entries.is_empty() => {
                let mut entries: Vec<(&String, &Json)> = entries.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                text.push('{');
                for (at, (key, value)) in entries.into_iter().enumerate() {
                    self.next(at, depth + 1, text);
                    self.string(key, text);
                    text.push_str(&self.key);
                    self.value(value, depth + 1, text);
                }
                self.line(depth, text);
                text.push('}');
            }
            Json::String(string) => self.string(string, text),
            // Null, booleans, numbers, and what is empty.
            other => text.push_str(&other.to_string()),
        }
    }

    fn next(&self, at: usize, depth: usize, text: &mut String) {
        if at > 0 {
            text.push_str(&self.item);
        }
        self.line(depth, text);
    }

    fn line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = self.indent {
            text.push('\n');
            text.push_str(&" ".repeat(indent * depth));
        }
    }

    fn string(&self, string: &str, text: &mut String) {
        // serde_json escapes what JSON must, in the same spelling as Python but for DEL, which neither escapes.
        let quoted = Json::from(string).to_string();
        if !self.ensure_ascii {
            text.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                text.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}
