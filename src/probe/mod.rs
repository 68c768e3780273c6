//! The probe: a short training of the superset that measures the slope and curvature of each group, sets
//! its learning rate by them, and scores its influence.

mod estimator;
mod fit;
mod gauss_newton;
mod height;
mod hessian;
pub mod influence;
mod rates;
mod run;

pub use estimator::{Estimate, Estimator, Point};
pub use fit::ParabolaFit;
pub use gauss_newton::GaussNewton;
pub use height::{FitPace, HeightFit};
pub use hessian::{FullHessian, HessianVectorProduct};
pub use rates::{Reach, next_ratios};
pub use run::{Freeze, Probe, ProbeConfig, ProbeOutcome};
