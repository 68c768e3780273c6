//! What every recipe key means: the one table behind the comments of the embedded recipes, `recipe show --docs`, the README
//! and the messages about values of the wrong type.

use std::fmt;

use serde_yaml::Value;

use super::tree;
use super::words::{
    After, BiasStyle, BottleneckStyle, Dtype, Estimator, Grouping, Learned, LearningRates, Method,
    ModuleKind, NonLinearity, Pooling, Schedule, Solver, Target, TaskKind,
};

/// The form a value may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A mapping of keys.
    Section,
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number, not negative.
    Count,
    /// A number.
    Number,
    /// A list of whole numbers.
    Counts,
    /// A list of regular expressions.
    Patterns,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A list of these words, which may be empty.
    WordList(&'static [&'static str]),
    /// One of these words, or a list of regular expressions.
    WordsOrPatterns(&'static [&'static str]),
    /// `auto`, `cpu`, `cuda`, `cuda:N` or `metal`.
    Device,
    /// A count, or a share with `%`.
    Budget,
    /// `null`, or the other form.
    Optional(&'static Form),
}

impl Form {
    /// The words that may stand for the value, if it has a closed set.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Words(words) | Self::WordList(words) | Self::WordsOrPatterns(words) => words,
            Self::Device => &["auto", "cpu", "cuda", "metal"],
            Self::Optional(form) => form.words(),
            Self::Section
            | Self::Text
            | Self::Flag
            | Self::Count
            | Self::Number
            | Self::Counts
            | Self::Patterns
            | Self::Budget => &[],
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section => f.write_str("a mapping of keys"),
            Self::Text => f.write_str("text"),
            Self::Flag => f.write_str("`true` or `false`"),
            Self::Count => f.write_str("a whole number, not negative"),
            Self::Number => f.write_str("a number"),
            Self::Counts => f.write_str("a list of whole numbers"),
            Self::Patterns => f.write_str("a list of regular expressions"),
            Self::Words([word]) => write!(f, "`{word}`"),
            Self::Words(words) => write!(f, "one of `{}`", words.join("`, `")),
            Self::WordList(words) => write!(f, "a list of `{}`", words.join("`, `")),
            Self::WordsOrPatterns(words) => write!(
                f,
                "`{}` or a list of regular expressions",
                words.join("`, `")
            ),
            Self::Device => f.write_str("one of `auto`, `cpu`, `cuda`, `cuda:N`, `metal`"),
            Self::Budget => f.write_str("a count, or a share such as `0.3%`"),
            Self::Optional(form) => write!(f, "{form}, or `null`"),
        }
    }
}

/// One key of the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Dotted path, as `--set` takes it.
    pub path: &'static str,
    /// The form of its value.
    pub form: Form,
    /// What it does, in one sentence.
    pub meaning: &'static str,
}

/// The key at this path.
pub fn key(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The default of a key, as YAML on one line; `None` for sections.
pub fn default_of(key: &Key) -> Option<String> {
    match tree::get(&tree::defaults(), key.path) {
        Some(Value::Mapping(_)) | None => None,
        Some(value) => Some(super::write::inline(value)),
    }
}

/// The table of all keys in Markdown: key, form, default, meaning.
pub fn markdown() -> String {
    let mut text = String::from("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let default = default_of(key).map_or_else(String::new, |default| format!("`{default}`"));
        let form = if key.form == Form::Section {
            "section".to_owned()
        } else {
            key.form.to_string()
        };
        text.push_str(&format!(
            "| `{}` | {form} | {default} | {} |\n",
            key.path, key.meaning
        ));
    }
    text
}

const fn row(path: &'static str, form: Form, meaning: &'static str) -> Key {
    Key {
        path,
        form,
        meaning,
    }
}

const OPTIONAL_TEXT: Form = Form::Optional(&Form::Text);
const OPTIONAL_DTYPE: Form = Form::Optional(&Form::Words(Dtype::WORDS));
const OPTIONAL_COUNT: Form = Form::Optional(&Form::Count);
const OPTIONAL_NUMBER: Form = Form::Optional(&Form::Number);

/// Every key, in the order of the schema.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    row("model", Form::Text, "base model: a folder, a GGUF file, a hub id such as `roberta-base`, or `embedded:quickstart`"),
    row("revision", Form::Text, "branch, tag or commit, when the model is a hub id"),
    row("device", Form::Device, "where to compute; `auto` takes a GPU if the build and the machine have one"),
    row("dtype", Form::Words(Dtype::WORDS), "number type of weights and computation, what is trained stays in `f32`; `f16` and `bf16` need a GPU"),
    row("storage", OPTIONAL_DTYPE, "language models: number type in which frozen matrices stay in memory; `null` is `dtype`, GGUF files stay as they are"),
    row("seed", Form::Count, "seed of every random draw; the same seed gives the same bytes"),
    row("task", Form::Section, "what is learned"),
    row("task.type", Form::Words(TaskKind::WORDS), "kind of task"),
    row("task.pooling", Form::Words(Pooling::WORDS), "one vector a text: as the family's own head does it, or the mean over tokens"),
    row("task.max_length", Form::Count, "tokens a text or pair is cut to; never more than the model has positions"),
    row("task.learned", Form::Words(Learned::WORDS), "language models: what is learned of a prompt and its completion, or of a chat"),
    row("task.separator", Form::Text, "language models: between prompt and completion where no chat template is used"),
    row("task.packing", Form::Flag, "language models: put several rows into one sequence, each blind to the others"),
    row("data", Form::Section, "where the examples come from"),
    row("data.train", Form::Text, "training rows: a JSONL, CSV, TSV or Parquet file, or `embedded:quickstart`"),
    row("data.validation", OPTIONAL_TEXT, "held-out rows; `null` cuts `validation_share` off the training rows"),
    row("data.validation_share", Form::Number, "share that is cut off by seed, stratified by label; unused with `validation`"),
    row("data.text_column", OPTIONAL_TEXT, "column of the text; `null` finds it by its usual names"),
    row("data.pair_column", OPTIONAL_TEXT, "column of the second text; `null` finds it by its usual names"),
    row("data.label_column", OPTIONAL_TEXT, "column of the label; `null` finds it by its usual names"),
    row("data.prompt_column", OPTIONAL_TEXT, "language models: column of the prompt; `null` finds it by its usual names"),
    row("data.completion_column", OPTIONAL_TEXT, "language models: column of the completion; `null` finds it"),
    row("data.messages_column", OPTIONAL_TEXT, "language models: column of a list of messages; `null` finds it"),
    row("data.skip_bad_rows", Form::Flag, "count and skip rows that cannot be used, in place of stopping at the first"),
    row("data.max_rows", OPTIONAL_COUNT, "read at most so many training rows; `null` reads all"),
    row("superset", Form::Section, "the modules that compete for the budget"),
    row("superset.lora", Form::Section, "low-rank updates of linear layers"),
    row("superset.lora.enabled", Form::Flag, "whether the kind competes"),
    row("superset.lora.rank_blocks", Form::Counts, "rank of each slice; a slice is a group, the kept slices are the module's rank"),
    row("superset.lora.alpha", Form::Number, "numerator of the scale alpha / rank, where rank is the sum of the slices"),
    row("superset.lora.dropout", Form::Number, "dropout on the input of the update; off in every measurement"),
    row("superset.lora.split", Form::Flag, "measure and freeze A and B apart"),
    row("superset.lora.targets", Form::WordsOrPatterns(&["all-linear"]), "linear layers that get one; patterns match module paths"),
    row("superset.bias", Form::Section, "biases of linear layers"),
    row("superset.bias.enabled", Form::Flag, "whether the kind competes"),
    row("superset.bias.inert", Form::Flag, "also attention key biases, which cannot change the output: a check of the measurement"),
    row("superset.norm", Form::Section, "gains and offsets of norms"),
    row("superset.norm.enabled", Form::Flag, "whether the kind competes"),
    row("superset.bottleneck", Form::Section, "bottleneck adapters, which Hugging Face PEFT cannot load"),
    row("superset.bottleneck.enabled", Form::Flag, "whether the kind competes"),
    row("superset.bottleneck.style", Form::Words(BottleneckStyle::WORDS), "where they sit, as AdapterHub names it"),
    row("superset.bottleneck.reduction_factor", Form::Number, "hidden size divided by bottleneck size"),
    row("superset.bottleneck.non_linearity", Form::Words(NonLinearity::WORDS), "non-linearity in the middle"),
    row("superset.exclude", Form::Patterns, "module paths that get nothing"),
    row("train", Form::Section, "optimizer (AdamW) and length of training"),
    row("train.steps", OPTIONAL_COUNT, "optimizer steps in all, the probe's included; `null` counts `epochs`"),
    row("train.epochs", OPTIONAL_NUMBER, "passes over the training rows; `null` with `steps`"),
    row("train.batch_size", Form::Count, "examples a forward pass"),
    row("train.accumulate", Form::Count, "batches whose gradients make one step"),
    row("train.checkpointing", Form::Flag, "language models: keep only the input of each layer, and compute the layer again for its gradient"),
    row("train.keep_frozen_layers", Form::Flag, "keep in memory what the layers below the lowest trained group give of each row, and do not compute it again in later epochs"),
    row("train.learning_rate", Form::Number, "learning rate of the adapter, the start of every group's own"),
    row("train.head_learning_rate", OPTIONAL_NUMBER, "learning rate of the head; `null` is `learning_rate`"),
    row("train.loraplus_lr_ratio", OPTIONAL_NUMBER, "rate of a LoRA's B, which is `learning_rate`, as a multiple of its A's (LoRA+); `null` is 16 where the chosen set's training passes over the rows more than twice, and else 1, which is plain LoRA"),
    row("train.dropout", Form::Number, "rate at which activations of the base model are dropped, behind its embeddings, on what its blocks add and before the head, in the training of the chosen set; attention probabilities are not"),
    row("train.weight_decay", Form::Number, "decoupled weight decay, not on biases and norms"),
    row("train.beta1", Form::Number, "decay of the first moment"),
    row("train.beta2", Form::Number, "decay of the second moment"),
    row("train.epsilon", Form::Number, "term that keeps the division by the second moment finite"),
    row("train.warmup", Form::Number, "share of the steps over which the rate rises from zero"),
    row("train.schedule", Form::Words(Schedule::WORDS), "how the rate moves after the warm-up: `linear` falls to zero"),
    row("train.average", Form::Number, "where the chosen set's training passes over the rows more than twice, share of its steps, the last ones, over which the values are averaged; 0 keeps the last values"),
    row("train.clip", Form::Number, "largest norm of the gradient; 0 clips nothing"),
    row("probe", Form::Section, "how the influence of each group is measured"),
    row("probe.steps", Form::Count, "training steps of the superset"),
    row("probe.burn_in", Form::Number, "share of these steps before the first measurement: half of a fresh LoRA has no gradient"),
    row("probe.head_warmup", Form::Count, "steps before them that train the head alone, on what the frozen layers give of some batches"),
    row("probe.every", Form::Count, "steps from one measurement to the next"),
    row("probe.estimator", Form::Words(Estimator::WORDS), "how slopes and curvature are measured"),
    row("probe.examples", Form::Count, "training examples a measurement, other ones than the step's"),
    row("probe.exact_classes", Form::Count, "up to so many classes Gauss-Newton is exact; above, labels are drawn from the model"),
    row("probe.grouping", Form::WordsOrPatterns(Grouping::WORDS), "what makes a group; patterns match parameter paths"),
    row("probe.learning_rates", Form::Words(LearningRates::WORDS), "one measured height for all groups, or for each in the ratio of its own optimum, or `train`'s"),
    row("probe.early_freeze", Form::Flag, "with `select.solver` `exact` or `greedy`, stop training groups that clearly miss the budget, from the fourth measurement on"),
    row("probe.resamples", Form::Count, "bootstrap draws for the intervals"),
    row("probe.confidence", Form::Number, "coverage of the intervals"),
    row("select", Form::Section, "how groups are chosen"),
    row("select.method", Form::Words(Method::WORDS), "the rule"),
    row("select.budget", Form::Budget, "parameters to keep besides the head: a count, or a share of the model"),
    row("select.order", Form::WordList(ModuleKind::WORDS), "method `budget`: kinds in the order in which the budget is spent on them, the others after them; of `lora` the first rank blocks of all modules before the second ones; an empty list lets all compete at once"),
    row("select.per_nat", OPTIONAL_NUMBER, "method `budget`: where a training passes over the rows more than twice, after the first of these kinds (of `lora` its first rank blocks) fill only up to so many parameters for each nat in the rows, which is their labels or learned tokens times the untrained loss; `null` fills the budget"),
    row("select.solver", Form::Words(Solver::WORDS), "method `budget`: the set of groups worth most one by one, worth most together (needs `gauss-newton` or `full`), with the greatest slopes, or by influence"),
    row("select.psi", Form::Number, "method `psi`: keep groups with psi times the least influence of the base weights"),
    row("select.top", Form::Count, "method `top`: number of groups to keep"),
    row("select.threshold", Form::Number, "method `threshold`: share of the whole influence to keep"),
    row("select.refit", Form::Count, "with measured rates: most steps from one fit of the height of the kept set's rates to the next, in the first quarter of the training; 0 keeps the height"),
    row("select.max_learning_rate", Form::Number, "rate up to which these fits raise `train.learning_rate`, for the kept set; never below it"),
    row("select.after", Form::Words(After::WORDS), "train on from the probe's values, or from the initial ones"),
    row("select.steps", OPTIONAL_COUNT, "steps after the selection; `null` is what the probe left of `train`, or as many as the probe if that is more"),
    row("export", Form::Section, "what is written"),
    row("export.target", Form::Words(Target::WORDS), "who shall load it; restricts the superset before the probe"),
    row("export.bias_style", Form::Words(BiasStyle::WORDS), "how biases are written for PEFT: under their own names"),
    row("export.force", Form::Flag, "replace an existing result"),
];
