//! Runs that end before a result: refused, impossible, interrupted, or out of space.

use std::fs;

use autopeft::error::Error;
use autopeft::interrupt::Interrupt;
use autopeft::report::SelectionReport;
use autopeft::select::SelectError;
use serde_json::Value;

use crate::bench::{Bench, Listener, names, tree};

#[test]
fn a_budget_below_every_group_tells_the_smallest() {
    let bench = Bench::new();
    let error = bench.refused_early(&["select.budget=1"], &["budget of 1 ", "smallest"]);
    let Error::Select(SelectError::Unreachable { budget, smallest }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*budget, 1);
    assert!(error.hint().unwrap().contains(&smallest.to_string()));
    let reachable = format!("select.budget={smallest}");
    assert_eq!(bench.report(&[&reachable]).kept_parameters, *smallest);
}

#[test]
fn an_existing_result_is_kept_unless_it_shall_be_replaced() {
    let bench = Bench::new();
    bench.report(&[]);
    fs::write(bench.out().join("note.txt"), "mine").unwrap();
    let before = tree(bench.root());

    let listener = Listener::default();
    let error = bench
        .select_with(&[], &listener, &Interrupt::default())
        .unwrap_err();
    assert!(
        matches!(&error, Error::OutputExists { path } if *path == bench.out()),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("--force"));
    assert!(listener.stages().is_empty(), "{:?}", listener.stages());
    assert_eq!(tree(bench.root()), before);

    // A run that fails leaves the old result, even one that may replace it.
    bench.refused(&["export.force=true", "select.budget=1"], &["smallest"]);

    bench.report(&["export.force=true"]);
    assert!(!bench.out().join("note.txt").exists());
    assert!(bench.out().join("selection.json").is_file());
    assert_eq!(bench.names().len(), 3, "{:?}", bench.names());
}

#[test]
fn an_empty_folder_is_as_good_as_none() {
    let bench = Bench::new();
    fs::create_dir(bench.out()).unwrap();
    bench.report(&[]);
    assert!(bench.out().join("selection.json").is_file());
}

#[test]
fn a_file_in_the_place_of_the_result_is_refused() {
    let bench = Bench::new();
    bench.file("out", "a file");
    let error = bench.error(&["export.force=true"]);
    assert!(error.to_string().contains("out"), "{error}");
}

/// Runs until the interrupt, and returns the report if one was written.
fn interrupted(stage: &'static str, step: usize) -> (Bench, Option<SelectionReport>) {
    let bench = Bench::new();
    let (listener, interrupt) = Listener::stopping(stage, step);
    let error = bench.select_with(&[], &listener, &interrupt).unwrap_err();
    assert!(
        matches!(&error, Error::Interrupted { path } if *path == bench.out()),
        "{error:?}"
    );
    assert_eq!(bench.names().len(), 3, "{:?}", bench.names());
    for file in ["recipe.yaml", "measurements.json", "metrics.jsonl"] {
        assert!(bench.out().join(file).is_file(), "{stage}: no {file}");
    }
    assert!(!bench.out().join("adapter_model.safetensors").exists());
    let metrics = fs::read_to_string(bench.out().join("metrics.jsonl")).unwrap();
    let mut lines = metrics
        .lines()
        .rev()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let last = lines.find(|line| line["event"] == "step").unwrap();
    assert_eq!(
        (&last["stage"], &last["step"]),
        (&stage.into(), &step.into()),
        "{last}"
    );
    let report = fs::read(bench.out().join("selection.json")).ok();
    (
        bench,
        report.map(|bytes| serde_json::from_slice(&bytes).unwrap()),
    )
}

fn measurements(bench: &Bench) -> usize {
    let text = fs::read_to_string(bench.out().join("measurements.json")).unwrap();
    let values: Vec<Value> = serde_json::from_str(&text).unwrap();
    values.len()
}

#[test]
fn an_interrupt_keeps_what_was_measured_so_far() {
    let (bench, report) = interrupted("head", 1);
    assert_eq!(measurements(&bench), 0);
    assert!(report.is_none());

    let (bench, report) = interrupted("probe", 5);
    assert!(measurements(&bench) > 0);
    let report = report.unwrap();
    assert!(!report.complete && !report.groups.is_empty());
    assert!(
        report
            .groups
            .iter()
            .all(|group| !group.kept && group.reason == "not decided")
    );

    let (bench, report) = interrupted("train", 2);
    assert!(measurements(&bench) > 0);
    assert!(!report.unwrap().complete);
}

#[test]
fn an_interrupt_before_the_first_step_still_ends_the_run() {
    let bench = Bench::new();
    let interrupt = Interrupt::default();
    interrupt.raise();
    for warm_up in ["probe.head_warmup=2", "probe.head_warmup=0"] {
        let settings = [warm_up, "export.force=true"];
        let error = bench
            .select_with(&settings, &Listener::default(), &interrupt)
            .unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
        assert!(names(&bench.out()).contains("recipe.yaml"));
    }
}

#[test]
fn an_interrupted_run_replaces_no_whole_result() {
    let bench = Bench::new();
    bench.report(&[]);
    let before = fs::read(bench.out().join("adapter_model.safetensors")).ok();
    let whole = names(&bench.out());
    let interrupt = Interrupt::default();
    interrupt.raise();
    let error = bench
        .select_with(&["export.force=true"], &Listener::default(), &interrupt)
        .unwrap_err();
    let Error::Interrupted { path } = error else {
        panic!("{error:?}")
    };
    assert_ne!(path, bench.out());
    assert!(names(&path).contains("recipe.yaml"));
    assert_eq!(names(&bench.out()), whole);
    assert_eq!(
        fs::read(bench.out().join("adapter_model.safetensors")).ok(),
        before
    );
}
