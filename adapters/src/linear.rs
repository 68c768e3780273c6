//! A linear layer with what may be attached to it: `y = x Wᵀ + b + (alpha / r) (x Aᵀ) Bᵀ`.
//! Source: Hu et al. 2021, <https://arxiv.org/abs/2106.09685>, section 4.1; names as in Hugging Face PEFT.

use std::sync::Arc;

use candle_core::{D, DType, Result as CandleResult, Tensor};
use candle_nn::Module;

use crate::Result;
use crate::error::InModule;
use crate::frozen::FrozenWeight;
use crate::ops::{self, Beside, Way, function2, matmul_rows, row_sum};
use crate::parameter::{Parameter, State};
use crate::pass::{Pass, Wanted};
use crate::tape::{Directions, Tape};

/// A tensor of a layer: fixed, or a parameter.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Frozen(Tensor),
    Stored(FrozenWeight),
    Trained(Arc<Parameter>),
}

impl Value {
    /// The present value; a dropped parameter is as if it had never been attached. What is stored in fewer bits is
    /// widened to `dtype`.
    pub(crate) fn tensor(&self, dtype: DType) -> CandleResult<Tensor> {
        match self {
            Self::Frozen(tensor) => Ok(tensor.clone()),
            Self::Stored(weight) => weight.widen(dtype),
            Self::Trained(parameter) if parameter.is_active() => Ok(parameter.rounded()),
            Self::Trained(parameter) => Ok(parameter.rounded_initial().clone()),
        }
    }

    /// The same, but what is trained without rounding.
    pub(crate) fn unrounded(&self, dtype: DType) -> CandleResult<Tensor> {
        match self {
            Self::Frozen(_) | Self::Stored(_) => self.tensor(dtype),
            Self::Trained(parameter) if parameter.is_active() => Ok(parameter.value()),
            Self::Trained(parameter) => Ok(parameter.initial().clone()),
        }
    }

    pub(crate) fn parameter(&self) -> Option<&Arc<Parameter>> {
        match self {
            Self::Frozen(_) | Self::Stored(_) => None,
            Self::Trained(parameter) => Some(parameter),
        }
    }
}

/// One rank block of a LoRA: `a` (rank, in), `b` (out, rank).
#[derive(Debug, Clone)]
pub(crate) struct LoraBlock {
    pub(crate) a: Arc<Parameter>,
    pub(crate) b: Arc<Parameter>,
}

impl LoraBlock {
    fn is_active(&self) -> bool {
        self.a.is_active() && self.b.is_active()
    }
}

/// A linear layer, made by [`crate::Adapters`].
#[derive(Debug, Clone)]
pub struct Linear {
    path: String,
    weight: Value,
    bias: Option<Value>,
    lora: Vec<LoraBlock>,
    scale: f64,
    dropout: f64,
}

/// The rank blocks in use, side by side: `a` (r, in), `b` (out, r).
struct LowRank {
    blocks: Vec<LoraBlock>,
    a: Tensor,
    b: Tensor,
}

impl Linear {
    pub(crate) fn new(
        path: String,
        weight: Value,
        bias: Option<Value>,
        lora: Vec<LoraBlock>,
        scale: f64,
        dropout: f64,
    ) -> Self {
        Self {
            path,
            weight,
            bias,
            lora,
            scale,
            dropout,
        }
    }

    /// Path of the layer, as in the checkpoint.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `x`: (batch, …, in) to (batch, …, out).
    ///
    /// # Errors
    /// When the shapes do not fit; the error names the module.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        pass.by_copy(self.parameters(), [x], |[x]| self.compute(x, pass))
            .in_module(&self.path)
    }

    fn parameters(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.weight
            .parameter()
            .into_iter()
            .chain(self.bias.as_ref().and_then(Value::parameter))
            .chain(self.lora.iter().flat_map(|block| [&block.a, &block.b]))
    }

    fn low_rank(&self) -> CandleResult<Option<LowRank>> {
        let blocks: Vec<LoraBlock> = self
            .lora
            .iter()
            .filter(|block| block.is_active())
            .cloned()
            .collect();
        if blocks.is_empty() {
            return Ok(None);
        }
        let a: Vec<Tensor> = blocks.iter().map(|block| block.a.rounded()).collect();
        let b: Vec<Tensor> = blocks.iter().map(|block| block.b.rounded()).collect();
        Ok(Some(LowRank {
            blocks,
            a: Tensor::cat(&a, 0)?,
            b: Tensor::cat(&b, 1)?,
        }))
    }

    fn compute(&self, x: &Tensor, pass: &Pass) -> CandleResult<Tensor> {
        let batch = x.dim(0)?;
        let in_features = x.dim(D::Minus1)?;
        let rows = x.elem_count() / in_features;
        let input = x.detach().reshape((rows, in_features))?; // (rows, in)
        let weight = self.weight.tensor(x.dtype())?;
        let bias = match &self.bias {
            Some(bias) => Some(bias.unrounded(x.dtype())?),
            None => None,
        };
        let low_rank = self.low_rank()?;
        let mut mask = None;
        let mut inner = None; // x Aᵀ, (rows, r)
        if let Some(LowRank { a, .. }) = &low_rank {
            mask = pass.dropout_mask(self.dropout, &input)?;
            inner = Some(match &mask {
                Some(mask) => ops::project(&(&input * mask)?, a)?,
                None => ops::project(&input, a)?,
            });
        }
        let beside = low_rank.as_ref().zip(inner.as_ref());
        let output = self.product(&input, &weight, bias.as_ref(), beside)?; // (rows, out)
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = weight.dim(0)?;
        }
        let output = output.reshape(shape)?;
        let wanted = pass.wanted(self.parameters());
        let input_tracked = ops::is_tracked(x);
        if wanted.is_none() && !input_tracked {
            return Ok(output);
        }
        let backward = Backward {
            layer: self.clone(),
            batch,
            out_features: weight.dim(0)?,
            weight: match &self.weight {
                // The wide copy is made again when it is needed.
                Value::Stored(_) => None,
                Value::Frozen(_) | Value::Trained(_) => Some(weight),
            },
            input,
            low_rank,
            inner,
            mask,
            wanted: wanted.clone(),
            input_tracked,
            input_shape: x.dims().to_vec(),
        };
        let anchor = match &wanted {
            Some(wanted) => wanted.tape().anchor(x.device())?.as_tensor().clone(),
            None => x.detach(),
        };
        function2("linear", [x, &anchor], output, move |gradient| {
            Ok([backward.run(gradient)?, None])
        })
    }

    /// `x Wᵀ + b + scale · (x Aᵀ) Bᵀ`, where `beside` has `x Aᵀ`.
    fn product(
        &self,
        input: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        beside: Option<(&LowRank, &Tensor)>,
    ) -> CandleResult<Tensor> {
        if [Some(input), Some(weight), bias]
            .into_iter()
            .flatten()
            .all(ops::is_plain)
        {
            let expand = beside
                .map(|(LowRank { b, .. }, _)| b.t()?.contiguous())
                .transpose()?;
            let beside = beside.zip(expand.as_ref()).map(|((_, h), expand)| Beside {
                h,
                expand,
                scale: self.scale,
            });
            return ops::affine(input, weight, Way::Forward, bias, beside);
        }
        let mut output = matmul_rows(input, weight)?;
        if let Some((LowRank { b, .. }, inner)) = beside {
            output = (output + matmul_rows(inner, &(b * self.scale)?)?)?;
        }
        match bias {
            Some(bias) if bias.dtype() != output.dtype() => output
                .to_dtype(bias.dtype())?
                .broadcast_add(bias)?
                .to_dtype(output.dtype()),
            Some(bias) => output.broadcast_add(bias),
            None => Ok(output),
        }
    }
}

impl Module for Linear {
    /// The value alone, as in inference.
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        self.compute(x, &Pass::eval())
    }
}

/// What the backward pass needs.
struct Backward {
    layer: Linear,
    batch: usize,
    input: Tensor,
    out_features: usize,
    /// `None` where it is not kept in the number type of the computation.
    weight: Option<Tensor>,
    low_rank: Option<LowRank>,
    /// `x Aᵀ`, (rows, r), of the input as LoRA saw it.
    inner: Option<Tensor>,
    mask: Option<Tensor>,
    wanted: Option<Wanted>,
    input_tracked: bool,
    input_shape: Vec<usize>,
}

impl Backward {
    fn run(&self, gradient: &Tensor) -> CandleResult<Option<Tensor>> {
        let (rows, _) = self.input.dims2()?;
        let gradient = gradient.contiguous()?.reshape((rows, self.out_features))?; // (rows, out)
        // The gradient at `x Aᵀ` without the scale, (rows, r).
        let outer = match &self.low_rank {
            Some(LowRank { b, .. }) => Some(ops::project(&gradient, &b.t()?.contiguous()?)?),
            None => None,
        };
        match &self.wanted {
            Some(Wanted::Gradients(tape)) => self.gradients(&gradient, outer.as_ref(), tape)?,
            Some(Wanted::Tangents(tape, directions)) => {
                self.tangents(&gradient, outer.as_ref(), tape, directions)?;
            }
            None => {}
        }
        if !self.input_tracked {
            return Ok(None);
        }
        self.input_gradient(&gradient, outer.as_ref())?
            .reshape(self.input_shape.as_slice())
            .map(Some)
    }

    fn input_gradient(&self, gradient: &Tensor, outer: Option<&Tensor>) -> CandleResult<Tensor> {
        let weight = match &self.weight {
            Some(weight) => weight.clone(),
            None => self.layer.weight.tensor(gradient.dtype())?,
        };
        let beside = self.low_rank.as_ref().zip(outer);
        let scale = self.layer.scale;
        let plain = ops::is_plain(gradient) && ops::is_plain(&weight);
        let beside = match (beside, plain, &self.mask) {
            // What passes the mask is added behind the product.
            (Some((LowRank { a, .. }, outer)), _, Some(mask)) => {
                let through = ((outer.matmul(a)? * scale)? * mask)?;
                return ops::add(&through_weight(gradient, &weight, plain, None)?, &through);
            }
            (Some((LowRank { a, .. }, outer)), true, None) => Some(Beside {
                h: outer,
                expand: a,
                scale,
            }),
            (Some((LowRank { a, .. }, outer)), false, None) => {
                return gradient.matmul(&weight)? + (outer.matmul(a)? * scale)?;
            }
            (None, _, _) => None,
        };
        through_weight(gradient, &weight, plain, beside)
    }

    /// The input as LoRA saw it.
    fn dropped_input(&self) -> CandleResult<Tensor> {
        match &self.mask {
            Some(mask) => &self.input * mask,
            None => Ok(self.input.clone()),
        }
    }

    fn gradients(
        &self,
        gradient: &Tensor,
        outer: Option<&Tensor>,
        tape: &Tape,
    ) -> CandleResult<()> {
        let trainable = |parameter: &Arc<Parameter>| parameter.state() == State::Trainable;
        if let Some(weight) = self.layer.weight.parameter().filter(|p| trainable(p)) {
            tape.deliver(weight.index(), gradient.t()?.matmul(&self.input)?)?;
        }
        if let Some(bias) = self
            .layer
            .bias
            .as_ref()
            .and_then(Value::parameter)
            .filter(|p| trainable(p))
        {
            tape.deliver(bias.index(), row_sum(gradient)?)?;
        }
        let (Some(LowRank { blocks, .. }), Some(inner), Some(outer)) =
            (&self.low_rank, &self.inner, outer)
        else {
            return Ok(());
        };
        if !blocks
            .iter()
            .any(|block| trainable(&block.a) || trainable(&block.b))
        {
            return Ok(());
        }
        let scale = self.layer.scale;
        let down = (ops::gather(outer, &self.dropped_input()?)? * scale)?; // (r, in)
        let up = (ops::gather(inner, gradient)?.t()? * scale)?; // (out, r)
        let mut start = 0;
        for block in blocks {
            let rank = block.a.initial().dim(0)?;
            if trainable(&block.a) {
                tape.deliver(block.a.index(), down.narrow(0, start, rank)?)?;
            }
            if trainable(&block.b) {
                tape.deliver(block.b.index(), up.narrow(1, start, rank)?.contiguous()?)?;
            }
            start += rank;
        }
        Ok(())
    }

    /// For each parameter with a direction Δ, the derivative of every example's output along it: the
    /// gradient at the output times `x ΔWᵀ`, `Δb`, `(alpha / r) (x ΔAᵀ) Bᵀ` or `(alpha / r) (x Aᵀ) ΔBᵀ`.
    fn tangents(
        &self,
        gradient: &Tensor,
        outer: Option<&Tensor>,
        tape: &Tape,
        directions: &Directions,
    ) -> CandleResult<()> {
        if let Some(weight) = self.layer.weight.parameter()
            && let Some(direction) = directions.of(weight, gradient.dtype())?
        {
            let tangent = matmul_rows(&self.input, &direction)?;
            tape.deliver(
                weight.index(),
                per_example(&(tangent * gradient)?.sum_keepdim(1)?, self.batch)?.squeeze(1)?,
            )?;
        }
        if let Some(bias) = self.layer.bias.as_ref().and_then(Value::parameter)
            && let Some(direction) = directions.of(bias, gradient.dtype())?
        {
            let along = ops::project(gradient, &direction.unsqueeze(0)?)?; // (rows, 1)
            tape.deliver(bias.index(), per_example(&along, self.batch)?.squeeze(1)?)?;
        }
        let (Some(LowRank { blocks, .. }), Some(inner), Some(outer)) =
            (&self.low_rank, &self.inner, outer)
        else {
            return Ok(());
        };
        let along = |parameter: &Arc<Parameter>| match directions.of(parameter, gradient.dtype())? {
            Some(direction) => Ok(direction),
            None => parameter.rounded_initial().zeros_like(),
        };
        let delta_a = Tensor::cat(
            &blocks
                .iter()
                .map(|block| along(&block.a))
                .collect::<CandleResult<Vec<_>>>()?,
            0,
        )?;
        let delta_b = Tensor::cat(
            &blocks
                .iter()
                .map(|block| along(&block.b))
                .collect::<CandleResult<Vec<_>>>()?,
            1,
        )?;
        let scale = self.layer.scale;
        let down = (outer * ops::project(&self.input, &delta_a)?)?; // (rows, r)
        let up = (ops::project(gradient, &delta_b.t()?.contiguous()?)? * inner)?; // (rows, r)
        let down = (per_example(&down, self.batch)? * scale)?; // (batch, r)
        let up = (per_example(&up, self.batch)? * scale)?;
        let mut start = 0;
        for block in blocks {
            let rank = block.a.initial().dim(0)?;
            for (parameter, columns) in [(&block.a, &down), (&block.b, &up)] {
                if directions.get(parameter.index()).is_some() {
                    tape.deliver(parameter.index(), columns.narrow(1, start, rank)?.sum(1)?)?;
                }
            }
            start += rank;
        }
        Ok(())
    }
}

fn through_weight(
    gradient: &Tensor,
    weight: &Tensor,
    plain: bool,
    beside: Option<Beside<'_>>,
) -> CandleResult<Tensor> {
    if plain {
        ops::affine(gradient, weight, Way::Backward, None, beside)
    } else {
        gradient.matmul(weight)
    }
}

/// Sums the rows of each example: (batch · positions, n) to (batch, n).
pub(crate) fn per_example(rows: &Tensor, batch: usize) -> CandleResult<Tensor> {
    let (count, columns) = rows.dims2()?;
    if count == batch {
        return Ok(rows.clone());
    }
    rows.reshape((batch, count / batch, columns))?.sum(1)
}
