//! The model card, `README.md` of a result.

use std::fmt::Write;

use super::manifest::Manifest;
use super::selection::{SelectionReport, Stage};
use crate::pipeline::Written;
use crate::recipe::TaskKind;

/// Markdown with the numbers of the run and how to load the adapter.
pub fn card(report: &SelectionReport, manifest: &Manifest, written: &Written) -> String {
    let mut text = String::new();
    // Writing into a `String` cannot fail.
    let _ = write!(text, "{}", front_matter(manifest));
    let _ = writeln!(text, "# Adapter of `{}`\n", manifest.base_model);
    let share = 100.0 * report.kept_parameters as f64 / report.model.parameters.max(1) as f64;
    let _ = writeln!(
        text,
        "Selected by `autopeft` {}: {} of {} parameters of the superset are kept ({share:.3} % of the model), \
         and a head of {}.\n",
        report.version, report.kept_parameters, report.superset_parameters, report.head_parameters
    );
    let measures: Vec<&str> = (report.held_out.first())
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
    for held_out in &report.held_out {
        let stage = match held_out.stage {
            Stage::Untrained if report.head_parameters == 0 => "base model",
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
    let labels = match report.data.labels.as_slice() {
        [] => String::new(),
        labels => format!("; labels: {}", labels.join(", ")),
    };
    let _ = writeln!(
        text,
        "\n{} rows to train, {} held out{labels}.\n",
        report.data.train, report.data.validation
    );
    text.push_str(&race(report));
    text.push_str(&kept_groups(report));
    text.push_str(&loading(manifest, written));
    text
}

fn front_matter(manifest: &Manifest) -> String {
    let base = match manifest.base_model.contains(':') {
        true => String::new(),
        false => format!("base_model: {}\n", manifest.base_model),
    };
    format!(
        "---\nlibrary_name: peft\n{base}tags:\n- autopeft\n- {}\n---\n\n",
        manifest.task
    )
}

fn race(report: &SelectionReport) -> String {
    if report.race.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "## Race\n\nSets within the budget, trained against each other from the same start.\n\n\
         | set | parameters | steps | loss |\n|---|---|---|---|\n",
    );
    for placing in &report.race {
        let loss = (placing.loss).map_or("diverged".to_string(), |loss| format!("{loss:.4}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {loss} |",
            placing.set, placing.parameters, placing.steps
        );
    }
    text.push('\n');
    text
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

fn loading(manifest: &Manifest, written: &Written) -> String {
    let labels = manifest.label_names().len();
    let base = &manifest.base_model;
    let mut text = String::from("## Loading\n\n");
    match (&written.peft, &written.bottleneck) {
        (Some(_), None) => {
            let problem = match manifest.task {
                TaskKind::Regression => ", problem_type=\"regression\"",
                TaskKind::MultiLabel => ", problem_type=\"multi_label_classification\"",
                TaskKind::TextClassification | TaskKind::CausalLm | TaskKind::Instruction => "",
            };
            let (class, arguments) = if manifest.task.is_language() {
                ("AutoModelForCausalLM", String::new())
            } else {
                let arguments = format!(", num_labels={labels}{problem}");
                ("AutoModelForSequenceClassification", arguments)
            };
            let _ = writeln!(
                text,
                "```python\nfrom transformers import {class}\nfrom peft import PeftModel\n\
                 base = {class}.from_pretrained(\"{base}\"{arguments})\n\
                 model = PeftModel.from_pretrained(base, \"THIS_FOLDER\")\n```\n"
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
    let _ = writeln!(
        text,
        "Read back before this folder got its name: the largest difference of a logit was {:.1e} on {} held-out rows.",
        written.difference, written.verified_rows
    );
    text
}
