//! Training on what frozen layers gave of each row, against training on the rows themselves.

use std::sync::{Arc, Mutex};

use autopeft::data::{Batch, Batching, Padding, TrainOrder};
use autopeft::error::Result;
use autopeft::groups::Group;
use autopeft::models::Head;
use autopeft::task::{Objective, Outcome};
use autopeft::train::{AdamWConfig, Schedule, ScheduleKind, Trainer, TrainerConfig};
use autopeft_adapters::{Adapters, Kind, LoraPlan, Pass, Prefix, State, Superset};
use candle_core::DType;

use super::fixture::{Bench, assert_lists_close, numbers, superset};
use super::golden::Golden;
use super::prefix::MODELS;
use super::rows::{on_host, rows};

const ROWS: usize = 12;
const BATCH: usize = 4;
const EPOCH: usize = ROWS / BATCH;
const STEPS: usize = 5 * EPOCH;
/// The step, within an epoch, before which something changes.
const CHANGE: usize = 2 * EPOCH + 2;

/// Notes where each pass starts.
#[derive(Debug)]
struct Watched<'a, M> {
    model: &'a M,
    starts: Arc<Mutex<Vec<Option<usize>>>>,
}

impl<M: Objective> Objective for Watched<'_, M> {
    fn outcome<'a>(&'a self, batch: &'a Batch, pass: &Pass) -> Result<Box<dyn Outcome + 'a>> {
        self.starts
            .lock()
            .expect("no panic")
            .push(pass.first_layer());
        self.model.outcome(batch, pass)
    }

    fn outputs(&self, batch: &Batch) -> Result<Vec<Vec<f64>>> {
        self.model.outputs(batch)
    }
}

struct Ran {
    losses: Vec<f64>,
    values: Vec<f64>,
    starts: Vec<Option<usize>>,
}

fn set_layers(bench: &Bench, lowest: usize) {
    for group in &bench.groups {
        let is_trained = match group.layer {
            Some(layer) => layer >= lowest,
            None => group.is_head(),
        };
        // Of what is not trained one half is applied.
        let state = match (is_trained, group.size % 2) {
            (true, _) => State::Trainable,
            (false, 0) => State::Frozen,
            (false, _) => State::Dropped,
        };
        group.set_state(state);
    }
}

fn is_trained(group: &Group) -> bool {
    let mut parameters = group.parameters.iter();
    parameters.all(|p| p.state() == State::Trainable)
}

/// Trains layer 1 and the head, until `change` does something to the model.
fn run(name: &str, keep_frozen_layers: bool, change: impl Fn(&Bench)) -> Ran {
    run_dropping(name, keep_frozen_layers, 0.0, change)
}

/// The same at this rate of the base model's dropout.
#[expect(
    clippy::result_large_err,
    reason = "a step takes a function with the library's own error"
)]
fn run_dropping(
    name: &str,
    keep_frozen_layers: bool,
    dropout: f64,
    change: impl Fn(&Bench),
) -> Ran {
    let bench = Bench::open(name, 3, DType::F64);
    set_layers(&bench, 1);
    let (encoded, padding) = rows(name, ROWS);
    // By which a decoder's head finds the last token.
    let padding = Padding {
        id: bench.model.config().pad_token_id,
        ..padding
    };
    let starts = Arc::default();
    let model = Watched {
        model: &bench.model,
        starts: Arc::clone(&starts),
    };
    let order = TrainOrder::new(encoded.lengths(), BATCH, Batching::ByLength, 5);
    let config = TrainerConfig {
        optimizer: AdamWConfig::default(),
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            warmup: 0,
            steps: STEPS,
        },
        accumulate: 1,
        seed: 3,
        keep_frozen_layers,
    };
    let mut trainer = Trainer::new(
        &model,
        on_host(&encoded, padding),
        order.expect("an order"),
        &bench.groups,
        vec![5e-3; bench.groups.len()],
        config,
    );
    trainer.set_dropout(dropout);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        if step == CHANGE {
            change(&bench);
        }
        if step == 0 || step == CHANGE {
            let trained: Vec<bool> = bench.groups.iter().map(is_trained).collect();
            trainer.retain(|group| trained[group]).expect("a trainer");
        }
        losses.push(trainer.advance(|_, _| Ok(())).expect("a step").loss);
    }
    drop(trainer);
    let parameters = bench.adapters.parameters();
    let values = parameters.iter().flat_map(|p| numbers(&p.value()));
    let values = values.collect();
    let starts = std::mem::take(&mut *starts.lock().expect("no panic"));
    Ran {
        losses,
        values,
        starts,
    }
}

fn assert_same(kept: &Ran, plain: &Ran) {
    assert_lists_close(&kept.losses, &plain.losses, 1e-9);
    assert_lists_close(&kept.values, &plain.values, 1e-6);
    assert!(plain.starts.iter().all(Option::is_none));
}

#[test]
fn later_epochs_start_at_the_lowest_trained_layer_with_the_same_result() {
    for name in MODELS {
        let (kept, plain) = (run(name, true, |_| {}), run(name, false, |_| {}));
        assert_same(&kept, &plain);
        let starts = |epochs: std::ops::Range<usize>| {
            kept.starts[epochs.start * EPOCH..epochs.end * EPOCH].to_vec()
        };
        assert_eq!(starts(0..1), vec![None; EPOCH], "{name}");
        assert_eq!(starts(1..5), vec![Some(1); 4 * EPOCH], "{name}");
    }
}

#[test]
fn what_changes_below_is_computed_again() {
    // A value of a frozen group; a group that is dropped.
    let moved = |bench: &Bench| {
        let frozen = lower(bench, State::Frozen);
        let parameter = &frozen.parameters[0];
        let value = (parameter.value() * 1.5).expect("a product");
        parameter.set(&value).expect("the same shape");
    };
    let dropped = |bench: &Bench| lower(bench, State::Frozen).set_state(State::Dropped);
    for change in [&moved as &dyn Fn(&Bench), &dropped] {
        let (kept, plain) = (run("bert", true, change), run("bert", false, change));
        assert_same(&kept, &plain);
        assert_eq!(kept.starts[CHANGE - 1], Some(1));
        assert_eq!(kept.starts[CHANGE], None);
        assert_eq!(kept.starts[STEPS - 1], Some(1));
    }
    // The lowest layer is trained from then on.
    let thawed = |bench: &Bench| set_layers(bench, 0);
    let (kept, plain) = (run("bert", true, thawed), run("bert", false, thawed));
    assert_same(&kept, &plain);
    assert!(kept.starts[CHANGE..].iter().all(Option::is_none));
    // And the head alone, behind all layers.
    let head = |bench: &Bench| set_layers(bench, usize::MAX);
    let (kept, plain) = (run("bert", true, head), run("bert", false, head));
    assert_same(&kept, &plain);
    assert!(kept.starts[STEPS - 1] > Some(1), "{:?}", kept.starts);
}

/// A group of layer 0 in this state.
fn lower(bench: &Bench, state: State) -> &Group {
    let mut groups = bench.groups.iter();
    let found = groups.find(|group| {
        group.layer == Some(0) && group.parameters.iter().all(|p| p.state() == state)
    });
    found.expect("a group")
}

#[test]
fn a_base_model_with_dropout_is_computed_each_time() {
    for name in MODELS {
        let run = |keeps: bool, rate: f64| run_dropping(name, keeps, rate, |_| {});
        let (kept, plain) = (run(true, 0.2), run(false, 0.2));
        assert_same(&kept, &plain);
        assert!(kept.starts.iter().all(|start| start.unwrap_or(0) == 0));
        assert_ne!(plain.losses, run(false, 0.0).losses, "{name}");
    }
}

/// Kept, one mask would stand for all.
#[test]
fn a_frozen_lora_with_dropout_is_computed_each_time() {
    for name in MODELS {
        let golden = Golden::open(name);
        let start = |dropout: f64, dropped: bool| {
            let lora = superset().lora.map(|lora| LoraPlan { dropout, ..lora });
            let adapters = Adapters::superset(Superset { lora, ..superset() }, 1);
            let model = golden.model(&adapters, Head::new(3), DType::F64);
            let (heads, others): (Vec<_>, Vec<_>) = (adapters.parameters().into_iter())
                .partition(|parameter| parameter.kind() == Kind::Head);
            for parameter in &others {
                let is_dropped = dropped && parameter.kind() == Kind::Lora;
                parameter.set_state(if is_dropped {
                    State::Dropped
                } else {
                    State::Frozen
                });
            }
            let record = Prefix::new();
            let pass = record.record_training(7, 0.0);
            model.forward(&golden.inputs, &pass).expect("logits");
            record.layers_below(&heads)
        };
        assert_eq!(start(0.5, false), 0, "{name}");
        assert!(start(0.0, false) > 1, "{name}");
        assert_eq!(start(0.5, true), start(0.0, false), "{name}");
    }
}
