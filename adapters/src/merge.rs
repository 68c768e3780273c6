//! x
use candle_core::{DType, Device};
pub fn merged_var_builder() {}
