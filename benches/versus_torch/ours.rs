//! Our half of the side-by-side benchmark: one job in one process, its numbers as one line of JSON.
//!
//! `versus_torch MODEL JOB BATCH LENGTH THREADS REPEATS GROUPS DEVICE`, with JOB one of `forward`, `step`, `measure`, and
//! DEVICE `cpu` or, in a build with the feature of that name, `cuda`.
//! `theirs.py` takes the same arguments and starts from the same numbers; `run.py` compares the two.
#![expect(
    clippy::print_stdout,
    reason = "a benchmark's result goes to its standard output"
)]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use autopeft::data::{Batch, Targets, TokenTargets};
use autopeft::groups::Group;
use autopeft::models::checkpoint::Checkpoint;
use autopeft::models::{self, Config, Head, Inputs};
use autopeft::probe::{Estimator, GaussNewton, Point};
use autopeft::task::Objective;
use autopeft::train::{AdamW, AdamWConfig};
use autopeft_adapters::{Adapters, Directions, Kind, LoraPlan, LoraTargets, Part, Pass, Superset};
use candle_core::{DType, Device, Tensor};
use serde_json::json;

const LEARNING_RATE: f64 = 1e-3;

fn main() -> Result<()> {
    autopeft::memory::keep_freed();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, job, numbers @ .., device] = arguments.as_slice() else {
        bail!("usage: versus_torch MODEL JOB BATCH LENGTH THREADS REPEATS GROUPS DEVICE");
    };
    let device = match device.as_str() {
        "cpu" => Device::Cpu,
        "cuda" => Device::new_cuda(0)?,
        other => bail!("no device `{other}`; it can be cpu or cuda"),
    };
    let numbers: Vec<usize> = numbers
        .iter()
        .map(|n| n.parse())
        .collect::<Result<_, _>>()?;
    let [batch, length, threads, repeats, groups] = numbers.as_slice() else {
        bail!("five numbers are needed: BATCH LENGTH THREADS REPEATS GROUPS");
    };
    autopeft::threads::start(NonZeroUsize::new(*threads))?;
    let start_memory = memory("VmRSS:")?;
    let bench = Bench::open(Path::new(model), *batch, *length, &device)?;
    let mut times = Vec::new();
    let mut values = Vec::new();
    let mut optimizer = AdamW::new(
        bench.adapters.parameters(),
        AdamWConfig {
            weight_decay: 0.0,
            clip: None,
            ..AdamWConfig::default()
        },
    );
    for repeat in 0..=*repeats {
        let (wall, cpu) = (Instant::now(), cpu_seconds()?);
        match job.as_str() {
            "forward" => values.push(bench.loss()?),
            "step" => values.push(bench.step(&mut optimizer)?),
            "measure" => values = bench.measure(*groups)?,
            other => bail!("no job `{other}`"),
        }
        device.synchronize()?;
        if repeat > 0 {
            times.push([wall.elapsed().as_secs_f64(), cpu_seconds()? - cpu]);
        }
    }
    let result = json!({
        "values": values, "times": times,
        "peak_mib": memory("VmHWM:")?, "start_mib": start_memory,
    });
    println!("{result}");
    Ok(())
}

/// A model with everything attached, at numbers that a formula gives: a decoder as a language model that learns
/// every token, an encoder as a classifier.
struct Bench {
    model: Box<dyn Objective>,
    adapters: Adapters,
    batch: Batch,
}

impl Bench {
    fn open(folder: &Path, batch: usize, length: usize, device: &Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        let checkpoint = Arc::new(Checkpoint::open_folder(folder)?);
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
        let adapters = Adapters::superset(superset, 0);
        let is_causal = config.decoder.is_some();
        let model: Box<dyn Objective> = if is_causal {
            let model = models::load_causal(&config, &checkpoint, &adapters, DType::F32, device)?;
            Box::new(model)
        } else {
            let head = Head::new(2);
            let model = models::load(&config, &checkpoint, &adapters, head, DType::F32, device)?;
            Box::new(model)
        };
        for parameter in adapters.parameters() {
            let formula = match (parameter.kind(), parameter.part()) {
                (_, Part::LoraA { .. }) => wave(parameter.initial(), 0.02, 0.37)?,
                (_, Part::LoraB { .. }) => wave(parameter.initial(), 0.01, 0.29)?,
                (Kind::Head, _) => wave(parameter.initial(), 0.05, 0.53)?,
                _ => continue,
            };
            parameter.set(&formula)?;
        }
        let vocabulary = config.vocab_size - 10;
        let rows: Vec<Vec<u32>> = (0..batch)
            .map(|row| {
                (0..length)
                    .map(|at| u32::try_from(5 + (row * 7919 + at * 104_729) % vocabulary))
                    .collect::<Result<_, _>>()
            })
            .collect::<Result<_, _>>()?;
        let targets = if is_causal {
            Targets::Tokens(every_token(&rows)?)
        } else {
            Targets::Classes((0..batch as u32).map(|row| row % 2).collect())
        };
        Ok(Self {
            model,
            adapters,
            batch: Batch {
                inputs: Inputs::padded(&rows, config.pad_token_id, device)?,
                targets: Some(targets),
                rows: (0..batch).collect(),
                num_tokens: batch * length,
            },
        })
    }

    fn loss(&self) -> Result<f64> {
        Ok(self.model.outcome(&self.batch, &Pass::eval())?.loss())
    }

    fn step(&self, optimizer: &mut AdamW) -> Result<f64> {
        let pass = Pass::train(0);
        let outcome = self.model.outcome(&self.batch, &pass)?;
        let gradients = pass.backward(&outcome.scalar()?)?;
        let directions = optimizer.direction(&gradients)?;
        let directions = optimizer.split(&directions)?;
        optimizer.apply(&directions, |_| LEARNING_RATE)?;
        Ok(outcome.loss())
    }

    /// The slope of each of `count` groups, into which the parameters are dealt in turn; the curvature is
    /// computed with it.
    fn measure(&self, count: usize) -> Result<Vec<f64>> {
        let parameters = self.adapters.parameters();
        let groups: Vec<Group> = (0..count)
            .map(|number| {
                let members: Vec<_> = parameters
                    .iter()
                    .skip(number)
                    .step_by(count)
                    .cloned()
                    .collect();
                Group {
                    name: number.to_string(),
                    kind: Kind::Lora,
                    role: "*".to_string(),
                    layer: None,
                    block: None,
                    size: members.iter().map(|p| p.elem_count()).sum(),
                    parameters: members,
                }
            })
            .collect();
        let directions: Directions = parameters
            .iter()
            .map(|p| Ok((p.index(), wave(p.initial(), 0.01, 0.31)?)))
            .collect::<Result<_>>()?;
        let point = Point {
            model: &*self.model,
            batch: &self.batch,
            groups: &groups.iter().collect::<Vec<_>>(),
            directions: &Arc::new(directions),
            rates: &vec![LEARNING_RATE; count],
            step: 0,
        };
        let mut estimator = GaussNewton {
            exact_classes: 8,
            seed: 0,
        };
        Ok(estimator.measure(&point)?.slope)
    }
}

/// Each token of each row from those before it.
fn every_token(rows: &[Vec<u32>]) -> Result<TokenTargets> {
    let mut targets = TokenTargets::default();
    let mut start = 0;
    for row in rows {
        for (at, token) in row.iter().enumerate().skip(1) {
            targets.places.push(u32::try_from(start + at - 1)?);
            targets.labels.push(*token);
        }
        targets.counts.push(row.len().saturating_sub(1));
        start += row.len();
    }
    Ok(targets)
}

/// `size · sin(rate · i + 1)` for the i-th number in row-major order.
fn wave(like: &Tensor, size: f64, rate: f64) -> Result<Tensor> {
    let numbers: Vec<f32> = (0..like.elem_count())
        .map(|i| (size * (rate * i as f64 + 1.0).sin()) as f32)
        .collect();
    Ok(Tensor::from_vec(numbers, like.shape(), like.device())?)
}

/// A line of `/proc/self/status`, in MiB.
fn memory(key: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with(key))
        .with_context(|| format!("no `{key}` in /proc/self/status"))?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .context("a number of KiB")?
        .parse()?;
    Ok(kib / 1024.0)
}

/// Processor time of all threads that are alive.
fn cpu_seconds() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let line = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let used: f64 = line.split(' ').next().context("a number")?.parse()?;
        nanoseconds += used;
    }
    Ok(nanoseconds * 1e-9)
}
