//! Keys that depend on others: what gives way, what contradicts, and then the whole check.

use super::layers::{Layers, Origin};
use super::words::{DeviceChoice, Dtype, Method, Solver, Target};
use super::{Fault, Recipe, ranges};

/// Settles keys that depend on others, checks the whole, and returns the recipe or every fault.
pub(super) fn finish(mut layers: Layers<'_>) -> Result<Recipe, Vec<Fault>> {
    let mut recipe = layers.recipe();
    settle_length(&mut recipe, &mut layers);
    settle_target(&mut recipe, &mut layers);
    settle_coupling(&mut recipe, &mut layers);
    for (path, ok, message) in ranges::ranges(&recipe) {
        if !ok && !layers.has_fault(path) {
            let origin = layers.origin(path).clone();
            layers.fault(path, &origin, message.to_owned(), None);
        }
    }
    ranges::budget(&recipe, &mut layers);
    ranges::patterns(&recipe, &mut layers);
    contradictions(&recipe, &mut layers);
    let faults = layers.into_faults();
    if faults.is_empty() {
        Ok(recipe)
    } else {
        Err(faults)
    }
}

/// `train.steps` and `train.epochs` exclude each other; the later layer has the last word.
fn settle_length(recipe: &mut Recipe, layers: &mut Layers<'_>) {
    let (steps, epochs) = (
        layers.origin("train.steps").clone(),
        layers.origin("train.epochs").clone(),
    );
    match (recipe.train.steps, recipe.train.epochs) {
        (Some(_), Some(_)) if steps.overrules(&epochs) => recipe.train.epochs = None,
        (Some(_), Some(_)) if epochs.overrules(&steps) => recipe.train.steps = None,
        (Some(_), Some(_)) => layers.fault(
            "train.epochs",
            &epochs,
            "`train.steps` is set too, and only one can count".to_owned(),
            Some("set one of them to `null`".to_owned()),
        ),
        (None, None) => layers.fault(
            "train.epochs",
            &epochs,
            "neither `train.steps` nor `train.epochs` is set".to_owned(),
            Some("set one of them".to_owned()),
        ),
        _ => {}
    }
}

/// The export target decides which kinds may compete, unless the recipe asks for one of them in the same breath.
fn settle_target(recipe: &mut Recipe, layers: &mut Layers<'_>) {
    let target = recipe.export.target;
    let target_origin = layers.origin("export.target").clone();
    let superset = &mut recipe.superset;
    let kinds: [(&str, &mut bool, &str); 4] = [
        ("superset.lora.enabled", &mut superset.lora.enabled, "LoRA"),
        (
            "superset.bias.enabled",
            &mut superset.bias.enabled,
            "biases",
        ),
        ("superset.norm.enabled", &mut superset.norm.enabled, "norms"),
        (
            "superset.bottleneck.enabled",
            &mut superset.bottleneck.enabled,
            "bottleneck adapters",
        ),
    ];
    for (path, enabled, name) in kinds {
        let is_lora = path.starts_with("superset.lora");
        let is_bottleneck = path.starts_with("superset.bottleneck");
        let possible = match target {
            Target::Autopeft => true,
            Target::Peft => !is_bottleneck,
            Target::Servers => is_lora,
            Target::Adapterhub => is_bottleneck,
        };
        let origin = layers.origin(path).clone();
        if !possible && *enabled {
            if target_origin.overrules(&origin) {
                *enabled = false;
            } else {
                let message = format!("the export target `{target}` cannot hold {name}");
                let hint = format!("set `{path}` to `false`, or `export.target` to `autopeft`");
                layers.fault(path, &origin, message, Some(hint));
            }
        }
    }
}

/// Coupled selection needs an estimator that measures coupling.
fn settle_coupling(recipe: &mut Recipe, layers: &mut Layers<'_>) {
    let estimator = recipe.probe.estimator;
    if recipe.select.solver != Solver::Coupled
        || recipe.select.method != Method::Budget
        || estimator.measures_coupling()
    {
        return;
    }
    let origin = layers.origin("select.solver").clone();
    if layers.origin("probe.estimator").overrules(&origin) {
        recipe.select.solver = Solver::Exact;
    } else {
        let message =
            format!("the estimator `{estimator}` does not measure how groups act together");
        let hint =
            "set `select.solver` to `exact` or `slope`, or `probe.estimator` to `gauss-newton` or `full`"
                .to_owned();
        layers.fault("select.solver", &origin, message, Some(hint));
    }
}

/// Keys that are each good, but not together.
fn contradictions(recipe: &Recipe, layers: &mut Layers<'_>) {
    let later = |a: &Origin, b: &Origin| if b.overrules(a) { b.clone() } else { a.clone() };
    let superset = &recipe.superset;
    let kinds = [
        superset.lora.enabled,
        superset.bias.enabled,
        superset.norm.enabled,
        superset.bottleneck.enabled,
    ];
    if !kinds.contains(&true) && !layers.has_fault("superset.lora.enabled") {
        let origin = later(
            layers.origin("superset.lora.enabled"),
            layers.origin("superset.norm.enabled"),
        );
        let hint = "enable one of `lora`, `bias`, `norm`, `bottleneck`".to_owned();
        layers.fault(
            "superset",
            &origin,
            "no kind is enabled, so there is nothing to select".to_owned(),
            Some(hint),
        );
    }
    if recipe.device == DeviceChoice::Cpu && matches!(recipe.dtype, Dtype::F16 | Dtype::Bf16) {
        let origin = later(layers.origin("dtype"), layers.origin("device"));
        let message = format!("`{}` is not supported on the CPU", recipe.dtype);
        layers.fault(
            "dtype",
            &origin,
            message,
            Some("use `f32`, or a GPU".to_owned()),
        );
    }
    let (is_language, target) = (recipe.task.kind.is_language(), recipe.export.target);
    let hint = match target {
        Target::Adapterhub if is_language => Some("use the target `peft` or `autopeft`"),
        Target::Servers if !is_language => Some(
            "servers load no head with an adapter: use the target `peft`, and serve what `autopeft merge` makes of the result",
        ),
        Target::Autopeft | Target::Peft | Target::Servers | Target::Adapterhub => None,
    };
    if let Some(hint) = hint {
        let origin = later(layers.origin("task.type"), layers.origin("export.target"));
        let message = format!(
            "the task `{}` cannot be exported for `{target}`",
            recipe.task.kind
        );
        layers.fault("export.target", &origin, message, Some(hint.to_owned()));
    }
    let probe = &recipe.probe;
    if probe.steps >= 1 && probe.measurements() == 0 {
        let origin = later(layers.origin("probe.steps"), layers.origin("probe.burn_in"));
        let message = format!(
            "no measurement fits: all of the {} steps are burn-in",
            probe.steps
        );
        layers.fault(
            "probe.steps",
            &origin,
            message,
            Some("raise `probe.steps`, or lower `probe.burn_in`".to_owned()),
        );
    }
    if let (Some(steps), None) = (recipe.train.steps, recipe.select.steps)
        && steps > 0
        && steps <= probe.steps
    {
        let origin = later(layers.origin("train.steps"), layers.origin("probe.steps"));
        let message = format!(
            "{steps} steps in all leave none after the probe's {}",
            probe.steps
        );
        let hint = "raise `train.steps`, lower `probe.steps`, or set `select.steps`".to_owned();
        layers.fault("train.steps", &origin, message, Some(hint));
    }
}
