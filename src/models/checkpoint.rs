//! A model's weights on disk or in memory, handed to candle as a `VarBuilder` that checks what it reads.
//!
//! Reads safetensors: one file, several, or the shards of an index. Compared with candle's own `VarBuilder::from_mmaped_safetensors`, it
//! accepts the names that `transformers` accepts (the encoder's prefix may be missing, a norm's weight may be called `gamma`), converts
//! any float type to the wanted one, and refuses NaN, infinite and mis-shaped weights with the tensor's name. A GGUF file is read
//! under the names that `transformers` has for its tensors.
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use autopeft::models::checkpoint::Checkpoint;
//! # use candle_core::{DType, Device};
//! let checkpoint = Arc::new(Checkpoint::open_folder(Path::new("all-MiniLM-L6-v2"))?);
//! let vb = checkpoint.var_builder("bert", DType::F32, &Device::Cpu);
//! assert!(vb.contains_tensor("bert.embeddings.word_embeddings.weight")); // the file says `embeddings.word_embeddings.weight`
//! # Ok::<(), autopeft::models::checkpoint::CheckpointError>(())
//! ```

mod builder;
mod error;
mod files;
mod names;
mod source;
mod values;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use autopeft_adapters::FrozenWeight;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

pub use error::CheckpointError;
pub(crate) use error::{conversion_command, listed};
pub use files::{INDEX_FILE, Index, SINGLE_FILE, weight_files};
pub(crate) use files::{file_names, is_other_format};
use source::Source;
use values::Scan;

use super::gguf::Gguf;

/// The tensors of a checkpoint by name. Values are read (and checked) only when asked for.
pub struct Checkpoint {
    sources: Vec<Source>,
    tensors: BTreeMap<String, Entry>,
    /// The last error of a `VarBuilder`, which itself can only pass on candle's error type.
    failure: Mutex<Option<CheckpointError>>,
    /// What models have read through a `VarBuilder`, by the names that they asked for.
    read: Mutex<BTreeSet<String>>,
}

/// Where a tensor is, and what its header says.
struct Entry {
    source: usize,
    shape: Vec<usize>,
    stored: Stored,
}

/// How a tensor is stored.
#[derive(Debug, Clone, Copy)]
enum Stored {
    /// Number by number.
    Plain(safetensors::Dtype),
    /// In the blocks of a GGUF file.
    Blocks(GgmlDType),
}

impl Stored {
    const fn is_float(self) -> bool {
        use safetensors::Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
        !matches!(
            self,
            Self::Plain(BOOL | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
        )
    }
}

impl Checkpoint {
    /// Maps safetensors files into memory and reads their headers.
    ///
    /// # Errors
    /// When a file cannot be read or is corrupt, or two files have a tensor of the same name.
    pub fn open(files: &[PathBuf]) -> Result<Self, CheckpointError> {
        let sources = files
            .iter()
            .map(|file| Source::map(file))
            .collect::<Result<_, _>>()?;
        Self::from_sources(sources)
    }

    /// Opens the weights of a model folder: `model.safetensors`, or all files of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// As [`weight_files`] and [`Checkpoint::open`]; and when a file lacks a tensor that the index places there.
    pub fn open_folder(folder: &Path) -> Result<Self, CheckpointError> {
        let checkpoint = Self::open(&weight_files(folder)?)?;
        if !folder.join(SINGLE_FILE).is_file() {
            checkpoint.verify_index(&Index::read(&folder.join(INDEX_FILE))?)?;
        }
        Ok(checkpoint)
    }

    /// Reads a safetensors file that is already in memory. `label` stands for the file's name in messages.
    ///
    /// # Errors
    /// When the bytes are corrupt.
    pub fn from_bytes(
        label: &str,
        bytes: impl Into<Cow<'static, [u8]>>,
    ) -> Result<Self, CheckpointError> {
        Self::from_sources(vec![Source::memory(label, bytes.into())?])
    }

    /// A language model in a GGUF file, under the names of `transformers`.
    ///
    /// # Errors
    /// When two of its tensors have one name.
    pub fn from_gguf(gguf: Gguf) -> Result<Self, CheckpointError> {
        Self::from_sources(vec![Source::blocks(gguf)])
    }

    fn from_sources(sources: Vec<Source>) -> Result<Self, CheckpointError> {
        let mut tensors: BTreeMap<String, Entry> = BTreeMap::new();
        for (index, source) in sources.iter().enumerate() {
            for (name, shape, stored) in source.tensors() {
                if let Some(earlier) = tensors.get(&name) {
                    let first = sources
                        .get(earlier.source)
                        .map(|s| s.file().to_path_buf())
                        .unwrap_or_default();
                    return Err(CheckpointError::Duplicate {
                        name,
                        first,
                        second: source.file().into(),
                    });
                }
                tensors.insert(
                    name,
                    Entry {
                        source: index,
                        shape,
                        stored,
                    },
                );
            }
        }
        Ok(Self {
            sources,
            tensors,
            failure: Mutex::new(None),
            read: Mutex::default(),
        })
    }

    fn verify_index(&self, index: &Index) -> Result<(), CheckpointError> {
        for (name, shard) in index.entries() {
            let held_by = self
                .tensors
                .get(name)
                .and_then(|entry| self.sources.get(entry.source));
            if held_by.is_none_or(|source| source.file() != index.path_of(shard)) {
                return Err(CheckpointError::NotInShard {
                    index: index.file().into(),
                    name: name.into(),
                    shard: shard.into(),
                });
            }
        }
        Ok(())
    }

    /// The names as the files have them, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, by its name in the file.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The type in which a tensor is stored; `None` if there is no such tensor, or if it is stored in blocks.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.tensors.get(name)?.stored {
            Stored::Plain(dtype) => dtype.try_into().ok(),
            Stored::Blocks(GgmlDType::F32) => Some(DType::F32),
            Stored::Blocks(GgmlDType::F16) => Some(DType::F16),
            Stored::Blocks(GgmlDType::BF16) => Some(DType::BF16),
            Stored::Blocks(_) => None,
        }
    }

    /// The number type of most values; `None` if these are stored in blocks.
    pub fn usual_dtype(&self) -> Option<DType> {
        let mut sizes: Vec<(Option<DType>, usize)> = Vec::new();
        for (name, entry) in &self.tensors {
            let (dtype, size) = (self.dtype(name), entry.shape.iter().product::<usize>());
            match sizes.iter_mut().find(|(known, _)| *known == dtype) {
                Some((_, sum)) => *sum += size,
                None => sizes.push((dtype, size)),
            }
        }
        let most = sizes.into_iter().max_by_key(|(_, size)| *size);
        most.and_then(|(dtype, _)| dtype)
    }

    /// What models have read so far through a [`Checkpoint::var_builder`], by the names that they asked for, sorted.
    /// After a model has been made, these are the tensors of its class in `transformers`, under that class's names,
    /// whatever the files call them and have besides.
    pub fn names_read(&self) -> Vec<String> {
        let read = self.read.lock();
        read.map(|names| names.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The number of parameters: the values of all tensors of a float type but those that a model computes itself.
    pub fn num_parameters(&self) -> usize {
        self.tensors
            .iter()
            .filter(|(name, entry)| {
                entry.stored.is_float() && !names::is_buffer(name, &entry.shape)
            })
            .map(|(_, entry)| entry.shape.iter().product::<usize>())
            .sum()
    }

    /// Reads one tensor by its name in the file, converted to `dtype`.
    ///
    /// # Errors
    /// When there is no such tensor, it is not stored as F16, BF16, F32 or F64, or a value is NaN, infinite or too large for `dtype`.
    pub fn tensor(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, CheckpointError> {
        let missing = || CheckpointError::MissingTensor {
            name: name.into(),
            nearest: Vec::new(),
            file: self.first_file(),
        };
        let entry = self.tensors.get(name).ok_or_else(missing)?;
        let source = self.sources.get(entry.source).ok_or_else(missing)?;
        let load = |error| failed(name.into(), source.file().into(), error);
        // Converted on the CPU: a device may lack the stored type.
        let tensor = match entry.stored {
            Stored::Plain(stored) => {
                let view = source.view(name).map_err(load)?;
                let scan = values::scan(view.data(), stored, dtype);
                refuse(scan, name, entry, stored, dtype, source.file())?;
                let tensor = match values::read_f32(view.data(), stored, dtype) {
                    Some(numbers) => {
                        Tensor::from_vec(numbers, entry.shape.as_slice(), &Device::Cpu)
                    }
                    None => candle_core::safetensors::Load::load(&view, &Device::Cpu),
                };
                source.forget(&view);
                tensor
            }
            Stored::Blocks(_) => {
                let values = source.values(name).map_err(load)?.ok_or_else(missing)?;
                scan_numbers(&values, name, entry, dtype, source.file())?;
                Ok(values)
            }
        };
        tensor
            .and_then(|tensor| tensor.to_dtype(dtype)?.to_device(device))
            .map_err(load)
    }

    /// A matrix in the blocks of a GGUF file, (out, in) also where the model asks for (in, out); `None` for a tensor that is
    /// stored number by number in another file, or is not there.
    ///
    /// # Errors
    /// When its shape is not `shape`, or a value is NaN or infinite.
    pub fn matrix(
        &self,
        name: &str,
        shape: (usize, usize),
        device: &Device,
    ) -> Result<Option<FrozenWeight>, CheckpointError> {
        let Some((entry, source)) = self
            .tensors
            .get(name)
            .and_then(|entry| Some((entry, self.sources.get(entry.source)?)))
        else {
            return Ok(None);
        };
        let load = |error| failed(name.into(), source.file().into(), error);
        let Some(matrix) = source.matrix(name, device).map_err(load)? else {
            return Ok(None);
        };
        if matrix.dims2().map_err(load)? != shape {
            return Err(CheckpointError::ShapeMismatch {
                name: name.into(),
                expected: vec![shape.0, shape.1],
                got: entry.shape.clone(),
                file: source.file().into(),
            });
        }
        let values = matrix.widen(DType::F32).map_err(load)?;
        scan_numbers(&values, name, entry, DType::F32, source.file())?;
        Ok(Some(matrix))
    }

    /// A `VarBuilder` over this checkpoint, for a model whose encoder has the prefix `base_model_prefix` (`bert`, `roberta`, `distilbert`;
    /// empty for none).
    ///
    /// A name is looked up as asked; without the prefix if no tensor of the checkpoint has it; then, for a layer norm, as `gamma` or `beta`.
    /// `contains_tensor` follows the same rules. Tensors come in `dtype` whatever their type in the file.
    /// candle's error type carries only the text of a [`CheckpointError`]; [`Checkpoint::take_failure`] returns the error itself.
    pub fn var_builder(
        self: &Arc<Self>,
        base_model_prefix: &str,
        dtype: DType,
        device: &Device,
    ) -> VarBuilder<'static> {
        let backend = builder::CheckedBackend::new(Arc::clone(self), base_model_prefix);
        VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
    }

    /// The last error that a [`Checkpoint::var_builder`] of this checkpoint gave, once.
    pub fn take_failure(&self) -> Option<CheckpointError> {
        self.failure.lock().ok()?.take()
    }

    fn first_file(&self) -> PathBuf {
        self.sources
            .first()
            .map(|source| source.file().to_path_buf())
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.sources.iter().map(Source::file).collect();
        f.debug_struct("Checkpoint")
            .field("files", &files)
            .field("tensors", &self.tensors.len())
            .finish()
    }
}

/// Scans values that were in blocks.
fn scan_numbers(
    values: &Tensor,
    name: &str,
    entry: &Entry,
    wanted: DType,
    file: &Path,
) -> Result<(), CheckpointError> {
    let numbers = values
        .flatten_all()
        .and_then(|values| values.to_vec1::<f32>());
    let numbers = numbers.map_err(|source| failed(name.into(), file.into(), source))?;
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let stored = safetensors::Dtype::F32;
    refuse(
        values::scan(&bytes, stored, wanted),
        name,
        entry,
        stored,
        wanted,
        file,
    )
}

/// The error of a scan that found what cannot be used.
fn refuse(
    scan: Scan,
    name: &str,
    entry: &Entry,
    stored: safetensors::Dtype,
    dtype: DType,
    file: &Path,
) -> Result<(), CheckpointError> {
    let (name, file) = (name.to_string(), file.to_path_buf());
    let position = |first| values::coordinates(first, &entry.shape);
    match scan {
        Scan::Fine => Ok(()),
        Scan::NotFinite(faults) => Err(CheckpointError::NotFinite {
            name,
            count: faults.count,
            position: position(faults.first),
            shape: entry.shape.clone(),
            file,
        }),
        Scan::OutOfRange(faults) => Err(CheckpointError::OutOfRange {
            name,
            count: faults.count,
            position: position(faults.first),
            dtype,
            file,
        }),
        Scan::Unsupported => Err(CheckpointError::UnsupportedDtype {
            name,
            dtype: format!("{stored:?}"),
            file,
        }),
    }
}

fn failed(name: String, file: PathBuf, source: candle_core::Error) -> CheckpointError {
    CheckpointError::Load {
        name,
        file,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
