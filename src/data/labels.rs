//! The classes of a task: names in a fixed order; the place of a name is its index.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::DataError;

/// Class names in order. Without an order of their own, strings are sorted and integers are in numeric order.
///
/// ```
/// use autopeft::data::{LabelValue, Labels};
/// let labels = Labels::from_values(&[LabelValue::Integer(10), LabelValue::Integer(-1)])?;
/// assert_eq!(labels.names(), ["-1", "10"]);
/// assert_eq!(labels.index_of(&LabelValue::Integer(10)), Some(1));
/// # Ok::<(), autopeft::data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Labels {
    names: Vec<String>,
    order: LabelOrder,
}

/// Whose order the classes are in. The list of names does not tell, so it is kept beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelOrder {
    /// One in which no file or checkpoint numbers them, such as that of the alphabet: a number in a file stands for none.
    #[default]
    Unnumbered,
    /// That of a file or checkpoint which numbers its classes: a number in a file stands for the class at its place.
    Numbered,
}

/// A label as written in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelValue {
    /// A number, or a field of a CSV file that is one.
    Integer(i64),
    /// A string, or a boolean by its name.
    Name(String),
}

impl Labels {
    /// The distinct values in order: numeric if all are integers, otherwise by code point.
    ///
    /// # Errors
    /// [`DataError::Labels`] if there are none.
    pub fn from_values<'a>(
        values: impl IntoIterator<Item = &'a LabelValue>,
    ) -> Result<Self, DataError> {
        let names: BTreeSet<String> = values.into_iter().map(ToString::to_string).collect();
        let mut names: Vec<String> = names.into_iter().collect();
        if names.iter().all(|name| integer(name).is_some()) {
            names.sort_by_key(|name| integer(name));
        }
        Self::try_from(names)
    }

    /// The labels of a model's `config.json`, which maps `"0"`, `"1"`, … to names, in its order.
    ///
    /// # Errors
    /// [`DataError::Labels`] if ids have gaps or names repeat.
    pub fn from_id2label(id2label: &Map<String, Value>) -> Result<Self, DataError> {
        let name = |id: usize| {
            id2label
                .get(&id.to_string())
                .and_then(Value::as_str)
                .map(str::to_string)
                .ok_or_else(|| {
                    DataError::Labels(format!(
                        "`id2label` has {} entries but no name for {id}",
                        id2label.len()
                    ))
                })
        };
        let names = (0..id2label.len())
            .map(name)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::try_from(names)?.with_order(LabelOrder::Numbered))
    }

    /// The same names, said to be in this order.
    pub fn with_order(self, order: LabelOrder) -> Self {
        Self { order, ..self }
    }

    /// Whose order the names are in.
    pub fn order(&self) -> LabelOrder {
        self.order
    }

    /// These names, as they are spelled here, in the order of `others`; `None` where the two differ in more than the case
    /// of letters.
    ///
    /// It is a numbered order where these names are numbered so, or are not numbered and `others` are.
    pub fn in_order_of(&self, others: &Self) -> Option<Self> {
        let counterpart = |other: &String| {
            let exact = self.names.iter().find(|name| *name == other);
            let folded = other.to_lowercase();
            let mut alike = (self.names.iter()).filter(|name| name.to_lowercase() == folded);
            exact.or_else(|| alike.next().filter(|_| alike.next().is_none()))
        };
        let names: Option<Vec<String>> = (others.names.iter())
            .map(|other| counterpart(other).cloned())
            .collect();
        let names = names.filter(|names| names.len() == self.len())?;
        let order = match self.order {
            LabelOrder::Numbered if names == self.names => LabelOrder::Numbered,
            LabelOrder::Numbered => LabelOrder::Unnumbered,
            LabelOrder::Unnumbered => others.order,
        };
        Some(Self::try_from(names).ok()?.with_order(order))
    }

    /// Whether these are the numbers 0, 1, … in this order.
    pub fn are_places(&self) -> bool {
        let mut names = self.names.iter().enumerate();
        names.all(|(place, name)| *name == place.to_string())
    }

    /// These labels as the `id2label` of a `config.json`.
    pub fn to_id2label(&self) -> Map<String, Value> {
        let entry = |(id, name): (usize, &String)| (id.to_string(), Value::from(name.as_str()));
        self.names.iter().enumerate().map(entry).collect()
    }

    /// Whether these are the names `LABEL_0`, `LABEL_1`, … that `transformers` makes up.
    pub fn is_placeholder(&self) -> bool {
        self.names
            .iter()
            .enumerate()
            .all(|(id, name)| *name == format!("LABEL_{id}"))
    }

    /// The index of a label: by name; an integer also counts as an index where names are words in a numbered order.
    pub fn index_of(&self, value: &LabelValue) -> Option<usize> {
        let name = value.to_string();
        if let Some(index) = self.names.iter().position(|known| *known == name) {
            return Some(index);
        }
        let LabelValue::Integer(id) = value else {
            return None;
        };
        let has_places = self.order == LabelOrder::Numbered && self.are_words();
        usize::try_from(*id)
            .ok()
            .filter(|id| has_places && *id < self.len())
    }

    /// Whether no name is a number.
    fn are_words(&self) -> bool {
        self.names.iter().all(|name| integer(name).is_none())
    }

    /// The name of a class, if the index is one.
    pub fn name(&self, index: usize) -> Option<&str> {
        self.names.get(index).map(String::as_str)
    }

    /// All names in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of classes.
    #[expect(clippy::len_without_is_empty, reason = "there always is a label")]
    pub fn len(&self) -> usize {
        self.names.len()
    }
}

impl TryFrom<Vec<String>> for Labels {
    type Error = DataError;

    fn try_from(names: Vec<String>) -> Result<Self, DataError> {
        let distinct: BTreeSet<&String> = names.iter().collect();
        if names.is_empty() {
            return Err(DataError::Labels("there are none".into()));
        }
        if distinct.len() < names.len() {
            return Err(DataError::Labels(format!(
                "a name repeats among {}",
                super::error::list(&names)
            )));
        }
        Ok(Self {
            names,
            order: LabelOrder::default(),
        })
    }
}

impl From<Labels> for Vec<String> {
    fn from(labels: Labels) -> Self {
        labels.names
    }
}

impl LabelValue {
    /// A label from a format without types: an integer if it is written as one.
    pub(super) fn from_untyped(text: &str) -> Self {
        integer(text).map_or_else(|| Self::Name(text.into()), Self::Integer)
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The integer a text is, if it is written the one usual way: `7`, not `07` or `+7`.
pub(super) fn integer(text: &str) -> Option<i64> {
    text.parse::<i64>()
        .ok()
        .filter(|value| value.to_string() == text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(names: &[&str]) -> Labels {
        Labels::try_from(
            names
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>(),
        )
        .expect("labels")
    }

    #[test]
    fn strings_are_sorted_and_integers_ordered_by_value() {
        let name = |name: &str| LabelValue::Name(name.into());
        let labels = Labels::from_values(&[name("pos"), name("neg"), name("pos")]).expect("labels");
        assert_eq!(labels.names(), ["neg", "pos"]);
        let labels = Labels::from_values([10, 9, -1, 10].map(LabelValue::Integer).iter());
        assert_eq!(labels.expect("labels").names(), ["-1", "9", "10"]);
        let labels = Labels::from_values(&[name("10"), name("9"), name("07")]).expect("labels");
        assert_eq!(labels.names(), ["07", "10", "9"]);
    }

    #[test]
    fn integers_are_indices_only_where_names_are_words_in_a_numbered_order() {
        // Alphabetical, in which no file has numbered them.
        let labels = words(&["good", "poor"]);
        assert_eq!(labels.index_of(&LabelValue::Integer(1)), None);
        let labels = words(&["neg", "pos"]).with_order(LabelOrder::Numbered);
        assert_eq!(labels.index_of(&LabelValue::Integer(1)), Some(1));
        assert_eq!(labels.index_of(&LabelValue::Integer(2)), None);
        assert_eq!(labels.index_of(&LabelValue::Integer(-1)), None);
        for order in [LabelOrder::Unnumbered, LabelOrder::Numbered] {
            let labels = words(&["1", "2"]).with_order(order);
            assert_eq!(labels.index_of(&LabelValue::Integer(1)), Some(0));
            assert_eq!(labels.index_of(&LabelValue::Integer(0)), None);
        }
    }

    #[test]
    fn names_take_the_order_of_others_that_differ_in_case_alone() {
        let numbered = |names: &[&str]| words(names).with_order(LabelOrder::Numbered);
        let head = numbered(&["ZGood", "poor"]);
        let ordered = words(&["poor", "zgood"]).in_order_of(&head);
        assert_eq!(ordered, Some(numbered(&["zgood", "poor"])));
        // Both number their classes, and otherwise: then a number says nothing.
        let ordered = numbered(&["poor", "zgood"]).in_order_of(&head);
        assert_eq!(ordered, Some(words(&["zgood", "poor"])));
        let same = numbered(&["zgood", "poor"]);
        assert_eq!(same.in_order_of(&head), Some(same));
        for other in [
            &["poor", "good"][..],
            &["poor", "zgood", "so so"],
            &["poor", "Poor"],
        ] {
            assert_eq!(words(other).in_order_of(&head), None, "{other:?}");
        }
        let cases = words(&["A", "a"]);
        assert_eq!(
            cases.in_order_of(&numbered(&["a", "A"])),
            Some(numbered(&["a", "A"]))
        );
        assert!(words(&["0", "1"]).are_places() && !words(&["1", "2"]).are_places());
    }

    #[test]
    fn config_labels_come_back_and_gaps_are_refused() {
        let config = json!({"0": "neg", "1": "pos"});
        let labels = Labels::from_id2label(config.as_object().expect("object")).expect("labels");
        assert_eq!(
            labels,
            words(&["neg", "pos"]).with_order(LabelOrder::Numbered)
        );
        assert_eq!(Value::Object(labels.to_id2label()), config);
        for gap in [
            json!({"0": "a", "2": "b"}),
            json!({}),
            json!({"0": "a", "1": "a"}),
        ] {
            let labels = Labels::from_id2label(gap.as_object().expect("object"));
            assert!(matches!(labels, Err(DataError::Labels(_))), "{gap}");
        }
        assert!(words(&["LABEL_0", "LABEL_1"]).is_placeholder());
        assert!(!labels.is_placeholder());
    }

    #[test]
    fn serde_keeps_order_and_refuses_repeats() {
        let labels = words(&["b", "a"]);
        let text = serde_json::to_string(&labels).expect("json");
        assert_eq!(text, r#"["b","a"]"#);
        assert_eq!(
            serde_json::from_str::<Labels>(&text).expect("labels"),
            labels
        );
        assert!(serde_json::from_str::<Labels>(r#"["a","a"]"#).is_err());
        assert!(serde_json::from_str::<Labels>("[]").is_err());
    }
}
