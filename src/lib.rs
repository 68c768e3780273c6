//! Measures which parameter-efficient fine-tuning modules a model and task need, and exports the trimmed
//! adapter.

pub mod data;
pub mod models;
pub mod recipe;
