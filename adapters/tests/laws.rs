//! The laws that every kind of PEFT module obeys, as one table over [`Kind`]: attaching changes nothing,
//! gradients and per-example derivatives equal finite differences, saving and merging keep the output,
//! and dropping a group is the same as never having attached it.
#![expect(
    clippy::unwrap_used,
    reason = "a failure to set up is a failure of the test"
)]

mod device;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use autopeft_adapters::adapterhub::{self, AdapterHubOptions};
use autopeft_adapters::peft::{self, LoraLayout, LoraScale, PeftOptions, TaskType};
use autopeft_adapters::{
    Adapters, Bottleneck, BottleneckPlan, BottleneckStyle, Directions, Error, Kind, LayerNorm,
    Linear, LoraPlan, LoraTargets, Parameter, Pass, Place, State, Superset, Variant,
    merged_var_builder, ops,
};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use device::device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const HIDDEN: usize = 6;
const CLASSES: usize = 3;
const BATCH: usize = 3;
const SEQUENCE: usize = 4;

/// A transformer block in small: a linear layer, an activation, a second linear layer with residual,
/// adapter and LayerNorm, then a head on the first position.
struct Block {
    inner: Linear,
    outer: Linear,
    adapter: Bottleneck,
    norm: LayerNorm,
    head: Linear,
}

impl Block {
    fn new(adapters: &Adapters, weights: &VarBuilder) -> Self {
        let layer = weights.pp("model.layer.0");
        let block = Self {
            inner: adapters.linear(HIDDEN, HIDDEN, layer.pp("inner")).unwrap(),
            outer: adapters
                .linear(HIDDEN, HIDDEN, layer.pp("output.dense"))
                .unwrap(),
            adapter: adapters
                .bottleneck(HIDDEN, Place::FeedForward, layer.pp("output"))
                .unwrap(),
            norm: adapters
                .layer_norm(HIDDEN, 1e-5, layer.pp("output.LayerNorm"))
                .unwrap(),
            head: adapters
                .head(HIDDEN, CLASSES, weights.pp("classifier"))
                .unwrap(),
        };
        adapters.check_used().unwrap();
        block
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let inner = ops::gelu(&self.inner.forward(x, pass).unwrap()).unwrap();
        let outer = self.outer.forward(&inner, pass).unwrap();
        let output = self
            .adapter
            .finish_block(&outer, x, &self.norm, pass)
            .unwrap();
        let first = output.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        self.head.forward(&first, pass).unwrap()
    }
}

fn random(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let numbers: Vec<f64> = (0..shape.iter().product())
        .map(|_| generator.random_range(-1.0..1.0))
        .collect();
    Tensor::from_vec(numbers, shape, device())
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

fn weights(dtype: DType) -> VarBuilder<'static> {
    weights_of(HIDDEN, CLASSES, dtype)
}

fn weights_of(hidden: usize, classes: usize, dtype: DType) -> VarBuilder<'static> {
    let shapes: [(&str, &[usize]); 8] = [
        ("model.layer.0.inner.weight", &[hidden, hidden]),
        ("model.layer.0.inner.bias", &[hidden]),
        ("model.layer.0.output.dense.weight", &[hidden, hidden]),
        ("model.layer.0.output.dense.bias", &[hidden]),
        ("model.layer.0.output.LayerNorm.weight", &[hidden]),
        ("model.layer.0.output.LayerNorm.bias", &[hidden]),
        ("classifier.weight", &[classes, hidden]),
        ("classifier.bias", &[classes]),
    ];
    let tensors: HashMap<String, Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(seed, (name, shape))| (name.to_string(), random(shape, seed as u64, dtype)))
        .collect();
    VarBuilder::from_tensors(tensors, dtype, device())
}

/// Each kind in each of its shapes. Alpha differs from the rank, so that a forgotten scale shows.
fn cases() -> Vec<(Kind, Superset)> {
    let nothing = Superset {
        lora: None,
        lora_targets: LoraTargets::AllLinear,
        bias: false,
        inert_bias: false,
        norm: false,
        bottleneck: None,
        base: false,
        exclude: Vec::new(),
    };
    let mut cases: Vec<(Kind, Superset)> = Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::Bottleneck)
        .map(|kind| {
            let mut superset = nothing.clone();
            match kind {
                Kind::Lora => {
                    superset.lora = Some(LoraPlan {
                        rank_blocks: vec![1, 2],
                        scale: 5.0 / 3.0,
                        dropout: 0.0,
                    });
                }
                Kind::Bias => superset.bias = true,
                Kind::Norm => superset.norm = true,
                Kind::Base => superset.base = true,
                Kind::Head | Kind::Bottleneck => {}
            }
            (kind, superset)
        })
        .collect();
    for style in [
        BottleneckStyle::Pfeiffer,
        BottleneckStyle::Houlsby,
        BottleneckStyle::Parallel,
    ] {
        let mut superset = nothing.clone();
        superset.bottleneck = Some(BottleneckPlan::new(style, 2.0));
        cases.push((Kind::Bottleneck, superset));
    }
    cases
}

fn of_kind(adapters: &Adapters, kind: Kind) -> Vec<Arc<Parameter>> {
    adapters
        .parameters()
        .into_iter()
        .filter(|parameter| parameter.kind() == kind)
        .collect()
}

/// Moves parameters away from the identity.
fn scramble(parameters: &[Arc<Parameter>]) {
    for parameter in parameters {
        let value = parameter.value();
        let noise = random(value.dims(), 1000 + parameter.index() as u64, value.dtype());
        parameter
            .set(&(value + (noise * 0.5).unwrap()).unwrap())
            .unwrap();
    }
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let a = a.to_dtype(DType::F64).unwrap();
    let b = b.to_dtype(DType::F64).unwrap();
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar()
        .unwrap()
}

fn input(dtype: DType) -> Tensor {
    random(&[BATCH, SEQUENCE, HIDDEN], 77, dtype)
}

fn labels() -> Tensor {
    Tensor::new(&[0u32, 2, 1], device()).unwrap()
}

fn loss(block: &Block, x: &Tensor, pass: &Pass) -> Tensor {
    ops::cross_entropy(&block.forward(x, pass), &labels()).unwrap()
}

#[test]
fn attaching_changes_no_output() {
    let x = input(DType::F32);
    let base = Block::new(&Adapters::none(), &weights(DType::F32)).forward(&x, &Pass::eval());
    for (kind, superset) in cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F32));
        assert!(
            !of_kind(&adapters, kind).is_empty(),
            "{kind} attached nothing"
        );
        let output = block.forward(&x, &Pass::eval());
        assert!(
            difference(&base, &output) < 1e-6,
            "{kind} changed the output"
        );
    }
}

#[test]
fn only_trainable_parameters_get_a_gradient() {
    let x = input(DType::F32);
    for (kind, superset) in cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F32));
        for parameter in adapters.parameters() {
            let state = if parameter.kind() == kind {
                State::Trainable
            } else {
                State::Frozen
            };
            parameter.set_state(state);
        }
        let pass = Pass::gradients();
        let gradients = pass.backward(&loss(&block, &x, &pass)).unwrap();
        for parameter in adapters.parameters() {
            let has = gradients.get(parameter.index()).is_some();
            assert_eq!(has, parameter.kind() == kind, "{}", parameter.name());
        }
    }
}

/// Central differences in f64 have an error of order ε² ≈ 1e-10.
#[test]
fn gradients_equal_finite_differences() {
    let x = input(DType::F64);
    for (kind, superset) in cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F64));
        let parameters = of_kind(&adapters, kind);
        scramble(&parameters);
        for parameter in &parameters {
            parameter.set_state(State::Trainable);
        }
        let pass = Pass::gradients();
        let gradients = pass.backward(&loss(&block, &x, &pass)).unwrap();
        let value_of = || -> f64 { loss(&block, &x, &Pass::eval()).to_scalar().unwrap() };
        for parameter in &parameters {
            let gradient = gradients.get(parameter.index()).unwrap();
            assert_eq!(gradient.dims(), parameter.initial().dims());
            let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            let value = parameter.value();
            let numbers: Vec<f64> = value.flatten_all().unwrap().to_vec1().unwrap();
            for (at, expected) in gradient.iter().enumerate() {
                let side = |epsilon: f64| {
                    let mut moved = numbers.clone();
                    moved[at] += epsilon;
                    parameter
                        .set(&Tensor::from_vec(moved, value.dims(), device()).unwrap())
                        .unwrap();
                    value_of()
                };
                let numeric = (side(1e-5) - side(-1e-5)) / 2e-5;
                assert!(
                    (numeric - expected).abs() < 1e-8,
                    "{} [{at}]: {expected} against {numeric}",
                    parameter.name()
                );
            }
            parameter.set(&value).unwrap();
        }
    }
}

#[test]
fn tangents_equal_finite_differences_for_every_example() {
    let x = input(DType::F64);
    for (kind, superset) in cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F64));
        let parameters = of_kind(&adapters, kind);
        scramble(&parameters);
        let directions: Directions = parameters
            .iter()
            .map(|p| {
                (
                    p.index(),
                    random(p.initial().dims(), 500 + p.index() as u64, DType::F64),
                )
            })
            .collect();
        let directions = Arc::new(directions);
        let pass = Pass::measure(directions.clone());
        let logits = block.forward(&x, &pass);
        // Two backward passes over one forward pass: the second must not see the first.
        for class in 0..CLASSES {
            let column = logits.narrow(1, class, 1).unwrap().sum_all().unwrap();
            let tangents = pass.backward(&column).unwrap();
            for parameter in &parameters {
                let tangent: Vec<f64> = tangents.get(parameter.index()).unwrap().to_vec1().unwrap();
                let value = parameter.value();
                let side = |epsilon: f64| -> Vec<f64> {
                    let step = (directions.get(parameter.index()).unwrap() * epsilon).unwrap();
                    parameter.set(&(&value + step).unwrap()).unwrap();
                    let logits = block.forward(&x, &Pass::eval());
                    logits
                        .narrow(1, class, 1)
                        .unwrap()
                        .squeeze(1)
                        .unwrap()
                        .to_vec1()
                        .unwrap()
                };
                let (above, below) = (side(1e-5), side(-1e-5));
                parameter.set(&value).unwrap();
                assert_eq!(tangent.len(), BATCH);
                for ((above, below), tangent) in above.iter().zip(&below).zip(&tangent) {
                    let numeric = (above - below) / 2e-5;
                    assert!(
                        (numeric - tangent).abs() < 1e-8,
                        "{}: {tangent} against {numeric}",
                        parameter.name()
                    );
                }
            }
        }
    }
}

fn export_peft(adapters: &Adapters, lora_scale: LoraScale, folder: &Path) {
    let options = PeftOptions {
        base_model: "base".to_string(),
        task: TaskType::SequenceClassification,
        lora_dropout: 0.0,
        lora_scale,
        lora_layout: LoraLayout::Trimmed,
    };
    peft::write(folder, adapters, &options).unwrap();
}

fn export(adapters: &Adapters, kind: Kind, folder: &Path) {
    export_peft(adapters, LoraScale::Folded, folder);
    if kind == Kind::Bottleneck {
        let folder = folder.join(adapterhub::FOLDER);
        std::fs::create_dir(&folder).unwrap();
        adapterhub::write(&folder, adapters, &adapterhub_options()).unwrap();
    }
}

fn adapterhub_options() -> AdapterHubOptions {
    AdapterHubOptions {
        name: "selected".to_string(),
        model_class: "Block".to_string(),
        model_type: "block".to_string(),
        model_name: "base".to_string(),
        base_prefix: "model".to_string(),
        labels: ["a", "b", "c"].map(String::from).to_vec(),
    }
}

/// What a base weight is measured for is never trained, so it is never saved either.
fn exported_cases() -> impl Iterator<Item = (Kind, Superset)> {
    cases().into_iter().filter(|(kind, _)| *kind != Kind::Base)
}

#[test]
fn a_saved_adapter_loads_with_the_same_output() {
    let x = input(DType::F32);
    let base = Block::new(&Adapters::none(), &weights(DType::F32)).forward(&x, &Pass::eval());
    for (kind, superset) in exported_cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F32));
        scramble(&of_kind(&adapters, kind));
        let expected = block.forward(&x, &Pass::eval());
        assert!(
            difference(&base, &expected) > 1e-3,
            "{kind} did not change the output"
        );
        let folder = tempfile::tempdir().unwrap();
        export(&adapters, kind, folder.path());
        let loaded = Adapters::load(folder.path()).unwrap();
        let output = Block::new(&loaded, &weights(DType::F32)).forward(&x, &Pass::eval());
        assert!(
            difference(&expected, &output) < 1e-5,
            "{kind} came back different"
        );
    }
}

/// Of ranks 1 and 3, so that one of them stands in `rank_pattern`.
#[test]
fn a_scale_that_is_written_as_alpha_loads_with_the_same_output_and_the_same_b() {
    let x = input(DType::F32);
    let mut superset = cases()[0].1.clone();
    if let Some(lora) = &mut superset.lora {
        (lora.rank_blocks, lora.scale) = (vec![1, 2], 2.5);
    }
    let adapters = Adapters::superset(superset, 1);
    let block = Block::new(&adapters, &weights(DType::F32));
    let parameters = of_kind(&adapters, Kind::Lora);
    scramble(&parameters);
    let inner = |p: &Parameter| p.module().ends_with("inner") && p.part().block() == Some(1);
    for parameter in parameters.iter().filter(|p| inner(p)) {
        parameter.set_state(State::Dropped);
    }
    let expected = block.forward(&x, &Pass::eval());
    let folder = tempfile::tempdir().unwrap();
    export_peft(&adapters, LoraScale::Written, folder.path());
    let config = peft::PeftConfig::read(folder.path()).unwrap();
    assert_eq!((config.r, config.lora_alpha), (Some(3), Some(7.5)));
    let alphas = config.alpha_pattern.unwrap();
    assert!(alphas.iter().map(|(_, alpha)| alpha).eq([2.5]));
    let loaded = Adapters::load(folder.path()).unwrap();
    let output = Block::new(&loaded, &weights(DType::F32)).forward(&x, &Pass::eval());
    assert!(difference(&expected, &output) < 1e-5);
    let outer = |p: &Arc<Parameter>| p.name().ends_with("output.dense.lora_B.0");
    let written = of_kind(&loaded, Kind::Lora).into_iter().find(outer);
    let first = parameters.into_iter().find(outer).unwrap().value();
    let written = written.unwrap().value().narrow(1, 0, 1).unwrap();
    assert_eq!(difference(&first, &written), 0.0);
}

#[test]
fn merged_weights_give_the_same_output_and_bottlenecks_refuse() {
    let x = input(DType::F32);
    for (kind, superset) in exported_cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F32));
        scramble(&of_kind(&adapters, kind));
        let expected = block.forward(&x, &Pass::eval());
        let folder = tempfile::tempdir().unwrap();
        export(&adapters, kind, folder.path());
        let merged = merged_var_builder(weights(DType::F32), folder.path(), DType::F32, device());
        if kind == Kind::Bottleneck {
            assert!(matches!(merged, Err(Error::NotExpressible { .. })));
            continue;
        }
        let output = Block::new(&Adapters::none(), &merged.unwrap()).forward(&x, &Pass::eval());
        assert!(
            difference(&expected, &output) < 1e-5,
            "{kind} merged differently"
        );
    }
}

#[test]
fn merging_takes_the_adapter_s_head_over_a_base_with_another_and_refuses_another_model_s_sizes() {
    let x = input(DType::F32);
    for (kind, superset) in exported_cases() {
        if kind == Kind::Bottleneck {
            continue;
        }
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F32));
        scramble(&adapters.parameters());
        let expected = block.forward(&x, &Pass::eval());
        let folder = tempfile::tempdir().unwrap();
        export(&adapters, kind, folder.path());
        let over = |base| merged_var_builder(base, folder.path(), DType::F32, device()).unwrap();

        let other_head = over(weights_of(HIDDEN, CLASSES + 2, DType::F32));
        let output = Block::new(&Adapters::none(), &other_head).forward(&x, &Pass::eval());
        assert!(difference(&expected, &output) < 1e-5, "{kind}");

        let wider = over(weights_of(2 * HIDDEN, CLASSES, DType::F32));
        let head = wider.get((CLASSES, 2 * HIDDEN), "classifier.weight");
        let message = head.unwrap_err().to_string();
        for part in ["`classifier.weight`", "[3, 6]", "[3, 12]"] {
            assert!(message.contains(part), "{kind}: {message}");
        }
        let refused = [
            ("inner.weight", vec![2 * HIDDEN; 2]),
            ("inner.bias", vec![2 * HIDDEN]),
            ("output.LayerNorm.weight", vec![2 * HIDDEN]),
        ];
        let layer = wider.pp("model.layer.0");
        let refusals = refused.map(|(name, shape)| layer.get(shape, name).err());
        let messages: Vec<String> = refusals
            .into_iter()
            .flatten()
            .map(|error| error.to_string())
            .collect();
        let is_alone = kind == Kind::Head; // of which nothing lies in the layers
        assert!(
            is_alone || !messages.is_empty(),
            "{kind}: another model's sizes passed"
        );
        for message in messages {
            assert!(message.contains("of the adapter has shape"), "{message}");
        }
    }
}

#[test]
fn dropping_is_the_same_as_putting_back_to_the_identity() {
    let x = input(DType::F32);
    for (kind, superset) in cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F32));
        let parameters = of_kind(&adapters, kind);
        scramble(&parameters);
        // The first half goes: for LoRA that is one rank block of the first layer and more.
        let (dropped, _) = parameters.split_at(parameters.len().div_ceil(2));
        let blocks: Vec<_> = dropped
            .iter()
            .map(|p| (p.module().to_string(), p.part().block()))
            .collect();
        let goes = |p: &Parameter| blocks.contains(&(p.module().to_string(), p.part().block()));
        for parameter in parameters.iter().filter(|p| goes(p)) {
            parameter.set_state(State::Dropped);
        }
        let without = block.forward(&x, &Pass::eval());
        for parameter in parameters.iter().filter(|p| goes(p)) {
            parameter.set_state(State::Trainable);
            parameter.reset();
        }
        let at_identity = block.forward(&x, &Pass::eval());
        assert!(difference(&without, &at_identity) < 1e-6, "{kind}");
    }
}

#[test]
fn a_bottleneck_that_lost_a_half_is_absent_from_the_output_and_from_its_file() {
    let x = input(DType::F32);
    let base = Block::new(&Adapters::none(), &weights(DType::F32)).forward(&x, &Pass::eval());
    let (kind, superset) = cases()
        .into_iter()
        .rfind(|(kind, _)| *kind == Kind::Bottleneck)
        .unwrap();
    for part in ["adapter_down", "adapter_up"] {
        let adapters = Adapters::superset(superset.clone(), 1);
        let block = Block::new(&adapters, &weights(DType::F32));
        let parameters = of_kind(&adapters, kind);
        scramble(&parameters);
        assert_eq!(adapterhub::kept(&adapters).len(), 1);
        for parameter in parameters.iter().filter(|p| p.name().contains(part)) {
            parameter.set_state(State::Dropped);
        }
        assert!(difference(&base, &block.forward(&x, &Pass::eval())) < 1e-6);
        assert!(adapterhub::kept(&adapters).is_empty());
        let folder = tempfile::tempdir().unwrap();
        let options = adapterhub_options();
        let written = adapterhub::write(folder.path(), &adapters, &options);
        assert!(
            matches!(written, Err(Error::NotExpressible { .. })),
            "{part}: {written:?}"
        );
    }
}

#[test]
fn copies_of_a_batch_with_a_variant_each_give_what_each_gives_alone() {
    let x = input(DType::F64);
    for (kind, superset) in cases() {
        let adapters = Adapters::superset(superset, 1);
        let block = Block::new(&adapters, &weights(DType::F64));
        let parameters = of_kind(&adapters, kind);
        scramble(&adapters.parameters());
        // The first parameter alone, none, none, all of the kind, and all of them otherwise.
        let variant = |count: usize, factor: f64| {
            let mut variant = Variant::default();
            for parameter in parameters.iter().take(count) {
                variant.insert(parameter, (parameter.value() * factor).unwrap());
            }
            variant
        };
        let variants = [
            (1, 1.5),
            (0, 0.0),
            (0, 0.0),
            (usize::MAX, 0.5),
            (usize::MAX, -2.0),
        ];
        let variants = variants.map(|(count, factor)| variant(count, factor));
        let unmoved = block.forward(&x, &Pass::eval());
        let alone = variants.iter().map(|variant| {
            let _applied = variant.apply().unwrap();
            block.forward(&x, &Pass::eval())
        });
        let alone = Tensor::cat(&alone.collect::<Vec<_>>(), 0).unwrap();
        let copies = Tensor::cat(&vec![&x; variants.len()], 0).unwrap();
        let together = block.forward(&copies, &Pass::variants(variants.to_vec()));
        assert!(difference(&together, &alone) < 1e-12, "{kind:?}");
        for changed in [0, 3, 4] {
            let own = alone.narrow(0, changed * BATCH, BATCH).unwrap();
            assert!(
                difference(&own, &unmoved) > 1e-6,
                "{kind:?}: variant {changed}"
            );
        }
        assert!(difference(&block.forward(&x, &Pass::eval()), &unmoved) == 0.0);
    }
}

#[test]
fn a_batch_without_equal_copies_is_refused() {
    let adapters = Adapters::superset(cases()[1].1.clone(), 1);
    let block = Block::new(&adapters, &weights(DType::F32));
    let parameter = &adapters.parameters()[0];
    let mut variant = Variant::default();
    variant.insert(parameter, parameter.value());
    let pass = Pass::variants(vec![variant, Variant::default()]);
    let refused = block.inner.forward(&input(DType::F32), &pass);
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("3 rows") && error.contains("2 variants"),
        "{error}"
    );
}

#[test]
fn initial_values_follow_from_the_seed_alone() {
    let make = |seed| {
        let adapters = Adapters::superset(cases()[0].1.clone(), seed);
        Block::new(&adapters, &weights(DType::F32));
        of_kind(&adapters, Kind::Lora)[0].value()
    };
    assert_eq!(difference(&make(1), &make(1)), 0.0);
    assert!(difference(&make(1), &make(2)) > 1e-3);
}

#[test]
fn dropout_acts_in_training_alone() {
    let x = input(DType::F64);
    let mut superset = cases()[0].1.clone();
    if let Some(lora) = &mut superset.lora {
        lora.dropout = 0.5;
    }
    let adapters = Adapters::superset(superset, 1);
    let block = Block::new(&adapters, &weights(DType::F64));
    scramble(&of_kind(&adapters, Kind::Lora));
    let value = |pass: &Pass| -> f64 { loss(&block, &x, pass).to_scalar().unwrap() };
    let plain = value(&Pass::eval());
    assert_eq!(plain, value(&Pass::gradients()));
    assert_eq!(value(&Pass::train(1)), value(&Pass::train(1)));
    assert_ne!(plain, value(&Pass::train(1)));
    assert_ne!(value(&Pass::train(2)), value(&Pass::train(1)));
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let adapters = Adapters::superset(cases()[0].1.clone(), 1);
    Block::new(&adapters, &weights(DType::F32));
    let folder = tempfile::tempdir().unwrap();
    export(&adapters, Kind::Lora, folder.path());
    let loaded = Adapters::load(folder.path()).unwrap();
    loaded
        .linear(
            HIDDEN,
            HIDDEN,
            weights(DType::F32).pp("model.layer.0.inner"),
        )
        .unwrap();
    assert!(matches!(loaded.check_used(), Err(Error::Unused { .. })));
}
