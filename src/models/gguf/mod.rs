//! Language models in the GGUF format of `llama.cpp`: one file with configuration, vocabulary and quantized weights.
//!
//! Names and the order of rows are turned back into those of `transformers`, so that groups, adapters and exports have
//! the same names whichever form the base model has. Matrices stay quantized in memory.
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; read by candle's own reader.

mod config;
mod layout;
mod metadata;
mod text;
mod tokenizer;
mod weights;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use tokenizers::Tokenizer;

use self::layout::{Arrangement, Heads};
use self::metadata::Metadata;
pub use self::text::GgufText;
use super::checkpoint::CheckpointError;
use super::{Config, ModelError};
use crate::error::first_line;

/// The ending of such files.
pub const EXTENSION: &str = "gguf";

/// A GGUF file whose header has been read.
pub struct Gguf {
    path: PathBuf,
    file: Mutex<BufReader<File>>,
    content: Content,
    /// By the name in a checkpoint.
    places: BTreeMap<String, Place>,
}

/// Where a tensor of the checkpoint is.
struct Place {
    /// Name in the file.
    name: String,
    arrangement: Arrangement,
    /// As in the checkpoint.
    shape: Vec<usize>,
}

impl Gguf {
    /// Whether this is the name of such a file.
    pub fn is_name(path: &Path) -> bool {
        let extension = path.extension();
        extension.is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
    }

    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When it cannot be read, is no GGUF file, or its architecture is not supported.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(|source| CheckpointError::Io {
            file: path.into(),
            source,
        })?;
        let mut file = BufReader::new(file);
        let content = Content::read(&mut file).map_err(|error| CheckpointError::Metadata {
            file: path.into(),
            reason: first_line(&error.to_string()),
        })?;
        let mut gguf = Self {
            path: path.into(),
            file: Mutex::new(file),
            content,
            places: BTreeMap::new(),
        };
        gguf.places = gguf.find_places()?;
        Ok(gguf)
    }

    fn find_places(&self) -> Result<BTreeMap<String, Place>, CheckpointError> {
        let architecture = self.architecture()?;
        let metadata = self.metadata();
        let word = metadata.text("general.architecture").unwrap_or_default();
        let count = |name: &str| metadata.count(&format!("{word}.attention.{name}"));
        let query = count("head_count")?.unwrap_or(1) as usize;
        let key = count("head_count_kv")?.map_or(query, |heads| heads as usize);
        let mut places = BTreeMap::new();
        for (name, info) in &self.content.tensor_infos {
            let heads = Heads { query, key };
            let Some((own, arrangement)) = architecture.place(name, heads) else {
                continue;
            };
            let mut shape = info.shape.dims().to_vec();
            if arrangement == Arrangement::Transposed {
                shape.reverse();
            }
            let place = Place {
                name: name.clone(),
                arrangement,
                shape,
            };
            places.insert(own, place);
        }
        Ok(places)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sizes of the model.
    ///
    /// # Errors
    /// When a size is missing or impossible.
    pub fn config(&self) -> Result<Config, ModelError> {
        Config::parse(self.configuration()?.to_string().as_bytes())
    }

    /// The tokenizer of the file's own vocabulary.
    ///
    /// # Errors
    /// When the vocabulary is of a kind that is not known here; a `tokenizer.json` beside the file is the way out.
    pub fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        tokenizer::build(self.metadata())
    }

    /// Names in the checkpoint, with shapes and the types in the file.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], GgmlDType)> {
        self.places.iter().filter_map(|(name, place)| {
            let info = self.content.tensor_infos.get(&place.name)?;
            Some((name.as_str(), place.shape.as_slice(), info.ggml_dtype))
        })
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata {
            content: &self.content,
            path: &self.path,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn vocabulary_size(&self) -> Result<usize, CheckpointError> {
        let table = self.content.tensor_infos.get("token_embd.weight");
        let rows = table.and_then(|table| table.shape.dims().first().copied());
        rows.ok_or_else(|| self.metadata().missing("token_embd.weight"))
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path)
            .field("tensors", &self.places.len())
            .finish()
    }
}
