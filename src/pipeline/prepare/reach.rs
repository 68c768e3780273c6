//! Which groups a budget can reach at all.

use std::collections::BTreeSet;

use autopeft_adapters::{Kind, State};

use crate::groups::Group;
use crate::progress::Progress;
use crate::recipe::Recipe;

/// Leaves the kind that the budget is spent on first alone in the superset, where all of it is as much as the budget or more: as long as
/// its groups show a decrease, nothing else can be kept then but what is smaller than any group left of it, and what is trained beside it
/// would blur what is measured of it.
/// What is left out is the identity, and takes no computation; its kinds are given back beside the groups.
///
/// All kinds stay where they compete (`select.order` is empty), and where a group of the first kind is larger than the budget.
pub(super) fn within(
    recipe: &Recipe,
    groups: Vec<Group>,
    budget: usize,
    progress: &dyn Progress,
) -> (Vec<Group>, BTreeSet<Kind>) {
    let Some(kind) = recipe.select.order.first().copied().map(Kind::from) else {
        return (groups, BTreeSet::new());
    };
    let is_first = |group: &Group| group.kind == kind && !group.is_reference();
    let sizes: Vec<usize> = (groups.iter().filter(|group| is_first(group)))
        .map(|group| group.size)
        .collect();
    let whole: usize = sizes.iter().sum();
    if whole < budget || sizes.iter().any(|size| *size > budget) {
        return (groups, BTreeSet::new());
    }
    let stays = |group: &Group| group.is_head() || group.is_reference() || is_first(group);
    let (groups, others): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(stays);
    if !others.is_empty() {
        others
            .iter()
            .for_each(|group| group.set_state(State::Dropped));
        progress.note(&format!(
            "the {whole} parameters of kind `{kind}`, which comes first in `select.order`, fill the budget of {budget}: no other kind takes part \
             (`--set select.order=[]` lets all compete)",
            kind = kind.name()
        ));
    }
    (groups, others.iter().map(|group| group.kind).collect())
}
