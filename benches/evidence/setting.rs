//! What is compared, as a YAML file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::choice::Choice;
use crate::claims::Claim;
use crate::uniform::Mix;

/// All of a comparison.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Optimizer steps of a run with a probe, the probe's included.
    pub steps: usize,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Learning rates.
    pub rates: Vec<f64>,
    /// Budgets, the head apart.
    pub budgets: Vec<String>,
    /// Changes of the recipe for all arms, such as `train.batch_size=8`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Models with data.
    pub tasks: Vec<Task>,
    /// Whole selections, as `autopeft select` makes them.
    #[serde(default)]
    pub selections: Vec<SelectionSetting>,
    /// The selection whose whole compute the arms without a measurement get.
    pub equal_to: Option<String>,
    /// Arms without a measurement.
    #[serde(default)]
    pub uniform: Vec<Mix>,
    /// The same with the height of the rates fitted on the way and the last values averaged, as after a selection.
    #[serde(default)]
    pub fitted: Vec<Mix>,
    /// Draws of random groups.
    #[serde(default)]
    pub random: usize,
    /// What has to hold in the end.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// Arms with a probe.
    #[serde(default)]
    pub probes: Vec<ProbeSetting>,
    /// Choices made on a shallower model.
    #[serde(default)]
    pub transfers: Vec<TransferSetting>,
    /// Scores against retraining.
    #[serde(default)]
    pub rankings: Vec<RankingSetting>,
}

/// A model with data.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name in the tables.
    pub name: String,
    /// Its recipe.
    #[serde(default = "text_classification")]
    pub recipe: String,
    /// Folder within `--models`, or an embedded model.
    pub model: String,
    /// File within `--data`, or embedded rows.
    pub train: String,
    /// File within `--data` of the rows to be evaluated on.
    pub test: Option<String>,
    /// At most so many of them.
    pub test_rows: Option<usize>,
    /// Changes of the recipe.
    #[serde(default)]
    pub set: Vec<String>,
}

fn text_classification() -> String {
    "text-classification".to_owned()
}

/// A selection.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionSetting {
    /// Name in the tables.
    pub name: String,
    /// Changes of the recipe.
    #[serde(default)]
    pub set: Vec<String>,
    /// Rates, where they are not the setting's.
    pub rates: Option<Vec<f64>>,
}

/// A probe and what is chosen by it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSetting {
    /// Name in the tables.
    pub name: String,
    /// Changes of the recipe.
    #[serde(default)]
    pub set: Vec<String>,
    /// The rules that choose.
    pub choices: Vec<Choice>,
    /// Those of the setting's seeds that it runs with, where it is not all.
    pub seeds: Option<Vec<u64>>,
}

/// A choice that is made on the model cut to its first layers, and trained on the whole one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferSetting {
    /// Name in the tables.
    pub name: String,
    /// How many layers are left.
    pub layers: usize,
}

/// A probe whose groups are then trained for themselves: each alone, and all but each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankingSetting {
    /// Name in the tables.
    pub name: String,
    /// Changes of the recipe.
    #[serde(default)]
    pub set: Vec<String>,
    /// Whether all but each group are trained too, which takes as long as the superset for each of them.
    #[serde(default = "yes")]
    pub leave_out: bool,
    /// Other probes of the same groups.
    #[serde(default)]
    pub probes: Vec<VariantSetting>,
}

/// A probe that differs from another one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSetting {
    /// Name in the tables.
    pub name: String,
    /// Changes of the recipe.
    pub set: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Setting {
    /// Reads a setting.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the setting {}", path.display()))?;
        let setting: Self = serde_yaml::from_str(&text)
            .with_context(|| format!("in the setting {}", path.display()))?;
        (setting.check()).with_context(|| format!("in the setting {}", path.display()))?;
        Ok(setting)
    }

    /// Fails where an arm would never be run.
    fn check(&self) -> Result<()> {
        for probe in &self.probes {
            for seed in probe.seeds.iter().flatten() {
                ensure!(
                    self.seeds.contains(seed),
                    "`{}` has the seed {seed}, which is not one of the setting's: add it to `seeds`",
                    probe.name
                );
            }
        }
        Ok(())
    }

    /// The setting's rates and those that selections alone have.
    pub fn all_rates(&self) -> Vec<f64> {
        let mut all = self.rates.clone();
        let own = self.selections.iter().flat_map(|arm| &arm.rates);
        for &rate in own.flatten() {
            if !all.contains(&rate) {
                all.push(rate);
            }
        }
        all
    }

    /// Budgets of an arm: what has no budget of its own is run once.
    pub fn budgets_of(&self, mix: &Mix) -> &[String] {
        match mix.is_whole() {
            true => self.budgets.get(..1).unwrap_or_default(),
            false => &self.budgets,
        }
    }
}
