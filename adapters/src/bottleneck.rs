//! Bottleneck adapters: `z ↦ s · (U φ(D z + d) + u)`, beside or after a block of a transformer layer,
//! with the residual and LayerNorm order of AdapterHub (`adapters` 1.2.0: `seq_bn`, `double_seq_bn`,
//! `par_bn`). Source: Houlsby et al. 2019, <https://arxiv.org/abs/1902.00751>.

use std::sync::Arc;

use candle_core::{Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::InModule;
use crate::linear::per_example;
use crate::norm::LayerNorm;
use crate::ops::{self, function2, matmul_rows, row_sum};
use crate::parameter::{Parameter, State};
use crate::pass::{Pass, Wanted};
use crate::plan::{BottleneckPlan, BottleneckStyle};
use crate::tape::{Directions, Tape};

/// The two places of a transformer layer that can hold a bottleneck adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// After the attention block (`mh_adapter`).
    Attention,
    /// After the feed-forward block (`output_adapter`).
    FeedForward,
}

impl Place {
    pub(crate) const fn belongs_to(self, style: BottleneckStyle) -> bool {
        matches!(self, Self::FeedForward) || matches!(style, BottleneckStyle::Houlsby)
    }
}

/// A place for a bottleneck adapter, made by [`crate::Adapters`].
#[derive(Debug, Clone)]
pub struct Bottleneck {
    path: String,
    attached: Option<Attached>,
}

#[derive(Debug, Clone)]
struct Attached {
    plan: BottleneckPlan,
    /// `D` (bottleneck, hidden), `d` (bottleneck), `U` (hidden, bottleneck), `u` (hidden).
    parameters: [Arc<Parameter>; 4],
}

impl Bottleneck {
    pub(crate) const fn absent(path: String) -> Self {
        Self {
            path,
            attached: None,
        }
    }

    pub(crate) const fn new(
        path: String,
        plan: BottleneckPlan,
        parameters: [Arc<Parameter>; 4],
    ) -> Self {
        Self {
            path,
            attached: Some(Attached { plan, parameters }),
        }
    }

    /// Path of the module that holds it, as in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The end of a post-norm block: `LayerNorm(block + input)`, with the adapter where it belongs.
    /// `block`: the output of the block's last linear layer, `input`: what the block read, both
    /// (batch, sequence, hidden).
    ///
    /// # Errors
    /// When the shapes do not fit; the error names the module.
    pub fn finish_block(
        &self,
        block: &Tensor,
        input: &Tensor,
        norm: &LayerNorm,
        pass: &Pass,
    ) -> Result<Tensor> {
        let attached = self.attached.as_ref().filter(|attached| {
            attached
                .parameters
                .iter()
                .all(|parameter| parameter.is_active())
        });
        let Some(attached) = attached else {
            return norm.forward_sum(block, input, pass);
        };
        let sum = ops::add(block, input)?;
        let read = match attached.plan.style {
            BottleneckStyle::Pfeiffer => norm.forward(&sum, pass)?,
            BottleneckStyle::Houlsby => block.clone(),
            BottleneckStyle::Parallel => input.clone(),
        };
        let added = pass
            .by_copy(attached.parameters.iter(), [&read], |[read]| {
                attached.compute(read, pass)
            })
            .in_module(&self.path)?;
        norm.forward_sum(&sum, &added, pass)
    }
}

impl Attached {
    fn compute(&self, x: &Tensor, pass: &Pass) -> CandleResult<Tensor> {
        let (batch, sequence, hidden) = x.dims3()?;
        let input = x.detach().reshape((batch * sequence, hidden))?;
        let [down, down_bias, up, up_bias] = self
            .parameters
            .each_ref()
            .map(|parameter| parameter.rounded());
        let before = matmul_rows(&input, &down)?.broadcast_add(&down_bias)?;
        let (inner, slope) = ops::activate(self.plan.non_linearity, &before)?; // both (rows, bottleneck)
        let output = (matmul_rows(&inner, &up)?.broadcast_add(&up_bias)? * self.plan.scaling)?;
        let output = output.reshape((batch, sequence, hidden))?;
        let wanted = pass.wanted(&self.parameters);
        let tracked = ops::is_tracked(x);
        if wanted.is_none() && !tracked {
            return Ok(output);
        }
        let anchor = match &wanted {
            Some(wanted) => wanted.tape().anchor(x.device())?.as_tensor().clone(),
            None => x.detach(),
        };
        let parameters = self.parameters.clone();
        let scaling = self.plan.scaling;
        function2("bottleneck", [x, &anchor], output, move |gradient| {
            let outer = (gradient.contiguous()?.reshape((batch * sequence, hidden))? * scaling)?;
            let inside = (outer.matmul(&up)? * &slope)?; // gradient at D z + d
            let saved = Saved {
                parameters: &parameters,
                input: &input,
                inner: &inner,
                outer: &outer,
                inside: &inside,
            };
            match &wanted {
                Some(Wanted::Gradients(tape)) => saved.gradients(tape)?,
                Some(Wanted::Tangents(tape, directions)) => {
                    saved.tangents(tape, directions, batch)?
                }
                None => {}
            }
            let result = if tracked {
                Some(inside.matmul(&down)?.reshape((batch, sequence, hidden))?)
            } else {
                None
            };
            Ok([result, None])
        })
    }
}

struct Saved<'a> {
    parameters: &'a [Arc<Parameter>; 4],
    input: &'a Tensor,
    inner: &'a Tensor,
    outer: &'a Tensor,
    inside: &'a Tensor,
}

impl Saved<'_> {
    fn gradients(&self, tape: &Tape) -> CandleResult<()> {
        let [down, down_bias, up, up_bias] = self.parameters;
        for parameter in self
            .parameters
            .iter()
            .filter(|p| p.state() == State::Trainable)
        {
            let gradient = if Arc::ptr_eq(parameter, down) {
                self.inside.t()?.matmul(self.input)?
            } else if Arc::ptr_eq(parameter, down_bias) {
                row_sum(self.inside)?
            } else if Arc::ptr_eq(parameter, up) {
                self.outer.t()?.matmul(self.inner)?
            } else {
                debug_assert!(Arc::ptr_eq(parameter, up_bias));
                row_sum(self.outer)?
            };
            tape.deliver(parameter.index(), gradient)?;
        }
        Ok(())
    }

    fn tangents(&self, tape: &Tape, directions: &Directions, batch: usize) -> CandleResult<()> {
        // The gradient at the point where the parameter enters, and what the parameter multiplies there.
        let enters = [
            (self.inside, Some(self.input)),
            (self.inside, None),
            (self.outer, Some(self.inner)),
            (self.outer, None),
        ];
        for (parameter, (gradient, multiplied)) in self.parameters.iter().zip(enters) {
            let Some(direction) = directions.of(parameter, gradient.dtype())? else {
                continue;
            };
            let along = match multiplied {
                Some(multiplied) => {
                    (matmul_rows(multiplied, &direction)? * gradient)?.sum_keepdim(1)?
                }
                None => gradient.matmul(&direction.unsqueeze(1)?)?,
            };
            tape.deliver(parameter.index(), per_example(&along, batch)?.squeeze(1)?)?;
        }
        Ok(())
    }
}
