//! From the measurements of a probe to one score a group, with an interval.
//!
//! A score is the mean over *all* measurements in which the group was trained, and a rejected measurement counts zero:
//! a group that is rarely measured well must not win by its few lucky numbers. Intervals come from resampling the
//! measurements (Efron and Tibshirani 1993, *An Introduction to the Bootstrap*, chapter 13), the same resample for
//! all groups, so that ranks have intervals too.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{InfluenceError, Measurement, Verdict, judge, value};

/// How measurements become scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreOptions {
    /// Resamples behind the intervals.
    pub resamples: usize,
    /// Share of the resamples within an interval, between 0 and 1.
    pub confidence: f64,
    /// Seed of the resampling.
    pub seed: u64,
    /// Replace each curvature by its mean over this many neighbouring measurements. For `hvp`, whose curvature has
    /// a zero-mean noise: a ratio of means is not a mean of ratios.
    pub window: Option<usize>,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            resamples: 1_000,
            confidence: 0.9,
            seed: 0,
            window: None,
        }
    }
}

/// How often a group's measurements were rejected, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejections {
    /// Curvature not positive.
    pub bad_curvature: usize,
    /// Slope not positive.
    pub wrong_direction: usize,
    /// Losses not on a parabola.
    pub poor_fit: usize,
    /// Neither slope nor curvature.
    pub insufficient_signal: usize,
    /// Infinite or not a number.
    pub not_finite: usize,
}

impl Rejections {
    /// Those that say nothing about the group's worth, only that it could not be measured.
    pub fn inconclusive(&self) -> usize {
        self.bad_curvature + self.poor_fit + self.not_finite
    }
}

/// What a probe says about one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupScore {
    /// Measurements in which the group was trained.
    pub measurements: usize,
    /// Mean slope, over measurements with a number.
    pub slope_mean: f64,
    /// Mean curvature, over measurements with a number.
    pub curvature_mean: f64,
    /// Mean predicted decrease `b²/2A`, loss; rejected measurements count 0.
    pub value: f64,
    /// Mean influence per parameter `b²/(A d)`; rejected measurements count 0.
    pub influence: f64,
    /// Bootstrap interval of the influence.
    pub interval: (f64, f64),
    /// Place in the order of influence, from 1; ties by fewer parameters, then by position.
    pub rank: usize,
    /// Bootstrap interval of the rank.
    pub rank_interval: (usize, usize),
    /// Share of accepted measurements.
    pub acceptance: f64,
    /// Why the others were not.
    pub rejections: Rejections,
    /// Fewer than half of the measurements were accepted.
    pub low_confidence: bool,
    /// At least half of the measurements showed neither slope nor curvature.
    pub insufficient_signal: bool,
}

/// Scores all groups; `sizes` holds their parameters `d_k`. One score a group, in their order.
///
/// # Errors
/// Without measurements, when a length differs from that of `sizes`, or with a confidence outside (0, 1).
pub fn score(
    measurements: &[Measurement],
    sizes: &[usize],
    options: &ScoreOptions,
) -> Result<Vec<GroupScore>, InfluenceError> {
    if measurements.is_empty() {
        return Err(InfluenceError::NoMeasurements);
    }
    if !(options.confidence > 0.0 && options.confidence < 1.0) {
        return Err(InfluenceError::InvalidConfidence);
    }
    measurements
        .iter()
        .try_for_each(|measurement| measurement.check(sizes.len()))?;
    let mut series = all_series(measurements, sizes.len());
    if let Some(window) = options.window {
        series.iter_mut().for_each(|series| smooth(series, window));
    }
    let mut scores: Vec<GroupScore> = series
        .iter()
        .zip(sizes)
        .map(|(series, &size)| summarise(series, size))
        .collect();
    let influences: Vec<f64> = scores.iter().map(|score| score.influence).collect();
    for (score, rank) in scores.iter_mut().zip(ranks(&influences, sizes)) {
        score.rank = rank;
        score.rank_interval = (rank, rank);
    }
    bootstrap(&mut scores, &series, measurements.len(), sizes, options);
    Ok(scores)
}

/// One group's numbers in one measurement.
#[derive(Debug, Clone, Copy)]
struct Sample {
    slope: f64,
    curvature: f64,
    verdict: Verdict,
}

impl Sample {
    /// `b²/2A`; `None` for a group that was not trained any more.
    fn value(&self) -> Option<f64> {
        match self.verdict {
            Verdict::Frozen => None,
            Verdict::Accepted => Some(value(self.slope, self.curvature)),
            Verdict::BadCurvature
            | Verdict::WrongDirection
            | Verdict::PoorFit { .. }
            | Verdict::InsufficientSignal
            | Verdict::NotFinite => Some(0.0),
        }
    }
}

/// For each group its samples, in the order of the measurements.
fn all_series(measurements: &[Measurement], groups: usize) -> Vec<Vec<Sample>> {
    let mut series = vec![Vec::with_capacity(measurements.len()); groups];
    for measurement in measurements {
        let diagonal = measurement.curvature.diagonal(groups);
        let rows = measurement
            .slope
            .iter()
            .zip(diagonal)
            .zip(&measurement.verdict);
        for (series, ((&slope, curvature), &verdict)) in series.iter_mut().zip(rows) {
            series.push(Sample {
                slope,
                curvature,
                verdict,
            });
        }
    }
    series
}

/// Averages the curvature over the `window` nearest measurements, and judges again where its sign was the matter.
fn smooth(series: &mut [Sample], window: usize) {
    let before: Vec<Sample> = series.to_vec();
    let window = window.clamp(1, before.len().max(1));
    for (at, sample) in series.iter_mut().enumerate() {
        if !sample.verdict.is_measured() {
            continue;
        }
        let first = at.saturating_sub(window / 2).min(before.len() - window);
        let near = before
            .iter()
            .skip(first)
            .take(window)
            .filter(|sample| sample.verdict.is_measured());
        let (sum, count) = near.fold((0.0, 0_usize), |(sum, count), sample| {
            (sum + sample.curvature, count + 1)
        });
        sample.curvature = sum / count.max(1) as f64;
        if !matches!(sample.verdict, Verdict::PoorFit { .. }) {
            sample.verdict = judge(sample.slope, sample.curvature, None, 0.0);
        }
    }
}

/// Everything but ranks and intervals.
fn summarise(series: &[Sample], size: usize) -> GroupScore {
    let mut rejections = Rejections::default();
    let (mut accepted, mut slope, mut curvature, mut measured) = (0_usize, 0.0, 0.0, 0_usize);
    for sample in series {
        match sample.verdict {
            Verdict::Accepted => accepted += 1,
            Verdict::BadCurvature => rejections.bad_curvature += 1,
            Verdict::WrongDirection => rejections.wrong_direction += 1,
            Verdict::PoorFit { .. } => rejections.poor_fit += 1,
            Verdict::InsufficientSignal => rejections.insufficient_signal += 1,
            Verdict::NotFinite => rejections.not_finite += 1,
            Verdict::Frozen => {}
        }
        if sample.verdict.is_measured() {
            slope += sample.slope;
            curvature += sample.curvature;
            measured += 1;
        }
    }
    let values: Vec<f64> = series.iter().filter_map(Sample::value).collect();
    let count = values.len();
    let value = values.iter().sum::<f64>() / count.max(1) as f64;
    let influence = per_parameter(value, size);
    GroupScore {
        measurements: count,
        slope_mean: slope / measured.max(1) as f64,
        curvature_mean: curvature / measured.max(1) as f64,
        value,
        influence,
        interval: (influence, influence),
        rank: 0,
        rank_interval: (0, 0),
        acceptance: accepted as f64 / count.max(1) as f64,
        rejections,
        low_confidence: 2 * accepted < count || count == 0,
        insufficient_signal: 2 * rejections.insufficient_signal >= count,
    }
}

/// `PPI = 2v/d`.
fn per_parameter(value: f64, size: usize) -> f64 {
    2.0 * value / size.max(1) as f64
}

/// Place of each group in the order of influence, from 1.
fn ranks(influences: &[f64], sizes: &[usize]) -> Vec<usize> {
    let mut order: Vec<(f64, usize, usize)> = influences
        .iter()
        .zip(sizes)
        .enumerate()
        .map(|(group, (&influence, &size))| (influence, size, group))
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut ranks = vec![0; order.len()];
    for (place, (.., group)) in order.into_iter().enumerate() {
        ranks[group] = place + 1;
    }
    ranks
}

/// Fills in the intervals of influence and rank.
fn bootstrap(
    scores: &mut [GroupScore],
    series: &[Vec<Sample>],
    measurements: usize,
    sizes: &[usize],
    options: &ScoreOptions,
) {
    if options.resamples == 0 {
        return;
    }
    let values: Vec<Vec<Option<f64>>> = series
        .iter()
        .map(|series| series.iter().map(Sample::value).collect())
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut influences = vec![Vec::with_capacity(options.resamples); sizes.len()];
    let mut places = vec![Vec::with_capacity(options.resamples); sizes.len()];
    for _ in 0..options.resamples {
        let drawn: Vec<usize> = (0..measurements)
            .map(|_| random.random_range(0..measurements))
            .collect();
        let resampled: Vec<f64> = (0..sizes.len())
            .map(|group| {
                let values = drawn.iter().filter_map(|&at| values[group][at]);
                let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| {
                    (sum + value, count + 1)
                });
                // A group frozen early may be missing from a resample, which then says nothing new about it.
                if count == 0 {
                    scores[group].influence
                } else {
                    per_parameter(sum / count as f64, sizes[group])
                }
            })
            .collect();
        let ranks = ranks(&resampled, sizes);
        influences
            .iter_mut()
            .zip(resampled)
            .for_each(|(list, influence)| list.push(influence));
        places
            .iter_mut()
            .zip(ranks)
            .for_each(|(list, rank)| list.push(rank));
    }
    let tail = 0.5 * (1.0 - options.confidence);
    for ((score, mut influences), mut places) in scores.iter_mut().zip(influences).zip(places) {
        influences.sort_by(f64::total_cmp);
        places.sort_unstable();
        score.interval = ends(&influences, tail).unwrap_or(score.interval);
        score.rank_interval = ends(&places, tail).unwrap_or(score.rank_interval);
    }
}

/// The entries of a sorted list that leave `tail` of it on either side.
fn ends<T: Copy>(sorted: &[T], tail: f64) -> Option<(T, T)> {
    let last = sorted.len().checked_sub(1)?;
    let low = (tail * last as f64).floor() as usize;
    Some((*sorted.get(low)?, *sorted.get(last - low)?))
}
