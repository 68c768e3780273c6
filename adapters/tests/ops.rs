//! The operations alone: the fused `f32` loops against candle's own operators, derivatives against finite
//! differences, and a GPU against the CPU.
#![expect(
    clippy::unwrap_used,
    reason = "a failure to set up is a failure of the test"
)]

mod device;

use std::collections::HashMap;
use std::sync::Arc;

use autopeft_adapters::ops::{self, Attention, TokenLabels, Unembedding};
use autopeft_adapters::{
    Adapters, FrozenWeight, LinearKind, LoraPlan, LoraTargets, Pass, Superset,
};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use device::device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let numbers: Vec<f64> = (0..shape.iter().product())
        .map(|_| generator.random_range(-3.0..3.0))
        .collect();
    Tensor::from_vec(numbers, shape, device())
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let a = a
        .to_dtype(DType::F64)
        .unwrap()
        .to_device(&Device::Cpu)
        .unwrap();
    let b = b
        .to_dtype(DType::F64)
        .unwrap()
        .to_device(&Device::Cpu)
        .unwrap();
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar()
        .unwrap()
}

/// Value and gradients of `Σ weight ⊙ f(inputs)`.
fn value_and_gradients(
    inputs: &[Tensor],
    f: impl Fn(&[&Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Tensor>) {
    let variables: Vec<Var> = inputs
        .iter()
        .map(|input| Var::from_tensor(input).unwrap())
        .collect();
    let tensors: Vec<&Tensor> = variables.iter().map(Var::as_tensor).collect();
    let value = f(&tensors).unwrap();
    let weight = random(value.dims(), 99, value.dtype())
        .to_device(value.device())
        .unwrap();
    let gradients = (&value * weight)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let gradients = variables
        .iter()
        .map(|v| gradients.get(v).unwrap().clone())
        .collect();
    (value.detach(), gradients)
}

type Operation = fn(&[&Tensor]) -> Result<Tensor>;

/// Every operation with the shapes of its inputs.
fn operations() -> Vec<(&'static str, Vec<Vec<usize>>, Operation)> {
    let rows = vec![5, 40];
    vec![
        ("gelu", vec![rows.clone()], |x| ops::gelu(x[0])),
        ("relu", vec![rows.clone()], |x| ops::relu(x[0])),
        ("silu", vec![rows.clone()], |x| ops::silu(x[0])),
        ("gelu-tanh", vec![rows.clone()], |x| ops::gelu_tanh(x[0])),
        ("tanh", vec![rows.clone()], |x| ops::tanh(x[0])),
        ("add", vec![rows.clone(), rows], |x| ops::add(x[0], x[1])),
        ("first-token", vec![vec![3, 5, 6]], |x| {
            ops::first_token(x[0])
        }),
        ("mean-tokens", vec![vec![2, 3, 6]], |x| {
            let mask = Tensor::new(&[[1u32, 1, 0], [1, 1, 1]], x[0].device())?;
            let repeat = x[0].dim(0)? / 2;
            ops::mean_tokens(x[0], &mask.repeat((repeat, 1))?)
        }),
        (
            "attention of the first position",
            vec![vec![2, 1, 12], vec![2, 7, 12], vec![2, 7, 12]],
            |x| {
                let sizes = Attention {
                    num_heads: 3,
                    scale: 0.5,
                    softcap: None,
                };
                ops::attention(x[0], x[1], x[2], None, sizes)
            },
        ),
        // More queries than one task takes, and blocks of keys that no query of a task sees.
        (
            "causal attention with shared keys",
            vec![vec![2, 150, 12], vec![2, 150, 6], vec![2, 150, 6]],
            |x| {
                let mask = seen(x[0], (1, 150, 150), |_, query, key| key <= query)?;
                let sizes = Attention {
                    num_heads: 4,
                    scale: 0.5,
                    softcap: None,
                };
                ops::attention(x[0], x[1], x[2], Some(&mask), sizes)
            },
        ),
        // The 70 queries are the last of 160 tokens; the second row starts with 85 of padding.
        (
            "attention in a window with bounded scores, behind a cache",
            vec![vec![2, 70, 12], vec![2, 160, 6], vec![2, 160, 6]],
            |x| {
                let mask = seen(x[0], (2, 70, 160), |row, query, key| {
                    let at = 90 + query;
                    key <= at && at < key + 20 && (row == 0 || key >= 85)
                })?;
                let sizes = Attention {
                    num_heads: 4,
                    scale: 0.5,
                    softcap: Some(3.0),
                };
                ops::attention(x[0], x[1], x[2], Some(&mask), sizes)
            },
        ),
        ("scope", vec![vec![4, 10]], |x| {
            ops::scope(x[0], |x| {
                let inner = ops::gelu(x)?;
                // Read three times, so that its gradient is a sum.
                let sum = ops::add(&ops::tanh(&inner)?, &ops::add(&inner, &inner)?)?;
                ops::add(&sum, x)
            })
        }),
        ("attention", vec![vec![2, 7, 12]; 3], |x| {
            let mask: Vec<f64> = (0..14)
                .map(|at| if at % 7 > 4 && at > 6 { -1e9 } else { 0.0 })
                .collect();
            let mask = Tensor::from_vec(mask, (2, 1, 1, 7), device())?
                .to_dtype(x[0].dtype())?
                .to_device(x[0].device())?;
            let sizes = Attention {
                num_heads: 3,
                scale: 0.5,
                softcap: None,
            };
            ops::attention(x[0], x[1], x[2], Some(&mask), sizes)
        }),
        ("softcap", vec![vec![5, 40]], |x| ops::softcap(x[0], 2.0)),
        ("multiply", vec![vec![5, 40]; 2], |x| {
            ops::multiply(x[0], x[1])
        }),
        // Two heads of 6 features, of which 4 are turned.
        ("rope", vec![vec![3, 5, 12]], |x| {
            let angles = random(&[1, 5, 2], 50, x[0].dtype()).to_device(x[0].device())?;
            ops::rope(x[0], &angles.cos()?, &angles.sin()?, 2)
        }),
        // Four heads of 3 features share two of keys; the last two queries of seven see what is before them.
        (
            "attention with shared keys and bounded scores",
            vec![vec![2, 2, 12], vec![2, 7, 6], vec![2, 7, 6]],
            |x| {
                let mask: Vec<f64> = (0..14)
                    .map(|at| if at % 7 > 5 + at / 7 { -1e9 } else { 0.0 })
                    .collect();
                let mask = Tensor::from_vec(mask, (1, 1, 2, 7), device())?
                    .to_dtype(x[0].dtype())?
                    .to_device(x[0].device())?;
                let sizes = Attention {
                    num_heads: 4,
                    scale: 0.5,
                    softcap: Some(3.0),
                };
                ops::attention(x[0], x[1], x[2], Some(&mask), sizes)
            },
        ),
        ("cross-entropy", vec![vec![4, 3]], |x| {
            let labels = Tensor::new(&[2u32, 0, 1, 1], x[0].device())?;
            ops::cross_entropy(x[0], &labels)
        }),
        ("sliced cross-entropy", vec![vec![7, 6]], |x| {
            sliced_loss(x[0], None)
        }),
        (
            "sliced cross-entropy of bounded logits",
            vec![vec![7, 6]],
            |x| sliced_loss(x[0], Some(2.0)),
        ),
        ("silu-gate", vec![vec![5, 40]; 2], |x| {
            ops::silu_gate(x[0], x[1])
        }),
        ("gelu-tanh-gate", vec![vec![5, 40]; 2], |x| {
            ops::gelu_tanh_gate(x[0], x[1])
        }),
        ("features", vec![vec![5, 4, 10]], |x| {
            ops::features(x[0], 3, 4)
        }),
        // One token is read twice.
        ("tokens-at", vec![vec![2, 4, 6]], |x| {
            let rows = x[0].dim(0)? as u32;
            let places: Vec<u32> = (0..rows)
                .flat_map(|row| [1, 1, 3].map(|at| 4 * row + at))
                .collect();
            ops::tokens_at(x[0], &places)
        }),
    ]
}

/// The mask, (rows, 1, queries, keys), of what is seen by (row, query, key).
fn seen(
    like: &Tensor,
    (rows, queries, keys): (usize, usize, usize),
    is_seen: impl Fn(usize, usize, usize) -> bool,
) -> Result<Tensor> {
    let numbers: Vec<f64> = (0..rows * queries * keys)
        .map(|at| {
            let (row, query, key) = (at / keys / queries, at / keys % queries, at % keys);
            let lowest = f64::from(f32::MIN);
            if is_seen(row, query, key) {
                0.0
            } else {
                lowest
            }
        })
        .collect();
    Tensor::from_vec(numbers, (rows, 1, queries, keys), device())?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}

/// Weights of 11 tokens over 6 features.
fn vocabulary(dtype: DType) -> FrozenWeight {
    FrozenWeight::Dense((random(&[11, 6], 40, dtype) * 0.3).unwrap())
}

fn unembedding(weight: &FrozenWeight) -> Unembedding<'_> {
    Unembedding {
        weight,
        softcap: None,
    }
}

fn sliced_loss(x: &Tensor, softcap: Option<f64>) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let labels: Vec<u32> = (0..rows as u32).map(|row| (5 * row) % 11).collect();
    let weight = &vocabulary(x.dtype());
    let unembedding = Unembedding { weight, softcap };
    let labels = TokenLabels::Given(&labels);
    let loss = ops::sliced_cross_entropy(x, labels, Some(3), unembedding)?;
    loss.sum / rows as f64
}

/// The loss of all rows at once, by candle's own operators on the whole matrix of logits.
fn whole(hidden: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let weight = vocabulary(hidden.dtype()).widen(hidden.dtype())?;
    let logits = hidden.matmul(&weight.t()?)?;
    let maximum = logits.max_keepdim(1)?;
    let shifted = logits.broadcast_sub(&maximum)?;
    let logs = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
    let labels = Tensor::from_slice(labels, (labels.len(), 1), hidden.device())?;
    logs.gather(&labels, 1)?.sum_all()?.neg()
}

/// The tolerances are those of the number types for a sum of 50 losses.
#[test]
fn a_loss_in_slices_of_any_size_is_the_loss_of_the_whole() {
    let labels: Vec<u32> = (0..50).map(|row| (row * row + 3) % 11).collect();
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 5e-5)] {
        let hidden = random(&[50, 6], 8, dtype);
        let (expected, gradients) =
            value_and_gradients(std::slice::from_ref(&hidden), |x| whole(x[0], &labels));
        for slice in [Some(1), Some(7), Some(50), Some(99), None] {
            let table = vocabulary(dtype);
            let unembedding = unembedding(&table);
            let sliced = |x: &[&Tensor]| {
                let labels = TokenLabels::Given(&labels);
                Ok(ops::sliced_cross_entropy(x[0], labels, slice, unembedding)?.sum)
            };
            let (value, sliced_gradients) =
                value_and_gradients(std::slice::from_ref(&hidden), sliced);
            assert!(
                difference(&value, &expected) < tolerance,
                "{slice:?} {dtype:?}"
            );
            assert!(
                difference(&sliced_gradients[0], &gradients[0]) < tolerance,
                "{slice:?} {dtype:?}"
            );
            // Without a gradient wanted, the same numbers; a row's own loss is one of a batch of one.
            let loss =
                ops::sliced_cross_entropy(&hidden, TokenLabels::Given(&labels), slice, unembedding)
                    .unwrap();
            assert!(!loss.sum.track_op());
            let alone = whole(&hidden.narrow(0, 4, 1).unwrap(), &labels[4..5]).unwrap();
            let alone: f64 = alone.to_dtype(DType::F64).unwrap().to_scalar().unwrap();
            assert!((loss.losses[4] - alone).abs() < tolerance);
        }
    }
}

#[test]
fn drawn_tokens_follow_the_probabilities_and_are_learned_like_given_ones() {
    for dtype in [DType::F64, DType::F32] {
        let table = vocabulary(dtype);
        let unembedding = unembedding(&table);
        let hidden = random(&[40, 6], 8, dtype);
        let logits: Vec<Vec<f64>> = unembedding
            .logits(&hidden)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec2()
            .unwrap();
        let uniforms: Vec<f64> = (0..40).map(|row| (0.5 + f64::from(row)) / 40.0).collect();
        let expected: Vec<u32> = logits
            .iter()
            .zip(&uniforms)
            .map(|(row, uniform)| {
                let sum: f64 = row.iter().map(|z| z.exp()).sum();
                let mut below = 0.0;
                let token = row.iter().position(|z| {
                    below += z.exp() / sum;
                    *uniform < below
                });
                token.unwrap() as u32
            })
            .collect();
        assert!(
            expected
                .iter()
                .collect::<std::collections::HashSet<_>>()
                .len()
                > 5
        );
        let loss = |labels: TokenLabels<'_>| {
            let var = Var::from_tensor(&hidden).unwrap();
            let loss = ops::sliced_cross_entropy(&var, labels, Some(9), unembedding).unwrap();
            let gradient = loss.sum.backward().unwrap().get(&var).unwrap().clone();
            (loss, gradient)
        };
        let (drawn, drawn_gradient) = loss(TokenLabels::Drawn(&uniforms));
        let (given, given_gradient) = loss(TokenLabels::Given(&expected));
        assert!(difference(&drawn.sum, &given.sum) < 1e-4, "{dtype:?}");
        assert_eq!(
            difference(&drawn_gradient, &given_gradient),
            0.0,
            "{dtype:?}"
        );
        let likeliest: Vec<u32> = logits
            .iter()
            .map(|row| (0..11).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32)
            .collect();
        assert_eq!(
            (drawn.likeliest, given.likeliest),
            (likeliest.clone(), likeliest)
        );
    }
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    let table = vocabulary(DType::F32);
    let hidden = random(&[2, 6], 8, DType::F32);
    for labels in [vec![1, 11], vec![1], vec![]] {
        let labels = TokenLabels::Given(&labels);
        let loss = ops::sliced_cross_entropy(&hidden, labels, None, unembedding(&table));
        assert!(loss.is_err(), "{labels:?}");
    }
}

/// `f32` on the CPU takes the fused loops where there are any, `f64` always candle's operators. The
/// tolerance is that of `f32` at numbers of size 10.
#[test]
fn fused_loops_equal_candles_operators() {
    for (name, shapes, f) in operations() {
        // Large enough that the loops run in parallel.
        for scale in [1, 40] {
            let inputs: Vec<Tensor> = shapes
                .iter()
                .enumerate()
                .map(|(seed, shape)| {
                    let mut shape = shape.clone();
                    if name != "cross-entropy" && !name.contains("attention") {
                        shape[0] *= scale * 3;
                    }
                    random(&shape, seed as u64, DType::F64)
                })
                .collect();
            let single: Vec<Tensor> = inputs
                .iter()
                .map(|x| x.to_dtype(DType::F32).unwrap())
                .collect();
            let (exact, exact_gradients) = value_and_gradients(&inputs, f);
            let (fused, fused_gradients) = value_and_gradients(&single, f);
            assert!(
                difference(&exact, &fused) < 2e-6,
                "{name}: {}",
                difference(&exact, &fused)
            );
            for (exact, fused) in exact_gradients.iter().zip(&fused_gradients) {
                assert!(
                    difference(exact, fused) < 1e-5,
                    "{name}: {}",
                    difference(exact, fused)
                );
            }
        }
    }
}

#[test]
fn derivatives_equal_finite_differences() {
    for (name, shapes, f) in operations() {
        let inputs: Vec<Tensor> = shapes
            .iter()
            .enumerate()
            .map(|(seed, shape)| random(shape, seed as u64, DType::F64))
            .collect();
        let (value, gradients) = value_and_gradients(&inputs, f);
        let weight = random(value.dims(), 99, DType::F64);
        for (at, gradient) in gradients.iter().enumerate() {
            let direction = random(inputs[at].dims(), 7, DType::F64);
            let side = |epsilon: f64| -> f64 {
                let mut moved = inputs.clone();
                moved[at] = (&moved[at] + (&direction * epsilon).unwrap()).unwrap();
                let tensors: Vec<&Tensor> = moved.iter().collect();
                (f(&tensors).unwrap() * &weight)
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .to_scalar()
                    .unwrap()
            };
            let numeric = (side(1e-6) - side(-1e-6)) / 2e-6;
            let exact: f64 = (gradient * &direction)
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!(
                (numeric - exact).abs() < 1e-6 * (1.0 + exact.abs()),
                "{name}: {exact} against {numeric}"
            );
        }
    }
}

/// Loss, gradients and per-example derivatives of a small network on a device, as plain numbers.
fn network(device: &Device) -> Vec<Vec<f32>> {
    let mut tensors = HashMap::new();
    for (seed, (name, shape)) in [
        ("dense.weight", vec![16, 16]),
        ("dense.bias", vec![16]),
        ("LayerNorm.weight", vec![16]),
        ("LayerNorm.bias", vec![16]),
        ("classifier.weight", vec![3, 16]),
        ("classifier.bias", vec![3]),
    ]
    .into_iter()
    .enumerate()
    {
        let tensor = (random(&shape, seed as u64, DType::F32) * 0.2).unwrap();
        tensors.insert(name.to_string(), tensor.to_device(device).unwrap());
    }
    let weights = VarBuilder::from_tensors(tensors, DType::F32, device);
    let superset = Superset {
        lora: Some(LoraPlan {
            rank_blocks: vec![1, 2],
            scale: 2.0,
            dropout: 0.0,
        }),
        lora_targets: LoraTargets::AllLinear,
        bias: true,
        inert_bias: false,
        norm: true,
        bottleneck: None,
        base: false,
        exclude: Vec::new(),
    };
    let adapters = Adapters::superset(superset, 3);
    let dense = adapters.linear(16, 16, weights.pp("dense")).unwrap();
    let norm = adapters
        .layer_norm(16, 1e-12, weights.pp("LayerNorm"))
        .unwrap();
    let head = adapters.head(16, 3, weights.pp("classifier")).unwrap();
    for parameter in adapters.parameters() {
        let value = parameter.value();
        let noise = random(value.dims(), 50 + parameter.index() as u64, DType::F32);
        let noise = (noise * 0.1).unwrap().to_device(device).unwrap();
        parameter.set(&(value + noise).unwrap()).unwrap();
    }
    let x = random(&[4, 5, 16], 11, DType::F32)
        .to_device(device)
        .unwrap();
    let forward = |pass: &Pass| -> Tensor {
        let hidden = ops::gelu(&dense.forward(&x, pass).unwrap()).unwrap();
        let sizes = Attention {
            num_heads: 2,
            scale: 0.35,
            softcap: None,
        };
        let mixed = ops::attention(&hidden, &hidden, &hidden, None, sizes).unwrap();
        let normed = norm.forward(&(mixed + &x).unwrap(), pass).unwrap();
        let first = normed.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        head.forward(&first, pass).unwrap()
    };
    let numbers = |tensor: &Tensor| -> Vec<f32> {
        tensor
            .to_device(&Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    let pass = Pass::gradients();
    let labels = Tensor::new(&[0u32, 1, 2, 1], device).unwrap();
    let loss = ops::cross_entropy(&forward(&pass), &labels).unwrap();
    let gradients = pass.backward(&loss).unwrap();
    let mut results = vec![numbers(&loss)];
    for parameter in adapters.parameters() {
        results.push(numbers(gradients.get(parameter.index()).unwrap()));
    }
    let directions = adapters
        .parameters()
        .iter()
        .map(|p| (p.index(), p.value()))
        .collect();
    let pass = Pass::measure(std::sync::Arc::new(directions));
    let column = forward(&pass).narrow(1, 1, 1).unwrap().sum_all().unwrap();
    let tangents = pass.backward(&column).unwrap();
    for parameter in adapters.parameters() {
        results.push(numbers(tangents.get(parameter.index()).unwrap()));
    }
    results
}

#[test]
fn a_gradient_that_is_cut_within_a_scope_is_an_error() {
    let x = Var::from_tensor(&random(&[2, 3], 1, DType::F32)).unwrap();
    let cut = ops::scope(x.as_tensor(), |x| {
        ops::gelu(x)? + 1.0 // candle's own operator, which notes nothing
    });
    assert!(cut.unwrap_err().to_string().contains("scope"));
    // The next scope starts anew.
    let whole: Result<Tensor> = ops::scope(x.as_tensor(), ops::gelu);
    assert!(whole.unwrap().track_op());
}

/// The order of every sum is fixed by the sizes; only the parts of a product may differ with the threads.
#[test]
fn results_do_not_depend_on_the_number_of_threads_beyond_rounding() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| network(&Device::Cpu))
    };
    for (one, two) in run(1).iter().zip(run(2)) {
        for (one, two) in one.iter().zip(two) {
            assert!((one - two).abs() < 1e-6 * (1.0 + one.abs()), "{one} {two}");
        }
    }
}

/// As where a softmax has equal numbers only: of padding in front, whose output nobody reads.
#[test]
fn a_query_that_sees_nothing_attends_to_all_keys_alike() {
    let [query, key, value] = [1, 2, 3].map(|seed| random(&[2, 70, 6], seed, DType::F32));
    let mask = seen(&query, (2, 70, 70), |row, query, key| {
        key <= query && (row == 0 || key >= 65)
    });
    let sizes = Attention {
        num_heads: 2,
        scale: 0.5,
        softcap: None,
    };
    let output = ops::attention(&query, &key, &value, Some(&mask.unwrap()), sizes).unwrap();
    let blind = output.narrow(0, 1, 1).unwrap().narrow(1, 0, 65).unwrap();
    let mean = value.narrow(0, 1, 1).unwrap().mean_keepdim(1).unwrap();
    let mean = mean.broadcast_as(blind.shape()).unwrap();
    assert!(difference(&blind, &mean) < 2e-6); // a sum of 70 numbers
    let first = output.narrow(1, 0, 1).unwrap().narrow(0, 0, 1).unwrap();
    assert_eq!(
        difference(
            &first,
            &value.narrow(1, 0, 1).unwrap().narrow(0, 0, 1).unwrap()
        ),
        0.0
    );
}

/// The same of each operation alone.
#[test]
fn operations_do_not_depend_on_the_number_of_threads_beyond_rounding() {
    for (name, shapes, f) in operations() {
        let inputs: Vec<Tensor> = (shapes.iter().enumerate())
            .map(|(seed, shape)| random(shape, seed as u64, DType::F32))
            .collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| value_and_gradients(&inputs, f))
        };
        let ((one, of_one), (two, of_two)) = (run(1), run(2));
        assert!(difference(&one, &two) < 1e-6, "{name}");
        for (one, two) in of_one.iter().zip(&of_two) {
            assert!(difference(one, two) < 1e-5, "{name}"); // numbers of size 10
        }
    }
}

#[test]
fn the_same_network_gives_the_same_bits_twice() {
    assert_eq!(network(device()), network(device()));
}

/// The tolerance is that of `f32` with another order of summation.
#[test]
#[ignore = "needs a GPU"]
fn gpu_gives_the_numbers_of_the_cpu() {
    let cpu = network(&Device::Cpu);
    let gpu = network(device());
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        for (cpu, gpu) in cpu.iter().zip(gpu) {
            assert!(
                (cpu - gpu).abs() < 1e-4 * (1.0 + cpu.abs()),
                "{cpu} on the CPU, {gpu} on the GPU"
            );
        }
    }
}

/// Blocks of 8 bits are numbers like any others, once they are widened.
#[test]
fn a_quantized_weight_gives_values_and_gradients_of_what_it_stands_for() {
    let dense = random(&[6, 32], 3, DType::F32);
    let quantized = QTensor::quantize(&dense, GgmlDType::Q8_0).unwrap();
    let wide = quantized.dequantize(device()).unwrap();
    assert!(difference(&dense, &wide) > 1e-4, "nothing was rounded");
    let quantized = FrozenWeight::Quantized(Arc::new(quantized));
    let x = random(&[5, 32], 4, DType::F32);
    let inputs = std::slice::from_ref(&x);

    let (expected, expected_gradients) = value_and_gradients(inputs, |x| x[0].matmul(&wide.t()?));
    let (got, gradients) = value_and_gradients(inputs, |x| quantized.project(x[0]));
    assert!(difference(&got, &expected) < 1e-4);
    assert!(difference(&gradients[0], &expected_gradients[0]) < 1e-4);

    let zeros = VarBuilder::zeros(DType::F32, device());
    let kind = LinearKind {
        bias: false,
        weight: Some(quantized.clone()),
        ..LinearKind::default()
    };
    let layer = Adapters::none().linear_of(32, 6, kind, zeros).unwrap();
    let pass = Pass::train(0);
    let forward = |x: &[&Tensor]| layer.forward(x[0], &pass).map_err(candle_core::Error::wrap);
    let (got, gradients) = value_and_gradients(inputs, forward);
    assert!(difference(&got, &expected) < 1e-4);
    assert!(difference(&gradients[0], &expected_gradients[0]) < 1e-4);

    let ids = Tensor::new(&[4u32, 0], device()).unwrap();
    let rows = quantized.rows(&ids, DType::F32).unwrap();
    assert_eq!(difference(&rows, &wide.index_select(&ids, 0).unwrap()), 0.0);
}
