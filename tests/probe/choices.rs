//! Groups as choices: every parameter is in one, and each uniform baseline is a union of them.

use std::collections::BTreeSet;

use autopeft::groups::{Group, Grouping, partition};
use autopeft::models::Head;
use autopeft::select::knapsack::{Item, Limits, exact};
use autopeft_adapters::{Adapters, Kind, LoraPlan, SiteShape, Superset};
use candle_core::DType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regex::Regex;

use super::fixture::superset;
use super::golden::Golden;

/// The blocks that a superset has by default.
const BLOCKS: [usize; 4] = [1, 1, 2, 4];

fn attached(name: &str, inert_bias: bool) -> Adapters {
    let lora = LoraPlan {
        rank_blocks: BLOCKS.to_vec(),
        scale: 1.0,
        dropout: 0.0,
    };
    let adapters = Adapters::superset(
        Superset {
            lora: Some(lora),
            inert_bias,
            ..superset()
        },
        0,
    );
    Golden::open(name).model(&adapters, Head::new(3), DType::F32);
    adapters
}

#[test]
fn every_parameter_is_in_exactly_one_group() {
    let regex = |pattern| Regex::new(pattern).expect("a pattern");
    for name in ["bert", "distilbert", "roberta"] {
        let parameters = attached(name, true).parameters();
        for grouping in [
            Grouping::Module,
            Grouping::KindLayer,
            Grouping::Kind,
            Grouping::Patterns(vec![
                regex("query|q_lin"),
                regex("layer.1"),
                regex("query.*bias"),
            ]),
        ] {
            for split in [false, true] {
                let groups = partition(&parameters, &grouping, split);
                let mut members: Vec<usize> = groups
                    .iter()
                    .flat_map(|group| group.parameters.iter().map(|p| p.index()))
                    .collect();
                members.sort_unstable();
                let all: Vec<usize> = (0..parameters.len()).collect();
                assert_eq!(members, all, "{name} {grouping:?} {split}");
                let names: BTreeSet<&str> = groups.iter().map(|g| g.name.as_str()).collect();
                assert_eq!(names.len(), groups.len(), "{name} {grouping:?} {split}");
                for group in &groups {
                    let size: usize = group.parameters.iter().map(|p| p.elem_count()).sum();
                    assert_eq!(group.size, size);
                    assert!(group.parameters.iter().all(|p| p.kind() == group.kind));
                }
            }
        }
    }
}

#[test]
fn a_bottleneck_is_never_divided_among_groups() {
    let parameters = attached("bert", false).parameters();
    let patterns = ["layer.1.*adapter_up", "adapter_down.bias", "adapter_up"];
    let patterns = patterns.map(|pattern| Regex::new(pattern).expect("a pattern"));
    let groups = partition(&parameters, &Grouping::Patterns(patterns.to_vec()), false);
    let bottlenecks: Vec<&Group> = (groups.iter())
        .filter(|group| group.kind == Kind::Bottleneck)
        .collect();
    // Two places in each of two layers, four parameters in each place.
    let sizes: Vec<(&str, usize)> = (bottlenecks.iter())
        .map(|group| (group.name.as_str(), group.parameters.len()))
        .collect();
    let expected = [
        ("bottleneck/adapter_down.bias", 8),
        ("bottleneck/layer.1.*adapter_up", 8),
    ];
    assert_eq!(sizes, expected);
}

/// Groups whose modules get a LoRA of rank `rank`: a set of blocks with that sum in each.
fn of_rank(groups: &[Group], rank: usize, is_target: impl Fn(&Group) -> bool) -> Vec<usize> {
    // Blocks 1, 1, 2, 4: the least number of blocks for a rank, largest first.
    let mut rest = rank;
    let mut blocks = Vec::new();
    for (block, size) in BLOCKS.iter().enumerate().rev() {
        if *size <= rest {
            rest -= size;
            blocks.push(block);
        }
    }
    assert_eq!(rest, 0, "rank {rank} is no sum of blocks");
    chosen(groups, |group| {
        group.kind == Kind::Lora
            && is_target(group)
            && group.block.is_some_and(|block| blocks.contains(&block))
    })
}

fn chosen(groups: &[Group], keep: impl Fn(&Group) -> bool) -> Vec<usize> {
    (0..groups.len()).filter(|k| keep(&groups[*k])).collect()
}

#[test]
fn every_uniform_baseline_is_a_choice_that_the_knapsack_can_make() {
    for name in ["bert", "distilbert", "roberta"] {
        let adapters = attached(name, false);
        let groups = partition(&adapters.parameters(), &Grouping::Module, false);
        // Sizes by the formulas, from the modules alone.
        let is_query_or_value = |path: &str| {
            [".query", ".value", ".q_lin", ".v_lin"]
                .iter()
                .any(|end| path.ends_with(end))
        };
        let (mut linears, mut query_value, mut biases, mut norms) = (0, 0, 0, 0);
        for site in adapters.sites() {
            match site.shape {
                SiteShape::Linear {
                    in_features,
                    out_features,
                    bias,
                    inert_bias,
                    ..
                } => {
                    linears += in_features + out_features;
                    if is_query_or_value(&site.path) {
                        query_value += in_features + out_features;
                    }
                    if bias && !inert_bias {
                        biases += out_features;
                    }
                }
                SiteShape::Norm { hidden_size, bias } => {
                    norms += hidden_size * (1 + usize::from(bias))
                }
                SiteShape::Bottleneck { .. } | SiteShape::Head { .. } => {}
            }
        }
        let layers = 2;
        assert_eq!(query_value, layers * 2 * (16 + 16), "{name}");

        let mut baselines = vec![
            (
                "BitFit".to_string(),
                chosen(&groups, |g| g.kind == Kind::Bias),
                biases,
            ),
            (
                "norms".to_string(),
                chosen(&groups, |g| g.kind == Kind::Norm),
                norms,
            ),
            (
                "BitFit and norms".to_string(),
                chosen(&groups, |g| matches!(g.kind, Kind::Bias | Kind::Norm)),
                biases + norms,
            ),
        ];
        for rank in 1..=8 {
            let all = of_rank(&groups, rank, |_| true);
            baselines.push((format!("LoRA {rank} on all"), all, rank * linears));
            let some = of_rank(&groups, rank, |g| {
                is_query_or_value(&format!(".{}", g.role))
            });
            baselines.push((format!("LoRA {rank} on q and v"), some, rank * query_value));
        }

        let mut random = ChaCha8Rng::seed_from_u64(5);
        for (baseline, members, expected) in baselines {
            let size: usize = members.iter().map(|k| groups[*k].size).sum();
            assert_eq!(size, expected, "{name}: {baseline}");
            for _ in 0..3 {
                let items: Vec<Item<'_>> = groups
                    .iter()
                    .map(|group| Item {
                        name: &group.name,
                        parameters: group.size,
                        // The head is outside the budget.
                        value: if group.is_head() {
                            0.0
                        } else {
                            random.random()
                        },
                    })
                    .collect();
                let packing = exact(&items, size, &Limits::default());
                let value: f64 = members.iter().map(|k| items[*k].value).sum();
                assert!(packing.optimal && packing.parameters <= size);
                assert!(packing.value >= value * (1.0 - 1e-12), "{name}: {baseline}");
            }
        }
    }
}
