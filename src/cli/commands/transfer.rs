//! `autopeft transfer`: carries a choice to a larger model.

use std::sync::Arc;

use crate::cli::args::TransferArgs;
use crate::cli::summary::{self, Summary};
use crate::cli::{ExitStatus, Printer};
use crate::pipeline::{self, Origin, Transferred};
use crate::progress::{Event, EventKind};
use crate::report::TransferReport;

/// Runs the verb.
///
/// # Errors
/// Those of [`pipeline::transfer`], and flags that would be ignored.
pub fn run(args: &TransferArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    args.check_training()?;
    let origin = Origin::read(&args.result)?;
    let (recipe, training) = (args.recipe()?, args.training());
    let outcome = super::write_result(&args.run, printer, |out, progress, interrupt| {
        pipeline::transfer(&origin, &recipe, training, out, progress, interrupt)
    })?;
    show(&outcome, printer)?;
    Ok(ExitStatus::Done)
}

fn show(outcome: &Transferred, printer: &Printer) -> anyhow::Result<()> {
    let report = &outcome.report;
    let summary = summary::render(&summary(outcome), printer.stdout_color());
    printer.result(&format!("{}\n{summary}", words(report)))?;
    let written = &outcome.written;
    if written.bottleneck.is_some() && written.peft.is_some() {
        printer.hint(
            "there are bottleneck adapters, so PEFT alone cannot load it: README.md there says how",
        );
    }
    printer.event(&Event::new(EventKind::Summary, report))?;
    Ok(())
}

/// Where the choice came from.
fn words(report: &TransferReport) -> String {
    let origin = &report.origin;
    let mut words = format!(
        "chosen on {}: {} of {} groups in {} layers, carried to {} layers",
        origin.model,
        origin.kept_groups,
        origin.groups,
        origin.layers,
        report.layers.len()
    );
    if !report.is_trained() {
        words.push_str("; not trained, so it changes nothing yet");
    }
    words
}

fn summary(outcome: &Transferred) -> Summary {
    let report = &outcome.report;
    let (metric, metrics) = super::metrics(&report.held_out, report.head_parameters);
    let folder = outcome.written.folder.display();
    let next = if report.is_trained() {
        super::next(&outcome.written.folder)
    } else {
        vec![
            format!("autopeft inspect {folder}"),
            format!(
                "PeftModel.from_pretrained(base, \"{folder}\", is_trainable=True)  # in Python"
            ),
        ]
    };
    Summary {
        groups_kept: report.kept().count(),
        groups: report.superset_groups,
        parameters_before: report.superset_parameters,
        parameters_after: report.kept_parameters,
        parameters_model: report.model.parameters,
        metric,
        metrics,
        out: outcome.written.folder.clone(),
        next,
    }
}
