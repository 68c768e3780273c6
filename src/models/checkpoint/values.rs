//! Scan of stored weights for values that training cannot start from: NaN, infinite, or beyond the wanted type's range.

use candle_core::DType;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Values that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faults {
    /// How many there are.
    pub(super) count: usize,
    /// Flat index of the first.
    pub(super) first: usize,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// All values are finite and in range.
    Fine,
    /// Some are NaN or infinite.
    NotFinite(Faults),
    /// All are finite, but some become infinite in the wanted type.
    OutOfRange(Faults),
    /// The stored type is not one of F16, BF16, F32, F64.
    Unsupported,
}

/// Scans little-endian `bytes` of type `stored` that will be converted to `wanted`.
///
/// The usual scan looks at exponent bits only, which the compiler turns into vector code; values are compared only where `wanted` is the
/// narrower type.
pub(super) fn scan(bytes: &[u8], stored: Dtype, wanted: DType) -> Scan {
    let f16_finite = |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00;
    let bf16_finite = |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80;
    let f32_finite = |b| u32::from_le_bytes(b) & 0x7f80_0000 != 0x7f80_0000;
    let limit = largest(wanted);
    let widening = largest_stored(stored) <= limit;
    match stored {
        Dtype::F16 => verdict(bytes, f16_finite, f16_finite),
        Dtype::BF16 if widening => verdict(bytes, bf16_finite, bf16_finite),
        Dtype::BF16 => {
            let fits = |b| within(bf16::from_le_bytes(b).into(), limit);
            verdict(bytes, fits, bf16_finite)
        }
        Dtype::F32 if widening => verdict(bytes, f32_finite, f32_finite),
        Dtype::F32 => verdict(
            bytes,
            |b| within(f32::from_le_bytes(b).into(), limit),
            f32_finite,
        ),
        Dtype::F64 => {
            let fits = |b| within(f64::from_le_bytes(b), limit);
            verdict(bytes, fits, |b| f64::from_le_bytes(b).is_finite())
        }
        _ => Scan::Unsupported,
    }
}

/// The largest finite value of a stored type; the other types are refused anyway.
fn largest_stored(dtype: Dtype) -> f64 {
    DType::try_from(dtype).map_or(f64::MAX, largest)
}

/// False for NaN as well.
fn within(value: f64, limit: f64) -> bool {
    value.abs() <= limit
}

/// The largest finite value of a type.
fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::MAX.to_f64(),
        DType::BF16 => bf16::MAX.to_f64(),
        DType::F32 => f32::MAX.into(),
        _ => f64::MAX,
    }
}

fn verdict<const N: usize>(
    bytes: &[u8],
    usable: impl Fn([u8; N]) -> bool,
    finite: impl Fn([u8; N]) -> bool,
) -> Scan {
    let (values, _) = bytes.as_chunks::<N>();
    // Nearly always zero, so counting first (a loop that the compiler vectorizes) keeps the search for positions off the usual path.
    if values.iter().filter(|b| !usable(**b)).count() == 0 {
        return Scan::Fine;
    }
    if let Some(faults) = faults(values, &finite) {
        return Scan::NotFinite(faults);
    }
    faults(values, &usable).map_or(Scan::Fine, Scan::OutOfRange)
}

fn faults<const N: usize>(values: &[[u8; N]], good: impl Fn([u8; N]) -> bool) -> Option<Faults> {
    let mut bad = values
        .iter()
        .enumerate()
        .filter(|(_, b)| !good(**b))
        .map(|(i, _)| i);
    let first = bad.next()?;
    Some(Faults {
        count: 1 + bad.count(),
        first,
    })
}

/// Little-endian `bytes` of a 16 or 32-bit type as `f32`, where that is `wanted`, in one pass from the file to the
/// tensor. `None`: another way is needed.
pub(super) fn read_f32(bytes: &[u8], stored: Dtype, wanted: DType) -> Option<Vec<f32>> {
    if wanted != DType::F32 {
        return None;
    }
    match stored {
        Dtype::F16 => Some(convert(bytes, |b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(convert(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F32 => Some(convert(bytes, f32::from_le_bytes)),
        _ => None,
    }
}

fn convert<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<N>();
    values
        .par_iter()
        .with_min_len(1 << 16)
        .map(|b| number(*b))
        .collect()
}

/// Coordinates of a flat index in a tensor of `shape`, row-major.
pub(super) fn coordinates(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut position: Vec<_> = shape
        .iter()
        .rev()
        .map(|&size| {
            let size = size.max(1);
            let here = flat % size;
            flat /= size;
            here
        })
        .collect();
    position.reverse();
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn finite_values_pass_in_every_type() {
        assert_eq!(
            scan(
                &f32s(&[0.0, -0.0, f32::MAX, f32::MIN_POSITIVE]),
                Dtype::F32,
                DType::F32
            ),
            Scan::Fine
        );
        assert_eq!(
            scan(&f16::MAX.to_le_bytes(), Dtype::F16, DType::F32),
            Scan::Fine
        );
        assert_eq!(
            scan(&bf16::MAX.to_le_bytes(), Dtype::BF16, DType::F32),
            Scan::Fine
        );
        assert_eq!(
            scan(&1e30f64.to_le_bytes(), Dtype::F64, DType::F32),
            Scan::Fine
        );
    }

    #[test]
    fn nan_and_infinity_are_counted_and_placed() {
        let narrowed = scan(&f32s(&[1e6, f32::NAN]), Dtype::F32, DType::F16);
        assert_eq!(narrowed, Scan::NotFinite(Faults { count: 1, first: 1 }));
        let one = |first| Scan::NotFinite(Faults { count: 1, first });
        let bytes = f32s(&[1.0, f32::NAN, 2.0, f32::NEG_INFINITY]);
        assert_eq!(
            scan(&bytes, Dtype::F32, DType::F32),
            Scan::NotFinite(Faults { count: 2, first: 1 })
        );
        assert_eq!(
            scan(&f16::NAN.to_le_bytes(), Dtype::F16, DType::F32),
            one(0)
        );
        assert_eq!(
            scan(&f16::INFINITY.to_le_bytes(), Dtype::F16, DType::F64),
            one(0)
        );
        assert_eq!(
            scan(&bf16::NAN.to_le_bytes(), Dtype::BF16, DType::F32),
            one(0)
        );
        assert_eq!(
            scan(&f64::INFINITY.to_le_bytes(), Dtype::F64, DType::F64),
            one(0)
        );
    }

    #[test]
    fn values_beyond_the_wanted_type_are_told_from_infinite_ones() {
        let large = Scan::OutOfRange(Faults { count: 1, first: 1 });
        assert_eq!(scan(&f32s(&[1.0, 1e6]), Dtype::F32, DType::F16), large);
        assert_eq!(
            scan(&1e300f64.to_le_bytes(), Dtype::F64, DType::F32),
            Scan::OutOfRange(Faults { count: 1, first: 0 })
        );
        assert_eq!(
            scan(&bf16::from_f32(1e6).to_le_bytes(), Dtype::BF16, DType::F16),
            Scan::OutOfRange(Faults { count: 1, first: 0 })
        );
    }

    #[test]
    fn numbers_read_as_f32_are_those_of_the_file() {
        let values = [0.0f32, -0.0, 1.5, -3.25e-20, 65504.0];
        let read = read_f32(&f32s(&values), Dtype::F32, DType::F32);
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(read.map(|read| bits(&read)), Some(bits(&values)));
        let halves: Vec<u8> = [f16::from_f32(-0.1), f16::MIN_POSITIVE_SUBNORMAL, f16::MAX]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let expected = [f16::from_f32(-0.1), f16::MIN_POSITIVE_SUBNORMAL, f16::MAX];
        let read = read_f32(&halves, Dtype::F16, DType::F32);
        assert_eq!(read, Some(expected.map(f16::to_f32).to_vec()));
        let brief: Vec<u8> = bf16::from_f32(-0.1).to_le_bytes().to_vec();
        let read = read_f32(&brief, Dtype::BF16, DType::F32);
        assert_eq!(read, Some(vec![bf16::from_f32(-0.1).to_f32()]));
        assert_eq!(read_f32(&brief, Dtype::BF16, DType::F16), None);
        assert_eq!(read_f32(&[0; 8], Dtype::F64, DType::F32), None);
    }

    #[test]
    fn integers_are_no_weights() {
        assert_eq!(scan(&[0; 8], Dtype::I64, DType::F32), Scan::Unsupported);
    }

    #[test]
    fn coordinates_are_row_major() {
        assert_eq!(coordinates(5, &[2, 3]), [1, 2]);
        assert_eq!(coordinates(0, &[]), Vec::<usize>::new());
    }
}
