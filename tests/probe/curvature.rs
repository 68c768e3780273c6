//! The estimators against exact matrices in double precision, made from differences of logits, losses and
//! gradients, and against each other.

use autopeft::probe::influence::Verdict;
use autopeft::probe::{Estimator, FullHessian, GaussNewton, HessianVectorProduct, ParabolaFit};
use autopeft_adapters::Directions;
use candle_core::DType;

use super::fixture::{
    Bench, assert_lists_close, assert_matrices_close, diagonal, is_key_bias, judged, numbers, whole,
};

const SALT: f64 = 0.9;

/// `df/dx` at 0 from four values; its error is of the fourth order.
pub fn derivative(step: f64, mut f: impl FnMut(f64) -> Vec<f64>) -> Vec<f64> {
    let (above, below) = (f(step), f(-step));
    let (far_above, far_below) = (f(2.0 * step), f(-2.0 * step));
    (0..above.len())
        .map(|i| (8.0 * (above[i] - below[i]) - (far_above[i] - far_below[i])) / (12.0 * step))
        .collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|z| z.exp()).sum();
    logits.iter().map(|z| z.exp() / sum).collect()
}

/// `G_(k)ᵀ g_(k)` of all groups, from plain gradients.
fn slopes(bench: &Bench, directions: &Directions) -> Vec<f64> {
    let (_, gradients) = bench.gradients();
    let along = |index| {
        let gradient = numbers(gradients.get(index).expect("a gradient"));
        let direction = numbers(directions.get(index).expect("a direction"));
        gradient
            .iter()
            .zip(direction)
            .map(|(g, d)| g * d)
            .sum::<f64>()
    };
    let groups = bench.groups.iter();
    groups
        .map(|group| group.parameters.iter().map(|p| along(p.index())).sum())
        .collect()
}

/// `mean_s J_sᵀ (diag p_s - p_s p_sᵀ) J_s`, with `J_s` from differences of logits.
fn exact_gauss_newton(bench: &Bench, directions: &Directions) -> Vec<f64> {
    let logits = bench.logits();
    let (examples, classes, groups) = (logits.len(), logits[0].len(), bench.groups.len());
    let jacobians: Vec<Vec<f64>> = bench
        .groups
        .iter()
        .map(|group| {
            derivative(1e-3, |x| {
                bench.displaced(group, directions, x, || bench.logits().concat())
            })
        })
        .collect();
    let mut matrix = vec![0.0; groups * groups];
    for (s, logits) in logits.iter().enumerate() {
        let p = softmax(logits);
        let of = |group: usize, class: usize| jacobians[group][s * classes + class];
        for i in 0..groups {
            for j in 0..groups {
                let product: f64 = (0..classes).map(|c| p[c] * of(i, c) * of(j, c)).sum();
                let mean = |k| (0..classes).map(|c| p[c] * of(k, c)).sum::<f64>();
                matrix[i * groups + j] += (product - mean(i) * mean(j)) / examples as f64;
            }
        }
    }
    matrix
}

#[test]
fn gauss_newton_equals_the_exact_matrix_and_the_gradient() {
    for (name, classes) in [("bert", 3), ("bert", 2), ("distilbert", 3)] {
        let bench = Bench::open(name, classes, DType::F64);
        let directions = bench.directions(SALT);
        let mut estimator = GaussNewton {
            exact_classes: 8,
            seed: 0,
        };
        let estimate = bench
            .measure(&mut estimator, &directions, &[], 0)
            .expect("an estimate");
        assert_lists_close(&estimate.slope, &slopes(&bench, &directions), 1e-10);
        assert_matrices_close(
            whole(&estimate),
            &exact_gauss_newton(&bench, &directions),
            bench.groups.len(),
            1e-6,
        );
        let (loss, _) = bench.gradients();
        assert!((estimate.loss - loss).abs() < 1e-12);
    }
}

#[test]
fn sampled_labels_have_the_exact_matrix_as_their_mean() {
    const DRAWS: usize = 200;
    let bench = Bench::open("bert", 3, DType::F64);
    let directions = bench.directions(SALT);
    let mut exact = GaussNewton {
        exact_classes: 3,
        seed: 0,
    };
    let exact = bench
        .measure(&mut exact, &directions, &[], 0)
        .expect("an estimate");
    let groups = bench.groups.len();
    let (mut sum, mut squares) = (vec![0.0; groups * groups], vec![0.0; groups * groups]);
    for seed in 0..DRAWS as u64 {
        let mut sampled = GaussNewton {
            exact_classes: 2,
            seed,
        };
        let estimate = bench
            .measure(&mut sampled, &directions, &[], 3)
            .expect("an estimate");
        // The slope is that of the true labels, whatever is drawn.
        assert_lists_close(&estimate.slope, &exact.slope, 1e-10);
        for (at, a) in whole(&estimate).iter().enumerate() {
            sum[at] += a;
            squares[at] += a * a;
        }
    }
    let draws = DRAWS as f64;
    let mut deviations = Vec::new();
    for (at, expected) in whole(&exact).iter().enumerate() {
        let mean = sum[at] / draws;
        let variance = (squares[at] / draws - mean * mean) / (draws - 1.0);
        if variance > 1e-24 {
            deviations.push((mean - expected) / variance.sqrt());
        }
    }
    // Of the mean's own standard deviation: five of them for each entry, and one on average.
    let worst = deviations
        .iter()
        .fold(0.0f64, |worst, d| worst.max(d.abs()));
    let mean_square = deviations.iter().map(|d| d * d).sum::<f64>() / deviations.len() as f64;
    assert!(worst < 5.0, "{worst} standard deviations off");
    assert!((0.1..3.0).contains(&mean_square), "{mean_square}");
}

/// `∂b_i/∂x_j` along the directions, from differences of plain gradients.
fn exact_hessian(bench: &Bench, directions: &Directions) -> Vec<f64> {
    let columns: Vec<Vec<f64>> = bench
        .groups
        .iter()
        .map(|group| {
            derivative(2e-3, |x| {
                bench.displaced(group, directions, x, || slopes(bench, directions))
            })
        })
        .collect();
    let groups = columns.len();
    (0..groups * groups)
        .map(|at| columns[at % groups][at / groups])
        .collect()
}

#[test]
fn full_equals_the_exact_hessian() {
    for name in ["bert", "distilbert"] {
        let bench = Bench::open(name, 3, DType::F64);
        let directions = bench.directions(SALT);
        let groups = bench.groups.len();
        let estimate = bench
            .measure(&mut FullHessian, &directions, &[], 0)
            .expect("an estimate");
        assert_lists_close(&estimate.slope, &slopes(&bench, &directions), 1e-10);
        let exact = exact_hessian(&bench, &directions);
        assert_matrices_close(whole(&estimate), &exact, groups, 1e-4);
        // From the losses alone, the diagonal once more.
        let (loss, _) = bench.gradients();
        for (k, group) in bench.groups.iter().enumerate() {
            let at = |x| bench.displaced(group, &directions, x, || bench.gradients().0);
            let second = (at(1e-3) - 2.0 * loss + at(-1e-3)) / 1e-6;
            let expected = exact[k * groups + k];
            assert!(
                (second - expected).abs() <= 1e-4 * expected.abs() + 1e-6,
                "{}: {second} is not {expected}",
                group.name
            );
        }
        // It is another matrix than Gauss-Newton's.
        let mut gauss_newton = GaussNewton {
            exact_classes: 3,
            seed: 0,
        };
        let other = bench
            .measure(&mut gauss_newton, &directions, &[], 0)
            .expect("an estimate");
        let differing = diagonal(&estimate)
            .iter()
            .zip(diagonal(&other))
            .filter(|(a, b)| (*a - b).abs() > 0.1 * b.abs())
            .count();
        assert!(
            differing > groups / 2,
            "{name}: {differing} of {groups} differ"
        );
    }
}

#[test]
fn hvp_averaged_over_draws_converges_to_the_diagonal_of_full() {
    const DRAWS: usize = 200;
    let bench = Bench::open("bert", 3, DType::F64);
    let directions = bench.directions(SALT);
    let groups = bench.groups.len();
    let full = bench
        .measure(&mut FullHessian, &directions, &[], 0)
        .expect("an estimate");
    let matrix = whole(&full);
    let mut mean = vec![0.0; groups];
    let mut estimator = HessianVectorProduct { seed: 5 };
    for step in 0..DRAWS {
        let estimate = bench
            .measure(&mut estimator, &directions, &[], step)
            .expect("an estimate");
        assert_lists_close(&estimate.slope, &full.slope, 1e-10);
        for (mean, a) in mean.iter_mut().zip(diagonal(&estimate)) {
            *mean += a / DRAWS as f64;
        }
    }
    let mut squares = Vec::new();
    for k in 0..groups {
        // With independent signs the variance of one draw is Σ_{j≠k} A_kj².
        let row = (0..groups).filter(|j| *j != k);
        let variance: f64 = row.map(|j| matrix[k * groups + j].powi(2)).sum();
        let deviation = (variance / DRAWS as f64).sqrt();
        let error = (mean[k] - matrix[k * groups + k]).abs();
        assert!(
            error <= 5.0 * deviation + 1e-7,
            "{}: off by {error:.1e}, {deviation:.1e} expected",
            bench.groups[k].name
        );
        if !is_key_bias(&bench.groups[k]) {
            squares.push((error / deviation).powi(2));
        }
    }
    let ratio = squares.iter().sum::<f64>() / squares.len() as f64;
    assert!(
        (0.3..3.0).contains(&ratio),
        "error² over its expectation: {ratio}"
    );
}

#[test]
fn fit_agrees_with_full_at_small_rates_and_knows_when_it_does_not_fit() {
    let bench = Bench::open("bert", 3, DType::F64);
    let directions = bench.directions(SALT);
    let full = bench
        .measure(&mut FullHessian, &directions, &[], 0)
        .expect("an estimate");
    let fit = |rate: f64| {
        let rates = vec![rate; bench.groups.len()];
        let estimate = bench.measure(&mut ParabolaFit::default(), &directions, &rates, 0);
        estimate.expect("an estimate")
    };
    // The cubic term is rate² beside the slope, the quartic rate² beside the curvature.
    let small = fit(1e-3);
    let r2 = small.fit.as_deref().expect("a fit");
    let (exact, got) = (diagonal(&full), diagonal(&small));
    for (k, group) in bench.groups.iter().enumerate() {
        if is_key_bias(group) {
            continue;
        }
        let slope_error = (small.slope[k] - full.slope[k]).abs();
        let curvature_error = (got[k] - exact[k]).abs();
        let scale = full.slope[k].abs() + exact[k].abs();
        assert!(
            slope_error <= 1e-5 * scale,
            "{}: slope off by {slope_error:.1e}",
            group.name
        );
        assert!(
            curvature_error <= 1e-4 * scale,
            "{}: curvature off by {curvature_error:.1e}",
            group.name
        );
        assert!(r2[k] > 0.9999, "{}: R² {}", group.name, r2[k]);
    }
    let large = fit(30.0);
    let (verdicts, _) = judged(&large);
    let low = large
        .fit
        .as_deref()
        .expect("a fit")
        .iter()
        .filter(|r2| **r2 < 0.99)
        .count();
    assert!(2 * low > r2.len(), "{low} of {} fits are poor", r2.len());
    assert!(
        verdicts
            .iter()
            .any(|verdict| matches!(verdict, Verdict::PoorFit { .. }))
    );
}

/// As what the `psi` rule compares with, which is never trained.
#[test]
fn fit_measures_a_group_that_does_not_move_at_the_rate_of_the_others() {
    let bench = Bench::open("bert", 3, DType::F64);
    let directions = bench.directions(SALT);
    let fit = |rates: &[f64]| {
        let estimate = bench.measure(&mut ParabolaFit::default(), &directions, rates, 0);
        estimate.expect("an estimate")
    };
    let is_still = |k: usize| k % 3 == 1;
    let rates = |still: f64| -> Vec<f64> {
        let moving = |k: usize| if k.is_multiple_of(3) { 5e-4 } else { 2e-3 };
        (0..bench.groups.len())
            .map(|k| if is_still(k) { still } else { moving(k) })
            .collect()
    };
    let measured = fit(&rates(0.0));
    let moving: Vec<f64> = rates(0.0).into_iter().filter(|rate| *rate > 0.0).collect();
    let logarithms: f64 = moving.iter().map(|rate| rate.ln()).sum();
    let expected = fit(&rates((logarithms / moving.len() as f64).exp()));
    assert_lists_close(&measured.slope, &expected.slope, 1e-9);
    assert_lists_close(&diagonal(&measured), &diagonal(&expected), 1e-6);
    let (_, values) = judged(&measured);
    assert!((0..values.len()).any(|k| is_still(k) && values[k] > 0.0));

    let nothing_moves = fit(&vec![0.0; bench.groups.len()]);
    assert!(nothing_moves.slope.iter().all(|slope| *slope == 0.0));
}

/// Every estimator, by name.
pub fn estimators() -> Vec<Box<dyn Estimator>> {
    let exact = GaussNewton {
        exact_classes: 3,
        seed: 1,
    };
    let sampled = GaussNewton {
        exact_classes: 2,
        seed: 1,
    };
    vec![
        Box::new(exact),
        Box::new(sampled),
        Box::new(HessianVectorProduct { seed: 1 }),
        Box::new(FullHessian),
        Box::new(ParabolaFit::default()),
    ]
}
