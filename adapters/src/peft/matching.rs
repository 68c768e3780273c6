//! How PEFT finds modules by name, simulated, so that a file that PEFT would misread is never written.
//! Source: peft `src/peft/tuners/tuners_utils.py` and `src/peft/utils/other.py`, releases 0.13 to 0.21.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::config::{PeftConfig, TargetModules};

/// Rank and alpha that a module shall get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LoraSize {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
}

impl LoraSize {
    /// Of the LoRA of zeros that PEFT needs beside what is no LoRA.
    pub(crate) const PLACEHOLDER: Self = Self {
        rank: 1,
        alpha: 1.0,
    };
}

/// Whether a key of `rank_pattern` or `alpha_pattern` is for this module (release 0.14 and later).
pub(crate) fn pattern_matches(key: &str, module: &str) -> bool {
    Regex::new(&format!("^(.*\\.)?(?:{key})$")).is_ok_and(|pattern| pattern.is_match(module))
}

/// The same in release 0.13: a suffix after a dot, or the whole path.
fn old_pattern_matches(key: &str, module: &str) -> bool {
    key == module
        || Regex::new(&format!("^.*\\.{key}$")).is_ok_and(|pattern| pattern.is_match(module))
}

/// Every module of a model, from the paths of its leaves: those and all that contain them.
pub(crate) fn with_containers<'a>(leaves: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for leaf in leaves {
        let mut path = leaf;
        modules.insert(path.to_string());
        while let Some((parent, _)) = path.rsplit_once('.') {
            modules.insert(parent.to_string());
            path = parent;
        }
    }
    modules
}

/// Checks that PEFT would attach each LoRA with its own rank and alpha, to these modules and no others,
/// and save whole exactly `saved`. Returns the first fault.
pub(crate) fn check(
    config: &PeftConfig,
    sizes: &BTreeMap<String, LoraSize>,
    saved: &BTreeSet<String>,
    modules: &BTreeSet<String>,
) -> Result<(), String> {
    let targets = match &config.target_modules {
        Some(TargetModules::List(names)) => names.clone(),
        Some(TargetModules::Pattern(_)) | None => Vec::new(),
    };
    for module in modules {
        let targeted = targets
            .iter()
            .any(|name| name == module || module.ends_with(&format!(".{name}")));
        if targeted != sizes.contains_key(module) {
            return Err(format!(
                "PEFT would {} an adapter on `{module}`",
                if targeted { "put" } else { "miss" }
            ));
        }
    }
    for (
        module,
        LoraSize {
            rank,
            alpha: wanted,
        },
    ) in sizes
    {
        let alone: &dyn Fn(&str, &str) -> bool = &pattern_matches;
        for matches in [alone, &old_pattern_matches] {
            let of_module = |key: &str| matches(key, module);
            let found = (config.rank_pattern.as_ref())
                .and_then(|ranks| ranks.first(of_module))
                .or(config.r);
            let alpha = (config.alpha_pattern.as_ref())
                .and_then(|alphas| alphas.first(of_module))
                .or(config.lora_alpha);
            if found != Some(*rank) || alpha != Some(*wanted) {
                return Err(format!(
                    "PEFT would give `{module}` rank {found:?} and alpha {alpha:?} instead of {rank} and {wanted}"
                ));
            }
        }
    }
    for entry in config.modules_to_save.iter().flatten() {
        for module in modules
            .iter()
            .filter(|module| module.ends_with(entry.as_str()))
        {
            let covered = saved.contains(module)
                || saved
                    .iter()
                    .any(|path| path.starts_with(&format!("{module}.")));
            if !covered {
                return Err(format!(
                    "PEFT would look for a saved `{module}` because of `{entry}`"
                ));
            }
            let inside = |path: &str| path == module || path.starts_with(&format!("{module}."));
            if let Some(lora) = sizes.keys().find(|path| inside(path)) {
                return Err(format!(
                    "PEFT would drop the LoRA on `{lora}`, which is saved whole"
                ));
            }
        }
    }
    Ok(())
}
