//! Attention for `f32` on the CPU: heads are read where they lie, keys that a block of queries does not see are left
//! out, and the probabilities, the largest thing that attention makes, are computed again in the backward pass from
//! two numbers for each row.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::attention::Sizes;
use super::attention_mask::{Mask, MaskView};
use super::gemm::{Matrix, Target, Threads, gemm};
use super::{rows, vector};

/// Rows of a query that are taken at once, where they see all keys.
const BLOCK: usize = 128;
/// The same where they do not: with fewer rows more keys are left out.
const MASKED_BLOCK: usize = 64;

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
    mask: MaskView<'a>,
    block: usize,
    sizes: Sizes,
}

/// Some rows of one head's query, and the keys that they see.
struct Block {
    example: usize,
    head: usize,
    rows: Range<usize>,
    keys: Range<usize>,
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
                for start in (0..sizes.queries).step_by(view.block) {
                    let count = view.block.min(sizes.queries - start);
                    let (first, rest) = std::mem::take(&mut output).split_at_mut(count * width);
                    let (second, others) =
                        std::mem::take(&mut statistics).split_at_mut(count * sizes.heads);
                    tasks.push((example, start..start + count, first, second));
                    (output, statistics) = (rest, others);
                }
            }
            tasks
                .into_par_iter()
                .for_each(|(example, rows, output, statistics)| {
                    view.attend(example, rows, output, statistics);
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
                            block: match self.mask.is_dense() {
                                true => BLOCK,
                                false => MASKED_BLOCK,
                            },
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
                        let targets = [query, key, value];
                        view.differentiate(example, gradient, statistics, targets, threads);
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
    fn block(&self, example: usize, head: usize, rows: Range<usize>) -> Block {
        Block {
            example,
            head,
            keys: self.mask.span(example, head, rows.clone()),
            rows,
        }
    }

    /// Numbers from one token's query to the next, and from one token's key to the next.
    fn strides(&self) -> (usize, usize) {
        let s = &self.sizes;
        (s.heads * s.head_size, s.kv_heads * s.head_size)
    }

    /// Where a block's key and value start within those of their example.
    fn key_start(&self, block: &Block) -> usize {
        let s = &self.sizes;
        let key_head = block.head / (s.heads / s.kv_heads);
        (block.keys.start * s.kv_heads + key_head) * s.head_size
    }

    /// A block's part of numbers in the layout of the query.
    fn query_matrix<'b>(&self, numbers: &'b [f32], example: usize, block: &Block) -> Matrix<'b> {
        let s = &self.sizes;
        let row = example * s.queries + block.rows.start;
        let start = (row * s.heads + block.head) * s.head_size;
        let stride = self.strides().0;
        Matrix::strided(&numbers[start..], block.rows.len(), s.head_size, stride)
    }

    /// A block's part of the keys or values.
    fn key_matrix<'b>(&self, numbers: &'b [f32], block: &Block) -> Matrix<'b> {
        let s = &self.sizes;
        let stride = self.strides().1;
        let start = block.example * s.keys * stride + self.key_start(block);
        Matrix::strided(&numbers[start..], block.keys.len(), s.head_size, stride)
    }

    /// `Q Kᵀ` into `scores`, (rows, keys).
    fn scores(&self, block: &Block, scores: &mut [f32], threads: Threads) {
        let q = self.query_matrix(self.query, block.example, block);
        let k = self.key_matrix(self.key, block).t();
        let width = block.keys.len();
        gemm(scores, width, Target::Replace, 1.0, q, k, threads);
    }

    /// Which part of a row of the scores its query sees, and what is added there.
    #[inline(always)]
    fn seen(&self, block: &Block, row: usize) -> (Range<usize>, Option<&[f32]>) {
        let (keys, mask) = self
            .mask
            .row(block.example, block.head, block.rows.start + row);
        let first = block.keys.start;
        (keys.start - first..keys.end - first, mask)
    }

    /// `scale · score + mask` of one row, in place; the scaled score is bounded first where there is a cap, and its
    /// derivative by the score goes to `slopes`.
    #[inline(always)]
    fn shift(&self, scores: &mut [f32], mask: Option<&[f32]>, slopes: &mut [f32]) {
        let scale = self.sizes.scale as f32;
        match self.sizes.softcap {
            Some(cap) => {
                let (cap, inner) = (cap as f32, scale / cap as f32);
                for score in scores.iter_mut() {
                    *score = vector::tanh(*score * inner);
                }
                for (slope, score) in slopes.iter_mut().zip(scores.iter()) {
                    *slope = scale * (1.0 - score * score);
                }
                scores.iter_mut().for_each(|score| *score *= cap);
                for (score, mask) in scores.iter_mut().zip(mask.unwrap_or_default()) {
                    *score += mask;
                }
            }
            None => match mask {
                Some(mask) => {
                    for (score, mask) in scores.iter_mut().zip(mask) {
                        *score = *score * scale + mask;
                    }
                }
                None => scores.iter_mut().for_each(|score| *score *= scale),
            },
        }
    }

    /// Some rows of one example, all heads.
    fn attend(
        &self,
        example: usize,
        rows: Range<usize>,
        output: &mut [f32],
        statistics: &mut [[f32; 2]],
    ) {
        let s = &self.sizes;
        let mut buffer = vec![0f32; rows.len() * s.keys];
        for head in 0..s.heads {
            let block = self.block(example, head, rows.clone());
            let width = block.keys.len();
            let scores = &mut buffer[..rows.len() * width];
            self.scores(&block, scores, Threads::One);
            vector::run(|| {
                for (row, scores) in scores.chunks_mut(width).enumerate() {
                    let (seen, mask) = self.seen(&block, row);
                    scores[..seen.start].fill(0.0);
                    scores[seen.end..].fill(0.0);
                    let scores = &mut scores[seen];
                    self.shift(scores, mask, &mut []);
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
            gemm(
                &mut output[head * s.head_size..],
                self.strides().0,
                Target::Replace,
                1.0,
                Matrix::new(scores, rows.len(), width),
                self.key_matrix(self.value, &block),
                Threads::One,
            );
        }
    }

    /// One example, all heads. `gradient` and the first of `targets` have the layout of the query, the others that of
    /// the key.
    fn differentiate(
        &self,
        example: usize,
        gradient: &[f32],
        statistics: &[[f32; 2]],
        [d_query, d_key, d_value]: [&mut [f32]; 3],
        threads: Threads,
    ) {
        let s = &self.sizes;
        let (stride, kv_stride) = self.strides();
        let most = self.block.min(s.queries) * s.keys;
        let (mut probabilities, mut along) = (vec![0f32; most], vec![0f32; most]);
        let mut slopes = vec![0f32; if s.softcap.is_some() { s.keys } else { 0 }];
        for head in 0..s.heads {
            for start in (0..s.queries).step_by(self.block) {
                let rows = start..(start + self.block).min(s.queries);
                let count = rows.len();
                let block = self.block(example, head, rows);
                let width = block.keys.len();
                let p = &mut probabilities[..count * width];
                let along = &mut along[..count * width];
                self.scores(&block, p, threads);
                let d_output = self.query_matrix(gradient, 0, &block);
                let v = self.key_matrix(self.value, &block).t();
                gemm(along, width, Target::Replace, 1.0, d_output, v, threads);
                vector::run(|| {
                    let rows = p.chunks_mut(width).zip(along.chunks_mut(width));
                    for (row, (p, along)) in rows.enumerate() {
                        let statistics = statistics[(start + row) * s.heads + head];
                        self.through_softmax(&block, row, statistics, [p, along], &mut slopes);
                    }
                });
                let p = Matrix::new(p, count, width).t();
                let d_scores = Matrix::new(along, count, width);
                let q = self.query_matrix(self.query, example, &block);
                let k = self.key_matrix(self.key, &block);
                let query = &mut d_query[start * stride + head * s.head_size..];
                gemm(query, stride, Target::Replace, 1.0, d_scores, k, threads);
                // Blocks, and heads of a query, share keys.
                let (at, add) = (self.key_start(&block), Target::AddTo);
                gemm(
                    &mut d_value[at..],
                    kv_stride,
                    add,
                    1.0,
                    p,
                    d_output,
                    threads,
                );
                gemm(
                    &mut d_key[at..],
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

    /// Of one row: `p`, at first the products of query and keys, becomes the probabilities, and `along`, at first
    /// their gradient, that of the products.
    #[inline(always)]
    fn through_softmax(
        &self,
        block: &Block,
        row: usize,
        [largest, inverse]: [f32; 2],
        [p, along]: [&mut [f32]; 2],
        slopes: &mut [f32],
    ) {
        let (seen, mask) = self.seen(block, row);
        for numbers in [&mut *p, &mut *along] {
            numbers[..seen.start].fill(0.0);
            numbers[seen.end..].fill(0.0);
        }
        let (p, along) = (&mut p[seen.clone()], &mut along[seen]);
        self.shift(p, mask, slopes);
        for p in p.iter_mut() {
            *p = vector::exp(*p - largest) * inverse;
        }
        // The gradient through a softmax: P ⊙ (dP - Σ dP ⊙ P).
        let inner = vector::sum2(p, along, |p, a| p * a);
        if self.sizes.softcap.is_some() {
            for ((along, p), slope) in along.iter_mut().zip(p).zip(slopes) {
                *along = *slope * *p * (*along - inner);
            }
        } else {
            let scale = self.sizes.scale as f32;
            for (along, p) in along.iter_mut().zip(p) {
                *along = scale * *p * (*along - inner);
            }
        }
    }
}
