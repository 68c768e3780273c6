//! The whole way from a recipe to a result, on the tiny fixtures of `tests/fixtures/models`.

#![expect(
    clippy::result_large_err,
    reason = "an error here ends a test, its size does not matter"
)]
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod bad_inputs;
mod bench;
mod choices;
#[allow(dead_code, reason = "the runs open the device themselves")]
#[path = "../../adapters/tests/device/mod.rs"]
mod device;
mod language;
mod merge;
mod program;
mod rates;
mod results;
mod stops;
mod tasks;
mod transfer;
