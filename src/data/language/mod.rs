//! Rows for language models: plain texts, prompts with their completions, or conversations.

mod columns;
mod encode;
mod load;
mod pack;

pub use columns::{PassageColumns, PassageNames};
pub use encode::{Learned, PassageEncoder};
pub use load::{Content, Passage, PassageSpec, Passages, load_passages, read_passages};
pub use pack::pack;
