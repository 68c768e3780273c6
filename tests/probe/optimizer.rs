//! AdamW against PyTorch's, and LoRA+ against AdamW with a rate for each half.

use std::collections::HashMap;

use autopeft::train::{AdamW, AdamWConfig};
use autopeft_adapters::{Adapters, LoraPlan, Parameter, Part, Pass, Superset, ops};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::fixture::{Bench, assert_lists_close, numbers, superset};
use super::golden::device;

const WEIGHT: [f64; 6] = [0.3, -0.2, 0.1, 0.4, -0.5, 0.6];
const BIAS: [f64; 3] = [0.05, -0.1, 0.2];
const INPUTS: [f64; 8] = [0.5, -1.0, 1.5, 0.25, -0.75, 2.0, 0.1, 0.3];
const LABELS: [u32; 4] = [0, 2, 1, 1];

// PyTorch 2.15.0:
//
// import torch
// torch.set_default_dtype(torch.float64)
// x = torch.tensor([[0.5, -1.0], [1.5, 0.25], [-0.75, 2.0], [0.1, 0.3]])
// labels = torch.tensor([0, 2, 1, 1])
// weight = torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]], requires_grad=True)
// bias = torch.tensor([0.05, -0.1, 0.2], requires_grad=True)
// optimizer = torch.optim.AdamW(
//     [{"params": [weight], "lr": 0.05, "weight_decay": 0.1}, {"params": [bias], "lr": 0.02, "weight_decay": 0.0}],
//     betas=(0.9, 0.999), eps=1e-8)
// for _ in range(5):
//     optimizer.zero_grad()
//     torch.nn.functional.cross_entropy(x @ weight.T + bias, labels).backward()
//     optimizer.step()
// print(weight.flatten().tolist(), bias.tolist())
const WEIGHT_AFTER: [f64; 6] = [
    0.047898389033422126,
    -0.442205367984291,
    -0.14872364831209314,
    0.6348866741765633,
    -0.24176179294813993,
    0.3430992129147995,
];
const BIAS_AFTER: [f64; 3] = [
    -0.048746716806181895,
    -0.001105942195757343,
    0.10099990457323751,
];

#[test]
fn five_steps_equal_those_of_pytorch() {
    let device = device();
    let tensors = HashMap::from([
        (
            "head.weight".to_string(),
            Tensor::from_slice(&WEIGHT, (3, 2), device).expect("a matrix"),
        ),
        (
            "head.bias".to_string(),
            Tensor::from_slice(&BIAS, 3, device).expect("a vector"),
        ),
    ]);
    let adapters = Adapters::none();
    let vb = VarBuilder::from_tensors(tensors, DType::F64, device).pp("head");
    let layer = adapters.head(2, 3, vb).expect("a layer");
    let x = Tensor::from_slice(&INPUTS, (4, 2), device).expect("inputs");
    let labels = Tensor::from_slice(&LABELS, 4, device).expect("labels");
    let config = AdamWConfig {
        weight_decay: 0.1,
        clip: None,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(adapters.parameters(), config);
    for _ in 0..5 {
        let pass = Pass::train(0);
        let logits = layer.forward(&x, &pass).expect("logits");
        let loss = ops::cross_entropy(&logits, &labels).expect("a loss");
        let gradients = pass.backward(&loss).expect("gradients");
        let flat = optimizer.direction(&gradients).expect("a direction");
        let directions = optimizer.split(&flat).expect("directions");
        let rate = |part| if part == Part::Weight { 0.05 } else { 0.02 };
        optimizer
            .apply(&directions, |parameter| rate(parameter.part()))
            .expect("a step");
    }
    let parameters = adapters.parameters();
    assert_lists_close(&numbers(&parameters[0].value()), &WEIGHT_AFTER, 1e-12);
    assert_lists_close(&numbers(&parameters[1].value()), &BIAS_AFTER, 1e-12);
}

/// All parameters after some steps of a model whose LoRAs start with an `A` that is so many times larger, and a scale as much
/// smaller. Values of `A` are of the size that they would have without that.
fn trained(size_of_a: f64, config: AdamWConfig, rate_of_a: f64) -> Vec<f64> {
    let lora = superset().lora.map(|lora| LoraPlan {
        scale: lora.scale / size_of_a,
        ..lora
    });
    let superset = Superset {
        lora,
        inert_bias: false, // whose gradients are rounding
        ..superset()
    };
    let bench = Bench::with(superset, "bert", 3, DType::F64, 7);
    let is_a = |parameter: &Parameter| matches!(parameter.part(), Part::LoraA { .. });
    let parameters = bench.adapters.parameters();
    for parameter in parameters.iter().filter(|parameter| is_a(parameter)) {
        let larger = (parameter.value() * size_of_a).expect("a tensor");
        parameter.set(&larger).expect("a value");
    }
    let mut optimizer = AdamW::new(parameters.clone(), config);
    for _ in 0..5 {
        let (_, gradients) = bench.gradients();
        let flat = optimizer.direction(&gradients).expect("a direction");
        let directions = optimizer.split(&flat).expect("directions");
        let rate = |parameter: &Parameter| if is_a(parameter) { rate_of_a } else { RATE };
        optimizer.apply(&directions, rate).expect("a step");
    }
    let values = parameters.iter().flat_map(|parameter| {
        let size = if is_a(parameter) { size_of_a } else { 1.0 };
        let values = numbers(&parameter.value()).into_iter();
        values.map(move |value| value / size)
    });
    values.collect()
}

const RATE: f64 = 0.05;
const PLUS: AdamWConfig = AdamWConfig {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    clip: None,
    loraplus_lr_ratio: 16.0,
};

fn furthest(one: &[f64], other: &[f64]) -> f64 {
    let distances = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    distances.fold(0.0, f64::max)
}

/// Also in the weight decay, as in PEFT's `create_loraplus_optimizer`, where `A` is a parameter group with a rate of its own.
#[test]
fn loraplus_is_a_lower_rate_of_a() {
    let plus = AdamWConfig {
        epsilon: 1e-16, // it is added to the root of a smaller second moment here
        ..PLUS
    };
    let plain = AdamWConfig {
        loraplus_lr_ratio: 1.0,
        ..plus
    };
    let expected = trained(1.0, plain, RATE / 16.0);
    assert_lists_close(&trained(1.0, plus, RATE), &expected, 1e-8);
    assert!(furthest(&trained(1.0, plain, RATE), &expected) > 0.1);
}

/// Also where gradients are clipped.
#[test]
fn loraplus_is_adamw_on_a_larger_a() {
    let plus = AdamWConfig {
        weight_decay: 0.0,
        clip: Some(1e-2),
        ..PLUS
    };
    let plain = AdamWConfig {
        loraplus_lr_ratio: 1.0,
        ..plus
    };
    let expected = trained(16.0, plain, RATE);
    assert_lists_close(&trained(1.0, plus, RATE), &expected, 1e-12);
    let not_clipped = AdamWConfig { clip: None, ..plus };
    assert!(furthest(&trained(1.0, not_clipped, RATE), &expected) > 1e-3);
}
