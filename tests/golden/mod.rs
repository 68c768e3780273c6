//! The tiny checkpoints of `tests/fixtures/models` with the values that `transformers` computes for them
//! (`tests/fixtures/make.py`).

#[path = "../../adapters/tests/device/mod.rs"]
mod device;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use autopeft::models::checkpoint::Checkpoint;
use autopeft::models::{self, Config, Head, Inputs, Model};
use autopeft_adapters::Adapters;
use candle_core::{DType, Tensor};
pub use device::device;

/// One folder of fixtures.
pub struct Golden {
    pub name: String,
    pub config: Config,
    pub checkpoint: Arc<Checkpoint>,
    pub inputs: Inputs,
    /// By the names of the table in `tests/fixtures/README.md`.
    pub expected: HashMap<String, Tensor>,
}

/// The folders in `tests/fixtures/{kind}`, by name; there is at least one.
pub fn folders(kind: &str) -> Vec<PathBuf> {
    let parent = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(kind);
    let mut folders: Vec<PathBuf> = std::fs::read_dir(parent)
        .expect("the fixtures are committed")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no fixtures of {kind}");
    folders
}

impl Golden {
    /// Every model of the fixtures.
    #[allow(
        dead_code,
        reason = "not every test that has this module goes through all models"
    )]
    pub fn all() -> Vec<Self> {
        let name = |folder: &PathBuf| {
            folder
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        folders("models")
            .iter()
            .filter_map(name)
            .map(|name| Self::open(&name))
            .collect()
    }

    /// Opens `tests/fixtures/models/{name}`.
    pub fn open(name: &str) -> Self {
        Self::open_in("models", name)
    }

    /// Opens `tests/fixtures/{kind}/{name}`.
    pub fn open_in(kind: &str, name: &str) -> Self {
        let folders = folders(kind);
        let folder = folders.iter().find(|folder| folder.ends_with(name)); // whole components
        let folder = folder.unwrap_or_else(|| panic!("no fixture {name}"));
        let expected =
            candle_core::safetensors::load(folder.join("expected.safetensors"), device())
                .expect("expected values");
        let numbers = |name: &str| {
            expected
                .get(name)
                .map(|ids| ids.to_dtype(DType::U32).expect("token numbers"))
        };
        let input_ids = numbers("input_ids").expect("input_ids");
        let inputs = Inputs {
            segments: None,
            token_type_ids: numbers("token_type_ids").unwrap_or_else(|| zeros_like(&input_ids)),
            attention_mask: numbers("attention_mask").expect("attention_mask"),
            input_ids,
        };
        Self {
            name: name.to_string(),
            config: Config::read(&folder.join("config.json")).expect("a configuration"),
            checkpoint: Arc::new(Checkpoint::open_folder(folder).expect("a checkpoint")),
            inputs,
            expected,
        }
    }

    /// What separates our f32 and f64 numbers from those of `transformers`, whose decoders compute angles, RMSNorms and
    /// softmax in f32 even in an f64 model.
    pub fn tolerance(&self, own: f64) -> f64 {
        if self.config.decoder.is_some() {
            own.max(2e-5)
        } else {
            own
        }
    }

    /// The model with its layers from `adapters`.
    #[allow(
        dead_code,
        reason = "not every test that has this module builds classifiers"
    )]
    pub fn model(&self, adapters: &Adapters, head: Head, dtype: DType) -> Box<dyn Model> {
        models::load(
            &self.config,
            &self.checkpoint,
            adapters,
            head,
            dtype,
            device(),
        )
        .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

fn zeros_like(ids: &Tensor) -> Tensor {
    ids.zeros_like().expect("zeros")
}

/// Fails unless `|got - expected| <= absolute + relative · |expected|` everywhere.
pub fn assert_close(got: &Tensor, expected: &Tensor, relative: f64, absolute: f64, what: &str) {
    assert_eq!(got.dims(), expected.dims(), "{what}: shapes differ");
    let numbers = |tensor: &Tensor| -> Vec<f64> {
        tensor
            .to_dtype(DType::F64)
            .and_then(|tensor| tensor.flatten_all()?.to_vec1())
            .expect("numbers")
    };
    for (position, (got, expected)) in numbers(got).iter().zip(numbers(expected)).enumerate() {
        let error = (got - expected).abs();
        assert!(
            error <= absolute + relative * expected.abs(),
            "{what}: {got} is not {expected} (number {position}, error {error:.1e})"
        );
    }
}
