//! What could be attached to a model, and what an adapter holds.

use std::collections::BTreeMap;
use std::path::Path;

use autopeft_adapters::{Adapters, Kind, SiteShape, adapterhub, peft};
use candle_core::{DType, Device};
use serde::Serialize;

use super::prepare::{grouping, objective, superset};
use crate::base::BaseModel;
use crate::error::Result;
use crate::groups::{locate, partition};
use crate::progress::Silent;
use crate::recipe::Recipe;
use crate::report::{MANIFEST_FILE, Manifest};

/// What could be attached to a model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelContents {
    /// Folder, hub id or embedded name.
    pub model: String,
    /// `model_type` of its configuration.
    pub model_type: String,
    /// Numbers in its checkpoint.
    pub parameters: usize,
    /// Layers with a number.
    pub layers: usize,
    /// The superset by kind.
    pub kinds: Vec<KindContents>,
    /// The places, those of all layers together.
    pub modules: Vec<ModuleKind>,
    /// Every group with its size.
    pub groups: Vec<GroupSize>,
}

/// The groups of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct KindContents {
    /// The kind.
    pub kind: String,
    /// Groups.
    pub groups: usize,
    /// Parameters.
    pub parameters: usize,
}

/// Places with the same path but for the layer.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleKind {
    /// The path, with `*` for the number of the layer.
    pub path: String,
    /// Layers that have it.
    pub count: usize,
    /// Its sizes.
    pub shape: String,
}

/// A group and its size.
#[derive(Debug, Clone, Serialize)]
pub struct GroupSize {
    /// Its name.
    pub name: String,
    /// Numbers in it.
    pub parameters: usize,
}

/// What an adapter holds.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterContents {
    /// The folder.
    pub folder: String,
    /// The base model that it names.
    pub base_model: String,
    /// Class names, where the adapter has them.
    pub labels: Vec<String>,
    /// Numbers in it.
    pub parameters: usize,
    /// Its modules.
    pub modules: Vec<AdaptedModule>,
}

/// What an adapter holds for one module.
#[derive(Debug, Clone, Serialize)]
pub struct AdaptedModule {
    /// Path of the module.
    pub path: String,
    /// What it holds, such as `lora (rank 4), bias`.
    pub holds: String,
    /// Numbers in it.
    pub parameters: usize,
}

/// Whether the folder is an adapter rather than a model.
pub fn is_adapter(folder: &Path) -> bool {
    [MANIFEST_FILE, peft::CONFIG_FILE]
        .iter()
        .any(|file| folder.join(file).is_file())
        || folder.join(adapterhub::FOLDER).is_dir()
}

/// Opens a model with the recipe's superset.
///
/// # Errors
/// When the model cannot be opened.
pub fn inspect_model(recipe: &Recipe) -> Result<ModelContents> {
    let base = BaseModel::open(&recipe.model, &recipe.revision, &mut |_| {})?;
    let adapters = Adapters::superset(superset(recipe, &Silent)?, recipe.seed);
    // A binary task: the head's size depends on the data, which are not asked for.
    let labels = (!recipe.task.kind.is_language()).then_some(2);
    objective(
        &base,
        &adapters,
        labels,
        recipe.task.pooling,
        DType::F32,
        &Device::Cpu,
    )?;
    let groups = partition(
        &adapters.parameters(),
        &grouping(&recipe.probe.grouping)?,
        recipe.superset.lora.split,
    );
    let kinds = Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            let of_kind: Vec<_> = groups.iter().filter(|group| group.kind == kind).collect();
            (!of_kind.is_empty()).then(|| KindContents {
                kind: kind.to_string(),
                groups: of_kind.len(),
                parameters: of_kind.iter().map(|group| group.size).sum(),
            })
        })
        .collect();
    let mut modules: Vec<ModuleKind> = Vec::new();
    let mut layers = 0;
    for site in adapters.sites() {
        let location = locate(&site.path);
        let path = match location.layer {
            Some(layer) => {
                layers = layers.max(layer + 1);
                site.path.replacen(&format!(".{layer}."), ".*.", 1)
            }
            None => site.path.clone(),
        };
        let shape = match site.shape {
            SiteShape::Linear {
                in_features,
                out_features,
                ..
            }
            | SiteShape::Head {
                in_features,
                out_features,
            } => format!("{in_features} → {out_features}"),
            SiteShape::Norm { hidden_size, .. } => format!("norm of {hidden_size}"),
            SiteShape::Bottleneck { .. } => continue,
        };
        match modules.iter_mut().find(|module| module.path == path) {
            Some(module) => module.count += 1,
            None => modules.push(ModuleKind {
                path,
                count: 1,
                shape,
            }),
        }
    }
    Ok(ModelContents {
        model: recipe.model.clone(),
        model_type: base.config.model_type.clone(),
        parameters: base.num_parameters(),
        layers,
        kinds,
        modules,
        groups: groups
            .iter()
            .map(|group| GroupSize {
                name: group.name.clone(),
                parameters: group.size,
            })
            .collect(),
    })
}

/// Reads an adapter without its base model.
///
/// # Errors
/// When a file of it cannot be read.
pub fn inspect_adapter(folder: &Path) -> Result<AdapterContents> {
    let adapters = Adapters::load(folder)?;
    let manifest = Manifest::read(folder).ok();
    let base_model = match &manifest {
        Some(manifest) => manifest.base_model.clone(),
        None => peft::PeftConfig::read(folder)?
            .base_model_name_or_path
            .unwrap_or_default(),
    };
    let mut modules: BTreeMap<String, AdaptedModule> = BTreeMap::new();
    for (path, holds, parameters) in adapters.loaded() {
        let module = modules
            .entry(path.clone())
            .or_insert_with(|| AdaptedModule {
                path,
                holds,
                parameters: 0,
            });
        module.parameters += parameters;
    }
    Ok(AdapterContents {
        folder: folder.display().to_string(),
        base_model,
        labels: manifest
            .map(|manifest| manifest.label_names().to_vec())
            .unwrap_or_default(),
        parameters: modules.values().map(|module| module.parameters).sum(),
        modules: modules.into_values().collect(),
    })
}
