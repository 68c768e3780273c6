//! Passes that start where a group's first layer is, against whole ones.

use std::sync::Arc;

use autopeft::data::Batch;
use autopeft::error::Result;
use autopeft::groups::Group;
use autopeft::probe::ParabolaFit;
use autopeft::task::{Objective, Outcome};
use autopeft_adapters::{Pass, Prefix, State};
use candle_core::DType;

use super::fixture::{Bench, measure};

/// A first-token head, a mean, positions of another kind, names of another kind; and two decoders with a head.
const MODELS: [&str; 6] = [
    "bert",
    "bert-bare",
    "roberta",
    "distilbert",
    "llama",
    "gpt2",
];

/// A model that computes everything, whatever pass it is given.
#[derive(Debug)]
struct Whole<'a, M>(&'a M);

impl<M: Objective> Objective for Whole<'_, M> {
    fn outcome<'a>(&'a self, batch: &'a Batch, _: &Pass) -> Result<Box<dyn Outcome + 'a>> {
        self.0.outcome(batch, &Pass::eval())
    }

    fn outputs(&self, batch: &Batch) -> Result<Vec<Vec<f64>>> {
        self.0.outputs(batch)
    }
}

#[test]
fn fit_measures_to_the_last_bit_what_it_does_with_whole_passes() {
    for name in MODELS {
        let bench = Bench::open(name, 3, DType::F32);
        let directions = Arc::new(bench.directions(0.4));
        let rates = vec![0.05; bench.groups.len()];
        let of = |model: &dyn Objective| {
            measure(model, &bench, &mut ParabolaFit, &directions, &rates, 0).expect("an estimate")
        };
        let (short, whole) = (of(&bench.model), of(&Whole(&bench.model)));
        assert_eq!(short, whole, "{name}");
        assert!(short.slope.iter().any(|slope| *slope != 0.0), "{name}");
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
