//! What has to hold of a comparison, whatever its exact numbers.

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use crate::ledger::GroupRow;
use crate::tables::Comparison;

/// One claim.
#[derive(Debug, Deserialize)]
#[serde(untagged, rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Claim {
    /// On every task and within every budget, the mean loss of the selection is below that of this arm plus the margin; a
    /// negative margin asks for more.
    Below {
        /// The other arm.
        below: String,
        /// In nats.
        margin: f64,
    },
    /// The keys' biases, which cannot change an output, have less than a thousandth of the median influence by this probe.
    KeyBiasesInert {
        /// Its name.
        key_biases_inert: String,
    },
}

impl Claim {
    /// Fails unless it holds.
    pub fn check(&self, comparison: &Comparison<'_>, groups: &[GroupRow]) -> Result<()> {
        match self {
            Self::Below { below: arm, margin } => {
                let pairs = comparison.losses(arm);
                ensure!(!pairs.is_empty(), "no arm `{arm}` to compare with");
                for (place, selection, other) in pairs {
                    ensure!(
                        selection < other + margin,
                        "{place}: the selection's loss of {selection:.4} is not below {other:.4} {margin:+} of `{arm}`"
                    );
                }
            }
            Self::KeyBiasesInert {
                key_biases_inert: probe,
            } => key_biases_inert(probe, groups)?,
        }
        Ok(())
    }
}

fn key_biases_inert(probe: &str, groups: &[GroupRow]) -> Result<()> {
    let is_key_bias = |row: &GroupRow| row.group.starts_with("bias/") && row.group.ends_with("key");
    let mut runs: Vec<Vec<&GroupRow>> = Vec::new();
    for row in (groups.iter()).filter(|row| row.probe == probe && row.score == "influence") {
        match runs.last_mut() {
            Some(run) if run.first().is_some_and(|first| first.same_run(row)) => run.push(row),
            _ => runs.push(vec![row]),
        }
    }
    if runs.is_empty() {
        bail!("no probe `{probe}`");
    }
    for run in runs {
        let mut influences: Vec<f64> = run.iter().map(|row| row.number).collect();
        influences.sort_by(f64::total_cmp);
        let median = influences.get(influences.len() / 2).copied().unwrap_or(0.0);
        let mut keys = run.iter().filter(|row| is_key_bias(row)).peekable();
        ensure!(
            keys.peek().is_some(),
            "the probe `{probe}` has no keys' biases: set `superset.bias.inert`"
        );
        if let Some(key) = keys.find(|key| key.number >= 1e-3 * median) {
            bail!(
                "{}, seed {}: `{}` has an influence of {:.2e}, the median is {median:.2e}",
                key.task,
                key.seed,
                key.group,
                key.number
            );
        }
    }
    Ok(())
}

/// Fails with all claims that do not hold.
pub fn check(claims: &[Claim], comparison: &Comparison<'_>, groups: &[GroupRow]) -> Result<()> {
    let failures: Vec<String> = (claims.iter())
        .filter_map(|claim| claim.check(comparison, groups).err())
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(
        failures.is_empty(),
        "claims that do not hold:\n  {}",
        failures.join("\n  ")
    );
    Ok(())
}
