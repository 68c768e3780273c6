//! The recipes inside the binary: one list for the program, the tests and the documentation.

/// A recipe inside the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    /// Its name, as `--recipe` takes it.
    pub name: &'static str,
    /// Its YAML text.
    pub text: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
}

/// Every embedded recipe. To add one, write the file and add its entry.
pub const EMBEDDED: &[Embedded] = &[
    Embedded {
        name: "quickstart",
        text: include_str!("../../recipes/quickstart.yaml"),
        about: "the embedded tiny model and data set, offline, in under a minute",
    },
    Embedded {
        name: "text-classification",
        text: include_str!("../../recipes/text-classification.yaml"),
        about: "one label for a text or a pair of texts; every key with its default and meaning",
    },
    Embedded {
        name: "causal-lm",
        text: include_str!("../../recipes/causal-lm.yaml"),
        about: "the next token of a text, or of what follows a prompt",
    },
    Embedded {
        name: "instruction",
        text: include_str!("../../recipes/instruction.yaml"),
        about: "what the assistant says in a chat, in the model's own chat template",
    },
];

/// The embedded recipe of this name.
pub fn embedded(name: &str) -> Option<&'static Embedded> {
    EMBEDDED.iter().find(|recipe| recipe.name == name)
}
