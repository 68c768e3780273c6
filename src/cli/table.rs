//! The table of groups by influence.

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width,
};

/// Width of the longest bar.
const BAR_WIDTH: usize = 12;
/// Eighths of a block, from an eighth to seven of them.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// One group, as the table shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRow {
    /// Name of the group.
    pub name: String,
    /// Kind of its modules.
    pub kind: String,
    /// Numbers in it.
    pub parameters: usize,
    /// Its score; the table is sorted by it.
    pub influence: f64,
    /// Bootstrap interval of the score.
    pub interval: Option<(f64, f64)>,
    /// Whether it is kept.
    pub kept: bool,
    /// Why, in a few words.
    pub reason: String,
}

/// How the table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableOptions {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether to use colour.
    pub color: bool,
    /// Most rows to show; `None` shows all.
    pub rows: Option<usize>,
}

/// Draws the groups, the most influential first; those left out are counted in the last line.
pub fn groups(rows: &[GroupRow], options: TableOptions) -> String {
    let mut sorted: Vec<&GroupRow> = rows.iter().collect();
    sorted.sort_by(|a, b| {
        b.influence
            .total_cmp(&a.influence)
            .then_with(|| a.name.cmp(&b.name))
    });
    let shown = options.rows.unwrap_or(sorted.len()).min(sorted.len());
    let largest = sorted
        .iter()
        .map(|row| row.influence)
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max);

    let mut table = plain_table(options.width, options.color);
    let heading = |text: &str| Cell::new(text).add_attribute(Attribute::Bold);
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    table.set_header(vec![
        heading("group"),
        heading("kind"),
        heading("parameters").set_alignment(CellAlignment::Right),
        heading("influence").set_alignment(CellAlignment::Right),
        heading(""),
        heading("interval"),
        heading(""),
        heading("reason"),
    ]);
    for row in sorted.iter().take(shown) {
        let fate = if row.kept {
            Cell::new("kept").fg(Color::Green)
        } else {
            Cell::new("dropped")
        };
        let interval = row.interval.map_or_else(String::new, |(low, high)| {
            format!("{} … {}", short(low), short(high))
        });
        table.add_row(vec![
            Cell::new(&row.name),
            Cell::new(&row.kind),
            number(count(row.parameters)),
            number(short(row.influence)),
            Cell::new(bar(row.influence, largest)),
            Cell::new(interval),
            fate,
            Cell::new(&row.reason).add_attribute(Attribute::Dim),
        ]);
    }
    // Bars of different lengths can only be compared when none is wrapped.
    if let Some(column) = table.column_mut(4) {
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(
            BAR_WIDTH as u16 + 2,
        )));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    if let Some(rest) = sorted.get(shown..).filter(|rest| !rest.is_empty()) {
        let kept = rest.iter().filter(|row| row.kept).count();
        text.push_str(&format!("… and {} more, {kept} of them kept\n", rest.len()));
    }
    text
}

/// A table without lines, as wide as its content, or as the terminal if that is narrower.
fn plain_table(width: usize, color: bool) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width).unwrap_or(u16::MAX));
    // Colour is decided by the printer, not by the table's own look at the terminal.
    if color {
        table.enforce_styling()
    } else {
        table.force_no_tty()
    };
    table
}

/// A number with thousands apart: `1,234,567`.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits, in the form that is shorter to read.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (0.001..1000.0).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

/// A bar of eighths of blocks, proportional to `value / largest`; empty for what is not positive.
fn bar(value: f64, largest: f64) -> String {
    if !(value > 0.0 && largest > 0.0 && value.is_finite()) {
        return String::new();
    }
    // Whatever is above zero is seen.
    let eighths =
        ((value / largest * (BAR_WIDTH * 8) as f64).round() as usize).clamp(1, BAR_WIDTH * 8);
    let mut text = "█".repeat(eighths / 8);
    text.extend(
        (eighths % 8)
            .checked_sub(1)
            .and_then(|part| EIGHTHS.get(part)),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, influence: f64, kept: bool) -> GroupRow {
        GroupRow {
            name: name.to_owned(),
            kind: "lora".to_owned(),
            parameters: 12_288,
            influence,
            interval: Some((influence / 2.0, influence * 2.0)),
            kept,
            reason: if kept {
                "in the best set".to_owned()
            } else {
                "too little influence".to_owned()
            },
        }
    }

    #[test]
    fn groups_are_sorted_by_influence_with_bars_in_proportion() {
        let rows = [
            row("query 0", 0.125, false),
            row("value 1", 0.5, true),
            row("dense 2", 0.0, false),
        ];
        let text = groups(
            &rows,
            TableOptions {
                width: 120,
                color: false,
                rows: None,
            },
        );
        let expected = "
 group    kind  parameters  influence                interval                  reason
 value 1  lora      12,288     0.5000  ████████████  0.2500 … 1.0000  kept     in the best set
 query 0  lora      12,288     0.1250  ███           0.0625 … 0.2500  dropped  too little influence
 dense 2  lora      12,288          0                0 … 0            dropped  too little influence
";
        assert_eq!(text, expected.trim_start_matches('\n'), "\n{text}");
    }

    #[test]
    fn rows_that_are_left_out_are_counted() {
        let rows: Vec<GroupRow> = (0..30)
            .map(|k| row(&format!("g{k:02}"), 1.0 + k as f64, k % 10 == 0))
            .collect();
        let text = groups(
            &rows,
            TableOptions {
                width: 120,
                color: false,
                rows: Some(20),
            },
        );
        assert_eq!(text.lines().count(), 22);
        assert!(text.ends_with("… and 10 more, 1 of them kept\n"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_wraps_and_colour_changes_no_word() {
        let rows = [row("encoder.layer.0.attention.self.query #0", 0.125, true)];
        let narrow = groups(
            &rows,
            TableOptions {
                width: 70,
                color: false,
                rows: None,
            },
        );
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 70),
            "{narrow}"
        );
        let plain = groups(
            &rows,
            TableOptions {
                width: 120,
                color: false,
                rows: None,
            },
        );
        let painted = groups(
            &rows,
            TableOptions {
                width: 120,
                color: true,
                rows: None,
            },
        );
        assert!(painted.contains("\u{1b}["));
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&console::strip_ansi_codes(&painted)), words(&plain));
    }

    #[test]
    fn odd_numbers_draw_nothing_and_do_no_harm() {
        let rows = [
            row("a", f64::NAN, false),
            row("b", -1.0, false),
            row("c", f64::INFINITY, false),
        ];
        let text = groups(
            &rows,
            TableOptions {
                width: 120,
                color: false,
                rows: None,
            },
        );
        assert!(!text.contains('█'), "{text}");
        assert_eq!(
            groups(
                &[],
                TableOptions {
                    width: 80,
                    color: false,
                    rows: None
                }
            )
            .lines()
            .count(),
            1
        );
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        let texts = [0, 999, 1_000, 22_713_216].map(count);
        assert_eq!(texts, ["0", "999", "1,000", "22,713,216"]);
    }
}
