//! Writes a recipe as YAML with the meaning of every key beside it.

use serde_yaml::Value;

use super::docs::{self, Form};
use super::{Recipe, tree};

/// Column at which comments start.
const COMMENT_COLUMN: usize = 34;
/// Column at which comments are wrapped.
const LINE_WIDTH: usize = 120;

/// The recipe with all keys and a comment on each; valid to read again.
pub(super) fn commented(recipe: &Recipe) -> String {
    let value =
        serde_yaml::to_value(recipe).expect("plain structs with text keys always serialize");
    let mut text = String::new();
    section(&value, "", &mut text);
    text
}

fn section(node: &Value, path: &str, text: &mut String) {
    let depth = if path.is_empty() {
        0
    } else {
        path.split('.').count()
    };
    for name in tree::children(node, "") {
        let Some(value) = node.get(name) else {
            continue;
        };
        let path = tree::join(path, name);
        let indent = "  ".repeat(depth);
        let is_section = matches!(value, Value::Mapping(_));
        if depth == 0 && is_section {
            text.push('\n');
        }
        let entry = if is_section {
            format!("{indent}{name}:")
        } else {
            format!("{indent}{name}: {}", inline(value))
        };
        line(&entry, &comment(&path), text);
        if is_section {
            section(value, &path, text);
        }
    }
}

/// Meaning and, where the set is closed, the choices.
fn comment(path: &str) -> String {
    let Some(key) = docs::key(path) else {
        return String::new();
    };
    match key.form {
        Form::Words(words) if words.len() > 1 => format!("{} ({})", key.meaning, words.join(" | ")),
        Form::WordList(words) => format!("{} (a list of {})", key.meaning, words.join(" | ")),
        Form::WordsOrPatterns(words) => format!("{} ({} | a list)", key.meaning, words.join(" | ")),
        Form::Device => format!("{} (auto | cpu | cuda | cuda:N | metal)", key.meaning),
        _ => key.meaning.to_owned(),
    }
}

/// Appends `entry` and its comment, wrapped into lines of their own where it is long.
fn line(entry: &str, comment: &str, text: &mut String) {
    text.push_str(entry);
    if comment.is_empty() {
        text.push('\n');
        return;
    }
    let column = COMMENT_COLUMN.max(entry.chars().count() + 2);
    let mut at = entry.chars().count();
    let mut used = usize::MAX;
    for word in comment.split(' ') {
        if used != usize::MAX && used + 1 + word.chars().count() > LINE_WIDTH {
            text.push('\n');
            at = 0;
            used = usize::MAX;
        }
        if used == usize::MAX {
            text.push_str(&" ".repeat(column - at));
            text.push('#');
            used = column + 1;
        }
        text.push(' ');
        text.push_str(word);
        used += 1 + word.chars().count();
    }
    text.push('\n');
}

/// A scalar or a list of scalars on one line.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::Sequence(items) => {
            // Inside brackets a plain scalar may not hold commas or brackets, so texts are always quoted there.
            let items: Vec<String> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| inline(item), quoted))
                .collect();
            format!("[{}]", items.join(", "))
        }
        value => {
            let text = serde_yaml::to_string(value).unwrap_or_default();
            let text = text.trim_end();
            match value {
                // `"\n"` alone is written as a block without a line of text, so the raw text decides too.
                Value::String(raw) if text.contains('\n') || raw.contains('\n') => quoted(raw),
                _ => text.to_owned(),
            }
        }
    }
}

/// A text in double quotes; JSON's escapes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
