//! The names under which a checkpoint may hold the tensor that a model asks for.
//!
//! Model code asks for the names of the task model, `bert.encoder.layer.0.output.LayerNorm.weight`. A checkpoint of the bare encoder lacks
//! the prefix `bert.`, and one converted from TensorFlow says `gamma` and `beta` for a norm's `weight` and `bias`. These are the
//! two renamings that Hugging Face `transformers` does silently when it loads (`base_model_prefix`, `_fix_state_dict_key_on_load`).

/// Similar names closer than this are worth showing; lower values list unrelated tensors.
const SIMILAR: f64 = 0.6;
/// How many similar names a message shows.
const SHOWN: usize = 3;

/// Finds a tensor's name in a checkpoint.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// `bert.`, when the checkpoint lacks that prefix on all names.
    stripped: Option<String>,
}

impl Names {
    /// Looks at all names of a checkpoint to see whether they lack `base_model_prefix` (without the dot; empty for none).
    pub(super) fn detect<'a>(
        base_model_prefix: &str,
        mut existing: impl Iterator<Item = &'a str>,
    ) -> Self {
        let prefix = format!("{base_model_prefix}.");
        let bare = !base_model_prefix.is_empty() && !existing.any(|name| name.starts_with(&prefix));
        Self {
            stripped: bare.then_some(prefix),
        }
    }

    /// The names to look up, in order.
    pub(super) fn candidates(&self, asked: &str) -> Vec<String> {
        let base = self.without_prefix(asked);
        let old = match base.rsplit_once('.') {
            Some((module, "weight")) if is_norm(module) => Some(format!("{module}.gamma")),
            Some((module, "bias")) if is_norm(module) => Some(format!("{module}.beta")),
            _ => None,
        };
        std::iter::once(base.to_string()).chain(old).collect()
    }

    /// Existing names that resemble `asked`, the most similar first.
    pub(super) fn nearest<'a>(
        &self,
        asked: &str,
        existing: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let asked = self.without_prefix(asked);
        let mut scored: Vec<_> = existing
            .map(|name| (strsim::normalized_levenshtein(asked, name), name))
            .filter(|(score, _)| *score >= SIMILAR)
            .collect();
        scored.sort_by(|(a, x), (b, y)| b.total_cmp(a).then(x.cmp(y)));
        scored
            .into_iter()
            .take(SHOWN)
            .map(|(_, name)| name.to_string())
            .collect()
    }

    fn without_prefix<'a>(&self, asked: &'a str) -> &'a str {
        match &self.stripped {
            Some(prefix) => asked.strip_prefix(prefix.as_str()).unwrap_or(asked),
            None => asked,
        }
    }
}

/// Whether a module is a layer norm by its last name: `LayerNorm`, `sa_layer_norm`, `layer_norm`.
fn is_norm(module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or(module);
    last == "LayerNorm" || last.ends_with("layer_norm")
}

/// Whether a tensor of numbers is what a model computes itself and older releases of `transformers` stored: the causal mask
/// of GPT-2 and GPT-NeoX, and what it fills with, and the frequencies of rotary positions.
pub(super) fn is_buffer(name: &str, shape: &[usize]) -> bool {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    ends(&[
        ".attn.masked_bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
    ]) || (shape.len() == 4 && ends(&[".attn.bias", ".attention.bias"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_kept_when_the_file_has_it() {
        let names = Names::detect(
            "bert",
            ["bert.pooler.dense.weight", "classifier.weight"].into_iter(),
        );
        assert_eq!(
            names.candidates("bert.pooler.dense.weight"),
            ["bert.pooler.dense.weight"]
        );
    }

    #[test]
    fn prefix_is_dropped_for_a_bare_encoder_and_the_head_keeps_its_name() {
        let names = Names::detect("bert", ["pooler.dense.weight"].into_iter());
        assert_eq!(
            names.candidates("bert.pooler.dense.weight"),
            ["pooler.dense.weight"]
        );
        assert_eq!(names.candidates("classifier.weight"), ["classifier.weight"]);
    }

    #[test]
    fn a_longer_word_is_not_the_prefix() {
        let names = Names::detect("bert", ["bertish.weight"].into_iter());
        assert_eq!(names.candidates("bert.a"), ["a"]);
    }

    #[test]
    fn empty_prefix_changes_nothing() {
        let names = Names::detect("", ["a"].into_iter());
        assert_eq!(names.candidates("bert.a"), ["bert.a"]);
    }

    #[test]
    fn only_norms_have_old_names() {
        let names = Names::detect("bert", ["bert.x"].into_iter());
        assert_eq!(
            names.candidates("bert.LayerNorm.weight"),
            ["bert.LayerNorm.weight", "bert.LayerNorm.gamma"]
        );
        assert_eq!(
            names.candidates("bert.LayerNorm.bias"),
            ["bert.LayerNorm.bias", "bert.LayerNorm.beta"]
        );
        assert_eq!(names.candidates("bert.dense.bias"), ["bert.dense.bias"]);
    }

    #[test]
    fn nearest_is_ordered_by_similarity() {
        let existing = [
            "encoder.layer.0.query.weight",
            "encoder.layer.0.query.bias",
            "zzz",
        ];
        let names = Names::detect("bert", existing.into_iter());
        let nearest = names.nearest("bert.encoder.layer.0.querry.weight", existing.into_iter());
        assert_eq!(
            nearest.first().map(String::as_str),
            Some("encoder.layer.0.query.weight")
        );
        assert!(!nearest.contains(&"zzz".to_string()));
    }
}
