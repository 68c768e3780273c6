//! Measures which parameter-efficient fine-tuning modules a model and task need.

pub mod cli;
pub mod progress;
pub mod recipe;
