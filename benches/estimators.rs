//! One measurement by each estimator, and by `fit` with and without stacked passes, of batches of a few sizes.
//!
//!     RAYON_NUM_THREADS=1 cargo bench --bench estimators
//!     RAYON_NUM_THREADS=1 AUTOPEFT_BENCH_MODEL=all-minilm-l6-v2 cargo bench --bench estimators -- fit
//!
//! The groups are those of the recipe `quickstart`, the rows its data; `AUTOPEFT_BENCH_MODEL` is the folder of another encoder.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use autopeft::groups::Group;
use autopeft::pipeline::{Prepared, Recorder};
use autopeft::probe::{
    Estimator, FullHessian, GaussNewton, HessianVectorProduct, ParabolaFit, Point,
};
use autopeft::progress::Silent;
use autopeft::recipe::{Override, Recipe};
use autopeft_adapters::{Directions, Pass};
use criterion::{BenchmarkId, Criterion};

const ROWS: [usize; 3] = [4, 16, 64];
const RATE: f64 = 1e-3;

fn main() -> Result<()> {
    autopeft::memory::keep_freed();
    autopeft::threads::start(None)?;
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let model = std::env::var("AUTOPEFT_BENCH_MODEL").ok();
    let changes: Vec<Override> = model
        .iter()
        .map(|path| Override::new("model", path.as_str(), "AUTOPEFT_BENCH_MODEL"))
        .collect();
    let recipe = Recipe::load("quickstart", &changes)?;
    let prepared = Prepared::new(&recipe, &Recorder::listener(&Silent))?;
    for rows in ROWS {
        estimators(&mut criterion, &prepared, rows)?;
    }
    criterion.final_summary();
    Ok(())
}

fn estimators(criterion: &mut Criterion, prepared: &Prepared<'_>, rows: usize) -> Result<()> {
    let rows: Vec<usize> = (0..rows).collect();
    let batch = prepared.measuring_rows().batch(&rows)?;
    // The gradient as the direction: what the optimizer gives has the same shape and cost.
    let pass = Pass::gradients();
    let outcome = prepared.model.outcome(&batch, &pass)?;
    let gradients = pass.backward(&outcome.scalar()?)?;
    let groups: Vec<&Group> = prepared
        .groups
        .iter()
        .filter(|group| !group.is_reference())
        .collect();
    let directions: Directions = groups
        .iter()
        .flat_map(|group| &group.parameters)
        .filter_map(|p| Some((p.index(), gradients.get(p.index())?.clone())))
        .collect();
    let point = Point {
        model: &*prepared.model,
        batch: &batch,
        groups: &groups,
        directions: &Arc::new(directions),
        rates: &vec![RATE; groups.len()],
        step: 0,
    };
    let gauss_newton = GaussNewton {
        exact_classes: 8,
        seed: 0,
    };
    let estimators: [(&str, Box<dyn Estimator>); 5] = [
        ("gauss-newton", Box::new(gauss_newton)),
        ("hvp", Box::new(HessianVectorProduct { seed: 0 })),
        ("full", Box::new(FullHessian)),
        ("fit", Box::<ParabolaFit>::default()),
        ("fit, not stacked", Box::new(ParabolaFit::stacking(0))),
    ];
    let tokens = batch.inputs.input_ids.elem_count();
    let at = format!(
        "{} groups, {} rows of {tokens} tokens",
        groups.len(),
        rows.len()
    );
    let mut group = criterion.benchmark_group("estimator");
    for (name, mut estimator) in estimators {
        estimator.measure(&point).context(name)?; // an error here is told, not one of a thousand
        group.bench_function(BenchmarkId::new(name, &at), |bencher| {
            bencher.iter(|| black_box(estimator.measure(&point).is_ok()));
        });
    }
    group.finish();
    Ok(())
}
