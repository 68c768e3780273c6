//! Measures which parameter-efficient fine-tuning modules a model and task need.

pub mod models;
pub mod probe;
pub mod select;
