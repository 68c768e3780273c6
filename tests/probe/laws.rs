//! What influence must do whatever the model: forget the scale of a direction, see nothing where nothing is,
//! and rise with a group's contribution.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use autopeft::data::Targets;
use autopeft::models::{Config, Inputs, Model, ModelError};
use autopeft::probe::influence::{
    GroupScore, Measurement, ScoreOptions, Verdict, rounding_floor, score,
};
use autopeft::probe::{Estimate, Estimator, FullHessian, GaussNewton};
use autopeft_adapters::{Directions, Part, Pass};
use candle_core::{DType, Tensor};

use super::curvature::estimators;
use super::fixture::{Bench, diagonal, is_key_bias, judged, measure, whole};
use super::rows::{on_host, rows};

fn gauss_newton() -> GaussNewton {
    GaussNewton {
        exact_classes: 3,
        seed: 0,
    }
}

/// Scores of one measurement.
fn scored(bench: &Bench, estimate: &Estimate) -> Vec<GroupScore> {
    let (verdict, _) = judged(estimate);
    let measurement = Measurement {
        step: 0,
        loss: estimate.loss,
        noise_floor: estimate.noise,
        slope: estimate.slope.clone(),
        curvature: estimate.curvature.clone(),
        verdict,
    };
    let sizes: Vec<usize> = bench.groups.iter().map(|group| group.size).collect();
    score(&[measurement], &sizes, &ScoreOptions::default()).expect("scores")
}

/// A bench that reads many rows instead of the fixture's four.
fn with_many_rows(name: &str, dtype: DType) -> Bench {
    let mut bench = Bench::open(name, 3, dtype);
    let (encoded, padding) = rows(name, 24);
    let all: Vec<usize> = (0..24).collect();
    let batch = on_host(&encoded, padding).batch(&all).expect("a batch");
    bench.inputs = batch.inputs;
    let Some(Targets::Classes(labels)) = batch.targets else {
        panic!("no classes")
    };
    bench.labels = labels;
    bench
}

#[test]
fn parameters_are_the_same_bits_after_every_measurement() {
    for dtype in [DType::F32, DType::F64] {
        let bench = Bench::open("bert", 3, dtype);
        let directions = bench.directions(0.9);
        let rates = vec![0.01; bench.groups.len()];
        let before = bench.bits();
        for mut estimator in estimators() {
            bench
                .measure(&mut *estimator, &directions, &rates, 2)
                .expect("an estimate");
            assert_eq!(bench.bits(), before, "{} {dtype:?}", estimator.name());
        }
    }
}

/// Fails at one of its forward passes.
#[derive(Debug)]
struct Failing<'a> {
    model: &'a dyn Model,
    passes: AtomicUsize,
    at: usize,
}

impl Model for Failing<'_> {
    fn forward(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        if self.passes.fetch_add(1, Ordering::Relaxed) == self.at {
            return Err(candle_core::Error::Msg("planted".to_string()).into());
        }
        self.model.forward(inputs, pass)
    }

    fn config(&self) -> &Config {
        self.model.config()
    }

    fn num_labels(&self) -> usize {
        self.model.num_labels()
    }
}

#[test]
fn parameters_are_the_same_bits_after_a_measurement_that_fails_midway() {
    let bench = Bench::open("bert", 3, DType::F32);
    let directions = Arc::new(bench.directions(0.9));
    let rates = vec![0.01; bench.groups.len()];
    let before = bench.bits();
    let mut failed = 0;
    for mut estimator in estimators() {
        for at in 0..4 {
            let model: Box<dyn Model + '_> = Box::new(Failing {
                model: &*bench.model,
                passes: AtomicUsize::new(0),
                at,
            });
            let result = measure(&model, &bench, &mut *estimator, &directions, &rates, 2);
            failed += usize::from(result.is_err());
            assert_eq!(bench.bits(), before, "{} fails at {at}", estimator.name());
        }
    }
    // Gauss-Newton has one pass, `hvp` four, the others more.
    assert_eq!(failed, 2 + 3 * 4);
    // A direction of a wrong shape fails when half of its group has moved.
    let broken: Directions = bench
        .adapters
        .parameters()
        .iter()
        .map(|parameter| {
            let own = directions.get(parameter.index()).expect("a direction");
            let wrong = Tensor::zeros((3, 5), DType::F32, own.device()).expect("zeros");
            let is_up = parameter.part() == Part::UpWeight;
            (parameter.index(), if is_up { wrong } else { own.clone() })
        })
        .collect();
    for mut estimator in estimators() {
        let result = bench.measure(&mut *estimator, &broken, &rates, 2);
        assert!(result.is_err(), "{}", estimator.name());
        assert_eq!(bench.bits(), before, "{}", estimator.name());
    }
}

#[test]
fn influence_is_invariant_to_rescaled_directions() {
    let bench = Bench::open("bert", 3, DType::F64);
    let directions = bench.steepest();
    let factors: Vec<f64> = (0..bench.groups.len())
        .map(|k| 10f64.powf((k as f64).sin()))
        .collect();
    let rescaled: Directions = bench
        .groups
        .iter()
        .zip(&factors)
        .flat_map(|(group, factor)| group.parameters.iter().map(move |p| (p.index(), *factor)))
        .map(|(index, factor)| {
            let direction = directions.get(index).expect("a direction");
            (index, (direction * factor).expect("a product"))
        })
        .collect();
    let estimators: [(Box<dyn Estimator>, f64, f64); 2] = [
        (Box::new(gauss_newton()), 1e-9, 1e-14),
        // Differences over another distance.
        (Box::new(FullHessian), 1e-5, 1e-8),
    ];
    for (mut estimator, tolerance, rounding) in estimators {
        let mut run = |directions| {
            bench
                .measure(&mut *estimator, directions, &[], 0)
                .expect("an estimate")
        };
        let (plain, scaled) = (run(&directions), run(&rescaled));
        let (a, c) = (whole(&plain), whole(&scaled));
        let groups = factors.len();
        for i in 0..groups {
            let expected = factors[i] * plain.slope[i];
            assert!((scaled.slope[i] - expected).abs() <= tolerance * expected.abs() + 1e-12);
            for j in 0..groups {
                let factor = factors[i] * factors[j];
                let expected = factor * a[i * groups + j];
                let scale = (a[i * groups + i] * a[j * groups + j]).abs().sqrt();
                let allowed =
                    tolerance * expected.abs().max(factor * scale) + rounding * factor.max(1.0);
                let error = (c[i * groups + j] - expected).abs();
                assert!(error <= allowed, "({i}, {j}): {error:.1e} > {allowed:.1e}");
            }
        }
        let (plain, scaled) = (scored(&bench, &plain), scored(&bench, &scaled));
        for (k, (a, c)) in plain.iter().zip(&scaled).enumerate() {
            let name = &bench.groups[k].name;
            assert!(
                (a.value - c.value).abs() <= 10.0 * tolerance * a.value,
                "{name}"
            );
            assert_eq!((a.rank, a.rejections), (c.rank, c.rejections), "{name}");
        }
        let accepted = plain.iter().filter(|score| score.value > 0.0).count();
        assert!(accepted >= 4, "{accepted} of {groups}");
    }
}

#[test]
fn the_biases_of_attention_keys_measure_as_zero() {
    for name in ["bert", "distilbert"] {
        let mut strongest: f64 = 0.0; // of the key biases, relative to the floor
        let mut weakest = f64::INFINITY; // of the others
        for (dtype, salt) in [
            (DType::F64, 0.9),
            (DType::F32, 0.9),
            (DType::F32, 2.1),
            (DType::F32, 4.4),
        ] {
            let bench = with_many_rows(name, dtype);
            let directions = bench.directions(salt);
            let estimate = bench
                .measure(&mut gauss_newton(), &directions, &[], 0)
                .expect("an estimate");
            let diagonal = diagonal(&estimate);
            let floor = rounding_floor(&diagonal);
            let scores = scored(&bench, &estimate);
            let (verdicts, _) = judged(&estimate);
            let keys = bench
                .groups
                .iter()
                .filter(|group| is_key_bias(group))
                .count();
            assert_eq!(keys, 2, "one for each layer");
            for (k, group) in bench.groups.iter().enumerate() {
                let signal = estimate.slope[k].abs().max(diagonal[k].abs().sqrt()) / floor;
                if is_key_bias(group) {
                    assert_eq!(verdicts[k], Verdict::InsufficientSignal, "{}", group.name);
                    assert!(scores[k].insufficient_signal && scores[k].value == 0.0);
                    // A rank behind every group with a value.
                    let behind = scores.iter().filter(|score| score.value > 0.0);
                    assert!(behind.clone().count() > 0);
                    assert!(behind.into_iter().all(|score| score.rank < scores[k].rank));
                    match dtype {
                        DType::F64 => assert!(signal < 1e-8, "{}: {signal}", group.name),
                        _ => strongest = strongest.max(signal),
                    }
                } else {
                    assert_ne!(verdicts[k], Verdict::InsufficientSignal, "{}", group.name);
                    weakest = weakest.min(signal);
                }
            }
        }
        assert!(strongest < 0.1, "{name}: {strongest} of the floor");
        assert!(weakest > 10.0, "{name}: {weakest} of the floor");
    }
}

#[test]
fn every_estimator_finds_no_value_in_the_biases_of_attention_keys() {
    let bench = with_many_rows("bert", DType::F32);
    let directions = bench.directions(0.9);
    let rates = vec![0.01; bench.groups.len()];
    for mut estimator in estimators() {
        let estimate = bench
            .measure(&mut *estimator, &directions, &rates, 0)
            .expect("an estimate");
        let (_, values) = judged(&estimate);
        let largest = values.iter().fold(0.0f64, |most, v| most.max(*v));
        for (k, group) in bench.groups.iter().enumerate() {
            if is_key_bias(group) {
                assert!(
                    values[k] <= 1e-6 * largest,
                    "{}: {}",
                    estimator.name(),
                    group.name
                );
            }
        }
    }
}

#[test]
fn planted_useless_groups_rank_last() {
    let mut bench = with_many_rows("bert", DType::F64);
    let dead = [
        "lora/1/intermediate.dense#0",
        "lora/1/intermediate.dense#1",
        "bias/1/intermediate.dense",
        "lora/1/output.dense#0",
        "lora/1/output.dense#1",
    ]
    .map(|name| bench.position(name));
    let run = |bench: &mut Bench, silent: Option<usize>| {
        let mut directions = bench.steepest();
        if let Some(group) = silent {
            for parameter in &bench.groups[group].parameters {
                let zeros = parameter.initial().zeros_like().expect("zeros");
                directions.insert(parameter.index(), zeros);
            }
        }
        let estimate = bench
            .measure(&mut gauss_newton(), &directions, &[], 0)
            .expect("an estimate");
        (judged(&estimate).0, scored(bench, &estimate))
    };
    let last = |bench: &Bench, scores: &[GroupScore], useless: &[usize]| {
        let others =
            (0..scores.len()).filter(|k| !useless.contains(k) && !is_key_bias(&bench.groups[*k]));
        let worst = others.map(|k| scores[k].rank).max().expect("others");
        useless.iter().all(|k| scores[*k].rank > worst)
    };

    let (verdicts, scores) = run(&mut bench, None);
    for group in dead {
        assert_eq!(
            verdicts[group],
            Verdict::Accepted,
            "alive before it is planted"
        );
    }
    assert!(!last(&bench, &scores, &dead));

    // A direction of zeros.
    let silent = bench.position("norm/0/attention.output.LayerNorm");
    assert!(!last(&bench, &scores, &[silent]));
    let (verdicts, scores) = run(&mut bench, Some(silent));
    assert_eq!(verdicts[silent], Verdict::InsufficientSignal);
    assert!(last(&bench, &scores, &[silent]));

    // A feed-forward block whose activations are shut: GELU is flat zero far below 0, so nothing before it
    // has an effect, and what is behind it reads zeros.
    for parameter in &bench.groups[dead[2]].parameters {
        let shut = (parameter.value() - 1e3).expect("a difference");
        parameter.set(&shut).expect("the same shape");
    }
    let (verdicts, scores) = run(&mut bench, None);
    for group in dead {
        assert_eq!(
            verdicts[group],
            Verdict::InsufficientSignal,
            "{}",
            bench.groups[group].name
        );
        assert_eq!(scores[group].value, 0.0);
    }
    assert!(last(&bench, &scores, &dead));
}

/// Labels from a teacher that is this model after a step of one group only: for each example the class whose
/// logit that step raises most. What is to be learnt is what that group's direction can do.
fn taught_by(bench: &Bench, group: usize, directions: &Directions) -> Vec<u32> {
    let before = bench.logits();
    let after = bench.displaced(&bench.groups[group], directions, -1e-4, || bench.logits());
    before
        .iter()
        .zip(&after)
        .map(|(before, after)| {
            let rises = before
                .iter()
                .zip(after)
                .map(|(before, after)| after - before);
            let best = (0u32..).zip(rises).max_by(|a, b| a.1.total_cmp(&b.1));
            best.expect("a class").0
        })
        .collect()
}

#[test]
fn planting_a_groups_contribution_raises_its_rank() {
    let mut bench = with_many_rows("bert", DType::F64);
    let directions = bench.directions(0.9);
    let candidates: Vec<usize> = (0..bench.groups.len())
        .filter(|k| !is_key_bias(&bench.groups[*k]))
        .collect();
    // Value and rank by value of every group, for labels by each teacher.
    let runs: Vec<(Vec<f64>, Vec<usize>)> = candidates
        .iter()
        .map(|teacher| {
            bench.labels = taught_by(&bench, *teacher, &directions);
            let estimate = bench.measure(&mut gauss_newton(), &directions, &[], 0);
            let (_, values) = judged(&estimate.expect("an estimate"));
            let rank = |k: usize| 1 + values.iter().filter(|v| **v > values[k]).count();
            let ranks = (0..values.len()).map(rank).collect();
            (values, ranks)
        })
        .collect();
    for (own, k) in candidates.iter().enumerate() {
        let name = &bench.groups[*k].name;
        let (values, ranks) = &runs[own];
        assert!(values[*k] > 0.0, "{name}");
        // No other labels give this direction a steeper slope, and the curvature does not know the labels.
        for (others, _) in &runs {
            assert!(others[*k] <= values[*k] * (1.0 + 1e-9), "{name}");
        }
        let mut others: Vec<usize> = (0..runs.len())
            .filter(|other| *other != own)
            .map(|other| runs[other].1[*k])
            .collect();
        others.sort_unstable();
        let median = others[others.len() / 2];
        assert!(
            ranks[*k] < median,
            "{name}: rank {}, else {median}",
            ranks[*k]
        );
    }
}
