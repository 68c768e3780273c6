//! One file of weights: safetensors, mapped or in memory, with errors that say what is wrong with it; or GGUF.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use autopeft_adapters::FrozenWeight;
use candle_core::safetensors::{BufferedSafetensors, MmapedSafetensors, SliceSafetensors};
use candle_core::{Device, Tensor};
use safetensors::{SafeTensorError, tensor::TensorView};

use super::{CheckpointError, Stored};
use crate::memory;
use crate::models::gguf::Gguf;

/// A file whose header has been read.
pub(super) struct Source {
    file: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Mapped(MmapedSafetensors),
    Owned(BufferedSafetensors),
    Static(SliceSafetensors<'static>),
    Blocks(Gguf),
}

impl Source {
    /// Maps a file into memory, so that only tensors that are asked for are read.
    #[expect(
        unsafe_code,
        reason = "mapping a file is the one way to open a model of gigabytes without copying it"
    )]
    pub(super) fn map(file: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io {
            file: file.into(),
            source,
        };
        let length = std::fs::metadata(file).map_err(io)?.len();
        let mut start = Vec::new();
        std::fs::File::open(file)
            .and_then(|f| f.take(64).read_to_end(&mut start))
            .map_err(io)?;
        let corrupt = |reason| CheckpointError::Corrupt {
            file: file.into(),
            reason,
        };
        if let Some(reason) = foreign(&start) {
            return Err(corrupt(reason));
        }
        // SAFETY: a mapping is undefined behaviour if the file is changed or cut while it is mapped. Weights are written once: the hub's
        // blobs are named by their hash, and this program writes its own files under another name and renames them. Nothing here
        // opens a mapped file for writing. Tensors are copied out of the mapping, never borrowed from it beyond a call.
        let mapped = unsafe { MmapedSafetensors::new(file) };
        let mapped = mapped.map_err(|error| corrupt(reason(&error, length)))?;
        Ok(Self {
            file: file.into(),
            bytes: Bytes::Mapped(mapped),
        })
    }

    /// Reads bytes that are already in memory.
    pub(super) fn memory(label: &str, bytes: Cow<'static, [u8]>) -> Result<Self, CheckpointError> {
        let file = PathBuf::from(label);
        let length = bytes.len() as u64;
        if let Some(reason) = foreign(&bytes) {
            return Err(CheckpointError::Corrupt { file, reason });
        }
        let read = match bytes {
            Cow::Borrowed(bytes) => SliceSafetensors::new(bytes).map(Bytes::Static),
            Cow::Owned(bytes) => BufferedSafetensors::new(bytes).map(Bytes::Owned),
        };
        match read {
            Ok(bytes) => Ok(Self { file, bytes }),
            Err(error) => Err(CheckpointError::Corrupt {
                reason: reason(&error, length),
                file,
            }),
        }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn blocks(gguf: Gguf) -> Self {
        Self {
            file: gguf.path().into(),
            bytes: Bytes::Blocks(gguf),
        }
    }

    /// Names, shapes and types.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>, Stored)> {
        let views = match &self.bytes {
            Bytes::Mapped(bytes) => bytes.tensors(),
            Bytes::Owned(bytes) => bytes.tensors(),
            Bytes::Static(bytes) => bytes.tensors(),
            Bytes::Blocks(gguf) => {
                let tensors = gguf.tensors();
                return tensors
                    .map(|(name, shape, dtype)| {
                        (name.to_string(), shape.to_vec(), Stored::Blocks(dtype))
                    })
                    .collect();
            }
        };
        let header = |(name, view): (String, TensorView<'_>)| {
            (name, view.shape().to_vec(), Stored::Plain(view.dtype()))
        };
        views.into_iter().map(header).collect()
    }

    /// The values of a tensor of blocks.
    pub(super) fn values(&self, name: &str) -> candle_core::Result<Option<Tensor>> {
        match &self.bytes {
            Bytes::Blocks(gguf) => gguf.tensor(name),
            Bytes::Mapped(_) | Bytes::Owned(_) | Bytes::Static(_) => Ok(None),
        }
    }

    /// A matrix in the blocks that the file has; `None` for other files.
    pub(super) fn matrix(
        &self,
        name: &str,
        device: &Device,
    ) -> candle_core::Result<Option<FrozenWeight>> {
        match &self.bytes {
            Bytes::Blocks(gguf) => gguf.matrix(name, device),
            Bytes::Mapped(_) | Bytes::Owned(_) | Bytes::Static(_) => Ok(None),
        }
    }

    pub(super) fn view(&self, name: &str) -> candle_core::Result<TensorView<'_>> {
        match &self.bytes {
            Bytes::Mapped(bytes) => bytes.get(name),
            Bytes::Owned(bytes) => bytes.get(name),
            Bytes::Static(bytes) => bytes.get(name),
            Bytes::Blocks(_) => candle_core::bail!("`{name}` is stored in blocks"),
        }
    }
}

impl Source {
    /// Gives the memory of a tensor of a mapped file back, once the tensor has been copied out: otherwise a loaded
    /// model is in memory twice. A later use reads the file again.
    pub(super) fn forget(&self, view: &TensorView<'_>) {
        if matches!(self.bytes, Bytes::Mapped(_)) {
            memory::forget_mapped(view.data());
        }
    }
}

/// Names the usual things that lie where weights should be.
fn foreign(start: &[u8]) -> Option<String> {
    if start.is_empty() {
        Some("the file is empty".into())
    } else if start.get(8) == Some(&b'{') {
        // A header, behind a length whose bytes may be any: those of 640 begin as a pickle does, that of 60 is `<`.
        None
    } else if start.starts_with(b"version https://git-lfs") {
        Some(
            "it is a Git LFS pointer, not the weights; run `git lfs pull` in the repository".into(),
        )
    } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02") {
        Some("it is a pickled PyTorch file with another ending".into())
    } else if start.starts_with(b"<") {
        Some("it is a web page, not weights".into())
    } else {
        None
    }
}

/// The reason in plain words; `length` is the file's length in bytes.
fn reason(error: &candle_core::Error, length: u64) -> String {
    match error {
        candle_core::Error::WithPath { inner, .. }
        | candle_core::Error::WithBacktrace { inner, .. } => reason(inner, length),
        candle_core::Error::SafeTensor(error) => match error {
            SafeTensorError::HeaderTooSmall => {
                format!("it has {length} bytes, too few for a header")
            }
            SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
                format!(
                    "its header is longer than its {length} bytes; it is cut off, or no safetensors file"
                )
            }
            SafeTensorError::MetadataIncompleteBuffer => {
                format!(
                    "the tensors of its header do not fill its {length} bytes exactly; it is cut off, or was changed"
                )
            }
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}
