//! What a run tells: `selection.json`, `metrics.jsonl`, `autopeft.json` and the model card.

mod card;
mod manifest;
mod selection;

pub use card::card;
pub use manifest::{MANIFEST_FILE, Manifest};
pub use selection::{
    DataReport, GroupReport, HeldOut, ModelReport, ProbeReport, SELECTION_FILE, SelectionReport,
    SetReport, Stage,
};
