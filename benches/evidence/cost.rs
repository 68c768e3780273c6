//! What measuring and choosing cost, in training steps.
//!
//! A forward pass of one example counts one and a backward pass one, so that a step counts two for each of its examples.

use autopeft::pipeline::{Measured, Prepared};
use autopeft::recipe::LearningRates;

/// What a selection takes beyond the steps of its probe and of the training after it.
pub fn of(prepared: &Prepared<'_>, measured: &Measured) -> usize {
    let recipe = prepared.recipe;
    let rows = prepared.data.train.rows.len();
    let batch = recipe.train.batch_size;
    let classes = prepared
        .data
        .labels
        .as_ref()
        .map_or(usize::MAX, |labels| labels.len());
    let backward = match classes <= recipe.probe.exact_classes.max(2) {
        true => classes - 1,
        false => 2,
    };
    let adapts = recipe.probe.learning_rates == LearningRates::HiDlr;
    let along = if adapts { 2 } else { 0 };
    let burn_in = (recipe.probe.burn_in * prepared.horizon.probe as f64).ceil() as usize;
    let settling = match adapts {
        true => burn_in.div_ceil(recipe.probe.every),
        false => 0,
    };
    let measuring = measured.outcome.measurements.len() * (1 + backward + along) + settling * 3;
    let mut passes = measuring * recipe.probe.examples.min(rows);

    let winner = measured.race.first().map_or(0, |placing| placing.steps);
    let raced: usize = measured.race.iter().map(|placing| placing.steps).sum();
    let alone = measured.race.iter().map(|placing| placing.steps);
    let fitting: usize = (alone.chain([prepared.horizon.after - winner]))
        .map(|steps| fits(prepared, steps))
        .sum();
    passes += fitting * 3 * batch.min(rows);

    let warm_up = prepared.horizon.head_warmup.div_ceil(2);
    passes.div_ceil(2 * batch) + raced - winner + warm_up
}

/// What fitting the height of the rates takes over so many steps.
pub fn of_fits(prepared: &Prepared<'_>, steps: usize) -> usize {
    (fits(prepared, steps) * 3).div_ceil(2)
}

/// Fits within so many steps.
fn fits(prepared: &Prepared<'_>, steps: usize) -> usize {
    let recipe = prepared.recipe;
    match (recipe.probe.learning_rates, recipe.select.refit) {
        (LearningRates::HiDlr, every) if every > 0 => steps.div_ceil(every),
        _ => 0,
    }
}
