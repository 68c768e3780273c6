//! The model card of a merged model.

use std::fmt::Write;

use super::card::front_matter;
use super::manifest::Manifest;
use crate::pipeline::MergedModel;

/// How the line begins by which a merged model is known to be one.
pub(super) const MERGED_MARK: &str = "Written by `autopeft ";

/// Markdown with what was merged into what, and how to load it.
pub fn merged_card(model: &MergedModel, manifest: &Manifest) -> String {
    let mut text = front_matter(manifest, "transformers");
    // Writing into a `String` cannot fail.
    let _ = writeln!(
        text,
        "# `{}` with an adapter in its weights\n\n\
         {MERGED_MARK}{} merge`: {} numbers in {}. {} weights contain a LoRA; {} tensors of norms, biases and heads are the \
         adapter's.\n",
        manifest.base_model,
        env!("CARGO_PKG_VERSION"),
        model.parameters,
        model.dtype,
        model.low_rank,
        model.own,
    );
    if let Some(labels) = &manifest.labels {
        let _ = writeln!(text, "Labels: {}.\n", labels.names().join(", "));
    }
    let class = match manifest.task.is_language() {
        true => "AutoModelForCausalLM",
        false => "AutoModelForSequenceClassification",
    };
    let _ = writeln!(
        text,
        "```python\nfrom transformers import AutoTokenizer, {class}\n\
         model = {class}.from_pretrained(\"THIS_FOLDER\")\n\
         tokenizer = AutoTokenizer.from_pretrained(\"THIS_FOLDER\")\n```\n"
    );
    let _ = writeln!(
        text,
        "Read back before this folder got its name: the largest difference of a logit to the base model with the adapter beside it \
         was {:.1e} on {} sequences of random tokens.",
        model.difference, model.verified_rows
    );
    text
}
