//! Which groups may stop training before the probe ends.
//!
//! A group is frozen when even the upper end of its interval lies below the budget's cut-off: the influence of the last
//! group that still fits when groups are taken in the order of influence. It will then hardly be selected, and its
//! training and measuring is saved.

use serde::{Deserialize, Serialize};

use super::GroupScore;

/// When freezing is safe enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FreezeOptions {
    /// Measurements a group must have: an interval from fewer is too narrow.
    pub minimum_measurements: usize,
}

impl Default for FreezeOptions {
    fn default() -> Self {
        Self {
            minimum_measurements: 4,
        }
    }
}

/// Influence of the last group that fits when groups are taken in the order of influence; `None` when all fit, or the
/// first does not.
///
/// Groups in `always` (the head) are neither counted nor compared. The three slices run over the same groups.
pub fn cut_off(
    scores: &[GroupScore],
    sizes: &[usize],
    always: &[bool],
    budget: usize,
) -> Option<f64> {
    let mut order: Vec<(&GroupScore, usize)> = scores
        .iter()
        .zip(sizes)
        .zip(always)
        .filter(|(_, always)| !**always)
        .map(|((score, &size), _)| (score, size))
        .collect();
    order.sort_by_key(|(score, _)| score.rank);
    let mut room = budget;
    let mut last = None;
    for (score, size) in order {
        let Some(left) = room.checked_sub(size) else {
            return last;
        };
        room = left;
        last = Some(score.influence);
    }
    None
}

/// Positions of the groups that may be frozen now.
///
/// A group that mostly could not be measured (bad curvature, poor fit) stays: its score is low for want of numbers. So
/// does one that was frozen before, which is no news.
pub fn to_freeze(
    scores: &[GroupScore],
    sizes: &[usize],
    always: &[bool],
    frozen: &[bool],
    budget: usize,
    options: &FreezeOptions,
) -> Vec<usize> {
    let Some(cut_off) = cut_off(scores, sizes, always, budget) else {
        return Vec::new();
    };
    let hopeless = |score: &GroupScore| {
        score.measurements >= options.minimum_measurements.max(1)
            && 2 * score.rejections.inconclusive() < score.measurements
            && score.interval.1 < cut_off
    };
    let flags = always.iter().zip(frozen);
    let free = scores
        .iter()
        .zip(flags)
        .enumerate()
        .filter(|(_, (_, (always, frozen)))| !**always && !**frozen);
    free.filter(|(_, (score, _))| hopeless(score))
        .map(|(group, _)| group)
        .collect()
}
