//! The rules that choose groups after a probe.

use std::fmt;

use autopeft::groups::Group;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Value of sets along the optimizer's steps.
    Coupled,
    /// The knapsack of the groups' own values.
    Diagonal,
    /// The paper's influence per parameter, greedily.
    Ppi,
    /// The knapsack of slopes.
    Slope,
    /// Squared norm of the mean gradient.
    GradientNorm,
    /// Mean of squared gradients (Fisher).
    Fisher,
    /// `|Σ w ∂L/∂w|` (SNIP).
    Snip,
    /// Squared distance from the start.
    Magnitude,
    /// Value of sets along the way that the probe went.
    Way,
    /// The same without coupling.
    WayDiagonal,
    /// Groups by lot, with the probe's values.
    Random,
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Self::Coupled => "coupled",
            Self::Diagonal => "diagonal",
            Self::Ppi => "ppi",
            Self::Slope => "slope",
            Self::GradientNorm => "gradient-norm",
            Self::Fisher => "fisher",
            Self::Snip => "snip",
            Self::Magnitude => "magnitude",
            Self::Way => "way",
            Self::WayDiagonal => "way-diagonal",
            Self::Random => "random",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Groups in a random order, as many as fit, and the head.
pub fn by_lot(groups: &[Group], capacity: usize, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut kept: Vec<bool> = groups.iter().map(Group::is_head).collect();
    let mut room = capacity;
    for number in order {
        let (Some(group), Some(kept)) = (groups.get(number), kept.get_mut(number)) else {
            continue;
        };
        if !*kept && group.size <= room {
            room -= group.size;
            *kept = true;
        }
    }
    kept
}
