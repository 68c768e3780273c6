//! Loads a training set with its validation rows, or the rows of one file for a known task.

use std::collections::HashSet;

use super::{
    DataError,
    columns::{ColumnNames, Columns},
    labels::{LabelOrder, LabelValue, Labels},
    rows::{self, BadRows, LabelKind, RawLabel, Row},
    source::Source,
    split,
    table::Table,
    target::Target,
};

/// Which data to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSpec {
    /// The training rows.
    pub train: Source,
    /// The validation rows; `None` cuts them off from the training rows.
    pub validation: Option<Source>,
    /// The share of rows to cut off, above 0 and below 1. Not used with a validation source.
    pub validation_share: f64,
    /// Columns named by the user.
    pub columns: ColumnNames,
    /// What the label column holds.
    pub kind: LabelKind,
    /// The classes if they are known, such as those of a trained model; `None` learns them.
    pub labels: Option<Labels>,
    /// The labels of the outputs that the model has; their order is taken where the rows have the same ones.
    pub outputs: Option<Labels>,
    /// Leave out rows that cannot be used, and count them, instead of refusing the file.
    pub skip_bad_rows: bool,
    /// Use at most this many rows of the training source (before validation rows are cut off).
    pub max_rows: Option<usize>,
    /// Decides the split and the subset.
    pub seed: u64,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The text, or the first of two.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The index of the class in [`Labels`], the labels it has, or its numbers; `None` in unlabelled data.
    pub target: Option<Target>,
    /// Where it stands in its file: line, or row of a Parquet file, counted from 1.
    pub line: usize,
}

impl Example {
    /// The index of the class in [`Labels`], where the row has one.
    pub fn class(&self) -> Option<usize> {
        match &self.target {
            Some(Target::Class(class)) => Some(*class as usize),
            _ => None,
        }
    }
}

/// Where validation rows came from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Validation {
    /// They were given.
    Given,
    /// This share of the training rows was cut off.
    CutOff(f64),
}

/// A training set, and what there is to tell about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Rows to train on, in the order of the file.
    pub train: Vec<Example>,
    /// Rows to measure on, in the order of the file.
    pub validation: Vec<Example>,
    /// Where they came from.
    pub validation_from: Validation,
    /// The classes.
    pub labels: Labels,
    /// The columns in use.
    pub columns: Columns,
    /// Rows left out because they cannot be used, by file; only files that have any.
    pub skipped: Vec<BadRows>,
    /// Usable rows left out because of `max_rows`.
    pub beyond_max_rows: usize,
    /// Validation rows whose text also is a training text: they make the result look too good.
    pub overlap: usize,
}

/// The rows of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The rows, in the order of the file.
    pub rows: Vec<Example>,
    /// The columns in use.
    pub columns: Columns,
    /// Rows left out because they cannot be used.
    pub skipped: Option<BadRows>,
}

impl DataSpec {
    /// Columns by convention, a tenth of the rows for validation, no limit, bad rows refused.
    pub fn new(train: impl Into<Source>) -> Self {
        Self {
            train: train.into(),
            validation: None,
            validation_share: 0.1,
            columns: ColumnNames::default(),
            kind: LabelKind::default(),
            labels: None,
            outputs: None,
            skip_bad_rows: false,
            max_rows: None,
            seed: 0,
        }
    }
}

/// Loads training and validation rows.
///
/// # Errors
/// Every fault of [`DataError`] down to [`DataError::MaxRows`]; the message names the file, and
/// for a bad row the line and the reason.
pub fn load(spec: &DataSpec) -> Result<Dataset, DataError> {
    let share = spec.validation_share;
    if spec.validation.is_none() && !(share > 0.0 && share < 1.0) {
        return Err(DataError::ValidationShare(share));
    }
    let table = Table::open(&spec.train)?;
    let columns = Columns::choose(&table.file, &table.columns, &spec.columns, true)?;
    let (rows, bad) = rows::read(&table, &columns, spec.kind, spec.skip_bad_rows)?;
    let labels = match &spec.labels {
        Some(labels) => labels.clone(),
        None => {
            let labels = learn_labels(&table, &columns, &rows)?;
            let outputs = spec.outputs.as_ref();
            outputs
                .and_then(|outputs| labels.in_order_of(outputs))
                .unwrap_or(labels)
        }
    };
    let mut train = index(&table, rows, &labels)?;
    let file = table.file.clone();
    let mut skipped = vec![bad];
    drop(table);

    let beyond_max_rows = match spec.max_rows {
        Some(max_rows) => keep_at_most(&file, &mut train, max_rows, spec.seed)?,
        None => 0,
    };
    if spec.kind == LabelKind::OneOfMany {
        at_least_two_classes(&file, &train, &labels)?;
    }
    let (validation, validation_from) = match &spec.validation {
        Some(source) => {
            let loaded = load_targets(
                source,
                &columns.names(),
                spec.kind,
                &labels,
                spec.skip_bad_rows,
            )?;
            skipped.extend(loaded.skipped);
            (loaded.rows, Validation::Given)
        }
        None => {
            let (kept, held_out) = split::cut_off(&classes(&train), share, spec.seed);
            if held_out.is_empty() {
                let classes = class_counts(&train, &labels)
                    .iter()
                    .filter(|count| **count > 0)
                    .count();
                return Err(DataError::TooFewRows {
                    file,
                    rows: train.len(),
                    classes,
                });
            }
            let validation = held_out
                .iter()
                .filter_map(|row| train.get(*row).cloned())
                .collect();
            train = kept
                .iter()
                .filter_map(|row| train.get(*row).cloned())
                .collect();
            (validation, Validation::CutOff(share))
        }
    };
    skipped.retain(|bad| bad.total > 0);
    let overlap = overlap(&train, &validation);
    Ok(Dataset {
        train,
        validation,
        validation_from,
        labels,
        columns,
        skipped,
        beyond_max_rows,
        overlap,
    })
}

/// Loads rows whose classes are known, for evaluation.
///
/// # Errors
/// As [`load`]; [`DataError::UnseenLabel`] names the first label that is not among `labels`,
/// whether or not bad rows are skipped: leaving such rows out would make the result look too good.
pub fn load_labelled(
    source: &Source,
    names: &ColumnNames,
    labels: &Labels,
    skip_bad_rows: bool,
) -> Result<Loaded, DataError> {
    load_targets(source, names, LabelKind::OneOfMany, labels, skip_bad_rows)
}

/// Loads rows with targets of any kind; `labels` are the names of the outputs.
///
/// # Errors
/// As [`load_labelled`]; [`DataError::Labels`] when a row has another number of numbers.
pub fn load_targets(
    source: &Source,
    names: &ColumnNames,
    kind: LabelKind,
    labels: &Labels,
    skip_bad_rows: bool,
) -> Result<Loaded, DataError> {
    let table = Table::open(source)?;
    let columns = Columns::choose(&table.file, &table.columns, names, true)?;
    let (rows, bad) = rows::read(&table, &columns, kind, skip_bad_rows)?;
    let rows = index(&table, rows, labels)?;
    Ok(Loaded {
        rows,
        columns,
        skipped: Some(bad).filter(|bad| bad.total > 0),
    })
}

/// Loads texts without labels, for prediction. A label column is left alone.
///
/// # Errors
/// As [`load`], without the faults of labels.
pub fn load_unlabelled(
    source: &Source,
    names: &ColumnNames,
    skip_bad_rows: bool,
) -> Result<Loaded, DataError> {
    let table = Table::open(source)?;
    let columns = Columns::choose(&table.file, &table.columns, names, false)?;
    let (rows, bad) = rows::read(&table, &columns, LabelKind::default(), skip_bad_rows)?;
    let rows = rows.into_iter().map(|row| example(row, None)).collect();
    Ok(Loaded {
        rows,
        columns,
        skipped: Some(bad).filter(|bad| bad.total > 0),
    })
}

/// The number of rows of each class, in the order of the labels.
pub fn class_counts(examples: &[Example], labels: &Labels) -> Vec<usize> {
    let mut counts = vec![0; labels.len()];
    for label in examples.iter().filter_map(Example::class) {
        if let Some(count) = counts.get_mut(label) {
            *count += 1;
        }
    }
    counts
}

/// The classes of the rows; where the file itself names its classes, all of these in its order.
fn learn_labels(table: &Table<'_>, columns: &Columns, rows: &[Row]) -> Result<Labels, DataError> {
    match columns
        .label
        .as_deref()
        .and_then(|label| table.class_names(label))
    {
        Some(names) => Ok(Labels::try_from(names)?.with_order(LabelOrder::Numbered)),
        None => {
            let mut outputs = 0;
            let mut values = Vec::new();
            for row in rows {
                match &row.label {
                    Some(RawLabel::One(value)) => values.push(value),
                    Some(RawLabel::Several(several)) => values.extend(several),
                    Some(RawLabel::Numbers(numbers)) => outputs = outputs.max(numbers.len()),
                    None => {}
                }
            }
            match outputs {
                0 => Labels::from_values(values),
                // The names that `transformers` makes up.
                outputs => Labels::try_from(
                    (0..outputs)
                        .map(|at| format!("LABEL_{at}"))
                        .collect::<Vec<_>>(),
                ),
            }
        }
    }
}

fn index(table: &Table<'_>, rows: Vec<Row>, labels: &Labels) -> Result<Vec<Example>, DataError> {
    let mut unseen = None;
    let mut count = 0;
    let mut examples = Vec::with_capacity(rows.len());
    for row in rows {
        let target = match &row.label {
            None => None,
            Some(label) => match target(label, labels) {
                Ok(target) => Some(target),
                Err(value) => {
                    count += 1;
                    unseen.get_or_insert((row.line, value));
                    None
                }
            },
        };
        if let (Some(Target::Numbers(numbers)), outputs) = (&target, labels.len())
            && numbers.len() != outputs
        {
            return Err(DataError::Labels(format!(
                "{} {} of `{}` has {} numbers, others have {outputs}",
                table.format.unit(),
                row.line,
                table.file,
                numbers.len()
            )));
        }
        examples.push(example(row, target));
    }
    match unseen {
        None => Ok(examples),
        Some((line, label)) => Err(DataError::UnseenLabel {
            file: table.file.clone(),
            unit: table.format.unit(),
            line,
            label,
            count,
            known: labels.names().to_vec(),
        }),
    }
}

/// The target of a row, or the label that is not known.
fn target(label: &RawLabel, labels: &Labels) -> Result<Target, String> {
    let index = |value: &LabelValue| labels.index_of(value).ok_or_else(|| value.to_string());
    Ok(match label {
        RawLabel::One(value) => Target::Class(u32::try_from(index(value)?).unwrap_or(u32::MAX)),
        RawLabel::Several(values) => {
            let mut flags = vec![false; labels.len()];
            for value in values {
                if let Some(flag) = flags.get_mut(index(value)?) {
                    *flag = true;
                }
            }
            Target::Flags(flags)
        }
        RawLabel::Numbers(numbers) => Target::Numbers(numbers.clone()),
    })
}

fn example(row: Row, target: Option<Target>) -> Example {
    Example {
        text: row.text,
        pair: row.pair,
        target,
        line: row.line,
    }
}

/// Keeps a stratified subset; returns how many rows were left out.
fn keep_at_most(
    file: &str,
    train: &mut Vec<Example>,
    max_rows: usize,
    seed: u64,
) -> Result<usize, DataError> {
    let labels = classes(train);
    let seen = labels.iter().collect::<HashSet<_>>().len();
    if max_rows < seen {
        return Err(DataError::MaxRows {
            file: file.into(),
            max_rows,
            classes: seen,
        });
    }
    let before = train.len();
    if max_rows < before {
        let kept = split::subset(&labels, max_rows, seed);
        *train = kept
            .iter()
            .filter_map(|row| train.get(*row).cloned())
            .collect();
    }
    Ok(before - train.len())
}

fn at_least_two_classes(file: &str, train: &[Example], labels: &Labels) -> Result<(), DataError> {
    let first = train.first().and_then(Example::class);
    if train.iter().any(|example| example.class() != first) {
        return Ok(());
    }
    let label = first
        .and_then(|label| labels.name(label))
        .unwrap_or_default();
    Err(DataError::OneClass {
        file: file.into(),
        label: label.into(),
        rows: train.len(),
    })
}

fn overlap(train: &[Example], validation: &[Example]) -> usize {
    let texts: HashSet<(&str, Option<&str>)> = train
        .iter()
        .map(|example| (example.text.as_str(), example.pair.as_deref()))
        .collect();
    validation
        .iter()
        .filter(|example| texts.contains(&(example.text.as_str(), example.pair.as_deref())))
        .count()
}

/// By which rows are split evenly; rows without a class are all of one kind.
fn classes(examples: &[Example]) -> Vec<usize> {
    let class = |example: &Example| example.class().unwrap_or(0);
    examples.iter().map(class).collect()
}
