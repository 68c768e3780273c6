//! A language model of a few numbers: its loss whatever the padding, and the Gauss-Newton matrix with a derivative
//! for each sequence against differences of all logits, and against the true Hessian.

use std::sync::Arc;

use autopeft::data::{Batch, Encoded, EncodedRow, Padding, Target, collate};
use autopeft::groups::{Group, Grouping, partition};
use autopeft::metrics::Scores;
use autopeft::models::{Cache, CausalLm, Inputs, ModelError};
use autopeft::probe::{
    Estimate, Estimator, FullHessian, GaussNewton, HessianVectorProduct, ParabolaFit, Point,
};
use autopeft::task::Objective;
use autopeft::train::evaluate;
use autopeft_adapters::ops::{self, Unembedding};
use autopeft_adapters::{
    Adapters, Directions, FrozenWeight, Linear, LoraPlan, LoraTargets, Pass, RmsNorm, Superset,
};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::curvature::derivative;
use super::fixture::{assert_lists_close, diagonal, move_by, noise, whole};
use super::golden::device;

const VOCABULARY: usize = 13;
const WIDTH: usize = 8;
const PADDING: Padding = Padding {
    id: 0,
    multiple_of: 1,
    max_length: 64,
};

/// Each token sees the mean of those up to it.
#[derive(Debug)]
struct Toy {
    table: FrozenWeight,
    mix: Linear,
    norm: RmsNorm,
    out: Linear,
}

impl CausalLm for Toy {
    fn hidden(&self, inputs: &Inputs, pass: &Pass) -> Result<Tensor, ModelError> {
        let (batch, length) = inputs.input_ids.dims2()?;
        let ids = inputs.input_ids.flatten_all()?;
        let x = self
            .table
            .rows(&ids, DType::F64)?
            .reshape((batch, length, WIDTH))?;
        let weights: Vec<f64> = (0..length * length)
            .map(|at| (at / length, at % length))
            .map(|(row, column)| {
                if column <= row {
                    1.0 / (row + 1) as f64
                } else {
                    0.0
                }
            })
            .collect();
        let weights = Tensor::from_vec(weights, (1, length, length), device())?;
        let x = self.mix.forward(&x, pass)?;
        let mean = weights.broadcast_as((batch, length, length))?.matmul(&x)?;
        let x = ops::gelu(&(mean + &x)?)?;
        Ok(self.out.forward(&self.norm.forward(&x, pass)?, pass)?)
    }

    fn unembedding(&self) -> Unembedding<'_> {
        Unembedding {
            weight: &self.table,
            softcap: None,
        }
    }

    /// Nothing is generated here.
    fn advance(&self, _: &[u32], _: &mut Cache) -> Result<Tensor, ModelError> {
        Err(candle_core::Error::Msg("no generation".to_string()).into())
    }

    fn cache(&self) -> Cache {
        Cache::new(0)
    }
}

struct LanguageBench {
    model: Box<dyn CausalLm>,
    groups: Vec<Group>,
    adapters: Adapters,
    rows: Encoded,
}

fn wave(shape: &[usize], salt: f64) -> Tensor {
    let count: usize = shape.iter().product();
    let numbers: Vec<f64> = (0..count)
        .map(|i| 0.7 * (1.9 * i as f64 + salt).sin())
        .collect();
    Tensor::from_vec(numbers, shape, device()).expect("a tensor")
}

impl LanguageBench {
    fn new() -> Self {
        let tensors = [
            ("mix.weight", wave(&[WIDTH, WIDTH], 1.0)),
            ("mix.bias", wave(&[WIDTH], 2.0)),
            ("norm.weight", (wave(&[WIDTH], 3.0) + 1.0).expect("a sum")),
            ("out.weight", wave(&[WIDTH, WIDTH], 4.0)),
            ("out.bias", wave(&[WIDTH], 5.0)),
        ];
        let tensors = tensors.map(|(name, tensor)| (name.to_string(), tensor));
        let vb = VarBuilder::from_tensors(tensors.into(), DType::F64, device());
        let adapters = Adapters::superset(
            Superset {
                lora: Some(LoraPlan {
                    rank_blocks: vec![1, 1],
                    scale: 0.7,
                    dropout: 0.0,
                }),
                lora_targets: LoraTargets::AllLinear,
                bias: true,
                inert_bias: true,
                norm: true,
                bottleneck: None,
                base: false,
                exclude: Vec::new(),
            },
            3,
        );
        let toy = Toy {
            table: FrozenWeight::Dense(wave(&[VOCABULARY, WIDTH], 0.0)),
            mix: adapters.linear(WIDTH, WIDTH, vb.pp("mix")).expect("mix"),
            norm: adapters.rms_norm(WIDTH, 1e-6, vb.pp("norm")).expect("norm"),
            out: adapters.linear(WIDTH, WIDTH, vb.pp("out")).expect("out"),
        };
        for parameter in adapters.parameters() {
            move_by(&parameter, &noise(&parameter, 0.3), 0.3);
        }
        let row = |(number, length): (usize, usize)| EncodedRow {
            input_ids: (0..length)
                .map(|at| ((5 * number + 3 * at * at + 1) % VOCABULARY) as u32)
                .collect(),
            token_type_ids: vec![0; length],
            segments: Vec::new(),
            passages: Vec::new(),
            // Of every second sequence only the end is learned.
            target: Some(Target::Tokens(
                (0..length)
                    .map(|at| number % 2 == 0 || at + 2 >= length)
                    .collect(),
            )),
        };
        Self {
            model: Box::new(toy),
            groups: partition(&adapters.parameters(), &Grouping::Module, false),
            adapters,
            rows: Encoded {
                rows: [4, 7, 5, 3].into_iter().enumerate().map(row).collect(),
                ..Encoded::default()
            },
        }
    }

    fn batch(&self, rows: &[usize]) -> Batch {
        collate(&self.rows, rows, PADDING, device()).expect("a batch")
    }

    fn directions(&self) -> Directions {
        let parameters = self.adapters.parameters();
        parameters
            .iter()
            .map(|p| (p.index(), noise(p, 0.9)))
            .collect()
    }

    /// Logits at every place that predicts, and the tokens there.
    fn logits(&self) -> (Vec<Vec<f64>>, Vec<u32>) {
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for (number, row) in self.rows.rows.iter().enumerate() {
            let batch = self.batch(&[number]);
            let hidden = self
                .model
                .hidden(&batch.inputs, &Pass::eval())
                .expect("hidden states");
            let all = self
                .model
                .unembed(&hidden.squeeze(0).expect("one row"))
                .expect("logits");
            let all: Vec<Vec<f64>> = all.to_vec2().expect("numbers");
            let Some(Target::Tokens(marks)) = &row.target else {
                panic!("no marks")
            };
            for at in (1..marks.len()).filter(|at| marks[*at]) {
                logits.push(all[at - 1].clone());
                labels.push(row.input_ids[at]);
            }
        }
        (logits, labels)
    }

    fn displaced<T>(&self, group: &Group, by: f64, then: impl FnOnce() -> T) -> T {
        let directions = self.directions();
        let saved: Vec<Tensor> = group.parameters.iter().map(|p| p.value()).collect();
        for parameter in &group.parameters {
            move_by(
                parameter,
                directions.get(parameter.index()).expect("a direction"),
                by,
            );
        }
        let result = then();
        for (parameter, value) in group.parameters.iter().zip(&saved) {
            parameter.set(value).expect("the same shape");
        }
        result
    }

    fn measure(&self, estimator: &mut dyn Estimator, step: usize) -> Estimate {
        let groups: Vec<&Group> = self.groups.iter().collect();
        let estimate = estimator.measure(&Point {
            model: &self.model,
            batch: &self.batch(&[0, 1, 2, 3]),
            groups: &groups,
            directions: &Arc::new(self.directions()),
            rates: &vec![1e-3; groups.len()],
            step,
        });
        estimate.expect("an estimate")
    }
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|z| z.exp()).sum();
    logits.iter().map(|z| z - sum.ln()).collect()
}

fn mean_loss(bench: &LanguageBench) -> f64 {
    let (logits, labels) = bench.logits();
    let losses = logits
        .iter()
        .zip(&labels)
        .map(|(row, label)| -log_softmax(row)[*label as usize]);
    losses.sum::<f64>() / labels.len() as f64
}

#[test]
fn fit_stacks_sequences_without_another_result() {
    let bench = LanguageBench::new();
    let of = |tokens: usize| bench.measure(&mut ParabolaFit::stacking(tokens), 0);
    let (one_by_one, stacked) = (of(0), of(1000));
    assert!(one_by_one.slope.iter().all(|slope| *slope != 0.0));
    assert_lists_close(&stacked.slope, &one_by_one.slope, 1e-8);
    assert_lists_close(&diagonal(&stacked), &diagonal(&one_by_one), 1e-5);
}

#[test]
fn the_loss_is_the_mean_over_learned_tokens_whatever_the_padding() {
    let bench = LanguageBench::new();
    let expected = mean_loss(&bench);
    let (logits, labels) = bench.logits();
    let right = logits.iter().zip(&labels).filter(|(row, label)| {
        let best = (0..VOCABULARY).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        best == Some(**label as usize)
    });
    let right = right.count();
    for batch_size in [1, 3, 4] {
        let evaluation =
            evaluate(&bench.model, &bench.rows, PADDING, batch_size, device()).expect("values");
        assert!((evaluation.loss - expected).abs() < 1e-12, "{batch_size}");
        let Scores::Tokens {
            tokens,
            perplexity,
            token_accuracy,
        } = evaluation.scores
        else {
            panic!("other scores")
        };
        // 3 and 4 tokens follow others, of the other two sequences the last two are learned.
        assert_eq!((tokens, evaluation.examples), (3 + 2 + 4 + 2, 4));
        assert!((perplexity - expected.exp()).abs() < 1e-10);
        assert!((token_accuracy - right as f64 / 11.0).abs() < 1e-12);
    }
}

#[test]
fn one_derivative_for_each_sequence_has_the_matrix_of_all_tokens_as_its_mean() {
    const DRAWS: usize = 400;
    let bench = LanguageBench::new();
    let (logits, labels) = bench.logits();
    let (tokens, groups) = (labels.len(), bench.groups.len());
    let along = |group: &Group, f: &dyn Fn() -> Vec<f64>| {
        derivative(1e-3, |x| bench.displaced(group, x, f))
    };
    let jacobians: Vec<Vec<f64>> = (bench.groups.iter())
        .map(|group| along(group, &|| bench.logits().0.concat()))
        .collect();
    let slopes: Vec<f64> = (bench.groups.iter())
        .map(|group| along(group, &|| vec![mean_loss(&bench)])[0])
        .collect();
    let mut exact = vec![0.0; groups * groups];
    for (t, row) in logits.iter().enumerate() {
        let p: Vec<f64> = log_softmax(row).iter().map(|log| log.exp()).collect();
        let of = |group: usize, token: usize| jacobians[group][t * VOCABULARY + token];
        for i in 0..groups {
            for j in 0..groups {
                let mean = |k| (0..VOCABULARY).map(|v| p[v] * of(k, v)).sum::<f64>();
                let product: f64 = (0..VOCABULARY).map(|v| p[v] * of(i, v) * of(j, v)).sum();
                exact[i * groups + j] += (product - mean(i) * mean(j)) / tokens as f64;
            }
        }
    }
    let (mut sum, mut squares) = (vec![0.0; groups * groups], vec![0.0; groups * groups]);
    for seed in 0..DRAWS as u64 {
        let mut estimator = GaussNewton {
            exact_classes: 8,
            seed,
        };
        let estimate = bench.measure(&mut estimator, 3);
        assert!((estimate.loss - mean_loss(&bench)).abs() < 1e-12);
        for (got, expected) in estimate.slope.iter().zip(&slopes) {
            assert!(
                (got - expected).abs() < 1e-8 * (1.0 + expected.abs()),
                "{got} is not {expected}"
            );
        }
        for (at, a) in whole(&estimate).iter().enumerate() {
            sum[at] += a;
            squares[at] += a * a;
        }
    }
    let draws = DRAWS as f64;
    let mut deviations = Vec::new();
    for (at, expected) in exact.iter().enumerate() {
        let mean = sum[at] / draws;
        let variance = (squares[at] / draws - mean * mean) / (draws - 1.0);
        if variance > 1e-24 {
            deviations.push((mean - expected) / variance.sqrt());
        }
    }
    // Of the mean's own standard deviation: five of them for each entry, and one on average.
    let worst = deviations
        .iter()
        .fold(0.0f64, |worst, d| worst.max(d.abs()));
    let mean_square = deviations.iter().map(|d| d * d).sum::<f64>() / deviations.len() as f64;
    assert!(worst < 5.0, "{worst} standard deviations off");
    assert!((0.1..3.0).contains(&mean_square), "{mean_square}");
}

#[test]
fn the_true_hessian_of_a_language_model_is_measured_and_hvp_averages_to_it() {
    const DRAWS: usize = 200;
    let bench = LanguageBench::new();
    let groups = bench.groups.len();
    let full = bench.measure(&mut FullHessian, 0);
    // From losses alone, which know nothing of slices and places.
    for (k, group) in bench.groups.iter().enumerate() {
        let at = |x| bench.displaced(group, x, || mean_loss(&bench));
        let (above, here, below) = (at(1e-3), at(0.0), at(-1e-3));
        let (slope, second) = ((above - below) / 2e-3, (above - 2.0 * here + below) / 1e-6);
        let a = diagonal(&full)[k];
        assert!(
            (slope - full.slope[k]).abs() < 1e-5 * (1.0 + slope.abs()),
            "{}",
            group.name
        );
        assert!(
            (second - a).abs() < 1e-3 * (0.1 + a.abs()),
            "{}: {second} is not {a}",
            group.name
        );
    }
    let matrix = whole(&full);
    let mut mean = vec![0.0; groups];
    for step in 0..DRAWS {
        let estimate = bench.measure(&mut HessianVectorProduct { seed: 5 }, step);
        assert_lists_close(&estimate.slope, &full.slope, 1e-9);
        for (mean, a) in mean.iter_mut().zip(diagonal(&estimate)) {
            *mean += a / DRAWS as f64;
        }
    }
    for k in 0..groups {
        let row = (0..groups).filter(|j| *j != k);
        let variance: f64 = row.map(|j| matrix[k * groups + j].powi(2)).sum();
        let error = (mean[k] - matrix[k * groups + k]).abs();
        assert!(
            error <= 5.0 * (variance / DRAWS as f64).sqrt() + 1e-7,
            "{}",
            bench.groups[k].name
        );
    }
    // Gauss-Newton is the same matrix but for the curvature of the network itself: here they agree in rank.
    let mut gauss_newton = vec![0.0; groups * groups];
    for step in 0..DRAWS {
        let mut estimator = GaussNewton {
            exact_classes: 8,
            seed: 1,
        };
        for (sum, a) in gauss_newton
            .iter_mut()
            .zip(whole(&bench.measure(&mut estimator, step)))
        {
            *sum += a / DRAWS as f64;
        }
    }
    let agreeing = (0..groups).filter(|k| {
        let (a, h) = (gauss_newton[k * groups + k], matrix[k * groups + k]);
        a > 0.2 * h && a < 5.0 * h.abs()
    });
    let agreeing = agreeing.count();
    assert!(
        2 * agreeing > groups,
        "{agreeing} of {groups} are of one size"
    );
}

/// Outputs tell networks apart by the logits after the last learned token.
#[test]
fn outputs_are_the_logits_after_the_last_learned_token() {
    let bench = LanguageBench::new();
    let outputs = bench.model.outputs(&bench.batch(&[1, 0])).expect("outputs");
    let (logits, _) = bench.logits();
    // Sequence 0 has three learned tokens, sequence 1 two.
    for (got, expected) in outputs.iter().zip([&logits[4], &logits[2]]) {
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12);
        }
    }
}
