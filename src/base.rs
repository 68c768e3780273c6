//! A base model: its configuration, weights and tokenizer, from which models with any adapters are made.

mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use autopeft_adapters::Adapters;
use candle_core::{DType, Device};
use serde_json::{Map, Value};
use tokenizers::{Tokenizer, TruncationParams};

use crate::data::Labels;
use crate::error::{Error, Result};
use crate::hub::{self, HubOptions};
use crate::models::checkpoint::Checkpoint;
use crate::models::gguf::Gguf;
use crate::models::{
    self, CausalLm, Config, Head, HeadSource, LoadOptions, Model, ModelError, Pooling,
};
use crate::quickstart;
pub(crate) use text::POOLING_FILE;
pub use text::TextFacts;

/// What a model name stands for, opened.
#[derive(Debug)]
pub struct BaseModel {
    /// The name: a folder, a GGUF file, a hub id, or `embedded:quickstart`.
    pub name: String,
    /// Its configuration.
    pub config: Config,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What its folder says about texts.
    pub text: TextFacts,
    /// What the user should know about the files.
    pub notes: Vec<String>,
    /// How models keep their weights and activations.
    pub options: LoadOptions,
    /// Where the heads of its models come from; one for another number of labels always starts at random.
    pub head: HeadSource,
    checkpoint: Arc<Checkpoint>,
    source: Source,
    commit: Option<String>,
}

/// Where the files of a base model are.
#[derive(Debug)]
enum Source {
    Embedded,
    Gguf,
    Folder(PathBuf),
}

/// What a folder has beside `config.json` and the weights, for texts. `tokenizer.model` and the like are what other programs
/// read where these do not read `tokenizer.json`.
const TEXT_FILES: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
];

impl BaseModel {
    /// Opens a folder, a GGUF file, a hub id, or the embedded model.
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
                options: LoadOptions::default(),
                head: HeadSource::default(),
                checkpoint: Arc::new(
                    Checkpoint::from_bytes(quickstart::NAME, quickstart::WEIGHTS)
                        .map_err(ModelError::from)?,
                ),
                source: Source::Embedded,
                commit: None,
            });
        }
        if let Some(path) = gguf_file(Path::new(name))? {
            return Self::open_gguf(name, &path);
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
            options: LoadOptions::default(),
            head: HeadSource::default(),
            checkpoint: Arc::new(Checkpoint::open_folder(&files.folder).map_err(ModelError::from)?),
            commit: match files.source {
                hub::Source::Hub { commit, .. } => Some(commit),
                hub::Source::Folder => None,
            },
            source: Source::Folder(files.folder),
        })
    }

    fn open_gguf(name: &str, path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path).map_err(ModelError::from)?;
        let beside = path.with_file_name("tokenizer.json");
        let tokenizer = if beside.is_file() {
            let bytes = std::fs::read(&beside).map_err(Error::io("reading", &beside))?;
            tokenizer(&beside.display().to_string(), &bytes)?
        } else {
            gguf.tokenizer().map_err(ModelError::from)?
        };
        Ok(Self {
            name: name.to_string(),
            config: gguf.config()?,
            tokenizer,
            text: gguf.text().try_into()?,
            notes: Vec::new(),
            options: LoadOptions::default(),
            head: HeadSource::default(),
            checkpoint: Arc::new(Checkpoint::from_gguf(gguf).map_err(ModelError::from)?),
            source: Source::Gguf,
            commit: None,
        })
    }

    /// The same with a choice of how models keep their weights and activations.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the architecture is an encoder, which has no such choice.
    pub fn with_options(mut self, options: LoadOptions) -> Result<Self> {
        if options != LoadOptions::default() && self.config.decoder.is_none() {
            return Err(Error::Conflict {
                what: format!(
                    "`storage` and `train.checkpointing` are for language models, not for `{}`",
                    self.config.model_type
                ),
                hint: "leave them out".to_string(),
            });
        }
        self.options = options;
        Ok(self)
    }

    /// The token by which a classifier of `transformers` tells the padding from the text: that of the configuration; for a language
    /// model that names none the tokenizer's, else the one that ends a text, unless the tokenizer puts it behind each text itself.
    pub fn padding_token(&self) -> Option<u32> {
        let Some(decoder) = &self.config.decoder else {
            return Some(self.config.pad_token_id);
        };
        let by_name = || {
            let token = self.text.special.get("pad_token")?;
            self.tokenizer.token_to_id(token)
        };
        let other = || {
            let token = by_name().or(self.text.end)?;
            let text = self.tokenizer.encode("a", true).ok()?;
            (text.get_ids().last() != Some(&token)).then_some(token)
        };
        decoder.pad_token_id.or_else(other)
    }

    /// The commit that a hub id stood for.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// Absolute path of the user's own folder or file; `None` for what comes from the hub or is embedded.
    pub fn local_path(&self) -> Option<PathBuf> {
        let is_local = match self.source {
            Source::Embedded => false,
            Source::Gguf => true,
            Source::Folder(_) => self.commit.is_none(),
        };
        is_local.then(|| std::path::absolute(&self.name).ok())?
    }

    /// Its tensors.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// The content of its `config.json`.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is a GGUF file, which has none; [`Error::Io`] when it cannot be read.
    pub fn config_json(&self) -> Result<Vec<u8>> {
        match &self.source {
            Source::Embedded => Ok(quickstart::CONFIG.to_vec()),
            Source::Folder(folder) => {
                let path = folder.join("config.json");
                std::fs::read(&path).map_err(Error::io("reading", path))
            }
            Source::Gguf => Err(Error::Conflict {
                what: format!(
                    "`{}` is a GGUF file, which has no configuration of `transformers`",
                    self.name
                ),
                hint: "name the folder or hub id that the file was made from with `--model`"
                    .to_string(),
            }),
        }
    }

    /// Copies what its folder has for texts, such as the tokenizer and the chat template, into `folder`. Their names.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read or written.
    pub fn copy_text_files(&self, folder: &Path) -> Result<Vec<&'static str>> {
        let mut copied = Vec::new();
        match &self.source {
            Source::Embedded => {
                let path = folder.join("tokenizer.json");
                std::fs::write(&path, quickstart::TOKENIZER).map_err(Error::io("writing", path))?;
                copied.push("tokenizer.json");
            }
            Source::Folder(from) => {
                for name in TEXT_FILES {
                    let path = from.join(name);
                    if path.is_file() {
                        let bytes = std::fs::read(&path).map_err(Error::io("reading", path))?;
                        let path = folder.join(name);
                        std::fs::write(&path, bytes).map_err(Error::io("writing", path))?;
                        copied.push(name);
                    }
                }
            }
            Source::Gguf => {}
        }
        Ok(copied)
    }

    /// Parameters in the checkpoint, without masks and other buffers; shares of a budget refer to it.
    pub fn num_parameters(&self) -> usize {
        self.checkpoint.num_parameters()
    }

    /// The labels of the checkpoint's head, as its `config.json` names them; `None` where it has no head, or only the
    /// placeholders that `transformers` makes up.
    pub fn labels_of_head(&self, pooling: Pooling) -> Option<Labels> {
        let config: Map<String, Value> = serde_json::from_slice(&self.config_json().ok()?).ok()?;
        // What is not usable names nothing.
        let labels = Labels::from_id2label(config.get("id2label")?.as_object()?).ok()?;
        let head = Head {
            pooling,
            ..Head::new(labels.len())
        };
        let is_named = !labels.is_placeholder() && head.is_in(&self.config, &self.checkpoint);
        is_named.then_some(labels)
    }

    /// A model with a head of its own: the checkpoint's where it has one for this number of labels and [`Self::head`] says
    /// so, otherwise a fresh one.
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
            source: self.head,
        };
        let load = |head| {
            models::load_with(
                &self.config,
                &self.checkpoint,
                adapters,
                head,
                dtype,
                device,
                self.options,
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
        Ok(models::load_causal_with(
            config,
            checkpoint,
            adapters,
            dtype,
            device,
            self.options,
        )?)
    }
}

/// The GGUF file that a name stands for: the file itself, or the one such file of a folder without other weights.
fn gguf_file(path: &Path) -> Result<Option<PathBuf>> {
    if path.is_file() {
        return Ok(Gguf::is_name(path).then(|| path.to_path_buf()));
    }
    if !path.is_dir() || path.join("config.json").is_file() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("reading", path))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| Gguf::is_name(path))
        .collect();
    found.sort();
    match found.as_slice() {
        [] | [_] => Ok(found.pop()),
        [first, ..] => Err(Error::Conflict {
            what: format!("`{}` has {} GGUF files", path.display(), found.len()),
            hint: format!("name one of them, such as `{}`", first.display()),
        }),
    }
}

/// A tokenizer that neither pads nor cuts, whatever its file says; from which side rows are cut is kept.
fn tokenizer(path: &str, bytes: &[u8]) -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| Error::Tokenizer {
        path: path.to_string(),
        reason: error.to_string(),
    };
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(failed)?;
    let side = tokenizer.get_truncation().map(|stored| stored.direction);
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(side.map(|direction| TruncationParams {
            direction,
            max_length: usize::MAX,
            ..TruncationParams::default()
        }))
        .map_err(failed)?;
    Ok(tokenizer)
}
