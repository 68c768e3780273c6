//! Whether an export, read back, computes what was trained.

/// Largest difference of two logits that rounding explains: the scale of a LoRA is folded into `B` when
/// it is written, which rounds once more in `f32`.
pub const TOLERANCE: f64 = 1e-5;

/// Largest absolute difference of two sets of logits; infinite when their shapes differ or a number is
/// not finite.
pub fn largest_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let mut largest = 0.0f64;
    for (left, right) in a.iter().zip(b) {
        if left.len() != right.len() {
            return f64::INFINITY;
        }
        for (left, right) in left.iter().zip(right) {
            let difference = (left - right).abs();
            if !difference.is_finite() {
                return f64::INFINITY;
            }
            largest = largest.max(difference);
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_compared_differs_infinitely() {
        assert_eq!(largest_difference(&[vec![1.0]], &[vec![1.5]]), 0.5);
        assert_eq!(
            largest_difference(&[vec![1.0]], &[vec![f64::NAN]]),
            f64::INFINITY
        );
        assert_eq!(
            largest_difference(&[vec![1.0]], &[vec![1.0, 2.0]]),
            f64::INFINITY
        );
        assert_eq!(largest_difference(&[vec![1.0]], &[]), f64::INFINITY);
    }
}
