//! Puts the numbers of a run together for its report.

use super::choose::Chosen;
use super::measure::Measured;
use super::prepare::Prepared;
use crate::device;
use crate::error::Result;
use crate::groups::Group;
use crate::report::{
    DataReport, GroupReport, ModelReport, ProbeReport, SelectionReport, SetReport,
};

impl Prepared<'_> {
    /// The report of a run; without a choice, of one that was stopped.
    ///
    /// # Errors
    /// When a number of the measurements cannot be had.
    pub fn report(&self, measured: &Measured, chosen: Option<&Chosen>) -> Result<SelectionReport> {
        let recipe = self.recipe;
        let mut groups: Vec<GroupReport> = self
            .groups
            .iter()
            .enumerate()
            .filter_map(|(number, group)| self.group_report(number, group, measured, chosen))
            .collect();
        groups.sort_by_key(|group| group.rank);
        let noise = measured.outcome.measurements.iter().map(|m| m.noise_floor);
        Ok(SelectionReport {
            schema: SelectionReport::SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_string(),
            model: self.model_report(),
            data: self.data_report(),
            probe: ProbeReport {
                estimator: recipe.probe.estimator.to_string(),
                steps: measured.outcome.steps,
                measurements: measured.outcome.measurements.len(),
                examples: recipe.probe.examples.min(self.data.train.rows.len()),
                seconds: measured.seconds,
                noise: noise.fold(0.0, f64::max),
                frozen: measured.outcome.frozen.len(),
            },
            complete: chosen.is_some(),
            method: recipe.select.method.to_string(),
            budget: chosen.and_then(|chosen| chosen.selection.budget),
            determined: chosen.and_then(|chosen| chosen.selection.determined),
            left_out: self.left_out.clone(),
            superset_parameters: self.superset_parameters(),
            kept_parameters: chosen.map_or(0, |chosen| chosen.selection.parameters),
            head_parameters: self.head_parameters(),
            sets: chosen.map(sets).unwrap_or_default(),
            held_out: measured.held_out.clone(),
            groups,
        })
    }

    pub(super) fn model_report(&self) -> ModelReport {
        ModelReport {
            source: self.recipe.model.clone(),
            model_type: self.base.config.model_type.clone(),
            layers: Some(self.base.config.num_layers),
            parameters: self.base.num_parameters(),
            device: device::name(&self.device),
            dtype: self.dtype.as_str().to_string(),
            fresh: self.adapters.fresh(),
        }
    }

    pub(super) fn data_report(&self) -> DataReport {
        DataReport {
            train: self.data.train.rows.len(),
            validation: self.data.validation.rows.len(),
            labels: self.data.label_names().to_vec(),
            truncated: self.data.train.truncated + self.data.validation.truncated,
            skipped: self.data.skipped,
        }
    }

    pub(super) fn head_parameters(&self) -> usize {
        let heads = self.groups.iter().filter(|group| group.is_head());
        heads.map(|group| group.size).sum()
    }

    fn group_report(
        &self,
        number: usize,
        group: &Group,
        measured: &Measured,
        chosen: Option<&Chosen>,
    ) -> Option<GroupReport> {
        let score = measured.scores.get(number)?;
        let decision = chosen.and_then(|chosen| {
            let position = chosen
                .candidates
                .iter()
                .position(|candidate| *candidate == number)?;
            chosen.selection.groups.get(position)
        });
        let reason = match (decision, group.is_reference()) {
            (Some(decision), _) => decision.reason.to_string(),
            (None, true) => "reference".to_string(),
            (None, false) => "not decided".to_string(),
        };
        Some(GroupReport {
            name: group.name.clone(),
            kind: group.kind,
            role: group.role.clone(),
            layer: group.layer,
            block: group.block,
            parameters: group.size,
            slope: score.slope_mean,
            curvature: score.curvature_mean,
            value: score.value,
            influence: score.influence,
            interval: score.interval,
            rank: score.rank,
            rank_interval: score.rank_interval,
            acceptance: score.acceptance,
            low_confidence: score.low_confidence,
            insufficient_signal: score.insufficient_signal,
            learning_rate: measured.rates.get(number).copied().unwrap_or(0.0),
            kept: decision.is_some_and(|decision| decision.kept),
            reason,
        })
    }
}

/// The sets of the different rules, the one in use first.
fn sets(chosen: &Chosen) -> Vec<SetReport> {
    let mut sets: Vec<_> = chosen.selection.sets.iter().collect();
    sets.sort_by_key(|set| !set.used);
    sets.into_iter()
        .map(|set| SetReport {
            rule: format!("{:?}", set.solver).to_lowercase(),
            groups: set.groups.len(),
            parameters: set.parameters,
            value: set.value,
            coupled_value: set.coupled_value,
        })
        .collect()
}
