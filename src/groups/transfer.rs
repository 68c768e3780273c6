//! Carries a choice of groups from one model to another of its family, by kind, role, rank block and relative depth.
//!
//! Layer `L` of `n` takes what was kept in layer `⌊(L + ½) m / n⌋` of `m`, the one in which its middle lies when both models are
//! drawn as tall as each other; what lies outside of the layers goes by its path, and the head is always trained. That a
//! choice made on a small model holds for larger ones of its family is a claim of Xu, Bu, Zhang and Barnett 2025,
//! <https://arxiv.org/abs/2501.06954>.
//!
//! ```
//! use autopeft::groups::counterpart;
//!
//! let of_two: Vec<usize> = (0..6).map(|layer| counterpart(layer, 2, 6)).collect();
//! assert_eq!(of_two, [0, 0, 0, 1, 1, 1]);
//! let of_six: Vec<usize> = (0..3).map(|layer| counterpart(layer, 6, 3)).collect();
//! assert_eq!(of_six, [1, 3, 5]);
//! ```

use std::collections::HashSet;
use std::path::PathBuf;

use autopeft_adapters::Kind;

use super::Group;

/// Names in a message.
const NAMED: usize = 3;

/// Where a group is, in terms that hold for every model of a family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Kind of its modules.
    pub kind: Kind,
    /// Its name without the number of the layer: kind, role and rank block, such as `lora/attention.self.query#0`.
    pub part: String,
    /// Number of its layer, where it lies within one.
    pub layer: Option<usize>,
}

impl Place {
    /// From the name of a group, which [`partition`](super::partition) made, and its layer.
    pub fn new(kind: Kind, name: &str, layer: Option<usize>) -> Self {
        let without_layer = layer.and_then(|layer| {
            let (label, rest) = name.split_once('/')?;
            let rest = rest.strip_prefix(&layer.to_string())?;
            Some(format!("{label}{rest}"))
        });
        Self {
            kind,
            part: without_layer.unwrap_or_else(|| name.to_string()),
            layer,
        }
    }

    /// The place of the head that its module is part of, where the model has no weights for it and trains it whole.
    fn head(&self) -> Option<Self> {
        let (_, module) = self.part.split_once('/')?;
        let module = module.split_once('#').map_or(module, |(module, _)| module);
        Some(Self {
            kind: Kind::Head,
            part: format!("{}/{module}", Kind::Head),
            layer: self.layer,
        })
    }

    /// The group's name in this layer.
    fn name(&self, layer: Option<usize>) -> String {
        match (layer, self.part.split_once('/')) {
            (Some(layer), Some((label, rest))) => format!("{label}/{layer}/{rest}"),
            (Some(layer), None) => format!("{}/{layer}", self.part),
            (None, _) => self.part.clone(),
        }
    }
}

impl Group {
    /// Where it is.
    pub fn place(&self) -> Place {
        Place::new(self.kind, &self.name, self.layer)
    }
}

/// Why a choice cannot be carried over to another model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The folder holds no selection.
    #[error("`{path}` is no result of `autopeft select`: {reason}", path = path.display())]
    NotAResult {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The selection was stopped before it had an answer.
    #[error("the selection in `{path}` was stopped before anything was chosen", path = path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
    },
    /// The models are not of one family.
    #[error(
        "`{model}` is a model of type `{got}`, but the choice was made on one of type `{expected}`"
    )]
    OtherFamily {
        /// The model that the choice shall be carried to.
        model: String,
        /// Its `model_type`.
        got: String,
        /// The `model_type` that the choice was made on.
        expected: String,
    },
    /// Nothing was kept but the head.
    #[error("the choice keeps nothing but the head, so there is nothing to carry over")]
    NothingKept,
    /// The layers that something was kept in are nobody's counterpart.
    #[error("nothing that was kept among {from} layers has a counterpart among {to}")]
    NoCounterpart {
        /// Layers of the model that the choice was made on.
        from: usize,
        /// Layers of the other one.
        to: usize,
    },
    /// The choice calls for groups that the model does not have.
    #[error("the model has no {}, which the choice calls for", first(missing))]
    Missing {
        /// Their names, as they would be there.
        missing: Vec<String>,
    },
    /// A head is needed, and nothing says for which labels.
    #[error("`{path}` has no labels, and a task of type `{task}` needs a head", path = path.display())]
    NoLabels {
        /// The folder of the selection.
        path: PathBuf,
        /// The task.
        task: String,
    },
}

impl TransferError {
    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotAResult { .. } => "name the folder that `autopeft select` wrote".to_string(),
            Self::Unfinished { .. } => "run `autopeft select` to its end".to_string(),
            Self::OtherFamily { expected, .. } => {
                format!("name a model whose `config.json` says `\"model_type\": \"{expected}\"`")
            }
            Self::NothingKept => "select with a larger `--budget`".to_string(),
            Self::NoCounterpart { .. } => {
                "carry the choice to a model with at least as many layers".to_string()
            }
            Self::Missing { .. } => {
                "name a model with the same modules, and leave `superset` and `--target` as they were in the selection"
                    .to_string()
            }
            Self::NoLabels { .. } => "name labelled rows with `--data`".to_string(),
        }
    }
}

fn first(names: &[String]) -> String {
    let shown: Vec<String> = (names.iter().take(NAMED))
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The layer of a model of `from` layers that is as deep as `layer` in one of `to` layers: `⌊(layer + ½) from / to⌋`.
pub const fn counterpart(layer: usize, from: usize, to: usize) -> usize {
    match (2 * to, from) {
        (0, _) | (_, 0) => 0,
        (halves, from) => (2 * layer + 1) * from / halves,
    }
}

/// For each of `groups`, of a model with `to` layers, whether it is kept when `kept` are the places that were kept in a
/// model with `from` layers. The head is kept in any case, and reference groups never are. A module that is part of the head
/// there, such as a pooler that the checkpoint lacks, is trained whole whatever was kept in it.
///
/// # Errors
/// [`TransferError::NothingKept`] and [`TransferError::NoCounterpart`] when nothing but the head would be kept;
/// [`TransferError::Missing`] names the groups that the model would need and does not have.
pub fn transfer(
    kept: &[Place],
    from: usize,
    groups: &[Group],
    to: usize,
) -> Result<Vec<bool>, TransferError> {
    let moves = |kind: Kind| !matches!(kind, Kind::Head | Kind::Base);
    let kept: HashSet<&Place> = kept.iter().filter(|place| moves(place.kind)).collect();
    if kept.is_empty() {
        return Err(TransferError::NothingKept);
    }
    let there: HashSet<Place> = groups.iter().map(Group::place).collect();
    let mut missing = Vec::new();
    let mut wanted = HashSet::new();
    for place in kept {
        // A place outside of the layers is in one piece, whatever the depth.
        let layers: Vec<Option<usize>> = match place.layer {
            Some(source) => (0..to)
                .filter(|layer| counterpart(*layer, from, to) == source)
                .map(Some)
                .collect(),
            None => vec![None],
        };
        for layer in layers {
            let target = Place {
                layer,
                ..place.clone()
            };
            if there.contains(&target) {
                wanted.insert(target);
            } else if !target.head().is_some_and(|head| there.contains(&head)) {
                missing.push((layer, place.name(layer)));
            }
        }
    }
    if !missing.is_empty() {
        missing.sort();
        let missing = missing.into_iter().map(|(_, name)| name).collect();
        return Err(TransferError::Missing { missing });
    }
    if wanted.is_empty() {
        return Err(TransferError::NoCounterpart { from, to });
    }
    Ok(groups
        .iter()
        .map(|group| group.is_head() || wanted.contains(&group.place()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(kind: Kind, name: &str, layer: Option<usize>) -> Group {
        Group {
            name: name.to_owned(),
            kind,
            role: "*".to_owned(),
            layer,
            block: None,
            parameters: Vec::new(),
            size: 10,
        }
    }

    /// A head, a norm outside of the layers, and in each layer a bias and LoRA in two rank blocks.
    fn model(layers: usize) -> Vec<Group> {
        let mut groups = vec![
            group(Kind::Head, "head/classifier", None),
            group(Kind::Norm, "norm/bert.embeddings.LayerNorm", None),
        ];
        for layer in 0..layers {
            let name = |label: &str, rest: &str| format!("{label}/{layer}/{rest}");
            groups.push(group(
                Kind::Bias,
                &name("bias", "output.dense"),
                Some(layer),
            ));
            for block in 0..2 {
                let rest = format!("attention.self.query#{block}");
                groups.push(group(Kind::Lora, &name("lora", &rest), Some(layer)));
            }
        }
        groups
    }

    /// Names of what is kept in a model of `to` layers when these are kept in one of `from`, the head left out.
    fn carried(names: &[&str], from: usize, to: usize) -> Result<Vec<String>, TransferError> {
        let kept: Vec<Place> = (model(from).iter())
            .filter(|group| names.contains(&group.name.as_str()))
            .map(Group::place)
            .collect();
        assert_eq!(kept.len(), names.len());
        let groups = model(to);
        let kept = transfer(&kept, from, &groups, to)?;
        assert!(kept[0], "the head is always trained");
        let names = groups.iter().zip(kept).skip(1);
        Ok(names
            .filter_map(|(group, kept)| kept.then_some(group.name.clone()))
            .collect())
    }

    fn layers(names: &[&str], from: usize, to: usize) -> Vec<usize> {
        let carried = carried(names, from, to).expect("every layer is there");
        let layer = |name: &String| name.split('/').nth(1)?.parse().ok();
        carried.iter().filter_map(layer).collect()
    }

    #[test]
    fn a_layer_takes_what_was_kept_at_its_relative_depth() {
        let bias = |layer: usize| format!("bias/{layer}/output.dense");
        for (from, to, source, expected) in [
            (3, 6, 0, vec![0, 1]),
            (3, 6, 2, vec![4, 5]),
            (6, 3, 1, vec![0]),
            (6, 3, 5, vec![2]),
            (10, 30, 0, vec![0, 1, 2]),
            (10, 30, 4, vec![12, 13, 14]),
            (10, 30, 9, vec![27, 28, 29]),
            (4, 6, 0, vec![0]),
            (4, 6, 1, vec![1, 2]),
            (4, 6, 2, vec![3]),
            (4, 6, 3, vec![4, 5]),
            (5, 5, 3, vec![3]),
        ] {
            let found = layers(&[&bias(source)], from, to);
            assert_eq!(found, expected, "layer {source} of {from} to {to}");
        }
    }

    #[test]
    fn every_layer_has_one_counterpart_and_depth_never_falls() {
        for from in 1..=13 {
            for to in 1..=40 {
                let all: Vec<usize> = (0..to).map(|layer| counterpart(layer, from, to)).collect();
                assert!(
                    all.is_sorted() && all.iter().all(|l| *l < from),
                    "{from} {to}"
                );
                if to >= from {
                    let distinct: HashSet<&usize> = all.iter().collect();
                    assert_eq!(distinct.len(), from, "{from} {to}");
                }
            }
        }
        assert_eq!(counterpart(3, 0, 4), 0);
    }

    #[test]
    fn what_is_outside_of_the_layers_goes_by_its_path() {
        let norm = "norm/bert.embeddings.LayerNorm";
        assert_eq!(carried(&[norm], 2, 7), Ok(vec![norm.to_owned()]));
    }

    #[test]
    fn each_rank_block_goes_by_itself() {
        let second = carried(&["lora/1/attention.self.query#1"], 2, 4);
        let expected = ["2", "3"].map(|layer| format!("lora/{layer}/attention.self.query#1"));
        assert_eq!(second, Ok(expected.to_vec()));
        let both = ["#0", "#1"].map(|block| format!("lora/0/attention.self.query{block}"));
        let both = carried(&[&both[0], &both[1]], 2, 2);
        assert_eq!(both.map(|names| names.len()), Ok(2));
    }

    #[test]
    fn the_same_model_keeps_the_same_groups() {
        let names: Vec<String> = (model(3).iter().skip(1).step_by(2))
            .map(|group| group.name.clone())
            .collect();
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(carried(&borrowed, 3, 3), Ok(names));
    }

    #[test]
    fn coarse_groups_and_halves_of_a_lora_have_places_too() {
        let part = |name: &str, layer| Place::new(Kind::Lora, name, layer).part;
        assert_eq!(part("lora/11", Some(11)), "lora");
        assert_eq!(
            part("lora_B/1/mlp.up_proj#2", Some(1)),
            "lora_B/mlp.up_proj#2"
        );
        assert_eq!(part("lora", None), "lora");
        assert_eq!(part("lora/layer/1/x", None), "lora/layer/1/x");
        let coarse = Place::new(Kind::Lora, "lora/11", Some(11));
        assert_eq!(coarse.name(Some(3)), "lora/3");
        let groups = [group(Kind::Lora, "lora/0", Some(0))];
        assert_eq!(
            transfer(&[coarse], 12, &groups, 1),
            Err(TransferError::NoCounterpart { from: 12, to: 1 })
        );
    }

    #[test]
    fn what_the_model_lacks_is_named_as_it_would_be_there() {
        let kept = [
            Place::new(Kind::Bias, "bias/1/output.dense", Some(1)),
            Place::new(Kind::Lora, "lora/1/mlp.gate#0", Some(1)),
            Place::new(Kind::Norm, "norm/model.norm", None),
        ];
        let error = transfer(&kept, 2, &model(8), 8).expect_err("there is no gate");
        let TransferError::Missing { missing } = &error else {
            panic!("{error:?}");
        };
        let gates = (4..8).map(|layer| format!("lora/{layer}/mlp.gate#0"));
        let expected: Vec<String> = std::iter::once("norm/model.norm".to_owned())
            .chain(gates)
            .collect();
        assert_eq!(missing, &expected);
        assert_eq!(
            error.to_string(),
            "the model has no `norm/model.norm`, `lora/4/mlp.gate#0`, `lora/5/mlp.gate#0` and 2 more, which the choice \
             calls for"
        );
    }

    #[test]
    fn what_is_part_of_the_head_there_is_not_missing() {
        let kept = [
            Place::new(Kind::Lora, "lora/bert.pooler.dense#1", None),
            Place::new(Kind::Bias, "bias/0/output.dense", Some(0)),
        ];
        let mut groups = model(2);
        let missing = transfer(&kept, 2, &groups, 2).expect_err("there is no pooler");
        assert!(missing.to_string().contains("pooler"), "{missing}");
        groups.push(group(Kind::Head, "head/bert.pooler.dense", None));
        let carried = transfer(&kept, 2, &groups, 2).expect("the pooler is a head");
        assert_eq!(carried.iter().filter(|kept| **kept).count(), 3);
        assert_eq!(carried.last(), Some(&true));
    }

    #[test]
    fn a_choice_of_nothing_but_the_head_is_refused() {
        assert_eq!(carried(&[], 2, 4), Err(TransferError::NothingKept));
        let head = [Place::new(Kind::Head, "head/classifier", None)];
        let refused = transfer(&head, 2, &model(4), 4);
        assert_eq!(refused, Err(TransferError::NothingKept));
    }
}
