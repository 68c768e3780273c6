//! How far the fitted rates of a kept set rise.

use std::fs;

use serde_json::Value;

use crate::bench::Bench;

const START: f64 = 1e-5;

/// The greatest height, over the recipe's rate, of the training of what is kept, in so many steps of four of the 24 rows.
fn greatest(steps: usize) -> f64 {
    let bench = Bench::new();
    let settings = [
        format!("train.learning_rate={START}"),
        format!("select.steps={steps}"),
        "select.refit=1".to_string(),
        "train.warmup=0".to_string(),
        "train.schedule=constant".to_string(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    bench.report(&settings);
    let metrics = fs::read_to_string(bench.out().join("metrics.jsonl")).unwrap();
    let rates = metrics.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let is_step = line["event"] == "step" && line["stage"] == "train";
        is_step.then(|| line["learning_rate"].as_f64().unwrap())
    });
    rates.fold(0.0, f64::max) / START
}

#[test]
fn rates_that_are_far_too_small_rise_further_where_rows_are_not_learnt_by_heart() {
    // Twice over the rows; and more often than that, with as many fits.
    let (new, often) = (greatest(12), greatest(13));
    assert!(new > 4.0 && new <= 10.0, "{new}");
    assert!(often > 2.0 && often <= 3.0 + 1e-9, "{often}");
}
