//! `autopeft inspect`: what could be attached to a model, or what an adapter holds.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::cli::args::InspectArgs;
use crate::cli::table::count;
use crate::cli::{ExitStatus, Printer};
use crate::pipeline::{self, AdapterContents, ModelContents};
use crate::progress::{Event, EventKind};

/// Runs the verb.
///
/// # Errors
/// When the model or adapter cannot be opened.
pub fn run(args: &InspectArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    let path = Path::new(&args.path);
    if pipeline::is_adapter(path) {
        let contents = pipeline::inspect_adapter(path)?;
        printer.result(&adapter_text(&contents))?;
        printer.event(&Event::new(EventKind::Result, &json!(contents)))?;
    } else {
        let contents = pipeline::inspect_model(&args.recipe()?)?;
        printer.result(&model_text(&contents))?;
        printer.event(&Event::new(EventKind::Result, &json!(contents)))?;
    }
    Ok(ExitStatus::Done)
}

fn share(parameters: usize, of: usize) -> String {
    format!("{:.3}%", 100.0 * parameters as f64 / of.max(1) as f64)
}

fn model_text(contents: &ModelContents) -> String {
    let mut lines = vec![
        format!(
            "{} ({}): {} parameters, {} layers",
            contents.model,
            contents.model_type,
            count(contents.parameters),
            contents.layers
        ),
        String::new(),
        format!(
            "{:12} {:>7} {:>12} {:>10}",
            "kind", "groups", "parameters", "share"
        ),
    ];
    for kind in &contents.kinds {
        lines.push(format!(
            "{:12} {:>7} {:>12} {:>10}",
            kind.kind,
            kind.groups,
            count(kind.parameters),
            share(kind.parameters, contents.parameters)
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:52} {:>6} {:>18}",
        "module (`*` is the layer)", "layers", "in → out"
    ));
    for module in &contents.modules {
        lines.push(format!(
            "{:52} {:>6} {:>18}",
            module.path, module.count, module.shape
        ));
    }
    lines.join("\n")
}

fn adapter_text(contents: &AdapterContents) -> String {
    let mut lines = vec![format!(
        "{}: adapter of `{}`, {} parameters",
        contents.folder,
        contents.base_model,
        count(contents.parameters)
    )];
    if !contents.labels.is_empty() {
        lines.push(format!("labels: {}", contents.labels.join(", ")));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:64} {:24} {:>10}",
        "module", "holds", "parameters"
    ));
    for module in &contents.modules {
        lines.push(format!(
            "{:64} {:24} {:>10}",
            module.path,
            module.holds,
            count(module.parameters)
        ));
    }
    lines.join("\n")
}
