#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn fixed_cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(2025),
        ..ProptestConfig::default()
    }
}

fn measurement(step: usize, rows: &[(f64, f64)]) -> Measurement {
    let (slope, diagonal): (Vec<f64>, Vec<f64>) = rows.iter().copied().unzip();
    let verdict = rows.iter().map(|&(b, a)| judge(b, a, None, 0.0)).collect();
    Measurement {
        step,
        loss: 1.0,
        noise_floor: 0.0,
        slope,
        curvature: Curvature::Diagonal(diagonal),
        verdict,
    }
}

fn scores(measurements: &[Measurement], sizes: &[usize]) -> Vec<GroupScore> {
    score(measurements, sizes, &ScoreOptions::default()).unwrap()
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{a} is not {b}");
}

#[test]
fn each_verdict_has_its_cause() {
    for (slope, curvature, r2, expected) in [
        (0.1, 2.0, None, Verdict::Accepted),
        (0.1, 2.0, Some(0.995), Verdict::Accepted),
        (0.1, 2.0, Some(0.98), Verdict::PoorFit { r2: 0.98 }),
        (0.1, -2.0, None, Verdict::BadCurvature),
        (0.1, 0.0, None, Verdict::BadCurvature),
        (-0.1, -2.0, Some(0.1), Verdict::BadCurvature),
        (-0.1, 2.0, Some(0.1), Verdict::WrongDirection),
        (0.0, 2.0, None, Verdict::WrongDirection),
        (0.0, 0.0, None, Verdict::InsufficientSignal),
        (f64::NAN, 2.0, None, Verdict::NotFinite),
        (0.1, f64::INFINITY, None, Verdict::NotFinite),
    ] {
        assert_eq!(
            judge(slope, curvature, r2, 0.0),
            expected,
            "{slope} {curvature} {r2:?}"
        );
    }
    assert!(matches!(
        judge(0.1, 2.0, Some(f64::NAN), 0.0),
        Verdict::PoorFit { .. }
    ));
}

#[test]
fn rounding_below_the_floor_is_no_signal() {
    // The ratio of these two is as large as that of a group that matters.
    assert_eq!(judge(1e-9, 1e-18, None, 1e-8), Verdict::InsufficientSignal);
    assert_eq!(judge(1e-9, 1e-18, None, 1e-10), Verdict::Accepted);
    // A slope of nothing with a curvature is a finding, not a lack of signal.
    assert_eq!(judge(-1e-9, 1.0, None, 1e-8), Verdict::WrongDirection);
}

#[test]
fn value_is_the_decrease_at_the_best_rate_and_zero_without_one() {
    let rate = optimal_rate(0.3, 2.0).unwrap();
    close(value(0.3, 2.0), 0.3 * rate - 0.5 * 2.0 * rate * rate);
    for (slope, curvature) in [
        (0.3, -2.0),
        (-0.3, 2.0),
        (-0.3, -2.0),
        (0.0, 0.0),
        (f64::NAN, 1.0),
    ] {
        assert_eq!(
            (optimal_rate(slope, curvature), value(slope, curvature)),
            (None, 0.0)
        );
    }
}

#[test]
fn rates_move_a_tenth_of_the_way_and_never_far() {
    close(next_rate(1.0, Some(1.5)), 1.05);
    close(next_rate(1.0, Some(100.0)), 1.1);
    close(next_rate(1.0, Some(0.0)), 0.95);
    close(next_rate(1.0, Some(1.0)), 1.0);
    assert_eq!(next_rate(0.7, None), 0.7);
    assert_eq!(next_rate(0.7, Some(f64::NAN)), 0.7);
    // Repeated, it arrives.
    let rate = (0..200).fold(1e-3, |rate, _| next_rate(rate, Some(0.05)));
    assert!((rate - 0.05).abs() < 1e-6, "{rate}");
}

#[test]
fn a_score_is_the_mean_over_all_measurements_with_rejected_ones_as_zero() {
    let measurements = [
        measurement(8, &[(1.0, 2.0), (1.0, -2.0)]),
        measurement(16, &[(2.0, 2.0), (2.0, 1.0)]),
        measurement(24, &[(-1.0, 2.0), (1.0, -4.0)]),
    ];
    let scores = scores(&measurements, &[10, 5]);
    // Values: 0.25, 1 and a rejection; a rejection, 2 and a rejection.
    close(scores[0].value, 1.25 / 3.0);
    close(scores[0].influence, 2.0 * 1.25 / 3.0 / 10.0);
    close(scores[1].value, 2.0 / 3.0);
    close(scores[1].influence, 4.0 / 3.0 / 5.0);
    close(scores[0].slope_mean, 2.0 / 3.0);
    close(scores[1].curvature_mean, -5.0 / 3.0);
    assert_eq!((scores[0].rank, scores[1].rank), (2, 1));
    close(scores[0].acceptance, 2.0 / 3.0);
    assert_eq!(
        (scores[0].low_confidence, scores[1].low_confidence),
        (false, true)
    );
    assert_eq!(
        scores[0].rejections,
        Rejections {
            wrong_direction: 1,
            ..Rejections::default()
        }
    );
    assert_eq!(
        scores[1].rejections,
        Rejections {
            bad_curvature: 2,
            ..Rejections::default()
        }
    );
}

#[test]
fn a_group_without_signal_scores_zero_and_says_so() {
    let measurements: Vec<_> = (0..4)
        .map(|step| measurement(step, &[(0.0, 0.0), (1.0, 1.0)]))
        .collect();
    let scores = scores(&measurements, &[1, 1_000_000]);
    assert_eq!(
        (
            scores[0].value,
            scores[0].rank,
            scores[0].insufficient_signal
        ),
        (0.0, 2, true)
    );
    assert_eq!(
        (
            scores[1].rank,
            scores[1].insufficient_signal,
            scores[1].low_confidence
        ),
        (1, false, false)
    );
}

#[test]
fn a_frozen_group_is_scored_by_the_measurements_before() {
    let mut measurements: Vec<_> = (0..6)
        .map(|step| measurement(step, &[(1.0, 1.0), (2.0, 1.0)]))
        .collect();
    for late in &mut measurements[3..] {
        late.verdict[0] = Verdict::Frozen;
        late.slope[0] = 0.0;
    }
    let scores = scores(&measurements, &[1, 1]);
    close(scores[0].value, 0.5);
    close(scores[0].slope_mean, 1.0);
    assert_eq!((scores[0].measurements, scores[0].acceptance), (3, 1.0));
    assert_eq!(scores[0].interval, (1.0, 1.0));
}

#[test]
fn intervals_hold_the_score_and_ranks_show_overlap() {
    // Group 0 is steadily first; 1 and 2 take turns.
    let measurements: Vec<_> = (0..10)
        .map(|step| {
            let (low, high) = if step % 2 == 0 {
                (0.2, 1.0)
            } else {
                (1.0, 0.2)
            };
            measurement(step, &[(3.0, 1.0), (low, 1.0), (high, 1.0), (0.01, 1.0)])
        })
        .collect();
    let scores = scores(&measurements, &[1; 4]);
    for score in &scores {
        assert!(score.interval.0 <= score.influence && score.influence <= score.interval.1);
    }
    assert_eq!(scores[0].rank_interval, (1, 1));
    assert_eq!(scores[1].rank_interval, (2, 3));
    assert_eq!(scores[2].rank_interval, (2, 3));
    assert_eq!(scores[3].rank_interval, (4, 4));
    assert!(scores[1].interval.1 - scores[1].interval.0 > 0.1);
}

#[test]
fn the_same_seed_gives_the_same_intervals() {
    let measurements: Vec<_> = (0..8)
        .map(|step| measurement(step, &[(1.0 + step as f64, 2.0), (3.0, 1.0 + step as f64)]))
        .collect();
    let run = |seed| {
        score(
            &measurements,
            &[3, 4],
            &ScoreOptions {
                seed,
                ..ScoreOptions::default()
            },
        )
        .unwrap()
    };
    assert_eq!(run(7), run(7));
    let narrow = ScoreOptions {
        confidence: 0.5,
        ..ScoreOptions::default()
    };
    let (wide, narrow) = (
        run(0)[0].interval,
        score(&measurements, &[3, 4], &narrow).unwrap()[0].interval,
    );
    assert!(wide.0 < narrow.0 && narrow.1 < wide.1);
}

#[test]
fn a_window_divides_by_the_mean_of_noisy_curvatures() {
    // True curvature 1 with a noise of ±3: half of the signs are wrong, and the mean is right.
    let measurements: Vec<_> = (0..8)
        .map(|step| measurement(step, &[(1.0, if step % 2 == 0 { 4.0 } else { -2.0 })]))
        .collect();
    let plain = scores(&measurements, &[1]);
    close(plain[0].value, 0.125 / 2.0);
    let options = ScoreOptions {
        window: Some(4),
        ..ScoreOptions::default()
    };
    let windowed = score(&measurements, &[1], &options).unwrap();
    close(windowed[0].value, 0.5);
    assert_eq!(windowed[0].acceptance, 1.0);
    // A window longer than the probe is the whole probe.
    let options = ScoreOptions {
        window: Some(100),
        ..options
    };
    close(score(&measurements, &[1], &options).unwrap()[0].value, 0.5);
}

#[test]
fn a_full_curvature_scores_like_its_diagonal() {
    let diagonal = measurement(1, &[(1.0, 2.0), (3.0, 4.0)]);
    let full = Measurement {
        curvature: Curvature::Full(vec![2.0, 0.7, 0.7, 4.0]),
        ..diagonal.clone()
    };
    assert_eq!(
        scores(std::slice::from_ref(&diagonal), &[5, 6]),
        scores(std::slice::from_ref(&full), &[5, 6])
    );
    assert_eq!(diagonal.coupled().unwrap(), None);
    assert_eq!(
        full.coupled().unwrap().unwrap(),
        Coupled {
            slope: vec![1.0, 3.0],
            curvature: vec![2.0, 0.7, 0.7, 4.0]
        }
    );
    let frozen = Measurement {
        verdict: vec![Verdict::Frozen, Verdict::Accepted],
        ..full
    };
    assert_eq!(
        frozen.coupled().unwrap().unwrap(),
        Coupled {
            slope: vec![0.0, 3.0],
            curvature: vec![0.0, 0.0, 0.0, 4.0]
        }
    );
}

#[test]
fn a_measurement_of_some_groups_spreads_over_all() {
    let full = Curvature::Full(vec![2.0, 0.7, 0.7, 4.0]);
    let some = Measurement {
        curvature: full,
        ..measurement(1, &[(1.0, 2.0), (3.0, 4.0)])
    };
    let all = some.spread(&[false, true, true]).unwrap();
    assert_eq!(all.slope, [0.0, 1.0, 3.0]);
    assert_eq!(
        all.curvature,
        Curvature::Full(vec![0.0, 0.0, 0.0, 0.0, 2.0, 0.7, 0.0, 0.7, 4.0])
    );
    assert_eq!(
        all.verdict,
        [Verdict::Frozen, Verdict::Accepted, Verdict::Accepted]
    );
    let diagonal = measurement(1, &[(1.0, 2.0), (3.0, 4.0)])
        .spread(&[true, false, true])
        .unwrap();
    assert_eq!(diagonal.curvature, Curvature::Diagonal(vec![2.0, 0.0, 4.0]));
    assert_eq!(some.spread(&[true, true]).unwrap(), some);
    assert!(some.spread(&[true, false]).is_err());
}

#[test]
fn a_group_of_pure_rounding_is_told_from_the_others_by_their_curvature() {
    let curvature = Curvature::Diagonal(vec![4.0, 1e-4, 1e-13]);
    let floor = rounding_floor(&curvature.diagonal(3));
    assert_eq!(
        judge_all(&[0.5, 2e-3, 1e-7], &curvature, None, floor),
        [
            Verdict::Accepted,
            Verdict::Accepted,
            Verdict::InsufficientSignal
        ]
    );
    let fit = [0.5, 1.0, 1.0];
    assert_eq!(
        judge_all(&[0.5, 2e-3, 1e-7], &curvature, Some(&fit), 0.0)[0],
        Verdict::PoorFit { r2: 0.5 }
    );
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let fine = measurement(8, &[(1.0, 1.0)]);
    let run = |measurement: Measurement| {
        score(&[measurement], &[1], &ScoreOptions::default()).unwrap_err()
    };
    let expect = |what, got| InfluenceError::ShapeMismatch {
        step: 8,
        what,
        got,
        expected: 1,
    };
    assert_eq!(
        run(Measurement {
            slope: vec![],
            ..fine.clone()
        }),
        expect("slope", 0)
    );
    assert_eq!(
        run(Measurement {
            curvature: Curvature::Full(vec![1.0; 4]),
            ..fine.clone()
        }),
        expect("curvature", 4)
    );
    assert_eq!(
        run(Measurement {
            verdict: vec![],
            ..fine.clone()
        }),
        expect("verdict", 0)
    );
    assert_eq!(
        score(&[], &[1], &ScoreOptions::default()),
        Err(InfluenceError::NoMeasurements)
    );
    let options = ScoreOptions {
        confidence: 1.0,
        ..ScoreOptions::default()
    };
    assert_eq!(
        score(&[fine], &[1], &options),
        Err(InfluenceError::InvalidConfidence)
    );
}

/// Four groups: influences 8, 2, 0.02 and a head; sizes 10 each.
fn probe(noise: f64) -> Vec<GroupScore> {
    let measurements: Vec<_> = (0..8)
        .map(|step| {
            let factor = if step % 2 == 0 {
                1.0 + noise
            } else {
                1.0 - noise
            };
            let row = |influence: f64| ((10.0 * influence * factor).sqrt(), 1.0);
            measurement(step, &[row(8.0), row(2.0), row(0.02), row(0.001)])
        })
        .collect();
    scores(&measurements, &[10; 4])
}

const HEAD: [bool; 4] = [false, false, false, true];

#[test]
fn the_cut_off_is_the_influence_of_the_last_group_that_fits() {
    let scores = probe(0.1);
    let cut_off = |budget| cut_off(&scores, &[10; 4], &HEAD, budget);
    close(cut_off(20).unwrap(), 2.0);
    close(cut_off(19).unwrap(), 8.0);
    assert_eq!((cut_off(9), cut_off(30)), (None, None));
}

#[test]
fn only_groups_that_are_surely_below_the_cut_off_freeze() {
    let freeze = |scores: &[GroupScore], frozen: &[bool], budget| {
        to_freeze(
            scores,
            &[10; 4],
            &HEAD,
            frozen,
            budget,
            &FreezeOptions::default(),
        )
    };
    assert_eq!(freeze(&probe(0.1), &[false; 4], 20), [2]);
    assert_eq!(
        freeze(&probe(0.1), &[false, false, true, false], 20),
        [0; 0]
    );
    assert_eq!(freeze(&probe(0.1), &[false; 4], 10), [1, 2]);
    // Too few measurements, or none that could be judged.
    let mut few = probe(0.1);
    few[2].measurements = 3;
    assert_eq!(freeze(&few, &[false; 4], 20), [0; 0]);
    let mut unmeasurable = probe(0.1);
    unmeasurable[2].rejections.bad_curvature = 4;
    assert_eq!(freeze(&unmeasurable, &[false; 4], 20), [0; 0]);
    let mut wide = probe(0.1);
    wide[2].interval.1 = 2.5;
    assert_eq!(freeze(&wide, &[false; 4], 20), [0; 0]);
}

#[test]
fn measurements_survive_their_file() {
    let mut saved = measurement(8, &[(1.0, 2.0), (0.0, 0.0)]);
    saved.verdict[0] = Verdict::PoorFit { r2: 0.5 };
    let text = serde_json::to_string(&saved).unwrap();
    assert_eq!(serde_json::from_str::<Measurement>(&text).unwrap(), saved);
}

proptest! {
    #![proptest_config(fixed_cases(64))]

    /// Rescaling the direction of each group by a factor of its own (`b → cb`, `A → c²A`) changes nothing.
    #[test]
    fn scores_are_invariant_to_rescaled_directions(
        rows in prop::collection::vec(prop::collection::vec((-1.0..1.0_f64, -0.5..1.0_f64), 5), 1..9),
        factors in prop::collection::vec(1e-3..1e3_f64, 5),
        window in prop::option::of(1..4_usize),
    ) {
        let plain: Vec<_> = rows.iter().enumerate().map(|(step, rows)| measurement(step, rows)).collect();
        let rescaled: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(step, rows)| {
                let rows: Vec<_> = rows.iter().zip(&factors).map(|(&(b, a), c)| (c * b, c * c * a)).collect();
                measurement(step, &rows)
            })
            .collect();
        let options = ScoreOptions { resamples: 50, window, ..ScoreOptions::default() };
        let sizes = [3, 1, 4, 1, 5];
        let (plain, rescaled) =
            (score(&plain, &sizes, &options).unwrap(), score(&rescaled, &sizes, &options).unwrap());
        for (a, b) in plain.iter().zip(&rescaled) {
            prop_assert!((a.value - b.value).abs() <= 1e-9 * a.value);
            prop_assert!((a.influence - b.influence).abs() <= 1e-9 * a.influence);
            prop_assert!((a.interval.1 - b.interval.1).abs() <= 1e-9 * a.interval.1);
            prop_assert_eq!((a.rank, a.acceptance, a.rejections), (b.rank, b.acceptance, b.rejections));
        }
    }

    #[test]
    fn ranks_are_a_permutation_in_the_order_of_influence(
        rows in prop::collection::vec((0.0..3.0_f64, 0.1..1.0_f64), 1..20),
    ) {
        let scores = scores(&[measurement(0, &rows)], &vec![7; rows.len()]);
        let mut by_rank: Vec<_> = scores.iter().map(|score| (score.rank, score.influence)).collect();
        by_rank.sort_by_key(|(rank, _)| *rank);
        for (place, pair) in by_rank.iter().enumerate() {
            prop_assert_eq!(pair.0, place + 1);
        }
        prop_assert!(by_rank.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }
}
