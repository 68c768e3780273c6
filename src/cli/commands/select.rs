//! `autopeft select`: measures, chooses, exports.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use autopeft_adapters::hardware;

use crate::cli::args::SelectArgs;
use crate::cli::summary::{self, Summary};
use crate::cli::table::{self, GroupRow, TableOptions};
use crate::cli::{ExitStatus, Printer, TerminalProgress, run_folder, signals};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::pipeline::{self, Outcome};
use crate::progress::{Event, EventKind};
use crate::report::{SelectionReport, Stage};

/// Where runs without `--out` go.
const RUNS: &str = "runs";
/// Groups in the table; `selection.json` has all.
const ROWS: usize = 24;

/// Runs the verb.
///
/// # Errors
/// Those of [`pipeline::select`].
pub fn run(args: &SelectArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    let recipe = args.recipe()?;
    super::use_threads(args.compute.threads)?;
    let products = super::check_products()?;
    if hardware::HAS_SYSTEM_BLAS && products == hardware::CRATE && !hardware::is_blas_chosen() {
        printer.warn(&format!(
            "no BLAS was found on this system, so {products} computes; `autopeft doctor` says more"
        ));
    }
    let interrupt = Interrupt::default();
    let flag = interrupt.clone();
    signals::on_interrupt(move || flag.raise())?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => fresh_folder()?,
    };
    let progress = TerminalProgress::new(printer.clone());
    let outcome = pipeline::select(&recipe, &out, &progress, &interrupt);
    if outcome.is_err() && args.out.is_none() {
        // An empty numbered folder says nothing; one with a partial result is not empty and stays.
        let _ = std::fs::remove_dir(&out);
    }
    show(&outcome?, printer)?;
    Ok(ExitStatus::Done)
}

fn fresh_folder() -> Result<PathBuf, Error> {
    run_folder::fresh(Path::new(RUNS)).map_err(Error::io("creating", RUNS))
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
    let folder = outcome.written.folder.display();
    Summary {
        groups_kept: report.groups.iter().filter(|group| group.kept).count(),
        groups: report.groups.len(),
        parameters_before: report.superset_parameters,
        parameters_after: report.kept_parameters,
        parameters_model: report.model.parameters,
        metric: (report.held_out.first())
            .map_or("loss", |held_out| held_out.evaluation.main().0)
            .to_string(),
        metrics: report
            .held_out
            .iter()
            .filter_map(|held_out| {
                let stage = match held_out.stage {
                    Stage::Untrained if report.head_parameters == 0 => "base model",
                    Stage::Untrained => "untrained head",
                    Stage::Superset => "superset",
                    Stage::Dropped => return None,
                    Stage::Trimmed => "trimmed",
                };
                Some((stage.to_string(), held_out.evaluation.main().1))
            })
            .collect(),
        out: outcome.written.folder.clone(),
        next: vec![
            format!("autopeft eval {folder} --data test.jsonl"),
            format!("echo 'some text' | autopeft predict {folder}"),
        ],
    }
}
