//! Errors as the user reads them: what, where, what to do.
//!
//! ```text
//! error: cannot read the recipe `mine.yaml`
//!   cause: Permission denied (os error 13)
//! hint: …
//! ```

use std::error::Error;
use std::io;

use super::printer::Printer;
use super::status::ExitStatus;
use super::style::{Role, paint};
use crate::data::DataError;
use crate::progress::{Event, EventKind};
use crate::recipe::RecipeError;

/// An error of a command itself, with its place and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    place: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// An error with this message: lower case, no full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            place: None,
            hint: None,
        }
    }

    /// Says where it happened: a file, a line, a model.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Shows an error on stderr, and as an event with `--json`.
pub fn show(error: &anyhow::Error, printer: &Printer) {
    let hint = hint_of(error);
    printer.stderr_line(&render(error, hint.as_deref(), printer.stderr_color()));
    let causes: Vec<String> = causes(error);
    let fields =
        serde_json::json!({ "message": error.to_string(), "causes": causes, "hint": hint });
    // The error is on stderr already; a closed stdout changes nothing.
    let _ = printer.event(&Event::new(EventKind::Error, &fields));
}

/// How the program ends with this error. Some are no faults: an answer of "no", a stop by the user, a reader that has
/// seen enough.
pub fn status_of(error: &anyhow::Error) -> ExitStatus {
    if find::<io::Error>(error).is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
        return ExitStatus::Done;
    }
    match find::<crate::Error>(error) {
        Some(crate::Error::Interrupted { .. } | crate::Error::Stopped) => ExitStatus::Interrupted,
        Some(crate::Error::Select(error)) if error.is_answer_no() => ExitStatus::No,
        _ => ExitStatus::Error,
    }
}

/// What the error's own type says to do.
fn hint_of(error: &anyhow::Error) -> Option<String> {
    let library = find::<crate::Error>(error).and_then(crate::Error::hint);
    // The verbs that use a result read its recipe and their rows themselves.
    let recipe = || find::<RecipeError>(error).and_then(RecipeError::hint);
    let data = || find::<DataError>(error).and_then(DataError::hint);
    let own = || find::<Failure>(error).and_then(|failure| failure.hint.clone());
    library.or_else(recipe).or_else(data).or_else(own)
}

/// The first error of this type, whether it was given as a context or is a cause.
fn find<T: Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&T> {
    let as_context = error.downcast_ref::<T>();
    as_context.or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<T>()))
}

/// The texts of the causes, leaving out those that the message above them already contains.
fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut above = error.to_string();
    let mut causes = Vec::new();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !above.contains(&text) {
            causes.push(text.clone());
        }
        above = text;
    }
    causes
}

fn render(error: &anyhow::Error, hint: Option<&str>, color: bool) -> String {
    let mut text = format!("{} {error}\n", paint(Role::Error, "error:", color));
    if let Some(place) = find::<Failure>(error).and_then(|failure| failure.place.as_ref()) {
        text.push_str(&format!("  in {place}\n"));
    }
    for cause in causes(error) {
        text.push_str(&format!("  cause: {}\n", cause.replace('\n', "\n  ")));
    }
    if let Some(hint) = hint {
        text.push_str(&format!("{} {hint}\n", paint(Role::Hint, "hint:", color)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::SelectError;

    #[test]
    fn an_error_says_what_where_why_and_what_to_do() {
        let cause = io::Error::other("disk on fire");
        let failure = Failure::new("no result in `out`")
            .at("folder `out`, line 3")
            .hint("run `autopeft select`");
        let error = anyhow::Error::new(cause).context(failure);
        let hint = hint_of(&error);
        assert_eq!(
            render(&error, hint.as_deref(), false),
            "error: no result in `out`\n  in folder `out`, line 3\n  cause: disk on fire\nhint: run `autopeft select`\n"
        );
    }

    #[test]
    fn a_cause_that_repeats_the_message_is_left_out() {
        let error = anyhow::Error::new(io::Error::other("disk on fire"))
            .context("cannot write: disk on fire");
        assert_eq!(
            render(&error, None, false),
            "error: cannot write: disk on fire\n"
        );
    }

    #[test]
    fn a_fault_of_the_data_keeps_its_hint_wherever_it_is_found() {
        let fault = || DataError::Empty {
            file: "rows.jsonl".into(),
        };
        let library = anyhow::Error::new(crate::Error::from(fault()));
        for error in [anyhow::Error::new(fault()), library] {
            assert_eq!(
                render(&error, hint_of(&error).as_deref(), false),
                "error: `rows.jsonl` is empty\nhint: give a file with rows\n"
            );
        }
    }

    #[test]
    fn colour_changes_no_word() {
        let error = anyhow::Error::new(Failure::new("no").hint("yes"));
        let painted = render(&error, Some("yes"), true);
        assert!(painted.contains("\u{1b}["));
        assert_eq!(
            console::strip_ansi_codes(&painted),
            render(&error, Some("yes"), false)
        );
    }

    #[test]
    fn a_closed_pipe_is_found_below_its_context() {
        let pipe = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(
            status_of(&pipe.context("cannot show the result")),
            ExitStatus::Done
        );
        assert_eq!(
            status_of(&anyhow::anyhow!("another error")),
            ExitStatus::Error
        );
    }

    #[test]
    fn an_answer_of_no_and_a_stop_are_no_faults() {
        let unreachable = SelectError::Unreachable {
            budget: 5,
            smallest: 384,
        };
        let no = anyhow::Error::new(crate::Error::from(unreachable));
        assert_eq!(status_of(&no), ExitStatus::No);
        assert_eq!(
            render(&no, hint_of(&no).as_deref(), false),
            "error: no group fits a budget of 5 parameters; the smallest useful group has 384\n\
             hint: the smallest reachable budget is `384`\n"
        );
        let stopped = anyhow::Error::new(crate::Error::Interrupted { path: "out".into() });
        assert_eq!(status_of(&stopped), ExitStatus::Interrupted);
        let fault = anyhow::Error::new(crate::Error::from(SelectError::NoGroups));
        assert_eq!(status_of(&fault), ExitStatus::Error);
    }
}
