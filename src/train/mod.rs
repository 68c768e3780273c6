//! Training and evaluation: the optimizer, the schedule, the steps, and the value on held-out rows.

mod adamw;
mod average;
mod evaluate;
mod frozen_prefix;
mod linear_probe;
mod mean;
mod schedule;
mod trainer;

pub use adamw::{AdamW, AdamWConfig};
pub use average::Average;
pub use evaluate::{answers, evaluate, outputs};
pub use linear_probe::LinearProbe;
pub(crate) use mean::geometric_mean;
pub use schedule::{Schedule, ScheduleKind};
pub use trainer::{Rows, StepReport, Trainer, TrainerConfig};
