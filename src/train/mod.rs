//! Training: the optimizer, the schedule, and one step.

mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use schedule::{Schedule, ScheduleKind};
