//! The words a recipe may use: one enum for each key with a closed set of values.
//!
//! A word is written once, here; YAML, `--set`, flags, help and error messages all read it from the enum.

use autopeft_adapters::Kind;
use serde::{Deserialize, Serialize};

/// Defines an enum whose variants have a spelling: serde names, `WORDS`, `ALL`, `as_str`, `Display` and `FromStr`.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The spelling of every value, in the same order.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];

            /// The spelling used in recipes and flags.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { found: text.to_owned(), expected: Self::WORDS }),
                }
            }
        }
    };
}

/// A word that is not in the closed set of its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is none of `{}`", expected.join("`, `"))]
pub struct UnknownWord {
    /// What was written.
    pub found: String,
    /// What may be written.
    pub expected: &'static [&'static str],
}

words! {
    /// Number type of the weights and of the computation.
    Dtype {
        /// 32-bit floats.
        #[default]
        F32 = "f32",
        /// 64-bit floats: slow, for checks.
        F64 = "f64",
        /// 16-bit IEEE floats: on a GPU only.
        F16 = "f16",
        /// 16-bit brain floats: on a GPU only.
        Bf16 = "bf16",
    }
}

words! {
    /// What is learned.
    TaskKind {
        /// One label for a text or a pair of texts.
        #[default]
        TextClassification = "text-classification",
        /// A number for a text or a pair of texts.
        Regression = "regression",
        /// Any number of labels for a text or a pair of texts.
        MultiLabel = "multi-label",
        /// The next token of a text, or of the completion of a prompt.
        CausalLm = "causal-lm",
        /// What the assistant says in a chat; prompts and completions are turns of one.
        Instruction = "instruction",
    }
}

impl TaskKind {
    /// Whether tokens are predicted, not labels.
    pub fn is_language(self) -> bool {
        match self {
            Self::TextClassification | Self::Regression | Self::MultiLabel => false,
            Self::CausalLm | Self::Instruction => true,
        }
    }

    /// What `transformers` calls it in the configuration of a model with a head; `None` for a language model.
    pub fn problem_type(self) -> Option<&'static str> {
        match self {
            Self::TextClassification => Some("single_label_classification"),
            Self::Regression => Some("regression"),
            Self::MultiLabel => Some("multi_label_classification"),
            Self::CausalLm | Self::Instruction => None,
        }
    }
}

words! {
    /// Which tokens a language model learns.
    Learned {
        /// What follows a prompt, or what the assistant says; of a plain text everything.
        #[default]
        Completion = "completion",
        /// Everything.
        All = "all",
    }
}

words! {
    /// How the encoder's output becomes one vector a text.
    Pooling {
        /// The way of the family's own head: the first token.
        #[default]
        Default = "default",
        /// The mean over the tokens that are not padding.
        Mean = "mean",
    }
}

words! {
    /// Where bottleneck adapters sit. Names as in AdapterHub.
    BottleneckStyle {
        /// One a layer, after the feed-forward block.
        #[default]
        Pfeiffer = "pfeiffer",
        /// Two a layer, after attention and after the feed-forward block.
        Houlsby = "houlsby",
        /// One a layer, beside the feed-forward block.
        Parallel = "parallel",
    }
}

words! {
    /// A kind of module that competes for the budget.
    ModuleKind {
        /// Low-rank updates of linear layers.
        Lora = "lora",
        /// Biases of linear layers.
        Bias = "bias",
        /// Gains and offsets of norms.
        #[default]
        Norm = "norm",
        /// Bottleneck adapters.
        Bottleneck = "bottleneck",
    }
}

impl From<ModuleKind> for Kind {
    fn from(kind: ModuleKind) -> Self {
        match kind {
            ModuleKind::Lora => Self::Lora,
            ModuleKind::Bias => Self::Bias,
            ModuleKind::Norm => Self::Norm,
            ModuleKind::Bottleneck => Self::Bottleneck,
        }
    }
}

words! {
    /// Non-linearity inside a bottleneck adapter.
    NonLinearity {
        /// `max(0, x)`.
        #[default]
        Relu = "relu",
        /// `x·Φ(x)`, the exact form.
        Gelu = "gelu",
        /// `x·sigmoid(x)`.
        Swish = "swish",
    }
}

words! {
    /// How the learning rate moves after the warm-up.
    Schedule {
        /// Falls in a straight line to zero.
        #[default]
        Linear = "linear",
        /// Stays as it is.
        Constant = "constant",
    }
}

words! {
    /// How a group's slope and curvature are measured.
    Estimator {
        /// Per-example gates: the whole Gauss-Newton matrix, positive semi-definite.
        #[default]
        GaussNewton = "gauss-newton",
        /// One Hessian-vector product with random signs: the Hessian's diagonal.
        Hvp = "hvp",
        /// One Hessian-vector product a group: the whole Hessian.
        Full = "full",
        /// Losses at points on each group's own axis, as in the paper: the diagonal.
        Fit = "fit",
    }
}

impl Estimator {
    /// Whether the estimator also measures how groups act together (off-diagonal entries), which coupled selection needs.
    pub fn measures_coupling(self) -> bool {
        match self {
            Self::GaussNewton | Self::Full => true,
            Self::Hvp | Self::Fit => false,
        }
    }
}

words! {
    /// Who sets the learning rates of the groups during the probe.
    LearningRates {
        /// One rate for all groups, kept where the steps of all together are good.
        #[default]
        Common = "common",
        /// The same height, and between the groups the ratios of their own measured optima (Hi-DLR).
        HiDlr = "hi-dlr",
        /// The rates of `train`.
        Fixed = "fixed",
    }
}

words! {
    /// The rule that chooses groups.
    Method {
        /// The most valuable set within a number of parameters.
        #[default]
        Budget = "budget",
        /// The chain of sets in the order of influence, the knee measured on held-out data.
        Pareto = "pareto",
        /// The paper's rule: at least `psi` times the reference influence of the base weights.
        Psi = "psi",
        /// The `top` most influential groups.
        Top = "top",
        /// The fewest groups that hold `threshold` of the whole influence.
        Threshold = "threshold",
    }
}

words! {
    /// Whose set within a budget is the rule's.
    Solver {
        /// The greatest sum of the groups' own predicted decreases.
        #[default]
        Exact = "exact",
        /// The greatest predicted decrease together.
        Coupled = "coupled",
        /// The greatest sum of slopes.
        Slope = "slope",
        /// By influence per parameter, as in the paper.
        Greedy = "greedy",
    }
}

words! {
    /// How training goes on after the selection.
    After {
        /// From the initial values, with the head as it was before the probe.
        #[default]
        Rewind = "rewind",
        /// From the values the probe reached.
        Continue = "continue",
    }
}

words! {
    /// Who shall load the result. Restricts the superset before the probe.
    Target {
        /// This tool and its crate: every kind.
        #[default]
        Autopeft = "autopeft",
        /// Hugging Face PEFT: no bottleneck adapters.
        Peft = "peft",
        /// Servers of language models with adapters (vLLM, SGLang, TGI, LoRAX, llama.cpp, mistral.rs): LoRA only, of one rank,
        /// on the same modules of all layers.
        Servers = "servers",
        /// AdapterHub: bottleneck adapters only.
        Adapterhub = "adapterhub",
    }
}

words! {
    /// How biases are written for PEFT.
    BiasStyle {
        /// Bias values under their own names, loaded with `bias: "all"`.
        #[default]
        Bare = "bare",
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU the build and the machine have, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA GPU of this number; `cuda` alone is number 0.
    Cuda(usize),
    /// The Apple GPU.
    Metal,
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| {
                    format!("`{text}` is none of `auto`, `cpu`, `cuda`, `cuda:N`, `metal`")
                }),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
    }
}

/// One word or a list: the YAML form of [`Targets`] and [`Grouping`].
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected one word or a list of regular expressions"
)]
enum WordOrPatterns {
    Word(String),
    Patterns(Vec<String>),
}

/// Which linear layers get a LoRA.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "WordOrPatterns", into = "WordOrPatterns")]
pub enum Targets {
    /// Every linear layer of the encoder (the head is no target).
    #[default]
    AllLinear,
    /// The linear layers whose path matches one of these regular expressions.
    Patterns(Vec<String>),
}

impl TryFrom<WordOrPatterns> for Targets {
    type Error = String;

    fn try_from(value: WordOrPatterns) -> Result<Self, String> {
        match value {
            WordOrPatterns::Word(word) if word == "all-linear" => Ok(Self::AllLinear),
            WordOrPatterns::Word(word) => {
                Err(format!("`{word}` is neither `all-linear` nor a list"))
            }
            WordOrPatterns::Patterns(patterns) => Ok(Self::Patterns(patterns)),
        }
    }
}

impl From<Targets> for WordOrPatterns {
    fn from(targets: Targets) -> Self {
        match targets {
            Targets::AllLinear => Self::Word("all-linear".to_owned()),
            Targets::Patterns(patterns) => Self::Patterns(patterns),
        }
    }
}

/// How parameters are put together into groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "WordOrPatterns", into = "WordOrPatterns")]
pub enum Grouping {
    /// One group for each kind, role and layer (and rank slice).
    #[default]
    Module,
    /// One group for each kind and layer.
    KindLayer,
    /// One group for each kind, as in the paper.
    Kind,
    /// One group for each regular expression over parameter paths.
    Patterns(Vec<String>),
}

impl Grouping {
    /// The words that may stand in place of a list.
    pub const WORDS: &'static [&'static str] = &["module", "kind-layer", "kind"];
}

impl TryFrom<WordOrPatterns> for Grouping {
    type Error = String;

    fn try_from(value: WordOrPatterns) -> Result<Self, String> {
        match value {
            WordOrPatterns::Word(word) => match word.as_str() {
                "module" => Ok(Self::Module),
                "kind-layer" => Ok(Self::KindLayer),
                "kind" => Ok(Self::Kind),
                _ => Err(format!(
                    "`{word}` is none of `module`, `kind-layer`, `kind`"
                )),
            },
            WordOrPatterns::Patterns(patterns) => Ok(Self::Patterns(patterns)),
        }
    }
}

impl From<Grouping> for WordOrPatterns {
    fn from(grouping: Grouping) -> Self {
        match grouping {
            Grouping::Module => Self::Word("module".to_owned()),
            Grouping::KindLayer => Self::Word("kind-layer".to_owned()),
            Grouping::Kind => Self::Word("kind".to_owned()),
            Grouping::Patterns(patterns) => Self::Patterns(patterns),
        }
    }
}
