//! Shows the library's progress: a bar on a terminal, a line now and then elsewhere, JSON lines with `--json`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle as BarStyle};
use serde_json::{Map, Value, json};

use super::printer::{Printer, ProgressStyle, lock};
use crate::progress::{Event, EventKind, Progress, StepInfo};

/// Lines a stage writes where there is no terminal.
const LINES_PER_STAGE: usize = 10;
/// Steps between lines of a stage of unknown length.
const STEPS_PER_LINE: usize = 50;

/// The listener of the terminal.
pub struct TerminalProgress {
    printer: Arc<Printer>,
    stage: Mutex<Option<Stage>>,
}

/// The stage under way.
struct Stage {
    name: String,
    total: Option<usize>,
    began: Instant,
    bar: Option<ProgressBar>,
    last: StepInfo,
}

impl TerminalProgress {
    /// Shows progress through this printer.
    pub fn new(printer: Arc<Printer>) -> Self {
        Self {
            printer,
            stage: Mutex::new(None),
        }
    }

    /// Tells of an event; one that cannot be written must not stop the work, the result will find out.
    fn tell(&self, kind: EventKind, fields: &impl serde::Serialize) {
        let _ = self.printer.event(&Event::new(kind, fields));
    }

    fn close(&self, stage: Stage) {
        if let Some(bar) = &stage.bar {
            bar.finish_and_clear();
            self.printer.bars().remove(bar);
        }
        let elapsed = stage.began.elapsed();
        match self.printer.progress_style() {
            // The bar is gone; one line stays to say what it was.
            ProgressStyle::Bar => self.printer.stderr_line(&stage.summary(elapsed)),
            ProgressStyle::Lines => self.printer.stderr_line(&stage.summary(elapsed)),
            ProgressStyle::Events => {
                let seconds = elapsed.as_secs_f64();
                self.tell(
                    EventKind::Finish,
                    &json!({ "stage": stage.name, "step": stage.last.step, "seconds": seconds }),
                );
            }
            ProgressStyle::None => {}
        }
    }
}

impl Progress for TerminalProgress {
    fn start(&self, stage: &str, total_steps: Option<usize>) {
        self.finish();
        let style = self.printer.progress_style();
        let bar = (style == ProgressStyle::Bar).then(|| {
            let bar = ProgressBar::no_length();
            if let Some(total) = total_steps {
                bar.set_length(total as u64);
            }
            let bar = self.printer.bars().add(bar);
            bar.set_style(bar_style(
                total_steps.is_some(),
                self.printer.stderr_color(),
            ));
            bar.set_prefix(stage.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if style == ProgressStyle::Events {
            self.tell(
                EventKind::Start,
                &json!({ "stage": stage, "total": total_steps }),
            );
        }
        let stage = Stage {
            name: stage.to_owned(),
            total: total_steps,
            began: Instant::now(),
            bar,
            last: StepInfo::default(),
        };
        *lock(&self.stage) = Some(stage);
    }

    fn step(&self, step: &StepInfo) {
        let mut guard = lock(&self.stage);
        let Some(stage) = guard.as_mut() else { return };
        stage.last = *step;
        if let Some(bar) = &stage.bar {
            bar.set_position(step.step as u64);
            bar.set_message(numbers(step).join("  "));
        }
        match self.printer.progress_style() {
            ProgressStyle::Lines if stage.has_line() => {
                let line = stage.line(stage.began.elapsed());
                drop(guard);
                self.printer.stderr_line(&line);
            }
            ProgressStyle::Events => {
                let mut fields =
                    Map::from_iter([("stage".to_owned(), Value::from(stage.name.clone()))]);
                if let Ok(Value::Object(step)) = serde_json::to_value(step) {
                    fields.extend(step);
                }
                drop(guard);
                self.tell(EventKind::Step, &fields);
            }
            _ => {}
        }
    }

    fn finish(&self) {
        let stage = lock(&self.stage).take();
        if let Some(stage) = stage {
            self.close(stage);
        }
    }

    fn note(&self, message: &str) {
        self.printer.note(message);
    }

    fn warn(&self, message: &str) {
        self.printer.warn(message);
    }

    fn event(&self, event: &Event) {
        let _ = self.printer.event(event);
    }
}

impl Drop for TerminalProgress {
    /// A bar must not stay behind an error.
    fn drop(&mut self) {
        if let Some(bar) = lock(&self.stage).take().and_then(|stage| stage.bar) {
            bar.finish_and_clear();
        }
    }
}

impl Stage {
    /// Whether this step gets a line where there is no terminal. The last step is left to the summary.
    fn has_line(&self) -> bool {
        let every = self
            .total
            .map_or(STEPS_PER_LINE, |total| total.div_ceil(LINES_PER_STAGE))
            .max(1);
        self.last.step.is_multiple_of(every) && Some(self.last.step) != self.total
    }

    /// `probe 40/100: loss 0.543, 12.3k tokens/s, 9 seconds left`.
    fn line(&self, elapsed: Duration) -> String {
        let of = self
            .total
            .map_or_else(String::new, |total| format!("/{total}"));
        let mut parts = numbers(&self.last);
        if let (Some(total), true) = (self.total, self.last.step > 0) {
            let left = elapsed.as_secs_f64() / self.last.step as f64
                * total.saturating_sub(self.last.step) as f64;
            let left = Duration::try_from_secs_f64(left).unwrap_or_default();
            parts.push(format!("{} left", HumanDuration(left)));
        }
        let separator = if parts.is_empty() { "" } else { ": " };
        format!(
            "{} {}{of}{separator}{}",
            self.name,
            self.last.step,
            parts.join(", ")
        )
    }

    /// `probe: 100 steps in 12 seconds, loss 0.321`.
    fn summary(&self, elapsed: Duration) -> String {
        let steps = match self.last.step {
            0 => "done".to_owned(),
            1 => "1 step".to_owned(),
            steps => format!("{steps} steps"),
        };
        let loss = self
            .last
            .loss
            .map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
        format!(
            "{}: {steps} in {:.1} s{loss}",
            self.name,
            elapsed.as_secs_f64()
        )
    }
}

/// Loss and speed, as far as they are known.
fn numbers(step: &StepInfo) -> Vec<String> {
    let loss = step.loss.map(|loss| format!("loss {loss:.4}"));
    let speed = step.tokens_per_second.map(|speed| match speed {
        speed if speed >= 1000.0 => format!("{:.1}k tokens/s", speed / 1000.0),
        speed => format!("{speed:.0} tokens/s"),
    });
    loss.into_iter().chain(speed).collect()
}

fn bar_style(has_length: bool, color: bool) -> BarStyle {
    let bar = if color {
        "{wide_bar:.cyan/dim}"
    } else {
        "{wide_bar}"
    };
    let template = if has_length {
        format!("{{prefix}} {bar} {{pos}}/{{len}}  {{msg}}  {{eta}} left")
    } else {
        "{prefix} {spinner} {pos}  {msg}  {elapsed}".to_owned()
    };
    let style = BarStyle::with_template(&template).unwrap_or_else(|_| BarStyle::default_bar());
    style.progress_chars("━━─")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::printer::{Format, Verbosity};
    use crate::cli::test_support::Capture;

    fn run(verbosity: Verbosity, format: Format) -> (String, String) {
        let (stdout, stderr) = (Capture::default(), Capture::default());
        let printer = Printer::with_writers(verbosity, format, stdout.writer(), stderr.writer());
        let progress = TerminalProgress::new(Arc::new(printer));
        progress.note("reading");
        progress.start("probe", Some(20));
        for step in 1..=20 {
            let loss = Some(1.0 / step as f64);
            progress.step(&StepInfo {
                step,
                loss,
                tokens_per_second: Some(1234.0),
                ..StepInfo::default()
            });
        }
        progress.finish();
        progress.warn("one class is rare");
        progress.event(&Event::new(EventKind::Select, &json!({ "kept": 3 })));
        (stdout.text(), stderr.text())
    }

    #[test]
    fn without_a_terminal_a_stage_writes_ten_lines_to_stderr() {
        let (stdout, stderr) = run(Verbosity::Normal, Format::Text);
        assert_eq!(stdout, "");
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 12, "{stderr}");
        assert_eq!(lines[0], "reading");
        assert!(
            lines[1].starts_with("probe 2/20: loss 0.5000, 1.2k tokens/s, "),
            "{stderr}"
        );
        assert!(lines[1].ends_with(" left"));
        assert!(lines[10].starts_with("probe: 20 steps in "), "{stderr}");
        assert!(lines[10].ends_with(", loss 0.0500"));
        assert_eq!(lines[11], "warning: one class is rare");
    }

    #[test]
    fn quiet_shows_warnings_only() {
        let (stdout, stderr) = run(Verbosity::Quiet, Format::Text);
        assert_eq!(
            (stdout.as_str(), stderr.as_str()),
            ("", "warning: one class is rare\n")
        );
    }

    #[test]
    fn json_lines_go_to_stdout_and_the_first_names_the_schema() {
        let (stdout, stderr) = run(Verbosity::Normal, Format::Json);
        assert_eq!(stderr, "");
        let lines: Vec<Value> = stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON line"))
            .collect();
        assert_eq!(
            lines[0],
            json!({ "event": "note", "schema": 1, "message": "reading" })
        );
        assert_eq!(
            lines[1],
            json!({ "event": "start", "stage": "probe", "total": 20 })
        );
        assert_eq!(
            lines[2],
            json!({ "event": "step", "stage": "probe", "step": 1, "loss": 1.0, "tokens_per_second": 1234.0 })
        );
        assert_eq!(lines[22]["event"], "finish");
        assert_eq!(
            lines[23],
            json!({ "event": "warning", "message": "one class is rare" })
        );
        assert_eq!(lines[24], json!({ "event": "select", "kept": 3 }));
        assert!(
            lines
                .iter()
                .skip(1)
                .all(|line| line.get("schema").is_none())
        );
    }

    #[test]
    fn a_stage_of_unknown_length_writes_a_line_every_fifty_steps() {
        let stderr = Capture::default();
        let printer = Printer::with_writers(
            Verbosity::Normal,
            Format::Text,
            Capture::default().writer(),
            stderr.writer(),
        );
        let progress = TerminalProgress::new(Arc::new(printer));
        progress.start("reading", None);
        for step in 1..=120 {
            progress.step(&StepInfo {
                step,
                ..StepInfo::default()
            });
        }
        progress.start("next", None);
        let text = stderr.text();
        assert!(
            text.starts_with("reading 50\nreading 100\nreading: 120 steps in "),
            "{text}"
        );
    }
}
