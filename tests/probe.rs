//! The probe on tiny models: estimators against exact matrices, the laws of influence, training and measuring
//! together, and the groups as choices.

#[path = "probe/choices.rs"]
mod choices;
#[path = "probe/curvature.rs"]
mod curvature;
#[path = "probe/fixture.rs"]
mod fixture;
#[path = "probe/frozen_layers.rs"]
mod frozen_layers;
#[allow(dead_code, reason = "other tests use the rest of it")]
mod golden;
#[path = "probe/half.rs"]
mod half;
#[path = "probe/heads.rs"]
mod heads;
#[path = "probe/language.rs"]
mod language;
#[path = "probe/laws.rs"]
mod laws;
#[path = "probe/linear_probe.rs"]
mod linear_probe;
#[path = "probe/optimizer.rs"]
mod optimizer;
#[path = "probe/prefix.rs"]
mod prefix;
#[path = "probe/rows.rs"]
mod rows;
#[path = "probe/run.rs"]
mod run;
