//! Measures of a classifier on held-out rows.

use serde::{Deserialize, Serialize};

/// Loss and agreement with the labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rows.
    pub examples: usize,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of the rows whose likeliest class is the label.
    pub accuracy: f64,
    /// Mean over the classes of the F1 score; a class that is neither predicted nor present is left out.
    pub macro_f1: f64,
    /// Matthews correlation coefficient for any number of classes (Gorodkin 2004), -1 to 1; 0 where it
    /// is undefined.
    pub matthews: f64,
}

impl Evaluation {
    /// From logits by row, and labels.
    pub fn new(logits: &[Vec<f64>], labels: &[u32]) -> Self {
        let classes = logits.first().map_or(0, Vec::len);
        let mut confusion = vec![vec![0usize; classes]; classes]; // label, prediction
        let mut loss = 0.0;
        for (row, label) in logits.iter().zip(labels) {
            loss += cross_entropy(row, *label);
            let label = *label as usize;
            let cell = confusion
                .get_mut(label)
                .and_then(|row_of| row_of.get_mut(likeliest(row)));
            if let Some(cell) = cell {
                *cell += 1;
            }
        }
        let total = logits.len() as f64;
        let count = |label: usize, prediction: usize| {
            confusion
                .get(label)
                .and_then(|row| row.get(prediction))
                .copied()
                .unwrap_or(0) as f64
        };
        let present = |class: usize| (0..classes).map(|other| count(class, other)).sum::<f64>();
        let predicted = |class: usize| (0..classes).map(|other| count(other, class)).sum::<f64>();
        let correct: f64 = (0..classes).map(|class| count(class, class)).sum();
        let scores: Vec<f64> = (0..classes)
            .filter(|class| present(*class) + predicted(*class) > 0.0)
            .map(|class| 2.0 * count(class, class) / (present(class) + predicted(class)))
            .collect();
        let agreement: f64 = (0..classes)
            .map(|class| present(class) * predicted(class))
            .sum();
        let spread = |of: &dyn Fn(usize) -> f64| {
            total * total - (0..classes).map(|c| of(c).powi(2)).sum::<f64>()
        };
        let denominator = (spread(&present) * spread(&predicted)).sqrt();
        Self {
            examples: logits.len(),
            loss: loss / total,
            accuracy: correct / total,
            macro_f1: scores.iter().sum::<f64>() / scores.len().max(1) as f64,
            matthews: if denominator > 0.0 {
                (correct * total - agreement) / denominator
            } else {
                0.0
            },
        }
    }
}

/// Class with the largest logit; the first of equals.
pub fn likeliest(logits: &[f64]) -> usize {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if logits.get(best).is_some_and(|top| logit > top) {
            best = class;
        }
    }
    best
}

/// `log Σ_c exp z_c - z_label`, in nats; not a number when there is no such label.
pub fn cross_entropy(logits: &[f64], label: u32) -> f64 {
    let maximum = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = logits.iter().map(|z| (z - maximum).exp()).sum::<f64>().ln() + maximum;
    log_sum - logits.get(label as usize).copied().unwrap_or(f64::NAN)
}

/// `softmax(z)`.
pub fn probabilities(logits: &[f64]) -> Vec<f64> {
    let maximum = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|z| (z - maximum).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|e| e / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(predictions: &[usize], classes: usize) -> Vec<Vec<f64>> {
        predictions
            .iter()
            .map(|prediction| {
                (0..classes)
                    .map(|class| f64::from(u8::from(class == *prediction)))
                    .collect()
            })
            .collect()
    }

    /// By hand, from the confusion matrix [[2, 0, 1], [1, 2, 0], [0, 0, 2]].
    #[test]
    fn scores_follow_from_the_confusion_matrix() {
        let evaluation = Evaluation::new(
            &logits(&[0, 0, 1, 2, 2, 1, 0, 2], 3),
            &[0, 1, 1, 2, 0, 1, 0, 2],
        );
        assert!((evaluation.accuracy - 0.75).abs() < 1e-12);
        assert!((evaluation.macro_f1 - (2.0 / 3.0 + 0.8 + 0.8) / 3.0).abs() < 1e-12);
        // 6·8 - (9 + 6 + 6) = 27 over √(64 - 22) · √(64 - 22) = 42.
        assert!((evaluation.matthews - 27.0 / 42.0).abs() < 1e-12);
    }

    #[test]
    fn one_predicted_class_has_no_correlation() {
        let evaluation = Evaluation::new(&logits(&[0, 0, 0, 0], 2), &[0, 1, 0, 1]);
        assert_eq!(evaluation.matthews, 0.0);
        assert_eq!(evaluation.accuracy, 0.5);
    }

    #[test]
    fn loss_of_even_odds_is_the_log_of_the_classes() {
        let evaluation = Evaluation::new(&vec![vec![0.0; 4]; 3], &[0, 1, 2]);
        assert!((evaluation.loss - 4f64.ln()).abs() < 1e-12);
    }
}
