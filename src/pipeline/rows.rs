//! The rows of the recipe's task as token numbers, whatever the task is.

use super::prepare::pooling;
use super::recorder::Recorder;
use crate::base::BaseModel;
use crate::data::language::{
    self, Learned, PassageEncoder, PassageNames, PassageSpec, Passages, load_passages,
};
use crate::data::{
    self, BadRows, ColumnNames, DataSpec, Dataset, Encoded, Example, LabelKind, Labels, Pairing,
    Source, list,
};
use crate::error::Result;
use crate::models::HeadSource;
use crate::progress::Progress;
use crate::quickstart;
use crate::recipe::{self, Recipe, TaskKind};

/// Embedded texts on which an export is compared where there are no rows.
const TEXTS: usize = 8;

/// Rows to train and to measure on.
#[derive(Debug)]
pub struct TaskRows {
    /// Training rows, one by one.
    pub train: Encoded,
    /// The same, packed, where the recipe asks for it.
    pub packed: Option<Encoded>,
    /// Held-out rows.
    pub validation: Encoded,
    /// Names of the outputs: classes, labels, or numbers. A language model has none.
    pub labels: Option<Labels>,
    /// Where a head for these labels comes from.
    pub head: HeadSource,
    /// Whether rows are pairs of texts.
    pub pairs: bool,
    /// Whether rows are prompts with completions.
    pub prompts: bool,
    /// Rows that could not be used and were skipped on request.
    pub skipped: usize,
}

impl TaskRows {
    /// Reads and encodes the recipe's rows; each is cut to `max_length` tokens.
    pub fn read(
        recipe: &Recipe,
        base: &BaseModel,
        max_length: usize,
        recorder: &Recorder<'_>,
    ) -> Result<Self> {
        let progress = recorder.progress;
        if recipe.task.kind.is_language() {
            let passages = load_passages(&passage_spec(recipe))?;
            tell_passages(&passages, progress);
            let encoder = passage_encoder(recipe, base, max_length)?;
            let train = encoder.encode(&passages.train)?;
            let validation = encoder.encode(&passages.validation)?;
            let all = Encoded {
                without_tokens: train.without_tokens + validation.without_tokens,
                ..Encoded::default()
            };
            if let Some(lost) = lost_rows(&all, max_length) {
                progress.warn(&lost);
            }
            let packed = recipe
                .task
                .packing
                .then(|| language::pack(&train, max_length));
            return Ok(Self {
                train,
                packed,
                validation,
                labels: None,
                head: HeadSource::default(),
                pairs: false,
                prompts: passages.columns.are_prompts(),
                skipped: total(&passages.skipped),
            });
        }
        let outputs = labels_of_head(recipe, base);
        let dataset = data::load(&DataSpec {
            outputs: outputs.clone(),
            ..data_spec(recipe)
        })?;
        tell(&dataset, progress);
        Ok(Self {
            head: head_for(&dataset.labels, outputs.as_ref(), progress),
            train: data::encode(&base.tokenizer, &dataset.train, max_length)?,
            packed: None,
            validation: data::encode(&base.tokenizer, &dataset.validation, max_length)?,
            pairs: dataset.columns.pair.is_some(),
            prompts: false,
            skipped: total(&dataset.skipped),
            labels: Some(dataset.labels),
        })
    }

    /// Rows that a value can be measured on.
    pub(super) fn held_out(&self) -> usize {
        let rows = self.validation.rows.iter();
        rows.filter(|row| row.target.is_some()).count()
    }

    /// No rows to learn from, for a head with these labels. A few of the embedded texts stand in for held-out rows, without a
    /// target, so that there is something on which two models can be compared.
    pub(super) fn untaught(
        recipe: &Recipe,
        base: &BaseModel,
        labels: Option<Labels>,
        pairs: bool,
        max_length: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let outputs = labels_of_head(recipe, base);
        let in_order = |labels: Labels| {
            let outputs = outputs.as_ref();
            outputs
                .and_then(|outputs| labels.in_order_of(outputs))
                .unwrap_or(labels)
        };
        let labels = labels.map(in_order);
        let texts =
            data::load_unlabelled(&quickstart::validation(), &ColumnNames::default(), false)?;
        let example = |(text, next): (&Example, &Example)| Example {
            text: text.text.clone(),
            pair: pairs.then(|| next.text.clone()),
            target: None,
            line: text.line,
        };
        let examples: Vec<Example> = (texts.rows.iter())
            .zip(texts.rows.iter().skip(1))
            .take(TEXTS)
            .map(example)
            .collect();
        Ok(Self {
            train: Encoded::default(),
            packed: None,
            validation: data::encode(&base.tokenizer, &examples, max_length)?,
            head: labels.as_ref().map_or_else(HeadSource::default, |labels| {
                head_for(labels, outputs.as_ref(), progress)
            }),
            labels,
            pairs,
            prompts: false,
            skipped: 0,
        })
    }

    /// Names of the outputs.
    pub fn label_names(&self) -> &[String] {
        self.labels.as_ref().map_or(&[], Labels::names)
    }
}

/// The labels of the checkpoint's head; the outputs of a regression have no names.
fn labels_of_head(recipe: &Recipe, base: &BaseModel) -> Option<Labels> {
    match label_kind(recipe.task.kind) {
        LabelKind::OneOfMany | LabelKind::AnyOfMany => {
            base.labels_of_head(pooling(recipe.task.pooling))
        }
        LabelKind::Numbers => None,
    }
}

/// Whether the checkpoint's head, whose outputs these are, serves the labels in their order, which is told where it is a guess.
fn head_for(labels: &Labels, outputs: Option<&Labels>, progress: &dyn Progress) -> HeadSource {
    let Some(outputs) = outputs.filter(|outputs| outputs.len() == labels.len()) else {
        return HeadSource::Checkpoint;
    };
    let is_same = (labels.in_order_of(outputs)).is_some_and(|same| same.names() == labels.names());
    let named = list(outputs.names());
    if is_same {
        HeadSource::Checkpoint
    } else if labels.are_places() || labels.is_placeholder() {
        progress.note(&format!(
            "the labels of the rows number the outputs of the checkpoint's head: {named}"
        ));
        HeadSource::Checkpoint
    } else {
        progress.warn(&format!(
            "the checkpoint's head is for other labels ({named}), so a fresh one takes its place"
        ));
        HeadSource::Fresh
    }
}

fn total(skipped: &[BadRows]) -> usize {
    skipped.iter().map(|skipped| skipped.total).sum()
}

/// How passages become token numbers under this recipe.
pub(super) fn passage_encoder<'a>(
    recipe: &'a Recipe,
    base: &'a BaseModel,
    max_length: usize,
) -> Result<PassageEncoder<'a>> {
    Ok(PassageEncoder {
        tokenizer: &base.tokenizer,
        template: base.text.template.as_ref(),
        as_chat: recipe.task.kind == TaskKind::Instruction,
        end: base.text.end,
        separator: &recipe.task.separator,
        learned: match recipe.task.learned {
            recipe::Learned::Completion => Learned::Completion,
            recipe::Learned::All => Learned::All,
        },
        max_length,
    })
}

/// What to tell of passages that were left out, where there are any.
pub fn lost_rows(encoded: &Encoded, max_length: usize) -> Option<String> {
    let lost = encoded.without_tokens;
    (lost > 0).then(|| {
        format!("left out {lost} rows: nothing of them to learn is within {max_length} tokens")
    })
}

/// The recipe's names of columns of passages.
pub fn passage_names(recipe: &Recipe) -> PassageNames {
    let data = &recipe.data;
    PassageNames {
        text: data.text_column.clone(),
        prompt: data.prompt_column.clone(),
        input: None,
        completion: data.completion_column.clone(),
        messages: data.messages_column.clone(),
    }
}

/// The recipe's names of columns of texts and labels.
pub fn column_names(recipe: &Recipe) -> ColumnNames {
    let data = &recipe.data;
    ColumnNames {
        text: data.text_column.clone(),
        pair: data.pair_column.clone(),
        label: data.label_column.clone(),
        pairing: Pairing::ByColumns,
    }
}

/// What the label column of a task holds.
pub fn label_kind(task: TaskKind) -> LabelKind {
    match task {
        TaskKind::Regression => LabelKind::Numbers,
        TaskKind::MultiLabel => LabelKind::AnyOfMany,
        TaskKind::TextClassification | TaskKind::CausalLm | TaskKind::Instruction => {
            LabelKind::OneOfMany
        }
    }
}

fn passage_spec(recipe: &Recipe) -> PassageSpec {
    let data = &recipe.data;
    PassageSpec {
        train: Source::File((&data.train).into()),
        validation: data
            .validation
            .as_ref()
            .map(|path| Source::File(path.into())),
        validation_share: data.validation_share,
        columns: passage_names(recipe),
        skip_bad_rows: data.skip_bad_rows,
        max_rows: data.max_rows,
        seed: recipe.seed,
    }
}

fn data_spec(recipe: &Recipe) -> DataSpec {
    let data = &recipe.data;
    let source = |name: &str, embedded: fn() -> Source| {
        if name == quickstart::NAME {
            embedded()
        } else {
            Source::File(name.into())
        }
    };
    let mut validation = data
        .validation
        .as_deref()
        .map(|name| source(name, quickstart::validation));
    if validation.is_none() && data.train == quickstart::NAME {
        validation = Some(quickstart::validation());
    }
    DataSpec {
        train: source(&data.train, quickstart::train),
        validation,
        validation_share: data.validation_share,
        columns: column_names(recipe),
        kind: label_kind(recipe.task.kind),
        labels: None,
        outputs: None,
        skip_bad_rows: data.skip_bad_rows,
        max_rows: data.max_rows,
        seed: recipe.seed,
    }
}

/// Shows what was taken for what, and what was left out.
fn tell(dataset: &Dataset, progress: &dyn Progress) {
    progress.note(&format!("reading {}", dataset.columns));
    tell_losses(
        &dataset.skipped,
        dataset.beyond_max_rows,
        dataset.overlap,
        progress,
    );
}

fn tell_passages(passages: &Passages, progress: &dyn Progress) {
    progress.note(&format!("reading {}", passages.columns));
    tell_losses(
        &passages.skipped,
        passages.beyond_max_rows,
        passages.overlap,
        progress,
    );
}

fn tell_losses(skipped: &[BadRows], beyond: usize, overlap: usize, progress: &dyn Progress) {
    for skipped in skipped.iter().filter(|skipped| skipped.total > 0) {
        progress.warn(&format!(
            "skipped {} bad rows of `{}`",
            skipped.total, skipped.file
        ));
    }
    if beyond > 0 {
        progress.note(&format!("left out {beyond} rows beyond `data.max_rows`"));
    }
    if overlap > 0 {
        progress.warn(&format!(
            "{overlap} validation rows are also training rows: the held-out numbers are too good"
        ));
    }
}
