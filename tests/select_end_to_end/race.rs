//! Sets of groups trained against each other.

use std::fs;

use autopeft::report::{SelectionReport, Stage};
use autopeft_adapters::Kind;
use serde_json::Value;

use crate::bench::{Bench, Listener};

/// Rounds of four steps, in a training that leaves room for them.
const RACE: [&str; 4] = [
    "select.race=4",
    "train.steps=46",
    "select.budget=700",
    "train.learning_rate=1e-2",
];

fn raced(changes: &[&str]) -> (Bench, SelectionReport) {
    let bench = Bench::new();
    let settings: Vec<&str> = RACE.iter().chain(changes).copied().collect();
    let report = bench.report(&settings);
    (bench, report)
}

/// Parameters of the kept groups, the head apart.
fn kept(report: &SelectionReport) -> usize {
    let groups = report.groups.iter();
    let kept = groups.filter(|group| group.kept && group.kind != Kind::Head);
    kept.map(|group| group.parameters).sum()
}

#[test]
fn the_winner_goes_on_from_where_it_is() {
    let (bench, report) = raced(&[]);
    let (winner, others) = report.race.split_first().expect("a race");
    assert!(others.len() >= 3, "{:?}", report.race);
    assert!(report.race.iter().all(|set| set.parameters <= 700));
    // Two rounds: of all, and of two.
    let second = 2;
    for (place, set) in report.race.iter().enumerate() {
        assert_eq!(set.steps, if place < second { 8 } else { 4 }, "{set:?}");
    }
    // Norms are the favourite; any other set has to be ahead.
    let mut runners_up = others.iter().filter(|set| set.steps == winner.steps);
    let is_ahead = runners_up.all(|set| set.loss >= winner.loss);
    assert!(winner.set == "norm" || is_ahead, "{:?}", report.race);

    assert_eq!(kept(&report), winner.parameters);
    assert_eq!(report.kept_parameters, winner.parameters);
    let reasons = ["always kept", "in the winning set", "within the budget"];
    for group in report.groups.iter().filter(|group| group.kept) {
        assert!(reasons.contains(&group.reason.as_str()), "{}", group.reason);
    }

    // All of the race's steps were taken, and the winner's count for its training of 40 steps.
    let metrics = fs::read_to_string(bench.out().join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = (metrics.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps_of = |stage: &str| {
        let is_one = |line: &&Value| line["event"] == "step" && line["stage"] == stage;
        lines.iter().filter(is_one).count()
    };
    let total: usize = report.race.iter().map(|set| set.steps).sum();
    assert_eq!(steps_of("race"), total);
    assert_eq!(steps_of("train"), 40 - winner.steps);
    let last = report.held_out.last().unwrap();
    assert_eq!(last.stage, Stage::Trimmed);
    assert_eq!(last.steps, 2 + 6 + total + 40 - winner.steps);
    let card = fs::read_to_string(bench.out().join("README.md")).unwrap();
    assert!(
        card.contains("## Race") && card.contains(&winner.set),
        "{card}"
    );
}

#[test]
fn warm_ups_end_before_the_first_measurement_and_within_the_first_half_of_the_race() {
    let (bench, report) = raced(&[
        "train.warmup=0.5",
        "train.schedule=constant",
        "probe.learning_rates=fixed",
    ]);
    let metrics = fs::read_to_string(bench.out().join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = (metrics.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let rates = |stage: &str| -> Vec<f64> {
        let is_one = |line: &&Value| line["event"] == "step" && line["stage"] == stage;
        let steps = lines.iter().filter(is_one);
        steps
            .map(|line| line["learning_rate"].as_f64().unwrap())
            .collect()
    };
    let is_full = |rate: &f64| (rate / 1e-2 - 1.0).abs() < 1e-9;
    // The burn-in takes two of the probe's six steps.
    let probe = rates("probe");
    let (rising, measured) = probe.split_at(2);
    assert!(!rising.iter().any(is_full) && measured.iter().all(is_full));
    let race = rates("race");
    let first_round = report.race.len() * 4;
    for (step, rate) in race.iter().enumerate() {
        let is_rising = step < first_round && step % 4 < 2;
        assert_eq!(is_full(rate), !is_rising, "step {step}: {rate}");
    }
    assert!(rates("train").iter().all(is_full));
}

#[test]
fn a_race_is_the_same_for_the_same_seed() {
    let run = || {
        let (bench, report) = raced(&["superset.lora.dropout=0.1"]);
        let weights = fs::read(bench.out().join("adapter_model.safetensors")).unwrap();
        (weights, report.race)
    };
    assert!(run() == run(), "two races of one seed differ");
}

#[test]
fn without_rounds_or_room_for_them_the_rule_decides() {
    let rule = Bench::new().report(&["select.budget=700"]);
    assert!(rule.race.is_empty());
    for none in [
        ["select.race=0", "train.steps=46"],
        ["select.race=4", "train.steps=8"],
    ] {
        let (_, report) = raced(&none);
        assert!(report.race.is_empty(), "{none:?}");
        let chosen = report.groups.iter().filter(|group| group.kept);
        assert!(
            chosen
                .into_iter()
                .all(|group| group.reason != "in the winning set")
        );
    }
    let (_, top) = raced(&["select.method=top", "select.top=3"]);
    assert!(
        top.race.is_empty(),
        "a rule without a budget has nothing to race within"
    );
}

#[test]
fn a_stop_within_a_race_keeps_the_measurements() {
    let bench = Bench::new();
    let (listener, interrupt) = Listener::stopping("race", 5);
    let error = bench.select_with(&RACE, &listener, &interrupt).unwrap_err();
    assert!(
        matches!(error, autopeft::Error::Interrupted { .. }),
        "{error:?}"
    );
    assert!(bench.out().join("measurements.json").is_file());
    assert!(!bench.out().join("adapter_model.safetensors").exists());
}

#[test]
fn the_height_of_the_rates_is_fitted_while_the_sets_race_and_afterwards() {
    let rates = |report: &SelectionReport| -> Vec<f64> {
        let groups = report.groups.iter().filter(|group| group.kept);
        groups.map(|group| group.learning_rate).collect()
    };
    let slow = "train.learning_rate=1e-3";
    let (_, fitted) = raced(&[slow, "select.refit=2"]);
    let (_, left) = raced(&[slow, "select.refit=0"]);
    // What the race chose may differ, so the groups of both are compared where they are the same.
    let of = |report: &SelectionReport, name: &str| {
        let group = report.groups.iter().find(|group| group.name == name);
        group
            .filter(|group| group.kept)
            .map(|group| group.learning_rate)
    };
    let factors: Vec<f64> = (fitted.groups.iter())
        .filter_map(|group| Some(of(&fitted, &group.name)? / of(&left, &group.name)?))
        .collect();
    assert!(factors.len() > 3, "{factors:?}");
    assert!(factors.iter().all(|factor| *factor > 1.25), "{factors:?}");
    let fixed = [slow, "select.refit=2", "probe.learning_rates=fixed"];
    assert!(rates(&raced(&fixed).1).iter().all(|rate| *rate == 1e-3));
}
