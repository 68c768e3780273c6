//! Values and states of parameters, to come back to.

use std::sync::Arc;

use autopeft_adapters::{Parameter, Result, State};
use candle_core::Tensor;

use super::Group;

/// What the parameters of groups were at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Vec<(Arc<Parameter>, Tensor, State)>);

impl Snapshot {
    /// Of these groups, now. Nothing is copied: a parameter's value is replaced, never changed in place.
    pub fn of<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Self {
        let parameters = groups.into_iter().flat_map(|group| &group.parameters);
        let entry =
            |parameter: &Arc<Parameter>| (parameter.clone(), parameter.value(), parameter.state());
        Self(parameters.map(entry).collect())
    }

    /// Puts values and states back.
    ///
    /// # Errors
    /// Never for a snapshot of the same groups.
    pub fn restore(&self) -> Result<()> {
        for (parameter, value, state) in &self.0 {
            parameter.set(value)?;
            parameter.set_state(*state);
        }
        Ok(())
    }
}
