//! Parameter groups: what is kept or dropped as one.
//!
//! A group is a set of whole parameters. Its key is (kind, role, layer, rank block), for example
//! `lora attention.self.query 3 #0`; coarser groupings leave parts of the key out.

mod family;
mod snapshot;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use autopeft_adapters::{Kind, Parameter, Part, State};
use regex::Regex;
use serde::{Deserialize, Serialize};

pub use family::{Family, uniform};
pub use snapshot::Snapshot;
pub use transfer::{Place, TransferError, counterpart, transfer};

/// How parameters are put together into groups.
#[derive(Debug, Clone)]
pub enum Grouping {
    /// One group for each kind, module and rank block.
    Module,
    /// One group for each kind and layer.
    KindLayer,
    /// One group for each kind, as in the Hi-DLR paper.
    Kind,
    /// One group for each expression, over parameter names; the first that matches wins, and what none
    /// matches is grouped by module. A bottleneck, whose halves are nothing alone, goes whole with the first that matches one
    /// of its parameters.
    Patterns(Vec<Regex>),
}

/// A set of parameters that is kept or dropped as one.
#[derive(Debug, Clone)]
pub struct Group {
    /// Unique name, made of the key.
    pub name: String,
    /// Kind of its modules.
    pub kind: Kind,
    /// Path of its modules within a layer, such as `attention.self.query`; `*` for several.
    pub role: String,
    /// Number of its layer, where it lies within one.
    pub layer: Option<usize>,
    /// Number of its rank block, for LoRA that is grouped by module.
    pub block: Option<usize>,
    /// Its parameters.
    pub parameters: Vec<Arc<Parameter>>,
    /// Numbers in it.
    pub size: usize,
}

impl Group {
    /// Whether it is always trained and outside the budget.
    pub fn is_head(&self) -> bool {
        self.kind == Kind::Head
    }

    /// Whether it is measured only.
    pub fn is_reference(&self) -> bool {
        self.kind == Kind::Base
    }

    /// Sets what happens to its parameters in a training pass.
    pub fn set_state(&self, state: State) {
        for parameter in &self.parameters {
            parameter.set_state(state);
        }
    }

    /// Puts its parameters back to their values at attachment, at which they change no output.
    pub fn reset(&self) {
        for parameter in &self.parameters {
            parameter.reset();
        }
    }
}

/// Where a module lies: its layer and its path within the layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// Number of the layer, from 0.
    pub layer: Option<usize>,
    /// Path within the layer, or the whole path outside of the layers.
    pub role: String,
}

/// Splits a module's path at its first number: `bert.encoder.layer.3.output.dense` is `output.dense` of
/// layer 3.
pub fn locate(module: &str) -> Location {
    let parts: Vec<&str> = module.split('.').collect();
    for (position, part) in parts.iter().enumerate() {
        if let (Ok(layer), Some(rest)) = (part.parse(), parts.get(position + 1..)) {
            return Location {
                layer: Some(layer),
                role: rest.join("."),
            };
        }
    }
    Location {
        layer: None,
        role: module.to_string(),
    }
}

/// Puts parameters into groups; every parameter is in exactly one. `split_lora` makes `A` and `B` of a
/// LoRA two groups. The order follows the first parameter of each group.
pub fn partition(
    parameters: &[Arc<Parameter>],
    grouping: &Grouping,
    split_lora: bool,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut positions: BTreeMap<String, usize> = BTreeMap::new();
    for parameter in parameters {
        let key = key(parameter, grouping, split_lora);
        let size = parameter.elem_count();
        if let Some(group) = positions
            .get(&key.name)
            .and_then(|position| groups.get_mut(*position))
        {
            group.parameters.push(parameter.clone());
            group.size += size;
            continue;
        }
        positions.insert(key.name.clone(), groups.len());
        groups.push(Group {
            parameters: vec![parameter.clone()],
            size,
            ..key
        });
    }
    groups
}

/// A group without parameters, that stands for the key of `parameter`.
fn key(parameter: &Parameter, grouping: &Grouping, split_lora: bool) -> Group {
    let kind = parameter.kind();
    let label = match parameter.part() {
        Part::LoraA { .. } if split_lora => "lora_A",
        Part::LoraB { .. } if split_lora => "lora_B",
        _ => kind.name(),
    };
    let Location { layer, role } = locate(parameter.module());
    let group = |name: String, role: String, layer, block| Group {
        name,
        kind,
        role,
        layer,
        block,
        parameters: Vec::new(),
        size: 0,
    };
    let matched = match grouping {
        Grouping::Patterns(patterns) => {
            let names = inseparable(parameter);
            patterns
                .iter()
                .find(|pattern| names.iter().any(|name| pattern.is_match(name)))
        }
        _ => None,
    };
    match grouping {
        Grouping::Kind => group(label.to_string(), "*".to_string(), None, None),
        Grouping::KindLayer => match layer {
            Some(number) => group(format!("{label}/{number}"), "*".to_string(), layer, None),
            None => group(format!("{label}/{role}"), role, None, None),
        },
        Grouping::Patterns(_) if let Some(pattern) = matched => group(
            format!("{label}/{}", pattern.as_str()),
            "*".to_string(),
            None,
            None,
        ),
        Grouping::Module | Grouping::Patterns(_) => {
            let block = parameter.part().block();
            let mut name = match layer {
                Some(number) => format!("{label}/{number}/{role}"),
                None => format!("{label}/{role}"),
            };
            if let Some(block) = block {
                name.push_str(&format!("#{block}"));
            }
            group(name, role, layer, block)
        }
    }
}

/// Names of the parameters that are in one group with this one whatever the grouping, itself included.
fn inseparable(parameter: &Parameter) -> Vec<String> {
    let bottleneck = [
        Part::DownWeight,
        Part::DownBias,
        Part::UpWeight,
        Part::UpBias,
    ];
    match parameter.kind() {
        Kind::Bottleneck => bottleneck
            .map(|part| format!("{}.{}", parameter.module(), part.name()))
            .to_vec(),
        Kind::Lora | Kind::Bias | Kind::Norm | Kind::Head | Kind::Base => vec![parameter.name()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_and_role_come_from_the_first_number() {
        assert_eq!(
            locate("bert.encoder.layer.3.attention.self.query"),
            Location {
                layer: Some(3),
                role: "attention.self.query".to_string()
            }
        );
        assert_eq!(locate("bert.pooler.dense").layer, None);
        assert_eq!(locate("bert.pooler.dense").role, "bert.pooler.dense");
    }
}
