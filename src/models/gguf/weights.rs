//! The tensors of a GGUF file, in the order of a checkpoint's.

use autopeft_adapters::FrozenWeight;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor};

use super::layout::Arrangement;
use super::{Gguf, Place};
use crate::error::first_line;
use crate::models::checkpoint::CheckpointError;

impl Gguf {
    /// A tensor by its name in a checkpoint, as `f32` on the CPU.
    pub(in crate::models) fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(place) = self.places.get(name) else {
            return Ok(None);
        };
        let values = self.blocks(place)?.dequantize(&Device::Cpu)?;
        Ok(Some(match place.arrangement {
            Arrangement::PlusOne => (values - 1.0)?,
            Arrangement::Transposed => values.t()?.contiguous()?,
            _ => values,
        }))
    }

    /// A matrix by its name in a checkpoint, (out, in) whatever the checkpoint's order, in the file's own blocks.
    pub(in crate::models) fn matrix(
        &self,
        name: &str,
        device: &Device,
    ) -> Result<Option<FrozenWeight>> {
        let Some(place) = self.places.get(name) else {
            return Ok(None);
        };
        let blocks = self.blocks(place)?;
        let dense = match blocks.dtype() {
            GgmlDType::F32 => Some(DType::F32),
            GgmlDType::F16 => Some(DType::F16),
            GgmlDType::BF16 => Some(DType::BF16),
            _ => None,
        };
        Ok(Some(match dense {
            Some(dtype) => {
                let bytes = blocks.data()?;
                let tensor =
                    Tensor::from_raw_buffer(&bytes, dtype, blocks.shape().dims(), &Device::Cpu)?;
                FrozenWeight::Dense(tensor.to_device(device)?)
            }
            None if device.is_cpu() => FrozenWeight::Quantized(blocks.into()),
            None => {
                let bytes = blocks.data()?;
                let dims = blocks.shape().dims().to_vec();
                FrozenWeight::Quantized(
                    qtensor_from_ggml(blocks.dtype(), &bytes, dims, device)?.into(),
                )
            }
        }))
    }

    /// A small tensor of the file by its name there.
    pub(super) fn small(&self, name: &str) -> std::result::Result<Vec<f32>, CheckpointError> {
        let read = || {
            let values = self.read(name)?.dequantize(&Device::Cpu)?;
            values.flatten_all()?.to_vec1::<f32>()
        };
        read().map_err(|error| self.metadata().fault(first_line(&error.to_string())))
    }

    /// The values as the file has them, with the rows of the checkpoint.
    fn blocks(&self, place: &Place) -> Result<QTensor> {
        let stored = self.read(&place.name)?;
        let dims = stored.shape().dims().to_vec();
        let rows = dims.first().copied().unwrap_or(1);
        let Some(order) = place.arrangement.order(rows) else {
            return match place.arrangement {
                Arrangement::Interleaved { heads } | Arrangement::ByRole { heads } => {
                    candle_core::bail!("{rows} rows are not those of {heads} heads")
                }
                _ => Ok(stored),
            };
        };
        let bytes = stored.data()?;
        let width = bytes.len() / rows.max(1);
        let mut arranged = Vec::with_capacity(bytes.len());
        for row in order {
            let row = bytes.get(row * width..(row + 1) * width);
            arranged.extend_from_slice(row.unwrap_or_default());
        }
        qtensor_from_ggml(stored.dtype(), &arranged, dims, &Device::Cpu)
    }

    /// A tensor of the file by its name there, on the CPU.
    fn read(&self, name: &str) -> Result<QTensor> {
        let Some(info) = self.content.tensor_infos.get(name) else {
            candle_core::bail!("there is no tensor `{name}`");
        };
        let (dtype, dims) = (info.ggml_dtype, info.shape.dims());
        let columns = dims.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(dtype.block_size()) {
            candle_core::bail!("rows of {columns} numbers are not made of blocks of {dtype:?}");
        }
        let Ok(mut file) = self.file.lock() else {
            candle_core::bail!("the file is in use by a part that failed");
        };
        info.read(&mut *file, self.content.tensor_data_offset, &Device::Cpu)
    }
}
