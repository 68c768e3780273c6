//! `selection.json`: every group with its measurement and its fate, and the values on held-out rows.

use std::collections::BTreeSet;
use std::path::Path;

use autopeft_adapters::Kind;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::groups::Place;
use crate::metrics::Evaluation;

/// Name of the file.
pub const SELECTION_FILE: &str = "selection.json";

/// The whole answer of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SelectionReport {
    /// Version of the layout.
    pub schema: u32,
    /// Version of the program.
    pub version: String,
    /// The base model.
    pub model: ModelReport,
    /// The rows.
    pub data: DataReport,
    /// How the groups were measured.
    pub probe: ProbeReport,
    /// Whether the run reached its end; otherwise nothing was chosen yet.
    pub complete: bool,
    /// Rule of the choice, as in the recipe.
    pub method: String,
    /// Parameters that may be kept beside the head, where the rule has a budget.
    pub budget: Option<usize>,
    /// Parameters that the training rows determine, where that is less and cut the choice short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub determined: Option<usize>,
    /// Kinds of the recipe that were not measured, since the one that comes first fills the budget.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_out: BTreeSet<Kind>,
    /// Parameters of the superset, the head apart.
    pub superset_parameters: usize,
    /// Parameters kept, the head apart.
    pub kept_parameters: usize,
    /// Parameters of the head.
    pub head_parameters: usize,
    /// The sets that different rules would keep; the first is the one that was used.
    pub sets: Vec<SetReport>,
    /// Values on held-out rows, in the order in which they were measured.
    pub held_out: Vec<HeldOut>,
    /// Every group, by influence.
    pub groups: Vec<GroupReport>,
}

impl SelectionReport {
    /// The version of the layout that this program writes.
    pub const SCHEMA: u32 = 1;

    /// Reads the report of a result.
    ///
    /// # Errors
    /// When there is none, or it is of a later version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SELECTION_FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        let malformed = |reason: String| Error::Malformed {
            path: path.clone(),
            reason,
        };
        let report: Self =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        match report.schema {
            Self::SCHEMA => Ok(report),
            other => Err(malformed(format!(
                "its layout is version {other}, this program reads {}",
                Self::SCHEMA
            ))),
        }
    }

    /// Transformer layers of the model.
    pub fn num_layers(&self) -> usize {
        let last = self.groups.iter().filter_map(|group| group.layer).max();
        (self.model.layers).unwrap_or_else(|| last.map_or(0, |last| last + 1))
    }
}

/// The base model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelReport {
    /// Folder, hub id or embedded name.
    pub source: String,
    /// `model_type` of its configuration.
    pub model_type: String,
    /// Its transformer layers; results of earlier builds do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Numbers in its checkpoint.
    pub parameters: usize,
    /// Device of the run.
    pub device: String,
    /// Number type of the run.
    pub dtype: String,
    /// Head modules that the checkpoint did not have.
    pub fresh: Vec<String>,
}

/// The rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataReport {
    /// Rows to train and measure on.
    pub train: usize,
    /// Held-out rows.
    pub validation: usize,
    /// Class names.
    pub labels: Vec<String>,
    /// Rows longer than the limit, which lost their end.
    pub truncated: usize,
    /// Rows that could not be used and were skipped on request.
    pub skipped: usize,
}

/// How the groups were measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The estimator.
    pub estimator: String,
    /// Training steps.
    pub steps: usize,
    /// Measurements.
    pub measurements: usize,
    /// Examples of each.
    pub examples: usize,
    /// Seconds of the probe, measurements included.
    pub seconds: f64,
    /// Largest difference of two evaluations of one loss.
    pub noise: f64,
    /// Groups that stopped training before its end.
    pub frozen: usize,
}

/// A set of groups that a rule would keep.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetReport {
    /// The rule.
    pub rule: String,
    /// Groups.
    pub groups: usize,
    /// Parameters.
    pub parameters: usize,
    /// Predicted decrease of the loss by the groups one by one, mean over the measurements.
    pub value: f64,
    /// Predicted decrease of the loss by all of them together, summed over the measurements.
    pub coupled_value: Option<f64>,
}

/// When a value was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The base model with the head as it starts.
    Untrained,
    /// The superset at the end of the probe.
    Superset,
    /// The same with the dropped groups put back to where they change nothing.
    Dropped,
    /// The trimmed adapter at the end of its training.
    Trimmed,
}

/// A value on held-out rows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HeldOut {
    /// When.
    pub stage: Stage,
    /// Training steps taken until then, the head's warm-up included.
    pub steps: usize,
    /// The value.
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

/// One group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Path of its modules within a layer.
    pub role: String,
    /// Number of its layer.
    pub layer: Option<usize>,
    /// Number of its rank block.
    pub block: Option<usize>,
    /// Numbers in it.
    pub parameters: usize,
    /// Mean slope `b`, loss per unit rate.
    pub slope: f64,
    /// Mean curvature `A`, loss per unit rate squared.
    pub curvature: f64,
    /// Predicted decrease `b²/2A`, mean over the measurements.
    pub value: f64,
    /// Influence `b²/(A d)`, mean over the measurements.
    pub influence: f64,
    /// Bootstrap interval of the influence.
    pub interval: (f64, f64),
    /// Rank by influence, from 1.
    pub rank: usize,
    /// Bootstrap interval of the rank.
    pub rank_interval: (usize, usize),
    /// Share of the measurements that were usable.
    pub acceptance: f64,
    /// Whether less than half were.
    pub low_confidence: bool,
    /// Whether it never had a gradient to measure.
    pub insufficient_signal: bool,
    /// Learning rate at the end of the probe.
    pub learning_rate: f64,
    /// Whether it was kept.
    pub kept: bool,
    /// Why.
    pub reason: String,
}

impl GroupReport {
    /// Where it is, in terms that hold for every model of the family.
    pub fn place(&self) -> Place {
        Place::new(self.kind, &self.name, self.layer)
    }
}
