//! From a recipe to a model with its superset attached, groups, and rows as token numbers.

mod matching;
mod reach;
mod trainers;

use std::collections::BTreeSet;

use autopeft_adapters::{
    Activation, Adapters, BottleneckPlan, BottleneckStyle, Kind, LoraPlan, LoraTargets, Superset,
};
use candle_core::{DType, Device};
use serde_json::json;

use super::recorder::Recorder;
use super::rows::TaskRows;
use crate::base::BaseModel;
use crate::data::{Encoded, Labels, Padding};
use crate::device;
use crate::error::{Error, Result};
use crate::groups::{Group, Grouping, partition};
use crate::models::Pooling;
use crate::progress::{EventKind, Progress};
use crate::recipe::{self, Horizon, Method, NonLinearity, Recipe, Target, Targets};
use crate::select::SelectError;
use crate::task::Objective;
use crate::train::Rows;

/// Everything that the stages work with.
#[derive(Debug)]
pub struct Prepared<'r> {
    /// The recipe.
    pub recipe: &'r Recipe,
    /// Where to compute.
    pub device: Device,
    /// Number type of the computation.
    pub dtype: DType,
    /// The base model.
    pub base: BaseModel,
    /// The rows as token numbers; training rows are those that are left after the validation rows.
    pub data: TaskRows,
    /// What the superset attached.
    pub adapters: Adapters,
    /// The model with the superset.
    pub model: Box<dyn Objective>,
    /// The parameter groups.
    pub groups: Vec<Group>,
    /// Kinds of the recipe that take no part, since the one that comes first fills the budget.
    pub left_out: BTreeSet<Kind>,
    /// Steps of each stage.
    pub horizon: Horizon,
    /// Tokens a row is cut to.
    pub max_length: usize,
    padding: Padding,
}

impl<'r> Prepared<'r> {
    /// Reads, attaches and encodes.
    pub fn new(recipe: &'r Recipe, recorder: &Recorder<'_>) -> Result<Self> {
        let opened = Opened::new(recipe, recorder.progress)?;
        let budget = super::choose::limit(recipe, opened.base.num_parameters())?;
        let data = TaskRows::read(recipe, &opened.base, opened.max_length, recorder)?;
        let superset = superset(recipe, recorder.progress)?;
        opened.attach(recipe, data, superset, budget, recorder)
    }

    /// Numbers in the superset, the head and reference groups apart.
    pub fn superset_parameters(&self) -> usize {
        let competing = self
            .groups
            .iter()
            .filter(|group| !group.is_head() && !group.is_reference());
        competing.map(|group| group.size).sum()
    }

    /// The rows that a step of training reads: packed, where the recipe asks for it.
    pub fn training_rows(&self) -> Rows<'_> {
        self.rows_of(self.data.packed.as_ref().unwrap_or(&self.data.train))
    }

    /// The rows that a measurement reads: examples one by one.
    pub fn measuring_rows(&self) -> Rows<'_> {
        self.rows_of(&self.data.train)
    }

    fn rows_of<'a>(&'a self, encoded: &'a Encoded) -> Rows<'a> {
        Rows {
            encoded,
            padding: self.padding,
            device: &self.device,
        }
    }

    /// Batch size of evaluations: no gradients are kept, so it may be larger than the training's.
    pub fn eval_batch_size(&self) -> usize {
        (4 * self.recipe.train.batch_size).max(32)
    }

    /// How batches are padded.
    pub fn padding(&self) -> Padding {
        self.padding
    }
}

/// A base model before anything is attached to it.
pub(super) struct Opened {
    device: Device,
    dtype: DType,
    /// The base model.
    pub(super) base: BaseModel,
    /// Tokens a row is cut to.
    pub(super) max_length: usize,
}

impl Opened {
    /// Opens the recipe's model on the recipe's device.
    pub(super) fn new(recipe: &Recipe, progress: &dyn Progress) -> Result<Self> {
        check_target(recipe)?;
        let device = device::open(recipe.device)?;
        let dtype = device::dtype(recipe.dtype, &device)?;
        let base = BaseModel::open(&recipe.model, &recipe.revision, &mut |download| {
            progress.note(&format!("fetching `{}`", download.file));
        })?
        .with_options(device::load_options(
            recipe.storage,
            recipe.train.checkpointing,
            dtype,
        )?)?;
        base.notes.iter().for_each(|note| progress.note(note));
        Ok(Self {
            device,
            dtype,
            max_length: recipe.task.max_length.min(base.config.max_length()),
            base,
        })
    }

    /// Attaches a superset, and puts into the recipe's groups what of it a budget can reach.
    pub(super) fn attach<'r>(
        self,
        recipe: &'r Recipe,
        data: TaskRows,
        superset: Superset,
        budget: Option<usize>,
        recorder: &Recorder<'_>,
    ) -> Result<Prepared<'r>> {
        let Self {
            device,
            dtype,
            mut base,
            max_length,
        } = self;
        base.head = data.head;
        let adapters = Adapters::superset(superset, recipe.seed);
        let labels = data.labels.as_ref().map(Labels::len);
        let model = objective(
            &base,
            &adapters,
            labels,
            recipe.task.pooling,
            dtype,
            &device,
        )?;
        let groups = partition(
            &adapters.parameters(),
            &grouping(&recipe.probe.grouping)?,
            recipe.superset.lora.split,
        );
        matching::check(recipe, &adapters)?;
        check_competing(&groups)?;
        check_budget(budget, &groups)?;
        let (groups, left_out) = match budget {
            Some(budget) => reach::within(recipe, groups, budget, recorder.progress),
            None => (groups, BTreeSet::new()),
        };
        check_head(recipe, &adapters.fresh(), &base)?;
        if base.text.is_mean_pooled && labels.is_some() && may_pool_by_mean(recipe) {
            recorder.progress.note(&format!(
                "`{}` was trained with the mean over tokens as the vector of a text: `--set task.pooling=mean` reads that",
                recipe.model
            ));
        }
        let padding = Padding::new(base.padding_token(), &base.tokenizer, max_length);
        let prepared = Prepared {
            recipe,
            horizon: recipe.horizon(data.packed.as_ref().unwrap_or(&data.train).rows.len()),
            device,
            dtype,
            base,
            data,
            adapters,
            model,
            groups,
            left_out,
            max_length,
            padding,
        };
        recorder.event(
            EventKind::Start,
            &json!({
                "model": recipe.model, "train": prepared.data.train.rows.len(),
                "validation": prepared.data.held_out(), "labels": prepared.data.label_names().len(), "groups": prepared.groups.len(),
                "parameters": prepared.superset_parameters(), "device": device::name(&prepared.device),
            }),
        )?;
        Ok(prepared)
    }
}

/// The recipe's word for the pooling, as the models know it.
pub(super) fn pooling(pooling: recipe::Pooling) -> Pooling {
    match pooling {
        recipe::Pooling::Default => Pooling::Default,
        recipe::Pooling::Mean => Pooling::Mean,
    }
}

/// The model of a task: with a head for so many labels, or a language model where there are none.
pub(super) fn objective(
    base: &BaseModel,
    adapters: &Adapters,
    labels: Option<usize>,
    pooling: recipe::Pooling,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn Objective>> {
    Ok(match labels {
        Some(labels) => {
            let pooling = self::pooling(pooling);
            Box::new(base.build(adapters, labels, pooling, dtype, device)?)
        }
        None => Box::new(base.build_causal(adapters, dtype, device)?),
    })
}

/// Whether the mean over tokens would be possible, and is not chosen yet.
fn may_pool_by_mean(recipe: &Recipe) -> bool {
    recipe.task.pooling == recipe::Pooling::Default && recipe.export.target == Target::Autopeft
}

fn check_target(recipe: &Recipe) -> Result<()> {
    let target = recipe.export.target;
    if recipe.task.pooling == recipe::Pooling::Mean && target != Target::Autopeft {
        return Err(Error::Conflict {
            what: format!(
                "`task.pooling: mean` cannot be exported for `{target}`: transformers has no such head"
            ),
            hint: "use `--set task.pooling=default`, or `--target autopeft`".to_string(),
        });
    }
    Ok(())
}

/// Refuses a superset of which the model has no module, so that there is nothing to measure.
fn check_competing(groups: &[Group]) -> Result<()> {
    match (groups.iter()).any(|group| !group.is_head() && !group.is_reference()) {
        true => Ok(()),
        false => Err(SelectError::NoGroups.into()),
    }
}

/// Refuses a budget below every group, which no measurement can change.
fn check_budget(budget: Option<usize>, groups: &[Group]) -> Result<()> {
    let competing = groups
        .iter()
        .filter(|group| !group.is_head() && !group.is_reference());
    match (budget, competing.map(|group| group.size).min()) {
        (Some(budget), Some(smallest)) if smallest > budget => {
            Err(SelectError::Unreachable { budget, smallest }.into())
        }
        _ => Ok(()),
    }
}

/// Refuses a head that lies in part within the encoder, of which AdapterHub keeps nothing.
fn check_head(recipe: &Recipe, fresh: &[String], base: &BaseModel) -> Result<()> {
    let target = recipe.export.target;
    let prefix = format!("{}.", base.config.family.base_model_prefix());
    match fresh.iter().find(|module| module.starts_with(&prefix)) {
        Some(module) if target == Target::Adapterhub => Err(Error::Conflict {
            what: format!(
                "`{module}` is not in the checkpoint, and what it learns cannot be exported for `{target}`"
            ),
            hint: "use a checkpoint that has it, or `--target autopeft`".to_string(),
        }),
        _ => Ok(()),
    }
}

/// The recipe's superset, restricted to what the export target can hold.
pub(super) fn superset(recipe: &Recipe, progress: &dyn Progress) -> Result<Superset> {
    let wanted = &recipe.superset;
    let target = recipe.export.target;
    let lora = &wanted.lora;
    let rank: usize = lora.rank_blocks.iter().sum();
    let bottleneck = &wanted.bottleneck;
    let style = match bottleneck.style {
        recipe::BottleneckStyle::Pfeiffer => BottleneckStyle::Pfeiffer,
        recipe::BottleneckStyle::Houlsby => BottleneckStyle::Houlsby,
        recipe::BottleneckStyle::Parallel => BottleneckStyle::Parallel,
    };
    let left_out = |kinds: &str| {
        progress.note(&format!(
            "leaving out {kinds}, which `--target {target}` cannot hold"
        ));
    };
    // LoRA; biases and norms; bottlenecks.
    let (linear, others, bottlenecks) = match target {
        Target::Autopeft => (true, true, bottleneck.enabled),
        Target::Peft => {
            if bottleneck.enabled {
                left_out("bottleneck adapters");
            }
            (true, true, false)
        }
        Target::Servers => {
            left_out("biases, norms and bottleneck adapters");
            (true, false, false)
        }
        Target::Adapterhub => {
            left_out("LoRA, biases and norms");
            (false, false, true)
        }
    };
    Ok(Superset {
        lora: (lora.enabled && linear).then(|| LoraPlan {
            rank_blocks: lora.rank_blocks.clone(),
            scale: lora.alpha / rank.max(1) as f64,
            dropout: lora.dropout,
        }),
        lora_targets: match &lora.targets {
            Targets::AllLinear => LoraTargets::AllLinear,
            Targets::Patterns(patterns) => LoraTargets::Matching(Superset::patterns(patterns)?),
        },
        bias: wanted.bias.enabled && others,
        inert_bias: wanted.bias.inert,
        norm: wanted.norm.enabled && others,
        bottleneck: bottlenecks.then(|| BottleneckPlan {
            non_linearity: match bottleneck.non_linearity {
                NonLinearity::Relu => Activation::Relu,
                NonLinearity::Gelu => Activation::Gelu,
                NonLinearity::Swish => Activation::Swish,
            },
            ..BottleneckPlan::new(style, bottleneck.reduction_factor)
        }),
        base: recipe.select.method == Method::Psi,
        exclude: Superset::patterns(&wanted.exclude)?,
    })
}

pub(super) fn grouping(grouping: &recipe::Grouping) -> Result<Grouping> {
    Ok(match grouping {
        recipe::Grouping::Module => Grouping::Module,
        recipe::Grouping::KindLayer => Grouping::KindLayer,
        recipe::Grouping::Kind => Grouping::Kind,
        recipe::Grouping::Patterns(patterns) => Grouping::Patterns(Superset::patterns(patterns)?),
    })
}
