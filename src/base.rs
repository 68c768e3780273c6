//! A base model: its configuration, weights and tokenizer, from which models with any adapters are made.

mod text;

use std::sync::Arc;

use autopeft_adapters::Adapters;
use candle_core::{DType, Device};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::hub::{self, HubOptions};
use crate::models::checkpoint::Checkpoint;
use crate::models::{self, CausalLm, Config, Head, HeadSource, Model, ModelError, Pooling};
use crate::quickstart;
pub use text::TextFacts;

/// What a model name stands for, opened.
#[derive(Debug)]
pub struct BaseModel {
    /// The name: a folder, a hub id, or `embedded:quickstart`.
    pub name: String,
    /// Its configuration.
    pub config: Config,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What its folder says about texts.
    pub text: TextFacts,
    /// What the user should know about the files.
    pub notes: Vec<String>,
    checkpoint: Arc<Checkpoint>,
}

impl BaseModel {
    /// Opens a folder, a hub id, or the embedded model.
    ///
    /// # Errors
    /// When the files cannot be found, fetched or read.
    pub fn open(name: &str, revision: &str, report: &mut dyn FnMut(hub::Download)) -> Result<Self> {
        if name == quickstart::NAME {
            return Ok(Self {
                name: name.to_string(),
                config: Config::parse(quickstart::CONFIG)?,
                tokenizer: tokenizer(quickstart::NAME, quickstart::TOKENIZER.as_bytes())?,
                text: TextFacts::default(),
                notes: Vec::new(),
                checkpoint: Arc::new(
                    Checkpoint::from_bytes(quickstart::NAME, quickstart::WEIGHTS)
                        .map_err(ModelError::from)?,
                ),
            });
        }
        let mut options = HubOptions::from_env();
        options.revision = Some(revision.to_string());
        let files = hub::resolve_with_progress(name, &options, report)?;
        let Some(path) = &files.tokenizer else {
            return Err(Error::Tokenizer {
                path: files.folder.display().to_string(),
                reason: "there is no `tokenizer.json`".to_string(),
            });
        };
        let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
        let tokenizer = tokenizer(&path.display().to_string(), &bytes)?;
        Ok(Self {
            name: name.to_string(),
            config: Config::read(&files.config)?,
            text: TextFacts::read(&files.folder, &tokenizer)?,
            tokenizer,
            notes: files.notes.clone(),
            checkpoint: Arc::new(Checkpoint::open_folder(&files.folder).map_err(ModelError::from)?),
        })
    }

    /// Numbers in the checkpoint; shares of a budget refer to it.
    pub fn num_parameters(&self) -> usize {
        self.checkpoint.num_values()
    }

    /// A model with a head of its own: the checkpoint's where it has one for this number of labels,
    /// otherwise a fresh one.
    ///
    /// # Errors
    /// When the checkpoint does not fit the configuration.
    pub fn build(
        &self,
        adapters: &Adapters,
        num_labels: usize,
        pooling: Pooling,
        dtype: DType,
        device: &Device,
    ) -> Result<Box<dyn Model>> {
        let head = Head {
            num_labels,
            pooling,
            source: HeadSource::Checkpoint,
        };
        let load = |head| {
            models::load(
                &self.config,
                &self.checkpoint,
                adapters,
                head,
                dtype,
                device,
            )
        };
        match load(head) {
            // Checked before anything is attached, so the second try starts from nothing.
            Err(ModelError::HeadShape { .. }) => Ok(load(Head {
                source: HeadSource::Fresh,
                ..head
            })?),
            other => Ok(other?),
        }
    }

    /// The language model of the checkpoint.
    ///
    /// # Errors
    /// When the architecture is no language model, or the checkpoint does not fit the configuration.
    pub fn build_causal(
        &self,
        adapters: &Adapters,
        dtype: DType,
        device: &Device,
    ) -> Result<Box<dyn CausalLm>> {
        let (config, checkpoint) = (&self.config, &self.checkpoint);
        Ok(models::load_causal(
            config, checkpoint, adapters, dtype, device,
        )?)
    }
}

fn tokenizer(path: &str, bytes: &[u8]) -> Result<Tokenizer> {
    Tokenizer::from_bytes(bytes).map_err(|error| Error::Tokenizer {
        path: path.to_string(),
        reason: error.to_string(),
    })
}
