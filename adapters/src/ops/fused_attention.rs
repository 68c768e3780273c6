//! Attention for `f32` on the CPU: heads are read where they lie, and the probabilities, the largest
//! thing that attention makes, are computed again in the backward pass from two numbers for each row.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::attention::Sizes;
use super::gemm::{Matrix, Target, Threads, gemm};
use super::{rows, vector};

/// Rows of a query that one task of the forward pass takes.
const BLOCK: usize = 128;

/// What is added to the scores, with the strides of batch, head and query.
#[derive(Debug)]
pub(super) struct Mask {
    numbers: Option<Tensor>,
    strides: [usize; 3],
}

impl Mask {
    /// `None` when its layout is one that only candle's operators know.
    pub(super) fn new(mask: Option<&Tensor>, sizes: Sizes) -> Result<Option<Self>> {
        let Some(mask) = mask else {
            return Ok(Some(Self {
                numbers: None,
                strides: [0; 3],
            }));
        };
        let mask = mask.detach().contiguous()?;
        if !rows::is_plain(&mask) || mask.dims().len() > 4 {
            return Ok(None);
        }
        let mut dims = [1; 4];
        let missing = 4 - mask.dims().len();
        for (to, from) in dims.iter_mut().skip(missing).zip(mask.dims()) {
            *to = *from;
        }
        let full = [sizes.batch, sizes.heads, sizes.queries, sizes.keys];
        let fits = dims
            .iter()
            .zip(full)
            .all(|(dim, full)| *dim == 1 || *dim == full);
        if !fits {
            candle_core::bail!("a mask of shape {:?} does not fit {full:?}", mask.dims());
        }
        if dims[3] != sizes.keys {
            return Ok(None);
        }
        let steps = [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3]];
        let strides = std::array::from_fn(|i| if dims[i] == 1 { 0 } else { steps[i] });
        Ok(Some(Self {
            numbers: Some(mask),
            strides,
        }))
    }

    fn with<T>(&self, read: impl FnOnce(Option<&[f32]>) -> Result<T>) -> Result<T> {
        match &self.numbers {
            Some(tensor) => rows::with_slice(tensor, |numbers| read(Some(numbers))),
            None => read(None),
        }
    }
}

/// What the backward pass needs.
pub(super) struct Saved {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask,
    /// The largest score of each row and one over the sum of the exponentials, (batch, queries, heads, 2).
    statistics: Vec<[f32; 2]>,
    sizes: Sizes,
}

/// The slices of one call.
#[derive(Clone, Copy)]
struct View<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    mask: Option<&'a [f32]>,
    mask_strides: [usize; 3],
    sizes: Sizes,
}

impl Saved {
    pub(super) fn forward(
        [query, key, value]: [Tensor; 3],
        mask: Mask,
        sizes: Sizes,
    ) -> Result<(Tensor, Self)> {
        let width = sizes.heads * sizes.head_size;
        let mut output = vec![0f32; sizes.batch * sizes.queries * width];
        let mut statistics = vec![[0f32; 2]; sizes.batch * sizes.queries * sizes.heads];
        let mut saved = Self {
            query,
            key,
            value,
            mask,
            statistics: Vec::new(),
            sizes,
        };
        saved.with_view(|view| {
            let mut tasks = Vec::new();
            let (mut output, mut statistics) = (&mut *output, &mut *statistics);
            for example in 0..sizes.batch {
                for start in (0..sizes.queries).step_by(BLOCK) {
                    let count = BLOCK.min(sizes.queries - start);
                    let (first, rest) = std::mem::take(&mut output).split_at_mut(count * width);
                    let (second, others) =
                        std::mem::take(&mut statistics).split_at_mut(count * sizes.heads);
                    tasks.push((example, start, first, second));
                    (output, statistics) = (rest, others);
                }
            }
            tasks
                .into_par_iter()
                .for_each(|(example, start, output, statistics)| {
                    view.attend(example, start, output, statistics);
                });
            Ok(())
        })?;
        saved.statistics = statistics;
        let output = Tensor::from_vec(output, saved.query.shape(), &Device::Cpu)?;
        Ok((output, saved))
    }

    fn with_view<T>(&self, read: impl FnOnce(View<'_>) -> Result<T>) -> Result<T> {
        rows::with_slice(&self.query, |query| {
            rows::with_slice(&self.key, |key| {
                rows::with_slice(&self.value, |value| {
                    self.mask.with(|mask| {
                        read(View {
                            query,
                            key,
                            value,
                            mask,
                            mask_strides: self.mask.strides,
                            sizes: self.sizes,
                        })
                    })
                })
            })
        })
    }

    /// Gradients of query, key and value from that of the output, which is contiguous.
    pub(super) fn backward(&self, gradient: &Tensor) -> Result<[Tensor; 3]> {
        let sizes = self.sizes;
        let mut query = vec![0f32; self.query.elem_count()];
        let mut key = vec![0f32; self.key.elem_count()];
        let mut value = vec![0f32; self.value.elem_count()];
        let [of_query, of_key] = [query.len(), key.len()].map(|count| count / sizes.batch);
        // One example cannot be shared among threads: then each product is.
        let threads = if sizes.batch == 1 {
            Threads::All
        } else {
            Threads::One
        };
        rows::with_slice(gradient, |gradient| {
            self.with_view(|view| {
                query
                    .par_chunks_mut(of_query)
                    .zip(key.par_chunks_mut(of_key))
                    .zip(value.par_chunks_mut(of_key))
                    .enumerate()
                    .for_each(|(example, ((query, key), value))| {
                        let gradient = &gradient[example * of_query..][..of_query];
                        let rows = sizes.queries * sizes.heads;
                        let statistics = &self.statistics[example * rows..][..rows];
                        view.differentiate(
                            example,
                            gradient,
                            statistics,
                            [query, key, value],
                            threads,
                        );
                    });
                Ok(())
            })
        })?;
        Ok([
            Tensor::from_vec(query, self.query.shape(), &Device::Cpu)?,
            Tensor::from_vec(key, self.key.shape(), &Device::Cpu)?,
            Tensor::from_vec(value, self.value.shape(), &Device::Cpu)?,
        ])
    }
}

impl View<'_> {
    /// Positions of the first number of query, and of key and value, of one head.
    fn starts(&self, example: usize, row: usize, head: usize) -> (usize, usize) {
        let s = &self.sizes;
        let query = ((example * s.queries + row) * s.heads + head) * s.head_size;
        let key_head = head / (s.heads / s.kv_heads);
        let key = (example * s.keys * s.kv_heads + key_head) * s.head_size;
        (query, key)
    }

    /// `Q Kᵀ` of `count` rows from `start` on, into `scores` (count, keys).
    fn scores(
        &self,
        (example, start, count, head): (usize, usize, usize, usize),
        scores: &mut [f32],
        threads: Threads,
    ) {
        let s = &self.sizes;
        let (query, key) = self.starts(example, start, head);
        let q = Matrix::strided(
            &self.query[query..],
            count,
            s.head_size,
            s.heads * s.head_size,
        );
        let k = self.key_matrix(self.key, key);
        gemm(scores, s.keys, Target::Replace, 1.0, q, k.t(), threads);
    }

    fn key_matrix<'b>(&self, numbers: &'b [f32], start: usize) -> Matrix<'b> {
        let s = &self.sizes;
        let stride = s.kv_heads * s.head_size;
        Matrix::strided(&numbers[start..], s.keys, s.head_size, stride)
    }

    fn mask_row(&self, example: usize, head: usize, row: usize) -> Option<&[f32]> {
        let [batch, heads, queries] = self.mask_strides;
        let at = example * batch + head * heads + row * queries;
        self.mask.map(|mask| &mask[at..][..self.sizes.keys])
    }

    /// `scale · score + mask` of one row, in place.
    #[inline(always)]
    fn shift(&self, scores: &mut [f32], mask: Option<&[f32]>) {
        let scale = self.sizes.scale as f32;
        match mask {
            Some(mask) => {
                for (score, mask) in scores.iter_mut().zip(mask) {
                    *score = *score * scale + mask;
                }
            }
            None => scores.iter_mut().for_each(|score| *score *= scale),
        }
    }

    /// One block of rows of one example, all heads.
    fn attend(
        &self,
        example: usize,
        start: usize,
        output: &mut [f32],
        statistics: &mut [[f32; 2]],
    ) {
        let s = &self.sizes;
        let count = statistics.len() / s.heads;
        let mut scores = vec![0f32; count * s.keys];
        for head in 0..s.heads {
            self.scores((example, start, count, head), &mut scores, Threads::One);
            vector::run(|| {
                for (row, scores) in scores.chunks_mut(s.keys).enumerate() {
                    self.shift(scores, self.mask_row(example, head, start + row));
                    let largest = vector::max(scores);
                    for score in scores.iter_mut() {
                        *score = vector::exp(*score - largest);
                    }
                    let inverse = 1.0 / vector::sum(scores, |x| x);
                    for score in scores.iter_mut() {
                        *score *= inverse;
                    }
                    statistics[row * s.heads + head] = [largest, inverse];
                }
            });
            let (_, value) = self.starts(example, start, head);
            gemm(
                &mut output[head * s.head_size..],
                s.heads * s.head_size,
                Target::Replace,
                1.0,
                Matrix::new(&scores, count, s.keys),
                self.key_matrix(self.value, value),
                Threads::One,
            );
        }
    }

    /// One example, all heads. `gradient`, the first and the last two of `outputs` have the layout of the
    /// query and of the key.
    fn differentiate(
        &self,
        example: usize,
        gradient: &[f32],
        statistics: &[[f32; 2]],
        [d_query, d_key, d_value]: [&mut [f32]; 3],
        threads: Threads,
    ) {
        let s = &self.sizes;
        let (stride, kv_stride) = (s.heads * s.head_size, s.kv_heads * s.head_size);
        let mut probabilities = vec![0f32; s.queries * s.keys];
        let mut along = vec![0f32; s.queries * s.keys];
        for head in 0..s.heads {
            let (query, key) = self.starts(example, 0, head);
            let at = head * s.head_size;
            let key_at = head / (s.heads / s.kv_heads) * s.head_size;
            self.scores((example, 0, s.queries, head), &mut probabilities, threads);
            let d_output = Matrix::strided(&gradient[at..], s.queries, s.head_size, stride);
            let value = self.key_matrix(self.value, key);
            gemm(
                &mut along,
                s.keys,
                Target::Replace,
                1.0,
                d_output,
                value.t(),
                threads,
            );
            vector::run(|| {
                let scale = s.scale as f32;
                for (row, (p, along)) in probabilities
                    .chunks_mut(s.keys)
                    .zip(along.chunks_mut(s.keys))
                    .enumerate()
                {
                    self.shift(p, self.mask_row(example, head, row));
                    let [largest, inverse] = statistics[row * s.heads + head];
                    for p in p.iter_mut() {
                        *p = vector::exp(*p - largest) * inverse;
                    }
                    // The gradient through a softmax: P ⊙ (dP - Σ dP ⊙ P).
                    let inner = vector::sum2(p, along, |p, a| p * a);
                    for (along, p) in along.iter_mut().zip(p) {
                        *along = scale * *p * (*along - inner);
                    }
                }
            });
            let p = Matrix::new(&probabilities, s.queries, s.keys);
            let d_scores = Matrix::new(&along, s.queries, s.keys);
            let q = Matrix::strided(&self.query[query..], s.queries, s.head_size, stride);
            let k = self.key_matrix(self.key, key);
            let add = Target::AddTo; // heads of a query may share a key
            gemm(
                &mut d_value[key_at..],
                kv_stride,
                add,
                1.0,
                p.t(),
                d_output,
                threads,
            );
            gemm(&mut d_query[at..], stride, add, 1.0, d_scores, k, threads);
            gemm(
                &mut d_key[key_at..],
                kv_stride,
                add,
                1.0,
                d_scores.t(),
                q,
                threads,
            );
        }
    }
}
