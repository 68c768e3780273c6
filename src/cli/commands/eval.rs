//! `autopeft eval`: the value of a result on labelled rows.

use std::sync::Arc;

use serde_json::json;

use crate::cli::args::EvalArgs;
use crate::cli::{ExitStatus, Failure, Printer};
use crate::data::language::read_passages;
use crate::data::{self, ColumnNames, Source};
use crate::pipeline;
use crate::progress::{Event, EventKind};

/// Runs the verb.
///
/// # Errors
/// When the result, its base model or the rows cannot be used.
pub fn run(args: &EvalArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    let recipe = args.recipe()?;
    let adapted = super::open(&args.dir, &recipe, &args.model, &args.compute)?;
    if args.generate.is_some() && !adapted.is_language() {
        return Err(Failure::new(
            "`--generate` is for language models, and this result has a head",
        )
        .at(format!("folder `{}`", args.dir.display()))
        .hint("leave `--generate` out")
        .into());
    }
    let columns = ColumnNames {
        pairing: adapted.manifest.pairing(),
        ..pipeline::column_names(&recipe)
    };
    let source = Source::File(args.data.clone());
    let skip = recipe.data.skip_bad_rows;
    let mut overlap = None;
    let (skipped, evaluation) = match &adapted.manifest.labels {
        Some(labels) => {
            let kind = pipeline::label_kind(adapted.manifest.task);
            let rows = data::load_targets(&source, &columns, kind, labels, skip)?;
            (rows.skipped, adapted.evaluate(&rows.rows)?)
        }
        None => {
            let names = pipeline::passage_names(&recipe);
            let (passages, _, bad) = read_passages(&source, &names, true, skip)?;
            let encoded = adapted.encode_passages(&recipe, &passages)?;
            if let Some(lost) = pipeline::lost_rows(&encoded, adapted.manifest.max_length) {
                printer.warn(&lost);
            }
            let evaluation = adapted.evaluate_encoded(&encoded)?;
            if let Some(most) = args.generate {
                let options = args.generation.options();
                let told = &mut |done| printer.detail(&format!("generated {done} of {most}"));
                overlap = adapted.score_generation(&recipe, &passages, most, &options, told)?;
                if overlap.is_none() {
                    printer.warn("no row has a completion, so nothing was generated");
                }
            }
            (Some(bad), evaluation)
        }
    };
    if let Some(skipped) = skipped.filter(|skipped| skipped.total > 0) {
        printer.warn(&format!(
            "skipped {} bad rows of `{}`",
            skipped.total, skipped.file
        ));
    }
    let mut lines = vec![
        format!("{:<16} {}", "rows", evaluation.examples),
        format!("{:<16} {:.4}", "loss", evaluation.loss),
    ];
    for (name, value) in evaluation.named() {
        lines.push(format!("{name:<16} {value:.4}"));
    }
    let mut fields = json!(evaluation);
    if let Some((overlap, prompts)) = overlap {
        lines.push(format!("{:<16} {prompts}", "prompts"));
        lines.push(format!("{:<16} {:.2}", "BLEU", overlap.bleu));
        for (name, value) in [
            ("ROUGE-1", overlap.rouge.rouge1),
            ("ROUGE-2", overlap.rouge.rouge2),
            ("ROUGE-L", overlap.rouge.rouge_l),
        ] {
            lines.push(format!("{name:<16} {value:.4}"));
        }
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("prompts".to_string(), json!(prompts));
            fields.insert("generation".to_string(), json!(overlap));
        }
    }
    printer.result(&lines.join("\n"))?;
    printer.event(&Event::new(EventKind::Result, &fields))?;
    Ok(ExitStatus::Done)
}
