//! Half precision: layers compute in it, parameters do not live in it.

use std::sync::Arc;

use autopeft::probe::GaussNewton;
use autopeft::train::{AdamW, AdamWConfig};
use autopeft_adapters::Kind;
use candle_core::DType;

use super::fixture::{Bench, diagonal, numbers};

const RATE: f64 = 1e-3;
const STEPS: usize = 6;

/// Losses of AdamW's steps on one batch.
fn trained(bench: &Bench) -> Vec<f64> {
    let config = AdamWConfig {
        weight_decay: 0.0,
        clip: None,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(bench.adapters.parameters(), config);
    let steps = (0..STEPS).map(|_| {
        let (loss, gradients) = bench.gradients();
        let flat = optimizer.direction(&gradients).expect("a direction");
        let directions = optimizer.split(&flat).expect("directions");
        optimizer.apply(&directions, |_| RATE).expect("a step");
        loss
    });
    steps.collect()
}

/// The next number above 1 is 8e-3 away in bf16, so a gain that lived in it would stay where it is.
#[test]
fn small_steps_add_up_and_losses_fall_as_in_f32() {
    let reference = trained(&Bench::attached("bert", 3, DType::F32, 7));
    assert!(reference[STEPS - 1] < 0.9 * reference[0], "{reference:?}");
    for (dtype, tolerance) in [(DType::BF16, 0.03), (DType::F16, 0.004)] {
        let bench = Bench::attached("bert", 3, dtype, 7);
        let losses = trained(&bench);
        for (loss, expected) in losses.iter().zip(&reference) {
            let error = (loss - expected).abs();
            assert!(error < tolerance, "{dtype:?}: {losses:?}, {reference:?}");
        }
        for parameter in bench.adapters.parameters() {
            assert_eq!(
                parameter.value().dtype(),
                DType::F32,
                "{}",
                parameter.name()
            );
            if parameter.kind() == Kind::Norm {
                let way = (parameter.value() - parameter.initial()).expect("a difference");
                let moved = numbers(&way).into_iter().map(f64::abs).fold(0.0, f64::max);
                let most = RATE * STEPS as f64;
                assert!(
                    moved > 0.5 * most && moved < 1.01 * most,
                    "{dtype:?} {}: moved by {moved}",
                    parameter.name()
                );
            }
        }
    }
}

#[test]
fn a_measurement_is_that_in_f32_within_the_rounding() {
    let measured = |dtype| {
        let bench = Bench::open("bert", 3, dtype);
        let directions = Arc::new(bench.steepest());
        let mut estimator = GaussNewton {
            exact_classes: 8,
            seed: 0,
        };
        let rates = vec![RATE; bench.groups.len()];
        let estimate = bench.measure(&mut estimator, &directions, &rates, 0);
        let estimate = estimate.expect("an estimate");
        (estimate.slope.clone(), diagonal(&estimate))
    };
    let (slopes, curvatures) = measured(DType::F32);
    for (dtype, tolerance) in [(DType::BF16, 0.1), (DType::F16, 0.02)] {
        let (got_slopes, got_curvatures) = measured(dtype);
        for (got, expected) in [(&got_slopes, &slopes), (&got_curvatures, &curvatures)] {
            let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            for (got, expected) in got.iter().zip(expected) {
                let error = (got - expected).abs();
                assert!(
                    error < tolerance * largest,
                    "{dtype:?}: {got} for {expected}"
                );
            }
        }
    }
}
