//! Losses of numbers and of several labels: value, gradient and Gauss-Newton matrix against differences of outputs.

use std::sync::Arc;

use autopeft::data::{Batch, Targets};
use autopeft::groups::Group;
use autopeft::probe::{Estimate, Estimator, FullHessian, GaussNewton, Point};
use autopeft_adapters::Directions;
use candle_core::DType;

use super::curvature::derivative;
use super::fixture::{Bench, assert_lists_close, assert_matrices_close, whole};

const SALT: f64 = 0.9;
const OUTPUTS: usize = 3;

fn numbers(rows: usize) -> Targets {
    let row = |row: usize| (0..OUTPUTS).map(move |at| (1.3 * row as f64 + at as f64).sin());
    Targets::Numbers((0..rows).map(|number| row(number).collect()).collect())
}

fn flags(rows: usize) -> Targets {
    let row = |row: usize| (0..OUTPUTS).map(move |at| (row + at).is_multiple_of(2) || row == 2);
    Targets::Flags((0..rows).map(|number| row(number).collect()).collect())
}

/// The loss of one example, its gradient and its second derivatives, by the definitions of `torch.nn.MSELoss` and
/// `torch.nn.BCEWithLogitsLoss`.
fn loss(targets: &Targets, row: usize, z: &[f64]) -> f64 {
    let losses = z.iter().enumerate().map(|(at, z)| match targets {
        Targets::Numbers(numbers) => (z - numbers[row][at]).powi(2),
        Targets::Flags(flags) => {
            let p = 1.0 / (1.0 + (-z).exp());
            -if flags[row][at] {
                p.ln()
            } else {
                (1.0 - p).ln()
            }
        }
        _ => panic!("another task"),
    });
    losses.sum::<f64>() / z.len() as f64
}

fn second(targets: &Targets, z: f64) -> f64 {
    let p = 1.0 / (1.0 + (-z).exp());
    let second = if matches!(targets, Targets::Numbers(_)) {
        2.0
    } else {
        p * (1.0 - p)
    };
    second / OUTPUTS as f64
}

fn mean_loss(bench: &Bench, targets: &Targets) -> f64 {
    let outputs = bench.logits();
    let losses = outputs
        .iter()
        .enumerate()
        .map(|(row, z)| loss(targets, row, z));
    losses.sum::<f64>() / outputs.len() as f64
}

fn measure(
    bench: &Bench,
    targets: &Targets,
    estimator: &mut dyn Estimator,
    directions: &Directions,
    step: usize,
) -> Estimate {
    let batch = Batch {
        targets: Some(targets.clone()),
        ..bench.batch()
    };
    let groups: Vec<&Group> = bench.groups.iter().collect();
    let point = Point {
        model: &bench.model,
        batch: &batch,
        groups: &groups,
        directions: &Arc::new(directions.clone()),
        rates: &[],
        step,
    };
    estimator.measure(&point).expect("an estimate")
}

#[test]
fn gauss_newton_of_numbers_and_of_labels_equals_the_exact_matrix_and_slope() {
    let bench = Bench::open("bert", OUTPUTS, DType::F64);
    let directions = bench.directions(SALT);
    let groups = bench.groups.len();
    for targets in [numbers(bench.labels.len()), flags(bench.labels.len())] {
        let outputs = bench.logits();
        let count = outputs.len() as f64;
        let along = |group: &Group, f: &dyn Fn() -> Vec<f64>| {
            derivative(1e-3, |x| bench.displaced(group, &directions, x, f))
        };
        let jacobians: Vec<Vec<f64>> = (bench.groups.iter())
            .map(|group| along(group, &|| bench.logits().concat()))
            .collect();
        let slopes: Vec<f64> = (bench.groups.iter())
            .map(|group| along(group, &|| vec![mean_loss(&bench, &targets)])[0])
            .collect();
        let mut matrix = vec![0.0; groups * groups];
        for (s, row) in outputs.iter().enumerate() {
            for (c, z) in row.iter().enumerate() {
                let h = second(&targets, *z) / count;
                for i in 0..groups {
                    for j in 0..groups {
                        let at = s * OUTPUTS + c;
                        matrix[i * groups + j] += h * jacobians[i][at] * jacobians[j][at];
                    }
                }
            }
        }
        let mut exact = GaussNewton {
            exact_classes: OUTPUTS,
            seed: 0,
        };
        let estimate = measure(&bench, &targets, &mut exact, &directions, 0);
        assert!((estimate.loss - mean_loss(&bench, &targets)).abs() < 1e-12);
        for (k, (got, expected)) in estimate.slope.iter().zip(&slopes).enumerate() {
            assert!(
                (got - expected).abs() < 1e-7 * (1.0 + expected.abs()),
                "{k}: {got} is not {expected}"
            );
        }
        assert_matrices_close(whole(&estimate), &matrix, groups, 1e-6);
        // The gradient that training follows has the same slope.
        let full = measure(&bench, &targets, &mut FullHessian, &directions, 0);
        assert_lists_close(&full.slope, &estimate.slope, 1e-9);
        // Random signs have the matrix as their mean: here the mean of the relative errors of the diagonal.
        const DRAWS: usize = 300;
        let mut mean = vec![0.0; groups * groups];
        for step in 0..DRAWS {
            let mut sampled = GaussNewton {
                exact_classes: 2,
                seed: 3,
            };
            let drawn = measure(&bench, &targets, &mut sampled, &directions, step);
            assert_lists_close(&drawn.slope, &estimate.slope, 1e-9);
            for (mean, a) in mean.iter_mut().zip(whole(&drawn)) {
                *mean += a / DRAWS as f64;
            }
        }
        let errors: Vec<f64> = (0..groups)
            .map(|k| k * groups + k)
            .filter(|at| matrix[*at] > 1e-9)
            .map(|at| (mean[at] / matrix[at] - 1.0).abs())
            .collect();
        let error = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(error < 0.1, "{error}");
    }
}
