//! Half precision: layers compute in it, parameters do not live in it.

use std::sync::Arc;

use autopeft::probe::GaussNewton;
use autopeft::train::{AdamW, AdamWConfig};
use autopeft_adapters::{Kind, Part};
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

/// A gain is read from the checkpoint in half precision, so that such a step would be lost where it is rounded.
#[test]
fn a_step_of_gains_below_the_next_number_changes_the_loss_as_in_f32() {
    const STEP: f64 = 1e-3;
    let fall = |dtype| {
        let bench = Bench::attached("bert", 3, dtype, 7);
        let (before, gradients) = bench.gradients();
        for parameter in bench.adapters.parameters() {
            if (parameter.kind(), parameter.part()) != (Kind::Norm, Part::Weight) {
                continue;
            }
            let sign = gradients.get(parameter.index()).expect("a gradient").sign();
            let step = (sign.expect("signs") * STEP).expect("a step");
            let moved = (parameter.value() - step).expect("a value");
            if dtype == DType::BF16 {
                let rounded = moved.to_dtype(dtype).expect("rounded");
                let start = numbers(parameter.initial());
                assert_eq!(numbers(&rounded), start, "{}", parameter.name());
            }
            parameter.set(&moved).expect("its shape");
        }
        before - bench.gradients().0
    };
    let expected = fall(DType::F32);
    assert!(expected > 1e-3, "{expected}");
    for dtype in [DType::BF16, DType::F16] {
        let got = fall(dtype);
        assert!(
            (got - expected).abs() < 0.3 * expected,
            "{dtype:?}: {got} for {expected}"
        );
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
