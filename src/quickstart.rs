//! The embedded model and data set, so that the program runs without any file. Made by
//! `scripts/make_quickstart.py`; origin and licences are in `assets/quickstart/NOTICE.md`.

use crate::data::{Format, Source};

/// The name that recipes use for both.
pub const NAME: &str = "embedded:quickstart";

pub(crate) const CONFIG: &[u8] = include_bytes!("../assets/quickstart/config.json");
pub(crate) const TOKENIZER: &str = include_str!("../assets/quickstart/tokenizer.json");
pub(crate) const WEIGHTS: &[u8] = include_bytes!("../assets/quickstart/model.safetensors");
const TRAIN: &[u8] = include_bytes!("../assets/quickstart/train.jsonl");
const VALIDATION: &[u8] = include_bytes!("../assets/quickstart/validation.jsonl");

/// The training rows.
pub fn train() -> Source {
    Source::embedded("embedded:quickstart (train)", Format::JsonLines, TRAIN)
}

/// The held-out rows.
pub fn validation() -> Source {
    Source::embedded(
        "embedded:quickstart (validation)",
        Format::JsonLines,
        VALIDATION,
    )
}
