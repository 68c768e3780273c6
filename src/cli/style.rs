//! Colours by role; what they say is always said in words too.

use console::Style;

/// What a coloured piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The word `error:`.
    Error,
    /// The word `warning:`.
    Warning,
    /// The word `hint:`.
    Hint,
    /// What was kept, what is done.
    Good,
    /// What matters less.
    Faint,
    /// Headings.
    Heading,
}

/// The text in its colour, or as it is.
pub(super) fn paint(role: Role, text: &str, color: bool) -> String {
    let style = match role {
        Role::Error => Style::new().red().bold(),
        Role::Warning => Style::new().yellow().bold(),
        Role::Hint => Style::new().cyan().bold(),
        Role::Good => Style::new().green(),
        Role::Faint => Style::new().dim(),
        Role::Heading => Style::new().bold(),
    };
    style.force_styling(color).apply_to(text).to_string()
}
