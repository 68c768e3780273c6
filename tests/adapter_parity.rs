//! Adapters that `peft` and AdapterHub's `adapters` wrote compute, once loaded, what they compute there.

#[expect(dead_code, reason = "other tests use the rest")]
mod golden;

use std::path::Path;

use autopeft::models::Head;
use autopeft_adapters::{Adapters, Pass, ops};
use candle_core::DType;
use golden::{Golden, assert_close, device};

/// Golden numbers are exact values rounded to f32, so this bounds our own rounding.
const TOLERANCE: f64 = 1e-5;

/// Holds the logits and gradients with the adapter in `folder` to `expected.safetensors` of `golden`.
fn check(golden: &Path, folder: &Path, our_name: impl Fn(&str) -> String) {
    let what = golden.display();
    let name = golden
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a plain name");
    // Fixtures on BERT need not say so in their name.
    let model = ["roberta", "distilbert"]
        .into_iter()
        .find(|model| name.starts_with(model));
    let base = Golden::open(model.unwrap_or("bert"));
    let expected = candle_core::safetensors::load(golden.join("expected.safetensors"), device())
        .expect("expected values");

    let adapters = Adapters::load(folder).unwrap_or_else(|error| panic!("{what}: {error}"));
    let model = base.model(&adapters, Head::new(3), DType::F32);
    adapters
        .check_used()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let logits = model.forward(&base.inputs, &Pass::eval()).expect("logits");
    assert_close(
        &logits,
        &expected["logits"],
        TOLERANCE,
        TOLERANCE,
        &what.to_string(),
    );

    let pass = Pass::train(0);
    let logits = model.forward(&base.inputs, &pass).expect("logits");
    let labels = expected["labels"].to_dtype(DType::U32).expect("labels");
    let loss = ops::cross_entropy(&logits, &labels).expect("a loss");
    let gradients = pass.backward(&loss).expect("gradients");

    let parameters = adapters.parameters();
    let mut compared = 0;
    for (key, expected) in &expected {
        let Some(key) = key.strip_prefix("grad.") else {
            continue;
        };
        let name = our_name(key);
        let parameter = parameters.iter().find(|parameter| parameter.name() == name);
        let parameter = parameter.unwrap_or_else(|| panic!("{what}: no {name} for {key}"));
        let got = gradients.get(parameter.index()).expect("a gradient");
        assert_close(got, expected, 1e-3, TOLERANCE, &format!("{what} {name}"));
        compared += 1;
    }
    assert!(compared > 0, "{what}: no gradients");
}

/// Copies the files of a folder. Golden gradients are those of a pass without dropout.
fn copy_without_dropout(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for file in std::fs::read_dir(from).expect("a folder") {
        let file = file.expect("a file");
        let to = to.join(file.file_name());
        if file.file_name() == "adapter_config.json" {
            let text = std::fs::read_to_string(file.path()).expect("a text");
            let text = text.replace(r#""lora_dropout": 0.1"#, r#""lora_dropout": 0.0"#);
            std::fs::write(to, text).expect("a copy");
        } else {
            std::fs::copy(file.path(), to).expect("a copy");
        }
    }
}

#[test]
fn adapters_of_peft_have_its_logits_and_gradients() {
    for golden in golden::folders("peft") {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy_without_dropout(&golden, folder.path());
        check(&golden, folder.path(), |key| {
            let name = key.strip_prefix("base_model.model.").unwrap_or(key);
            name.replace(".base_layer.", ".")
                .replace(".ln_tuning_layers.", ".")
                .replace("lora_A.weight", "lora_A.0")
                .replace("lora_B.weight", "lora_B.0")
        });
    }
}

#[test]
fn bottlenecks_of_adapterhub_have_its_logits_and_gradients() {
    for golden in golden::folders("adapterhub") {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy_without_dropout(&golden, &folder.path().join("bottleneck"));
        check(&golden, folder.path(), |key| {
            key.replace(".adapters.golden.", ".")
                .replace("adapter_down.0.", "adapter_down.")
        });
    }
}
