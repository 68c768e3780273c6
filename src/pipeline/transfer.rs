//! Carries a choice that was made on a small model to a larger one of its family, without a probe.

use std::path::{Path, PathBuf};

use autopeft_adapters::{Kind, Superset};
use serde_json::json;

use super::finish::{train_set, trim};
use super::measure::{Measured, held_out};
use super::prepare::{Opened, Prepared, superset};
use super::recorder::Recorder;
use super::rows::TaskRows;
use super::write::{self, Written};
use crate::data::Labels;
use crate::error::{Error, Result};
use crate::export::{Input, OutputFolder};
use crate::groups::{self, Place, TransferError, counterpart};
use crate::interrupt::Interrupt;
use crate::progress::{EventKind, Progress};
use crate::recipe::Recipe;
use crate::report::{
    CarriedGroup, MANIFEST_FILE, Manifest, OriginReport, Report, SELECTION_FILE, SelectionReport,
    Stage, TransferReport,
};

/// A result of [`select`](super::select), whose choice is carried over.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its folder.
    pub folder: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What was measured and chosen.
    pub report: SelectionReport,
}

impl Origin {
    /// Reads a result.
    ///
    /// # Errors
    /// [`TransferError`] when the folder is none, or its run was stopped before it chose.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = || folder.to_path_buf();
        let not_a_result = |reason: String| TransferError::NotAResult {
            path: path(),
            reason,
        };
        if !folder.is_dir() {
            return Err(not_a_result("there is no such folder".to_string()).into());
        }
        // What a stopped run leaves has no manifest, and its report says so.
        let report = folder.join(SELECTION_FILE).is_file();
        let report = report.then(|| SelectionReport::read(folder)).transpose()?;
        match report {
            None => Err(not_a_result(format!("it has no `{SELECTION_FILE}`")).into()),
            Some(report) if !report.complete => {
                Err(TransferError::Unfinished { path: path() }.into())
            }
            Some(_) if !folder.join(MANIFEST_FILE).is_file() => {
                Err(not_a_result(format!("it has no `{MANIFEST_FILE}`")).into())
            }
            Some(report) => Ok(Self {
                folder: path(),
                manifest: Manifest::read(folder)?,
                report,
            }),
        }
    }

    /// Where the groups are that it kept.
    pub fn kept(&self) -> Vec<Place> {
        let kept = self.report.groups.iter().filter(|group| group.kept);
        kept.map(|group| group.place()).collect()
    }

    fn report(&self) -> OriginReport {
        let competing = || {
            let groups = self.report.groups.iter();
            groups.filter(|group| !matches!(group.kind, Kind::Head | Kind::Base))
        };
        OriginReport {
            folder: self.folder.clone(),
            model: self.report.model.source.clone(),
            layers: self.report.num_layers(),
            parameters: self.report.model.parameters,
            method: self.report.method.clone(),
            budget: self.report.budget,
            kept_groups: competing().filter(|group| group.kept).count(),
            groups: competing().count(),
            kept_parameters: self.report.kept_parameters,
        }
    }
}

/// What becomes of the modules on the larger model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Training {
    /// They are written as they start: changing nothing, with a head for the labels of the selection. What trains them is
    /// somebody else.
    None,
    /// They are trained on the recipe's rows over its whole horizon.
    WholeHorizon,
}

/// What a run of [`transfer`] made.
#[derive(Debug)]
pub struct Transferred {
    /// The answer.
    pub report: TransferReport,
    /// The files.
    pub written: Written,
}

/// Carries the choice of `origin` to the recipe's model, and writes the adapter to `out`, trained or not.
///
/// The recipe's superset and grouping are what the choice is made of, so they have to be those of the selection; its budget,
/// probe is not used.
///
/// # Errors
/// [`TransferError`] when the choice does not fit the model. [`Error::Interrupted`] when a stop was asked for: then the folder
/// that the error names has the training's log. Any other error leaves `out` as it was.
pub fn transfer(
    origin: &Origin,
    recipe: &Recipe,
    training: Training,
    out: &Path,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Transferred> {
    let mut inputs = super::inputs(recipe);
    inputs.push(Input::new(
        "the result whose choice is carried over",
        &origin.folder,
    ));
    let folder = OutputFolder::prepare(out, recipe.export.force, &inputs)?;
    let recorder = Recorder::new(progress, &folder)?;
    let (prepared, kept) = prepare(origin, recipe, training, &recorder)?;
    trim(&prepared.groups, &kept);
    let measured = match training {
        Training::None => Measured::default(),
        Training::WholeHorizon => train(&prepared, &kept, &recorder, interrupt)?,
    };
    if measured.interrupted() {
        folder.write("recipe.yaml", &recipe.resolved_yaml())?;
        recorder.flush()?;
        let path = folder.commit_partial()?;
        return Err(Error::Interrupted { path });
    }
    let report = report(origin, &prepared, &kept, training, &measured);
    let written = write::run(&prepared, Report::Transfer(&report), folder, &recorder)?;
    Ok(Transferred { report, written })
}

/// The larger model with the superset, and which of its groups are kept.
fn prepare<'r>(
    origin: &Origin,
    recipe: &'r Recipe,
    training: Training,
    recorder: &Recorder<'_>,
) -> Result<(Prepared<'r>, Vec<bool>)> {
    let opened = Opened::new(recipe, recorder.progress)?;
    let (got, expected) = (&opened.base.config.model_type, &origin.manifest.model_type);
    if got != expected {
        return Err(TransferError::OtherFamily {
            model: recipe.model.clone(),
            got: got.clone(),
            expected: expected.clone(),
        }
        .into());
    }
    let data = match training {
        Training::WholeHorizon => {
            TaskRows::read(recipe, &opened.base, opened.max_length, recorder)?
        }
        Training::None => TaskRows {
            prompts: origin.manifest.prompts,
            ..TaskRows::untaught(
                recipe,
                &opened.base,
                labels(origin, recipe)?,
                origin.manifest.pairs,
                opened.max_length,
                recorder.progress,
            )?
        },
    };
    // Reference weights are for measuring alone.
    let superset = Superset {
        base: false,
        ..superset(recipe, recorder.progress)?
    };
    let prepared = opened.attach(recipe, data, superset, None, recorder)?;
    let (from, to) = (origin.report.num_layers(), prepared.base.config.num_layers);
    let kept = groups::transfer(&origin.kept(), from, &prepared.groups, to)?;
    let chosen = (prepared.groups.iter().zip(&kept))
        .filter(|(group, kept)| **kept && !group.is_head())
        .map(|(group, _)| group.size);
    recorder.event(
        EventKind::Select,
        &json!({"from": origin.folder, "layers": from, "to_layers": to, "kept": chosen.clone().count(),
                "of": prepared.groups.len(), "parameters": chosen.sum::<usize>()}),
    )?;
    Ok((prepared, kept))
}

/// Labels of the head that the task has.
fn labels(origin: &Origin, recipe: &Recipe) -> Result<Option<Labels>> {
    if recipe.task.kind.is_language() {
        return Ok(None);
    }
    match &origin.manifest.labels {
        Some(labels) => Ok(Some(labels.clone())),
        None => Err(TransferError::NoLabels {
            path: origin.folder.clone(),
            task: recipe.task.kind.to_string(),
        }
        .into()),
    }
}

/// The head's warm-up and the training of the set, with the values on held-out rows around them.
fn train(
    prepared: &Prepared<'_>,
    kept: &[bool],
    recorder: &Recorder<'_>,
    interrupt: &Interrupt,
) -> Result<Measured> {
    let mut measured = Measured::default();
    held_out(prepared, &mut measured, Stage::Untrained, recorder)?;
    let every = prepared.recipe.select.refit;
    train_set(prepared, &mut measured, kept, every, recorder, interrupt)?;
    if !measured.interrupted() {
        held_out(prepared, &mut measured, Stage::Trimmed, recorder)?;
    }
    Ok(measured)
}

fn report(
    origin: &Origin,
    prepared: &Prepared<'_>,
    kept: &[bool],
    training: Training,
    measured: &Measured,
) -> TransferReport {
    let (from, to) = (origin.report.num_layers(), prepared.base.config.num_layers);
    let groups: Vec<CarriedGroup> = (prepared.groups.iter().zip(kept).enumerate())
        .filter(|(_, (_, kept))| **kept)
        .map(|(number, (group, _))| CarriedGroup {
            name: group.name.clone(),
            kind: group.kind,
            role: group.role.clone(),
            layer: group.layer,
            from_layer: group.layer.map(|layer| counterpart(layer, from, to)),
            block: group.block,
            parameters: group.size,
            learning_rate: measured.rates.get(number).copied(),
        })
        .collect();
    let competing = prepared.groups.iter().filter(|group| !group.is_head());
    let kept_sizes = groups.iter().filter(|group| group.kind != Kind::Head);
    TransferReport {
        schema: TransferReport::SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_string(),
        origin: origin.report(),
        model: prepared.model_report(),
        layers: (0..to).map(|layer| counterpart(layer, from, to)).collect(),
        data: (training == Training::WholeHorizon).then(|| prepared.data_report()),
        steps: measured.steps,
        superset_groups: competing.count(),
        superset_parameters: prepared.superset_parameters(),
        kept_parameters: kept_sizes.map(|group| group.parameters).sum(),
        head_parameters: prepared.head_parameters(),
        held_out: measured.held_out.clone(),
        groups,
    }
}
