//! Lays a recipe text and overrides over the defaults, and keeps who set which key.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::docs::{self, Form};
use super::error::Fault;
use super::{Recipe, locate, suggest, tree};

/// Who set a key. A later layer has the last word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Nobody: the default.
    Default,
    /// The recipe text.
    Text,
    /// A flag, written as typed.
    Flag(String),
}

impl Origin {
    /// Whether `self` is a later layer than `other`, so that it decides between two keys that exclude each other.
    pub(super) fn overrules(&self, other: &Self) -> bool {
        self.layer() > other.layer()
    }

    fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Text => 1,
            Self::Flag(_) => 2,
        }
    }
}

/// One key set from outside the recipe's text.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    path: String,
    value: Value,
    /// The value as typed, taken as text where its YAML reading does not fit the key (`--set data.label_column=1`).
    text: Option<String>,
    flag: String,
}

impl Override {
    /// A key set by a flag of its own. `flag` is shown in messages, as in `--budget`.
    pub fn new(path: &str, value: impl Into<Value>, flag: &str) -> Self {
        Self {
            path: path.to_owned(),
            value: value.into(),
            text: None,
            flag: flag.to_owned(),
        }
    }

    /// A key set by a flag of its own, whose value is YAML as typed, or plain text where that does not fit the key.
    pub fn typed(path: &str, text: &str, flag: &str) -> Self {
        let value = serde_yaml::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        Self {
            path: path.to_owned(),
            value,
            text: Some(text.to_owned()),
            flag: flag.to_owned(),
        }
    }

    /// The dotted path it sets.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What was typed, as in `--budget 0.3%`.
    pub fn flag(&self) -> &str {
        &self.flag
    }

    /// The value it sets.
    pub fn value(&self) -> &Value {
        &self.value
    }
}

impl std::str::FromStr for Override {
    type Err = super::RecipeError;

    /// Reads `a.b=c`, where `c` is YAML.
    fn from_str(text: &str) -> Result<Self, super::RecipeError> {
        let not_an_override = || super::RecipeError::NotAnOverride {
            text: text.to_owned(),
        };
        let (path, raw) = text.split_once('=').ok_or_else(not_an_override)?;
        let (path, raw) = (path.trim(), raw.trim());
        if path.is_empty() {
            return Err(not_an_override());
        }
        Ok(Self::typed(path, raw, &format!("--set {text}")))
    }
}

/// The tree under construction.
pub(super) struct Layers<'a> {
    text: &'a str,
    schema: Value,
    tree: Value,
    origins: BTreeMap<String, Origin>,
    faults: Vec<Fault>,
}

impl<'a> Layers<'a> {
    /// The defaults with `text` over them.
    pub(super) fn new(text: &'a str) -> Self {
        let schema = tree::defaults();
        let mut layers = Self {
            text,
            tree: schema.clone(),
            schema,
            origins: BTreeMap::new(),
            faults: Vec::new(),
        };
        match parse(text) {
            Ok(value) => layers.lay(&value, "", &Origin::Text),
            Err(fault) => layers.faults.push(fault),
        }
        layers
    }

    /// Lays one override on top.
    pub(super) fn set(&mut self, change: &Override) {
        let origin = Origin::Flag(change.flag.clone());
        let mut prefix = String::new();
        for name in change.path.split('.') {
            let siblings = tree::children(&self.schema, &prefix);
            if !siblings.contains(&name) {
                let hint = if siblings.is_empty() {
                    format!("`{prefix}` is a value, not a section")
                } else {
                    suggest::for_key(&prefix, name, &siblings)
                };
                self.fault(&change.path, &origin, "unknown key".to_owned(), Some(hint));
                return;
            }
            prefix = tree::join(&prefix, name);
        }
        let as_text = change.text.as_ref().map(|text| Value::String(text.clone()));
        match as_text {
            Some(text)
                if !self.fits(&change.path, &change.value) && self.fits(&change.path, &text) =>
            {
                self.lay(&text, &change.path, &origin);
            }
            _ => self.lay(&change.value, &change.path, &origin),
        }
    }

    /// Who set the key.
    pub(super) fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&Origin::Default)
    }

    /// Notes a fault of the key, with the place it was set.
    pub(super) fn fault(
        &mut self,
        path: &str,
        origin: &Origin,
        message: String,
        hint: Option<String>,
    ) {
        let (line, flag) = match origin {
            Origin::Default => (None, None),
            Origin::Text => (locate::line_of(self.text, path), None),
            Origin::Flag(flag) => (None, Some(flag.clone())),
        };
        self.faults.push(Fault {
            path: path.to_owned(),
            line,
            flag,
            message,
            hint,
        });
    }

    /// Whether a fault of this very key is noted already.
    pub(super) fn has_fault(&self, path: &str) -> bool {
        self.faults.iter().any(|fault| fault.path == path)
    }

    /// The recipe as far as its values have the right form; keys that have not are at their defaults.
    pub(super) fn recipe(&self) -> Recipe {
        serde_yaml::from_value(self.tree.clone())
            .expect("every value was tried alone before it was put into the tree")
    }

    /// All faults: those of the file by line, then those of flags in their order.
    pub(super) fn into_faults(mut self) -> Vec<Fault> {
        self.faults
            .sort_by_key(|fault| (fault.flag.is_some(), fault.line.unwrap_or(usize::MAX)));
        self.faults
    }

    /// Lays a value over the key or section at `path`.
    fn lay(&mut self, value: &Value, path: &str, origin: &Origin) {
        let is_section =
            path.is_empty() || matches!(tree::get(&self.schema, path), Some(Value::Mapping(_)));
        match value {
            _ if !is_section => self.lay_leaf(value, path, origin),
            // A section whose keys are all commented out reads as null.
            Value::Null => {}
            Value::Mapping(mapping) => {
                for (name, value) in mapping {
                    let name = name
                        .as_str()
                        .map_or_else(|| super::write::inline(name), str::to_owned);
                    let child = tree::join(path, &name);
                    let siblings = tree::children(&self.schema, path);
                    if siblings.contains(&name.as_str()) {
                        self.lay(value, &child, origin);
                    } else {
                        let hint = suggest::for_key(path, &name, &siblings);
                        self.fault(&child, origin, "unknown key".to_owned(), Some(hint));
                    }
                }
            }
            other => {
                let message = format!(
                    "expected a mapping of keys, found {}",
                    tree::describe(other)
                );
                self.fault(path, origin, message, None);
            }
        }
    }

    fn lay_leaf(&mut self, value: &Value, path: &str, origin: &Origin) {
        if self.fits(path, value) {
            tree::set(&mut self.tree, path, value.clone());
            self.origins.insert(path.to_owned(), origin.clone());
            return;
        }
        let form = docs::key(path).map_or(Form::Text, |key| key.form);
        let hint = value
            .as_str()
            .and_then(|word| suggest::nearest(word, form.words().iter().copied()));
        let hint = hint.map(|word| match form {
            Form::WordList(_) => format!("did you mean `[{word}]`?"),
            _ => format!("did you mean `{word}`?"),
        });
        self.fault(
            path,
            origin,
            format!("expected {form}, found {}", tree::describe(value)),
            hint,
        );
    }

    /// Whether the recipe still deserializes with this one value changed.
    fn fits(&self, path: &str, value: &Value) -> bool {
        let mut tree = self.schema.clone();
        tree::set(&mut tree, path, value.clone()) && serde_yaml::from_value::<Recipe>(tree).is_ok()
    }
}

/// The text as a tree, merge keys applied.
fn parse(text: &str) -> Result<Value, Fault> {
    let parsed = serde_yaml::from_str::<Value>(text).and_then(|mut value| {
        value.apply_merge()?;
        Ok(value)
    });
    parsed.map_err(|error| {
        // The message repeats the position at its end; it has a field of its own here.
        let message = error.to_string();
        let message = message
            .split(" at line ")
            .next()
            .unwrap_or(&message)
            .to_owned();
        Fault {
            path: String::new(),
            line: error.location().map(|location| location.line()),
            flag: None,
            message,
            hint: None,
        }
    })
}
