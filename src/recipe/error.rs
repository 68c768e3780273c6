//! What can be wrong with a recipe, told all at once.

use std::fmt;
use std::path::PathBuf;

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read the recipe `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither an embedded recipe nor a file.
    #[error("there is no recipe `{name}`")]
    NotFound {
        /// What was asked for.
        name: String,
        /// The embedded recipe with the most similar name.
        nearest: Option<&'static str>,
    },
    /// The text is not a valid recipe; every fault is listed.
    #[error("the recipe `{name}` has {}{}", count(faults.len()), list(faults))]
    Invalid {
        /// File, or name of the embedded recipe.
        name: String,
        /// Every fault, in the order of the file; never empty.
        faults: Vec<Fault>,
    },
    /// An override is not of the form `key=value`.
    #[error("`{text}` is not of the form `key=value`")]
    NotAnOverride {
        /// What was written.
        text: String,
    },
}

impl RecipeError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some(
                "check the path; a result of `autopeft select` is a folder with a `recipe.yaml`"
                    .to_owned(),
            ),
            Self::NotFound {
                nearest: Some(near),
                ..
            } => Some(format!(
                "did you mean `{near}`? `autopeft recipe ls` lists the embedded ones"
            )),
            Self::NotFound { nearest: None, .. } => {
                Some("give the path of a YAML file, or a name from `autopeft recipe ls`".to_owned())
            }
            Self::Invalid { .. } => {
                Some("`autopeft recipe show --docs` lists every key".to_owned())
            }
            Self::NotAnOverride { .. } => {
                Some("write it as in `--set train.learning_rate=5e-4`".to_owned())
            }
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Dotted path of the key; empty for the whole text.
    pub path: String,
    /// Line in the file, counted from 1, where known.
    pub line: Option<usize>,
    /// The flag that gave the value, when it was not the file.
    pub flag: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut places = Vec::new();
        if let Some(line) = self.line {
            places.push(format!("line {line}"));
        }
        if let Some(flag) = &self.flag {
            places.push(format!("`{flag}`"));
        }
        if !self.path.is_empty() {
            places.push(format!("`{}`", self.path));
        }
        if !places.is_empty() {
            write!(f, "{}: ", places.join(", "))?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

fn count(faults: usize) -> String {
    if faults == 1 {
        "one fault".to_owned()
    } else {
        format!("{faults} faults")
    }
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}
