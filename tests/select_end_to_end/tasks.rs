//! Tasks other than one label for a text: numbers, and several labels.

use autopeft::data::{ColumnNames, LabelKind, Source, load_targets};
use autopeft::metrics::Scores;
use autopeft::pipeline::Prediction;
use serde_json::{Value, json};

use crate::bench::{Bench, opened};

/// Rows whose target follows from their words.
fn rows(count: usize, target: impl Fn(bool, bool) -> Value) -> String {
    let row = |number: usize| {
        let (good, fun) = (number.is_multiple_of(2), number.is_multiple_of(3));
        let words = [
            if good { "good" } else { "bad" },
            if fun { "fun" } else { "slow" },
            ["movie", "film", "end"][number % 3],
        ];
        json!({"text": words.join(" "), "label": target(good, fun)}).to_string() + "\n"
    };
    (0..count).map(row).collect()
}

fn bench(target: impl Fn(bool, bool) -> Value) -> Bench {
    let bench = Bench::new();
    bench.file("train.jsonl", &rows(24, &target));
    bench.file("validation.jsonl", &rows(12, &target));
    bench
}

fn learned(bench: &Bench, task: &str) -> autopeft::report::SelectionReport {
    let settings = [
        &format!("task.type={task}"),
        "train.steps=40",
        "train.learning_rate=0.02",
        "select.budget=3000",
    ];
    bench.report(&settings)
}

#[test]
fn numbers_are_learned_and_predicted_as_numbers() {
    let bench =
        bench(|good, fun| json!(f64::from(u8::from(good)) - 0.5 * f64::from(u8::from(fun))));
    let report = learned(&bench, "regression");
    let (first, last) = (
        &report.held_out[0].evaluation,
        &report.held_out.last().unwrap().evaluation,
    );
    assert!(
        last.loss < 0.7 * first.loss,
        "{} is not below {}",
        last.loss,
        first.loss
    );
    let Scores::Numbers { pearson, spearman } = last.scores else {
        panic!("{:?}", last.scores)
    };
    assert!(pearson > 0.5 && spearman > 0.3, "{pearson} {spearman}");
    let config = std::fs::read_to_string(bench.out().join("adapter_config.json")).unwrap();
    assert!(config.contains("SEQ_CLS"));
    let card = std::fs::read_to_string(bench.out().join("README.md")).unwrap();
    assert!(
        card.contains("num_labels=1, problem_type=\"regression\"") && card.contains("Pearson"),
        "{card}"
    );
    // Opened again, it says the same of the same rows.
    let base = report.model.source.as_str();
    let adapted = opened(&bench.out(), base);
    let file = Source::File(bench.path("validation.jsonl"));
    let labels = adapted.manifest.labels.clone().unwrap();
    let rows = load_targets(
        &file,
        &ColumnNames::default(),
        LabelKind::Numbers,
        &labels,
        false,
    )
    .unwrap();
    let again = adapted.evaluate(&rows.rows).unwrap();
    assert!((again.loss - last.loss).abs() < 1e-5);
    let predictions = adapted.predict(&rows.rows).unwrap();
    assert!(matches!(&predictions[0], Prediction::Numbers { values } if values.len() == 1));
}

#[test]
fn several_labels_are_learned_each_for_itself() {
    let bench = bench(|good, fun| {
        let labels = [("good", good), ("fun", fun)];
        let held = labels
            .iter()
            .filter(|(_, holds)| *holds)
            .map(|(name, _)| *name);
        json!(held.collect::<Vec<_>>())
    });
    let report = learned(&bench, "multi-label");
    assert_eq!(report.data.labels, ["fun", "good"]);
    let last = &report.held_out.last().unwrap().evaluation;
    let Scores::Labels {
        micro_f1,
        subset_accuracy,
        ..
    } = last.scores
    else {
        panic!("{:?}", last.scores)
    };
    assert!(micro_f1 > 0.8 && subset_accuracy >= 0.5, "{last:?}");
    let base = report.model.source.as_str();
    let adapted = opened(&bench.out(), base);
    let file = Source::File(bench.path("validation.jsonl"));
    let labels = adapted.manifest.labels.clone().unwrap();
    let rows = load_targets(
        &file,
        &ColumnNames::default(),
        LabelKind::AnyOfMany,
        &labels,
        false,
    )
    .unwrap();
    for prediction in adapted.predict(&rows.rows).unwrap() {
        let Prediction::Labels {
            labels,
            probabilities,
        } = prediction
        else {
            panic!("{prediction:?}")
        };
        for (name, p) in &probabilities {
            assert_eq!(labels.contains(name), p.as_f64().unwrap() > 0.5);
        }
    }
}

#[test]
fn a_number_must_be_one_and_every_row_has_as_many() {
    let texts = Bench::new();
    texts.refused_early(
        &["task.type=regression"],
        &["not a finite number", "train.jsonl", "line 1"],
    );
    let bench = Bench::new();
    bench.file(
        "train.jsonl",
        "{\"text\": \"good\", \"label\": [1, 2]}\n{\"text\": \"bad\", \"label\": [1]}\n",
    );
    bench.refused_early(&["task.type=regression"], &["1 numbers, others have 2"]);
}

#[test]
fn an_encoder_is_no_language_model() {
    let bench = Bench::new();
    bench.file(
        "train.jsonl",
        "{\"text\": \"good movie\"}\n{\"text\": \"bad film\"}\n",
    );
    bench.file("validation.jsonl", "{\"text\": \"good film\"}\n");
    bench.refused_early(
        &["task.type=causal-lm"],
        &["bert", "does not predict the next token"],
    );
}
