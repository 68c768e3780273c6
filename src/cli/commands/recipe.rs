//! `autopeft recipe ls|show|check`: what recipes there are, what is in them, and what is wrong with one.

use serde_json::json;

use crate::cli::args::{RecipeArgs, RecipeCheckArgs, RecipeCommand, RecipeShowArgs};
use crate::cli::printer::Format;
use crate::cli::{ExitStatus, Printer};
use crate::progress::{Event, EventKind};
use crate::recipe::{self, EMBEDDED, KEYS, Recipe, RecipeError};

/// Runs the verb.
///
/// # Errors
/// When a recipe cannot be read, or stdout cannot be written to.
pub fn run(args: &RecipeArgs, printer: &Printer) -> anyhow::Result<ExitStatus> {
    match &args.command {
        RecipeCommand::Ls => list(printer),
        RecipeCommand::Show(args) => show(args, printer),
        RecipeCommand::Check(args) => check(args, printer),
    }
}

fn list(printer: &Printer) -> anyhow::Result<ExitStatus> {
    let width = EMBEDDED
        .iter()
        .map(|recipe| recipe.name.len())
        .max()
        .unwrap_or(0);
    for recipe in EMBEDDED {
        printer.result(&format!("{:width$}  {}", recipe.name, recipe.about))?;
    }
    let recipes: Vec<_> = EMBEDDED
        .iter()
        .map(|recipe| json!({ "name": recipe.name, "about": recipe.about }))
        .collect();
    printer.event(&Event::new(
        EventKind::Result,
        &json!({ "recipes": recipes }),
    ))?;
    Ok(ExitStatus::Done)
}

fn show(args: &RecipeShowArgs, printer: &Printer) -> anyhow::Result<ExitStatus> {
    let Some(name) = args.name.as_ref().filter(|_| !args.docs) else {
        printer.result(&recipe::markdown())?;
        let keys: Vec<_> = KEYS
            .iter()
            .map(|key| {
                let (value, default) = (key.form.to_string(), recipe::default_of(key));
                json!({ "key": key.path, "value": value, "default": default, "meaning": key.meaning })
            })
            .collect();
        printer.event(&Event::new(EventKind::Result, &json!({ "keys": keys })))?;
        return Ok(ExitStatus::Done);
    };
    if printer.format() == Format::Json {
        let recipe = Recipe::load(name, &args.set)?;
        printer.event(&Event::new(
            EventKind::Result,
            &json!({ "name": name, "recipe": recipe }),
        ))?;
    } else if args.resolved || !args.set.is_empty() {
        printer.result(&Recipe::load(name, &args.set)?.resolved_yaml())?;
    } else {
        printer.result(&recipe::text_of(name)?)?;
    }
    Ok(ExitStatus::Done)
}

fn check(args: &RecipeCheckArgs, printer: &Printer) -> anyhow::Result<ExitStatus> {
    let mut status = ExitStatus::Done;
    for name in &args.names {
        let faults = match Recipe::load(name, &args.set) {
            Ok(_) => Vec::new(),
            Err(RecipeError::Invalid { faults, .. }) => faults,
            Err(error) => return Err(error.into()),
        };
        let valid = faults.is_empty();
        if valid {
            printer.result(&format!("{name}: valid"))?;
        } else {
            status = ExitStatus::No;
            for fault in &faults {
                printer.result(&format!("{name}: {fault}"))?;
            }
        }
        let fields = json!({ "name": name, "valid": valid, "faults": faults });
        printer.event(&Event::new(EventKind::Result, &fields))?;
    }
    if status == ExitStatus::No {
        printer.hint("`autopeft recipe show --docs` lists every key");
    }
    Ok(status)
}
