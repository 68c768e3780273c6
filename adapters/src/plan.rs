//! Where modules are attached, and with which sizes.

use std::collections::HashMap;

use candle_core::Tensor;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::bottleneck::Place;
use crate::{Error, Result};

/// Non-linearity of a bottleneck adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// Exact GELU.
    Gelu,
    /// `x σ(x)`.
    Swish,
}

/// Shape of a bottleneck adapter, as AdapterHub names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BottleneckStyle {
    /// After the feed-forward block, behind its LayerNorm (`seq_bn`; Pfeiffer et al. 2020, <https://arxiv.org/abs/2005.00247>).
    Pfeiffer,
    /// After the attention and after the feed-forward block (`double_seq_bn`; Houlsby et al. 2019).
    Houlsby,
    /// Beside the feed-forward block (`par_bn`; He et al. 2021, <https://arxiv.org/abs/2110.04366>).
    Parallel,
}

/// Sizes of a bottleneck adapter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BottleneckPlan {
    /// Where it sits and what it reads.
    pub style: BottleneckStyle,
    /// Hidden size over bottleneck size.
    pub reduction_factor: f64,
    /// Its non-linearity.
    pub non_linearity: Activation,
    /// Factor of its output: 4 for `par_bn`, otherwise 1.
    pub scaling: f64,
}

impl BottleneckPlan {
    /// The settings that AdapterHub has for a style, with another reduction factor.
    pub const fn new(style: BottleneckStyle, reduction_factor: f64) -> Self {
        let (non_linearity, scaling) = match style {
            BottleneckStyle::Pfeiffer => (Activation::Relu, 1.0),
            BottleneckStyle::Houlsby => (Activation::Swish, 1.0),
            BottleneckStyle::Parallel => (Activation::Relu, 4.0),
        };
        Self {
            style,
            reduction_factor,
            non_linearity,
            scaling,
        }
    }

    /// Numbers in the bottleneck, for a hidden size.
    pub fn size(&self, hidden_size: usize) -> usize {
        ((hidden_size as f64 / self.reduction_factor) as usize).max(1)
    }
}

/// Sizes of a LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraPlan {
    /// Rank of each block; a block is a group that is kept or dropped as one.
    pub rank_blocks: Vec<usize>,
    /// Factor of the low-rank product, `alpha / r`.
    pub scale: f64,
    /// Share of the inputs that are dropped in training.
    pub dropout: f64,
}

impl LoraPlan {
    /// Total rank.
    pub fn rank(&self) -> usize {
        self.rank_blocks.iter().sum()
    }
}

/// Which linear layers get a LoRA.
#[derive(Debug, Clone)]
pub enum LoraTargets {
    /// Every linear layer but the head.
    AllLinear,
    /// The layers whose path one of these expressions matches anywhere.
    Matching(Vec<Regex>),
}

/// Everything that a search may keep: the rule that says what each module of a model gets.
#[derive(Debug, Clone)]
pub struct Superset {
    /// Low-rank adaptations.
    pub lora: Option<LoraPlan>,
    /// The linear layers that get them.
    pub lora_targets: LoraTargets,
    /// Biases of linear layers.
    pub bias: bool,
    /// Also biases that cannot change any output (the key's, in softmax attention without rotary
    /// positions, shifts all scores of a query alike).
    pub inert_bias: bool,
    /// Gains and offsets of norms.
    pub norm: bool,
    /// Bottleneck adapters.
    pub bottleneck: Option<BottleneckPlan>,
    /// Base weights of linear layers as reference groups.
    pub base: bool,
    /// Modules whose path one of these expressions matches get nothing.
    pub exclude: Vec<Regex>,
}

impl Superset {
    /// Compiles expressions over module paths.
    ///
    /// # Errors
    /// [`Error::Pattern`] names the first that is none.
    pub fn patterns<S: AsRef<str>>(patterns: &[S]) -> Result<Vec<Regex>> {
        patterns
            .iter()
            .map(|pattern| {
                Regex::new(pattern.as_ref()).map_err(|source| Error::Pattern {
                    pattern: pattern.as_ref().to_string(),
                    source: Box::new(source),
                })
            })
            .collect()
    }

    fn plan(&self, path: &str, shape: SiteShape) -> ModulePlan {
        if self.exclude.iter().any(|pattern| pattern.is_match(path)) {
            return ModulePlan::default();
        }
        match shape {
            SiteShape::Linear {
                bias, inert_bias, ..
            } => ModulePlan {
                lora: self.lora.clone().filter(|_| self.targets(path)),
                bias: bias && self.bias && (self.inert_bias || !inert_bias),
                base: self.base,
                ..ModulePlan::default()
            },
            SiteShape::Norm { .. } => ModulePlan {
                norm: self.norm,
                ..ModulePlan::default()
            },
            SiteShape::Bottleneck { place, .. } => ModulePlan {
                bottleneck: self.bottleneck.filter(|plan| place.belongs_to(plan.style)),
                ..ModulePlan::default()
            },
            SiteShape::Head { .. } => ModulePlan::default(),
        }
    }

    fn targets(&self, path: &str) -> bool {
        match &self.lora_targets {
            LoraTargets::AllLinear => true,
            LoraTargets::Matching(patterns) => {
                patterns.iter().any(|pattern| pattern.is_match(path))
            }
        }
    }
}

/// What one module gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModulePlan {
    /// A LoRA on a linear layer.
    pub lora: Option<LoraPlan>,
    /// The bias of a linear layer.
    pub bias: bool,
    /// The gain and offset of a norm.
    pub norm: bool,
    /// A bottleneck adapter.
    pub bottleneck: Option<BottleneckPlan>,
    /// The base weight, measured only.
    pub base: bool,
}

/// A place in a model where something can be attached.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Path of the module, as in the checkpoint.
    pub path: String,
    /// Its kind and sizes.
    pub shape: SiteShape,
}

/// Kind and sizes of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteShape {
    /// A linear layer.
    Linear {
        /// Size of its input.
        in_features: usize,
        /// Size of its output.
        out_features: usize,
        /// Whether it has a bias.
        bias: bool,
        /// Whether that bias can change no output.
        inert_bias: bool,
        /// Whether the checkpoint has its weight as (in, out).
        transposed: bool,
    },
    /// A LayerNorm or RMSNorm.
    Norm {
        /// Size of the normalised dimension.
        hidden_size: usize,
        /// Whether it has an offset.
        bias: bool,
    },
    /// A place for a bottleneck adapter.
    Bottleneck {
        /// Size of its input and output.
        hidden_size: usize,
        /// Which place it is.
        place: Place,
    },
    /// A task head, trained whole.
    Head {
        /// Size of its input.
        in_features: usize,
        /// Size of its output.
        out_features: usize,
    },
}

/// What an [`crate::Adapters`] follows.
#[derive(Debug)]
pub(crate) enum Plan {
    None,
    Superset(Superset),
    Loaded(Loaded),
}

/// An adapter read from files: what each module gets, and the values by parameter name.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) modules: HashMap<String, ModulePlan>,
    pub(crate) values: HashMap<String, Tensor>,
    /// Whether base weights are stored as (in, out), as the file says.
    pub(crate) transposed: bool,
}

impl Loaded {
    /// What a module holds, in words.
    pub(crate) fn describe(&self, module: &str) -> String {
        let Some(plan) = self.modules.get(module) else {
            return "head".to_string();
        };
        let mut parts = Vec::new();
        if let Some(lora) = &plan.lora {
            parts.push(format!("lora (rank {})", lora.rank()));
        }
        if plan.bottleneck.is_some() {
            parts.push("bottleneck".to_string());
        }
        let has = |part: &str| self.values.contains_key(&format!("{module}.{part}"));
        match (has("weight"), has("bias")) {
            (true, true) => parts.push("weight, bias".to_string()),
            (true, false) => parts.push("weight".to_string()),
            (false, true) => parts.push("bias".to_string()),
            (false, false) => {}
        }
        parts.join(", ")
    }
}

impl Plan {
    pub(crate) fn module(&self, path: &str, shape: SiteShape) -> ModulePlan {
        match self {
            Self::None => ModulePlan::default(),
            Self::Superset(superset) => superset.plan(path, shape),
            Self::Loaded(loaded) => loaded.modules.get(path).cloned().unwrap_or_default(),
        }
    }
}
