//! Whether the expressions of a recipe name anything in its model.

use std::collections::BTreeSet;

use autopeft_adapters::{Adapters, SiteShape, Superset};

use crate::error::{Error, Result};
use crate::groups::locate;
use crate::recipe::{Grouping, Recipe, Target, Targets};

/// Modules that an error names.
const SHOWN: usize = 8;

/// Refuses expressions that match nothing: they are meant for other names than the model's.
pub(super) fn check(recipe: &Recipe, adapters: &Adapters) -> Result<()> {
    let sites = adapters.sites();
    let all: Vec<String> = sites.iter().map(|site| site.path.clone()).collect();
    let wanted = &recipe.superset;
    let has_lora = wanted.lora.enabled && recipe.export.target != Target::Adapterhub;
    if let (Targets::Patterns(patterns), true) = (&wanted.lora.targets, has_lora) {
        let linear = sites
            .iter()
            .filter(|site| matches!(site.shape, SiteShape::Linear { .. }));
        let linear: Vec<String> = linear.map(|site| site.path.clone()).collect();
        check_each("superset.lora.targets", recipe, patterns, &linear)?;
    }
    check_each("superset.exclude", recipe, &wanted.exclude, &all)?;
    if let Grouping::Patterns(patterns) = &recipe.probe.grouping {
        // Of modules whose kind takes no part there are no parameters.
        let parameters = adapters.parameters();
        let parameters = parameters.iter().map(|parameter| parameter.name());
        let names: Vec<String> = all.iter().cloned().chain(parameters).collect();
        check_each("probe.grouping", recipe, patterns, &names)?;
    }
    Ok(())
}

fn check_each(
    setting: &'static str,
    recipe: &Recipe,
    patterns: &[String],
    names: &[String],
) -> Result<()> {
    let expressions = Superset::patterns(patterns)?;
    let unmatched: Vec<String> = (patterns.iter().zip(&expressions))
        .filter(|(_, expression)| !names.iter().any(|name| expression.is_match(name)))
        .map(|(pattern, _)| pattern.clone())
        .collect();
    if unmatched.is_empty() {
        return Ok(());
    }
    // One of each kind: the other layers have the same.
    let mut roles = BTreeSet::new();
    let first = names.iter().filter(|name| roles.insert(locate(name).role));
    Err(Error::NothingMatches {
        setting,
        patterns: unmatched,
        model: recipe.model.clone(),
        modules: first.take(SHOWN).cloned().collect(),
    })
}
