//! Products of row-major activations with a matrix of few columns, as LoRA has them: the activations are
//! read once, at the speed of memory, where a general product would pack them first.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Matrix, Threads, product};

/// Rows of activations that a task takes.
const ROWS: usize = 64;
/// Columns of activations that a task takes in [`gather`].
const COLUMNS: usize = 256;
/// Rows that are held in registers at once.
const TILE: usize = 8;
/// Vectors of columns that are computed at once in [`add_expanded`].
const BLOCK: usize = 4;
/// Vectors of the thin matrix that are held in registers at once; a wider one is left to [`gemm`].
const MAX_VECTORS: usize = 3;

/// `x t`: (rows, n) by (n, r) to (rows, r).
pub(crate) fn project(x: &[f32], rows: usize, thin: Matrix<'_>) -> Vec<f32> {
    let (n, rank) = thin.size();
    if rank == 0 {
        return Vec::new();
    }
    let lanes = Arch::new().dispatch(Lanes);
    let vectors = rank.div_ceil(lanes);
    if vectors > MAX_VECTORS || n == 0 {
        return product(Matrix::new(x, rows, n), thin, Threads::All);
    }
    let mut output = vec![0f32; rows * rank];
    let width = vectors * lanes;
    let mut padded = vec![0f32; n * width];
    for j in 0..rank {
        for (k, row) in padded.chunks_mut(width).enumerate() {
            row[j] = thin.get(k, j);
        }
    }
    output
        .par_chunks_mut(ROWS * rank)
        .zip(x.par_chunks(ROWS * n))
        .for_each(|(output, x)| {
            let task = Project {
                x,
                n,
                padded: &padded,
                output,
                rank,
            };
            Arch::new().dispatch(task);
        });
    output
}

/// Number of `f32` in a vector.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

struct Project<'a> {
    x: &'a [f32],
    n: usize,
    padded: &'a [f32],
    output: &'a mut [f32],
    rank: usize,
}

impl WithSimd for Project<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.rank.div_ceil(S::F32_LANES) {
            1 => self.run::<S, 1>(simd),
            2 => self.run::<S, 2>(simd),
            _ => self.run::<S, 3>(simd),
        }
    }
}

impl Project<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let (thin, _) = S::as_simd_f32s(self.padded);
        let (thin, _) = thin.as_chunks::<V>();
        let mut outputs = self.output.chunks_mut(self.rank);
        for tile in self.x.chunks(TILE * self.n) {
            let mut sums = [[simd.splat_f32s(0.0); V]; TILE];
            if tile.len() == TILE * self.n {
                let rows: [&[f32]; TILE] = std::array::from_fn(|i| &tile[i * self.n..][..self.n]);
                accumulate(simd, rows, thin, &mut sums);
            } else {
                for (row, sums) in tile.chunks(self.n).zip(&mut sums) {
                    let mut one = [*sums];
                    accumulate(simd, [row], thin, &mut one);
                    *sums = one[0];
                }
            }
            for (sums, output) in sums.iter().zip(outputs.by_ref().take(TILE)) {
                for (sum, output) in sums.iter().zip(output.chunks_mut(S::F32_LANES)) {
                    simd.partial_store_f32s(output, *sum);
                }
            }
        }
    }
}

#[inline(always)]
fn accumulate<S: Simd, const M: usize, const V: usize>(
    simd: S,
    rows: [&[f32]; M],
    thin: &[[S::f32s; V]],
    sums: &mut [[S::f32s; V]; M],
) {
    const STEP: usize = 16;
    let (chunks, rest) = thin.as_chunks::<STEP>();
    // Arrays, of which no index needs to be checked in the loop.
    let parts: [&[[f32; STEP]]; M] = rows.map(|row| row.as_chunks::<STEP>().0);
    let mut local = *sums;
    for (c, thin) in chunks.iter().enumerate() {
        let x: [&[f32; STEP]; M] = parts.map(|part| &part[c]);
        for k in 0..STEP {
            for i in 0..M {
                let x = simd.splat_f32s(x[i][k]);
                for j in 0..V {
                    local[i][j] = simd.mul_add_f32s(x, thin[k][j], local[i][j]);
                }
            }
        }
    }
    let start = chunks.len() * STEP;
    for (k, thin) in rest.iter().enumerate() {
        for i in 0..M {
            let x = simd.splat_f32s(rows[i][start + k]);
            for j in 0..V {
                local[i][j] = simd.mul_add_f32s(x, thin[j], local[i][j]);
            }
        }
    }
    *sums = local;
}

/// Adds `bias + factor · h t` to `output`, (rows, n), where `h` is (rows, r) and `t` (r, n).
pub(crate) fn add_expanded(
    output: &mut [f32],
    h: &[f32],
    thin: &[f32],
    n: usize,
    factor: f32,
    bias: Option<&[f32]>,
) {
    if n == 0 {
        return;
    }
    let rank = thin.len() / n;
    // Block by block of columns, the rows of each behind one another, the last one filled up with zeros.
    let width = BLOCK * Arch::new().dispatch(Lanes);
    let mut blocks = vec![0f32; n.div_ceil(width) * rank * width];
    for (r, row) in thin.chunks(n).enumerate() {
        for (block, row) in row.chunks(width).enumerate() {
            let block = &mut blocks[(block * rank + r) * width..][..row.len()];
            block.iter_mut().zip(row).for_each(|(x, t)| *x = t * factor);
        }
    }
    output
        .par_chunks_mut(ROWS * n)
        .enumerate()
        .for_each(|(task, output)| {
            let task = Expand {
                output,
                h: &h[task * ROWS * rank..],
                blocks: &blocks,
                n,
                rank,
                bias,
            };
            Arch::new().dispatch(task);
        });
}

struct Expand<'a> {
    output: &'a mut [f32],
    h: &'a [f32],
    blocks: &'a [f32],
    n: usize,
    rank: usize,
    bias: Option<&'a [f32]>,
}

impl WithSimd for Expand<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            output,
            h,
            blocks,
            n,
            rank,
            bias,
        } = self;
        let width = BLOCK * S::F32_LANES;
        let (blocks, _) = S::as_simd_f32s(blocks);
        let (blocks, _) = blocks.as_chunks::<BLOCK>();
        for (i, row) in output.chunks_mut(n).enumerate() {
            let h = &h[i * rank..][..rank];
            for (number, output) in row.chunks_mut(width).enumerate() {
                let mut sums = load::<S>(simd, output);
                if let Some(bias) = bias {
                    let bias = load::<S>(simd, &bias[number * width..][..output.len()]);
                    for (sum, bias) in sums.iter_mut().zip(bias) {
                        *sum = simd.add_f32s(*sum, bias);
                    }
                }
                for (h, thin) in h.iter().zip(&blocks[number * rank..][..rank]) {
                    let h = simd.splat_f32s(*h);
                    for j in 0..BLOCK {
                        sums[j] = simd.mul_add_f32s(h, thin[j], sums[j]);
                    }
                }
                for (output, sum) in output.chunks_mut(S::F32_LANES).zip(sums) {
                    simd.partial_store_f32s(output, sum);
                }
            }
        }
    }
}

/// The vectors of a block; zeros where `numbers` end before.
#[inline(always)]
fn load<S: Simd>(simd: S, numbers: &[f32]) -> [S::f32s; BLOCK] {
    let (whole, _) = S::as_simd_f32s(numbers);
    if let Ok(vectors) = <&[S::f32s; BLOCK]>::try_from(whole) {
        return *vectors;
    }
    let mut parts = numbers.chunks(S::F32_LANES);
    std::array::from_fn(|_| simd.partial_load_f32s(parts.next().unwrap_or_default()))
}

/// `uᵀ x`: (rows, r) and (rows, n) to (r, n).
pub(crate) fn gather(u: &[f32], x: &[f32], rank: usize, n: usize) -> Vec<f32> {
    if rank == 0 || n == 0 {
        return Vec::new();
    }
    let rows = u.len() / rank;
    if rank > 32 {
        let u = Matrix::new(u, rows, rank).t();
        return product(u, Matrix::new(x, rows, n), Threads::All);
    }
    let strips: Vec<Vec<f32>> = (0..n.div_ceil(COLUMNS))
        .into_par_iter()
        .map(|strip| {
            let start = strip * COLUMNS;
            let width = COLUMNS.min(n - start);
            let mut sums = vec![0f32; rank * width];
            let task = Gather {
                u,
                x,
                rank,
                n,
                start,
                width,
                sums: &mut sums,
            };
            Arch::new().dispatch(task);
            sums
        })
        .collect();
    let mut output = Vec::with_capacity(rank * n);
    for row in 0..rank {
        for strip in &strips {
            let width = strip.len() / rank;
            output.extend_from_slice(&strip[row * width..][..width]);
        }
    }
    output
}

struct Gather<'a> {
    u: &'a [f32],
    x: &'a [f32],
    rank: usize,
    n: usize,
    start: usize,
    width: usize,
    sums: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            u,
            x,
            rank,
            n,
            start,
            width,
            sums,
        } = self;
        let whole = width - width % S::F32_LANES;
        for (u, x) in u.chunks(TILE * rank).zip(x.chunks(TILE * n)) {
            let rows = u.len() / rank;
            if rows == TILE {
                for at in (0..whole).step_by(S::F32_LANES) {
                    let x: [S::f32s; TILE] = std::array::from_fn(|q| {
                        let x = &x[q * n + start + at..][..S::F32_LANES];
                        S::as_simd_f32s(x).0[0]
                    });
                    for r in 0..rank {
                        let sum = &mut sums[r * width + at..][..S::F32_LANES];
                        let sum = &mut S::as_mut_simd_f32s(sum).0[0];
                        let mut local = *sum;
                        for q in 0..TILE {
                            let u = simd.splat_f32s(u[q * rank + r]);
                            local = simd.mul_add_f32s(u, x[q], local);
                        }
                        *sum = local;
                    }
                }
            }
            // What does not fill a vector or a tile.
            let from = if rows == TILE { whole } else { 0 };
            for q in 0..rows {
                for r in 0..rank {
                    let u = u[q * rank + r];
                    let x = &x[q * n + start..][..width];
                    let sums = &mut sums[r * width..][..width];
                    for (sum, x) in sums[from..].iter_mut().zip(&x[from..]) {
                        *sum += u * x;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gemm::{Target, gemm};
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 + seed * 31) % 101) as f32 / 101.0 - 0.5)
            .collect()
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
    }

    /// Sizes that fill vectors, tiles and strips, and such that do not.
    const SIZES: [(usize, usize, usize); 6] = [
        (8, 16, 1),
        (70, 33, 8),
        (129, 300, 9),
        (5, 7, 17),
        (64, 512, 40),
        (3, 20, 100),
    ];

    #[test]
    fn thin_products_equal_general_ones() {
        for (rows, n, rank) in SIZES {
            let x = numbers(rows * n, 1);
            let thin = numbers(n * rank, 2);
            let mut expected = vec![0.0; rows * rank];
            let (a, b) = (Matrix::new(&x, rows, n), Matrix::new(&thin, n, rank));
            gemm(
                &mut expected,
                rank,
                Target::Replace,
                1.0,
                a,
                b,
                Threads::One,
            );
            assert!(
                close(&project(&x, rows, b), &expected),
                "project {rows} {n} {rank}"
            );

            let h = numbers(rows * rank, 3);
            let bias = numbers(n, 4);
            let thin = Matrix::new(&thin, rank, n);
            let mut expected: Vec<f32> = bias
                .iter()
                .map(|b| 9.0 + b)
                .cycle()
                .take(rows * n)
                .collect();
            let h_matrix = Matrix::new(&h, rows, rank);
            gemm(
                &mut expected,
                n,
                Target::AddTo,
                0.5,
                h_matrix,
                thin,
                Threads::One,
            );
            let mut output = vec![9.0; rows * n];
            add_expanded(&mut output, &h, thin.numbers(), n, 0.5, Some(&bias));
            assert!(close(&output, &expected), "expand {rows} {n} {rank}");

            let mut expected = vec![0.0; rank * n];
            gemm(
                &mut expected,
                n,
                Target::Replace,
                1.0,
                h_matrix.t(),
                a,
                Threads::One,
            );
            assert!(
                close(&gather(&h, &x, rank, n), &expected),
                "gather {rows} {n} {rank}"
            );
        }
    }
}
