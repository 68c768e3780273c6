//! The mean of what a training passes through in its last steps.

use std::sync::Arc;

use autopeft_adapters::Parameter;
use candle_core::Tensor;

use crate::error::Result;

/// Sums values of parameters step by step, to put their mean in place of the last ones.
///
/// A training that sees its rows several times ends at values that say too surely what they learnt by heart; the mean over its last
/// part lies in the middle of the valley that it moves in, and holds on unseen rows. Sources: Polyak and Juditsky 1992; Izmailov et al.
/// 2018, <https://arxiv.org/abs/1803.05407>.
#[derive(Debug)]
pub struct Average {
    first: usize,
    count: usize,
    sums: Vec<(Arc<Parameter>, Tensor)>,
}

impl Average {
    /// Over the last `share` of so many steps, from 0 for none to 1 for all.
    pub fn over(share: f64, steps: usize) -> Self {
        let last = (share * steps as f64).round() as usize;
        Self {
            first: steps.saturating_sub(last) + 1,
            count: 0,
            sums: Vec::new(),
        }
    }

    /// Counts the present values in where this step, the first of which is 1, is one of the last. Those of a training are the same
    /// `parameters` at all of its steps.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn step(&mut self, step: usize, parameters: &[Arc<Parameter>]) -> Result<()> {
        if step < self.first {
            return Ok(());
        }
        self.count += 1;
        if self.sums.is_empty() {
            let present = |parameter: &Arc<Parameter>| (parameter.clone(), parameter.value());
            self.sums = parameters.iter().map(present).collect();
            return Ok(());
        }
        for (parameter, sum) in &mut self.sums {
            *sum = (&*sum + parameter.value())?;
        }
        Ok(())
    }

    /// Puts the means in place; without a step that counted, the values stay.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn put(self) -> Result<()> {
        for (parameter, sum) in &self.sums {
            parameter.set(&(sum / self.count as f64)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use autopeft_adapters::Adapters;
    use candle_core::{DType, Device, Tensor};
    use candle_nn::VarBuilder;

    use super::*;

    /// A bias that becomes 1 in the first of ten steps, 2 in the second, and so on, averaged over this share of them.
    fn averaged(share: f64) -> Result<Vec<f64>> {
        let device = Device::Cpu;
        let tensors = HashMap::from([
            (
                "weight".to_owned(),
                Tensor::zeros((1, 2), DType::F64, &device)?,
            ),
            ("bias".to_owned(), Tensor::zeros(1, DType::F64, &device)?),
        ]);
        let adapters = Adapters::none();
        adapters.head(2, 1, VarBuilder::from_tensors(tensors, DType::F64, &device))?;
        let parameters = adapters.parameters();
        let bias = &parameters[1];
        let mut average = Average::over(share, 10);
        for step in 1..=10 {
            bias.set(&Tensor::new(&[step as f64], &device)?)?;
            average.step(step, &parameters)?;
        }
        average.put()?;
        Ok(bias.value().to_vec1()?)
    }

    #[test]
    fn the_mean_is_over_the_last_steps() -> Result<()> {
        assert_eq!(averaged(0.3)?, [9.0]);
        assert_eq!(averaged(0.5)?, [8.0]);
        assert_eq!(averaged(1.0)?, [5.5]);
        Ok(())
    }

    #[test]
    fn no_share_leaves_the_last_values() -> Result<()> {
        assert_eq!(averaged(0.0)?, [10.0]);
        Ok(())
    }
}
