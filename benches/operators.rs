//! The fused operators alone, in the sizes of MiniLM and of RoBERTa base: forward, and forward with backward.
//!
//!     RAYON_NUM_THREADS=1 cargo bench --bench operators
//!     RAYON_NUM_THREADS=1 cargo bench --bench operators -- 'roberta/linear'
//!
//! Throughput is in floating-point operations ("elements") a second for what multiplies matrices, and in bytes of
//! input and output a second for what walks over rows. A backward pass starts from the sum of the outputs, which is
//! part of the time.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use autopeft::train::{AdamW, AdamWConfig};
use autopeft_adapters::{Adapters, LoraPlan, LoraTargets, Pass, Superset, ops};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use criterion::{BenchmarkId, Criterion, Throughput};

/// A model's sizes and a usual batch.
struct Shape {
    name: &'static str,
    batch: usize,
    length: usize,
    hidden: usize,
    inner: usize,
    heads: usize,
    vocabulary: usize,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "minilm",
        batch: 32,
        length: 64,
        hidden: 384,
        inner: 1536,
        heads: 12,
        vocabulary: 30_522,
    },
    Shape {
        name: "roberta",
        batch: 16,
        length: 128,
        hidden: 768,
        inner: 3072,
        heads: 12,
        vocabulary: 50_265,
    },
];

fn main() -> Result<()> {
    autopeft::memory::keep_freed();
    autopeft::threads::start(None)?;
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for shape in &SHAPES {
        linear(&mut criterion, shape)?;
        norms(&mut criterion, shape)?;
        activations(&mut criterion, shape)?;
        attention(&mut criterion, shape)?;
        losses(&mut criterion, shape)?;
        optimizer(&mut criterion, shape)?;
    }
    criterion.final_summary();
    Ok(())
}

/// LoRA of rank 8, all biases and all norms.
fn adapters() -> Adapters {
    let superset = Superset {
        lora: Some(LoraPlan {
            rank_blocks: vec![8],
            scale: 2.0,
            dropout: 0.0,
        }),
        lora_targets: LoraTargets::AllLinear,
        bias: true,
        inert_bias: true,
        norm: true,
        bottleneck: None,
        base: false,
        exclude: Vec::new(),
    };
    Adapters::superset(superset, 0)
}

/// Zeros: the time of a product does not depend on its numbers.
fn weights() -> VarBuilder<'static> {
    VarBuilder::zeros(DType::F32, &Device::Cpu)
}

fn wave(shape: &[usize]) -> Result<Var> {
    let numbers: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| (0.37 * i as f32).sin())
        .collect();
    Ok(Var::from_vec(numbers, shape, &Device::Cpu)?)
}

/// One operator, forward alone and with its backward pass.
fn both_ways(
    criterion: &mut Criterion,
    shape: &Shape,
    name: &str,
    inputs: &[Var],
    throughput: [Throughput; 2],
    run: impl Fn(&[Tensor], &Pass) -> Result<Tensor>,
) -> Result<()> {
    let fixed: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.as_detached_tensor())
        .collect();
    let tracked: Vec<Tensor> = inputs
        .iter()
        .map(|input| input.as_tensor().clone())
        .collect();
    let forward = || run(&fixed, &Pass::eval());
    let backward = || {
        let pass = Pass::gradients();
        let sum = run(&tracked, &pass)?.sum_all()?;
        Ok::<_, anyhow::Error>(pass.backward(&sum)?)
    };
    // A fault shows before anything is timed.
    forward()?;
    backward()?;
    let mut group = criterion.benchmark_group(format!("{}/{name}", shape.name));
    let [one, two] = throughput;
    group.throughput(one);
    group.bench_function(BenchmarkId::from_parameter("forward"), |timer| {
        timer.iter(|| black_box(forward().ok()));
    });
    group.throughput(two);
    group.bench_function(BenchmarkId::from_parameter("both"), |timer| {
        timer.iter(|| black_box(backward().ok()));
    });
    group.finish();
    Ok(())
}

/// Operations of one product and, with the product that gives the input's gradient, of both.
fn products(multiplications: usize) -> [Throughput; 2] {
    let operations = 2 * multiplications as u64;
    [
        Throughput::Elements(operations),
        Throughput::Elements(2 * operations),
    ]
}

/// Bytes of `inputs` tensors of `count` numbers in and one out, and the same the other way.
fn walks(count: usize, inputs: usize) -> [Throughput; 2] {
    let bytes = (4 * count * (inputs + 1)) as u64;
    [Throughput::Bytes(bytes), Throughput::Bytes(2 * bytes)]
}

fn linear(criterion: &mut Criterion, shape: &Shape) -> Result<()> {
    let rows = shape.batch * shape.length;
    for (name, inputs, outputs) in [
        ("linear-attention", shape.hidden, shape.hidden),
        ("linear-up", shape.hidden, shape.inner),
        ("linear-down", shape.inner, shape.hidden),
    ] {
        let layer = adapters().linear(inputs, outputs, weights().pp("layer.0.query"))?;
        let x = wave(&[shape.batch, shape.length, inputs])?;
        let throughput = products(rows * inputs * outputs);
        both_ways(criterion, shape, name, &[x], throughput, |x, pass| {
            Ok(layer.forward(&x[0], pass)?)
        })?;
    }
    Ok(())
}

fn norms(criterion: &mut Criterion, shape: &Shape) -> Result<()> {
    let size = [shape.batch, shape.length, shape.hidden];
    let count = size.iter().product();
    let (x, residual) = (wave(&size)?, wave(&size)?);
    let adapters = adapters();
    let norm = adapters.layer_norm(shape.hidden, 1e-5, weights().pp("layer.0.LayerNorm"))?;
    let both = [x.clone(), residual];
    both_ways(
        criterion,
        shape,
        "add-layer-norm",
        &both,
        walks(count, 2),
        |x, pass| Ok(norm.forward_sum(&x[0], &x[1], pass)?),
    )?;
    let norm = adapters.rms_norm(shape.hidden, 1e-5, weights().pp("layer.0.norm"))?;
    both_ways(
        criterion,
        shape,
        "rms-norm",
        &[x],
        walks(count, 1),
        |x, pass| Ok(norm.forward(&x[0], pass)?),
    )
}

fn activations(criterion: &mut Criterion, shape: &Shape) -> Result<()> {
    let size = [shape.batch, shape.length, shape.inner];
    let count = size.iter().product();
    let (x, up) = (wave(&size)?, wave(&size)?);
    both_ways(
        criterion,
        shape,
        "gelu",
        std::slice::from_ref(&x),
        walks(count, 1),
        |x, _| Ok(ops::gelu(&x[0])?),
    )?;
    both_ways(
        criterion,
        shape,
        "silu-gate",
        &[x, up],
        walks(count, 2),
        |x, _| Ok(ops::silu_gate(&x[0], &x[1])?),
    )
}

fn attention(criterion: &mut Criterion, shape: &Shape) -> Result<()> {
    let size = [shape.batch, shape.length, shape.hidden];
    let inputs = [wave(&size)?, wave(&size)?, wave(&size)?];
    let sizes = ops::Attention {
        num_heads: shape.heads,
        scale: (shape.heads as f64 / shape.hidden as f64).sqrt(),
        softcap: None,
    };
    // Scores and context; the backward pass computes the scores again and has four products more.
    let multiplications = 2 * shape.batch * shape.length * shape.length * shape.hidden;
    let operations = 2 * multiplications as u64;
    let throughput = [
        Throughput::Elements(operations),
        Throughput::Elements(operations * 7 / 2),
    ];
    both_ways(
        criterion,
        shape,
        "attention",
        &inputs,
        throughput,
        |x, _| Ok(ops::attention(&x[0], &x[1], &x[2], None, sizes)?),
    )
}

fn losses(criterion: &mut Criterion, shape: &Shape) -> Result<()> {
    let rows = 256;
    let logits = wave(&[rows, shape.vocabulary])?;
    let labels = Tensor::arange(0u32, rows as u32, &Device::Cpu)?;
    let count = rows * shape.vocabulary;
    let bytes = 4 * count as u64;
    let throughput = [Throughput::Bytes(bytes), Throughput::Bytes(2 * bytes)];
    both_ways(
        criterion,
        shape,
        "cross-entropy",
        &[logits],
        throughput,
        |x, _| Ok(ops::cross_entropy(&x[0], &labels)?),
    )
}

/// AdamW over the parameters of twelve layers: direction, split and step.
fn optimizer(criterion: &mut Criterion, shape: &Shape) -> Result<()> {
    let adapters = adapters();
    for layer in 0..12 {
        let vb = weights().pp("layer").pp(layer);
        for name in ["query", "key", "value", "dense"] {
            adapters.linear(shape.hidden, shape.hidden, vb.pp(name))?;
        }
        adapters.linear(shape.hidden, shape.inner, vb.pp("up"))?;
        adapters.linear(shape.inner, shape.hidden, vb.pp("down"))?;
    }
    let parameters = adapters.parameters();
    let pass = Pass::gradients();
    let layer = adapters.linear(shape.hidden, shape.hidden, weights().pp("layer.12.query"))?;
    let output = layer.forward(wave(&[1, shape.hidden])?.as_tensor(), &pass)?;
    let gradients = pass.backward(&output.sum_all()?)?;
    let count: usize = parameters
        .iter()
        .map(|parameter| parameter.elem_count())
        .sum();
    let mut adamw = AdamW::new(parameters, AdamWConfig::default());
    let mut step = || -> Result<()> {
        let direction = adamw.direction(&gradients)?;
        let directions = adamw.split(&direction)?;
        Ok(adamw.apply(&directions, |_| 1e-6)?)
    };
    step()?;
    let mut group = criterion.benchmark_group(format!("{}/adamw", shape.name));
    // Gradient, value and two moments in; value and two moments out.
    group.throughput(Throughput::Bytes(28 * count as u64));
    group.bench_function(BenchmarkId::from_parameter("step"), |timer| {
        timer.iter(|| black_box(step().ok()));
    });
    group.finish();
    Ok(())
}
