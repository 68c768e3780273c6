//! What measuring and choosing cost, in training steps.
//!
//! A forward pass of one example counts one and a backward pass one, so that a step counts two for each of its examples.

use autopeft::pipeline::{Measured, Prepared};
use autopeft::recipe::{Estimator, LearningRates};

/// What a selection takes beyond the head's warm-up, which all arms have, and the steps of its probe and of the training after it.
pub fn of(prepared: &Prepared<'_>, measured: &Measured) -> usize {
    let recipe = prepared.recipe;
    let rows = prepared.data.train.rows.len();
    let batch = recipe.train.batch_size;
    let classes = prepared
        .data
        .labels
        .as_ref()
        .map_or(usize::MAX, |labels| labels.len());
    let groups = prepared.groups.len();
    // A gradient is two passes, a product with the Hessian two gradients; those measure their noise by one forward pass.
    let estimating = match recipe.probe.estimator {
        Estimator::GaussNewton if classes <= recipe.probe.exact_classes.max(2) => classes,
        Estimator::GaussNewton => 3,
        Estimator::Hvp => 7,
        Estimator::Full => 3 + 4 * groups,
        Estimator::Fit => 1 + 2 * groups,
    };
    let adapts = recipe.probe.learning_rates != LearningRates::Fixed;
    let along = if adapts { 2 } else { 0 };
    let measuring = measured.outcome.measurements.len() * (estimating + along);
    let passes = measuring * recipe.probe.examples.min(rows);
    passes.div_ceil(2 * batch) + of_fits(prepared, measured.fits)
}

/// What so many fits of the rates' height take, three forward passes of a training batch each.
pub fn of_fits(prepared: &Prepared<'_>, fits: usize) -> usize {
    let batch = prepared.recipe.train.batch_size;
    (fits * 3 * batch.min(prepared.data.train.rows.len())).div_ceil(2 * batch)
}
