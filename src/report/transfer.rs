//! `transfer.json`: a choice that was made on another model, where it came from, and what became of it here.

use std::path::PathBuf;

use autopeft_adapters::Kind;
use serde::{Deserialize, Serialize};

use super::selection::{DataReport, HeldOut, ModelReport};

/// Name of the file.
pub const TRANSFER_FILE: &str = "transfer.json";

/// The whole answer of a run. Nothing was measured here, so no group has a score.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransferReport {
    /// Version of the layout.
    pub schema: u32,
    /// Version of the program.
    pub version: String,
    /// The choice as it was made.
    pub origin: OriginReport,
    /// The model that it was carried to.
    pub model: ModelReport,
    /// For each layer of the model the layer of the other one that is as deep.
    pub layers: Vec<usize>,
    /// The rows, where it was trained.
    pub data: Option<DataReport>,
    /// Training steps, the head's warm-up included; 0 for an adapter that changes nothing yet.
    pub steps: usize,
    /// Groups that could have been kept.
    pub superset_groups: usize,
    /// Parameters of the superset, the head apart.
    pub superset_parameters: usize,
    /// Parameters kept, the head apart.
    pub kept_parameters: usize,
    /// Parameters of the head.
    pub head_parameters: usize,
    /// Values on held-out rows, in the order in which they were measured; none without training.
    pub held_out: Vec<HeldOut>,
    /// The groups that are kept, in the model's order, and the head.
    pub groups: Vec<CarriedGroup>,
}

impl TransferReport {
    /// The version of the layout that this program writes.
    pub const SCHEMA: u32 = 1;

    /// Whether the adapter was trained.
    pub fn is_trained(&self) -> bool {
        self.data.is_some()
    }

    /// The groups that are kept, the head apart.
    pub fn kept(&self) -> impl Iterator<Item = &CarriedGroup> {
        self.groups.iter().filter(|group| group.kind != Kind::Head)
    }
}

/// The choice as it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OriginReport {
    /// The folder that `autopeft select` wrote.
    pub folder: PathBuf,
    /// The model that was measured.
    pub model: String,
    /// Its transformer layers.
    pub layers: usize,
    /// Numbers in its checkpoint.
    pub parameters: usize,
    /// Rule of the choice.
    pub method: String,
    /// Parameters that might be kept there, where the rule has a budget.
    pub budget: Option<usize>,
    /// Groups that were kept, the head apart.
    pub kept_groups: usize,
    /// Groups that were measured, the head apart.
    pub groups: usize,
    /// Parameters that were kept, the head apart.
    pub kept_parameters: usize,
}

/// A group that is kept because its counterpart was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CarriedGroup {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Path of its modules within a layer.
    pub role: String,
    /// Number of its layer.
    pub layer: Option<usize>,
    /// Layer of the other model whose choice it follows.
    pub from_layer: Option<usize>,
    /// Number of its rank block.
    pub block: Option<usize>,
    /// Numbers in it.
    pub parameters: usize,
    /// Learning rate at the end of the training, where there was one.
    pub learning_rate: Option<f64>,
}
