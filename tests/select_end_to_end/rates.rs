//! Learning rates over the steps: warm-ups, and how far the fitted ones of a kept set rise.

use std::fs;

use serde_json::Value;

use crate::bench::Bench;

/// The rate of each step of a stage.
fn rates(bench: &Bench, stage: &str) -> Vec<f64> {
    let metrics = fs::read_to_string(bench.out().join("metrics.jsonl")).unwrap();
    let rates = metrics.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let is_step = line["event"] == "step" && line["stage"] == stage;
        is_step.then(|| line["learning_rate"].as_f64().unwrap())
    });
    rates.collect()
}

/// The greatest height, over the recipe's rate, of the training of what is kept, where it may be so many times that.
fn greatest(most: f64) -> f64 {
    const START: f64 = 1e-5;
    let bench = Bench::new();
    let settings = [
        format!("train.learning_rate={START}"),
        format!("select.max_learning_rate={}", most * START),
        "select.steps=13".to_string(),
        "select.refit=1".to_string(),
        "train.warmup=0".to_string(),
        "train.schedule=constant".to_string(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    bench.report(&settings);
    rates(&bench, "train").into_iter().fold(0.0, f64::max) / START
}

#[test]
fn rates_that_are_far_too_small_rise_as_far_as_the_recipe_lets_them() {
    // They rise by doublings, at least to four times.
    let (far, near, none) = (greatest(10.0), greatest(3.0), greatest(0.5));
    assert!(far > 3.5 && far <= 10.0 + 1e-9, "{far}");
    assert!(near > 2.0 && near <= 3.0 + 1e-9, "{near}");
    // A highest rate below the recipe's own lowers nothing.
    assert!((none - 1.0).abs() < 1e-9, "{none}");
}

#[test]
fn warm_ups_end_before_the_first_measurement_and_start_again_with_what_is_kept() {
    for after in ["rewind", "continue"] {
        let bench = Bench::new();
        bench.report(&[
            "train.learning_rate=1e-2",
            "train.warmup=0.5",
            "train.schedule=constant",
            "train.steps=18",
            "probe.learning_rates=fixed",
            &format!("select.after={after}"),
        ]);
        let is_full = |rate: &f64| (rate / 1e-2 - 1.0).abs() < 1e-9;
        let is_warmed_up = |rates: &[f64], steps: usize| {
            let (rising, whole) = rates.split_at(steps);
            assert!(rising.is_sorted() && !rising.iter().any(is_full));
            assert!(whole.iter().all(is_full), "{after}: {rates:?}");
        };
        // The burn-in takes two of the probe's six steps; twelve steps are left.
        is_warmed_up(&rates(&bench, "probe"), 2);
        is_warmed_up(&rates(&bench, "train"), 6);
    }
}
