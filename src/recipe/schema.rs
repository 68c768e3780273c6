//! The sections of a recipe as plain structs; `Default` is the documented default of each key.
//!
//! What a key means is written once, in the table of `docs.rs`; the comments here are for readers of the code.

use serde::{Deserialize, Deserializer, Serialize};

use super::words::{
    After, BiasStyle, BottleneckStyle, DeviceChoice, Dtype, Estimator, Grouping, Learned,
    LearningRates, Method, ModuleKind, NonLinearity, Pooling, Schedule, Solver, Target, Targets,
    TaskKind,
};

/// Everything a run needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// A folder, a hub id, or `embedded:quickstart`.
    pub model: String,
    /// Branch, tag or commit of a hub id.
    pub revision: String,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Number type of weights and computation.
    pub dtype: Dtype,
    /// Number type in which the frozen matrices of a decoder are kept; `None` for that of the computation.
    pub storage: Option<Dtype>,
    /// Seed of every random draw.
    pub seed: u64,
    /// What is learned.
    pub task: Task,
    /// Where the examples come from.
    pub data: Data,
    /// The modules that compete.
    pub superset: Superset,
    /// Optimizer and length of training.
    pub train: Train,
    /// How influence is measured.
    pub probe: Probe,
    /// How groups are chosen.
    pub select: Select,
    /// What is written.
    pub export: Export,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            model: "embedded:quickstart".to_owned(),
            revision: "main".to_owned(),
            device: DeviceChoice::default(),
            dtype: Dtype::default(),
            storage: None,
            seed: 0,
            task: Task::default(),
            data: Data::default(),
            superset: Superset::default(),
            train: Train::default(),
            probe: Probe::default(),
            select: Select::default(),
            export: Export::default(),
        }
    }
}

/// What is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Task {
    /// The kind of task.
    #[serde(rename = "type")]
    pub kind: TaskKind,
    /// How the encoder's output becomes one vector.
    pub pooling: Pooling,
    /// Tokens a text (or pair) is cut to.
    pub max_length: usize,
    /// Language models: which tokens are learned.
    pub learned: Learned,
    /// Language models: what stands between prompt and completion where no chat template is used.
    pub separator: String,
    /// Language models: whether several rows share one sequence.
    pub packing: bool,
}

impl Default for Task {
    fn default() -> Self {
        Self {
            kind: TaskKind::default(),
            pooling: Pooling::default(),
            max_length: 128,
            learned: Learned::default(),
            separator: "\n".to_owned(),
            packing: false,
        }
    }
}

/// Where the examples come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Training rows: a file, or `embedded:quickstart`.
    pub train: String,
    /// Held-out rows: a file; `None` cuts them off the training rows.
    pub validation: Option<String>,
    /// Share that is cut off, stratified by label.
    pub validation_share: f64,
    /// Column of the text.
    pub text_column: Option<String>,
    /// Column of the second text of a pair.
    pub pair_column: Option<String>,
    /// Column of the label.
    pub label_column: Option<String>,
    /// Column of the prompt of a completion.
    pub prompt_column: Option<String>,
    /// Column of the completion.
    pub completion_column: Option<String>,
    /// Column of the messages of a chat.
    pub messages_column: Option<String>,
    /// Count and skip rows that cannot be used, in place of stopping.
    pub skip_bad_rows: bool,
    /// Read at most so many training rows.
    pub max_rows: Option<usize>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train: "embedded:quickstart".to_owned(),
            validation: None,
            validation_share: 0.1,
            text_column: None,
            pair_column: None,
            label_column: None,
            prompt_column: None,
            completion_column: None,
            messages_column: None,
            skip_bad_rows: false,
            max_rows: None,
        }
    }
}

/// The modules that compete.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Superset {
    /// Low-rank updates of linear layers.
    pub lora: Lora,
    /// Biases of linear layers.
    pub bias: Bias,
    /// Gains and offsets of norms.
    pub norm: Norm,
    /// Bottleneck adapters.
    pub bottleneck: Bottleneck,
    /// Regular expressions over module paths that get nothing.
    pub exclude: Vec<String>,
}

/// Low-rank updates of linear layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Whether the kind competes.
    pub enabled: bool,
    /// Rank of each slice; a slice is a group, the sum is the full rank.
    pub rank_blocks: Vec<usize>,
    /// Numerator of the scale alpha / rank.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Whether A and B are groups of their own.
    pub split: bool,
    /// Which linear layers get one.
    pub targets: Targets,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            enabled: true,
            rank_blocks: vec![1, 1, 2, 4],
            alpha: 16.0,
            dropout: 0.0,
            split: false,
            targets: Targets::default(),
        }
    }
}

/// Biases of linear layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bias {
    /// Whether the kind competes.
    pub enabled: bool,
    /// Whether attention key biases, which cannot change the output, compete too (a check of the measurement).
    pub inert: bool,
}

impl Default for Bias {
    fn default() -> Self {
        Self {
            enabled: true,
            inert: false,
        }
    }
}

/// Gains and offsets of norms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Norm {
    /// Whether the kind competes.
    pub enabled: bool,
}

impl Default for Norm {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Bottleneck adapters. Hugging Face PEFT cannot load them, so the export target `peft` rules them out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bottleneck {
    /// Whether the kind competes.
    pub enabled: bool,
    /// Where they sit.
    pub style: BottleneckStyle,
    /// Hidden size divided by bottleneck size.
    pub reduction_factor: f64,
    /// Non-linearity in the middle.
    pub non_linearity: NonLinearity,
}

impl Default for Bottleneck {
    fn default() -> Self {
        Self {
            enabled: true,
            style: BottleneckStyle::default(),
            reduction_factor: 16.0,
            non_linearity: NonLinearity::default(),
        }
    }
}

/// Optimizer and length of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Optimizer steps in all; exactly one of `steps` and `epochs` is set in a resolved recipe.
    pub steps: Option<usize>,
    /// Passes over the training rows.
    pub epochs: Option<f64>,
    /// Examples a forward pass.
    pub batch_size: usize,
    /// Batches a step.
    pub accumulate: usize,
    /// Whether a decoder recomputes its layers in the backward pass.
    pub checkpointing: bool,
    /// Whether what the layers below the lowest trained group give of each row is kept in memory.
    pub keep_frozen_layers: bool,
    /// Learning rate of the adapter.
    pub learning_rate: f64,
    /// Learning rate of the head; `None` is the same.
    pub head_learning_rate: Option<f64>,
    /// Learning rate of a LoRA's `B`, which is the adapter's, as a multiple of its `A`'s; `None` goes by how often rows are seen.
    pub loraplus_lr_ratio: Option<f64>,
    /// Rate of the base model's own dropout, in the training of the chosen set.
    pub dropout: f64,
    /// Decoupled weight decay, not on biases and norms.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Term that keeps the division finite.
    pub epsilon: f64,
    /// Share of the steps with a rising rate.
    pub warmup: f64,
    /// How the rate moves afterwards.
    pub schedule: Schedule,
    /// Share of a set's training, at its end, over which the values are averaged where it sees the rows often.
    pub average: f64,
    /// Largest norm of the gradient; 0 clips nothing.
    pub clip: f64,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: Some(3.0),
            batch_size: 16,
            accumulate: 1,
            checkpointing: false,
            keep_frozen_layers: false,
            learning_rate: 3e-3,
            head_learning_rate: None,
            loraplus_lr_ratio: None,
            dropout: 0.0,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            warmup: 0.06,
            schedule: Schedule::default(),
            average: 0.5,
            clip: 1.0,
        }
    }
}

/// How influence is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probe {
    /// Training steps of the superset.
    pub steps: usize,
    /// Share of the steps before the first measurement.
    pub burn_in: f64,
    /// Steps that train the head alone, before the probe, on the outputs of the frozen layers.
    pub head_warmup: usize,
    /// Steps between measurements.
    pub every: usize,
    /// How slopes and curvature are measured.
    pub estimator: Estimator,
    /// Examples a measurement.
    pub examples: usize,
    /// Up to so many classes the Gauss-Newton matrix is exact; above, labels are drawn from the model.
    pub exact_classes: usize,
    /// How parameters are put together.
    pub grouping: Grouping,
    /// Who sets the rates.
    pub learning_rates: LearningRates,
    /// Whether clear losers stop training before the end.
    pub early_freeze: bool,
    /// Bootstrap draws for the intervals.
    pub resamples: usize,
    /// Coverage of the intervals.
    pub confidence: f64,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            steps: 24,
            burn_in: 0.2,
            head_warmup: 100,
            every: 6,
            estimator: Estimator::default(),
            examples: 64,
            exact_classes: 8,
            grouping: Grouping::default(),
            learning_rates: LearningRates::default(),
            early_freeze: true,
            resamples: 500,
            confidence: 0.9,
        }
    }
}

/// How groups are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    /// The rule.
    pub method: Method,
    /// Parameters to keep besides the head: a count, or a share of the model with `%`.
    #[serde(deserialize_with = "text_or_number")]
    pub budget: String,
    /// Kinds in the order in which the budget is spent on them, before all others.
    pub order: Vec<ModuleKind>,
    /// Parameters for each nat in the training rows, up to which it is filled after the first kind; `None` fills it.
    pub per_nat: Option<f64>,
    /// Whose set within the budget is the rule's.
    pub solver: Solver,
    /// Factor of `psi`.
    pub psi: f64,
    /// Number of groups of `top`.
    pub top: usize,
    /// Share of the influence of `threshold`.
    pub threshold: f64,
    /// Steps from one fit of the learning rates' height to the next; 0 fits nothing after the selection.
    pub refit: usize,
    /// Highest learning rate that fits raise the kept set to.
    pub max_learning_rate: f64,
    /// How training goes on.
    pub after: After,
    /// Training steps after the selection; see [`Recipe::horizon`].
    pub steps: Option<usize>,
}

impl Default for Select {
    fn default() -> Self {
        Self {
            method: Method::default(),
            budget: "0.3%".to_owned(),
            order: vec![ModuleKind::Norm, ModuleKind::Lora],
            per_nat: Some(12.0),
            solver: Solver::default(),
            psi: 10.0,
            top: 10,
            threshold: 0.95,
            refit: 12,
            max_learning_rate: 9e-3,
            after: After::default(),
            steps: None,
        }
    }
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// Who shall load it.
    pub target: Target,
    /// How biases are written for PEFT.
    pub bias_style: BiasStyle,
    /// Whether an existing result is replaced.
    pub force: bool,
}

/// A budget may be written as `5000` or `0.3%`; both are kept as text.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a count or a share such as `0.3%`")]
    enum TextOrNumber {
        Count(u64),
        Number(f64),
        Text(String),
    }
    Ok(match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Count(count) => count.to_string(),
        TextOrNumber::Number(number) => number.to_string(),
        TextOrNumber::Text(text) => text,
    })
}
