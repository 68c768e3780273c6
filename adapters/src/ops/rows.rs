//! Loops over contiguous `f32` rows on the CPU. The order of every reduction is fixed by the row, so
//! results do not depend on the number of threads.

use candle_core::{CpuStorage, Device, Result, Storage, Tensor};
use rayon::prelude::*;

/// Below this many numbers a loop runs on one thread.
const PARALLEL_FROM: usize = 1 << 14;

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

/// A tensor of `like`'s shape whose numbers are `map(x)` of another's.
pub(crate) fn map(input: &Tensor, map: impl Fn(f32) -> f32 + Sync + Send) -> Result<Tensor> {
    with_slice(input, |x| {
        let mut output = vec![0f32; x.len()];
        let body = |(output, x): (&mut [f32], &[f32])| {
            for (output, x) in output.iter_mut().zip(x) {
                *output = map(*x);
            }
        };
        chunked(&mut output, x, body);
        Tensor::from_vec(output, input.shape(), &Device::Cpu)
    })
}

/// A tensor of `a`'s shape whose numbers are `map(a, b)`, element by element.
pub(crate) fn zip_map(
    a: &Tensor,
    b: &Tensor,
    map: impl Fn(f32, f32) -> f32 + Sync + Send,
) -> Result<Tensor> {
    with_slice(a, |left| {
        with_slice(b, |right| {
            let mut output = left.to_vec();
            let body = |(output, right): (&mut [f32], &[f32])| {
                for (output, right) in output.iter_mut().zip(right) {
                    *output = map(*output, *right);
                }
            };
            chunked(&mut output, right, body);
            Tensor::from_vec(output, a.shape(), &Device::Cpu)
        })
    })
}

fn chunked(output: &mut [f32], input: &[f32], body: impl Fn((&mut [f32], &[f32])) + Sync + Send) {
    const CHUNK: usize = 4096;
    if output.len() < PARALLEL_FROM {
        body((output, input));
    } else {
        output
            .par_chunks_mut(CHUNK)
            .zip(input.par_chunks(CHUNK))
            .for_each(body);
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
