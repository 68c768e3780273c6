//! What can be wrong with a checkpoint, said with the file, the tensor and the way out.

use std::path::{Path, PathBuf};

use candle_core::DType;

use crate::models::gguf::Gguf;

/// A checkpoint that cannot be read, or does not hold what the model asks for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or folder could not be read.
    #[error("cannot read `{}`: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is no valid safetensors file.
    #[error("`{}` is not a readable safetensors file: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A GGUF file says something that cannot be used, or lacks something.
    #[error("the GGUF file `{}` cannot be used: {reason}", file.display())]
    Metadata {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The vocabulary of a GGUF file does not make a tokenizer.
    #[error("the vocabulary of the GGUF file `{}` cannot be used: {reason}", file.display())]
    Vocabulary {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither `model.safetensors` nor its index is in the folder.
    #[error("no weights in `{}`: expected `model.safetensors` or `model.safetensors.index.json`, found {}", folder.display(), listed(found))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The file names that are there.
        found: Vec<String>,
    },
    /// The folder has weights only in a format that runs code when it is read (pickle), or that this program does not read.
    #[error("`{}` has weights only as `{file}`, which is not safetensors", folder.display())]
    OtherFormatOnly {
        /// The folder.
        folder: PathBuf,
        /// The first such file.
        file: String,
    },
    /// The index file is not JSON of the expected form.
    #[error("`{}` is not a valid safetensors index: {reason}", file.display())]
    Index {
        /// The index file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names a file outside of its folder.
    #[error("`{}` names the file `{shard}`, which is outside of its folder", index.display())]
    ShardOutside {
        /// The index file.
        index: PathBuf,
        /// The name as written there.
        shard: String,
    },
    /// The index names a file that is not there.
    #[error("`{}` names the file `{shard}`, which does not exist", index.display())]
    ShardMissing {
        /// The index file.
        index: PathBuf,
        /// The name as written there.
        shard: String,
    },
    /// The index promises a tensor in a file that does not have it.
    #[error("`{}` places the tensor `{name}` in `{shard}`, which does not have it", index.display())]
    NotInShard {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        name: String,
        /// The file that should have it.
        shard: String,
    },
    /// Two files have a tensor of the same name, so it is not clear which is meant.
    #[error("the tensor `{name}` is both in `{}` and in `{}`", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        name: String,
        /// The file read first.
        first: PathBuf,
        /// The file read later.
        second: PathBuf,
    },
    /// The model needs a tensor that no file has.
    #[error("the tensor `{name}` is not in `{}`{}", file.display(), nearest_phrase(nearest))]
    MissingTensor {
        /// The tensor as the model calls it.
        name: String,
        /// Existing names that resemble it, the most similar first.
        nearest: Vec<String>,
        /// The first file of the checkpoint.
        file: PathBuf,
    },
    /// A tensor has another shape than the model needs.
    #[error("the tensor `{name}` in `{}` has shape {got:?}, the model needs {expected:?}", file.display())]
    ShapeMismatch {
        /// The tensor as the file calls it.
        name: String,
        /// The shape that the model's configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
        /// The file.
        file: PathBuf,
    },
    /// A tensor holds NaN or infinite values.
    #[error("the tensor `{name}` in `{}` has {count} values that are NaN or infinite, the first at {position:?} of {shape:?}", file.display())]
    NotFinite {
        /// The tensor as the file calls it.
        name: String,
        /// How many values are not finite.
        count: usize,
        /// Coordinates of the first of them.
        position: Vec<usize>,
        /// The tensor's shape.
        shape: Vec<usize>,
        /// The file.
        file: PathBuf,
    },
    /// A tensor holds values beyond the range of the wanted type.
    #[error("the tensor `{name}` in `{}` has {count} values too large for {}, the first at {position:?}", file.display(), dtype.as_str())]
    OutOfRange {
        /// The tensor as the file calls it.
        name: String,
        /// How many values do not fit.
        count: usize,
        /// Coordinates of the first of them.
        position: Vec<usize>,
        /// The wanted type.
        dtype: DType,
        /// The file.
        file: PathBuf,
    },
    /// A tensor is stored in a type that weights cannot have.
    #[error("the tensor `{name}` in `{}` is stored as {dtype}, weights must be F16, BF16, F32 or F64", file.display())]
    UnsupportedDtype {
        /// The tensor as the file calls it.
        name: String,
        /// Its type in the file, in the words of safetensors.
        dtype: String,
        /// The file.
        file: PathBuf,
    },
    /// The bytes were fine, but making the tensor (or moving it to the device) failed.
    #[error("cannot load the tensor `{name}` of `{}`: {source}", file.display())]
    Load {
        /// The tensor as the file calls it.
        name: String,
        /// The file.
        file: PathBuf,
        /// What candle reported.
        source: Box<candle_core::Error>,
    },
}

impl CheckpointError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => Some("check that the file exists and that you may read it".into()),
            Self::Corrupt { .. } => Some("download or copy the file again".into()),
            Self::Metadata { .. } => Some(
                "use another GGUF file of the model, or its folder with safetensors weights".into(),
            ),
            Self::Vocabulary { .. } => {
                Some("put the model's `tokenizer.json` beside the file".into())
            }
            Self::NoWeights { .. } => Some("point to a folder made by `save_pretrained`".into()),
            Self::OtherFormatOnly { folder, file } if Gguf::is_name(Path::new(file)) => {
                let file = folder.join(file);
                Some(format!("name the file: `--model {}`", file.display()))
            }
            Self::OtherFormatOnly { folder, .. } => Some(format!(
                "convert it once: {}",
                conversion_command(&folder.display().to_string())
            )),
            Self::Index { .. }
            | Self::ShardMissing { .. }
            | Self::NotInShard { .. }
            | Self::Duplicate { .. } => Some(
                "the index and the weight files do not belong together; download the model again"
                    .into(),
            ),
            Self::ShardOutside { .. } => {
                Some("do not use this model: an index file has no reason to point elsewhere".into())
            }
            Self::MissingTensor { .. } | Self::ShapeMismatch { .. } => {
                Some("`config.json` and the weights must come from the same model".into())
            }
            Self::NotFinite { .. } => Some(
                "the weights are damaged, or training diverged; use an earlier checkpoint".into(),
            ),
            Self::OutOfRange { .. } => Some("load the model as f32: `--dtype f32`".into()),
            Self::UnsupportedDtype { .. } => {
                Some("quantized checkpoints cannot be trained; use the original one".into())
            }
            Self::Load { .. } => None,
        }
    }
}

/// The command that turns a pickled checkpoint into safetensors, for a folder or a hub id.
pub(crate) fn conversion_command(model: &str) -> String {
    format!(
        "python -c \"from transformers import AutoModelForSequenceClassification as A, AutoTokenizer as T; \
         A.from_pretrained('{model}').save_pretrained('converted', safe_serialization=True); \
         T.from_pretrained('{model}').save_pretrained('converted')\""
    )
}

fn nearest_phrase(nearest: &[String]) -> String {
    if nearest.is_empty() {
        String::new()
    } else {
        format!("; similar names there: {}", listed(nearest))
    }
}

/// File or tensor names for a message: quoted, at most eight.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "nothing".into();
    }
    let quoted: Vec<_> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => quoted.join(", "),
        Some(more) => format!("{} and {more} more", quoted.join(", ")),
    }
}
