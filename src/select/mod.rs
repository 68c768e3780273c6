//! Which groups to keep: budgets, knapsacks, coupled selection and the rules that turn scores into a decision.
//!
//! Pure functions over numbers: nothing here knows of models, tensors or files.

pub mod budget;
pub mod coupled;
mod error;
pub mod knapsack;
mod sweep;

pub use budget::{Budget, BudgetError};
pub use error::SelectError;
