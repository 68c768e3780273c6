//! `autopeft select`: measures, chooses, exports.

use std::sync::Arc;

use crate::cli::args::SelectArgs;
use crate::cli::summary::{self, Summary};
use crate::cli::table::{self, GroupRow, TableOptions};
use crate::cli::{ExitStatus, Printer};
use crate::pipeline::{self, Outcome};
use crate::progress::{Event, EventKind};
use crate::report::SelectionReport;

/// Groups in the table; `selection.json` has all.
const ROWS: usize = 24;

/// Runs the verb.
///
/// # Errors
/// Those of [`pipeline::select`].
pub fn run(args: &SelectArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    let recipe = args.recipe()?;
    let outcome = super::write_result(&args.run, printer, |out, progress, interrupt| {
        pipeline::select(&recipe, out, progress, interrupt)
    })?;
    show(&outcome, printer)?;
    Ok(ExitStatus::Done)
}

fn show(outcome: &Outcome, printer: &Printer) -> anyhow::Result<()> {
    let report = &outcome.report;
    let rows: Vec<GroupRow> = report
        .groups
        .iter()
        .map(|group| GroupRow {
            name: group.name.clone(),
            kind: group.kind.to_string(),
            parameters: group.parameters,
            influence: group.influence,
            interval: Some(group.interval),
            kept: group.kept,
            reason: group.reason.clone(),
        })
        .collect();
    let options = TableOptions {
        width: printer.stdout_width(),
        color: printer.stdout_color(),
        rows: Some(ROWS),
    };
    printer.result(&table::groups(&rows, options))?;
    printer.result(&summary::render(&summary(outcome), printer.stdout_color()))?;
    if outcome.written.bottleneck.is_some() && outcome.written.peft.is_some() {
        printer.hint("bottleneck adapters survived, so PEFT alone cannot load it: README.md there says how; `--target peft` avoids it");
    }
    printer.event(&Event::new(EventKind::Summary, report))?;
    Ok(())
}

fn summary(outcome: &Outcome) -> Summary {
    let report: &SelectionReport = &outcome.report;
    let (metric, metrics) = super::metrics(&report.held_out, report.head_parameters);
    Summary {
        groups_kept: report.groups.iter().filter(|group| group.kept).count(),
        groups: report.groups.len(),
        parameters_before: report.superset_parameters,
        parameters_after: report.kept_parameters,
        parameters_model: report.model.parameters,
        metric,
        metrics,
        out: outcome.written.folder.clone(),
        next: super::next(&outcome.written.folder),
    }
}
