//! A differentiable operation from a value and its vector-Jacobian product, in the manner of
//! PyTorch's `autograd.Function`.
//!
//! The value is computed by any code, also by candle's fast paths that have no backward of their
//! own; the closure maps the gradient of the output to the gradients of the inputs. Both run on
//! whatever device the tensors are on.

use std::sync::Mutex;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, MetalStorage, Result, Shape,
    Storage, Tensor,
};

use super::scope;

type Vjp<const N: usize> = Box<dyn Fn(&Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync>;

struct Function<const N: usize> {
    name: &'static str,
    /// Taken by the forward pass, which runs exactly once.
    value: Mutex<Option<Tensor>>,
    vjp: Vjp<N>,
}

impl<const N: usize> Function<N> {
    fn new(
        name: &'static str,
        value: Tensor,
        vjp: impl Fn(&Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            value: Mutex::new(Some(value)),
            vjp: Box::new(vjp),
        }
    }

    fn take(&self) -> Result<Tensor> {
        let mut guard = match self.value.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        };
        match guard.take() {
            Some(value) => Ok(value),
            None => candle_core::bail!("operation `{}` ran forward twice", self.name),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cpu(CpuStorage::F32(numbers))
                if let Some((start, end)) = layout.contiguous_offsets() =>
            {
                // One pass instead of zeros and a copy.
                Ok((
                    CpuStorage::F32(numbers[start..end].to_vec()),
                    layout.shape().clone(),
                ))
            }
            Storage::Cpu(storage) => copy(storage, layout),
            _ => candle_core::bail!("operation `{}`: the value is not on the CPU", self.name),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => copy(storage, layout),
            _ => candle_core::bail!("operation `{}`: the value is not on the GPU", self.name),
        }
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Metal(storage) => copy(storage, layout),
            _ => candle_core::bail!("operation `{}`: the value is not on the GPU", self.name),
        }
    }
}

fn copy<S>(storage: &S, layout: &Layout) -> Result<(S, Shape)>
where
    S: BackendStorage,
    S::Device: BackendDevice<Storage = S>,
{
    let shape = layout.shape().clone();
    let mut target = storage.device().zeros_impl(&shape, storage.dtype())?;
    storage.copy_strided_src(&mut target, 0, layout)?;
    Ok((target, shape))
}

impl CustomOp1 for Function<1> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [first] = (self.vjp)(gradient)?;
        Ok(first)
    }
}

impl CustomOp2 for Function<2> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [first, second] = (self.vjp)(gradient)?;
        Ok((first, second))
    }
}

impl CustomOp3 for Function<3> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [first, second, third] = (self.vjp)(gradient)?;
        Ok((first, second, third))
    }
}

/// An operation on one input. `vjp(gradient)` returns the input's gradient.
pub(crate) fn function1(
    name: &'static str,
    input: &Tensor,
    value: Tensor,
    vjp: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let vjp = move |gradient: &Tensor| Ok([Some(vjp(gradient)?)]);
    match record([input], value, vjp) {
        Recorded::Done(value) => Ok(value),
        Recorded::Graph(value, vjp) => input.apply_op1(Function::new(name, value, vjp)),
    }
}

/// An operation on two inputs; `vjp` must return a gradient for each input that is tracked.
pub(crate) fn function2(
    name: &'static str,
    inputs: [&Tensor; 2],
    value: Tensor,
    vjp: impl Fn(&Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync + 'static,
) -> Result<Tensor> {
    let [first, second] = inputs;
    match record(inputs, value, vjp) {
        Recorded::Done(value) => Ok(value),
        Recorded::Graph(value, vjp) => first.apply_op2(second, Function::new(name, value, vjp)),
    }
}

/// An operation on three inputs; `vjp` must return a gradient for each input that is tracked.
pub(crate) fn function3(
    name: &'static str,
    inputs: [&Tensor; 3],
    value: Tensor,
    vjp: impl Fn(&Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    let [first, second, third] = inputs;
    match record(inputs, value, vjp) {
        Recorded::Done(value) => Ok(value),
        Recorded::Graph(value, vjp) => {
            first.apply_op3(second, third, Function::new(name, value, vjp))
        }
    }
}

enum Recorded<F> {
    /// Nothing is tracked, or the scope that is open has noted it.
    Done(Tensor),
    /// It belongs into candle's graph.
    Graph(Tensor, F),
}

fn record<const N: usize, F>(inputs: [&Tensor; N], value: Tensor, vjp: F) -> Recorded<F>
where
    F: Fn(&Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync + 'static,
{
    if !inputs.iter().any(|input| scope::is_tracked(input)) {
        return Recorded::Done(value);
    }
    if !scope::is_open() {
        return Recorded::Graph(value, vjp);
    }
    let vjp = move |gradient: &Tensor| vjp(gradient).map(|gradients| gradients.into());
    scope::note(&inputs, &value, Box::new(vjp));
    Recorded::Done(value)
}
