//! What people attach without measuring: one kind of module, everywhere or in a usual place.

use std::cmp::Reverse;

use autopeft_adapters::Kind;
use serde::{Deserialize, Serialize};

use super::Group;

/// Ends of the names of query and value projections in the families of models; a fused projection (`query_key_value`,
/// `qkv_proj`, `c_attn`) counts as both.
const QUERY_AND_VALUE: [&str; 7] = [
    "query",
    "value",
    "q_proj",
    "v_proj",
    "q_lin",
    "v_lin",
    "attn.c_attn",
];

/// A usual set of modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// LoRA on all linear layers.
    Lora,
    /// LoRA on query and value (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>).
    LoraQv,
    /// LoRA on all linear layers of the upper half.
    LoraUpper,
    /// Biases of linear layers (BitFit: Ben Zaken et al. 2021, <https://arxiv.org/abs/2106.10199>).
    Bias,
    /// Gains and offsets of norms.
    Norm,
    /// Bottleneck adapters (Houlsby et al. 2019, <https://arxiv.org/abs/1902.00751>).
    Bottleneck,
    /// Everything.
    Superset,
    /// Nothing but the head.
    Head,
}

impl Family {
    /// Name, as in a file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::LoraQv => "lora-qv",
            Self::LoraUpper => "lora-upper",
            Self::Bias => "bias",
            Self::Norm => "norm",
            Self::Bottleneck => "bottleneck",
            Self::Superset => "superset",
            Self::Head => "head",
        }
    }

    /// Whether it has this group; `middle` is the first layer of the upper half.
    fn has(self, group: &Group, middle: usize) -> bool {
        match self {
            Self::Lora => group.kind == Kind::Lora,
            Self::LoraQv => {
                group.kind == Kind::Lora
                    && QUERY_AND_VALUE.iter().any(|end| group.role.ends_with(end))
            }
            Self::LoraUpper => {
                group.kind == Kind::Lora && group.layer.is_none_or(|layer| layer >= middle)
            }
            Self::Bias => group.kind == Kind::Bias,
            Self::Norm => group.kind == Kind::Norm,
            Self::Bottleneck => group.kind == Kind::Bottleneck,
            Self::Superset => !group.is_head() && !group.is_reference(),
            Self::Head => false,
        }
    }
}

/// For each group whether it is trained by one family after the other, as far as the capacity goes; the head always is.
///
/// A family that does not fit is filled rank by rank, within each rank from the last layer down: what comes behind the layers first, as a
/// decoder's last norm, and what comes before them last, as the embeddings' norm.
pub fn uniform(families: &[Family], groups: &[Group], capacity: usize) -> Vec<bool> {
    let mut kept: Vec<bool> = groups.iter().map(Group::is_head).collect();
    let last = groups.iter().filter_map(|group| group.layer).max();
    let middle = last.map_or(0, |last| last.div_ceil(2));
    let first_in_a_layer = groups.iter().position(|group| group.layer.is_some());
    let mut room = capacity;
    for family in families {
        let mut members: Vec<(usize, &Group)> = (groups.iter().enumerate())
            .filter(|(_, group)| family.has(group, middle))
            .collect();
        members.sort_by_key(|(number, group)| {
            let is_before =
                group.layer.is_none() && first_in_a_layer.is_some_and(|first| number < &first);
            let layer = group.layer.unwrap_or(usize::MAX);
            (group.block, is_before, Reverse(layer), *number)
        });
        for (number, group) in members {
            if let Some(entry) = kept.get_mut(number).filter(|kept| !**kept)
                && group.size <= room
            {
                room -= group.size;
                *entry = true;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(kind: Kind, role: &str, layer: Option<usize>, block: Option<usize>) -> Group {
        Group {
            name: format!("{}/{role}/{layer:?}/{block:?}", kind.name()),
            kind,
            role: role.to_owned(),
            layer,
            block,
            parameters: Vec::new(),
            size: 10,
        }
    }

    /// Two layers with two LoRA blocks on query and output, and a norm; a head.
    fn groups() -> Vec<Group> {
        let mut groups = vec![group(Kind::Head, "classifier", None, None)];
        for layer in 0..2 {
            for role in ["attention.query", "output.dense"] {
                for block in 0..2 {
                    groups.push(group(Kind::Lora, role, Some(layer), Some(block)));
                }
            }
            groups.push(group(Kind::Norm, "output.norm", Some(layer), None));
        }
        groups
    }

    fn names(families: &[Family], capacity: usize) -> Vec<String> {
        let groups = groups();
        let kept = uniform(families, &groups, capacity);
        (groups.iter().zip(kept))
            .filter(|(group, kept)| *kept && !group.is_head())
            .map(|(group, _)| group.name.clone())
            .collect()
    }

    #[test]
    fn a_budget_is_filled_rank_by_rank_from_the_last_layer_down() {
        let expected = [
            "lora/attention.query/Some(0)/Some(0)",
            "lora/attention.query/Some(1)/Some(0)",
            "lora/attention.query/Some(1)/Some(1)",
        ];
        assert_eq!(names(&[Family::LoraQv], 30), expected);
        assert_eq!(names(&[Family::Lora], 25).len(), 2);
        assert_eq!(names(&[Family::LoraUpper], 1000).len(), 4);
    }

    #[test]
    fn what_comes_behind_the_layers_is_first_and_what_comes_before_them_last() {
        let norm = |role: &str, layer| group(Kind::Norm, role, layer, None);
        let groups = [
            norm("embeddings", None),
            norm("input", Some(0)),
            norm("input", Some(1)),
            norm("last", None),
        ];
        let kept = |capacity: usize| uniform(&[Family::Norm], &groups, capacity);
        assert_eq!(kept(10), [false, false, false, true]);
        assert_eq!(kept(20), [false, false, true, true]);
        assert_eq!(kept(30), [false, true, true, true]);
    }

    #[test]
    fn query_and_value_are_found_by_every_family_s_names_and_fused_ones_count() {
        let is_one = |role: &str| Family::LoraQv.has(&group(Kind::Lora, role, Some(0), None), 0);
        for role in [
            "attention.self.query",
            "self_attn.v_proj",
            "attention.q_lin",
            "attention.query_key_value",
            "self_attn.qkv_proj",
            "attn.c_attn",
        ] {
            assert!(is_one(role), "{role}");
        }
        for role in [
            "attention.self.key",
            "self_attn.k_proj",
            "self_attn.o_proj",
            "attn.c_proj",
            "mlp.up_proj",
        ] {
            assert!(!is_one(role), "{role}");
        }
    }

    #[test]
    fn what_a_family_leaves_goes_to_the_next() {
        let set = names(&[Family::Norm, Family::LoraQv], 30);
        assert_eq!(
            set.iter().filter(|name| name.starts_with("norm")).count(),
            2
        );
        assert_eq!(set.len(), 3);
        assert!(names(&[Family::Head], 1000).is_empty());
        assert_eq!(names(&[Family::Superset], 1000).len(), 10);
    }
}
