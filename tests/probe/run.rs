//! Training and measuring together, in single precision as for real.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use autopeft::data::{Batching, Encoded, Padding, TrainOrder};
use autopeft::interrupt::Interrupt;
use autopeft::probe::influence::{Measurement, Verdict, rounding_floor};
use autopeft::probe::{
    Estimate, Estimator, FitPace, Freeze, GaussNewton, HeightFit, HessianVectorProduct,
    ParabolaFit, Point, Probe, ProbeConfig, ProbeOutcome, Reach, next_ratios,
};
use autopeft::train::{AdamWConfig, Schedule, ScheduleKind, Trainer, TrainerConfig};
use candle_core::DType;

use super::fixture::{Bench, bits, is_key_bias};
use super::rows::{on_host, rows};

const STEPS: usize = 16;
const RATE: f64 = 5e-3;
const BATCH: usize = 4;
const TRAINING: u64 = 11;

/// Tells what it was asked, and answers with another estimator.
struct Watched {
    inner: Box<dyn Estimator>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct Seen {
    rows: Vec<Vec<u32>>,
    rates: Vec<f64>,
}

impl Estimator for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn measure(&mut self, point: &Point<'_>) -> autopeft::error::Result<Estimate> {
        self.seen.lock().expect("no panic").push(Seen {
            rows: point.batch.inputs.input_ids.to_vec2()?,
            rates: point.rates.to_vec(),
        });
        self.inner.measure(point)
    }
}

/// What a run does besides the defaults.
struct Plan<'a> {
    estimator: Box<dyn Estimator>,
    seed: u64,
    rates: &'a dyn Fn(usize) -> f64,
    probe: ProbeConfig,
    adapts: bool,
    interrupt_at: usize,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            estimator: Box::new(GaussNewton {
                exact_classes: 3,
                seed: 0,
            }),
            seed: TRAINING,
            rates: &|_| RATE,
            probe: ProbeConfig {
                steps: STEPS,
                burn_in: 4,
                every: 4,
                ratios: true,
            },
            adapts: true,
            interrupt_at: usize::MAX,
        }
    }
}

struct Ran {
    outcome: ProbeOutcome,
    seen: Vec<Seen>,
    rates: Vec<f64>,
    losses: Vec<f64>,
}

fn order(encoded: &Encoded, batch: usize, seed: u64) -> TrainOrder {
    TrainOrder::new(encoded.lengths(), batch, Batching::ByLength, seed).expect("an order")
}

fn run(bench: &Bench, data: &(Encoded, Padding), plan: Plan<'_>, freeze: &mut Freeze<'_>) -> Ran {
    let rows = on_host(&data.0, data.1);
    let config = TrainerConfig {
        optimizer: AdamWConfig::default(),
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            warmup: 0,
            steps: STEPS,
        },
        accumulate: 1,
        seed: plan.seed,
        keep_frozen_layers: false,
    };
    let rates = (0..bench.groups.len()).map(plan.rates).collect();
    let training = order(&data.0, BATCH, plan.seed);
    let mut trainer = Trainer::new(&bench.model, rows, training, &bench.groups, rates, config);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut probe = Probe {
        model: &bench.model,
        rows,
        groups: &bench.groups,
        measuring: order(&data.0, 2 * BATCH, plan.seed ^ 0xff),
        estimator: Box::new(Watched {
            inner: plan.estimator,
            seen: seen.clone(),
        }),
        config: plan.probe,
        heights: (plan.adapts).then(|| {
            let order = order(&data.0, BATCH, plan.seed ^ 0xfff);
            let pace = FitPace {
                every: plan.probe.every,
                until: STEPS,
                reach: Reach {
                    bounds: 0.0..=3.0,
                    longest: 2.0,
                },
            };
            HeightFit::new(&bench.model, rows, &bench.groups, order, pace)
        }),
    };
    let interrupt = Interrupt::default();
    let mut losses = Vec::new();
    let outcome = probe
        .run(&mut trainer, freeze, &interrupt, &mut |report, _| {
            losses.push(report.loss);
            if report.step == plan.interrupt_at {
                interrupt.raise();
            }
        })
        .expect("a probe");
    let rates = trainer.rates().to_vec();
    drop(probe);
    let seen = Arc::into_inner(seen).expect("the probe is gone");
    Ran {
        outcome,
        seen: seen.into_inner().expect("no panic"),
        rates,
        losses,
    }
}

fn bench() -> (Bench, (Encoded, Padding)) {
    (Bench::attached("bert", 3, DType::F32, 3), rows("bert", 24))
}

fn as_text(measurements: &[Measurement]) -> String {
    serde_json::to_string(measurements).expect("JSON")
}

#[test]
fn the_same_seed_gives_the_same_measurements_and_parameters() {
    let once = |seed| {
        let (bench, data) = bench();
        let plan = Plan {
            seed,
            ..Plan::default()
        };
        let ran = run(&bench, &data, plan, &mut |_| Vec::new());
        assert_eq!(
            (ran.outcome.measurements.len(), ran.outcome.steps),
            (3, STEPS)
        );
        (as_text(&ran.outcome.measurements), bench.bits())
    };
    let (first, second, other) = (once(TRAINING), once(TRAINING), once(TRAINING + 1));
    assert!(first == second);
    assert!(first.0 != other.0 && first.1 != other.1);
}

#[test]
fn a_probe_learns_and_measures_on_other_batches_than_it_trains_on() {
    let (bench, data) = bench();
    let ran = run(&bench, &data, Plan::default(), &mut |_| Vec::new());
    let steps: Vec<usize> = ran.outcome.measurements.iter().map(|m| m.step).collect();
    assert_eq!(steps, [4, 8, 12]);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(
        mean(&ran.losses[10..]) < mean(&ran.losses[..6]),
        "{:?}",
        ran.losses
    );

    let mut replayed = order(&data.0, BATCH, TRAINING);
    let training: Vec<BTreeSet<Vec<u32>>> = (0..STEPS)
        .map(|_| {
            let batch = on_host(&data.0, data.1)
                .batch(&replayed.next_rows())
                .expect("a batch");
            unpadded(batch.inputs.input_ids.to_vec2().expect("ids"))
        })
        .collect();
    let measuring: Vec<BTreeSet<Vec<u32>>> = ran
        .seen
        .iter()
        .map(|seen| unpadded(seen.rows.clone()))
        .collect();
    for (step, measuring) in steps.iter().zip(&measuring) {
        assert!(!measuring.is_subset(&training[*step]));
        assert!(training.iter().all(|training| training != measuring));
    }
    assert!(measuring[0] != measuring[1] && measuring[1] != measuring[2]);
}

fn unpadded(rows: Vec<Vec<u32>>) -> BTreeSet<Vec<u32>> {
    let cut = |row: Vec<u32>| {
        let end = row.iter().rposition(|id| *id != 0).map_or(0, |at| at + 1);
        row[..end].to_vec()
    };
    rows.into_iter().map(cut).collect()
}

#[test]
fn rates_turn_towards_the_measured_optima_and_all_move_by_one_factor() {
    let (bench, data) = bench();
    let ran = run(&bench, &data, Plan::default(), &mut |_| Vec::new());
    let mut rates: Vec<&[f64]> = ran.seen.iter().map(|seen| seen.rates.as_slice()).collect();
    rates.push(&ran.rates);
    let members = vec![true; bench.groups.len()];
    let mut moved = 0;
    for (pair, measurement) in rates.windows(2).zip(&ran.outcome.measurements) {
        let ratios = next_ratios(
            pair[0],
            &measurement.slope,
            &measurement.curvature.diagonal(bench.groups.len()),
            &measurement.verdict,
            &members,
        );
        let factors: Vec<f64> = pair[1].iter().zip(&ratios).map(|(a, b)| a / b).collect();
        for factor in &factors {
            assert!((factor / factors[0] - 1.0).abs() < 1e-12, "{factors:?}");
            assert!((0.5 - 1e-9..=2.0 + 1e-9).contains(factor));
        }
        moved += pair[0].iter().zip(&ratios).filter(|(a, b)| a != b).count();
    }
    assert!(moved > bench.groups.len(), "{moved} ratios moved");
}

#[test]
fn the_height_of_the_rates_is_fitted_from_the_first_step_on() {
    let (bench, data) = bench();
    // Far too high: the first fits alone must bring it down.
    let plan = Plan {
        rates: &|_| 20.0,
        ..Plan::default()
    };
    let ran = run(&bench, &data, plan, &mut |_| Vec::new());
    let first = &ran.seen[0].rates;
    assert!(first.iter().all(|rate| *rate == first[0]));
    assert!(first[0] < 20.0, "{}", first[0]);
}

#[test]
fn a_frozen_group_stops_and_the_others_go_on() {
    let (bench, data) = bench();
    let frozen = [
        bench.position("lora/0/attention.self.query#1"),
        bench.position("norm/1/output.LayerNorm"),
    ];
    let parts = |k: usize| -> Vec<Vec<u64>> {
        bench.groups[k].parameters.iter().map(|p| bits(p)).collect()
    };
    let all = || -> Vec<Vec<Vec<u64>>> { (0..bench.groups.len()).map(parts).collect() };
    let mut at_freezing = None;
    let ran = run(&bench, &data, Plan::default(), &mut |measurements| {
        if measurements.len() == 1 {
            at_freezing = Some(all());
        }
        frozen.to_vec()
    });
    let (before, after) = (at_freezing.expect("a measurement"), all());
    assert_eq!(ran.outcome.frozen, frozen);
    let (first, later) = ran
        .outcome
        .measurements
        .split_first()
        .expect("measurements");
    assert!(!first.verdict.contains(&Verdict::Frozen));
    assert_eq!(later.len(), 2);
    for (k, group) in bench.groups.iter().enumerate() {
        let is_frozen = frozen.contains(&k);
        for measurement in later {
            assert_eq!(
                measurement.verdict[k] == Verdict::Frozen,
                is_frozen,
                "{}",
                group.name
            );
        }
        if !is_key_bias(group) {
            assert_eq!(before[k] == after[k], is_frozen, "{}", group.name);
        }
    }
    assert!(
        ran.seen[1..]
            .iter()
            .all(|seen| seen.rates.len() == bench.groups.len() - 2)
    );
}

#[test]
fn measuring_changes_nothing_of_the_training() {
    let run = |estimator: Option<Box<dyn Estimator>>| {
        let (bench, data) = bench();
        let plan = Plan::default();
        let probe = ProbeConfig {
            burn_in: if estimator.is_some() { 4 } else { STEPS + 1 },
            ..plan.probe
        };
        let estimator = estimator.unwrap_or(Box::new(ParabolaFit::default()));
        let ran = run(
            &bench,
            &data,
            Plan {
                estimator,
                probe,
                adapts: false,
                ..plan
            },
            &mut |_| Vec::new(),
        );
        (ran.outcome.measurements.len(), ran.losses, bench.bits())
    };
    let plain = run(None);
    assert_eq!(plain.0, 0);
    let estimators: [Box<dyn Estimator>; 3] = [
        Box::new(GaussNewton {
            exact_classes: 3,
            seed: 0,
        }),
        Box::new(HessianVectorProduct { seed: 0 }),
        Box::new(ParabolaFit::default()),
    ];
    for estimator in estimators {
        let name = estimator.name();
        let measured = run(Some(estimator));
        assert_eq!(measured.0, 3);
        assert!(measured.1 == plain.1 && measured.2 == plain.2, "{name}");
    }
}

#[test]
fn a_group_with_rate_zero_does_not_move() {
    let (bench, data) = bench();
    let before = bench.bits();
    let still = bench.position("lora/1/attention.self.value#0");
    let plan = Plan {
        rates: &|k| if k == still { 0.0 } else { RATE },
        ..Plan::default()
    };
    let ran = run(&bench, &data, plan, &mut |_| Vec::new());
    assert_eq!(ran.rates[still], 0.0);
    let after = bench.bits();
    for (k, group) in bench.groups.iter().enumerate() {
        for parameter in &group.parameters {
            let same = before[parameter.index()] == after[parameter.index()];
            if k == still || !is_key_bias(group) {
                assert_eq!(same, k == still, "{}", parameter.name());
            }
        }
    }
}

#[test]
fn a_stop_is_taken_between_two_steps() {
    let (bench, data) = bench();
    let plan = Plan {
        interrupt_at: 6,
        ..Plan::default()
    };
    let ran = run(&bench, &data, plan, &mut |_| Vec::new());
    assert!(ran.outcome.interrupted);
    assert_eq!((ran.outcome.steps, ran.outcome.measurements.len()), (6, 1));
}

/// Along the optimizer's own directions, where a gradient of pure rounding is normalised up to the size of all
/// others, rounding stays well below the floor and every other group above it.
#[test]
fn the_rounding_floor_parts_key_biases_from_all_others_in_training() {
    let (mut strongest, mut weakest) = (0.0f64, f64::INFINITY);
    for (name, seed) in [("bert", 11), ("bert", 12), ("bert", 13), ("distilbert", 11)] {
        let (bench, data) = (Bench::attached(name, 3, DType::F32, seed), rows(name, 24));
        let plan = Plan {
            seed,
            ..Plan::default()
        };
        let ran = run(&bench, &data, plan, &mut |_| Vec::new());
        for measurement in &ran.outcome.measurements {
            let diagonal = measurement.curvature.diagonal(bench.groups.len());
            let floor = rounding_floor(&diagonal);
            for (k, group) in bench.groups.iter().enumerate() {
                let signal = measurement.slope[k].abs().max(diagonal[k].abs().sqrt()) / floor;
                let is_nothing = measurement.verdict[k] == Verdict::InsufficientSignal;
                assert_eq!(is_nothing, is_key_bias(group), "{}: {signal}", group.name);
                if is_key_bias(group) {
                    strongest = strongest.max(signal);
                } else {
                    weakest = weakest.min(signal);
                }
            }
        }
    }
    assert!(strongest < 0.1, "{strongest} of the floor");
    assert!(weakest > 10.0, "{weakest} of the floor");
}
