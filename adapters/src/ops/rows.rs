//! Loops over contiguous `f32` rows on the CPU. The order of every reduction is fixed by the row, so
//! results do not depend on the number of threads.

use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

use super::vector;

/// Below this many numbers a loop runs on one thread.
const PARALLEL_FROM: usize = 1 << 14;
/// Numbers of one task.
const CHUNK: usize = 4096;

/// Whether the fused loops can read this tensor.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == candle_core::DType::F32 && tensor.is_contiguous()
}

/// Calls `read` with the numbers of a tensor for which [`is_plain`] holds.
pub(crate) fn with_slice<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(numbers)), Some((start, end))) => read(&numbers[start..end]),
        _ => candle_core::bail!("expected a contiguous f32 tensor on the CPU"),
    }
}

/// A tensor of `input`'s shape whose numbers are `map(x)`.
pub(crate) fn map(input: &Tensor, map: impl Fn(f32) -> f32 + Sync + Send) -> Result<Tensor> {
    with_slice(input, |x| {
        let mut output = vec![0f32; x.len()];
        for_each_chunk(&mut output, |at, output| {
            let x = &x[at..][..output.len()];
            vector::run(|| {
                for (output, x) in output.iter_mut().zip(x) {
                    *output = map(*x);
                }
            });
        });
        Tensor::from_vec(output, input.shape(), &Device::Cpu)
    })
}

/// A tensor of `a`'s shape whose numbers are `map(a, b)`, element by element.
pub(crate) fn zip_map(
    a: &Tensor,
    b: &Tensor,
    map: impl Fn(f32, f32) -> f32 + Sync + Send,
) -> Result<Tensor> {
    same_size(a, b)?;
    with_slice(a, |left| {
        with_slice(b, |right| {
            let mut output = vec![0f32; left.len()];
            for_each_chunk(&mut output, |at, output| {
                let (left, right) = (&left[at..][..output.len()], &right[at..][..output.len()]);
                vector::run(|| {
                    for ((output, left), right) in output.iter_mut().zip(left).zip(right) {
                        *output = map(*left, *right);
                    }
                });
            });
            Tensor::from_vec(output, a.shape(), &Device::Cpu)
        })
    })
}

/// Two tensors of `a`'s shape whose numbers are `map(a, b, c)`, element by element.
pub(crate) fn zip_map3(
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    map: impl Fn(f32, f32, f32) -> [f32; 2] + Sync + Send,
) -> Result<[Tensor; 2]> {
    same_size(a, b)?;
    same_size(a, c)?;
    let mut first = vec![0f32; a.elem_count()];
    let mut second = vec![0f32; a.elem_count()];
    with_slice(a, |a| {
        with_slice(b, |b| {
            with_slice(c, |c| {
                let part = |at: usize, first: &mut [f32], second: &mut [f32]| {
                    let range = at..at + first.len();
                    let inputs = a[range.clone()]
                        .iter()
                        .zip(&b[range.clone()])
                        .zip(&c[range]);
                    vector::run(|| {
                        let outputs = first.iter_mut().zip(second);
                        for ((first, second), ((a, b), c)) in outputs.zip(inputs) {
                            [*first, *second] = map(*a, *b, *c);
                        }
                    });
                };
                if first.len() < PARALLEL_FROM {
                    part(0, &mut first, &mut second);
                } else {
                    first
                        .par_chunks_mut(CHUNK)
                        .zip(second.par_chunks_mut(CHUNK))
                        .enumerate()
                        .for_each(|(chunk, (first, second))| part(chunk * CHUNK, first, second));
                }
                Ok(())
            })
        })
    })?;
    Ok([
        Tensor::from_vec(first, a.shape(), &Device::Cpu)?,
        Tensor::from_vec(second, a.shape(), &Device::Cpu)?,
    ])
}

/// `a ← a + b`, both plain. Nobody else may hold the numbers of `a`.
pub(crate) fn add_assign(a: &Tensor, b: &Tensor) -> Result<()> {
    same_size(a, b)?;
    a.inplace_op2(b, &AddAssign)
}

fn same_size(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.elem_count() == b.elem_count() {
        return Ok(());
    }
    candle_core::bail!("the shapes {:?} and {:?} differ", a.dims(), b.dims())
}

struct AddAssign;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add-assign"
    }

    fn cpu_fwd(
        &self,
        a: &mut CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<()> {
        let ranges = (a_layout.contiguous_offsets(), b_layout.contiguous_offsets());
        match (a, b, ranges) {
            (CpuStorage::F32(a), CpuStorage::F32(b), (Some(to), Some(from))) => {
                let b = &b[from.0..from.1];
                for_each_chunk(&mut a[to.0..to.1], |at, a| {
                    let b = &b[at..][..a.len()];
                    vector::run(|| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
                });
                Ok(())
            }
            _ => candle_core::bail!("expected contiguous f32 tensors on the CPU"),
        }
    }
}

/// Runs `body(position, numbers)` over parts of `output`, in parallel when it is large.
pub(crate) fn for_each_chunk(output: &mut [f32], body: impl Fn(usize, &mut [f32]) + Sync) {
    if output.len() < PARALLEL_FROM {
        body(0, output);
    } else {
        output
            .par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(chunk, output)| body(chunk * CHUNK, output));
    }
}

/// Runs `body(row number, output row)` over the rows of `output`, in parallel when it is large.
pub(crate) fn for_each_row(
    output: &mut [f32],
    width: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    if output.len() < PARALLEL_FROM {
        for (row, output) in output.chunks_mut(width).enumerate() {
            body(row, output);
        }
    } else {
        output
            .par_chunks_mut(width)
            .enumerate()
            .with_min_len(PARALLEL_FROM.div_ceil(width).min(64))
            .for_each(|(row, output)| body(row, output));
    }
}
