//! What the types cannot say about single keys: ranges, the form of the budget, regular expressions.

use std::collections::HashSet;

use regex::Regex;

use super::Recipe;
use super::layers::Layers;
use super::words::{Grouping, Targets};
use crate::select::Budget;

/// Path, whether the value is good, and what it must be.
pub(super) fn ranges(recipe: &Recipe) -> Vec<(&'static str, bool, &'static str)> {
    let Recipe {
        model,
        revision,
        task,
        data,
        superset,
        train,
        probe,
        select,
        ..
    } = recipe;
    let is_share = |value: f64| value > 0.0 && value < 1.0;
    let is_positive = |value: f64| value > 0.0 && value.is_finite();
    let is_fraction = |value: f64| (0.0..1.0).contains(&value);
    let is_not_negative = |value: f64| value >= 0.0 && value.is_finite();
    let named = |column: &Option<String>| column.as_ref().is_none_or(|name| !name.is_empty());
    vec![
        ("model", !model.trim().is_empty(), "must not be empty"),
        ("revision", !revision.trim().is_empty(), "must not be empty"),
        (
            "task.max_length",
            task.max_length >= 4,
            "must be at least 4: special tokens need up to 4 places",
        ),
        (
            "data.train",
            !data.train.trim().is_empty(),
            "must not be empty",
        ),
        (
            "data.validation",
            named(&data.validation),
            "must not be empty; `null` cuts it off the training rows",
        ),
        (
            "data.validation_share",
            is_share(data.validation_share),
            "must lie between 0 and 1",
        ),
        (
            "data.text_column",
            named(&data.text_column),
            "must not be empty; `null` finds the column",
        ),
        (
            "data.pair_column",
            named(&data.pair_column),
            "must not be empty; `null` finds the column",
        ),
        (
            "data.label_column",
            named(&data.label_column),
            "must not be empty; `null` finds the column",
        ),
        (
            "data.prompt_column",
            named(&data.prompt_column),
            "must not be empty; `null` finds the column",
        ),
        (
            "data.completion_column",
            named(&data.completion_column),
            "must not be empty; `null` finds the column",
        ),
        (
            "data.messages_column",
            named(&data.messages_column),
            "must not be empty; `null` finds the column",
        ),
        (
            "data.max_rows",
            data.max_rows != Some(0),
            "must be at least 1; `null` reads all",
        ),
        (
            "superset.lora.rank_blocks",
            !superset.lora.rank_blocks.is_empty(),
            "must name at least one slice",
        ),
        (
            "superset.lora.rank_blocks",
            !superset.lora.rank_blocks.contains(&0),
            "every slice must have a rank of at least 1",
        ),
        (
            "superset.lora.alpha",
            is_positive(superset.lora.alpha),
            "must be greater than 0",
        ),
        (
            "superset.lora.dropout",
            is_fraction(superset.lora.dropout),
            "must be at least 0 and less than 1",
        ),
        (
            "superset.bottleneck.reduction_factor",
            superset.bottleneck.reduction_factor >= 1.0
                && superset.bottleneck.reduction_factor.is_finite(),
            "must be at least 1",
        ),
        ("train.steps", train.steps != Some(0), "must be at least 1"),
        (
            "train.epochs",
            train.epochs.is_none_or(is_positive),
            "must be greater than 0",
        ),
        (
            "train.batch_size",
            train.batch_size >= 1,
            "must be at least 1",
        ),
        (
            "train.accumulate",
            train.accumulate >= 1,
            "must be at least 1",
        ),
        (
            "train.learning_rate",
            is_positive(train.learning_rate),
            "must be greater than 0",
        ),
        (
            "train.head_learning_rate",
            train.head_learning_rate.is_none_or(is_positive),
            "must be greater than 0",
        ),
        (
            "train.loraplus_lr_ratio",
            train.loraplus_lr_ratio.is_none_or(is_positive),
            "must be greater than 0",
        ),
        (
            "train.dropout",
            is_fraction(train.dropout),
            "must be at least 0 and less than 1",
        ),
        (
            "train.dropout",
            !train.keep_frozen_layers || train.dropout <= 0.0,
            "what is dropped changes from pass to pass, and cannot be kept: leave it out, or `train.keep_frozen_layers`",
        ),
        (
            "train.weight_decay",
            is_not_negative(train.weight_decay),
            "must not be negative",
        ),
        (
            "train.beta1",
            is_fraction(train.beta1),
            "must be at least 0 and less than 1",
        ),
        (
            "train.beta2",
            is_fraction(train.beta2),
            "must be at least 0 and less than 1",
        ),
        (
            "train.epsilon",
            is_positive(train.epsilon),
            "must be greater than 0",
        ),
        (
            "train.warmup",
            is_fraction(train.warmup),
            "must be at least 0 and less than 1",
        ),
        (
            "train.average",
            is_fraction(train.average),
            "must be at least 0 and less than 1",
        ),
        (
            "train.clip",
            is_not_negative(train.clip),
            "must not be negative; 0 clips nothing",
        ),
        ("probe.steps", probe.steps >= 1, "must be at least 1"),
        (
            "probe.burn_in",
            is_fraction(probe.burn_in),
            "must be at least 0 and less than 1",
        ),
        ("probe.every", probe.every >= 1, "must be at least 1"),
        ("probe.examples", probe.examples >= 1, "must be at least 1"),
        (
            "probe.exact_classes",
            probe.exact_classes >= 2,
            "must be at least 2",
        ),
        (
            "probe.resamples",
            probe.resamples >= 1,
            "must be at least 1",
        ),
        (
            "probe.confidence",
            is_share(probe.confidence),
            "must lie between 0 and 1",
        ),
        (
            "select.order",
            select.order.iter().collect::<HashSet<_>>().len() == select.order.len(),
            "must name no kind twice",
        ),
        (
            "select.per_nat",
            select.per_nat.is_none_or(is_positive),
            "must be greater than 0",
        ),
        (
            "select.psi",
            is_positive(select.psi),
            "must be greater than 0",
        ),
        ("select.top", select.top >= 1, "must be at least 1"),
        (
            "select.threshold",
            select.threshold > 0.0 && select.threshold <= 1.0,
            "must be greater than 0 and at most 1",
        ),
        (
            "select.max_learning_rate",
            is_positive(select.max_learning_rate),
            "must be greater than 0",
        ),
    ]
}

/// The form of the budget; what it means for a model is decided where it is used.
pub(super) fn budget(recipe: &Recipe, layers: &mut Layers<'_>) {
    if let Err(error) = recipe.select.budget.parse::<Budget>()
        && !layers.has_fault("select.budget")
    {
        let origin = layers.origin("select.budget").clone();
        layers.fault("select.budget", &origin, error.to_string(), error.hint());
    }
}

/// Every list of patterns must compile and, where it is the only choice, name something.
pub(super) fn patterns(recipe: &Recipe, layers: &mut Layers<'_>) {
    let mut lists = vec![("superset.exclude", &recipe.superset.exclude, true)];
    if let Targets::Patterns(list) = &recipe.superset.lora.targets {
        lists.push(("superset.lora.targets", list, false));
    }
    if let Grouping::Patterns(list) = &recipe.probe.grouping {
        lists.push(("probe.grouping", list, false));
    }
    for (path, list, may_be_empty) in lists {
        let origin = layers.origin(path).clone();
        if list.is_empty() && !may_be_empty {
            layers.fault(path, &origin, "the list is empty".to_owned(), None);
        }
        for pattern in list {
            if let Err(error) = Regex::new(pattern) {
                let reason = error.to_string();
                let reason = reason
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ")
                    .to_owned();
                let hint = pattern
                    .starts_with('*')
                    .then(|| "these are regular expressions: write `.*`, not `*`".to_owned());
                layers.fault(
                    path,
                    &origin,
                    format!("`{pattern}` is no regular expression: {reason}"),
                    hint,
                );
            }
        }
    }
}
