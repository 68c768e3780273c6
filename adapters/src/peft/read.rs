//! Reads a PEFT checkpoint into a plan and values.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::config::{PeftConfig, PeftType};
use super::{PREFIX, WEIGHTS_FILE};
use crate::plan::{Loaded, LoraPlan};
use crate::{Error, Result};

/// Adds what the folder's PEFT checkpoint holds.
pub(crate) fn read(folder: &Path, loaded: &mut Loaded) -> Result<()> {
    let config = PeftConfig::read(folder)?;
    loaded.transposed = config.fan_in_fan_out == Some(true);
    let path = folder.join(WEIGHTS_FILE);
    if !path.exists() {
        let reason = if folder.join("adapter_model.bin").exists() {
            "only a pickled `adapter_model.bin` is there, which is not read since it can run code"
        } else {
            "the file is missing"
        };
        return Err(Error::Malformed {
            path,
            reason: reason.to_string(),
        });
    }
    let tensors = crate::files::read_tensors(&path)?;
    let unsupported = |feature: &str| Error::Unsupported {
        path: path.clone(),
        feature: feature.to_string(),
    };
    for (name, tensor) in &tensors {
        let plain = name.strip_prefix(PREFIX).unwrap_or(name);
        let Some((module, part)) = plain.rsplit_once('.') else {
            return Err(unsupported(&format!("a tensor named `{name}`")));
        };
        if let Some(module) = module.strip_suffix(".lora_A") {
            let partner = name.replace(".lora_A.", ".lora_B.");
            let Some(b) = tensors.get(&partner) else {
                return Err(Error::Malformed {
                    path: path.clone(),
                    reason: format!("`{name}` has no `{partner}`"),
                });
            };
            add_lora(loaded, &config, module, tensor, b)?;
        } else if module.ends_with(".lora_B") {
            if !tensors.contains_key(&name.replace(".lora_B.", ".lora_A.")) {
                return Err(Error::Malformed {
                    path: path.clone(),
                    reason: format!("`{name}` has no `lora_A`"),
                });
            }
        } else if plain.contains(".lora_") {
            return Err(unsupported(&format!("a tensor named `{name}`")));
        } else if module.ends_with(".original_module") {
            // With `bias: all`, PEFT also saves the bias that a saved module had in the base model.
        } else if let Some(module) = module.strip_suffix(".modules_to_save") {
            // The same bias once more, under the name of PEFT's wrapper.
            let name = format!("{module}.{part}");
            if !tensors.contains_key(&format!("{PREFIX}{name}")) {
                loaded.values.insert(name, tensor.clone());
            }
        } else {
            let module = module
                .strip_suffix(".base_layer")
                .or_else(|| {
                    module
                        .strip_suffix(".ln_tuning_layers")
                        .filter(|_| config.peft_type == PeftType::LnTuning)
                })
                .unwrap_or(module);
            let plan = loaded.modules.entry(module.to_string()).or_default();
            plan.norm = true;
            plan.bias |= part == "bias";
            loaded
                .values
                .insert(format!("{module}.{part}"), tensor.clone());
        }
    }
    Ok(())
}

fn add_lora(
    loaded: &mut Loaded,
    config: &PeftConfig,
    module: &str,
    a: &Tensor,
    b: &Tensor,
) -> Result<()> {
    let (rank, _) = a.dims2()?;
    let is_zero = |tensor: &Tensor| -> candle_core::Result<bool> {
        Ok(tensor
            .to_dtype(DType::F64)?
            .to_device(&Device::Cpu)?
            .abs()?
            .sum_all()?
            .to_scalar::<f64>()?
            == 0.0)
    };
    // The placeholder that PEFT needs where no LoRA survived.
    if rank == 1 && is_zero(a)? && is_zero(b)? {
        return Ok(());
    }
    loaded.modules.entry(module.to_string()).or_default().lora = Some(LoraPlan {
        rank_blocks: vec![rank],
        scale: config.scale(module, rank),
        dropout: config.lora_dropout.unwrap_or(0.0),
    });
    loaded
        .values
        .insert(format!("{module}.lora_A.0"), a.clone());
    loaded
        .values
        .insert(format!("{module}.lora_B.0"), b.clone());
    Ok(())
}
