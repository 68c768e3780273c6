//! The device that a run computes on.

use candle_core::{DType, Device};

use crate::error::{Error, Result, first_line};
use crate::models::LoadOptions;
use crate::recipe::{DeviceChoice, Dtype};

/// Opens the device: `auto` takes CUDA or Metal where this build and machine have it, otherwise the CPU.
///
/// # Errors
/// [`Error::Device`] when a named device is not there, or this build does not know it.
pub fn open(choice: DeviceChoice) -> Result<Device> {
    let refuse = |reason: String| Error::Device {
        device: choice.to_string(),
        reason,
    };
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(automatic()),
        DeviceChoice::Cuda(_) if !candle_core::utils::cuda_is_available() => Err(refuse(
            "this build has no CUDA; build it with `--features cuda`".to_string(),
        )),
        DeviceChoice::Cuda(number) => {
            Device::new_cuda(number).map_err(|error| refuse(first_line(&error.to_string())))
        }
        DeviceChoice::Metal if !candle_core::utils::metal_is_available() => Err(refuse(
            "this build has no Metal; build it with `--features metal`".to_string(),
        )),
        DeviceChoice::Metal => {
            Device::new_metal(0).map_err(|error| refuse(first_line(&error.to_string())))
        }
    }
}

fn automatic() -> Device {
    if candle_core::utils::cuda_is_available()
        && let Ok(device) = Device::new_cuda(0)
    {
        return device;
    }
    if candle_core::utils::metal_is_available()
        && let Ok(device) = Device::new_metal(0)
    {
        return device;
    }
    Device::Cpu
}

/// A short name, as in a report.
pub fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_string(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The number type of the computation.
///
/// # Errors
/// [`Error::Conflict`] for half precision, which training on the CPU has no products for.
pub fn dtype(dtype: Dtype, device: &Device) -> Result<DType> {
    match dtype {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F64 => Ok(DType::F64),
        Dtype::F16 if !device.is_cpu() => Ok(DType::F16),
        Dtype::Bf16 if !device.is_cpu() => Ok(DType::BF16),
        Dtype::F16 | Dtype::Bf16 => Err(Error::Conflict {
            what: format!("`dtype: {dtype}` cannot be trained on the CPU"),
            hint: "use `--dtype f32`; files in half precision are converted while they are read"
                .to_string(),
        }),
    }
}

/// How the recipe's words keep weights and activations.
///
/// # Errors
/// [`Error::Conflict`] for frozen matrices that are wider than the computation.
pub fn load_options(
    storage: Option<Dtype>,
    checkpointing: bool,
    dtype: DType,
) -> Result<LoadOptions> {
    let stored = storage.map(|storage| match storage {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
    });
    match stored {
        Some(stored) if stored.size_in_bytes() > dtype.size_in_bytes() => Err(Error::Conflict {
            what: format!(
                "`storage: {}` is wider than the computation in {}",
                stored.as_str(),
                dtype.as_str()
            ),
            hint: "leave `storage` out, or choose one that takes less memory".to_string(),
        }),
        _ => Ok(LoadOptions {
            storage: stored.filter(|stored| *stored != dtype),
            checkpointing,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_refused_on_the_cpu() {
        assert!(matches!(
            dtype(Dtype::Bf16, &Device::Cpu),
            Err(Error::Conflict { .. })
        ));
        assert_eq!(dtype(Dtype::F32, &Device::Cpu).ok(), Some(DType::F32));
    }

    #[test]
    fn matrices_are_never_kept_wider_than_they_are_used() {
        let storage =
            |dtype| load_options(Some(dtype), false, DType::F32).map(|options| options.storage);
        assert_eq!(storage(Dtype::Bf16).ok(), Some(Some(DType::BF16)));
        assert_eq!(storage(Dtype::F32).ok(), Some(None));
        assert!(matches!(storage(Dtype::F64), Err(Error::Conflict { .. })));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_without_the_feature_names_the_feature() {
        let error = open(DeviceChoice::Cuda(0))
            .err()
            .map(|error| error.to_string());
        assert!(error.is_some_and(|message| message.contains("--features cuda")));
    }
}
