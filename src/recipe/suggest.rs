//! The nearest known name to a name nobody knows.

use super::docs;

/// Names other tools use for the same thing.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("lr", "train.learning_rate"),
    ("num_train_epochs", "train.epochs"),
    ("num_epochs", "train.epochs"),
    ("max_steps", "train.steps"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("gradient_accumulation_steps", "train.accumulate"),
    ("warmup_ratio", "train.warmup"),
    ("lr_scheduler_type", "train.schedule"),
    ("max_grad_norm", "train.clip"),
    ("adam_epsilon", "train.epsilon"),
    ("r", "superset.lora.rank_blocks"),
    ("rank", "superset.lora.rank_blocks"),
    ("lora_rank", "superset.lora.rank_blocks"),
    ("lora_alpha", "superset.lora.alpha"),
    ("lora_dropout", "superset.lora.dropout"),
    ("target_modules", "superset.lora.targets"),
    ("max_seq_length", "task.max_length"),
    ("base_model", "model"),
    ("model_name_or_path", "model"),
    ("train_file", "data.train"),
    ("validation_file", "data.validation"),
    ("output_dir", "--out"),
];

/// The word most like `name`, if any is like it.
pub(super) fn nearest<'a>(name: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    words
        .into_iter()
        .map(|word| (strsim::normalized_damerau_levenshtein(&name, word), word))
        .filter(|(likeness, _)| *likeness >= 0.55)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

/// What to write in place of the unknown key `name` under the section `prefix`, whose keys are `siblings`.
///
/// A near sibling comes first, then the same name in another section, then another tool's name, then a near path anywhere.
pub(super) fn for_key(prefix: &str, name: &str, siblings: &[&str]) -> String {
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        return format!("did you mean `{}`?", super::tree::join(prefix, near));
    }
    let same_name = docs::KEYS
        .iter()
        .map(|key| key.path)
        .find(|path| path.rsplit('.').next() == Some(name));
    let other = OTHER_NAMES
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, path)| *path);
    if let Some(path) = same_name.or(other) {
        return format!("did you mean `{path}`?");
    }
    let last_names = docs::KEYS
        .iter()
        .filter_map(|key| key.path.rsplit('.').next());
    if let Some(near) = nearest(name, last_names)
        && let Some(key) = docs::KEYS
            .iter()
            .find(|key| key.path.rsplit('.').next() == Some(near))
    {
        return format!("did you mean `{}`?", key.path);
    }
    match prefix {
        "" => format!("the keys are `{}`", siblings.join("`, `")),
        _ => format!("the keys of `{prefix}` are `{}`", siblings.join("`, `")),
    }
}
