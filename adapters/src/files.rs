//! Reading and writing of the files of an adapter, each synced to the disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::{Error, Result};

pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(|source| Error::io("creating", path, source))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| Error::io("writing", path, source))
}

/// Writes contiguous CPU tensors, in the order of their names, with the metadata that PyTorch expects.
pub(crate) fn write_tensors(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let mut sorted: Vec<(&String, &Tensor)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let bytes =
        safetensors::serialize(sorted, Some(metadata)).map_err(|error| Error::Malformed {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
    write_bytes(path, &bytes)
}

pub(crate) fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(|source| Error::io("reading", path, source))?;
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| Error::Malformed {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}
