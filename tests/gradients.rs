//! Gradients equal PyTorch's, and gradients and per-example derivatives equal finite differences, for every
//! parameter of every family.

mod golden;

use std::sync::Arc;

use autopeft::models::{Family, Head, HiddenActivation, Model, Pooling};
use autopeft_adapters::{
    Adapters, BottleneckPlan, BottleneckStyle, Directions, Kind, LoraPlan, LoraTargets, Parameter,
    Part, Pass, State, Superset, ops,
};
use candle_core::{DType, Tensor};
use golden::{Golden, assert_close, device};

/// One fixture of each family.
const FAMILIES: [&str; 3] = ["bert", "roberta", "distilbert"];

/// Every kind everywhere, also what a search leaves out by default.
fn everything(style: BottleneckStyle) -> Superset {
    Superset {
        lora: Some(LoraPlan {
            rank_blocks: vec![2, 1],
            scale: 0.7,
            dropout: 0.0,
        }),
        lora_targets: LoraTargets::AllLinear,
        bias: true,
        inert_bias: true,
        norm: true,
        bottleneck: Some(BottleneckPlan::new(style, 4.0)),
        base: true,
        exclude: Vec::new(),
    }
}

/// The fixtures with gradients; all rows of one batch, which are of different lengths.
fn classifiers() -> Vec<Golden> {
    let mut goldens = Golden::all();
    goldens.retain(|golden| golden.expected.keys().any(|name| name.starts_with("grad.")));
    assert!(!goldens.is_empty(), "no fixtures with gradients");
    for golden in &goldens {
        let mask = golden
            .inputs
            .attention_mask
            .to_vec2::<u32>()
            .expect("a matrix");
        assert!(
            mask.iter().any(|row| row.contains(&0)),
            "{}: nothing is padded",
            golden.name
        );
    }
    goldens
}

fn labels(golden: &Golden) -> Tensor {
    golden.expected["labels"]
        .to_dtype(DType::U32)
        .expect("labels")
}

fn attach(
    golden: &Golden,
    head: Head,
    style: BottleneckStyle,
    dtype: DType,
) -> (Box<dyn Model>, Adapters) {
    let adapters = Adapters::superset(everything(style), 7);
    let model = golden.model(&adapters, head, dtype);
    for parameter in adapters.parameters() {
        parameter.set_state(State::Trainable); // base weights are frozen otherwise
    }
    (model, adapters)
}

/// Numbers between -1 and 1 without a pattern that a model could share.
fn noise(parameter: &Parameter, salt: f64) -> Tensor {
    let initial = parameter.initial();
    let numbers: Vec<f64> = (0..initial.elem_count())
        .map(|i| (1.7 * i as f64 + 37.1 * parameter.index() as f64 + salt).sin())
        .collect();
    Tensor::from_vec(numbers, initial.shape(), device())
        .and_then(|noise| noise.to_dtype(initial.dtype()))
        .expect("a tensor")
}

/// Moves every parameter but the base weights away from the identity.
fn perturb(adapters: &Adapters) {
    for parameter in adapters.parameters() {
        let size = match parameter.kind() {
            Kind::Base => continue,
            Kind::Norm | Kind::Head => 0.1,
            Kind::Bias => 0.2,
            Kind::Lora | Kind::Bottleneck => 0.3,
        };
        move_by(&parameter, &noise(&parameter, 0.3), size);
    }
}

fn move_by(parameter: &Parameter, direction: &Tensor, step: f64) {
    let value = (parameter.value() + (direction * step).expect("a product")).expect("a sum");
    parameter.set(&value).expect("the same shape");
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor
        .flatten_all()
        .and_then(|t| t.to_vec1())
        .expect("f64 numbers")
}

#[test]
fn gradients_equal_those_of_pytorch() {
    for golden in classifiers() {
        for (dtype, relative, absolute) in [(DType::F32, 1e-3, 1e-5), (DType::F64, 1e-6, 1e-8)] {
            // Attached as the identity, so that the base model's gradients do not change.
            let (model, adapters) = attach(&golden, Head::new(3), BottleneckStyle::Pfeiffer, dtype);
            let pass = Pass::train(0);
            let logits = model.forward(&golden.inputs, &pass).expect("logits");
            let loss = ops::cross_entropy(&logits, &labels(&golden)).expect("a loss");
            assert_close(&loss, &golden.expected["loss"], 1e-5, 1e-5, &golden.name);
            let gradients = pass.backward(&loss).expect("gradients");

            let mut compared = 0;
            for parameter in adapters.parameters() {
                if !matches!(parameter.part(), Part::Weight | Part::Bias) {
                    continue; // what PyTorch's model does not have
                }
                let name = format!("grad.{}.{}", parameter.module(), parameter.part().name());
                let expected = golden
                    .expected
                    .get(&name)
                    .unwrap_or_else(|| panic!("no {name}"));
                let got = gradients
                    .get(parameter.index())
                    .unwrap_or_else(|| panic!("none for {name}"));
                let is_transposed =
                    parameter.kind() == Kind::Base && golden.config.family == Family::Gpt2;
                let expected = match is_transposed {
                    true => &expected.t().expect("a matrix"),
                    false => expected,
                };
                assert_close(
                    got,
                    expected,
                    golden.tolerance(relative),
                    golden.tolerance(absolute),
                    &format!("{} {name} {dtype:?}", golden.name),
                );
                compared += 1;
            }
            let available = golden
                .expected
                .keys()
                .filter(|name| name.starts_with("grad."));
            assert_eq!(
                compared,
                available.count(),
                "{}: parameters without a place",
                golden.name
            );
        }
    }
}

/// Compares the gradient of the loss, and for each example the derivative of each logit, with central
/// differences along a direction, for the chosen parameters of a model with every kind attached.
fn check_finite_differences(
    golden: &Golden,
    head: Head,
    style: BottleneckStyle,
    chosen: impl Fn(&Parameter) -> bool,
) {
    const STEP: f64 = 1e-6;
    // Of differences of f64 numbers of size 1: 1e-16 / STEP, and STEP² of the third derivative.
    const TOLERANCE: f64 = 1e-6;
    let labels = labels(golden);
    let (model, adapters) = attach(golden, head, style, DType::F64);
    perturb(&adapters);
    let mut parameters = adapters.parameters();
    parameters.retain(|parameter| chosen(parameter));
    assert!(!parameters.is_empty());
    let forward = |pass: &Pass| model.forward(&golden.inputs, pass).expect("logits");

    let pass = Pass::train(0);
    let loss = ops::cross_entropy(&forward(&pass), &labels).expect("a loss");
    let gradients = pass.backward(&loss).expect("gradients");

    let directions: Directions = parameters
        .iter()
        .map(|parameter| (parameter.index(), noise(parameter, 0.9)))
        .collect();
    let pass = Pass::measure(Arc::new(directions.clone()));
    let logits = forward(&pass);
    let derivatives: Vec<_> = (0..3)
        .map(|label| {
            let sum = logits
                .narrow(1, label, 1)
                .and_then(|column| column.sum_all());
            pass.backward(&sum.expect("a sum")).expect("derivatives")
        })
        .collect();

    for parameter in &parameters {
        let what = format!("{} {style:?} {}", golden.name, parameter.name());
        let direction = directions.get(parameter.index()).expect("a direction");
        let before = parameter.value();
        let at = |step: f64| {
            move_by(parameter, direction, step);
            let logits = forward(&Pass::eval());
            parameter.set(&before).expect("the same shape");
            let loss = ops::cross_entropy(&logits, &labels).expect("a loss");
            (logits, loss)
        };
        let (above, below) = (at(STEP), at(-STEP));
        let slope = |above: &Tensor, below: &Tensor| {
            ((above - below).expect("a difference") / (2.0 * STEP)).expect("a quotient")
        };

        let gradient = gradients
            .get(parameter.index())
            .unwrap_or_else(|| panic!("none for {what}"));
        assert_eq!(gradient.dims(), parameter.initial().dims(), "{what}");
        let along = (gradient * direction).and_then(|product| product.sum_all());
        let expected = slope(&above.1, &below.1);
        assert_close(
            &along.expect("a sum"),
            &expected,
            TOLERANCE,
            TOLERANCE,
            &what,
        );

        let slopes = slope(&above.0, &below.0); // (batch, labels)
        for (label, derivatives) in derivatives.iter().enumerate() {
            let got = derivatives
                .get(parameter.index())
                .unwrap_or_else(|| panic!("none for {what}"));
            let expected = slopes
                .narrow(1, label, 1)
                .and_then(|column| column.squeeze(1));
            assert_close(
                got,
                &expected.expect("a column"),
                TOLERANCE,
                TOLERANCE,
                &what,
            );
        }

        // The key's bias shifts all scores of a query alike; everything else must have an effect.
        let inert = parameter.kind() == Kind::Bias
            && (parameter.module().ends_with(".key") || parameter.module().ends_with(".k_lin"));
        let largest = numbers(gradient)
            .iter()
            .fold(0.0f64, |most, x| most.max(x.abs()));
        assert_eq!(
            largest < 1e-12,
            inert,
            "{what}: the largest gradient is {largest:.1e}"
        );
    }
}

#[test]
fn every_gradient_and_example_derivative_equals_finite_differences() {
    for name in FAMILIES {
        check_finite_differences(
            &Golden::open(name),
            Head::new(3),
            BottleneckStyle::Houlsby,
            |_| true,
        );
    }
}

#[test]
fn every_gradient_of_a_decoder_equals_finite_differences() {
    for name in [
        "llama", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt-neox",
    ] {
        check_finite_differences(
            &Golden::open(name),
            Head::new(3),
            BottleneckStyle::Houlsby,
            |parameter| parameter.kind() != Kind::Base || parameter.index() % 3 == 0,
        );
    }
}

#[test]
fn gradients_of_dropped_activations_equal_finite_differences() {
    const STEP: f64 = 1e-6;
    for name in ["bert", "roberta", "distilbert", "gpt2", "gpt-neox", "phi3"] {
        let golden = Golden::open(name);
        let labels = labels(&golden);
        let (model, adapters) =
            attach(&golden, Head::new(3), BottleneckStyle::Pfeiffer, DType::F64);
        perturb(&adapters);
        let loss = |hidden: f64| {
            let pass = Pass::train_dropping(5, hidden); // the same masks in each pass
            let logits = model.forward(&golden.inputs, &pass).expect("logits");
            let loss = ops::cross_entropy(&logits, &labels).expect("a loss");
            (loss.to_scalar::<f64>().expect("a number"), pass, loss)
        };
        let (dropped, pass, scalar) = loss(0.3);
        assert_eq!(dropped, loss(0.3).0, "{name}");
        assert!(
            (dropped - loss(0.0).0).abs() > 1e-3,
            "{name}: nothing is dropped"
        );
        let gradients = pass.backward(&scalar).expect("gradients");
        for parameter in adapters.parameters() {
            let what = format!("{name} {}", parameter.name());
            let direction = noise(&parameter, 0.9);
            let before = parameter.value();
            let at = |step: f64| {
                move_by(&parameter, &direction, step);
                let (loss, ..) = loss(0.3);
                parameter.set(&before).expect("the same shape");
                loss
            };
            let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let gradient = gradients
                .get(parameter.index())
                .unwrap_or_else(|| panic!("none for {what}"));
            let along = (gradient * &direction).and_then(|product| product.sum_all());
            let along = along.and_then(|sum| sum.to_scalar::<f64>()).expect("a sum");
            assert!(
                (along - slope).abs() <= 1e-6 * (1.0 + slope.abs()),
                "{what}: {along} by the graph, {slope} by differences"
            );
        }
    }
}

#[test]
fn every_bottleneck_style_has_the_gradients_of_finite_differences() {
    for name in FAMILIES {
        for style in [BottleneckStyle::Pfeiffer, BottleneckStyle::Parallel] {
            check_finite_differences(&Golden::open(name), Head::new(3), style, |parameter| {
                parameter.kind() == Kind::Bottleneck || parameter.index() % 11 == 0
            });
        }
    }
}

#[test]
fn mean_pooling_and_every_activation_have_the_gradients_of_finite_differences() {
    let mean = Head {
        pooling: Pooling::Mean,
        ..Head::new(3)
    };
    for name in FAMILIES {
        check_finite_differences(
            &Golden::open(name),
            mean,
            BottleneckStyle::Houlsby,
            |parameter| parameter.index() % 11 == 0,
        );
    }
    let mut golden = Golden::open("bert");
    for activation in [
        HiddenActivation::GeluTanh,
        HiddenActivation::Relu,
        HiddenActivation::Silu,
    ] {
        golden.config.activation = activation;
        check_finite_differences(
            &golden,
            Head::new(3),
            BottleneckStyle::Houlsby,
            |parameter| parameter.index() % 11 == 0,
        );
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_pass_it_on() {
    for name in FAMILIES {
        let golden = Golden::open(name);
        let (model, adapters) = attach(&golden, Head::new(3), BottleneckStyle::Houlsby, DType::F64);
        perturb(&adapters);
        let gradients = || {
            let pass = Pass::train(0);
            let logits = model.forward(&golden.inputs, &pass).expect("logits");
            let loss = ops::cross_entropy(&logits, &labels(&golden)).expect("a loss");
            pass.backward(&loss).expect("gradients")
        };
        let all = gradients();
        // Only the lowest layer's first LoRA stays trainable.
        let lowest = adapters
            .parameters()
            .into_iter()
            .find(|parameter| parameter.kind() == Kind::Lora)
            .expect("a LoRA");
        for parameter in adapters.parameters() {
            if parameter.index() != lowest.index() {
                parameter.set_state(State::Frozen);
            }
        }
        let one = gradients();
        assert_eq!(one.len(), 1, "{name}");
        let (got, expected) = (one.get(lowest.index()), all.get(lowest.index()));
        assert_close(
            got.expect("one"),
            expected.expect("all"),
            1e-12,
            1e-12,
            name,
        );
    }
}
