//! The choice of a BLAS of the system: oneDNN, BLIS, OpenBLAS, MKL or Accelerate, opened at run time.
//!
//! A build with the cargo feature `system-blas` takes the first of [`Library::ALL`] that it finds.
//! [`VARIABLE`] chooses another one: a name, the path of a file, or `none`.

#[cfg(not(feature = "system-blas"))]
mod absent;
#[cfg(feature = "system-blas")]
mod call;
#[cfg(feature = "system-blas")]
mod open;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::OnceLock;

#[cfg(not(feature = "system-blas"))]
pub(crate) use absent::{Blas, find, installed};
#[cfg(feature = "system-blas")]
pub(crate) use {
    call::Blas,
    open::{find, installed},
};

/// The environment variable that chooses the library: `auto`, `none`, `onednn`, `blis`, `openblas`, `mkl`,
/// `accelerate`, or the path of a library.
pub const VARIABLE: &str = "AUTOPEFT_BLAS";

/// A library of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    Accelerate,
    OneDnn,
    Blis,
    OpenBlas,
    Mkl,
}

impl Library {
    /// All, in the order in which they are looked for.
    pub(crate) const ALL: [Self; 5] = [
        Self::Accelerate,
        Self::OneDnn,
        Self::Blis,
        Self::OpenBlas,
        Self::Mkl,
    ];

    /// Its value of [`VARIABLE`].
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accelerate => "accelerate",
            Self::OneDnn => "onednn",
            Self::Blis => "blis",
            Self::OpenBlas => "openblas",
            Self::Mkl => "mkl",
        }
    }
}

/// Why no library can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlasError {
    /// The build has no way to open one.
    #[error("{VARIABLE} is `{asked}`, but this build uses no library of the system")]
    NotBuilt {
        /// The variable's value.
        asked: String,
    },

    /// The variable's value means nothing.
    #[error("{VARIABLE} is `{asked}`, which is neither a library's name nor the path of a file")]
    Unknown {
        /// The variable's value.
        asked: String,
    },

    /// It is not there, or cannot be opened.
    #[error("{what} cannot be opened: {reason}")]
    NotOpened {
        /// The library or the file.
        what: String,
        /// The system's words.
        reason: String,
    },

    /// It has no `f32` product, or a wrong one.
    #[error("`{file}` cannot be used: {reason}")]
    Unusable {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl BlasError {
    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotBuilt { .. } => {
                format!("build with `--features system-blas`, or unset {VARIABLE}")
            }
            Self::Unknown { .. } => {
                let names: Vec<&str> = Library::ALL.map(Library::name).to_vec();
                format!(
                    "use `auto`, `none`, a path, or one of: {}",
                    names.join(", ")
                )
            }
            Self::NotOpened { .. } | Self::Unusable { .. } => format!(
                "install one, for example `apt install libopenblas0-pthread` or `pip install scipy-openblas32`; where it is \
                 not in the system's folders, set {VARIABLE} to its path; `{VARIABLE}=none` computes without"
            ),
        }
    }
}

/// What the variable asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Any,
    Nothing,
    Named(Library),
    File(PathBuf),
}

impl Choice {
    fn parse(value: Option<&OsStr>) -> Result<Self, BlasError> {
        let Some(value) = value else {
            return Ok(Self::Any);
        };
        let text = value.to_string_lossy();
        let library = |library: &Library| library.name().eq_ignore_ascii_case(&text);
        match text.to_ascii_lowercase().as_str() {
            "" | "auto" => return Ok(Self::Any),
            "none" => return Ok(Self::Nothing),
            _ => {}
        }
        if let Some(library) = Library::ALL.into_iter().find(library) {
            return Ok(Self::Named(library));
        }
        let path = PathBuf::from(value);
        if path.components().count() > 1 || path.extension().is_some() {
            Ok(Self::File(path))
        } else {
            let asked = text.into_owned();
            Err(BlasError::Unknown { asked })
        }
    }
}

/// Whether the variable leaves no choice.
pub(crate) fn is_chosen() -> bool {
    let choice = Choice::parse(std::env::var_os(VARIABLE).as_deref());
    choice != Ok(Choice::Any)
}

/// What was asked for, found or not.
fn selected() -> &'static Result<Option<Blas>, BlasError> {
    static SELECTED: OnceLock<Result<Option<Blas>, BlasError>> = OnceLock::new();
    SELECTED.get_or_init(|| find(Choice::parse(std::env::var_os(VARIABLE).as_deref())?))
}

/// The library that computes, if one was found. Without one the crate computes.
pub(crate) fn in_use() -> Option<&'static Blas> {
    selected().as_ref().ok()?.as_ref()
}

/// The same, or why it cannot be had.
pub(crate) fn check() -> Result<Option<&'static Blas>, BlasError> {
    match selected() {
        Ok(blas) => Ok(blas.as_ref()),
        Err(error) => Err(error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_takes_names_paths_and_none_and_nothing_else() {
        let parse = |text: &str| Choice::parse(Some(OsStr::new(text)));
        assert_eq!(Choice::parse(None), Ok(Choice::Any));
        assert_eq!(parse("auto"), Ok(Choice::Any));
        assert_eq!(parse("NONE"), Ok(Choice::Nothing));
        assert_eq!(parse("OpenBLAS"), Ok(Choice::Named(Library::OpenBlas)));
        for path in ["lib/libblis.so.4", "libblis.so"] {
            assert_eq!(parse(path), Ok(Choice::File(path.into())));
        }
        let error = parse("atlas").expect_err("no such library");
        assert!(error.hint().contains("blis, openblas"), "{}", error.hint());
    }
}
