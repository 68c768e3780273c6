//! What can be wrong with training data, and what to do about it.

use std::{fmt, path::PathBuf};

use super::{columns::Role, labels, rows::BadRows};

/// A fault in the data, its files, or the way they are asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file could not be opened or read.
    #[error("cannot read data file `{}`: {source}", path.display())]
    Read {
        /// The file asked for.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file's extension names no format that can be read.
    #[error(
        "data file `{}` has {}, which names no known format",
        path.display(),
        extension(found.as_deref())
    )]
    Extension {
        /// The file asked for.
        path: PathBuf,
        /// Its extension, if it has one.
        found: Option<String>,
    },
    /// The file starts with the mark of UTF-16.
    #[error("`{file}` is encoded as UTF-16, not UTF-8")]
    Utf16 {
        /// The file.
        file: String,
    },
    /// The file has no content.
    #[error("`{file}` is empty")]
    Empty {
        /// The file.
        file: String,
    },
    /// The file has a header and nothing below it.
    #[error("`{file}` has columns ({}) but no rows", list(columns))]
    NoRows {
        /// The file.
        file: String,
        /// The columns of its header.
        columns: Vec<String>,
    },
    /// The file is one JSON array, not one object a line.
    #[error("`{file}` is one JSON array, not JSON lines")]
    JsonArray {
        /// The file.
        file: String,
    },
    /// Some rows cannot be used, and skipping them was not asked for.
    #[error("{0}")]
    BadRows(BadRows),
    /// Skipping bad rows was asked for, and no row was left.
    #[error("no usable row is left: {0}")]
    AllRowsBad(BadRows),
    /// The header names one column twice.
    #[error("the header of `{file}` names column `{column}` twice")]
    DuplicateColumn {
        /// The file.
        file: String,
        /// The repeated name.
        column: String,
    },
    /// A column that was asked for by name is not in the file.
    #[error(
        "`{file}` has no column `{column}`{}; its columns are {}",
        nearest(near.as_deref()),
        list(columns)
    )]
    ColumnMissing {
        /// The file.
        file: String,
        /// What the column is for.
        role: Role,
        /// The name asked for.
        column: String,
        /// The most similar column there is.
        near: Option<String>,
        /// The columns of the file.
        columns: Vec<String>,
    },
    /// No column has a name that is known for this role.
    #[error(
        "no {role} column recognised in `{file}`; its columns are {}",
        list(columns)
    )]
    NoColumn {
        /// The file.
        file: String,
        /// What the column is for.
        role: Role,
        /// The columns of the file.
        columns: Vec<String>,
    },
    /// More than one choice of columns fits this role.
    #[error(
        "the {role} column of `{file}` could be any of {}; its columns are {}",
        list(candidates),
        list(columns)
    )]
    AmbiguousColumn {
        /// The file.
        file: String,
        /// What the column is for.
        role: Role,
        /// The choices; a pair is written `a + b`.
        candidates: Vec<String>,
        /// The columns of the file.
        columns: Vec<String>,
    },
    /// One column was asked for in two roles.
    #[error("column `{column}` is asked for both as {first} and as {second} column")]
    SameColumn {
        /// The column.
        column: String,
        /// One role.
        first: Role,
        /// The other role.
        second: Role,
    },
    /// Pairs of texts are needed, as what a result was trained on, and the rows are single texts.
    #[error(
        "`{file}` has single texts where pairs of texts are needed; its columns are {}",
        list(columns)
    )]
    SingleTexts {
        /// The file.
        file: String,
        /// The columns of the file.
        columns: Vec<String>,
    },
    /// Single texts are needed, as what a result was trained on, and pairs were asked for.
    #[error("column `{column}` makes pairs of the rows of `{file}`, where single texts are needed")]
    Pairs {
        /// The file.
        file: String,
        /// The column of the second text.
        column: String,
    },
    /// A Parquet column holds something that is neither text nor a label.
    #[error("column `{column}` of `{file}` holds {found}; text, integers or booleans are needed")]
    ColumnType {
        /// The file.
        file: String,
        /// The column.
        column: String,
        /// Its Parquet type.
        found: String,
    },
    /// The Parquet reader refused the file.
    #[error("cannot read `{file}` as Parquet{}: {message}", at_row(*row))]
    Parquet {
        /// The file.
        file: String,
        /// The row, counted from 1, if the fault is in a row.
        row: Option<usize>,
        /// The reader's reason.
        message: String,
    },
    /// Every row has the same label: there is nothing to learn.
    #[error(
        "all {rows} rows of `{file}` have the label `{label}`; training needs at least two classes"
    )]
    OneClass {
        /// The file.
        file: String,
        /// The only label.
        label: String,
        /// The number of rows.
        rows: usize,
    },
    /// Labels that the training data (or the model) does not know.
    #[error(
        "{unit} {line} of `{file}` has the label `{label}`, \
         which is not one of the known labels ({}){}",
        list(known),
        others(*count)
    )]
    UnseenLabel {
        /// The file.
        file: String,
        /// `line`, or `row` for formats without lines.
        unit: &'static str,
        /// The first such line.
        line: usize,
        /// Its label.
        label: String,
        /// Rows with an unknown label, in all.
        count: usize,
        /// The known labels.
        known: Vec<String>,
    },
    /// A list of labels is empty, repeats a name, or has a gap in its ids.
    #[error("labels are not usable: {0}")]
    Labels(String),
    /// The share to cut off for validation is not between 0 and 1.
    #[error("validation share {0} is not between 0 and 1")]
    ValidationShare(f64),
    /// No class has two rows, so none can be held out.
    #[error(
        "`{file}` has no class with two rows ({rows} rows, {classes} classes), \
         so no validation rows can be cut off"
    )]
    TooFewRows {
        /// The file.
        file: String,
        /// The number of rows.
        rows: usize,
        /// The number of classes.
        classes: usize,
    },
    /// The limit on rows is smaller than the number of classes.
    #[error(
        "at most {max_rows} rows were asked for, \
         but `{file}` has {classes} classes and each needs a row"
    )]
    MaxRows {
        /// The file.
        file: String,
        /// The limit asked for.
        max_rows: usize,
        /// The number of classes.
        classes: usize,
    },
    /// The length limit leaves no room for text beside the special tokens.
    #[error(
        "a maximum length of {max_length} tokens \
         leaves no room for text beside {special} special tokens"
    )]
    MaxLength {
        /// The limit asked for, in tokens.
        max_length: usize,
        /// The special tokens the tokenizer adds.
        special: usize,
    },
    /// The tokenizer refused a row.
    #[error("cannot tokenize the text of row {line}: {message}")]
    Tokenize {
        /// The line (or row) of the text in its file.
        line: usize,
        /// The tokenizer's reason.
        message: String,
    },
    /// No row has a token to learn within the limit.
    #[error("within {max_length} tokens none of the {rows} rows has a token to learn")]
    NothingLearned {
        /// The rows.
        rows: usize,
        /// The limit, in tokens.
        max_length: usize,
    },
    /// Rows without a target, or with those of another task, where they are needed.
    #[error("the rows have no targets of this task")]
    NoTargets,
    /// A batch size of zero.
    #[error("the batch size must be at least 1")]
    BatchSize,
    /// There is no row to make batches of.
    #[error("there are no rows to make batches of")]
    NoBatches,
    /// A row number that the data do not have.
    #[error("row number {row} was asked for, but there are {rows} rows, counted from 0")]
    NoSuchRow {
        /// The row number asked for.
        row: usize,
        /// The number of rows.
        rows: usize,
    },
    /// A saved position does not fit the data.
    #[error("saved position {position} lies behind the {batches} batches of an epoch")]
    Resume {
        /// The saved position, in batches.
        position: usize,
        /// The batches of one epoch.
        batches: usize,
    },
    /// A tensor could not be made on the device.
    #[error("cannot make the tensors of a batch of {rows} rows × {length} tokens: {source}")]
    Tensor {
        /// Rows of the batch.
        rows: usize,
        /// Padded length, in tokens.
        length: usize,
        /// candle's reason.
        source: candle_core::Error,
    },
}

impl DataError {
    /// What to do about it, in one sentence.
    pub fn hint(&self) -> Option<String> {
        let fixed = match self {
            Self::ColumnMissing { role, .. } | Self::AmbiguousColumn { role, .. } => {
                return Some(format!("name one of the columns with `{}`", role.flag()));
            }
            Self::NoColumn { role, .. } => {
                let flag = role.flag();
                return Some(format!(
                    "name one of the columns with `{flag}`; \
                     if these are not column names, the file lacks its header"
                ));
            }
            Self::MaxRows { classes, .. } => {
                return Some(format!("ask for at least {} rows", 2 * classes));
            }
            Self::MaxLength { special, .. } => {
                return Some(format!("use a maximum length of {} or more", special + 2));
            }
            Self::Read { .. } => "check the path, and name a file, not its folder",
            Self::Extension { found, .. } => match found.as_deref() {
                Some("gz" | "zst" | "bz2" | "xz" | "zip") => {
                    "unpack the file first; known are .jsonl, .csv, .tsv and .parquet"
                }
                _ => {
                    "known are .jsonl (also .ndjson, .json), .csv, .tsv, .parquet, \
                     and .txt for texts without labels"
                }
            },
            Self::Utf16 { .. } => "convert it with `iconv -f UTF-16 -t UTF-8`",
            Self::Empty { .. } | Self::NoRows { .. } => "give a file with rows",
            Self::JsonArray { .. } => {
                "write one JSON object a line, for example with `jq -c '.[]'`"
            }
            Self::NothingLearned { .. } => {
                "prompts may be longer than the limit: raise `task.max_length`"
            }
            Self::BadRows(_) => {
                "correct the rows, or leave them out (counted and reported) \
                 with `--skip-bad-rows`"
            }
            Self::AllRowsBad(_) => {
                "check that the columns are the right ones and the format fits the extension"
            }
            Self::DuplicateColumn { .. } => "rename one of the two columns",
            Self::SameColumn { .. } => "name different columns",
            Self::SingleTexts { .. } => {
                "give a file with both texts by `--data`, and name the second one's column \
                 with `--pair-column`"
            }
            Self::Pairs { .. } => "leave out `--pair-column`",
            Self::ColumnType { .. } => "name another column, or convert this one",
            Self::Parquet { .. } => {
                "the file may be cut short or use a feature that is not supported; \
                 write it anew, or convert it to JSON lines"
            }
            Self::OneClass { .. } => {
                "check the label column; a file sorted by label may have been cut"
            }
            Self::UnseenLabel { label, .. } if label == "-1" => {
                "-1 often marks rows without a label, as in the test files of GLUE: \
                 use `predict` for them"
            }
            Self::UnseenLabel { label, known, .. }
                if labels::integer(label).is_some()
                    && known.iter().all(|name| labels::integer(name).is_none()) =>
            {
                "the known labels are names, which no file or checkpoint numbers: \
                 write the names of the labels in place of numbers"
            }
            Self::UnseenLabel { .. } => {
                "correct the label, or add rows of that class to the training data"
            }
            Self::Labels(_) => "labels need unique names, numbered from 0 without gaps",
            Self::ValidationShare(_) => "0.1 holds out a tenth of the rows",
            Self::TooFewRows { .. } => {
                "add rows or give a validation file; \
                 if every row has its own label, another column is the label"
            }
            Self::Resume { .. } => {
                "data or batch size changed since the position was saved; start anew"
            }
            Self::Tensor { .. } => "use a smaller batch size or maximum length if memory is short",
            Self::NoTargets
            | Self::Tokenize { .. }
            | Self::BatchSize
            | Self::NoBatches
            | Self::NoSuchRow { .. } => {
                return None;
            }
        };
        Some(fixed.into())
    }
}

/// Names in backticks, the first 20 of them.
pub(crate) fn list(names: &[String]) -> String {
    struct Name<'a>(&'a str);
    impl fmt::Display for Name<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut chars = self.0.chars();
            let short: String = chars.by_ref().take(60).collect();
            let more = if chars.next().is_some() { "…" } else { "" };
            write!(f, "`{short}{more}`")
        }
    }
    const SHOWN: usize = 20;
    let mut text: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| Name(name).to_string())
        .collect();
    if names.len() > SHOWN {
        text.push(format!("and {} more", names.len() - SHOWN));
    }
    text.join(", ")
}

fn extension(found: Option<&str>) -> String {
    found.map_or_else(
        || "no extension".into(),
        |found| format!("the extension `{found}`"),
    )
}

fn nearest(near: Option<&str>) -> String {
    near.map(|near| format!(" (nearest: `{near}`)"))
        .unwrap_or_default()
}

fn at_row(row: Option<usize>) -> String {
    row.map(|row| format!(" at row {row}")).unwrap_or_default()
}

fn others(count: usize) -> String {
    if count > 1 {
        format!("; {count} rows have unknown labels")
    } else {
        String::new()
    }
}
