//! AdamW against PyTorch's.

use std::collections::HashMap;

use autopeft::train::{AdamW, AdamWConfig};
use autopeft_adapters::{Adapters, Part, Pass, ops};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::fixture::{assert_lists_close, numbers};
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
