//! Recipes as YAML trees: the defaults, paths into them, and a name for each value in messages.

use serde_yaml::Value;

use super::Recipe;

/// The tree of all keys with their defaults.
pub(super) fn defaults() -> Value {
    serde_yaml::to_value(Recipe::default()).expect("plain structs with text keys always serialize")
}

/// The value at a dotted path.
pub(super) fn get<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(tree, |node, name| node.get(name))
}

/// Puts a value at a dotted path that exists; returns whether it did.
pub(super) fn set(tree: &mut Value, path: &str, value: Value) -> bool {
    match path
        .split('.')
        .try_fold(tree, |node, name| node.get_mut(name))
    {
        Some(slot) => {
            *slot = value;
            true
        }
        None => false,
    }
}

/// The names directly under a path; the empty path is the root.
pub(super) fn children<'a>(tree: &'a Value, path: &str) -> Vec<&'a str> {
    let node = if path.is_empty() {
        Some(tree)
    } else {
        get(tree, path)
    };
    match node {
        Some(Value::Mapping(mapping)) => mapping.keys().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// `prefix.name`, or `name` at the root.
pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// A value as a message shows it.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Sequence(items)
            if items
                .iter()
                .any(|item| matches!(item, Value::Mapping(_) | Value::Sequence(_))) =>
        {
            "a list".to_owned()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Sequence(_) => {
            format!("`{}`", super::write::inline(value))
        }
        Value::String(text) if text.is_empty() => "an empty text".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Tagged(_) => "a tagged value".to_owned(),
    }
}
