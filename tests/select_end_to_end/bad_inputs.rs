//! Inputs that cannot be used: the message says what is wrong and where, and nothing is left behind.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use autopeft::models::SUPPORTED;
use candle_core::{Device, Tensor};

use crate::bench::{Bench, fixture, rows};

fn model(folder: &Path) -> String {
    format!("model={}", folder.display())
}

#[test]
fn a_model_folder_must_exist_and_hold_a_model() {
    let bench = Bench::new();
    let missing = bench.path("nowhere");
    bench.refused(&[&model(&missing)], &["no such folder", "nowhere"]);
    bench.refused(
        &[&model(&bench.path("train.jsonl"))],
        &["train.jsonl", "is a file"],
    );

    let folder = bench.copy_of("bert");
    fs::remove_file(folder.join("config.json")).unwrap();
    bench.refused(
        &[&model(&folder)],
        &["not a model folder", "config.json", "model"],
    );
}

#[test]
fn an_unsupported_model_type_is_named_with_the_supported_ones() {
    let bench = Bench::new();
    let folder = bench.copy_of("bert");
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config.replace(r#""model_type": "bert""#, r#""model_type": "mamba""#);
    fs::write(folder.join("config.json"), config).unwrap();
    let mut parts = vec!["`mamba`"];
    parts.extend(SUPPORTED);
    bench.refused(&[&model(&folder)], &parts);
    fs::write(folder.join("config.json"), "{").unwrap();
    bench.refused(&[&model(&folder)], &["config.json", "JSON"]);
}

#[test]
fn weights_that_cannot_be_read_are_refused() {
    let bench = Bench::new();
    let folder = bench.copy_of("bert");
    let weights = folder.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    bench.refused(
        &[&model(&folder)],
        &["model.safetensors", "not a readable safetensors file"],
    );
    fs::write(&weights, b"what a mess").unwrap();
    bench.refused(
        &[&model(&folder)],
        &["model.safetensors", "not a readable safetensors file"],
    );
    fs::write(&weights, b"").unwrap();
    bench.refused(&[&model(&folder)], &["model.safetensors"]);
    fs::remove_file(&weights).unwrap();
    bench.refused(&[&model(&folder)], &["no weights", "model.safetensors"]);
    fs::write(&weights, whole).unwrap();
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    bench.refused(&[&model(&folder)], &["tokenizer.json"]);
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    bench.refused(&[&model(&folder)], &["tokenizer.json"]);
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    let folder = bench.copy_of("bert");
    let file = folder.join("model.safetensors");
    let whole = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let name = "bert.encoder.layer.1.output.dense.weight";
    let save = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &file).unwrap();
    };
    save(&|tensors| {
        let mut numbers: Vec<f32> = tensors[name].flatten_all().unwrap().to_vec1().unwrap();
        numbers[3] = f32::NAN;
        let spoiled = Tensor::from_vec(numbers, whole[name].dims(), &Device::Cpu).unwrap();
        tensors.insert(name.to_string(), spoiled);
    });
    bench.refused(&[&model(&folder)], &[name, "model.safetensors", "NaN"]);
    save(&|tensors| {
        tensors.remove(name);
    });
    bench.refused(&[&model(&folder)], &[name, "model.safetensors"]);
    save(&|tensors| {
        let turned = whole[name].t().unwrap().contiguous().unwrap();
        tensors.insert(name.to_string(), turned);
    });
    bench.refused(&[&model(&folder)], &[name, "shape", "[32, 16]", "[16, 32]"]);
}

#[test]
fn data_must_have_rows_of_two_classes_and_known_columns() {
    let bench = Bench::new();
    bench.refused(&["data.train=nowhere.jsonl"], &["nowhere.jsonl"]);

    bench.file("train.jsonl", "");
    bench.refused(&[], &["train.jsonl", "empty"]);

    let good = "{\"text\": \"it was good\", \"label\": \"positive\"}\n";
    bench.file("train.jsonl", &good.repeat(5));
    bench.refused(&[], &["all 5 rows", "train.jsonl", "`positive`"]);

    bench.file("train.jsonl", &rows(24));
    bench.refused(
        &["data.text_column=sentence"],
        &["train.jsonl", "`sentence`", "text"],
    );
    bench.file(
        "train.jsonl",
        &rows(24).replace("\"label\"", "\"verdict_of_the_jury\""),
    );
    bench.refused(&[], &["label", "train.jsonl", "verdict_of_the_jury"]);
    bench.file("train.jsonl", &(rows(24) + "{\"text\": \"it was\n"));
    bench.refused(&[], &["train.jsonl", "25"]);
}

#[test]
fn a_label_that_training_never_saw_is_named_with_its_place() {
    let bench = Bench::new();
    let strange = "{\"text\": \"it was\", \"label\": \"strange\"}\n";
    bench.file("validation.jsonl", &(rows(3) + strange));
    bench.refused(&[], &["4", "validation.jsonl", "`strange`", "negative"]);
}

#[test]
fn settings_out_of_their_range_are_named() {
    let bench = Bench::new();
    for (setting, parts) in [
        ("select.budget=0", ["select.budget", "0"]),
        ("select.budget=-3", ["select.budget", "-3"]),
        ("select.budget=200%", ["select.budget", "200%"]),
        ("select.budget=many", ["select.budget", "many"]),
        ("train.batch_size=0", ["train.batch_size", "1"]),
        ("probe.steps=0", ["probe.steps", "1"]),
        ("probe.burn_in=0.9", ["probe", "measurement"]),
        ("select.method=best", ["select.method", "best"]),
    ] {
        bench.refused(&[setting], &parts);
    }
    let bad_pattern = bench.refused(&[r#"superset.exclude=["("]"#], &["superset.exclude", "("]);
    assert!(!bad_pattern.to_string().is_empty());
}

/// Before the probe, whose time would be lost: a model of another family has other names.
#[test]
fn expressions_that_match_no_module_are_named_with_modules_of_the_model() {
    let bench = Bench::new();
    for (settings, parts) in [
        (
            &[r#"superset.lora.targets=["query", "q_proj", "v_proj"]"#][..],
            &["superset.lora.targets", "`q_proj`, `v_proj`", "bert"][..],
        ),
        (
            &[r#"superset.exclude=["decoder"]"#],
            &["superset.exclude", "`decoder`"],
        ),
        (
            &[r#"probe.grouping=["ffn.*"]"#],
            &["probe.grouping", "`ffn.*`"],
        ),
        // The head is no module that takes a LoRA.
        (
            &[r#"superset.lora.targets=["classifier"]"#],
            &["superset.lora.targets", "`classifier`"],
        ),
    ] {
        let error = bench.refused_early(settings, parts);
        let hint = error.hint().unwrap();
        assert!(hint.contains("bert.encoder.layer.0.attention"), "{hint}");
        assert!(!hint.contains("layer.1."), "{hint}");
    }
    // What no LoRA is attached for may name anything.
    bench.report(&[
        "superset.lora.enabled=false",
        r#"superset.lora.targets=["q_proj"]"#,
    ]);
}

#[test]
fn a_superset_without_any_module_is_refused_before_training() {
    let bench = Bench::new();
    let error = bench.refused_early(&[r#"superset.exclude=[".*"]"#], &["no groups"]);
    assert!(error.hint().unwrap().contains("superset"), "{error}");
}

#[test]
fn settings_that_do_not_go_together_are_refused_before_training() {
    let bench = Bench::new();
    let error = bench.refused_early(
        &["task.pooling=mean", "export.target=peft"],
        &["task.pooling", "peft"],
    );
    assert!(error.hint().is_some());
    // AdapterHub keeps no part of the encoder, and this pooler is new.
    let bare = model(&fixture("bert-bare-no-pooler"));
    let error = bench.refused_early(
        &[
            &bare,
            "export.target=adapterhub",
            "superset.bottleneck.enabled=true",
        ],
        &["adapterhub", "bert.pooler.dense"],
    );
    assert!(error.hint().is_some());
}

#[test]
fn a_budget_above_the_model_is_refused_before_training() {
    let bench = Bench::new();
    bench.refused_early(&["select.budget=1000000"], &["1000000", "6755"]);
}

#[test]
fn a_diverging_training_says_so() {
    let bench = Bench::new();
    let error = bench.refused(
        &[
            "train.learning_rate=1e30",
            "train.clip=0",
            "probe.learning_rates=fixed",
        ],
        &["loss"],
    );
    assert!(error.hint().unwrap().contains("learning_rate"), "{error}");
}
