//! Means, pairs, and how two scores agree about an order.

use std::fmt;

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub deviation: f64,
    pub count: usize,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count.max(1) as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / count.saturating_sub(1).max(1) as f64).sqrt();
        Self {
            mean,
            deviation,
            count,
        }
    }

    /// Of the mean.
    pub fn standard_error(self) -> f64 {
        self.deviation / (self.count.max(1) as f64).sqrt()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{:.4}", self.mean),
            _ => write!(f, "{:.4} ± {:.4}", self.mean, self.deviation),
        }
    }
}

/// Any two of them, in their order.
pub fn pairs<T>(items: &[T]) -> impl Iterator<Item = (&T, &T)> {
    let firsts = items.iter().enumerate();
    firsts.flat_map(|(number, a)| items.iter().skip(number + 1).map(move |b| (a, b)))
}

/// Rank correlation (Spearman) of two lists of one length; equal numbers share their mean rank. `None` where one of them is
/// constant, or there are fewer than three numbers.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let (a_mean, b_mean) = (Spread::of(&a).mean, Spread::of(&b).mean);
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        let pairs = a.iter().zip(&b);
        pairs.map(|(a, b)| of(a - a_mean, b - b_mean)).sum()
    };
    let scale = (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    (scale > 0.0).then(|| sum(&|a, b| a * b) / scale)
}

/// Ranks from 1, the least first.
fn ranks(values: &[f64]) -> Vec<f64> {
    let below = |value: f64| values.iter().filter(|other| **other < value).count() as f64;
    let same = |value: f64| values.iter().filter(|other| **other == value).count() as f64;
    let rank = |value: &f64| below(*value) + (same(*value) + 1.0) / 2.0;
    values.iter().map(rank).collect()
}

/// Share of the upper quarter of `b` that is in the upper quarter of `a`.
pub fn upper_quarter_shared(a: &[f64], b: &[f64]) -> Option<f64> {
    let quarter = a.len().min(b.len()) / 4;
    let upper = |values: &[f64]| -> Vec<usize> {
        let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        order
            .into_iter()
            .take(quarter)
            .map(|entry| entry.0)
            .collect()
    };
    let (a, b) = (upper(a), upper(b));
    let shared = b.iter().filter(|number| a.contains(number)).count();
    (quarter > 0).then(|| shared as f64 / quarter as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_correlate_whatever_the_scale_and_with_ties() {
        let rising = [1.0, 2.0, 5.0, 100.0];
        assert_eq!(spearman(&rising, &[0.1, 0.2, 0.3, 0.4]), Some(1.0));
        assert_eq!(spearman(&rising, &[4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(spearman(&rising, &[2.0; 4]), None);
        // scipy.stats.spearmanr([1, 2, 5, 100], [1, 1, 2, 0]).statistic
        let with_ties = spearman(&rising, &[1.0, 1.0, 2.0, 0.0]).unwrap_or_default();
        assert!((with_ties + 0.316_227_766).abs() < 1e-8, "{with_ties}");
    }

    #[test]
    fn the_upper_quarter_is_that_of_the_largest_numbers() {
        let a = [8.0, 7.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [8.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(upper_quarter_shared(&a, &b), Some(0.5));
        assert_eq!(upper_quarter_shared(&a, &a), Some(1.0));
    }
}
