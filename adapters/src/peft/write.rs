//! Writes the kept parameters of a model as a PEFT checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::config::{PeftConfig, PeftType, TargetModules, TaskType, to_json};
use super::matching::{self, LoraSize};
use super::{CONFIG_FILE, PREFIX, WEIGHTS_FILE};
use crate::adapters::Adapters;
use crate::kind::{Kind, Part};
use crate::parameter::Parameter;
use crate::plan::SiteShape;
use crate::{Error, Result};

/// What the files say beside the tensors.
#[derive(Debug, Clone)]
pub struct PeftOptions {
    /// Hub id or folder of the base model.
    pub base_model: String,
    /// The task, by which PEFT knows the head.
    pub task: TaskType,
    /// Dropout that a continued training would use.
    pub lora_dropout: f64,
    /// Where the factor of a LoRA goes.
    pub lora_scale: LoraScale,
    /// Which LoRA matrices are in the file.
    pub lora_layout: LoraLayout,
}

/// Which LoRA matrices are in the file; what is computed is the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoraLayout {
    /// What was kept, each of its own rank.
    #[default]
    Trimmed,
    /// One rank for all, and a LoRA in every layer on each module that has one in any layer, filled up with zeros: for engines that
    /// know one rank or one scale (vLLM, llama.cpp), or drop a module that some layers lack (TGI, LoRAX), and that load
    /// nothing beside LoRA.
    Uniform,
}

/// Where the factor `alpha / r` of a LoRA goes; what is computed is the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoraScale {
    /// Into `B`, so that `alpha` is `r`: engines that ignore `alpha_pattern` still compute it.
    #[default]
    Folded,
    /// Into `alpha`, so that a training that goes on from the files takes the steps that it would take here.
    Written,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeftSummary {
    /// Numbers in the weights file.
    pub parameters: usize,
    /// A module that carries a LoRA of zeros, because PEFT loads no checkpoint of this kind without one.
    pub placeholder: Option<String>,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, from every parameter that
/// is not dropped. Bottleneck adapters, which PEFT has no format for, are left to [`crate::adapterhub`].
///
/// # Errors
/// [`Error::NotExpressible`] when PEFT would load something else than what is computed here; and on
/// input or output errors.
pub fn write(folder: &Path, adapters: &Adapters, options: &PeftOptions) -> Result<PeftSummary> {
    let mut contents = Contents::gather(adapters, options.lora_scale)?;
    if options.lora_layout == LoraLayout::Uniform {
        contents.fill_up(adapters)?;
    }
    let (config, tensors, placeholder) = contents.checkpoint(options)?;
    let sizes = contents.sizes(placeholder.as_deref());
    matching::check(&config, &sizes, &contents.saved_paths(), &contents.modules).map_err(
        |reason| Error::NotExpressible {
            target: "PEFT",
            reason,
        },
    )?;
    let json = to_json(&config).map_err(|error| Error::Malformed {
        path: folder.join(CONFIG_FILE),
        reason: error.to_string(),
    })?;
    let config_path = folder.join(CONFIG_FILE);
    let weights_path = folder.join(WEIGHTS_FILE);
    crate::files::write_text(&config_path, &json)?;
    crate::files::write_tensors(&weights_path, &tensors)?;
    Ok(PeftSummary {
        parameters: tensors.values().map(Tensor::elem_count).sum(),
        placeholder,
        files: vec![config_path, weights_path],
    })
}

/// `A` and `B` of a rank block, where they are not dropped.
type Pair = (Option<Tensor>, Option<Tensor>);

/// The LoRA of a module.
struct LowRank {
    /// (r, in)
    a: Tensor,
    /// (out, r)
    b: Tensor,
    size: LoraSize,
}

struct Contents {
    lora: BTreeMap<String, LowRank>,
    biases: BTreeMap<String, Tensor>,
    norms: BTreeMap<String, Vec<Arc<Parameter>>>,
    heads: BTreeMap<String, Vec<Arc<Parameter>>>,
    /// Every module of the model.
    modules: BTreeSet<String>,
    /// The linear layers whose base weight is (in, out).
    transposed: BTreeSet<String>,
    /// A linear layer with its input and output size, for the placeholder.
    linear: Option<(String, usize, usize)>,
}

impl Contents {
    fn gather(adapters: &Adapters, scale: LoraScale) -> Result<Self> {
        let sites = adapters.sites();
        let mut contents = Self {
            lora: BTreeMap::new(),
            biases: BTreeMap::new(),
            norms: BTreeMap::new(),
            heads: BTreeMap::new(),
            modules: matching::with_containers(sites.iter().map(|site| site.path.as_str())),
            transposed: sites
                .iter()
                .filter(|site| {
                    matches!(
                        site.shape,
                        SiteShape::Linear {
                            transposed: true,
                            ..
                        }
                    )
                })
                .map(|site| site.path.clone())
                .collect(),
            linear: sites.iter().find_map(|site| match site.shape {
                SiteShape::Linear {
                    in_features,
                    out_features,
                    ..
                } => Some((site.path.clone(), in_features, out_features)),
                _ => None,
            }),
        };
        let mut blocks: BTreeMap<String, BTreeMap<usize, Pair>> = BTreeMap::new();
        for parameter in adapters.parameters() {
            if !parameter.is_active() {
                continue;
            }
            let module = parameter.module().to_string();
            let whole = match parameter.kind() {
                Kind::Lora => {
                    let pairs = blocks.entry(module).or_default();
                    match parameter.part() {
                        Part::LoraA { block } => {
                            pairs.entry(block).or_default().0 = Some(parameter.value())
                        }
                        Part::LoraB { block } => {
                            pairs.entry(block).or_default().1 = Some(parameter.value())
                        }
                        _ => {}
                    }
                    continue;
                }
                Kind::Bias => {
                    contents.biases.insert(module, plain(&parameter.value())?);
                    continue;
                }
                Kind::Bottleneck | Kind::Base => continue,
                Kind::Norm => &mut contents.norms,
                Kind::Head => &mut contents.heads,
            };
            whole.entry(module).or_default().push(parameter);
        }
        for (module, pairs) in blocks {
            // Half of a pair changes no output.
            let pairs = pairs.into_values().filter_map(|(a, b)| a.zip(b));
            let (a, b): (Vec<Tensor>, Vec<Tensor>) = pairs.unzip();
            if a.is_empty() {
                continue;
            }
            let (a, b) = (Tensor::cat(&a, 0)?, Tensor::cat(&b, 1)?);
            let rank = a.dim(0)?;
            let factor = adapters.lora_scale(&module);
            let (b, alpha) = match scale {
                LoraScale::Folded => ((b * factor)?, rank as f64),
                LoraScale::Written => (b, factor * rank as f64),
            };
            let low_rank = LowRank {
                a: plain(&a)?,
                b: plain(&b)?,
                size: LoraSize { rank, alpha },
            };
            contents.lora.insert(module, low_rank);
        }
        Ok(contents)
    }

    /// Gives every LoRA the largest rank, and every module of the same name one.
    fn fill_up(&mut self, adapters: &Adapters) -> Result<()> {
        let whole = (self.norms.keys().chain(self.heads.keys())).chain(self.biases.keys());
        if let Some(path) = whole.into_iter().next() {
            return Err(Error::NotExpressible {
                target: "servers",
                reason: format!("they load LoRA alone, and `{path}` is none"),
            });
        }
        let Some(rank) = self.lora.values().map(|low_rank| low_rank.size.rank).max() else {
            return Ok(());
        };
        let names: BTreeSet<String> = self.lora.keys().map(|path| name(path).to_owned()).collect();
        for site in adapters.sites() {
            let SiteShape::Linear {
                in_features,
                out_features,
                ..
            } = site.shape
            else {
                continue;
            };
            if !names.contains(name(&site.path)) {
                continue;
            }
            let zeros = |shape| Tensor::zeros(shape, DType::F32, &Device::Cpu);
            let (a, b) = match self.lora.get(&site.path) {
                None => (zeros((rank, in_features))?, zeros((out_features, rank))?),
                Some(LowRank { a, b, size }) => {
                    // `B` for one scale, which is 1 for all.
                    let b = (b * (size.alpha / size.rank as f64))?;
                    let missing = rank - size.rank;
                    (
                        a.pad_with_zeros(0, 0, missing)?.contiguous()?,
                        b.pad_with_zeros(1, 0, missing)?.contiguous()?,
                    )
                }
            };
            let size = LoraSize {
                rank,
                alpha: rank as f64,
            };
            self.lora.insert(site.path.clone(), LowRank { a, b, size });
        }
        Ok(())
    }

    /// Entries of `target_modules`: whole paths, or names alone, since some servers take no paths.
    fn targets(&self, sizes: &BTreeMap<String, LoraSize>, layout: LoraLayout) -> Vec<String> {
        // The placeholder is on one module alone.
        if layout == LoraLayout::Trimmed || self.lora.is_empty() {
            return sizes.keys().cloned().collect();
        }
        let names: BTreeSet<&str> = sizes.keys().map(|path| name(path)).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    fn sizes(&self, placeholder: Option<&str>) -> BTreeMap<String, LoraSize> {
        self.lora
            .iter()
            .map(|(module, low_rank)| (module.clone(), low_rank.size))
            .chain(placeholder.map(|module| (module.to_string(), LoraSize::PLACEHOLDER)))
            .collect()
    }

    fn saved_paths(&self) -> BTreeSet<String> {
        self.norms
            .keys()
            .chain(self.heads.keys())
            .cloned()
            .collect()
    }

    /// Entries of `modules_to_save` for the heads. PEFT adds `classifier` and `score` by itself for
    /// sequence classification, so the layers inside such a head are covered by its name.
    fn head_entries(&self) -> Vec<String> {
        let mut entries: Vec<String> = Vec::new();
        for path in self.heads.keys() {
            let entry = match path.split_once('.') {
                Some((top @ ("classifier" | "score"), _)) => top,
                _ => path,
            };
            if !entries.iter().any(|known| known == entry) {
                entries.push(entry.to_string());
            }
        }
        entries
    }

    /// Always a `LORA` checkpoint: `LN_TUNING` would hold norms and a head too, but its
    /// `merge_and_unload()` leaves the head wrapped, and a saved merge loses it (peft 0.17.1 and 0.21.2).
    fn checkpoint(
        &self,
        options: &PeftOptions,
    ) -> Result<(PeftConfig, HashMap<String, Tensor>, Option<String>)> {
        let mut tensors = HashMap::new();
        for (path, parameters) in self.norms.iter().chain(&self.heads) {
            for parameter in parameters {
                let name = format!("{PREFIX}{path}.{}", parameter.part().name());
                tensors.insert(name, plain(&parameter.value())?);
            }
        }
        let placeholder = self.add_low_rank(&mut tensors)?;
        for (path, bias) in &self.biases {
            let adapted = self.lora.contains_key(path) || placeholder.as_ref() == Some(path);
            let infix = if adapted { ".base_layer" } else { "" };
            tensors.insert(format!("{PREFIX}{path}{infix}.bias"), bias.clone());
        }
        let sizes = self.sizes(placeholder.as_deref());
        let usual = (sizes.values().copied())
            .max_by_key(|size| size.rank)
            .unwrap_or(LoraSize::PLACEHOLDER);
        let bias = if self.biases.is_empty() {
            "none"
        } else {
            "all"
        };
        let config = PeftConfig {
            peft_type: PeftType::Lora,
            // A classifier without its head is no classifier; a language model has none to save.
            task_type: (options.task == TaskType::CausalLanguageModel || !self.heads.is_empty())
                .then_some(options.task),
            base_model_name_or_path: Some(options.base_model.clone()),
            inference_mode: true,
            r: Some(usual.rank),
            lora_alpha: Some(usual.alpha),
            lora_dropout: Some(options.lora_dropout),
            bias: Some(bias.to_string()),
            fan_in_fan_out: Some(sizes.keys().any(|path| self.transposed.contains(path))),
            rank_pattern: Some(
                (sizes.iter().filter(|(_, size)| size.rank != usual.rank))
                    .map(|(path, size)| (path.clone(), size.rank))
                    .collect(),
            ),
            alpha_pattern: Some(
                (sizes.iter().filter(|(_, size)| size.alpha != usual.alpha))
                    .map(|(path, size)| (path.clone(), size.alpha))
                    .collect(),
            ),
            target_modules: Some(TargetModules::List(
                self.targets(&sizes, options.lora_layout),
            )),
            modules_to_save: Some(
                self.norms
                    .keys()
                    .cloned()
                    .chain(self.head_entries())
                    .collect(),
            ),
            use_rslora: Some(false),
            use_dora: Some(false),
            lora_bias: None,
        };
        Ok((config, tensors, placeholder))
    }

    fn add_low_rank(&self, tensors: &mut HashMap<String, Tensor>) -> Result<Option<String>> {
        for (path, LowRank { a, b, .. }) in &self.lora {
            tensors.insert(format!("{PREFIX}{path}.lora_A.weight"), a.clone());
            tensors.insert(format!("{PREFIX}{path}.lora_B.weight"), b.clone());
        }
        if !self.lora.is_empty() {
            return Ok(None);
        }
        let Some((path, in_features, out_features)) = &self.linear else {
            return Err(Error::NotExpressible {
                target: "PEFT",
                reason: "the model has no linear layer that could carry a LoRA".to_string(),
            });
        };
        let zeros = |shape| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        tensors.insert(
            format!("{PREFIX}{path}.lora_A.weight"),
            zeros((1, *in_features))?,
        );
        tensors.insert(
            format!("{PREFIX}{path}.lora_B.weight"),
            zeros((*out_features, 1))?,
        );
        Ok(Some(path.clone()))
    }
}

/// The name of a module in its container.
fn name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn plain(tensor: &Tensor) -> candle_core::Result<Tensor> {
    tensor
        .to_dtype(DType::F32)?
        .to_device(&Device::Cpu)?
        .contiguous()
}
