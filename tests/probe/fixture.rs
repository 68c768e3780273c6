//! A tiny classifier with everything attached, its groups, and points at which to measure them.

use std::sync::Arc;

use autopeft::data::{Batch, Targets};
use autopeft::groups::{Group, Grouping, partition};
use autopeft::models::{Head, HeadSource, Inputs, Model};
use autopeft::probe::influence::{Curvature, Verdict, judge_all, rounding_floor, value};
use autopeft::probe::{Estimate, Estimator, Point};
use autopeft::task::Objective;
use autopeft_adapters::{
    Adapters, BottleneckPlan, BottleneckStyle, Directions, Kind, LoraPlan, LoraTargets, Parameter,
    Pass, Superset, ops,
};
use candle_core::{DType, Tensor};

use super::golden::{Golden, device};

/// Every kind, the keys' biases too.
pub fn superset() -> Superset {
    Superset {
        lora: Some(LoraPlan {
            rank_blocks: vec![1, 2],
            scale: 0.7,
            dropout: 0.0,
        }),
        lora_targets: LoraTargets::AllLinear,
        bias: true,
        inert_bias: true,
        norm: true,
        bottleneck: Some(BottleneckPlan::new(BottleneckStyle::Houlsby, 4.0)),
        base: false,
        exclude: Vec::new(),
    }
}

/// A model with its superset, groups by module, and one labelled batch.
pub struct Bench {
    pub model: Box<dyn Model>,
    pub adapters: Adapters,
    pub groups: Vec<Group>,
    pub inputs: Inputs,
    pub labels: Vec<u32>,
}

impl Bench {
    /// A fixture away from the identity, with 3 classes or a fresh head for another number.
    pub fn open(name: &str, classes: usize, dtype: DType) -> Self {
        let bench = Self::attached(name, classes, dtype, 7);
        for parameter in bench.adapters.parameters() {
            let size = match parameter.kind() {
                Kind::Norm => 0.1,
                Kind::Head | Kind::Bias => 0.2,
                Kind::Lora | Kind::Bottleneck | Kind::Base => 0.3,
            };
            move_by(&parameter, &noise(&parameter, 0.3), size);
        }
        bench
    }

    /// A fixture with its superset at the identity.
    pub fn attached(name: &str, classes: usize, dtype: DType, seed: u64) -> Self {
        Self::with(superset(), name, classes, dtype, seed)
    }

    /// A fixture with another superset at the identity.
    pub fn with(superset: Superset, name: &str, classes: usize, dtype: DType, seed: u64) -> Self {
        let golden = Golden::open(name);
        let adapters = Adapters::superset(superset, seed);
        let source = if classes == 3 {
            HeadSource::Checkpoint
        } else {
            HeadSource::Fresh
        };
        let head = Head {
            source,
            ..Head::new(classes)
        };
        let model = golden.model(&adapters, head, dtype);
        let groups = partition(&adapters.parameters(), &Grouping::Module, false);
        let rows = golden.inputs.input_ids.dims()[0] as u32;
        Self {
            model,
            adapters,
            groups,
            inputs: golden.inputs,
            labels: (0..rows)
                .map(|row| (2 * row + 1) % classes as u32)
                .collect(),
        }
    }

    /// The inputs and labels as one batch.
    pub fn batch(&self) -> Batch {
        Batch {
            inputs: self.inputs.clone(),
            targets: Some(Targets::Classes(self.labels.clone())),
            rows: (0..self.labels.len()).collect(),
            num_tokens: 0,
        }
    }

    /// Directions without a pattern, for every parameter.
    pub fn directions(&self, salt: f64) -> Directions {
        let parameters = self.adapters.parameters();
        parameters
            .iter()
            .map(|parameter| (parameter.index(), noise(parameter, salt)))
            .collect()
    }

    /// The gradient of the mean loss as a direction.
    pub fn steepest(&self) -> Directions {
        let (_, gradients) = self.gradients();
        let parameters = self.adapters.parameters();
        parameters
            .iter()
            .filter_map(|p| Some((p.index(), gradients.get(p.index())?.clone())))
            .collect()
    }

    /// Mean loss and its gradients.
    pub fn gradients(&self) -> (f64, autopeft_adapters::Gradients) {
        let pass = Pass::gradients();
        let logits = self.model.forward(&self.inputs, &pass).expect("logits");
        let labels = Tensor::from_slice(&self.labels, self.labels.len(), device());
        let loss = ops::cross_entropy(&logits, &labels.expect("labels")).expect("a loss");
        let gradients = pass.backward(&loss).expect("gradients");
        (numbers(&loss)[0], gradients)
    }

    /// The logits of each example, in f64.
    pub fn logits(&self) -> Vec<Vec<f64>> {
        let logits = self.model.forward(&self.inputs, &Pass::eval());
        let logits = logits.and_then(|logits| Ok(logits.to_dtype(DType::F64)?.to_vec2()?));
        logits.expect("logits")
    }

    /// Moves one group along its direction, runs `then`, and moves it back.
    pub fn displaced<T>(
        &self,
        group: &Group,
        along: &Directions,
        by: f64,
        then: impl FnOnce() -> T,
    ) -> T {
        let saved: Vec<Tensor> = group.parameters.iter().map(|p| p.value()).collect();
        for parameter in &group.parameters {
            let direction = along.get(parameter.index()).expect("a direction");
            move_by(parameter, direction, by);
        }
        let result = then();
        for (parameter, value) in group.parameters.iter().zip(&saved) {
            parameter.set(value).expect("the same shape");
        }
        result
    }

    /// Measures all groups along these directions.
    pub fn measure(
        &self,
        estimator: &mut dyn Estimator,
        directions: &Directions,
        rates: &[f64],
        step: usize,
    ) -> Result<Estimate, Box<autopeft::error::Error>> {
        measure(
            &self.model,
            self,
            estimator,
            &Arc::new(directions.clone()),
            rates,
            step,
        )
    }

    /// Position of the group with this name.
    pub fn position(&self, name: &str) -> usize {
        let found = self.groups.iter().position(|group| group.name == name);
        found.unwrap_or_else(|| {
            let names: Vec<&str> = self
                .groups
                .iter()
                .map(|group| group.name.as_str())
                .collect();
            panic!("no group {name} among {names:?}")
        })
    }

    /// All values, as bits.
    pub fn bits(&self) -> Vec<Vec<u64>> {
        let parameters = self.adapters.parameters();
        parameters.iter().map(|parameter| bits(parameter)).collect()
    }
}

/// Measures the groups of `bench` with another model over the same parameters.
pub fn measure(
    model: &dyn Objective,
    bench: &Bench,
    estimator: &mut dyn Estimator,
    directions: &Arc<Directions>,
    rates: &[f64],
    step: usize,
) -> Result<Estimate, Box<autopeft::error::Error>> {
    let groups: Vec<&Group> = bench.groups.iter().collect();
    let batch = bench.batch();
    let estimate = estimator.measure(&Point {
        model,
        batch: &batch,
        groups: &groups,
        directions,
        rates,
        step,
    });
    estimate.map_err(Box::new)
}

/// Whether a group is the bias of an attention key, which shifts all scores of a query alike.
pub fn is_key_bias(group: &Group) -> bool {
    group.kind == Kind::Bias && (group.role.ends_with(".key") || group.role.ends_with(".k_lin"))
}

/// A parameter's value, as bits; every f32 has its own f64.
pub fn bits(parameter: &Parameter) -> Vec<u64> {
    numbers(&parameter.value())
        .iter()
        .map(|x| x.to_bits())
        .collect()
}

/// Numbers between -1 and 1 without a pattern that a model could share.
pub fn noise(parameter: &Parameter, salt: f64) -> Tensor {
    let initial = parameter.initial();
    let numbers: Vec<f64> = (0..initial.elem_count())
        .map(|i| (1.7 * i as f64 + 37.1 * parameter.index() as f64 + salt).sin())
        .collect();
    Tensor::from_vec(numbers, initial.shape(), device())
        .and_then(|noise| noise.to_dtype(initial.dtype()))
        .expect("a tensor")
}

pub fn move_by(parameter: &Parameter, direction: &Tensor, step: f64) {
    let value = (parameter.value() + (direction * step).expect("a product")).expect("a sum");
    parameter.set(&value).expect("the same shape");
}

pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .and_then(|tensor| tensor.flatten_all()?.to_vec1())
        .expect("numbers")
}

/// `A` of an estimate that has all of it.
pub fn whole(estimate: &Estimate) -> &[f64] {
    match &estimate.curvature {
        Curvature::Full(matrix) => matrix,
        Curvature::Diagonal(_) => panic!("only the diagonal was measured"),
    }
}

/// Diagonal of `A`.
pub fn diagonal(estimate: &Estimate) -> Vec<f64> {
    estimate.curvature.diagonal(estimate.slope.len())
}

/// Verdicts and values `b²/2A` of an estimate, as a probe reckons them.
pub fn judged(estimate: &Estimate) -> (Vec<Verdict>, Vec<f64>) {
    let diagonal = diagonal(estimate);
    let floor = rounding_floor(&diagonal);
    let fit = estimate.fit.as_deref();
    let verdicts = judge_all(&estimate.slope, &estimate.curvature, fit, floor);
    let values = verdicts
        .iter()
        .zip(estimate.slope.iter().zip(&diagonal))
        .map(|(verdict, (&b, &a))| match verdict {
            Verdict::Accepted => value(b, a),
            _ => 0.0,
        })
        .collect();
    (verdicts, values)
}

/// Fails unless two matrices agree entry by entry, relative to the roots of their diagonals.
pub fn assert_matrices_close(got: &[f64], expected: &[f64], size: usize, tolerance: f64) {
    assert_eq!((got.len(), expected.len()), (size * size, size * size));
    let scale = |at: usize| expected[at * size + at].abs().sqrt();
    for i in 0..size {
        for j in 0..size {
            let (got, expected) = (got[i * size + j], expected[i * size + j]);
            let error = (got - expected).abs();
            // Groups without any effect have only rounding.
            let allowed = tolerance * (scale(i) * scale(j)).max(expected.abs()) + 1e-9;
            assert!(
                error <= allowed,
                "({i}, {j}): {got} is not {expected} (error {error:.1e}, allowed {allowed:.1e})"
            );
        }
    }
}

/// Fails unless two lists agree relative to their largest number and to each number.
pub fn assert_lists_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (k, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(
            error <= tolerance * expected.abs() + 1e-12,
            "{k}: {got} is not {expected} (error {error:.1e})"
        );
    }
}
