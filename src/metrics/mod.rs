//! Measures of a model on held-out rows, by the kind of the task.

mod classification;
mod language;
mod overlap;
mod regression;

pub use overlap::{Overlap, Rouge, bleu, rouge};
use serde::{Deserialize, Serialize};

use crate::data::{Target, Targets};
use crate::task::Answer;

/// Loss and agreement with the targets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rows.
    pub examples: usize,
    /// Mean loss: cross-entropy in nats, or mean squared error.
    pub loss: f64,
    /// The measures of the task.
    #[serde(flatten)]
    pub scores: Scores,
}

/// The measures of a task. In JSON they stand beside the loss, under their own names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scores {
    /// One class for each row.
    Classes {
        /// Share of the rows whose likeliest class is the label.
        accuracy: f64,
        /// Mean over the classes of the F1 score; a class that is neither predicted nor present is left out.
        macro_f1: f64,
        /// Matthews correlation coefficient for any number of classes (Gorodkin 2004), -1 to 1; 0 where it
        /// is undefined.
        matthews: f64,
    },
    /// Any number of labels for each row; one is predicted where its probability is above one half.
    Labels {
        /// F1 score of all decisions together.
        micro_f1: f64,
        /// Mean over the labels of the F1 score; 0 for a label that is neither predicted nor present.
        macro_f1: f64,
        /// Share of the rows with every label right.
        subset_accuracy: f64,
    },
    /// Numbers; of several outputs the mean over the outputs.
    Numbers {
        /// Pearson's correlation coefficient, -1 to 1; 0 where it is undefined.
        pearson: f64,
        /// Spearman's rank correlation, ties at their mean rank; 0 where it is undefined.
        spearman: f64,
    },
    /// Tokens that follow others; the loss is the mean over all of them.
    Tokens {
        /// Tokens that were predicted.
        tokens: usize,
        /// `e` to the loss.
        perplexity: f64,
        /// Share of the tokens that were the likeliest.
        token_accuracy: f64,
    },
}

impl Evaluation {
    /// From what a model said of each row, and the rows' targets.
    pub fn of(answers: &[Answer], targets: &[&Target]) -> Self {
        let outputs: Vec<Vec<f64>> = (answers.iter())
            .filter_map(|answer| match answer {
                Answer::Outputs(outputs) => Some(outputs.clone()),
                Answer::Tokens { .. } => None,
            })
            .collect();
        match Targets::of(targets.iter().map(|target| Some(*target))) {
            Some(targets) => Self::new(&outputs, &targets),
            None => language::evaluation(answers),
        }
    }

    /// From the outputs of a head by row, and the targets.
    pub fn new(outputs: &[Vec<f64>], targets: &Targets) -> Self {
        let (loss, scores) = match targets {
            Targets::Classes(classes) => (
                class_loss(outputs, classes),
                classification::one_of_many(outputs, classes),
            ),
            Targets::Flags(flags) => (
                flag_loss(outputs, flags),
                classification::any_of_many(outputs, flags),
            ),
            Targets::Numbers(numbers) => (
                number_loss(outputs, numbers),
                regression::correlations(outputs, numbers),
            ),
            // A language model has no head: what it says of tokens is scored by [`Evaluation::of`].
            Targets::Tokens(_) => return language::evaluation(&[]),
        };
        Self {
            examples: outputs.len(),
            loss,
            scores,
        }
    }

    /// The measures with their names, the one by which the task is known first.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        match self.scores {
            Scores::Classes {
                accuracy,
                macro_f1,
                matthews,
            } => vec![
                ("accuracy", accuracy),
                ("macro F1", macro_f1),
                ("Matthews", matthews),
            ],
            Scores::Labels {
                micro_f1,
                macro_f1,
                subset_accuracy,
            } => vec![
                ("micro F1", micro_f1),
                ("macro F1", macro_f1),
                ("subset accuracy", subset_accuracy),
            ],
            Scores::Numbers { pearson, spearman } => {
                vec![("Pearson", pearson), ("Spearman", spearman)]
            }
            Scores::Tokens {
                perplexity,
                token_accuracy,
                ..
            } => vec![
                ("perplexity", perplexity),
                ("token accuracy", token_accuracy),
            ],
        }
    }

    /// The measure by which the task is known, such as the accuracy.
    pub fn main(&self) -> (&'static str, f64) {
        self.named().first().copied().unwrap_or(("loss", self.loss))
    }
}

/// Mean cross-entropy of rows of logits.
pub fn class_loss(logits: &[Vec<f64>], classes: &[u32]) -> f64 {
    let losses = logits.iter().zip(classes);
    let sum: f64 = losses.map(|(row, class)| cross_entropy(row, *class)).sum();
    sum / classes.len() as f64
}

/// Mean squared error over rows and outputs.
pub fn number_loss(outputs: &[Vec<f64>], numbers: &[Vec<f64>]) -> f64 {
    mean(outputs, numbers, |z, y| (z - y).powi(2))
}

/// Mean binary cross-entropy over rows and labels.
pub fn flag_loss(logits: &[Vec<f64>], flags: &[Vec<bool>]) -> f64 {
    mean(logits, flags, |z, y| {
        z.max(0.0) - if y { z } else { 0.0 } + (-z.abs()).exp().ln_1p()
    })
}

fn mean<T: Copy>(outputs: &[Vec<f64>], targets: &[Vec<T>], loss: impl Fn(f64, T) -> f64) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for (row, targets) in outputs.iter().zip(targets) {
        for (z, y) in row.iter().zip(targets) {
            sum += loss(*z, *y);
            count += 1;
        }
    }
    sum / count as f64
}

/// `1 / (1 + e^-z)`.
pub fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// The class into whose share of the probability a uniform number from 0 to 1 falls.
pub fn draw(probabilities: &[f64], uniform: f64) -> u32 {
    let mut rest = uniform;
    for (class, p) in (0u32..).zip(probabilities) {
        rest -= p;
        if rest < 0.0 {
            return class;
        }
    }
    (probabilities.len().max(1) - 1) as u32
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
