//! `autopeft doctor`: what this machine and build can do, and what would be faster.

use std::sync::Arc;

use anyhow::bail;
use autopeft_adapters::hardware::{self, Contender, ProductSpeed};
use candle_core::utils::{cuda_is_available, metal_is_available};
use serde::Serialize;
use serde_json::json;

use crate::cli::args::DoctorArgs;
use crate::cli::{ExitStatus, Printer};
use crate::device;
use crate::memory;
use crate::progress::{Event, EventKind};
use crate::recipe::DeviceChoice;

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    target: String,
    /// Features of the processor that matter, and whether it has them.
    cpu_features: Vec<Feature>,
    /// Cores that the process may use.
    cores: usize,
    /// Threads that compute.
    threads: usize,
    memory_gib: Option<f64>,
    memory_available_gib: Option<f64>,
    /// The device that `--device auto` takes.
    device: String,
    /// What computes products.
    products: String,
    product_speed: ProductSpeed,
    /// All that could compute them here.
    contenders: Vec<Contender>,
    /// Why the library that was asked for is not used.
    product_fault: Option<String>,
    optimised: bool,
    faster: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Feature {
    name: &'static str,
    present: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the number of threads cannot be set, or stdout cannot be written to.
pub fn run(args: &DoctorArgs, printer: &Arc<Printer>) -> anyhow::Result<ExitStatus> {
    super::use_threads(args.threads)?;
    let findings = examine()?;
    printer.result(&text(&findings))?;
    printer.event(&Event::new(EventKind::Result, &json!(findings)))?;
    Ok(ExitStatus::Done)
}

fn examine() -> anyhow::Result<Findings> {
    let memory = memory::of_machine();
    let (products, fault) = match hardware::products() {
        Ok(products) => (products, None),
        Err(error) => (
            hardware::CRATE.to_string(),
            Some(format!("{error}: {}", error.hint())),
        ),
    };
    let contenders = hardware::contenders();
    let Some(product_speed) = contenders
        .iter()
        .find(|one| one.is_in_use)
        .map(|one| one.speed)
    else {
        bail!("nothing computes products");
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        target: format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
        cpu_features: hardware::cpu_features()
            .into_iter()
            .map(|(name, present)| Feature { name, present })
            .collect(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: rayon::current_num_threads(),
        memory_gib: memory.map(|(all, _)| gib(all)),
        memory_available_gib: memory.map(|(_, available)| gib(available)),
        device: device::name(&device::open(DeviceChoice::Auto)?),
        products,
        product_speed,
        contenders,
        product_fault: fault,
        optimised: !cfg!(debug_assertions),
        faster: Vec::new(),
    };
    findings.faster = advice(&findings);
    Ok(findings)
}

fn advice(findings: &Findings) -> Vec<String> {
    let mut advice = Vec::new();
    if !findings.optimised {
        advice.push("this is a debug build: build it with `cargo build --release`".to_string());
    }
    if findings.threads < findings.cores {
        advice.push(format!(
            "{} of {} cores compute: leave out `--threads` and RAYON_NUM_THREADS",
            findings.threads, findings.cores
        ));
    }
    advice.extend(findings.product_fault.clone());
    // A smaller difference is within what a measurement on a used machine tells.
    let used = findings.product_speed.gflops * 1.05;
    let fastest = findings
        .contenders
        .iter()
        .filter(|one| one.speed.gflops > used)
        .max_by(|a, b| a.speed.gflops.total_cmp(&b.speed.gflops));
    if let Some(Contender { value, speed, .. }) = fastest {
        let (variable, gflops) = (hardware::BLAS_VARIABLE, speed.gflops);
        advice.push(format!("{variable}={value}: products at {gflops:.0} GF/s"));
    }
    if !hardware::HAS_SYSTEM_BLAS {
        advice.push(
            "with oneDNN, BLIS, OpenBLAS or MKL installed, build with `--features system-blas`"
                .to_string(),
        );
    } else if findings.contenders.len() < 2 {
        advice.push(format!(
            "no BLAS was found on this system: install oneDNN, BLIS, OpenBLAS or MKL, or set {}",
            hardware::BLAS_VARIABLE
        ));
    }
    for feature in findings.cpu_features.iter().filter(|f| !f.present) {
        advice.push(format!(
            "the processor has no {}: products would be up to twice as fast on one that has",
            feature.name
        ));
    }
    if findings.device == "cpu" && !cuda_is_available() && !metal_is_available() {
        advice.push(
            "on a machine with a GPU, build with `--features cuda` or `--features metal`"
                .to_string(),
        );
    }
    advice
}

fn text(findings: &Findings) -> String {
    let features: Vec<String> = findings
        .cpu_features
        .iter()
        .map(|f| format!("{} {}", f.name, if f.present { "yes" } else { "no" }))
        .collect();
    let memory = match (findings.memory_gib, findings.memory_available_gib) {
        (Some(all), Some(available)) => format!("{all:.1} GiB, {available:.1} GiB available"),
        _ => "unknown".to_string(),
    };
    let speed = &findings.product_speed;
    let mut lines = vec![
        format!("autopeft  {} on {}", findings.version, findings.target),
        format!("processor {}", features.join(", ")),
        format!("threads   {} of {} cores", findings.threads, findings.cores),
        format!("memory    {memory}"),
        format!("device    {}", findings.device),
        format!(
            "products  {}: {:.0} GF/s ({} × {} by {} × {}, f32)",
            findings.products, speed.gflops, speed.rows, speed.inner, speed.inner, speed.columns
        ),
    ];
    if findings.contenders.len() > 1 {
        let each: Vec<String> = findings
            .contenders
            .iter()
            .map(|one| format!("{} {:.0}", one.value, one.speed.gflops))
            .collect();
        lines.push(format!("          GF/s: {}", each.join(", ")));
    }
    for (number, advice) in findings.faster.iter().enumerate() {
        let label = if number == 0 { "faster" } else { "" };
        lines.push(format!("{label:9} {advice}"));
    }
    lines.join("\n")
}
