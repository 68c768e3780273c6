//! The chain of prefixes in the order of influence, and where it bends.
//!
//! Influence is value per parameter, so the curve of value over parameters is concave; its knee is the point
//! farthest from the chord, where one more parameter starts to buy less than the average one.
//! The knee of a one-step model is a guess: it and its neighbours are offered for a measurement on held-out data.

use serde::{Deserialize, Serialize};

use super::selection::SelectionInput;

/// The most influential groups up to and including one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Name of the group that this prefix adds.
    pub adds: String,
    /// Parameters of the prefix, without the always kept groups.
    pub parameters: usize,
    /// Sum of predicted decreases, loss.
    pub value: f64,
}

/// All prefixes, shortest first, and those worth a measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// Prefix `n` is `points[n - 1]`.
    pub points: Vec<Point>,
    /// Length of the prefix at the knee; 0 when there is no group.
    pub knee: usize,
    /// Lengths of the prefixes to measure on held-out data, ascending: the knee and its neighbours.
    pub candidates: Vec<usize>,
}

impl Frontier {
    /// The chain of `order`, positions among the candidates.
    pub(super) fn new(input: &SelectionInput, order: &[usize]) -> Self {
        let (mut parameters, mut value) = (0, 0.0);
        let points: Vec<Point> = order
            .iter()
            .filter_map(|&index| input.candidates.get(index))
            .map(|candidate| {
                parameters += candidate.parameters;
                value += candidate.value;
                Point {
                    adds: candidate.name.clone(),
                    parameters,
                    value,
                }
            })
            .collect();
        let knee = knee(&points);
        let candidates = (knee.saturating_sub(1)..=knee + 1)
            .filter(|n| (1..=points.len()).contains(n))
            .collect();
        Self {
            points,
            knee,
            candidates,
        }
    }
}

/// Length of the prefix farthest above the chord from nothing to everything; the shorter of equals.
fn knee(points: &[Point]) -> usize {
    let Some(last) = points.last() else { return 0 };
    // On axes scaled to 1 the distance to the diagonal is (y − x) / √2.
    let height = |point: &Point| {
        point.value / last.value.max(f64::MIN_POSITIVE)
            - point.parameters as f64 / last.parameters.max(1) as f64
    };
    let mut best = (f64::NEG_INFINITY, 0);
    for (index, point) in points.iter().enumerate() {
        // Heights of equals differ in their last bits.
        if height(point) > best.0 + 1e-12 {
            best = (height(point), index + 1);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(rows: &[(usize, f64)]) -> Vec<Point> {
        rows.iter()
            .map(|&(parameters, value)| Point {
                adds: String::new(),
                parameters,
                value,
            })
            .collect()
    }

    #[test]
    fn the_knee_is_where_the_curve_bends() {
        assert_eq!(knee(&points(&[(10, 5.0), (20, 9.0), (100, 10.0)])), 2);
        assert_eq!(knee(&points(&[(10, 9.0), (20, 9.5), (100, 10.0)])), 1);
        // No bend: the shortest.
        assert_eq!(knee(&points(&[(10, 1.0), (20, 2.0), (30, 3.0)])), 1);
        assert_eq!(knee(&points(&[(10, 1.0)])), 1);
        assert_eq!(knee(&[]), 0);
    }
}
