//! How much a generated text shares with its references: BLEU as sacrebleu computes it, and ROUGE as rouge-score does.
//!
//! BLEU: Papineni et al. 2002, <https://aclanthology.org/P02-1040>, over the whole corpus, with sacrebleu's defaults
//! (Post 2018, <https://aclanthology.org/W18-6319>): tokenizer `13a`, mixed case, exponential smoothing.
//! ROUGE: Lin 2004, <https://aclanthology.org/W04-1013>: F1 without stemming, of several references the best, mean
//! over the texts.
//!
//! ```
//! use autopeft::metrics::{bleu, rouge};
//! let references = [vec!["the cat sat on the mat".to_string()]];
//! assert_eq!(bleu(&["the cat sat on the mat".to_string()], &references).round(), 100.0);
//! assert_eq!(rouge(&["The cat!".to_string()], &references).rouge1, 0.5);
//! ```

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// Longest n-grams of BLEU.
const ORDER: usize = 4;

/// Scores of generated texts against their references.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// BLEU of the whole corpus, 0 to 100.
    pub bleu: f64,
    /// Means of ROUGE.
    #[serde(flatten)]
    pub rouge: Rouge,
}

/// Mean F1 scores of ROUGE, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rouge {
    /// Of single words.
    pub rouge1: f64,
    /// Of pairs of words.
    pub rouge2: f64,
    /// Of the longest common subsequence.
    #[serde(rename = "rougeL")]
    pub rouge_l: f64,
}

/// Corpus BLEU, 0 to 100, of texts with one or more references each.
pub fn bleu(texts: &[String], references: &[Vec<String>]) -> f64 {
    let (mut correct, mut total) = ([0usize; ORDER], [0usize; ORDER]);
    let (mut length, mut reference_length) = (0usize, 0usize);
    for (text, references) in texts.iter().zip(references) {
        let words = tokens_13a(text);
        let references: Vec<Vec<String>> = references.iter().map(|text| tokens_13a(text)).collect();
        length += words.len();
        reference_length += closest(words.len(), &references);
        let sizes = correct.iter_mut().zip(&mut total);
        for (order, (correct, total)) in (1..).zip(sizes) {
            let mut allowed: HashMap<&[String], usize> = HashMap::new();
            for reference in &references {
                for (gram, count) in grams(reference, order) {
                    let most = allowed.entry(gram).or_default();
                    *most = count.max(*most);
                }
            }
            for (gram, count) in grams(&words, order) {
                *total += count;
                *correct += count.min(allowed.get(gram).copied().unwrap_or(0));
            }
        }
    }
    if correct.iter().all(|correct| *correct == 0) {
        return 0.0;
    }
    let penalty = if length < reference_length {
        (1.0 - reference_length as f64 / length as f64).exp()
    } else {
        1.0
    };
    let (mut smoothing, mut logs) = (1.0, 0.0);
    for (correct, total) in correct.iter().zip(&total) {
        // A corpus without any n-gram of an order has no score.
        if *total == 0 {
            return 0.0;
        }
        let precision = if *correct == 0 {
            smoothing *= 2.0;
            100.0 / (smoothing * *total as f64)
        } else {
            100.0 * *correct as f64 / *total as f64
        };
        logs += precision.ln();
    }
    penalty * (logs / ORDER as f64).exp()
}

/// Mean ROUGE F1 of texts with one or more references each.
pub fn rouge(texts: &[String], references: &[Vec<String>]) -> Rouge {
    let mut sum = Rouge::default();
    for (text, references) in texts.iter().zip(references) {
        let words = tokens_rouge(text);
        let mut best = Rouge::default();
        for reference in references {
            let reference = tokens_rouge(reference);
            best.rouge1 = best.rouge1.max(shared(&words, &reference, 1));
            best.rouge2 = best.rouge2.max(shared(&words, &reference, 2));
            let common = common_subsequence(&words, &reference);
            best.rouge_l = best.rouge_l.max(f1(common, words.len(), reference.len()));
        }
        sum.rouge1 += best.rouge1;
        sum.rouge2 += best.rouge2;
        sum.rouge_l += best.rouge_l;
    }
    let count = texts.len().max(1) as f64;
    Rouge {
        rouge1: sum.rouge1 / count,
        rouge2: sum.rouge2 / count,
        rouge_l: sum.rouge_l / count,
    }
}

/// The tokenizer `13a` of WMT's `mteval-v13a.pl`.
fn tokens_13a(line: &str) -> Vec<String> {
    static RULES: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
        let rules = [
            (r"([{-~\[-` -&(-+:-@/])", " ${1} "),
            (r"([^0-9])([.,])", "${1} ${2} "),
            (r"([.,])([^0-9])", " ${1} ${2}"),
            (r"([0-9])(-)", "${1} ${2} "),
        ];
        let compiled = rules.into_iter().map(|(pattern, with)| {
            (
                Regex::new(pattern).expect("a constant that a test compiles"),
                with,
            )
        });
        compiled.collect()
    });
    let mut line = line
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    if line.contains('&') {
        for (entity, c) in [
            ("&quot;", "\""),
            ("&amp;", "&"),
            ("&lt;", "<"),
            ("&gt;", ">"),
        ] {
            line = line.replace(entity, c);
        }
    }
    let mut line = format!(" {line} ");
    for (rule, with) in RULES.iter() {
        line = rule.replace_all(&line, *with).into_owned();
    }
    line.split_whitespace().map(str::to_string).collect()
}

/// Words of ASCII letters and digits, in lower case.
fn tokens_rouge(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_string)
        .collect()
}

fn grams(words: &[String], order: usize) -> HashMap<&[String], usize> {
    let mut counts = HashMap::new();
    for gram in words.windows(order) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// Length of the reference that is nearest; of equals the shorter.
fn closest(length: usize, references: &[Vec<String>]) -> usize {
    let lengths = references.iter().map(Vec::len);
    lengths
        .min_by_key(|reference| (reference.abs_diff(length), *reference))
        .unwrap_or(0)
}

fn shared(words: &[String], reference: &[String], order: usize) -> f64 {
    let (words, reference) = (grams(words, order), grams(reference, order));
    let both = reference.iter().map(|(gram, count)| {
        let there = words.get(gram).copied().unwrap_or(0);
        there.min(*count)
    });
    f1(both.sum(), words.values().sum(), reference.values().sum())
}

fn f1(both: usize, predicted: usize, present: usize) -> f64 {
    match both {
        0 => 0.0,
        both => 2.0 * both as f64 / (predicted + present) as f64,
    }
}

fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        let mut left = 0;
        for (at, other) in b.iter().enumerate() {
            let Some(cell) = row.get_mut(at + 1) else {
                continue;
            };
            let above = *cell;
            *cell = if word == other {
                diagonal + 1
            } else {
                above.max(left)
            };
            diagonal = above;
            left = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// Made by `tests/fixtures/make_scores.py` with sacrebleu 2.6.0 and rouge-score 0.1.2.
    const CASES: &str = include_str!("../../tests/fixtures/scores.json");

    #[test]
    fn scores_are_those_of_sacrebleu_and_rouge_score() {
        let cases: serde_json::Value = serde_json::from_str(CASES).unwrap();
        let cases = cases.as_array().unwrap();
        assert!(cases.len() >= 5);
        for case in cases {
            let texts: Vec<String> = serde_json::from_value(case["texts"].clone()).unwrap();
            let references: Vec<Vec<String>> =
                serde_json::from_value(case["references"].clone()).unwrap();
            let got = bleu(&texts, &references);
            let expected = case["bleu"].as_f64().unwrap();
            assert!(
                (got - expected).abs() < 1e-9,
                "{texts:?}: {got} is not {expected}"
            );
            let rouge = rouge(&texts, &references);
            for (got, name) in [
                (rouge.rouge1, "rouge1"),
                (rouge.rouge2, "rouge2"),
                (rouge.rouge_l, "rougeL"),
            ] {
                let expected = case[name].as_f64().unwrap();
                assert!(
                    (got - expected).abs() < 1e-12,
                    "{texts:?}, {name}: {got} is not {expected}"
                );
            }
        }
    }
}
