//! Confusion matrices and what follows from them.

use super::{Scores, likeliest};

/// One class for each row.
pub(super) fn one_of_many(logits: &[Vec<f64>], labels: &[u32]) -> Scores {
    let classes = logits.first().map_or(0, Vec::len);
    let mut confusion = vec![vec![0usize; classes]; classes]; // label, prediction
    for (row, label) in logits.iter().zip(labels) {
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
    Scores::Classes {
        accuracy: correct / total,
        macro_f1: scores.iter().sum::<f64>() / scores.len().max(1) as f64,
        matthews: if denominator > 0.0 {
            (correct * total - agreement) / denominator
        } else {
            0.0
        },
    }
}

/// Any number of labels for each row, as scikit-learn scores an indicator matrix.
pub(super) fn any_of_many(logits: &[Vec<f64>], flags: &[Vec<bool>]) -> Scores {
    let labels = logits.first().map_or(0, Vec::len);
    // By label: right, wrongly predicted, missed.
    let mut counts = vec![[0usize; 3]; labels];
    let mut exact = 0;
    for (row, flags) in logits.iter().zip(flags) {
        let mut all_right = true;
        for ((z, flag), count) in row.iter().zip(flags).zip(&mut counts) {
            let [hit, wrong, missed] = count;
            match (*z > 0.0, *flag) {
                (true, true) => *hit += 1,
                (true, false) => *wrong += 1,
                (false, true) => *missed += 1,
                (false, false) => {}
            }
            all_right &= (*z > 0.0) == *flag;
        }
        exact += usize::from(all_right);
    }
    let f1 = |[hit, wrong, missed]: [usize; 3]| match 2 * hit + wrong + missed {
        0 => 0.0,
        all => 2.0 * hit as f64 / all as f64,
    };
    let sum = counts
        .iter()
        .fold([0; 3], |[a, b, c], [x, y, z]| [a + x, b + y, c + z]);
    Scores::Labels {
        micro_f1: f1(sum),
        macro_f1: counts.iter().map(|count| f1(*count)).sum::<f64>() / labels.max(1) as f64,
        subset_accuracy: exact as f64 / logits.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Evaluation, Targets};
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
        let logits = logits(&[0, 0, 1, 2, 2, 1, 0, 2], 3);
        let Scores::Classes {
            accuracy,
            macro_f1,
            matthews,
        } = one_of_many(&logits, &[0, 1, 1, 2, 0, 1, 0, 2])
        else {
            panic!("other scores")
        };
        assert!((accuracy - 0.75).abs() < 1e-12);
        assert!((macro_f1 - (2.0 / 3.0 + 0.8 + 0.8) / 3.0).abs() < 1e-12);
        // 6·8 - (9 + 6 + 6) = 27 over √(64 - 22) · √(64 - 22) = 42.
        assert!((matthews - 27.0 / 42.0).abs() < 1e-12);
    }

    #[test]
    fn one_predicted_class_has_no_correlation() {
        let scores = one_of_many(&logits(&[0, 0, 0, 0], 2), &[0, 1, 0, 1]);
        let Scores::Classes {
            accuracy, matthews, ..
        } = scores
        else {
            panic!("other scores")
        };
        assert_eq!((accuracy, matthews), (0.5, 0.0));
    }

    #[test]
    fn loss_of_even_odds_is_the_log_of_the_classes() {
        let evaluation = Evaluation::new(&vec![vec![0.0; 4]; 3], &Targets::Classes(vec![0, 1, 2]));
        assert!((evaluation.loss - 4f64.ln()).abs() < 1e-12);
    }

    /// By hand: the labels have 2, 2 and 0 hits, and 1, 0 and 1 wrong predictions.
    #[test]
    fn several_labels_are_scored_one_by_one_and_together() {
        let logits: Vec<Vec<f64>> = [
            [2., -1., 0.5],
            [1., 1., -2.],
            [-1., -1., -1.],
            [0.1, 3., -0.2],
        ]
        .map(Vec::from)
        .to_vec();
        let flags = [
            [true, false, false],
            [true, true, false],
            [false, false, false],
            [false, true, false],
        ]
        .map(Vec::from);
        let scores = any_of_many(&logits, &flags);
        let expected = Scores::Labels {
            micro_f1: 0.8,
            macro_f1: (0.8 + 1.0 + 0.0) / 3.0,
            subset_accuracy: 0.5,
        };
        assert_eq!(scores, expected);
    }
}
