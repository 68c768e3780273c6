//! Measures which parameter-efficient fine-tuning (PEFT) modules a model and task need, and exports the
//! trimmed adapter.
//!
//! `recipe → data → model(base + superset) → groups → probe → select → export`: [`pipeline`] is that line.

pub mod base;
pub mod chat;
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod export;
pub mod generate;
pub mod groups;
pub mod hub;
pub mod interrupt;
pub mod memory;
pub mod metrics;
pub mod models;
pub mod pipeline;
pub mod probe;
pub mod progress;
pub mod quickstart;
pub mod recipe;
pub mod report;
pub mod select;
pub mod task;
pub mod threads;
pub mod train;

pub use error::{Error, Result};
