//! Several variants of some parameters in one pass for the value alone.
//!
//! The batch of such a pass has the same examples once for each variant, one copy after the other, and each copy is computed with
//! the values of its variant. A layer whose own parameters differ runs for each of those copies by itself; every
//! other layer runs on all rows at once, which makes larger products of small batches.

use std::sync::Arc;

use candle_core::{Result as CandleResult, Tensor};

use crate::Result;
use crate::parameter::Parameter;

/// Other values for some parameters: see [`crate::Pass::variants`].
#[derive(Debug, Clone, Default)]
pub struct Variant(Vec<(Arc<Parameter>, Tensor)>);

impl Variant {
    /// Gives a parameter another value.
    pub fn insert(&mut self, parameter: &Arc<Parameter>, value: Tensor) {
        self.0.push((parameter.clone(), value));
    }

    /// The parameters that have another value.
    pub fn parameters(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.0.iter().map(|(parameter, _)| parameter)
    }

    /// Gives the parameters these values until what is returned is dropped.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when a value does not have its parameter's shape; no parameter is changed then.
    pub fn apply(&self) -> Result<Applied> {
        Applied::of(self.0.iter())
    }
}

/// Parameters with the values of a variant; dropping it puts their own values back.
#[derive(Debug)]
pub struct Applied(Vec<(Arc<Parameter>, Tensor)>);

impl Applied {
    fn of<'a>(values: impl Iterator<Item = &'a (Arc<Parameter>, Tensor)>) -> Result<Self> {
        let mut own = Self(Vec::new());
        for (parameter, value) in values {
            let before = parameter.value();
            parameter.set(value)?;
            own.0.push((parameter.clone(), before));
        }
        Ok(own)
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        // Backwards, so that of a parameter that was given two values the first saved one is what remains.
        for (parameter, value) in self.0.iter().rev() {
            // The saved value has the parameter's own shape, so it cannot be refused.
            let _ = parameter.set(value);
        }
    }
}

/// Computes a layer with these parameters: neighbouring copies of the batch that do not change them in one go.
pub(crate) fn by_copy<'a, const N: usize>(
    variants: &[Variant],
    parameters: impl Iterator<Item = &'a Arc<Parameter>>,
    inputs: [&Tensor; N],
    compute: impl Fn([&Tensor; N]) -> CandleResult<Tensor>,
) -> CandleResult<Tensor> {
    let own: Vec<usize> = parameters.map(|parameter| parameter.index()).collect();
    let is_own = |(parameter, _): &&(Arc<Parameter>, Tensor)| own.contains(&parameter.index());
    let changes: Vec<Vec<_>> = variants
        .iter()
        .map(|variant| variant.0.iter().filter(is_own).collect())
        .collect();
    if changes.iter().all(Vec::is_empty) {
        return compute(inputs);
    }
    let mut outputs = Vec::with_capacity(changes.len());
    let mut start = 0;
    for copies in changes.chunk_by(|a, b| a.is_empty() && b.is_empty()) {
        let _applied =
            Applied::of(copies.iter().flatten().copied()).map_err(candle_core::Error::wrap)?;
        let mut narrowed = Vec::with_capacity(N);
        for input in inputs {
            let rows = input.dim(0)?;
            if !rows.is_multiple_of(variants.len()) {
                candle_core::bail!(
                    "a batch of {rows} rows has no equal copies for {} variants",
                    variants.len()
                );
            }
            let rows = rows / variants.len();
            narrowed.push(input.narrow(0, start * rows, copies.len() * rows)?);
        }
        outputs.push(compute(std::array::from_fn(|at| &narrowed[at]))?);
        start += copies.len();
    }
    Tensor::cat(&outputs, 0)
}
