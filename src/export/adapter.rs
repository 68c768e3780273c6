//! The files of an adapter: the PEFT checkpoint, and an AdapterHub folder for the bottlenecks that PEFT has no
//! format for.

use std::path::{Path, PathBuf};

use autopeft_adapters::Adapters;
use autopeft_adapters::adapterhub::{self, AdapterHubOptions};
use autopeft_adapters::peft::{self, LoraLayout, LoraScale, PeftOptions, TaskType};

use crate::error::{Error, Result};
use crate::models::Config;
use crate::recipe::{Target, TaskKind};

/// Name of the bottleneck adapter within a model of AdapterHub.
const ADAPTER_NAME: &str = "autopeft";

/// What the files say beside the tensors.
#[derive(Debug, Clone, Copy)]
pub struct AdapterOptions<'a> {
    /// Hub id or folder of the base model.
    pub base_model: &'a str,
    /// Configuration of the base model.
    pub config: &'a Config,
    /// Label names, by class.
    pub labels: &'a [String],
    /// What was learned.
    pub task: TaskKind,
    /// Dropout that a continued training would use.
    pub lora_dropout: f64,
    /// Where the factor of a LoRA goes.
    pub lora_scale: LoraScale,
    /// Who shall load it.
    pub target: Target,
}

/// What was written; paths are relative to the adapter's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdapterFiles {
    /// The folder of the PEFT checkpoint.
    pub peft: Option<PathBuf>,
    /// The AdapterHub folder.
    pub bottleneck: Option<PathBuf>,
    /// Module that carries a LoRA of zeros for PEFT's sake.
    pub placeholder: Option<String>,
}

/// Writes every parameter that is not dropped into `folder`: the PEFT checkpoint at the top, or in `peft`
/// beside `bottleneck` where a bottleneck adapter survived, since then the checkpoint is not the whole adapter
/// and no loader should take it for one.
///
/// # Errors
/// When the target's format cannot hold the parameters, and on input or output errors.
pub fn write_adapter(
    folder: &Path,
    adapters: &Adapters,
    options: &AdapterOptions<'_>,
) -> Result<AdapterFiles> {
    let has_bottleneck = !adapterhub::kept(adapters).is_empty();
    let mut files = AdapterFiles::default();
    if options.target != Target::Adapterhub {
        let place = Path::new(if has_bottleneck { peft::FOLDER } else { "" });
        let target = create(folder.join(place))?;
        let options = PeftOptions {
            base_model: options.base_model.to_string(),
            task: if options.task.is_language() {
                TaskType::CausalLanguageModel
            } else {
                TaskType::SequenceClassification
            },
            lora_dropout: options.lora_dropout,
            lora_scale: options.lora_scale,
            // What waits for a training has no use for rows and columns of zeros, which no gradient moves.
            lora_layout: match (options.target, options.lora_scale) {
                (Target::Servers, LoraScale::Folded) => LoraLayout::Uniform,
                _ => LoraLayout::Trimmed,
            },
        };
        files.placeholder = peft::write(&target, adapters, &options)?.placeholder;
        files.peft = Some(place.to_path_buf());
    }
    if has_bottleneck || options.target == Target::Adapterhub {
        let target = create(folder.join(adapterhub::FOLDER))?;
        adapterhub::write(&target, adapters, &adapterhub_options(options))?;
        files.bottleneck = Some(adapterhub::FOLDER.into());
    }
    Ok(files)
}

fn adapterhub_options(options: &AdapterOptions<'_>) -> AdapterHubOptions {
    let config = options.config;
    AdapterHubOptions {
        name: ADAPTER_NAME.to_string(),
        model_class: config.classifier_class(),
        model_type: config.model_type.clone(),
        model_name: options.base_model.to_string(),
        base_prefix: config.family.base_model_prefix().to_string(),
        labels: options.labels.to_vec(),
    }
}

fn create(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&folder).map_err(Error::io("creating", &folder))?;
    Ok(folder)
}
