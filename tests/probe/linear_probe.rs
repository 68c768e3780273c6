//! The head's own training before the probe.

use autopeft::groups::Group;
use autopeft::metrics;
use autopeft::train::{AdamWConfig, LinearProbe};
use autopeft_adapters::State;
use candle_core::DType;

use super::fixture::Bench;

fn values(groups: &[Group]) -> Vec<Vec<f64>> {
    let parameters = groups.iter().flat_map(|group| &group.parameters);
    let numbers = parameters.map(|parameter| {
        let value = parameter.value().flatten_all()?.to_dtype(DType::F64)?;
        value.to_vec1()
    });
    numbers.collect::<Result<_, _>>().expect("numbers")
}

#[test]
fn the_head_alone_learns_whatever_the_size_of_what_it_reads() {
    for name in ["bert", "roberta", "distilbert", "llama", "gpt2"] {
        let bench = Bench::open(name, 3, DType::F32);
        let (heads, others): (Vec<Group>, Vec<Group>) =
            bench.groups.iter().cloned().partition(Group::is_head);
        others
            .iter()
            .for_each(|group| group.set_state(State::Frozen));
        let below = values(&others);
        let batches = vec![bench.batch()];
        let optimizer = AdamWConfig::default();
        let mut probe = LinearProbe::new(&bench.model, &heads, batches, optimizer);

        let before = bench.logits();
        let first = probe.advance().expect("a step");
        assert!((first.loss - metrics::class_loss(&before, &bench.labels)).abs() < 1e-5);
        // The rate is made of the change that a step is to bring.
        let squares: Vec<f64> = (before.concat().iter().zip(bench.logits().concat()))
            .map(|(before, after)| (after - before).powi(2))
            .collect();
        let moved = (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
        assert!((0.05..0.2).contains(&moved), "{name}: {moved}");

        let mut last = first;
        for _ in 0..40 {
            last = probe.advance().expect("a step");
        }
        assert_eq!(last.step, 41);
        assert!(last.loss < 0.8 * first.loss, "{name}: {last:?}");
        assert_eq!(values(&others), below, "{name}");
    }
}
