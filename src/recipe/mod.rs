//! Recipes: everything a run needs to know, in one YAML file.
//!
//! A recipe names only what differs from the defaults; flags override it; the resolved recipe is written beside the result.
//! Unknown keys are refused with the nearest known one, and all faults are reported together, each with its line.
//!
//! ```
//! use autopeft::recipe::{Override, Recipe, RecipeError};
//!
//! let changes = ["select.budget=5000".parse::<Override>()?];
//! let recipe = Recipe::read("example", "train: {learning_rate: 5e-4}", &changes)?;
//! assert_eq!(recipe.train.learning_rate, 5e-4);
//! assert_eq!(recipe.select.budget, "5000");
//!
//! let faults = Recipe::read("example", "train: {learing_rate: 5e-4}", &[]).unwrap_err();
//! assert!(faults.to_string().contains("did you mean `train.learning_rate`?"));
//! # Ok::<(), RecipeError>(())
//! ```

mod check;
mod docs;
mod embedded;
mod error;
mod horizon;
mod layers;
mod locate;
mod ranges;
mod schema;
mod suggest;
mod tree;
mod words;
mod write;

use std::path::Path;

pub use docs::{Form, KEYS, Key, default_of, key, markdown};
pub use embedded::{EMBEDDED, Embedded, embedded};
pub use error::{Fault, RecipeError};
pub use horizon::Horizon;
pub use layers::Override;
pub use schema::{
    Bias, Bottleneck, Data, Export, Lora, Norm, Probe, Recipe, Select, Superset, Task, Train,
};
pub use words::{
    After, BiasStyle, BottleneckStyle, DeviceChoice, Dtype, Estimator, Grouping, Learned,
    LearningRates, Method, NonLinearity, Pooling, Schedule, Solver, Target, Targets, TaskKind,
    UnknownWord,
};

impl Recipe {
    /// Reads a recipe text with overrides over it; `name` is what messages call it.
    ///
    /// # Errors
    /// [`RecipeError::Invalid`] with every fault of the text and of the overrides.
    pub fn read(name: &str, text: &str, overrides: &[Override]) -> Result<Self, RecipeError> {
        let mut layers = layers::Layers::new(text);
        for change in overrides {
            layers.set(change);
        }
        check::finish(layers).map_err(|faults| RecipeError::Invalid {
            name: name.to_owned(),
            faults,
        })
    }

    /// Reads the embedded recipe of this name, or else the file at this path, with overrides over it.
    ///
    /// # Errors
    /// [`RecipeError::NotFound`] if it is neither, [`RecipeError::Read`] if the file cannot be read, and those of [`Recipe::read`].
    pub fn load(name_or_path: &str, overrides: &[Override]) -> Result<Self, RecipeError> {
        Self::read(name_or_path, &text_of(name_or_path)?, overrides)
    }

    /// The whole recipe as YAML, every key with its meaning; reads back as the same recipe.
    pub fn resolved_yaml(&self) -> String {
        write::commented(self)
    }
}

/// The text of the embedded recipe of this name, or else of the file at this path.
///
/// # Errors
/// [`RecipeError::NotFound`] if it is neither, [`RecipeError::Read`] if the file cannot be read.
pub fn text_of(name_or_path: &str) -> Result<String, RecipeError> {
    if let Some(recipe) = embedded(name_or_path) {
        return Ok(recipe.text.to_owned());
    }
    let path = Path::new(name_or_path);
    std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => RecipeError::NotFound {
            name: name_or_path.to_owned(),
            nearest: suggest::nearest(name_or_path, EMBEDDED.iter().map(|recipe| recipe.name)),
        },
        _ => RecipeError::Read {
            path: path.to_owned(),
            source,
        },
    })
}
