//! Measures which parameter-efficient fine-tuning modules a model and task need.

pub mod hub;
pub mod models;
