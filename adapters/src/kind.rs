//! The kinds of PEFT modules, and the parts that a module of each kind is made of.

use serde::{Deserialize, Serialize};

/// A kind of parameter-efficient module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Low-rank adaptation of a linear layer (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>).
    Lora,
    /// The bias of a linear layer (BitFit: Ben Zaken et al. 2021, <https://arxiv.org/abs/2106.10199>).
    Bias,
    /// Gain and offset of a LayerNorm, or gain of an RMSNorm.
    Norm,
    /// A bottleneck adapter (Houlsby et al. 2019, <https://arxiv.org/abs/1902.00751>).
    Bottleneck,
    /// A task head, trained whole.
    Head,
    /// A base weight that is measured as a reference and never trained.
    Base,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Lora,
        Self::Bias,
        Self::Norm,
        Self::Bottleneck,
        Self::Head,
        Self::Base,
    ];

    /// The kind's name, as in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Bias => "bias",
            Self::Norm => "norm",
            Self::Bottleneck => "bottleneck",
            Self::Head => "head",
            Self::Base => "base",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What one parameter is within its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// `A`, shape (rank of the block, in), of rank block number `block`.
    LoraA {
        /// Number of the rank block, from 0.
        block: usize,
    },
    /// `B`, shape (out, rank of the block), of rank block number `block`.
    LoraB {
        /// Number of the rank block, from 0.
        block: usize,
    },
    /// A weight: (out, in) of a linear layer, (hidden) of a norm.
    Weight,
    /// A bias or offset: (out) or (hidden).
    Bias,
    /// Down-projection of a bottleneck: (bottleneck, hidden).
    DownWeight,
    /// Bias of the down-projection: (bottleneck).
    DownBias,
    /// Up-projection of a bottleneck: (hidden, bottleneck).
    UpWeight,
    /// Bias of the up-projection: (hidden).
    UpBias,
}

impl Part {
    /// The name within the module, such as `lora_A.0`.
    pub fn name(self) -> String {
        match self {
            Self::LoraA { block } => format!("lora_A.{block}"),
            Self::LoraB { block } => format!("lora_B.{block}"),
            Self::Weight => "weight".to_string(),
            Self::Bias => "bias".to_string(),
            Self::DownWeight => "adapter_down.weight".to_string(),
            Self::DownBias => "adapter_down.bias".to_string(),
            Self::UpWeight => "adapter_up.weight".to_string(),
            Self::UpBias => "adapter_up.bias".to_string(),
        }
    }

    /// The module's path in a parameter's name: what is left without the part.
    pub(crate) fn split(name: &str) -> &str {
        // The longer endings first: `weight` ends `adapter_up.weight` too.
        let endings = [
            Self::DownWeight,
            Self::DownBias,
            Self::UpWeight,
            Self::UpBias,
            Self::LoraA { block: 0 },
            Self::LoraB { block: 0 },
            Self::Weight,
            Self::Bias,
        ];
        let mut found = endings.iter().filter_map(|part| {
            let module = name.strip_suffix(part.name().as_str())?;
            module.strip_suffix('.')
        });
        found.next().unwrap_or(name)
    }

    /// The rank block that the part belongs to, for LoRA.
    pub const fn block(self) -> Option<usize> {
        match self {
            Self::LoraA { block } | Self::LoraB { block } => Some(block),
            _ => None,
        }
    }
}
