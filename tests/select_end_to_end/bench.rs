//! A folder of its own for each test: rows, a recipe of few steps, and a place for the result.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use autopeft::base::BaseModel;
use autopeft::error::{Error, Result};
use autopeft::interrupt::Interrupt;
use autopeft::pipeline::{self, Adapted, Outcome};
use autopeft::progress::{Event, Progress, StepInfo};
use autopeft::recipe::{Override, Recipe};
use autopeft::report::SelectionReport;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::device;

/// Words that the fixtures' tokenizers know, by label.
const WORDS: [(&str, [&str; 4]); 3] = [
    ("negative", ["bad", "slow", "dull", "mess"]),
    ("neutral", ["movie", "film", "end", "it"]),
    ("positive", ["good", "fun", "good fun", "not bad"]),
];

/// A folder with all that a run needs.
pub struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let bench = Self {
            root: tempfile::tempdir().unwrap(),
        };
        bench.file("train.jsonl", &rows(24));
        bench.file("validation.jsonl", &rows(12));
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// Writes a text file into the folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A copy of a fixture model within the folder, to be damaged.
    pub fn copy_of(&self, model: &str) -> PathBuf {
        let to = self.path("model");
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(fixture(model)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }

    /// A deeper model of the family of `model`, whose two layers take turns.
    pub fn deeper(&self, model: &Path, layers: usize) -> PathBuf {
        let to = self.path(&format!("{layers}-layers"));
        fs::create_dir(&to).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(model.join(name), to.join(name)).unwrap();
        }
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["num_hidden_layers"] = layers.into();
        fs::write(to.join("config.json"), config.to_string()).unwrap();
        let file = "model.safetensors";
        let shallow = candle_core::safetensors::load(model.join(file), &Device::Cpu).unwrap();
        let mut deep: HashMap<String, Tensor> = HashMap::new();
        for (name, tensor) in shallow {
            let parts: Vec<&str> = name.split('.').collect();
            let Some(place) = parts.iter().position(|part| part.parse::<usize>().is_ok()) else {
                deep.insert(name, tensor);
                continue;
            };
            let first: usize = parts[place].parse().unwrap();
            for layer in (first..layers).step_by(2) {
                let mut parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                parts[place] = layer.to_string();
                deep.insert(parts.join("."), tensor.clone());
            }
        }
        candle_core::safetensors::save(&deep, to.join(file)).unwrap();
        to
    }

    /// The recipe's text; paths are within quotes, as JSON is YAML.
    pub fn recipe_text(&self) -> String {
        json!({
            "model": fixture("bert"),
            "device": device::name(),
            "task": {"max_length": 16},
            "data": {"train": self.path("train.jsonl"), "validation": self.path("validation.jsonl")},
            "train": {"steps": 10, "batch_size": 4, "learning_rate": 5e-3},
            "probe": {"steps": 6, "every": 2, "burn_in": 0.3, "head_warmup": 2, "examples": 8, "resamples": 50},
            // All kinds at once, and as many as fit: the few rows here determine little.
            "select": {"budget": 300, "order": [], "per_nat": null, "refit": 0},
        })
        .to_string()
    }

    /// The recipe with these settings changed, each `key=value`.
    pub fn recipe(&self, settings: &[&str]) -> Result<Recipe> {
        // Bottlenecks have tests of their own: with one, the result has other files.
        let changes: Vec<Override> = ["superset.bottleneck.enabled=false"]
            .iter()
            .chain(settings)
            .map(|s| s.parse().unwrap())
            .collect();
        Ok(Recipe::read("test", &self.recipe_text(), &changes)?)
    }

    /// The whole pipeline into [`Bench::out`].
    pub fn select(&self, settings: &[&str]) -> Result<Outcome> {
        self.select_with(settings, &Listener::default(), &Interrupt::default())
    }

    pub fn select_with(
        &self,
        settings: &[&str],
        progress: &dyn Progress,
        interrupt: &Interrupt,
    ) -> Result<Outcome> {
        pipeline::select(&self.recipe(settings)?, &self.out(), progress, interrupt)
    }

    /// The report of a run that must succeed.
    pub fn report(&self, settings: &[&str]) -> SelectionReport {
        match self.select(settings) {
            Ok(outcome) => outcome.report,
            Err(error) => panic!("{settings:?}: {error}"),
        }
    }

    /// The error of a run that must fail, leaving nothing behind.
    pub fn error(&self, settings: &[&str]) -> Error {
        let before = tree(self.root.path());
        let Err(error) = self.select(settings) else {
            panic!("{settings:?} succeeded");
        };
        assert_eq!(tree(self.root.path()), before, "{settings:?}: {error}");
        error
    }

    /// Fails unless the message of a run has all of these parts, and the run leaves nothing behind.
    pub fn refused(&self, settings: &[&str], parts: &[&str]) -> Error {
        let error = self.error(settings);
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
        error
    }

    /// The same for a fault that shows before any training.
    pub fn refused_early(&self, settings: &[&str], parts: &[&str]) -> Error {
        let listener = Listener::default();
        let result = self.select_with(settings, &listener, &Interrupt::default());
        assert!(
            result.is_err() && listener.stages().is_empty(),
            "{:?}",
            listener.stages()
        );
        self.refused(settings, parts)
    }

    /// Names of the files in the folder itself.
    pub fn names(&self) -> BTreeSet<String> {
        names(self.root.path())
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

/// A model of the fixtures.
pub fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(model)
}

/// As many rows, their labels in turn.
pub fn rows(count: usize) -> String {
    (0..count)
        .map(|number| {
            let (label, words) = WORDS[number % WORDS.len()];
            let word = words[number / WORDS.len() % words.len()];
            let filler = ["the movie was", "it is", "the film and the end was"][number / 5 % 3];
            json!({"text": format!("{filler} {word}."), "label": label}).to_string() + "\n"
        })
        .collect()
}

pub fn names(folder: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().into_owned()
    };
    fs::read_dir(folder).unwrap().map(name).collect()
}

/// Every file below a folder with its content, and every folder.
pub fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            found.push((path.clone(), Vec::new()));
            found.extend(tree(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path, content));
        }
    }
    found
}

/// Remembers what a run tells, and may raise an interrupt in the middle of it.
#[derive(Default)]
pub struct Listener {
    /// Stages that started, in order.
    pub stages: Mutex<Vec<String>>,
    /// Notes and warnings, in order.
    pub told: Mutex<Vec<String>>,
    /// Raised in the step of this number of the stage of this name.
    pub stop: Option<(&'static str, usize, Interrupt)>,
}

impl Listener {
    pub fn stopping(stage: &'static str, step: usize) -> (Self, Interrupt) {
        let interrupt = Interrupt::default();
        let listener = Self {
            stop: Some((stage, step, interrupt.clone())),
            ..Self::default()
        };
        (listener, interrupt)
    }

    pub fn stages(&self) -> Vec<String> {
        self.stages.lock().unwrap().clone()
    }
}

impl Progress for Listener {
    fn start(&self, stage: &str, _: Option<usize>) {
        self.stages.lock().unwrap().push(stage.to_string());
    }

    fn step(&self, info: &StepInfo) {
        if let Some((stage, step, interrupt)) = &self.stop
            && self
                .stages
                .lock()
                .unwrap()
                .last()
                .is_some_and(|now| now == stage)
            && info.step == *step
        {
            interrupt.raise();
        }
    }

    fn finish(&self) {}

    fn note(&self, text: &str) {
        self.told.lock().unwrap().push(text.to_string());
    }

    fn warn(&self, text: &str) {
        self.told.lock().unwrap().push(format!("warning: {text}"));
    }

    fn event(&self, _: &Event) {}
}

/// A result over its base model.
pub fn opened(folder: &Path, model: &str) -> Adapted {
    let base = BaseModel::open(model, "main", &mut |_| {}).unwrap();
    Adapted::open(folder, base, 5, Device::Cpu, DType::F32).unwrap()
}
