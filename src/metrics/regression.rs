//! Correlations of numbers.

use super::Scores;

/// Pearson's and Spearman's correlation of each output with its target, and their mean over the outputs.
pub(super) fn correlations(outputs: &[Vec<f64>], targets: &[Vec<f64>]) -> Scores {
    let width = outputs.first().map_or(0, Vec::len);
    let column = |rows: &[Vec<f64>], at: usize| -> Vec<f64> {
        rows.iter().filter_map(|row| row.get(at).copied()).collect()
    };
    let (mut linear, mut ranked) = (0.0, 0.0);
    for at in 0..width {
        let (z, y) = (column(outputs, at), column(targets, at));
        linear += pearson(&z, &y);
        ranked += pearson(&ranks(&z), &ranks(&y));
    }
    let width = width.max(1) as f64;
    Scores::Numbers {
        pearson: linear / width,
        spearman: ranked / width,
    }
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut both, mut left, mut right) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        both += a * b;
        left += a * a;
        right += b * b;
    }
    let spread = (left * right).sqrt();
    if spread > 0.0 { both / spread } else { 0.0 }
}

/// Ranks from 1; equal numbers share the mean of theirs.
fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<(f64, usize)> = numbers.iter().copied().zip(0..).collect();
    sorted.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut ranks = vec![0.0; numbers.len()];
    let mut before = 0;
    for tied in sorted.chunk_by(|(a, _), (b, _)| a == b) {
        let rank = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        for (_, at) in tied {
            if let Some(entry) = ranks.get_mut(*at) {
                *entry = rank;
            }
        }
        before += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.corrcoef` 2.4 of the numbers, and of their ranks by hand.
    #[test]
    fn correlations_are_those_of_scipy() {
        let z = [0.1, 0.4, 0.35, 0.8, 0.8].map(|z| vec![z]);
        let y = [1.0, 3.0, 2.0, 5.0, 4.0].map(|y| vec![y]);
        let Scores::Numbers { pearson, spearman } = correlations(&z, &y) else {
            panic!("other scores")
        };
        assert!(
            (pearson - 0.959_180_317_625_643_3).abs() < 1e-12,
            "{pearson}"
        );
        assert!(
            (spearman - 0.974_679_434_480_896_4).abs() < 1e-12,
            "{spearman}"
        );
    }

    #[test]
    fn a_constant_correlates_with_nothing() {
        let scores = correlations(&vec![vec![1.0]; 3], &[vec![1.0], vec![2.0], vec![3.0]]);
        let expected = Scores::Numbers {
            pearson: 0.0,
            spearman: 0.0,
        };
        assert_eq!(scores, expected);
    }
}
