//! Arithmetic on slices, compiled for the widest vectors of the processor that it runs on.
//!
//! Sums run in [`LANES`] parts whatever the width of the processor's vectors, so that the order of
//! additions, and with it the result, is the same everywhere.

use pulp::Arch;

/// Parts of a sum.
const LANES: usize = 16;

/// Runs a loop with the widest vectors. What it calls must be inlined.
#[inline(always)]
pub(super) fn run<R>(work: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(work)
}

/// `e^x` to within two units in the last place, 0 below `-87.3`. Cody and Waite's reduction to
/// `2ⁿ eʳ`, `|r| ≤ ln 2 / 2`, and the polynomial of Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer in the low bits
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    let value = (p * r * r + r + 1.0) * power;
    if x < -87.3 { 0.0 } else { value }
}

/// `tanh x` to within 1e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// `Σ term(i)` over `0..count`, the terms given in runs of [`LANES`].
#[inline(always)]
fn sum_of(chunks: impl Iterator<Item = [f32; LANES]>, rest: impl Iterator<Item = f32>) -> f32 {
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for (sum, term) in sums.iter_mut().zip(chunk) {
            *sum += term;
        }
    }
    for (sum, term) in sums.iter_mut().zip(rest) {
        *sum += term;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for at in 0..width {
            sums[at] += sums[at + width];
        }
    }
    sums[0]
}

/// `Σ f(x)`.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    sum_of(chunks.iter().map(|x| x.map(&f)), rest.iter().map(|x| f(*x)))
}

/// `Σ f(x, y)` over two slices of one length.
#[inline(always)]
pub(super) fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    sum_of(
        x.iter()
            .zip(y)
            .map(|(x, y)| std::array::from_fn(|i| f(x[i], y[i]))),
        x_rest.iter().zip(y_rest).map(|(x, y)| f(*x, *y)),
    )
}

/// `Σ f(x, y, z)` over three slices of one length.
#[inline(always)]
pub(super) fn sum3(x: &[f32], y: &[f32], z: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let ((y, y_rest), (z, z_rest)) = (y.as_chunks::<LANES>(), z.as_chunks::<LANES>());
    sum_of(
        x.iter()
            .zip(y)
            .zip(z)
            .map(|((x, y), z)| std::array::from_fn(|i| f(x[i], y[i], z[i]))),
        x_rest
            .iter()
            .zip(y_rest)
            .zip(z_rest)
            .map(|((x, y), z)| f(*x, *y, *z)),
    )
}

/// The largest number; NaN is passed over.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (largest, x) in largest.iter_mut().zip(chunk) {
            *largest = if *x > *largest { *x } else { *largest };
        }
    }
    rest.iter()
        .chain(&largest)
        .fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_the_standard_library_to_two_units_in_the_last_place() {
        for step in -87_000..88_000 {
            let x = step as f32 * 1e-3;
            let (ours, theirs) = (exp(x), x.exp());
            assert!((ours / theirs - 1.0).abs() < 2.5e-7, "{x}: {ours} {theirs}");
        }
        assert_eq!((exp(-100.0), exp(f32::MIN)), (0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_that_of_the_standard_library_to_seven_places() {
        for step in -20_000..20_000 {
            let x = step as f32 * 1e-3;
            assert!((tanh(x) - x.tanh()).abs() < 1.5e-7, "{x}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn sums_take_every_number_once() {
        for count in [0, 1, 15, 16, 17, 53] {
            let x: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let expected = (count * count.max(1) - count) as f32 / 2.0;
            assert_eq!(sum(&x, |x| x), expected);
            assert_eq!(sum2(&x, &x, |x, y| 2.0 * x - y), expected);
            assert_eq!(sum3(&x, &x, &x, |x, y, z| x + y - z), expected);
        }
        assert_eq!(max(&[-3.0, -1.0, -2.0]), -1.0);
    }
}
