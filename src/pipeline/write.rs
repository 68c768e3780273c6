//! Writes the trimmed adapter, reads it back, and compares.

use std::path::{Path, PathBuf};

use autopeft_adapters::Adapters;
use autopeft_adapters::peft::LoraScale;
use serde_json::json;

use super::measure::Measured;
use super::prepare::{Prepared, objective};
use super::recorder::Recorder;
use crate::data::{Encoded, LabelOrder, Labels};
use crate::error::{Error, Result};
use crate::export::{AdapterOptions, OutputFolder, TOLERANCE, largest_difference, write_adapter};
use crate::progress::EventKind;
use crate::report::{self, MEASUREMENTS_FILE, Manifest, Report, SELECTION_FILE};
use crate::task::Objective;
use crate::train::outputs;

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
    report: Report<'_>,
    folder: OutputFolder,
    recorder: &Recorder<'_>,
) -> Result<Written> {
    let recipe = prepared.recipe;
    let files = write_adapter(
        folder.path(),
        &prepared.adapters,
        &AdapterOptions {
            base_model: &recipe.model,
            config: &prepared.base.config,
            labels: prepared.data.label_names(),
            task: recipe.task.kind,
            lora_dropout: recipe.superset.lora.dropout,
            lora_scale: scale(report),
            target: recipe.export.target,
        },
    )
    .map_err(|error| folder.shown(error))?;
    let rows = verified_rows(prepared);
    let difference = verify(prepared, folder.path(), &rows).map_err(|error| folder.shown(error))?;
    let written = Written {
        folder: folder.target().to_path_buf(),
        peft: files.peft,
        bottleneck: files.bottleneck,
        difference,
        verified_rows: rows.rows.len(),
        placeholder: files.placeholder,
    };
    if difference > TOLERANCE {
        return Err(Error::NotVerified {
            path: folder.target().to_path_buf(),
            difference,
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
        base_path: prepared.base.local_path(),
        revision: recipe.revision.clone(),
        commit: prepared.base.commit().map(str::to_owned),
        model_type: prepared.base.config.model_type.clone(),
        task: recipe.task.kind,
        labels: prepared.data.labels.clone(),
        label_order: (prepared.data.labels.as_ref())
            .map_or_else(LabelOrder::default, Labels::order),
        pooling: recipe.task.pooling,
        max_length: prepared.max_length,
        target: recipe.export.target,
        pairs: prepared.data.pairs,
        prompts: prepared.data.prompts,
    };
    folder.write(report::MANIFEST_FILE, &pretty(&manifest))?;
    folder.write(report.file(), &pretty(&report))?;
    folder.write("recipe.yaml", &recipe.resolved_yaml())?;
    folder.write("README.md", &report::card(report, &manifest, &written))?;
    recorder.flush()?;
    folder.commit()?;
    Ok(written)
}

/// What was trained is written for whoever uses it, what was not for whoever trains it.
fn scale(report: Report<'_>) -> LoraScale {
    match report {
        Report::Transfer(report) if !report.is_trained() => LoraScale::Written,
        Report::Transfer(_) | Report::Selection(_) => LoraScale::Folded,
    }
}

/// Writes what is known of a run that was stopped.
pub fn partial(prepared: &Prepared<'_>, measured: &Measured, folder: &OutputFolder) -> Result<()> {
    folder.write("recipe.yaml", &prepared.recipe.resolved_yaml())?;
    folder.write(MEASUREMENTS_FILE, &pretty(&measured.outcome.measurements))?;
    if !measured.scores.is_empty() {
        folder.write(SELECTION_FILE, &pretty(&prepared.report(measured, None)?))?;
    }
    Ok(())
}

fn pretty(value: &impl serde::Serialize) -> String {
    // Plain structs of numbers and strings: there is nothing in them that JSON cannot hold.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Rows over the whole range of lengths.
fn verified_rows(prepared: &Prepared<'_>) -> Encoded {
    let rows = &prepared.data.validation.rows;
    let step = rows.len().div_ceil(VERIFIED_ROWS).max(1);
    Encoded {
        rows: rows.iter().step_by(step).cloned().collect(),
        ..Encoded::default()
    }
}

/// Largest difference between the logits of the trained model and of the one that the files make.
fn verify(prepared: &Prepared<'_>, folder: &Path, rows: &Encoded) -> Result<f64> {
    let adapters = Adapters::load(folder)?;
    let loaded = objective(
        &prepared.base,
        &adapters,
        prepared.data.labels.as_ref().map(Labels::len),
        prepared.recipe.task.pooling,
        prepared.dtype,
        &prepared.device,
    )?;
    adapters.check_used()?;
    let of = |model: &dyn Objective| {
        outputs(
            model,
            rows,
            prepared.padding(),
            prepared.eval_batch_size(),
            &prepared.device,
        )
    };
    Ok(largest_difference(&of(&*prepared.model)?, &of(&*loaded)?))
}
