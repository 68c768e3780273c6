//! What a run tells: `selection.json` or `transfer.json`, `metrics.jsonl`, `autopeft.json` and the model card.

mod card;
mod manifest;
mod merged;
mod ours;
mod selection;
mod transfer;

use serde::Serialize;

pub use card::card;
pub use manifest::{MANIFEST_FILE, Manifest};
pub use merged::merged_card;
pub use ours::{MEASUREMENTS_FILE, is_result};
pub use selection::{
    DataReport, GroupReport, HeldOut, ModelReport, ProbeReport, SELECTION_FILE, SelectionReport,
    SetReport, Stage,
};
pub use transfer::{CarriedGroup, OriginReport, TRANSFER_FILE, TransferReport};

/// How a result came about.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub enum Report<'a> {
    /// Its groups were measured and chosen.
    Selection(&'a SelectionReport),
    /// Its groups were chosen on another model.
    Transfer(&'a TransferReport),
}

impl Report<'_> {
    /// Name of the file.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Selection(_) => SELECTION_FILE,
            Self::Transfer(_) => TRANSFER_FILE,
        }
    }
}
