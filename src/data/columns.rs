//! Which columns hold the text, its pair and the label: as named, or by convention.
//!
//! Convention never guesses between two answers: if several columns fit, they are listed and the
//! user chooses.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::DataError;

/// Names of columns of one text, in lower case.
const TEXT: &[&str] = &[
    "text",
    "sentence",
    "content",
    "review",
    "tweet",
    "question",
    "comment",
    "message",
    "utterance",
    "document",
    "query",
];
/// Names of two columns that belong together, in lower case.
const PAIRS: &[(&str, &str)] = &[
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("question", "passage"),
    ("question", "context"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("query", "passage"),
    ("query", "document"),
];
/// Names of label columns, in lower case. The first wins over the others.
const LABEL: &[&str] = &[
    "label",
    "labels",
    "target",
    "class",
    "category",
    "sentiment",
    "intent",
    "gold_label",
];

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The text, or the first text of a pair.
    Text,
    /// The second text of a pair.
    Pair,
    /// The class.
    Label,
    /// What precedes a completion.
    Prompt,
    /// What follows a prompt.
    Completion,
    /// A list of messages.
    Messages,
}

/// Columns named by the user; `None` leaves the choice to convention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnNames {
    /// The text column. If it is named and `pair` is not, rows are single texts.
    pub text: Option<String>,
    /// The column of the second text.
    pub pair: Option<String>,
    /// The label column.
    pub label: Option<String>,
    /// Whether rows are pairs.
    pub pairing: Pairing,
}

/// Whether rows are pairs of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pairing {
    /// As the columns of the file say.
    #[default]
    ByColumns,
    /// They are single texts; a second column of text is left alone.
    Single,
    /// They are pairs.
    Pairs,
}

/// The columns in use, to be shown and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// The text column, or the first one of a pair.
    pub text: String,
    /// The column of the second text, if rows are pairs.
    pub pair: Option<String>,
    /// The label column; `None` where labels were not asked for.
    pub label: Option<String>,
    /// Columns of the file that are not used.
    pub unused: Vec<String>,
}

impl Columns {
    /// Chooses the columns of a file.
    ///
    /// # Errors
    /// Names the role, the columns of the file and the flag to use, if a named column is absent,
    /// no column fits by convention, or several do.
    pub(super) fn choose(
        file: &str,
        columns: &[String],
        names: &ColumnNames,
        with_label: bool,
    ) -> Result<Self, DataError> {
        let label = match (&names.label, with_label) {
            (_, false) => None,
            (Some(name), true) => Some(named(file, columns, name, Role::Label)?),
            (None, true) => Some(label_by_convention(file, columns)?),
        };
        let (text, pair) = match (&names.text, &names.pair) {
            (Some(text), pair) => {
                let text = named(file, columns, text, Role::Text)?;
                let pair = pair
                    .as_ref()
                    .map(|pair| named(file, columns, pair, Role::Pair));
                (text, pair.transpose()?)
            }
            (None, Some(pair)) => {
                let pair = named(file, columns, pair, Role::Pair)?;
                let others: Vec<String> = columns
                    .iter()
                    .filter(|column| **column != pair)
                    .cloned()
                    .collect();
                (first_text(file, &others, columns, &pair)?, Some(pair))
            }
            (None, None) if names.pairing == Pairing::Single => {
                (only_text(file, columns, columns)?, None)
            }
            (None, None) => text_by_convention(file, columns)?,
        };
        match (names.pairing, &pair) {
            (Pairing::Single, Some(pair)) => {
                return Err(DataError::Pairs {
                    file: file.into(),
                    column: pair.clone(),
                });
            }
            (Pairing::Pairs, None) => {
                return Err(DataError::SingleTexts {
                    file: file.into(),
                    columns: columns.into(),
                });
            }
            (Pairing::ByColumns | Pairing::Single | Pairing::Pairs, _) => {}
        }
        different(&text, Role::Text, pair.as_deref(), Role::Pair)?;
        different(&text, Role::Text, label.as_deref(), Role::Label)?;
        if let Some(pair) = &pair {
            different(pair, Role::Pair, label.as_deref(), Role::Label)?;
        }
        let used = [Some(&text), pair.as_ref(), label.as_ref()];
        let unused = columns
            .iter()
            .filter(|column| !used.contains(&Some(*column)))
            .cloned()
            .collect();
        Ok(Self {
            text,
            pair,
            label,
            unused,
        })
    }

    /// These columns as names to ask for in another file of the same make.
    pub fn names(&self) -> ColumnNames {
        ColumnNames {
            text: Some(self.text.clone()),
            pair: self.pair.clone(),
            label: self.label.clone(),
            pairing: Pairing::default(),
        }
    }
}

impl Role {
    /// The flag that names this column.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Text => "--text-column",
            Self::Pair => "--pair-column",
            Self::Label => "--label-column",
            Self::Prompt => "--prompt-column",
            Self::Completion => "--completion-column",
            Self::Messages => "--messages-column",
        }
    }
}

impl fmt::Display for Columns {
    /// What was taken for what, such as ``text from `sentence`, label from `label` ``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text from `{}`", self.text)?;
        if let Some(pair) = &self.pair {
            write!(f, ", pair from `{pair}`")?;
        }
        if let Some(label) = &self.label {
            write!(f, ", label from `{label}`")?;
        }
        Ok(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Pair => "pair",
            Self::Label => "label",
            Self::Prompt => "prompt",
            Self::Completion => "completion",
            Self::Messages => "messages",
        })
    }
}

/// The column of exactly this name.
pub(super) fn named(
    file: &str,
    columns: &[String],
    name: &str,
    role: Role,
) -> Result<String, DataError> {
    if columns.iter().any(|column| column == name) {
        return Ok(name.into());
    }
    let similarity =
        |column: &str| strsim::jaro_winkler(&column.to_lowercase(), &name.to_lowercase());
    let near = columns
        .iter()
        .filter(|column| similarity(column) > 0.8)
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    Err(DataError::ColumnMissing {
        file: file.into(),
        role,
        column: name.into(),
        near: near.cloned(),
        columns: columns.into(),
    })
}

fn label_by_convention(file: &str, columns: &[String]) -> Result<String, DataError> {
    let fitting: Vec<&String> = columns
        .iter()
        .filter(|column| LABEL.contains(&column.to_lowercase().as_str()))
        .collect();
    let plain: Vec<&String> = fitting
        .iter()
        .copied()
        .filter(|column| column.eq_ignore_ascii_case("label"))
        .collect();
    match (plain.as_slice(), fitting.as_slice()) {
        ([label], _) | ([], [label]) => Ok((*label).clone()),
        (_, []) => Err(DataError::NoColumn {
            file: file.into(),
            role: Role::Label,
            columns: columns.into(),
        }),
        _ => Err(ambiguous(
            file,
            Role::Label,
            fitting.into_iter().cloned().collect(),
            columns,
        )),
    }
}

/// One pair, or one text that belongs to no pair.
fn text_by_convention(
    file: &str,
    columns: &[String],
) -> Result<(String, Option<String>), DataError> {
    let find = |name: &str| columns.iter().find(|column| column.to_lowercase() == name);
    let pairs: Vec<(&String, &String)> = PAIRS
        .iter()
        .filter_map(|(first, second)| Some((find(first)?, find(second)?)))
        .collect();
    let texts: Vec<&String> = columns
        .iter()
        .filter(|column| TEXT.contains(&column.to_lowercase().as_str()))
        .filter(|column| {
            pairs
                .iter()
                .all(|(first, second)| first != column && second != column)
        })
        .collect();
    match (pairs.as_slice(), texts.as_slice()) {
        ([(first, second)], []) => Ok(((*first).clone(), Some((*second).clone()))),
        ([], [text]) => Ok(((*text).clone(), None)),
        ([], []) => Err(DataError::NoColumn {
            file: file.into(),
            role: Role::Text,
            columns: columns.into(),
        }),
        (pairs, texts) => {
            let pairs = pairs
                .iter()
                .map(|(first, second)| format!("{first} + {second}"));
            let candidates = pairs
                .chain(texts.iter().map(|text| (*text).clone()))
                .collect();
            Err(ambiguous(file, Role::Text, candidates, columns))
        }
    }
}

/// The only text among these of a file's columns, whether or not it could be one of a pair.
fn only_text(file: &str, among: &[String], columns: &[String]) -> Result<String, DataError> {
    let is_text = |column: &&String| TEXT.contains(&column.to_lowercase().as_str());
    let texts: Vec<String> = among.iter().filter(is_text).cloned().collect();
    match texts.as_slice() {
        [text] => Ok(text.clone()),
        [] => Err(DataError::NoColumn {
            file: file.into(),
            role: Role::Text,
            columns: columns.into(),
        }),
        _ => Err(ambiguous(file, Role::Text, texts, columns)),
    }
}

/// The first text where the second is named: its known partner, or the only text there is.
fn first_text(
    file: &str,
    others: &[String],
    columns: &[String],
    pair: &str,
) -> Result<String, DataError> {
    let find = |name: &str| others.iter().find(|column| column.to_lowercase() == name);
    let partners: Vec<&String> = PAIRS
        .iter()
        .filter(|(_, second)| *second == pair.to_lowercase())
        .filter_map(|(first, _)| find(first))
        .collect();
    if let [partner] = partners.as_slice() {
        return Ok((*partner).clone());
    }
    only_text(file, others, columns)
}

pub(super) fn ambiguous(
    file: &str,
    role: Role,
    candidates: Vec<String>,
    columns: &[String],
) -> DataError {
    DataError::AmbiguousColumn {
        file: file.into(),
        role,
        candidates,
        columns: columns.into(),
    }
}

fn different(
    column: &str,
    first: Role,
    other: Option<&str>,
    second: Role,
) -> Result<(), DataError> {
    if other == Some(column) {
        return Err(DataError::SameColumn {
            column: column.into(),
            first,
            second,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(columns: &str, names: &ColumnNames) -> Result<Columns, DataError> {
        let columns: Vec<String> = columns.split(' ').map(str::to_string).collect();
        Columns::choose("f.csv", &columns, names, true)
    }

    fn chosen(columns: &str) -> (String, Option<String>, Option<String>) {
        let columns = choose(columns, &ColumnNames::default()).expect("convention decides");
        (columns.text, columns.pair, columns.label)
    }

    fn names(text: &str, pair: &str, label: &str) -> ColumnNames {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_string());
        ColumnNames {
            text: name(text),
            pair: name(pair),
            label: name(label),
            pairing: Pairing::ByColumns,
        }
    }

    #[test]
    fn conventions_of_known_data_sets_are_found() {
        for (columns, text, pair) in [
            ("sentence label idx", "sentence", ""),
            ("text label label_text", "text", ""),
            ("sentence1 sentence2 label idx", "sentence1", "sentence2"),
            ("premise hypothesis label", "premise", "hypothesis"),
            ("idx question sentence label", "question", "sentence"),
            ("question1 question2 label", "question1", "question2"),
            ("question label", "question", ""),
            ("label title content", "content", ""),
            ("Label Text", "Text", ""),
        ] {
            let (found, found_pair, label) = chosen(columns);
            assert_eq!(found, text, "{columns}");
            assert_eq!(found_pair.unwrap_or_default(), pair, "{columns}");
            assert!(label.is_some_and(|label| label.eq_ignore_ascii_case("label")));
        }
    }

    #[test]
    fn unused_columns_are_told() {
        let columns = choose("idx text label", &ColumnNames::default()).expect("columns");
        assert_eq!(columns.unused, ["idx"]);
        assert_eq!(columns.names(), names("text", "", "label"));
    }

    #[test]
    fn several_candidates_are_listed_with_the_flag() {
        let error = choose("text tweet label", &ColumnNames::default()).expect_err("ambiguous");
        assert!(error.to_string().contains("`text`, `tweet`"), "{error}");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("--text-column"))
        );

        let error = choose("text target class", &ColumnNames::default()).expect_err("ambiguous");
        assert!(
            error.to_string().contains("any of `target`, `class`"),
            "{error}"
        );
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("--label-column"))
        );
    }

    #[test]
    fn absent_columns_are_told_with_those_there_are() {
        let error = choose("body label", &ColumnNames::default()).expect_err("no text");
        assert_eq!(
            error.to_string(),
            "no text column recognised in `f.csv`; its columns are `body`, `label`"
        );
        let error = choose("text stars", &ColumnNames::default()).expect_err("no label");
        assert!(error.to_string().starts_with("no label column"), "{error}");
        let error = choose("text label", &names("texts", "", "")).expect_err("no such column");
        assert!(error.to_string().contains("nearest: `text`"), "{error}");
    }

    #[test]
    fn named_columns_win_over_convention() {
        let columns = choose(
            "sentence1 sentence2 stars label",
            &names("sentence2", "", "stars"),
        )
        .expect("columns");
        assert_eq!((columns.text.as_str(), columns.pair), ("sentence2", None));
        assert_eq!(columns.label.as_deref(), Some("stars"));
        let columns = choose("text reply label", &names("", "reply", "")).expect("columns");
        assert_eq!(
            (columns.text.as_str(), columns.pair.as_deref()),
            ("text", Some("reply"))
        );
    }

    #[test]
    fn rows_are_single_or_pairs_where_that_is_known() {
        let of = |pairing, columns, names: ColumnNames| {
            choose(columns, &ColumnNames { pairing, ..names })
                .map(|columns| (columns.text, columns.pair))
        };
        let none = ColumnNames::default;
        for columns in ["text text_pair label", "text context label"] {
            let single = of(Pairing::Single, columns, none()).expect("single");
            assert_eq!(single, ("text".to_string(), None), "{columns}");
        }
        let pair = of(Pairing::Pairs, "text text_pair label", none()).expect("pair");
        assert_eq!(pair.1.as_deref(), Some("text_pair"));
        // Either could be the text that the others were like.
        let error = of(Pairing::Single, "question sentence label", none()).expect_err("two texts");
        assert!(
            matches!(error, DataError::AmbiguousColumn { .. }),
            "{error}"
        );
        for (pairing, names, expected, hint) in [
            (
                Pairing::Pairs,
                none(),
                "`f.csv` has single texts",
                "--pair-column",
            ),
            (
                Pairing::Pairs,
                names("text", "", ""),
                "`f.csv` has single texts",
                "--pair-column",
            ),
            (
                Pairing::Single,
                names("", "other", ""),
                "`other` makes pairs",
                "leave out",
            ),
        ] {
            let error = of(pairing, "text other label", names).expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint().is_some_and(|text| text.contains(hint)));
        }
    }

    #[test]
    fn one_column_cannot_have_two_roles() {
        let error = choose("text label", &names("label", "", "")).expect_err("same");
        assert!(matches!(error, DataError::SameColumn { .. }));
    }
}
