//! A model cut to its first layers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Keys of the number of layers in a `config.json`.
const LAYERS: [&str; 3] = ["num_hidden_layers", "n_layers", "n_layer"];

/// Makes the folder of `model` cut to its first `layers` layers within `folder`, and says how many the whole model has. The
/// weights of the others are still in its files, where nobody reads them.
pub fn cut(model: &Path, layers: usize, folder: &Path) -> Result<(PathBuf, usize)> {
    let read = || -> Result<Value> {
        let text = std::fs::read_to_string(model.join("config.json"))?;
        Ok(serde_json::from_str(&text)?)
    };
    let mut config = read().with_context(|| format!("in {}", model.display()))?;
    let key = LAYERS.iter().find(|key| config.get(**key).is_some());
    let entry = key.and_then(|key| config.get_mut(*key));
    let whole = entry.as_ref().and_then(|entry| entry.as_u64());
    let (Some(entry), Some(whole)) = (entry, whole) else {
        bail!("{}: config.json has no number of layers", model.display());
    };
    let whole = usize::try_from(whole)?;
    if layers == 0 || layers >= whole {
        bail!(
            "{} has {whole} layers: it cannot be cut to {layers}",
            model.display()
        );
    }
    *entry = layers.into();
    let name = model.file_name().context("a model's folder has a name")?;
    let cut = folder.join(format!("{}-cut-{layers}", name.to_string_lossy()));
    std::fs::create_dir_all(&cut)?;
    for file in std::fs::read_dir(model)? {
        let file = file?;
        let to = cut.join(file.file_name());
        if file.file_name() != "config.json" && !to.exists() {
            std::os::unix::fs::symlink(file.path().canonicalize()?, &to)?;
        }
    }
    std::fs::write(
        cut.join("config.json"),
        serde_json::to_string_pretty(&config)?,
    )?;
    Ok((cut, whole))
}
