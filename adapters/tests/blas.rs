//! Products by a library of the system. Each test fails where none is found: `bash .ci/blas.sh` brings one.

use autopeft_adapters::{Adapters, Linear, Pass, hardware};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use std::collections::HashMap;

/// Rows, inputs, outputs: rows that fill blocks and such that do not, large ones and narrow ones.
const SIZES: [(usize, usize, usize); 4] =
    [(600, 96, 300), (256, 384, 128), (33, 700, 200), (8, 16, 5)];

/// Of f32 sums of some hundred products, twice one after the other, relative to the largest number.
const ROUNDING: f64 = 1e-5;

/// The library in use, or the test fails.
fn library() -> String {
    let products = hardware::products().unwrap_or_else(|error| panic!("{error}: {}", error.hint()));
    assert_ne!(
        products,
        hardware::CRATE,
        "no BLAS was found on this system; `bash .ci/blas.sh` installs one for these tests"
    );
    products
}

fn wave(shape: (usize, usize), rate: f64) -> Tensor {
    let numbers: Vec<f32> = (0..shape.0 * shape.1)
        .map(|i| (rate * i as f64 + 1.0).sin() as f32)
        .collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).expect("the numbers fill the shape")
}

fn layer(inputs: usize, outputs: usize) -> Linear {
    let tensors = HashMap::from([
        ("weight".to_string(), wave((outputs, inputs), 0.7)),
        (
            "bias".to_string(),
            wave((1, outputs), 0.3).squeeze(0).expect("one row"),
        ),
    ]);
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let adapters = Adapters::none();
    adapters.linear(inputs, outputs, weights).expect("a layer")
}

/// The output of a layer, and the gradient at its input of the sum of the output's squares.
fn both_ways(rows: usize, inputs: usize, outputs: usize) -> (Tensor, Tensor) {
    let x = Var::from_tensor(&wave((rows, inputs), 0.11)).expect("a variable");
    let output = layer(inputs, outputs)
        .forward(x.as_tensor(), &Pass::eval())
        .expect("the shapes fit");
    let loss = output.sqr().and_then(|squares| squares.sum_all());
    let gradients = loss.and_then(|loss| loss.backward()).expect("a gradient");
    let gradient = gradients.get(x.as_tensor()).expect("the input's").clone();
    (output, gradient)
}

fn farthest(a: &Tensor, b: &Tensor) -> f64 {
    let b = b.to_dtype(DType::F64).expect("numbers");
    let a = a.to_dtype(DType::F64).expect("numbers");
    let gap = (a - &b)
        .and_then(|gap| gap.abs()?.max_all()?.to_scalar::<f64>())
        .expect("a number");
    let size = b
        .abs()
        .and_then(|b| b.max_all()?.to_scalar::<f64>())
        .expect("a number");
    gap / size
}

#[test]
fn a_layer_computes_what_f64_does_forward_and_backward() {
    let library = library();
    for (rows, inputs, outputs) in SIZES {
        let (output, gradient) = both_ways(rows, inputs, outputs);
        let wide = |tensor: Tensor| tensor.to_dtype(DType::F64).expect("numbers");
        let (x, weight) = (
            wide(wave((rows, inputs), 0.11)),
            wide(wave((outputs, inputs), 0.7)),
        );
        let expected = x
            .matmul(&weight.t().expect("a matrix"))
            .and_then(|product| product.broadcast_add(&wide(wave((1, outputs), 0.3))))
            .expect("the shapes fit");
        let expected_gradient = (&expected * 2.0)
            .and_then(|gradient| gradient.matmul(&weight))
            .expect("the shapes fit");
        let gap = farthest(&output, &expected);
        assert!(
            gap < ROUNDING,
            "{library}: {gap} at {rows} {inputs} {outputs}"
        );
        let gap = farthest(&gradient, &expected_gradient);
        assert!(
            gap < ROUNDING,
            "{library}: {gap} at {rows} {inputs} {outputs}"
        );
    }
}

#[test]
fn a_result_does_not_depend_on_the_number_of_threads_beyond_rounding() {
    let library = library();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool");
        pool.install(|| both_ways(600, 96, 300))
    };
    let (one, three) = (run(1), run(3));
    // The rows lie otherwise in the blocks of the library's kernel, which sums in an order of its own for each size of
    // block, and for each processor. Two such sums differ by no more than each may from that in f64.
    let gap = farthest(&one.0, &three.0).max(farthest(&one.1, &three.1));
    assert!(gap < ROUNDING, "{library}: {gap}");
    let again = run(3);
    assert_eq!(farthest(&three.0, &again.0), 0.0, "{library}");
    assert_eq!(farthest(&three.1, &again.1), 0.0, "{library}");
}

#[test]
fn every_library_of_this_machine_is_measured() {
    let _ = library();
    let contenders = hardware::contenders();
    assert!(contenders.iter().any(|one| one.value == "none"));
    assert_eq!(contenders.iter().filter(|one| one.is_in_use).count(), 1);
    assert!(contenders.iter().all(|one| one.speed.gflops > 0.1));
}
