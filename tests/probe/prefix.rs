//! Passes that start where a group's first layer is, and that are stacked, against whole ones.

use autopeft::data::Batch;
use autopeft::groups::{Group, Grouping, partition};
use autopeft::probe::ParabolaFit;
use autopeft::task::Objective;
use autopeft_adapters::{Directions, Pass, Prefix, State};
use candle_core::DType;

use super::fixture::{Bench, assert_lists_close, diagonal};

/// A first-token head, a mean, positions of another kind, names of another kind; and two decoders with a head.
pub const MODELS: [&str; 6] = [
    "bert",
    "bert-bare",
    "roberta",
    "distilbert",
    "llama",
    "gpt2",
];

/// Slope, curvature and explained share from whole passes, one for each point of each group.
fn one_pass_a_point(bench: &Bench, along: &Directions, rate: f64) -> [Vec<f64>; 2] {
    let batch = bench.batch();
    let loss = || {
        let outcome = bench.model.outcome(&batch, &Pass::eval());
        outcome.expect("an outcome").loss()
    };
    let here = loss();
    let at = |group: &Group, x: f64| bench.displaced(group, along, -x, loss) - here;
    let points = [rate, rate / 2.0, -rate / 2.0, -rate];
    let moment = |group: &Group, of: fn(f64, f64) -> f64| -> f64 {
        points.iter().map(|x| of(*x, at(group, *x))).sum()
    };
    let squares: f64 = points.iter().map(|x| x * x).sum();
    let fourths: f64 = points.iter().map(|x| x.powi(4)).sum();
    let groups = || bench.groups.iter();
    [
        groups()
            .map(|group| -moment(group, |x, y| x * y) / squares)
            .collect(),
        groups()
            .map(|group| 2.0 * moment(group, |x, y| x * x * y) / fourths)
            .collect(),
    ]
}

#[test]
fn fit_stacks_points_and_skips_layers_without_another_result() {
    let mut benches: Vec<(&str, Bench)> = (MODELS.into_iter())
        .map(|name| (name, Bench::open(name, 3, DType::F64)))
        .collect();
    // And groups that reach through all layers.
    let mut kinds = Bench::open("bert", 3, DType::F64);
    kinds.groups = partition(&kinds.adapters.parameters(), &Grouping::Kind, false);
    benches.push(("bert, by kind", kinds));
    for (name, bench) in benches {
        let directions = bench.directions(0.4);
        let (rate, before) = (0.05, bench.bits());
        let rates = vec![rate; bench.groups.len()];
        let [slope, curvature] = one_pass_a_point(&bench, &directions, rate);
        assert!(slope.iter().any(|slope| slope.abs() > 1e-3), "{name}");
        // No stack; stacks of three, so that points of one group are apart; the groups of a layer in few stacks.
        let size = bench.inputs.input_ids.elem_count();
        for tokens in [0, 3 * size, 100 * size] {
            let mut fit = ParabolaFit::stacking(tokens);
            let estimate = bench.measure(&mut fit, &directions, &rates, 0);
            let estimate = estimate.expect("an estimate");
            let what = format!("{name}, stacks of {tokens} tokens");
            assert_lists_close(&estimate.slope, &slope, 1e-8);
            assert_lists_close(&diagonal(&estimate), &curvature, 1e-6);
            assert!(estimate.noise < 1e-12, "{what}: {}", estimate.noise);
            assert_eq!(bench.bits(), before, "{what}");
        }
    }
}

#[test]
fn a_pass_computes_no_layer_below_the_group_that_moves() {
    for name in MODELS {
        let bench = Bench::open(name, 3, DType::F32);
        let prefix = Prefix::new();
        let record = prefix.record();
        bench.model.forward(&bench.inputs, &record).expect("logits");
        let layers = bench.model.config().num_layers;
        // Behind a decoder's last norm, which counts as a layer.
        let head = layers + 1 + usize::from(bench.model.config().decoder.is_some());
        for Group {
            name: group,
            layer,
            parameters,
            ..
        } in &bench.groups
        {
            let expected = match layer {
                Some(layer) => *layer,
                // The embeddings' norm stands before the layers; a pooler or last norm behind them, and the head behind that.
                None if group.contains("embeddings") => 0,
                None if group.starts_with("head/") && !group.contains("pooler") => head,
                None => layers,
            };
            let below = prefix.layers_below(parameters);
            assert_eq!(below, expected, "{name}: {group}");
        }
    }
}

#[test]
fn the_head_trains_on_what_is_kept_as_on_the_whole_to_the_last_bit() {
    for name in MODELS {
        let bench = Bench::open(name, 3, DType::F32);
        let (heads, others): (Vec<&Group>, Vec<&Group>) =
            bench.groups.iter().partition(|group| group.is_head());
        others
            .iter()
            .for_each(|group| group.set_state(State::Frozen));
        let parameters: Vec<_> = heads.iter().flat_map(|group| &group.parameters).collect();
        let prefix = Prefix::new();
        let batch = bench.batch();
        let outcome = bench.model.outcome(&batch, &prefix.record());
        outcome.expect("an outcome");
        prefix.keep_for(parameters.iter().copied());
        // The layers below are not kept.
        let lower = others.iter().find(|group| group.layer == Some(1));
        assert_eq!(prefix.layers_below(&lower.expect("a layer").parameters), 0);
        assert!(prefix.layers_below(parameters.iter().copied()) > bench.model.config().num_layers);

        let gradients = |pass: Pass| {
            let outcome = bench.model.outcome(&batch, &pass).expect("an outcome");
            let gradients = pass.backward(&outcome.scalar().expect("a scalar"));
            let gradients = gradients.expect("gradients");
            let numbers = parameters.iter().map(|parameter| {
                let gradient = gradients.get(parameter.index()).expect("a gradient");
                gradient.flatten_all().and_then(|g| g.to_vec1::<f32>())
            });
            numbers
                .collect::<candle_core::Result<Vec<_>>>()
                .expect("numbers")
                .concat()
        };
        let short = gradients(prefix.resume_training(3, parameters.iter().copied()));
        assert!(short.iter().any(|number| *number != 0.0), "{name}");
        assert_eq!(short, gradients(Pass::train(3)), "{name}");
    }
}

#[test]
fn a_record_can_be_made_again() {
    let bench = Bench::open("bert", 3, DType::F32);
    let prefix = Prefix::new();
    let loss = |pass: &Pass, batch: &Batch| {
        let outcome = bench.model.outcome(batch, pass).expect("an outcome");
        outcome.loss()
    };
    let batch = bench.batch();
    let head = bench.groups.iter().find(|group| group.is_head());
    let head = head.expect("a head");
    let first = loss(&prefix.record(), &batch);
    assert_eq!(loss(&prefix.resume(&head.parameters), &batch), first);
    // A record starts anew.
    assert_eq!(loss(&prefix.record(), &batch), first);
    assert_eq!(loss(&prefix.resume(&head.parameters), &batch), first);
}
