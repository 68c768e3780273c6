//! What makes the layers of a model, with what the configuration attaches to each, and knows what it has attached.

mod layers;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::Tensor;

use crate::kind::{Kind, Part};
use crate::parameter::{Parameter, State};
use crate::plan::{BottleneckPlan, Loaded, ModulePlan, Plan, Site, SiteShape, Superset};
use crate::{Error, Result};
pub use layers::LinearKind;

/// The layers' maker. It registers every parameter it attaches, in the order in which the model asks.
#[derive(Debug)]
pub struct Adapters {
    plan: Plan,
    seed: u64,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    parameters: Vec<Arc<Parameter>>,
    sites: Vec<Site>,
    fresh: Vec<String>,
    plans: HashMap<String, ModulePlan>,
    used: HashSet<String>,
}

impl Adapters {
    /// Attaches nothing but the head: the base model.
    pub fn none() -> Self {
        Self::new(Plan::None, 0)
    }

    /// Attaches everything that `superset` names. Initial values are drawn from `seed` and the
    /// parameter's name, so they do not depend on what else is attached.
    pub fn superset(superset: Superset, seed: u64) -> Self {
        Self::new(Plan::Superset(superset), seed)
    }

    /// Attaches what an exported adapter holds: the folder has `adapter_config.json` and
    /// `adapter_model.safetensors` as Hugging Face PEFT writes them; or a folder `bottleneck` as AdapterHub
    /// writes it, with or without a folder `peft` beside it.
    ///
    /// # Errors
    /// When the files are missing, malformed, or use a feature that is not computed here.
    pub fn load(folder: &Path) -> Result<Self> {
        let mut loaded = Loaded::default();
        let bottleneck = folder.join(crate::adapterhub::FOLDER);
        let has_bottleneck = bottleneck.is_dir();
        let beside = folder.join(crate::peft::FOLDER);
        if beside.is_dir() {
            crate::peft::read(&beside, &mut loaded)?;
        } else if folder.join(crate::peft::CONFIG_FILE).exists() || !has_bottleneck {
            crate::peft::read(folder, &mut loaded)?;
        }
        if has_bottleneck {
            crate::adapterhub::read(&bottleneck, &mut loaded)?;
        }
        Ok(Self::new(Plan::Loaded(loaded), 0))
    }

    fn new(plan: Plan, seed: u64) -> Self {
        Self {
            plan,
            seed,
            registry: Mutex::new(Registry::default()),
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        match self.registry.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// All parameters attached so far, in the order of registration; the position is the index.
    pub fn parameters(&self) -> Vec<Arc<Parameter>> {
        self.registry().parameters.clone()
    }

    /// All places where something is or could have been attached.
    pub fn sites(&self) -> Vec<Site> {
        self.registry().sites.clone()
    }

    /// Paths of the head modules that the checkpoint did not have, so that they start at random.
    pub fn fresh(&self) -> Vec<String> {
        self.registry().fresh.clone()
    }

    /// Factor of the low-rank product of the module with this path, `alpha / r`; 1 where there is none.
    pub fn lora_scale(&self, module: &str) -> f64 {
        let registry = self.registry();
        let plan = registry
            .plans
            .get(module)
            .and_then(|plan| plan.lora.as_ref());
        plan.map_or(1.0, |lora| lora.scale)
    }

    /// Sizes of the bottleneck adapter at the module with this path.
    pub fn bottleneck_plan(&self, module: &str) -> Option<BottleneckPlan> {
        self.registry()
            .plans
            .get(module)
            .and_then(|plan| plan.bottleneck)
    }

    /// What a loaded adapter holds: for each tensor the module's path, all that the module holds, such as
    /// `lora (rank 4), bias`, and the numbers in the tensor.
    pub fn loaded(&self) -> Vec<(String, String, usize)> {
        let Plan::Loaded(loaded) = &self.plan else {
            return Vec::new();
        };
        let mut tensors: Vec<_> = loaded
            .values
            .iter()
            .map(|(name, value)| {
                let module = Part::split(name);
                (
                    module.to_string(),
                    loaded.describe(module),
                    value.elem_count(),
                )
            })
            .collect();
        tensors.sort();
        tensors
    }

    /// Checks, once the model is made, that every tensor of a loaded adapter found its module.
    ///
    /// # Errors
    /// [`Error::Unused`] lists those that did not.
    pub fn check_used(&self) -> Result<()> {
        let Plan::Loaded(loaded) = &self.plan else {
            return Ok(());
        };
        let registry = self.registry();
        let mut names: Vec<String> = loaded
            .values
            .keys()
            .filter(|name| !registry.used.contains(*name))
            .cloned()
            .collect();
        names.sort();
        if names.is_empty() {
            Ok(())
        } else {
            Err(Error::Unused { names })
        }
    }

    fn visit(&self, path: &str, shape: SiteShape) -> ModulePlan {
        let plan = self.plan.module(path, shape);
        let mut registry = self.registry();
        registry.sites.push(Site {
            path: path.to_string(),
            shape,
        });
        // The norm and the adapter that share a path, as in AdapterHub's layout, are separate visits.
        let known = registry.plans.entry(path.to_string()).or_default();
        known.lora = plan.lora.clone().or(known.lora.take());
        known.bottleneck = plan.bottleneck.or(known.bottleneck);
        plan
    }

    fn register(
        &self,
        module: &str,
        kind: Kind,
        part: Part,
        initial: Tensor,
    ) -> Result<Arc<Parameter>> {
        let mut registry = self.registry();
        let state = if kind == Kind::Base {
            State::Frozen
        } else {
            State::Trainable
        };
        let index = registry.parameters.len();
        let parameter = Parameter::new(index, module, kind, part, &initial, state)?;
        let parameter = Arc::new(parameter);
        if let Plan::Loaded(loaded) = &self.plan {
            let name = parameter.name();
            if let Some(value) = loaded.values.get(&name) {
                parameter.set(&value.to_device(initial.device())?)?;
                registry.used.insert(name);
            }
        }
        registry.parameters.push(parameter.clone());
        Ok(parameter)
    }
}
