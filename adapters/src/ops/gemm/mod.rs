//! Products of dense `f32` matrices with any strides: the one place that calls a library.
//!
//! The default is the crate `gemm`, which candle uses too. Of the crates that were compared
//! (`docs/performance.md`) it was the fastest, with AVX-512 where the processor has it. A build with
//! `system-blas` leaves large products to a library of the system ([`blas`]).

pub(crate) mod blas;

use std::mem::MaybeUninit;
use std::time::Instant;

use gemm::Parallelism;
use rayon::prelude::*;

use self::blas::Blas;

/// A read-only matrix within a slice: entry (i, j) is `numbers[i · row_stride + j · column_stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    numbers: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one behind the other.
    pub(crate) const fn new(numbers: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(numbers, rows, columns, columns)
    }

    /// Rows of `columns` numbers, `row_stride` apart.
    pub(crate) const fn strided(
        numbers: &'a [f32],
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> Self {
        Self {
            numbers,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// The transpose, over the same numbers.
    pub(crate) const fn t(self) -> Self {
        Self {
            numbers: self.numbers,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Rows and columns.
    pub(crate) const fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The slice that holds it.
    #[cfg(test)]
    pub(crate) const fn numbers(&self) -> &'a [f32] {
        self.numbers
    }

    /// The entry (i, j).
    pub(crate) fn get(&self, i: usize, j: usize) -> f32 {
        self.numbers[i * self.row_stride + j * self.column_stride]
    }

    /// At most `count` rows, from row `start` on.
    fn rows_from(self, start: usize, count: usize) -> Self {
        Self {
            numbers: &self.numbers[start * self.row_stride..],
            rows: count.min(self.rows - start),
            ..self
        }
    }

    /// Whether rows or columns are runs of numbers, and how far apart these runs are.
    #[cfg(feature = "system-blas")]
    fn layout(&self) -> Option<(Layout, usize)> {
        if self.column_stride == 1 && (self.row_stride >= self.columns || self.rows == 1) {
            Some((Layout::Rows, self.row_stride.max(self.columns)))
        } else if self.row_stride == 1 && (self.column_stride >= self.rows || self.columns == 1) {
            Some((Layout::Columns, self.column_stride.max(self.rows)))
        } else {
            None
        }
    }

    fn fits(&self) -> bool {
        last(self.rows, self.columns, self.row_stride, self.column_stride) < self.numbers.len()
    }
}

/// Which entries of a matrix lie side by side.
#[cfg(feature = "system-blas")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Rows,
    Columns,
}

/// Position of the last entry.
const fn last(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    (rows - 1) * row_stride + (columns - 1) * column_stride
}

/// What becomes of the numbers that are in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Replace,
    AddTo,
}

/// How many threads work on one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling one, as within a parallel loop.
    One,
    /// Those of rayon's present pool.
    All,
}

/// `c ← factor · a b`, or `c ← c + factor · a b`; `c` has rows of `b.columns` numbers, `c_stride` apart.
///
/// # Panics
/// When the sizes of the matrices do not fit each other or their slices.
pub(crate) fn gemm(
    c: &mut [f32],
    c_stride: usize,
    target: Target,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    write_product(target_of(c), c_stride, target, factor, a, b, threads);
}

/// Numbers as the target of a product, which writes numbers only.
fn target_of(numbers: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    #[expect(unsafe_code, reason = "a slice as one of numbers that need not be set")]
    // SAFETY: the same numbers, borrowed for as long. Nothing here takes what is set back out of a target.
    unsafe {
        std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len())
    }
}

/// `a b`, in rows of `b.columns` numbers. Other than [`gemm`] into zeros it does not write them first.
///
/// # Panics
/// When the sizes of the matrices do not fit each other or their slices.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, threads: Threads) -> Vec<f32> {
    let len = a.rows * b.columns;
    let mut c = Vec::with_capacity(len);
    let room = &mut c.spare_capacity_mut()[..len];
    write_product(room, b.columns, Target::Replace, 1.0, a, b, threads);
    #[expect(unsafe_code, reason = "a product sets every number of its target")]
    // SAFETY: the target has no gaps between its rows, and with `Target::Replace` every entry of it is written.
    unsafe {
        c.set_len(len);
    }
    c
}

/// The same for a target of which [`Target::Replace`] need not find anything set; afterwards its rows are.
fn write_product(
    c: &mut [MaybeUninit<f32>],
    c_stride: usize,
    target: Target,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "the inner sizes of a product differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        c_stride >= n && last(m, n, c_stride, 1) < c.len(),
        "the target of a product is too small"
    );
    if k == 0 {
        if target == Target::Replace {
            c.chunks_mut(c_stride)
                .take(m)
                .for_each(|row| row[..n].fill(MaybeUninit::new(0.0)));
        }
        return;
    }
    assert!(a.fits() && b.fits(), "a factor of a product is too small");
    match blas::in_use() {
        Some(blas) if suits_a_library(m, n, k) => {
            by_library(blas, c, c_stride, target, factor, a, b, threads);
        }
        _ => by_crate(c, c_stride, target, factor, a, b, threads),
    }
}

/// Rows of the target that one call of a library computes: one block for each thread. A library packs the other
/// factor anew for every call, which at 512 rows costs 4 % and at 256 rows 7 % of a product of 2,048.
fn rows_of_a_block(rows: usize, threads: usize) -> usize {
    rows.div_ceil(threads.max(1)).next_multiple_of(64).max(256)
}

/// Whether a library may compute a product of this size. Its gain was measured on large products; small and narrow ones, where
/// the call itself and packing weigh more, stay with the crate.
const fn suits_a_library(m: usize, n: usize, k: usize) -> bool {
    const NARROW: usize = 32;
    m >= NARROW && n >= NARROW && k >= NARROW && m * n * k >= 128 * 128 * 128
}

#[expect(clippy::too_many_arguments, reason = "those of a product")]
fn by_library(
    blas: &Blas,
    c: &mut [MaybeUninit<f32>],
    c_stride: usize,
    target: Target,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    let pool = rayon::current_num_threads();
    if threads == Threads::One || pool == 1 || blas.has_threads_of_its_own() {
        if !blas.product(c, c_stride, target, factor, a, b) {
            by_crate(c, c_stride, target, factor, a, b, threads);
        }
        return;
    }
    let rows = rows_of_a_block(a.rows, pool);
    if rows >= a.rows {
        // One block would leave the other threads idle; the crate also divides columns.
        return by_crate(c, c_stride, target, factor, a, b, threads);
    }
    c.par_chunks_mut(rows * c_stride)
        .take(a.rows.div_ceil(rows))
        .enumerate()
        .for_each(|(number, c)| {
            let a = a.rows_from(number * rows, rows);
            if !blas.product(c, c_stride, target, factor, a, b) {
                by_crate(c, c_stride, target, factor, a, b, Threads::One);
            }
        });
}

fn by_crate(
    c: &mut [MaybeUninit<f32>],
    c_stride: usize,
    target: Target,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    threads: Threads,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let threads = match threads {
        Threads::One => 1,
        Threads::All => rayon::current_num_threads(),
    };
    let parallelism = if threads > 1 {
        Parallelism::Rayon(threads)
    } else {
        Parallelism::None
    };
    assert!(a.fits() && b.fits() && last(m, n, c_stride, 1) < c.len());
    #[expect(
        unsafe_code,
        reason = "the library takes pointers; the assertion keeps every access within its slice"
    )]
    // SAFETY: all strides are non-negative, and the last entry of each matrix lies within its slice, so
    // every entry does. `c` is borrowed exclusively, so it overlaps neither factor, and rows of `c` do not
    // overlap each other since `c_stride >= n`. `c` is read where it is added to, and all of it is set then.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr().cast::<f32>(),
            1,
            c_stride as isize,
            target == Target::AddTo,
            a.numbers.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.numbers.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Activations (rows, inner) by a weight (columns, inner), `times` over by a library or, without one, the
/// crate; the shortest time, in seconds.
pub(crate) fn time_of_product(
    blas: Option<&Blas>,
    (rows, inner, columns): (usize, usize, usize),
    times: usize,
) -> f64 {
    let (x, weight) = (vec![0.5f32; rows * inner], vec![0.25f32; inner * columns]);
    let mut c = vec![MaybeUninit::new(0f32); rows * columns];
    let a = Matrix::new(&x, rows, inner);
    let b = Matrix::new(&weight, columns, inner).t();
    let mut best = f64::INFINITY;
    for _ in 0..times {
        let start = Instant::now();
        let (target, threads) = (Target::Replace, Threads::All);
        match blas {
            Some(blas) => by_library(blas, &mut c, columns, target, 1.0, a, b, threads),
            None => by_crate(&mut c, columns, target, 1.0, a, b, threads),
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&c);
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 + seed) % 101) as f32 / 101.0 - 0.5)
            .collect()
    }

    #[test]
    fn a_product_of_strided_and_transposed_matrices_is_the_sum_of_products() {
        let (m, n, k) = (5, 7, 3);
        let (a, b) = (numbers(m * 11, 1), numbers(n * 4, 2));
        let mut c = numbers(m * 9, 3);
        let before = c.clone();
        gemm(
            &mut c,
            9,
            Target::AddTo,
            2.0,
            Matrix::strided(&a, m, k, 11),
            Matrix::strided(&b, n, k, 4).t(),
            Threads::One,
        );
        for i in 0..m {
            for j in 0..9 {
                let product: f32 = (0..k)
                    .map(|l| a[i * 11 + l] * b[j.min(n - 1) * 4 + l])
                    .sum();
                let expected = before[i * 9 + j] + if j < n { 2.0 * product } else { 0.0 };
                assert!((c[i * 9 + j] - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_product_in_a_new_place_is_that_in_an_old_one() {
        for (m, n, k) in [(300, 40, 50), (1, 3, 2), (4, 5, 0), (0, 5, 2), (5, 0, 2)] {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, n, k).t());
            let mut expected = vec![f32::NAN; m * n];
            let (target, threads) = (Target::Replace, Threads::All);
            gemm(&mut expected, n, target, 1.0, a, b, threads);
            assert_eq!(product(a, b, threads), expected);
            assert_eq!(expected.len(), m * n);
        }
    }

    #[test]
    fn a_product_does_not_depend_on_the_number_of_threads() {
        let (m, n, k) = (300, 200, 150);
        let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            let mut c = vec![0.0; m * n];
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, n, k).t());
            pool.install(|| gemm(&mut c, n, Target::Replace, 1.0, a, b, Threads::All));
            c
        };
        for (one, two) in run(1).iter().zip(run(2)) {
            assert!((one - two).abs() < 1e-5); // of f32 sums of 150 products
        }
    }
}
