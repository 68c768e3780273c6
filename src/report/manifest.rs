//! `autopeft.json`: what is needed to use an export again, and what no foreign format has a place for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::{LabelOrder, Labels, Pairing};
use crate::error::{Error, Result};
use crate::recipe::{Pooling, Target, TaskKind};

/// Name of the file.
pub const MANIFEST_FILE: &str = "autopeft.json";
/// Version of its layout.
const SCHEMA: u32 = 1;

/// How an export is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout.
    pub schema: u32,
    /// The base model: a folder, a hub id, or `embedded:quickstart`.
    pub base_model: String,
    /// Absolute path of a folder or file on the machine where the export was made, to find it from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_path: Option<PathBuf>,
    /// Revision of a hub id.
    pub revision: String,
    /// The commit that the revision was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// `model_type` of the base model.
    pub model_type: String,
    /// What was learned.
    #[serde(default)]
    pub task: TaskKind,
    /// Names of the outputs, by number; a language model has none.
    pub labels: Option<Labels>,
    /// Whose order the labels are in.
    #[serde(default)]
    pub label_order: LabelOrder,
    /// How the encoder's output becomes one vector.
    pub pooling: Pooling,
    /// Tokens a row is cut to.
    pub max_length: usize,
    /// Who is meant to load it.
    pub target: Target,
    /// Whether rows are pairs of texts.
    pub pairs: bool,
    /// Whether a language model learned from prompts with completions: then a line to be answered is a prompt.
    #[serde(default)]
    pub prompts: bool,
}

impl Manifest {
    /// Names of the outputs.
    pub fn label_names(&self) -> &[String] {
        self.labels.as_ref().map_or(&[], Labels::names)
    }

    /// What rows for it have to be.
    pub fn pairing(&self) -> Pairing {
        if self.pairs {
            Pairing::Pairs
        } else {
            Pairing::Single
        }
    }

    /// The version of the layout that this program writes.
    pub const SCHEMA: u32 = SCHEMA;

    /// Reads the manifest of an export.
    ///
    /// # Errors
    /// When the folder is no export of this program, or of a later version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        let mut manifest: Self = serde_json::from_str(&text).map_err(|error| Error::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let order = manifest.label_order;
        manifest.labels = manifest.labels.map(|labels| labels.with_order(order));
        if manifest.schema != SCHEMA {
            return Err(Error::Malformed {
                path,
                reason: format!(
                    "its layout is version {}, this program reads {SCHEMA}",
                    manifest.schema
                ),
            });
        }
        Ok(manifest)
    }
}
