//! The one place that decides what is shown and where.
//!
//! Stdout carries the result and nothing else; progress, notes, warnings, hints and errors go to stderr. With `--json`
//! stdout carries JSON lines and stderr only errors.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressDrawTarget};

use super::style::{Role, paint};
use crate::progress::{Event, EventKind};

/// Version of the JSON lines; raised when a field changes its meaning or goes away.
pub const JSON_SCHEMA: u32 = 1;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How much to tell on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Also progress and notes.
    #[default]
    Normal,
    /// Also details.
    Verbose,
}

/// The form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// JSON lines.
    Json,
}

/// One of the two outputs.
struct Channel {
    writer: Mutex<Box<dyn Write + Send>>,
    color: bool,
    is_terminal: bool,
    width: usize,
}

/// Decides what is shown, and shows it.
pub struct Printer {
    verbosity: Verbosity,
    format: Format,
    stdout: Channel,
    stderr: Channel,
    /// Bars live here, so that a line printed between two steps does not tear one apart.
    bars: MultiProgress,
    /// Whether the first JSON line, which names the schema, is still to come.
    schema_pending: Mutex<bool>,
}

impl Printer {
    /// A printer on the process's own stdout and stderr.
    pub fn new(verbosity: Verbosity, format: Format, color: ColorChoice) -> Self {
        let stdout = console::Term::stdout();
        let stderr = console::Term::stderr();
        let out_is_terminal = io::stdout().is_terminal();
        let err_is_terminal = io::stderr().is_terminal();
        let printer = Self {
            verbosity,
            format,
            stdout: Channel {
                writer: Mutex::new(Box::new(io::stdout())),
                color: use_color(color, out_is_terminal),
                is_terminal: out_is_terminal,
                width: stdout
                    .size_checked()
                    .map_or(DEFAULT_WIDTH, |(_, columns)| usize::from(columns)),
            },
            stderr: Channel {
                writer: Mutex::new(Box::new(io::stderr())),
                color: use_color(color, err_is_terminal),
                is_terminal: err_is_terminal,
                width: stderr
                    .size_checked()
                    .map_or(DEFAULT_WIDTH, |(_, columns)| usize::from(columns)),
            },
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            schema_pending: Mutex::new(true),
        };
        if printer.progress_style() == ProgressStyle::Bar {
            printer.bars.set_draw_target(ProgressDrawTarget::stderr());
        }
        printer
    }

    /// A printer on other writers, for tests and for programs that embed the commands. They are no terminals.
    pub fn with_writers(
        verbosity: Verbosity,
        format: Format,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
    ) -> Self {
        let channel = |writer| Channel {
            writer: Mutex::new(writer),
            color: false,
            is_terminal: false,
            width: DEFAULT_WIDTH,
        };
        Self {
            verbosity,
            format,
            stdout: channel(stdout),
            stderr: channel(stderr),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            schema_pending: Mutex::new(true),
        }
    }

    /// Shows the result, or a part of it. Nothing with `--json`; see [`Printer::event`].
    ///
    /// # Errors
    /// When stdout cannot be written to; a closed pipe ends the program in peace.
    pub fn result(&self, text: &str) -> io::Result<()> {
        match self.format {
            Format::Text => self.write(&self.stdout, text),
            Format::Json => Ok(()),
        }
    }

    /// Writes a line of a result that is the same in every format.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn line(&self, line: &str) -> io::Result<()> {
        self.write(&self.stdout, line)
    }

    /// Writes a piece of a text that comes bit by bit, without a new line.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn piece(&self, text: &str) -> io::Result<()> {
        let mut writer = lock(&self.stdout.writer);
        writer.write_all(text.as_bytes())?;
        writer.flush()
    }

    /// Shows an event as a JSON line, with `--json` only. The first line of a run names the schema.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn event(&self, event: &Event) -> io::Result<()> {
        if self.format != Format::Json {
            return Ok(());
        }
        let first = std::mem::take(&mut *lock(&self.schema_pending));
        self.write(&self.stdout, &event.line(first.then_some(JSON_SCHEMA)))
    }

    /// Shows something worth knowing. Not with `-q`.
    pub fn note(&self, message: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.tell(EventKind::Note, message, message);
        }
    }

    /// Shows something for the curious. With `-v` only.
    pub fn detail(&self, message: &str) {
        if self.verbosity >= Verbosity::Verbose {
            self.tell(
                EventKind::Note,
                message,
                &paint(Role::Faint, message, self.stderr.color),
            );
        }
    }

    /// Shows something that may spoil the result.
    pub fn warn(&self, message: &str) {
        let label = paint(Role::Warning, "warning:", self.stderr.color);
        self.tell(EventKind::Warning, message, &format!("{label} {message}"));
    }

    /// Shows what to do next. Not with `-q`, and not with `--json`.
    pub fn hint(&self, message: &str) {
        if self.verbosity >= Verbosity::Normal && self.format == Format::Text {
            let label = paint(Role::Hint, "hint:", self.stderr.color);
            self.stderr_line(&format!("{label} {message}"));
        }
    }

    /// Writes a line to stderr, whatever the verbosity: for errors and lines of progress.
    pub(super) fn stderr_line(&self, line: &str) {
        // Nothing can be done when stderr is gone.
        let _ = self.write(&self.stderr, line);
    }

    /// How progress is shown.
    pub fn progress_style(&self) -> ProgressStyle {
        match (self.format, self.verbosity, self.stderr.is_terminal) {
            (Format::Json, _, _) => ProgressStyle::Events,
            (Format::Text, Verbosity::Quiet, _) => ProgressStyle::None,
            (Format::Text, _, true) => ProgressStyle::Bar,
            (Format::Text, _, false) => ProgressStyle::Lines,
        }
    }

    /// Where bars are drawn.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// How much is told.
    pub fn verbosity(&self) -> Verbosity {
        self.verbosity
    }

    /// The form of the result.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether stdout is coloured.
    pub fn stdout_color(&self) -> bool {
        self.stdout.color
    }

    /// Whether stderr is coloured.
    pub fn stderr_color(&self) -> bool {
        self.stderr.color
    }

    /// Columns of stdout.
    pub fn stdout_width(&self) -> usize {
        self.stdout.width
    }

    /// Columns of stderr.
    pub fn stderr_width(&self) -> usize {
        self.stderr.width
    }

    fn tell(&self, kind: EventKind, message: &str, line: &str) {
        match self.format {
            Format::Text => self.stderr_line(line),
            Format::Json => {
                let event = Event::new(kind, &serde_json::json!({ "message": message }));
                // A closed pipe is found by the next result; a message must not stop the work.
                let _ = self.event(&event);
            }
        }
    }

    fn write(&self, channel: &Channel, line: &str) -> io::Result<()> {
        self.bars.suspend(|| {
            let mut writer = lock(&channel.writer);
            writer.write_all(line.as_bytes())?;
            if !line.ends_with('\n') {
                writer.write_all(b"\n")?;
            }
            writer.flush()
        })
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressStyle {
    /// A bar that redraws itself.
    Bar,
    /// A line now and then, where stderr is no terminal.
    Lines,
    /// JSON lines on stdout.
    Events,
    /// Nothing.
    None,
}

/// Columns where there is no terminal.
const DEFAULT_WIDTH: usize = 100;

/// <https://no-color.org>: set and not empty means no colour, unless the user asks for it by a flag.
fn use_color(choice: ColorChoice, is_terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
            is_terminal && !no_color && !dumb
        }
    }
}

/// A lock that outlives a panic of another holder: what is printed then is still better than nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
