//! The mean of learning rates.

/// The geometric mean of positive numbers; `None` of none.
pub(crate) fn geometric_mean(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = numbers.into_iter().map(f64::ln).collect();
    let sum: f64 = logarithms.iter().sum();
    (!logarithms.is_empty()).then(|| (sum / logarithms.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_that_of_logarithms() {
        let mean = geometric_mean([1e-3, 1e-1]).expect("two numbers");
        assert!((mean - 1e-2).abs() < 1e-12, "{mean}");
        assert_eq!(geometric_mean([]), None);
    }
}
