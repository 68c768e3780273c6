//! The on-disk format of AdapterHub's `adapters` 1.2.0, for bottleneck adapters, which PEFT has no
//! format for: `adapter_config.json` and `adapter.safetensors`, with the head in `head_config.json` and
//! `model_head.safetensors`.
//!
//! What survives a selection differs by layer: layers without an adapter are listed in `leave_out`, and
//! where the two places of a layer differ, the configuration is a union of one part for each place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::adapters::Adapters;
use crate::bottleneck::Place;
use crate::kind::{Kind, Part};
use crate::plan::{Activation, BottleneckPlan, BottleneckStyle, Loaded, SiteShape};
use crate::{Error, Result};

/// Name of the folder within an export.
pub const FOLDER: &str = "bottleneck";
const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter.safetensors";
const HEAD_CONFIG_FILE: &str = "head_config.json";
const HEAD_WEIGHTS_FILE: &str = "model_head.safetensors";
const VERSION: &str = "adapters.1.2.0";

/// Whether a layer keeps its adapter after the attention, and after the feed-forward block; `None` where
/// it has no such place.
type Places = (Option<bool>, Option<bool>);

/// What the files say beside the tensors.
#[derive(Debug, Clone)]
pub struct AdapterHubOptions {
    /// Name of the adapter within a model.
    pub name: String,
    /// Class of the model in `transformers`, such as `BertForSequenceClassification`.
    pub model_class: String,
    /// `model_type` of the base model's configuration.
    pub model_type: String,
    /// Hub id or folder of the base model.
    pub model_name: String,
    /// Prefix of the base model's module paths, such as `bert`.
    pub base_prefix: String,
    /// Label names, by class.
    pub labels: Vec<String>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterHubSummary {
    /// Numbers in the bottleneck adapters.
    pub parameters: usize,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// Paths of the modules whose bottleneck adapter computes: one of which a parameter is dropped changes no output.
pub fn kept(adapters: &Adapters) -> BTreeSet<String> {
    let parameters = adapters.parameters();
    let bottlenecks = (parameters.iter()).filter(|p| p.kind() == Kind::Bottleneck);
    let (active, dropped): (Vec<_>, Vec<_>) = bottlenecks.partition(|p| p.is_active());
    let dropped: BTreeSet<&str> = dropped.iter().map(|p| p.module()).collect();
    let modules = active.iter().map(|p| p.module());
    modules
        .filter(|module| !dropped.contains(module))
        .map(str::to_owned)
        .collect()
}

/// Writes the bottleneck adapters that are [`kept`], and the head, into `folder`, which must exist.
///
/// # Errors
/// [`Error::NotExpressible`] when there is none, or when the adapters differ in style; and on input or
/// output errors.
pub fn write(
    folder: &Path,
    adapters: &Adapters,
    options: &AdapterHubOptions,
) -> Result<AdapterHubSummary> {
    let refuse = |reason: &str| Error::NotExpressible {
        target: "AdapterHub",
        reason: reason.to_string(),
    };
    let mut tensors = HashMap::new();
    let mut head = HashMap::new();
    let kept = kept(adapters);
    for parameter in adapters.parameters().iter().filter(|p| p.is_active()) {
        let module = parameter.module();
        let value = parameter
            .value()
            .to_dtype(DType::F32)?
            .to_device(&Device::Cpu)?
            .contiguous()?;
        match parameter.kind() {
            Kind::Bottleneck if kept.contains(module) => {
                tensors.insert(key(module, &options.name, parameter.part()), value);
            }
            // What lies in the base model, such as a fresh pooler, is not part of AdapterHub's head.
            Kind::Head if !module.starts_with(&format!("{}.", options.base_prefix)) => {
                head.insert(parameter.name(), value);
            }
            _ => {}
        }
    }
    let mut places: BTreeMap<usize, Places> = BTreeMap::new();
    let mut plan: Option<BottleneckPlan> = None;
    let mut hidden = 0;
    for site in adapters.sites() {
        let SiteShape::Bottleneck { hidden_size, place } = site.shape else {
            continue;
        };
        let layer = layer_of(&site.path)
            .ok_or_else(|| refuse("a bottleneck lies outside of the layers"))?;
        hidden = hidden_size;
        let is_kept = kept.contains(&site.path);
        let entry = places.entry(layer).or_default();
        match place {
            Place::Attention => entry.0 = Some(is_kept),
            Place::FeedForward => entry.1 = Some(is_kept),
        }
        if is_kept {
            let own = adapters.bottleneck_plan(&site.path);
            if plan.is_some() && own != plan {
                return Err(refuse("its adapters differ in style, size or scaling"));
            }
            plan = own;
        }
    }
    let Some(plan) = plan else {
        return Err(refuse("no bottleneck adapter survived"));
    };
    let full = json!({
        "config": config(&plan, &places),
        "hidden_size": hidden,
        "model_class": options.model_class,
        "model_name": options.model_name,
        "model_type": options.model_type,
        "name": options.name,
        "version": VERSION,
    });
    let ids: serde_json::Map<String, Value> = options
        .labels
        .iter()
        .enumerate()
        .map(|(id, label)| (label.clone(), json!(id)))
        .collect();
    let head_config = json!({
        "config": null,
        "hidden_size": hidden,
        "label2id": ids,
        "model_class": options.model_class,
        "model_name": options.model_name,
        "model_type": options.model_type,
        "name": null,
        "num_labels": options.labels.len(),
        "version": VERSION,
    });
    let paths = [
        CONFIG_FILE,
        WEIGHTS_FILE,
        HEAD_CONFIG_FILE,
        HEAD_WEIGHTS_FILE,
    ]
    .map(|name| folder.join(name));
    crate::files::write_text(&paths[0], &format!("{full:#}\n"))?;
    crate::files::write_tensors(&paths[1], &tensors)?;
    crate::files::write_text(&paths[2], &format!("{head_config:#}\n"))?;
    crate::files::write_tensors(&paths[3], &head)?;
    Ok(AdapterHubSummary {
        parameters: tensors.values().map(Tensor::elem_count).sum(),
        files: paths.to_vec(),
    })
}

fn key(module: &str, name: &str, part: Part) -> String {
    // The down-projection is a sequence whose first member is the linear layer.
    let part = part.name().replace("adapter_down.", "adapter_down.0.");
    format!("{module}.adapters.{name}.{part}")
}

fn layer_of(path: &str) -> Option<usize> {
    path.split('.').find_map(|part| part.parse().ok())
}

/// The `config` entry: one part where the places of every layer agree, otherwise a union.
fn config(plan: &BottleneckPlan, places: &BTreeMap<usize, Places>) -> Value {
    let without = |of: fn(&Places) -> Option<bool>| -> Vec<usize> {
        places
            .iter()
            .filter(|(_, kept)| of(kept) != Some(true))
            .map(|(layer, _)| *layer)
            .collect()
    };
    let (no_attention, no_feed_forward) = (without(|kept| kept.0), without(|kept| kept.1));
    let count = places.len();
    let part = |attention: bool, feed_forward: bool, leave_out: &[usize]| {
        json!({
            "architecture": null,
            "mh_adapter": attention,
            "output_adapter": feed_forward,
            "reduction_factor": plan.reduction_factor,
            "non_linearity": match plan.non_linearity {
                Activation::Relu => "relu",
                Activation::Gelu => "gelu",
                Activation::Swish => "swish",
            },
            "original_ln_before": plan.style == BottleneckStyle::Pfeiffer,
            "original_ln_after": true,
            "residual_before_ln": true,
            "adapter_residual_before_ln": false,
            "ln_before": false,
            "ln_after": false,
            "is_parallel": plan.style == BottleneckStyle::Parallel,
            "scaling": plan.scaling,
            "leave_out": leave_out,
        })
    };
    match (no_attention.len() == count, no_feed_forward.len() == count) {
        (true, _) => part(false, true, &no_feed_forward),
        (_, true) => part(true, false, &no_attention),
        _ if no_attention == no_feed_forward => part(true, true, &no_attention),
        _ => json!({
            "architecture": "union",
            "configs": [part(true, false, &no_attention), part(false, true, &no_feed_forward)],
        }),
    }
}

#[derive(Deserialize)]
struct FullConfig {
    name: String,
    config: Value,
}

/// The keys of a bottleneck configuration that change what is computed.
#[derive(Deserialize)]
struct BottleneckConfig {
    #[serde(default)]
    mh_adapter: bool,
    #[serde(default)]
    output_adapter: bool,
    reduction_factor: ReductionFactor,
    non_linearity: Activation,
    #[serde(default)]
    original_ln_before: bool,
    #[serde(default = "yes")]
    original_ln_after: bool,
    /// Also a string, for an order that is not computed here.
    #[serde(default = "true_value")]
    residual_before_ln: Value,
    #[serde(default)]
    adapter_residual_before_ln: bool,
    #[serde(default)]
    is_parallel: bool,
    /// Also a string, for a learned factor.
    #[serde(default = "one")]
    scaling: Value,
    #[serde(default)]
    leave_out: Vec<usize>,
}

/// One number, or numbers by layer with a `default`.
#[derive(Deserialize)]
#[serde(untagged)]
enum ReductionFactor {
    Everywhere(f64),
    ByLayer(BTreeMap<String, f64>),
}

fn one() -> Value {
    json!(1.0)
}

const fn yes() -> bool {
    true
}

const fn true_value() -> Value {
    Value::Bool(true)
}

impl BottleneckConfig {
    /// Whether this part of a union is the one for a place.
    fn covers(&self, place: Place, layer: Option<usize>) -> bool {
        let wanted = match place {
            Place::Attention => self.mh_adapter,
            Place::FeedForward => self.output_adapter,
        };
        wanted && layer.is_none_or(|layer| !self.leave_out.contains(&layer))
    }

    /// What the module in this layer computes, or the feature that is not computed here.
    fn plan(&self, layer: Option<usize>) -> std::result::Result<BottleneckPlan, String> {
        if !self.original_ln_after
            || self.adapter_residual_before_ln
            || self.residual_before_ln != Value::Bool(true)
        {
            return Err("another order of residual and LayerNorm".to_string());
        }
        let reduction_factor = match &self.reduction_factor {
            ReductionFactor::Everywhere(factor) => Some(*factor),
            ReductionFactor::ByLayer(factors) => layer
                .and_then(|layer| factors.get(&layer.to_string()))
                .or_else(|| factors.get("default"))
                .copied(),
        };
        Ok(BottleneckPlan {
            style: match (self.is_parallel, self.original_ln_before) {
                (true, _) => BottleneckStyle::Parallel,
                (_, true) => BottleneckStyle::Pfeiffer,
                _ => BottleneckStyle::Houlsby,
            },
            reduction_factor: reduction_factor
                .filter(|factor| *factor > 0.0)
                .ok_or("a layer without a reduction factor")?,
            non_linearity: self.non_linearity,
            scaling: self
                .scaling
                .as_f64()
                .ok_or_else(|| format!("the scaling {}", self.scaling))?,
        })
    }
}

/// The place of a module that holds an adapter, by the names of the supported families.
fn place_of(module: &str) -> Place {
    if module.ends_with(".attention.output") || module.ends_with(".attention_adapters") {
        Place::Attention
    } else {
        Place::FeedForward
    }
}

/// Adds what an AdapterHub folder holds.
pub(crate) fn read(folder: &Path, loaded: &mut Loaded) -> Result<()> {
    let path = folder.join(CONFIG_FILE);
    let malformed = |error: serde_json::Error| Error::Malformed {
        path: path.clone(),
        reason: error.to_string(),
    };
    let text =
        std::fs::read_to_string(&path).map_err(|source| Error::io("reading", &path, source))?;
    let full: FullConfig = serde_json::from_str(&text).map_err(malformed)?;
    let parts: Vec<BottleneckConfig> = match full.config.get("configs") {
        Some(parts) => serde_json::from_value(parts.clone()),
        None => serde_json::from_value(full.config).map(|part| vec![part]),
    }
    .map_err(malformed)?;
    let infix = format!(".adapters.{}.", full.name);
    for (name, tensor) in crate::files::read_tensors(&folder.join(WEIGHTS_FILE))? {
        let Some((module, part)) = name.split_once(&infix) else {
            return Err(Error::Unsupported {
                path: folder.join(WEIGHTS_FILE),
                feature: format!("a tensor named `{name}`"),
            });
        };
        let (place, layer) = (place_of(module), layer_of(module));
        let covering = parts.iter().find(|part| part.covers(place, layer));
        let Some(covering) = covering else {
            return Err(Error::Malformed {
                path: path.clone(),
                reason: format!("it leaves out `{module}`, which has weights"),
            });
        };
        let plan = covering.plan(layer).map_err(|feature| Error::Unsupported {
            path: path.clone(),
            feature,
        })?;
        loaded
            .modules
            .entry(module.to_string())
            .or_default()
            .bottleneck = Some(plan);
        let part = part.replace("adapter_down.0.", "adapter_down.");
        loaded.values.insert(format!("{module}.{part}"), tensor);
    }
    // Where there is no PEFT checkpoint beside it, the head is here.
    let head = folder.join(HEAD_WEIGHTS_FILE);
    if head.exists() {
        for (name, tensor) in crate::files::read_tensors(&head)? {
            loaded.values.entry(name).or_insert(tensor);
        }
    }
    Ok(())
}
