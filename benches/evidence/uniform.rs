//! What people attach without measuring, as arms of a comparison.

use autopeft::groups::{Family, Group};
use autopeft_adapters::Kind;
use serde::Deserialize;

/// Families that fill a budget one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Mix(pub Vec<Family>);

impl Mix {
    /// Name in the tables.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|family| family.name()).collect();
        names.join("+")
    }

    /// Whether it is the same set whatever the budget.
    pub fn is_whole(&self) -> bool {
        matches!(self.0.as_slice(), [Family::Superset | Family::Head])
    }

    /// Changes of the recipe: a bottleneck's size follows from the budget.
    pub fn changes(&self, groups: &[Group], capacity: usize) -> Vec<String> {
        if !self.0.contains(&Family::Bottleneck) {
            return Vec::new();
        }
        let norm = groups.iter().find(|group| group.kind == Kind::Norm);
        let hidden = norm.map_or(1, |norm| norm.size / 2);
        let last = groups.iter().filter_map(|group| group.layer).max();
        let layers = last.map_or(1, |last| last + 1);
        // Down and up projections with their biases: (2h + 1) m + h numbers a layer.
        let size = (capacity / layers).saturating_sub(hidden) / (2 * hidden + 1);
        let factor = hidden as f64 / size.max(1) as f64;
        vec![format!("superset.bottleneck.reduction_factor={factor}")]
    }
}
