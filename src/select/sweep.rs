//! The sweep operator: conditioning a quadratic model on a set of variables, one at a time and reversibly.
//!
//! For a positive definite `A` and a slope `b`, sweeping the set `S` leaves in place, with `P = (A_SS)⁻¹`:
//! `−P` on the block of `S`; `P·A_Sj` in column `j` outside; the Schur complement `A_ij − A_iS·P·A_Sj` outside
//! both; `P·b_S` and the residual slope `b_j − A_jS·P·b_S` in the last row; and `−b_Sᵀ·P·b_S` in the corner.
//! So every one-step question (what does adding `j` gain, what does dropping `i` cost, what does exchanging them
//! change) is answered from four numbers, and a step costs `K²`.
//! Source: Goodnight 1979, *A tutorial on the SWEEP operator*, The American Statistician 33(3); here in its
//! symmetric form.

/// A quadratic model `bᵀη − ½ ηᵀAη` of `K` groups, conditioned on the swept ones.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    /// `(K + 1) × (K + 1)`, row-major, symmetric; the last row and column hold the slope.
    table: Vec<f64>,
    width: usize,
    swept: Vec<bool>,
}

impl Sweep {
    /// `slope` has length K, `curvature` K·K row-major, positive definite with `damping[k]` added at `(k, k)`.
    /// Lengths are the caller's duty.
    pub(super) fn new(slope: &[f64], curvature: &[f64], damping: &[f64]) -> Self {
        let count = slope.len();
        let width = count + 1;
        let mut table = Vec::with_capacity(width * width);
        for (row, &slope) in slope.iter().enumerate() {
            // Symmetric to the last bit, whatever rounding left in the measured matrix.
            table.extend(
                (0..count).map(|j| 0.5 * (curvature[row * count + j] + curvature[j * count + row])),
            );
            table[row * width + row] += damping[row];
            table.push(slope);
        }
        table.extend_from_slice(slope);
        table.push(0.0);
        Self {
            table,
            width,
            swept: vec![false; count],
        }
    }

    /// Whether the whole matrix is positive definite.
    pub(super) fn all_pivots_positive(mut self) -> bool {
        let count = self.width - 1;
        let scales: Vec<f64> = (0..count).map(|k| self.at(k, k)).collect();
        for (pivot, scale) in scales.into_iter().enumerate() {
            // A pivot lost in the rounding of its own diagonal is no pivot.
            if self.at(pivot, pivot) <= 1e-13 * scale || scale <= 0.0 {
                return false;
            }
            self.toggle(pivot);
        }
        true
    }

    /// Adds the group to the set, or takes it out again.
    pub(super) fn toggle(&mut self, pivot: usize) {
        let width = self.width;
        let sign = if self.swept[pivot] { -1.0 } else { 1.0 };
        let inverse = 1.0 / self.at(pivot, pivot);
        let pivots = self.table[pivot * width..(pivot + 1) * width].to_vec();
        for (row, values) in self.table.chunks_exact_mut(width).enumerate() {
            let factor = pivots[row] * inverse;
            if row == pivot {
                for (value, pivot) in values.iter_mut().zip(&pivots) {
                    *value = sign * pivot * inverse;
                }
            } else {
                for (value, pivot) in values.iter_mut().zip(&pivots) {
                    *value -= factor * pivot;
                }
            }
            values[pivot] = if row == pivot {
                -inverse
            } else {
                sign * factor
            };
        }
        self.swept[pivot] = !self.swept[pivot];
    }

    /// `½ b_Sᵀ (A_SS)⁻¹ b_S` of the swept set.
    pub(super) fn value(&self) -> f64 {
        -0.5 * self.at(self.width - 1, self.width - 1)
    }

    /// What adding an unswept group adds to the value.
    pub(super) fn gain(&self, group: usize) -> f64 {
        half_square_over(self.at(self.width - 1, group), self.at(group, group))
    }

    /// What exchanging a swept group for an unswept one adds to the value.
    pub(super) fn exchange(&self, out: usize, into: usize) -> f64 {
        let last = self.width - 1;
        let precision = -self.at(out, out);
        let rate = self.at(last, out);
        let coupling = self.at(out, into);
        let curvature = self.at(into, into) + coupling * coupling / precision;
        let slope = self.at(last, into) + coupling * rate / precision;
        half_square_over(slope, curvature) - half_square_over(rate, precision)
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.table[row * self.width + column]
    }
}

/// `x² / 2y`, and zero where rounding has left no positive `y`.
fn half_square_over(x: f64, y: f64) -> f64 {
    if y > 0.0 { 0.5 * x * x / y } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `A = [[4, 2, 0.5], [2, 3, 1], [0.5, 1, 2]]`, `b = [1, 2, -1]`.
    fn example() -> Sweep {
        Sweep::new(
            &[1.0, 2.0, -1.0],
            &[4.0, 2.0, 0.5, 2.0, 3.0, 1.0, 0.5, 1.0, 2.0],
            &[0.0; 3],
        )
    }

    fn value(set: &[usize]) -> f64 {
        let mut sweep = example();
        set.iter().for_each(|&group| sweep.toggle(group));
        sweep.value()
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    #[test]
    fn the_value_is_that_of_the_solved_system() {
        close(value(&[]), 0.0);
        close(value(&[1]), 2.0 / 3.0);
        // By hand: P = [[3, -2], [-2, 4]] / 8, so bᵀPb = (3 - 8 + 16) / 8; halved.
        close(value(&[0, 1]), 11.0 / 16.0);
        // In rational numbers: det A = 13.25 and bᵀ·adj(A)·b = 41; halved.
        close(value(&[2, 0, 1]), 41.0 / 26.5);
    }

    #[test]
    fn gains_and_exchanges_are_differences_of_values() {
        let mut sweep = example();
        sweep.toggle(0);
        close(sweep.gain(2), value(&[0, 2]) - value(&[0]));
        sweep.toggle(1);
        close(sweep.gain(2), value(&[0, 1, 2]) - value(&[0, 1]));
        close(sweep.exchange(0, 2), value(&[1, 2]) - value(&[0, 1]));
        close(sweep.exchange(1, 2), value(&[0, 2]) - value(&[0, 1]));
    }

    #[test]
    fn sweeping_twice_restores_the_table() {
        let mut sweep = example();
        for group in [0, 2, 1, 2, 0, 1] {
            sweep.toggle(group);
        }
        for (now, before) in sweep.table.iter().zip(&example().table) {
            close(*now, *before);
        }
    }

    #[test]
    fn an_indefinite_matrix_is_recognised() {
        assert!(example().all_pivots_positive());
        let indefinite = [1.0, 2.0, 2.0, 1.0];
        assert!(!Sweep::new(&[1.0, 1.0], &indefinite, &[0.0; 2]).all_pivots_positive());
        assert!(Sweep::new(&[1.0, 1.0], &indefinite, &[1.1; 2]).all_pivots_positive());
        assert!(!Sweep::new(&[1.0], &[0.0], &[0.0]).all_pivots_positive());
    }
}
