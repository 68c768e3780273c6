//! Recomputing a block in the backward pass, so that the forward pass keeps only its input.
//! Source: Chen et al. 2016, <https://arxiv.org/abs/1604.06174>, section 4.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};

use crate::ops::{function2, suspended};
use crate::pass::Pass;

/// A block of a model, (batch, …) to (batch, …).
pub type Block = Arc<dyn Fn(&Tensor, &Pass) -> Result<Tensor> + Send + Sync>;

/// The block's value at `x`, computed without a graph. The backward pass computes it once more with one, and goes
/// back through it at once; parameters deliver what they would without this. LoRA dropout is the same both times.
///
/// # Errors
/// Those of the block.
pub fn checkpoint(x: &Tensor, pass: &Pass, block: Block) -> Result<Tensor> {
    let Some(twice) = pass.twice() else {
        return block(x, pass);
    };
    let value = suspended(|| block(&x.detach(), &twice.value()))?;
    let anchor = twice.anchor(x.device())?;
    let input = x.detach();
    let is_tracked = crate::ops::is_tracked(x);
    function2("checkpoint", [x, &anchor], value, move |gradient| {
        let input = if is_tracked {
            Var::from_tensor(&input)?.into_inner()
        } else {
            input.clone()
        };
        let output = block(&input, &twice.graph())?;
        if !output.track_op() {
            return Ok([None, None]);
        }
        let store = (output * gradient.detach())?.sum_all()?.backward()?;
        Ok([store.get(&input).map(Tensor::detach), None])
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Error};

    use super::*;
    use crate::ops::{noted, relu, scope, tanh};

    #[test]
    fn a_scope_keeps_a_recomputed_block_as_one_operation() -> Result<()> {
        let x = Var::ones((2, 3), DType::F32, &Device::Cpu)?;
        let block: Block = Arc::new(|x, _| relu(&tanh(x)?));
        let pass = Pass::gradients();
        let run = |recomputed: bool| {
            scope(x.as_tensor(), |x| {
                let y = match recomputed {
                    true => checkpoint(x, &pass, block.clone())?,
                    false => block(x, &pass)?,
                };
                assert_eq!(noted(), if recomputed { 1 } else { 2 });
                Ok::<_, Error>(y)
            })
        };
        let gradient = |y: Tensor| -> Result<Vec<f32>> {
            let store = y.sum_all()?.backward()?;
            let gradient = store
                .get(&x)
                .map(|gradient| gradient.flatten_all()?.to_vec1());
            gradient.unwrap_or(Ok(Vec::new()))
        };
        let expected = gradient(run(false)?)?;
        assert_eq!(expected.len(), 6);
        assert_eq!(gradient(run(true)?)?, expected);
        Ok(())
    }
}
