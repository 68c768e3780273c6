//! The model card, `README.md` of a result.

use std::fmt::Write;

use autopeft_adapters::Kind;

use super::Report;
use super::manifest::Manifest;
use super::selection::{DataReport, HeldOut, SelectionReport, Stage};
use super::transfer::TransferReport;
use crate::pipeline::Written;
use crate::recipe::TaskKind;

/// Markdown with the numbers of the run and how to load the adapter.
pub fn card(report: Report<'_>, manifest: &Manifest, written: &Written) -> String {
    let mut text = front_matter(manifest, "peft");
    // Writing into a `String` cannot fail.
    let _ = writeln!(text, "# Adapter of `{}`\n", manifest.base_model);
    match report {
        Report::Selection(report) => {
            text.push_str(&selection(report));
            text.push_str(&loading(manifest, written, Use::Apply));
        }
        Report::Transfer(report) => {
            text.push_str(&transfer(report));
            let then = match report.is_trained() {
                true => Use::Apply,
                false => Use::Train,
            };
            text.push_str(&loading(manifest, written, then));
        }
    }
    text
}

fn selection(report: &SelectionReport) -> String {
    let share = 100.0 * report.kept_parameters as f64 / report.model.parameters.max(1) as f64;
    let mut text = format!(
        "Selected by `autopeft` {}: {} of {} parameters of the superset are kept ({share:.3} % of the model), \
         and a head of {}.\n\n",
        report.version, report.kept_parameters, report.superset_parameters, report.head_parameters
    );
    if !report.left_out.is_empty() {
        let kinds: Vec<&str> = report.left_out.iter().map(|kind| kind.name()).collect();
        let _ = writeln!(
            text,
            "Not measured, since the kind that comes first fills the budget: {}.\n",
            kinds.join(", ")
        );
    }
    text.push_str(&values(&report.held_out, report.head_parameters));
    text.push_str(&rows(&report.data));
    text.push_str(&kept_groups(report));
    text
}

fn transfer(report: &TransferReport) -> String {
    let origin = &report.origin;
    let share = |kept: usize, of: usize| 100.0 * kept as f64 / of.max(1) as f64;
    let mut text = format!(
        "Chosen by `autopeft` {} on `{}`, a model of {} layers, and carried over to the {} layers of this one: nothing was \
         measured here. There {} of {} groups were kept, with {} parameters ({:.3} % of the model). Here the same roles, rank \
         blocks and relative depths are {} of {} groups, with {} parameters ({:.3} %), and a head of {}.\n\n",
        report.version,
        origin.model,
        origin.layers,
        report.layers.len(),
        origin.kept_groups,
        origin.groups,
        origin.kept_parameters,
        share(origin.kept_parameters, origin.parameters),
        report.kept().count(),
        report.superset_groups,
        report.kept_parameters,
        share(report.kept_parameters, report.model.parameters),
        report.head_parameters
    );
    match &report.data {
        Some(data) => {
            text.push_str(&values(&report.held_out, report.head_parameters));
            text.push_str(&rows(data));
        }
        None => {
            text.push_str("It is **not trained**: every module starts where it changes nothing");
            if !report.model.fresh.is_empty() {
                let _ = write!(
                    text,
                    ", and `{}` starts at random",
                    report.model.fresh.join("`, `")
                );
            }
            text.push_str(".\n\n");
            if report.kept().any(|group| group.kind == Kind::Bias) {
                text.push_str(
                    "PEFT has one switch for biases: it would train all of them, not those alone that are kept. Freeze the \
                     others (`requires_grad = False`) if that is not wanted.\n\n",
                );
            }
        }
    }
    text.push_str("## Kept groups\n\n| group | parameters | as in layer |\n|---|---|---|\n");
    for group in report.kept() {
        let from = (group.from_layer).map_or(String::new(), |layer| layer.to_string());
        let _ = writeln!(text, "| `{}` | {} | {from} |", group.name, group.parameters);
    }
    text.push_str("\n`transfer.json` has the same for programs.\n\n");
    text
}

fn values(held_out: &[HeldOut], head_parameters: usize) -> String {
    let mut text = String::new();
    let measures: Vec<&str> = (held_out.first())
        .map(|held_out| held_out.evaluation.named())
        .unwrap_or_default()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let _ = writeln!(
        text,
        "## Held-out values\n\n| stage | steps | loss | {} |",
        measures.join(" | ")
    );
    let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(measures.len()));
    for held_out in held_out {
        let stage = match held_out.stage {
            Stage::Untrained if head_parameters == 0 => "base model",
            Stage::Untrained => "untrained head",
            Stage::Superset => "superset, end of the probe",
            Stage::Dropped => "dropped groups at the identity",
            Stage::Trimmed => "trimmed adapter",
        };
        let evaluation = held_out.evaluation;
        let values: Vec<String> = (evaluation.named().iter())
            .map(|(_, value)| format!("{value:.4}"))
            .collect();
        let _ = writeln!(
            text,
            "| {stage} | {} | {:.4} | {} |",
            held_out.steps,
            evaluation.loss,
            values.join(" | ")
        );
    }
    text.push('\n');
    text
}

fn rows(data: &DataReport) -> String {
    let labels = match data.labels.as_slice() {
        [] => String::new(),
        labels => format!("; labels: {}", labels.join(", ")),
    };
    format!(
        "{} rows to train, {} held out{labels}.\n\n",
        data.train, data.validation
    )
}

pub(super) fn front_matter(manifest: &Manifest, library: &str) -> String {
    let base = match manifest.base_model.contains(':') {
        true => String::new(),
        false => format!("base_model: {}\n", manifest.base_model),
    };
    format!(
        "---\nlibrary_name: {library}\n{base}tags:\n- autopeft\n- {}\n---\n\n",
        manifest.task
    )
}

fn kept_groups(report: &SelectionReport) -> String {
    let mut text = String::from(
        "## Kept groups, by influence\n\n| group | parameters | influence | interval | rate |\n|---|---|---|---|---|\n",
    );
    for group in report.groups.iter().filter(|group| group.kept) {
        let _ = writeln!(
            text,
            "| `{}` | {} | {:.3e} | {:.2e} to {:.2e} | {:.2e} |",
            group.name,
            group.parameters,
            group.influence,
            group.interval.0,
            group.interval.1,
            group.learning_rate
        );
    }
    text.push_str("\n`selection.json` has every group, kept or dropped, with the reason.\n\n");
    text
}

/// What an adapter is loaded for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Apply,
    Train,
}

fn loading(manifest: &Manifest, written: &Written, then: Use) -> String {
    let labels = manifest.label_names().len();
    let base = &manifest.base_model;
    let mut text = String::from("## Loading\n\n");
    match (&written.peft, &written.bottleneck) {
        (Some(_), None) => {
            let problem = match (manifest.task, manifest.task.problem_type()) {
                // What it is taken for without being told.
                (TaskKind::TextClassification, _) | (_, None) => String::new(),
                (_, Some(problem)) => format!(", problem_type=\"{problem}\""),
            };
            let (class, arguments) = if manifest.task.is_language() {
                ("AutoModelForCausalLM", String::new())
            } else {
                let arguments = format!(", num_labels={labels}{problem}");
                ("AutoModelForSequenceClassification", arguments)
            };
            let trainable = match then {
                Use::Apply => "",
                Use::Train => ", is_trainable=True",
            };
            let _ = writeln!(
                text,
                "```python\nfrom transformers import {class}\nfrom peft import PeftModel\n\
                 base = {class}.from_pretrained(\"{base}\"{arguments})\n\
                 model = PeftModel.from_pretrained(base, \"THIS_FOLDER\"{trainable})\n```\n"
            );
        }
        (Some(peft), Some(bottleneck)) => {
            let _ = writeln!(
                text,
                "Bottleneck adapters survived, which PEFT has no format for. `{}` holds the PEFT part and `{}` the \
                 AdapterHub part; only both together are the adapter. For PEFT alone, select again with \
                 `--target peft`.\n",
                peft.display(),
                bottleneck.display()
            );
        }
        (None, _) => {
            let _ = writeln!(
                text,
                "```python\nfrom adapters import AutoAdapterModel, init\nfrom transformers import \
                 AutoModelForSequenceClassification\nmodel = AutoModelForSequenceClassification.from_pretrained(\"{base}\", \
                 num_labels={labels})\ninit(model)\nname = model.load_adapter(\"THIS_FOLDER/bottleneck\", \
                 use_safetensors=True)\nmodel.set_active_adapters(name)\n```\n"
            );
        }
    }
    if let Some(module) = &written.placeholder {
        let _ = writeln!(
            text,
            "`{module}` carries a LoRA of zeros: PEFT loads biases and heads only beside one.\n"
        );
    }
    let on = match then {
        Use::Apply => "held-out rows",
        Use::Train => "texts",
    };
    let _ = writeln!(
        text,
        "Read back before this folder got its name: the largest difference of a logit was {:.1e} on {} {on}.",
        written.difference, written.verified_rows
    );
    text
}
