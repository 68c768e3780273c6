//! Where data come from: a file, whose extension names the format, or bytes in memory.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
};

use super::DataError;

/// One input of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file; its extension names the format.
    File(PathBuf),
    /// Bytes at hand: data embedded in the program, or standard input.
    Memory {
        /// What messages call it.
        name: String,
        /// How the bytes are to be read.
        format: Format,
        /// The content.
        bytes: Cow<'static, [u8]>,
    },
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// Comma-separated values with a header line, RFC 4180.
    Csv,
    /// Tab-separated values with a header line, quoted or not.
    Tsv,
    /// Apache Parquet.
    Parquet,
    /// Plain text, one text a line, in a column named `text`.
    Lines,
}

impl Source {
    /// Bytes that are part of the program, such as the quickstart's data.
    pub fn embedded(name: &str, format: Format, bytes: &'static [u8]) -> Self {
        Self::Memory {
            name: name.into(),
            format,
            bytes: Cow::Borrowed(bytes),
        }
    }

    /// What messages call this source: the path as given, or the name.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Memory { name, .. } => name.clone(),
        }
    }

    /// The format; of a file by its extension (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`,
    /// `.parquet`, `.txt`).
    ///
    /// # Errors
    /// [`DataError::Extension`] if the extension is missing or unknown.
    pub fn format(&self) -> Result<Format, DataError> {
        let path = match self {
            Self::File(path) => path,
            Self::Memory { format, .. } => return Ok(*format),
        };
        let found = path
            .extension()
            .map(|found| found.to_string_lossy().to_lowercase());
        match found.as_deref() {
            Some("jsonl" | "ndjson" | "json") => Ok(Format::JsonLines),
            Some("csv") => Ok(Format::Csv),
            Some("tsv") => Ok(Format::Tsv),
            Some("parquet") => Ok(Format::Parquet),
            Some("txt") => Ok(Format::Lines),
            _ => Err(DataError::Extension {
                path: path.clone(),
                found,
            }),
        }
    }

    /// The content, without a byte order mark.
    pub(super) fn read(&self) -> Result<Cow<'_, [u8]>, DataError> {
        const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";
        let bytes = match self {
            Self::File(path) => Cow::Owned(fs::read(path).map_err(|source| DataError::Read {
                path: path.clone(),
                source,
            })?),
            Self::Memory { bytes, .. } => Cow::Borrowed(bytes.as_ref()),
        };
        if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
            return Err(DataError::Utf16 { file: self.name() });
        }
        Ok(match bytes {
            Cow::Owned(mut bytes) if bytes.starts_with(UTF8_MARK) => {
                bytes.drain(..UTF8_MARK.len());
                Cow::Owned(bytes)
            }
            Cow::Borrowed(bytes) => Cow::Borrowed(bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes)),
            owned => owned,
        })
    }
}

impl Format {
    /// What the number in a message counts.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::JsonLines | Self::Csv | Self::Tsv | Self::Lines => "line",
            Self::Parquet => "row",
        }
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_names_the_format_in_any_case() {
        for (name, format) in [
            ("a.jsonl", Format::JsonLines),
            ("a.NDJSON", Format::JsonLines),
            ("a.b/c.csv", Format::Csv),
            ("a.TSV", Format::Tsv),
            ("a.parquet", Format::Parquet),
            ("a.txt", Format::Lines),
        ] {
            assert_eq!(
                Source::from(Path::new(name)).format().ok(),
                Some(format),
                "{name}"
            );
        }
    }

    #[test]
    fn unknown_or_missing_extension_is_refused_with_the_known_ones() {
        for name in ["train", "train.xlsx", "train.jsonl.gz"] {
            let error = Source::from(Path::new(name))
                .format()
                .expect_err("no such format");
            assert!(matches!(error, DataError::Extension { .. }));
            assert!(error.to_string().contains(name), "{error}");
            assert!(
                error.hint().is_some_and(|hint| hint.contains(".jsonl")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn utf16_is_named() {
        let source = Source::embedded("wide", Format::Csv, b"\xFF\xFEt\0");
        assert!(matches!(source.read(), Err(DataError::Utf16 { .. })));
    }
}
