//! Writes the trimmed adapter, reads it back, and compares.

use std::path::{Path, PathBuf};

use autopeft_adapters::adapterhub::{self, AdapterHubOptions};
use autopeft_adapters::peft::{self, PeftOptions, PeftSummary, TaskType};
use autopeft_adapters::{Adapters, Kind};
use serde_json::json;

use super::measure::Measured;
use super::prepare::{Prepared, pooling};
use super::recorder::Recorder;
use crate::data::Encoded;
use crate::error::{Error, Result};
use crate::export::{OutputFolder, TOLERANCE, largest_difference};
use crate::models::Model;
use crate::progress::EventKind;
use crate::recipe::Target;
use crate::report::{self, Manifest, SELECTION_FILE, SelectionReport};
use crate::train::logits;

/// Name of the bottleneck adapter within a model of AdapterHub.
const ADAPTER_NAME: &str = "autopeft";
/// Held-out rows on which the export is compared.
const VERIFIED_ROWS: usize = 64;

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The result.
    pub folder: PathBuf,
    /// The PEFT checkpoint, within the result.
    pub peft: Option<PathBuf>,
    /// The AdapterHub folder, within the result.
    pub bottleneck: Option<PathBuf>,
    /// Largest difference of a logit after reading back.
    pub difference: f64,
    /// Rows on which it was compared.
    pub verified_rows: usize,
    /// Module that carries a LoRA of zeros for PEFT's sake.
    pub placeholder: Option<String>,
}

/// Writes everything into the temporary folder, verifies it, and gives it its name.
pub fn run(
    prepared: &Prepared<'_>,
    report: &SelectionReport,
    folder: OutputFolder,
    recorder: &Recorder<'_>,
) -> Result<Written> {
    let recipe = prepared.recipe;
    let has = |kind: Kind| {
        let mut parameters = prepared.adapters.parameters().into_iter();
        parameters.any(|parameter| {
            parameter.kind() == kind && parameter.state() != autopeft_adapters::State::Dropped
        })
    };
    let has_bottleneck = has(Kind::Bottleneck);
    let mut written = Written {
        folder: folder.target().to_path_buf(),
        peft: None,
        bottleneck: None,
        difference: 0.0,
        verified_rows: 0,
        placeholder: None,
    };
    if recipe.export.target != Target::Adapterhub {
        // Beside a bottleneck the checkpoint is not the whole adapter, so it is put where no loader takes
        // it for one.
        let place = if has_bottleneck {
            Path::new(peft::FOLDER)
        } else {
            Path::new("")
        };
        let summary = write_peft(prepared, &folder.path().join(place))?;
        written.placeholder = summary.placeholder;
        written.peft = Some(place.to_path_buf());
    }
    if has_bottleneck || recipe.export.target == Target::Adapterhub {
        let place = folder.path().join(adapterhub::FOLDER);
        create(&place)?;
        adapterhub::write(&place, &prepared.adapters, &adapterhub_options(prepared))?;
        written.bottleneck = Some(adapterhub::FOLDER.into());
    }
    let rows = verified_rows(prepared);
    written.verified_rows = rows.rows.len();
    written.difference = verify(prepared, folder.path(), &rows)?;
    if written.difference > TOLERANCE {
        return Err(Error::NotVerified {
            path: folder.target().to_path_buf(),
            difference: written.difference,
        });
    }
    recorder.event(
        EventKind::Export,
        &json!({"folder": written.folder, "peft": written.peft, "bottleneck": written.bottleneck,
                "largest_difference": written.difference, "verified_rows": written.verified_rows}),
    )?;
    let manifest = Manifest {
        schema: Manifest::SCHEMA,
        base_model: recipe.model.clone(),
        revision: recipe.revision.clone(),
        model_type: prepared.base.config.model_type.clone(),
        labels: prepared.dataset.labels.clone(),
        pooling: recipe.task.pooling,
        max_length: prepared.max_length,
        target: recipe.export.target,
        pairs: prepared.dataset.columns.pair.is_some(),
    };
    folder.write(report::MANIFEST_FILE, &pretty(&manifest))?;
    folder.write(SELECTION_FILE, &pretty(report))?;
    folder.write("recipe.yaml", &recipe.resolved_yaml())?;
    folder.write("README.md", &report::card(report, &manifest, &written))?;
    recorder.flush()?;
    folder.commit()?;
    Ok(written)
}

/// Writes what is known of a run that was stopped.
pub fn partial(prepared: &Prepared<'_>, measured: &Measured, folder: &OutputFolder) -> Result<()> {
    folder.write("recipe.yaml", &prepared.recipe.resolved_yaml())?;
    folder.write("measurements.json", &pretty(&measured.outcome.measurements))?;
    if !measured.scores.is_empty() {
        folder.write(SELECTION_FILE, &pretty(&prepared.report(measured, None)?))?;
    }
    Ok(())
}

fn pretty(value: &impl serde::Serialize) -> String {
    // Plain structs of numbers and strings: there is nothing in them that JSON cannot hold.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("creating", folder))
}

fn write_peft(prepared: &Prepared<'_>, folder: &Path) -> Result<PeftSummary> {
    create(folder)?;
    let options = PeftOptions {
        base_model: prepared.recipe.model.clone(),
        task: TaskType::SequenceClassification,
        lora_dropout: prepared.recipe.superset.lora.dropout,
    };
    Ok(peft::write(folder, &prepared.adapters, &options)?)
}

fn adapterhub_options(prepared: &Prepared<'_>) -> AdapterHubOptions {
    let config = &prepared.base.config;
    AdapterHubOptions {
        name: ADAPTER_NAME.to_string(),
        model_class: config.family.class_name().to_string(),
        model_type: config.model_type.clone(),
        model_name: prepared.recipe.model.clone(),
        base_prefix: config.family.base_model_prefix().to_string(),
        labels: prepared.dataset.labels.names().to_vec(),
    }
}

/// Rows over the whole range of lengths.
fn verified_rows(prepared: &Prepared<'_>) -> Encoded {
    let rows = &prepared.validation.rows;
    let step = rows.len().div_ceil(VERIFIED_ROWS).max(1);
    Encoded {
        rows: rows.iter().step_by(step).cloned().collect(),
        ..Encoded::default()
    }
}

/// Largest difference between the logits of the trained model and of the one that the files make.
fn verify(prepared: &Prepared<'_>, folder: &Path, rows: &Encoded) -> Result<f64> {
    let adapters = Adapters::load(folder)?;
    let loaded = prepared.base.build(
        &adapters,
        prepared.dataset.labels.len(),
        pooling(prepared.recipe.task.pooling),
        prepared.dtype,
        &prepared.device,
    )?;
    adapters.check_used()?;
    let of = |model: &dyn Model| {
        logits(
            model,
            rows,
            prepared.padding(),
            prepared.eval_batch_size(),
            &prepared.device,
        )
    };
    Ok(largest_difference(&of(&*prepared.model)?, &of(&*loaded)?))
}
