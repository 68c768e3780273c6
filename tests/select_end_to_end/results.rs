//! What a result consists of.

use std::collections::{BTreeSet, HashSet};
use std::fs;

use autopeft::data::{ColumnNames, LabelOrder, Source, load_labelled};
use autopeft::interrupt::Interrupt;
use autopeft::pipeline::select;
use autopeft::progress::Silent;
use autopeft::recipe::Recipe;
use autopeft::report::{Manifest, SelectionReport, Stage};
use autopeft_adapters::Kind;
use serde_json::{Value, json};

use crate::bench::{Bench, Listener, fixture, names, opened, rows};

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

const COMMON: [&str; 5] = [
    "README.md",
    "autopeft.json",
    "metrics.jsonl",
    "recipe.yaml",
    "selection.json",
];

#[test]
fn a_result_has_exactly_its_files_and_leaves_nothing_beside_it() {
    let bench = Bench::new();
    bench.report(&[]);
    let mut expected = set(&COMMON);
    expected.extend(set(&["adapter_config.json", "adapter_model.safetensors"]));
    assert_eq!(names(&bench.out()), expected);
    assert_eq!(
        bench.names(),
        set(&["out", "train.jsonl", "validation.jsonl"])
    );
}

#[test]
fn loraplus_is_for_rows_that_are_seen_often() {
    let adapter = |steps: usize, ratio: &str| {
        let bench = Bench::new();
        bench.report(&[
            &format!("train.steps={}", 6 + steps),
            &format!("train.loraplus_lr_ratio={ratio}"),
        ]);
        fs::read(bench.out().join("adapter_model.safetensors")).unwrap()
    };
    for (steps, ratio, other) in [(40, "16", "1"), (6, "1", "16")] {
        let by_rows = adapter(steps, "null");
        assert_eq!(by_rows, adapter(steps, ratio));
        assert_ne!(by_rows, adapter(steps, other));
    }
}

#[test]
fn dropout_is_in_the_training_of_what_was_chosen_and_nowhere_before() {
    let run = |dropout: &str| {
        let bench = Bench::new();
        let report = bench.report(&[&format!("train.dropout={dropout}")]);
        let adapter = fs::read(bench.out().join("adapter_model.safetensors")).unwrap();
        (serde_json::to_value(&report.groups).unwrap(), adapter)
    };
    let (groups, without) = run("0");
    let (measured, with) = run("0.1");
    assert_eq!(measured, groups);
    assert_ne!(with, without);
    assert_eq!(run("0.1").1, with);
}

#[test]
fn the_adapter_is_the_mean_of_the_last_values() {
    let adapter = |steps: usize, average: &str| {
        let bench = Bench::new();
        let report = bench.report(&[&format!("train.steps={}", 6 + steps), average]);
        assert_eq!(report.held_out.last().unwrap().steps, 2 + 6 + steps);
        let passes = (4 * steps) as f64 / report.data.train as f64;
        assert_eq!(passes > 2.0, steps == 40);
        fs::read(bench.out().join("adapter_model.safetensors")).unwrap()
    };
    let last = adapter(40, "train.average=0");
    // The mean of one step, and of twenty.
    assert_eq!(adapter(40, "train.average=0.025"), last);
    assert_ne!(adapter(40, "train.average=0.5"), last);
    // Rows that are seen once or twice.
    let last = adapter(6, "train.average=0");
    assert_eq!(adapter(6, "train.average=0.5"), last);
}

#[test]
fn the_report_names_every_group_with_a_reason() {
    let bench = Bench::new();
    let told = bench.report(&[]);
    let text = fs::read_to_string(bench.out().join("selection.json")).unwrap();
    assert_eq!(text, serde_json::to_string_pretty(&told).unwrap() + "\n");
    let report: SelectionReport = serde_json::from_str(&text).unwrap();

    let metrics = fs::read_to_string(bench.out().join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["event"], "start");
    assert_eq!(lines[0]["groups"], report.groups.len());
    assert_eq!(
        lines.iter().filter(|line| line["event"] == "step").count(),
        2 + 6 + 4
    );

    let unique: HashSet<&str> = report
        .groups
        .iter()
        .map(|group| group.name.as_str())
        .collect();
    assert_eq!(unique.len(), report.groups.len());
    for group in &report.groups {
        assert!(
            !group.reason.is_empty() && group.reason != "not decided",
            "{}",
            group.name
        );
        assert_eq!(
            group.kind == Kind::Head,
            group.reason == "always kept",
            "{}",
            group.name
        );
        assert!(
            group.value.is_finite() && group.influence.is_finite(),
            "{}",
            group.name
        );
    }
    let sizes = |wanted: &dyn Fn(&autopeft::report::GroupReport) -> bool| -> usize {
        report
            .groups
            .iter()
            .filter(|g| wanted(g))
            .map(|g| g.parameters)
            .sum()
    };
    assert_eq!(
        sizes(&|g| g.kept && g.kind != Kind::Head),
        report.kept_parameters
    );
    assert_eq!(sizes(&|g| g.kind == Kind::Head), report.head_parameters);
    assert_eq!(sizes(&|g| g.kind != Kind::Head), report.superset_parameters);
    let stages: Vec<Stage> = report.held_out.iter().map(|value| value.stage).collect();
    assert_eq!(
        stages,
        [
            Stage::Untrained,
            Stage::Superset,
            Stage::Dropped,
            Stage::Trimmed
        ]
    );
    assert!(report.complete);
}

/// Seconds differ from run to run, everything else must not.
fn without_seconds(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("seconds");
            let fields = std::mem::take(fields);
            let timeless = fields
                .into_iter()
                .map(|(key, value)| (key, without_seconds(value)));
            Value::Object(timeless.collect())
        }
        Value::Array(values) => values.drain(..).map(without_seconds).collect(),
        _ => value,
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed: &str| {
        let bench = Bench::new();
        bench.report(&[seed, "superset.lora.dropout=0.1"]);
        let read = |name: &str| fs::read(bench.out().join(name)).unwrap();
        let report: Value = serde_json::from_slice(&read("selection.json")).unwrap();
        (
            read("adapter_model.safetensors"),
            read("adapter_config.json"),
            without_seconds(report).to_string(),
        )
    };
    let first = run("seed=3");
    assert!(run("seed=3") == first, "two runs of one seed differ");
    assert_ne!(run("seed=4").0, first.0);
}

#[test]
fn a_result_that_is_opened_again_has_the_values_of_its_report() {
    let bottleneck = [
        "superset.bottleneck.enabled=true",
        "superset.lora.enabled=false",
        "select.method=threshold",
        "select.threshold=1.0",
    ];
    let fresh_head = ["train.learning_rate=0.02"];
    for (model, settings) in [
        ("bert", &[][..]),
        ("bert-bare-no-pooler", &fresh_head[..]),
        ("roberta", &bottleneck[..]),
        ("distilbert", &bottleneck[..]),
    ] {
        let bench = Bench::new();
        let model = format!("model={}", fixture(model).display());
        let settings: Vec<&str> = [model.as_str()]
            .into_iter()
            .chain(settings.iter().copied())
            .collect();
        let report = bench.report(&settings);
        let base = report.model.source.as_str();
        let adapted = opened(&bench.out(), base);
        let file = Source::File(bench.path("validation.jsonl"));
        let rows = load_labelled(
            &file,
            &ColumnNames::default(),
            adapted.manifest.labels.as_ref().unwrap(),
            false,
        )
        .unwrap();
        let again = adapted.evaluate(&rows.rows).unwrap();
        let told = report.held_out.last().unwrap().evaluation;
        assert_eq!(again.examples, told.examples);
        assert!(
            (again.loss - told.loss).abs() < 1e-5,
            "{model}: {again:?} is not {told:?}"
        );
    }
}

#[test]
fn a_surviving_bottleneck_puts_the_peft_checkpoint_beside_it() {
    let bench = Bench::new();
    let outcome = bench
        .select(&[
            "superset.bottleneck.enabled=true",
            "superset.norm.enabled=false",
            "superset.lora.enabled=false",
            "select.method=threshold",
            "select.threshold=1.0",
        ])
        .unwrap();
    let kept = |kind: Kind| {
        outcome
            .report
            .groups
            .iter()
            .any(|g| g.kind == kind && g.kept)
    };
    assert!(kept(Kind::Bottleneck) && kept(Kind::Bias));
    let mut expected = set(&COMMON);
    expected.extend(set(&["peft", "bottleneck"]));
    assert_eq!(names(&bench.out()), expected);
    assert_eq!(
        names(&bench.out().join("peft")),
        set(&["adapter_config.json", "adapter_model.safetensors"])
    );
    assert_eq!(
        names(&bench.out().join("bottleneck")),
        set(&[
            "adapter.safetensors",
            "adapter_config.json",
            "head_config.json",
            "model_head.safetensors"
        ])
    );
    let card = fs::read_to_string(bench.out().join("README.md")).unwrap();
    assert!(
        card.contains("bottleneck") && card.contains("peft"),
        "{card}"
    );
}

#[test]
fn a_target_leaves_out_what_it_cannot_hold_from_the_start() {
    for (target, kinds) in [
        ("peft", vec![Kind::Lora, Kind::Bias, Kind::Norm, Kind::Head]),
        ("adapterhub", vec![Kind::Bottleneck, Kind::Head]),
    ] {
        let bench = Bench::new();
        let recipe = bench.recipe_text();
        let change = format!("export.target={target}").parse().unwrap();
        let recipe = Recipe::read("test", &recipe, &[change]).unwrap();
        let outcome = select(&recipe, &bench.out(), &Silent, &Interrupt::default()).unwrap();
        let present: HashSet<Kind> = outcome
            .report
            .groups
            .iter()
            .map(|group| group.kind)
            .collect();
        assert_eq!(present, kinds.into_iter().collect(), "{target}");
        let is_peft = outcome.written.bottleneck.is_none();
        assert_eq!(bench.out().join("adapter_config.json").is_file(), is_peft);
        assert_eq!(bench.out().join("bottleneck").is_dir(), !is_peft);
    }
}

/// Labels, the loss before any training and what was told, where the head's outputs have these names.
fn with_outputs(bench: &Bench, names: [&str; 3], seed: u64) -> (Vec<String>, f64, Vec<String>) {
    let path = bench.path("model").join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["id2label"] = json!({"0": names[0], "1": names[1], "2": names[2]});
    fs::write(&path, config.to_string()).unwrap();
    let model = format!("model={}", bench.path("model").display());
    let seed = format!("seed={seed}");
    let listener = Listener::default();
    let settings = [&model, &seed, "export.force=true"];
    let outcome = bench.select_with(&settings, &listener, &Interrupt::default());
    let report = outcome.unwrap().report;
    let first = report.held_out.first().unwrap();
    assert_eq!((first.stage, first.steps), (Stage::Untrained, 0));
    let mut told = listener.told.lock().unwrap().clone();
    told.retain(|line| line.contains("head"));
    (report.data.labels, first.evaluation.loss, told)
}

#[test]
fn the_checkpoints_own_head_serves_the_labels_it_is_for() {
    let bench = Bench::new();
    bench.copy_of("bert");
    let (labels, loss, told) = with_outputs(&bench, ["Positive", "negative", "NEUTRAL"], 0);
    assert_eq!(labels, ["positive", "negative", "neutral"]);
    assert!(told.is_empty(), "{told:?}");
    let manifest = Manifest::read(&bench.out()).unwrap();
    assert_eq!(manifest.label_names(), labels);
    assert_eq!(manifest.labels.unwrap().order(), LabelOrder::Numbered);
    let (_, again, _) = with_outputs(&bench, ["Positive", "negative", "NEUTRAL"], 1);
    assert_eq!(again, loss, "a head that was drawn");
    let (_, other, _) = with_outputs(&bench, ["negative", "neutral", "positive"], 0);
    assert!((other - loss).abs() > 1e-4, "{other} {loss}");
    let (labels, placeholders, told) = with_outputs(&bench, ["LABEL_0", "LABEL_1", "LABEL_2"], 0);
    assert_eq!(labels, ["negative", "neutral", "positive"]);
    assert_eq!((placeholders, told.len()), (other, 0));
}

#[test]
fn a_head_for_other_labels_is_replaced_and_said_to_be() {
    let bench = Bench::new();
    bench.copy_of("bert");
    let (labels, loss, told) = with_outputs(&bench, ["angry", "happy", "sad"], 0);
    assert_eq!(labels, ["negative", "neutral", "positive"]);
    assert!(
        matches!(told.as_slice(), [line] if line.starts_with("warning: ") && line.contains("`angry`")),
        "{told:?}"
    );
    let (_, other, _) = with_outputs(&bench, ["angry", "happy", "sad"], 1);
    assert_ne!(other, loss);
    // Labels that are numbers from 0 are the numbers of the outputs.
    for name in ["train.jsonl", "validation.jsonl"] {
        let mut text = rows(if name.starts_with('t') { 24 } else { 12 });
        for (number, label) in ["negative", "neutral", "positive"].iter().enumerate() {
            text = text.replace(&format!("\"{label}\""), &number.to_string());
        }
        bench.file(name, &text);
    }
    let (labels, loss, told) = with_outputs(&bench, ["angry", "happy", "sad"], 0);
    assert_eq!(labels, ["0", "1", "2"]);
    assert!(
        matches!(told.as_slice(), [line] if line.contains("number the outputs")),
        "{told:?}"
    );
    let (_, again, _) = with_outputs(&bench, ["angry", "happy", "sad"], 1);
    assert_eq!(again, loss);
}
