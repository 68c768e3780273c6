//! An adapter without any adapter code: a `VarBuilder` whose tensors already contain the LoRA, bias,
//! norm and head of an export, so that any candle model loads adapted.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use crate::plan::Loaded;
use crate::{Error, Result};

/// The tensors of `base` with the adapter in `folder` merged in: `W + (alpha / r) B A` for LoRA, and the
/// adapter's own values for biases, norms and heads. Names are those of the adapter's module paths; a
/// model that leaves out the leading component (`encoder.layer…` for `bert.encoder.layer…`) finds them
/// too.
///
/// # Errors
/// When the adapter cannot be read, or has bottleneck adapters, which no base weight can contain.
pub fn merged_var_builder(
    base: VarBuilder<'static>,
    folder: &Path,
    dtype: DType,
    device: &Device,
) -> Result<VarBuilder<'static>> {
    Ok(Mergeable::read(folder)?.over(base, dtype, device))
}

/// An adapter that base weights can contain.
#[derive(Debug)]
pub struct Mergeable {
    values: HashMap<String, Tensor>,
    /// Whether base weights are (in, out).
    transposed: bool,
    scales: HashMap<String, f64>,
}

impl Mergeable {
    /// Reads the adapter in `folder`.
    ///
    /// # Errors
    /// As for [`merged_var_builder`].
    pub fn read(folder: &Path) -> Result<Self> {
        if folder.join(crate::adapterhub::FOLDER).is_dir() {
            return Err(Error::NotExpressible {
                target: "a merged model",
                reason: "bottleneck adapters are not linear and cannot be merged".to_string(),
            });
        }
        let mut loaded = Loaded::default();
        crate::peft::read(folder, &mut loaded)?;
        Ok(Self {
            values: loaded.values,
            transposed: loaded.transposed,
            scales: loaded
                .modules
                .into_iter()
                .filter_map(|(module, plan)| plan.lora.map(|lora| (module, lora.scale)))
                .collect(),
        })
    }

    /// Names of the tensors that are the adapter's own, sorted: those of norms, biases and heads.
    pub fn own_tensors(&self) -> Vec<&str> {
        let is_low_rank = |name: &str| {
            (name.split_once(".lora_A.").or(name.split_once(".lora_B.")))
                .is_some_and(|(module, _)| self.scales.contains_key(module))
        };
        let names = self.values.keys().map(String::as_str);
        let mut own: Vec<&str> = names.filter(|name| !is_low_rank(name)).collect();
        own.sort_unstable();
        own
    }

    /// Names of the weights that a LoRA is added to, sorted.
    pub fn low_rank_weights(&self) -> Vec<String> {
        let modules = self.scales.keys();
        let mut names: Vec<String> = modules.map(|module| format!("{module}.weight")).collect();
        names.sort_unstable();
        names
    }

    /// The tensors of `base` with this adapter merged in.
    pub fn over(
        self,
        base: VarBuilder<'static>,
        dtype: DType,
        device: &Device,
    ) -> VarBuilder<'static> {
        let backend: Box<dyn SimpleBackend> = Box::new(Merged {
            base,
            adapter: self,
        });
        VarBuilder::from_backend(backend, dtype, device.clone())
    }

    /// The adapter's own tensor for this name.
    fn replaced(&self, name: &str) -> Option<&Tensor> {
        self.values.get(name).or_else(|| {
            let tail = format!(".{name}");
            let mut found = self.values.iter().filter(|(key, _)| {
                key.strip_suffix(&tail)
                    .is_some_and(|prefix| !prefix.contains('.'))
            });
            found.next().map(|(_, value)| value)
        })
    }

    /// Adds the LoRA of this weight, if it has one.
    fn add_low_rank(&self, name: &str, tensor: Tensor) -> CandleResult<Tensor> {
        let Some(module) = name.strip_suffix(".weight") else {
            return Ok(tensor);
        };
        let a = self.replaced(&format!("{module}.lora_A.0"));
        let b = self.replaced(&format!("{module}.lora_B.0"));
        let scale = self.scales.get(module).copied().or_else(|| {
            let tail = format!(".{module}");
            let mut found = self.scales.iter().filter(|(key, _)| {
                key.strip_suffix(&tail)
                    .is_some_and(|prefix| !prefix.contains('.'))
            });
            found.next().map(|(_, scale)| *scale)
        });
        let (Some(a), Some(b), Some(scale)) = (a, b, scale) else {
            return Ok(tensor);
        };
        let delta = (b.to_dtype(DType::F32)?.matmul(&a.to_dtype(DType::F32)?)? * scale)?;
        let delta = if self.transposed { delta.t()? } else { delta };
        same_shape(name, delta.shape(), tensor.shape())?;
        let sum = (tensor.to_dtype(DType::F32)? + delta.to_device(tensor.device())?)?;
        sum.to_dtype(tensor.dtype())
    }
}

/// Refuses what the adapter has for a tensor of another model, of which candle checks nothing.
fn same_shape(name: &str, own: &Shape, expected: &Shape) -> CandleResult<()> {
    if own != expected {
        candle_core::bail!(
            "tensor `{name}` of the adapter has shape {own:?}, expected {expected:?}"
        );
    }
    Ok(())
}

struct Merged {
    base: VarBuilder<'static>,
    adapter: Mergeable,
}

impl SimpleBackend for Merged {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hints: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> CandleResult<Tensor> {
        // Whatever the base has under this name: its head may be one of another task.
        if let Some(value) = self.adapter.replaced(name) {
            same_shape(name, value.shape(), &shape)?;
            return value.to_device(device)?.to_dtype(dtype);
        }
        let tensor = self
            .base
            .get_with_hints_dtype(shape, name, hints, dtype)?
            .to_device(device)?;
        self.adapter.add_low_rank(name, tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        if let Some(value) = self.adapter.replaced(name) {
            return value.to_device(device)?.to_dtype(dtype);
        }
        let tensor = self
            .base
            .get_unchecked_dtype(name, dtype)?
            .to_device(device)?;
        self.adapter.add_low_rank(name, tensor)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.base.contains_tensor(name) || self.adapter.replaced(name).is_some()
    }
}
