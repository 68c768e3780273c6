//! The embedded example learns something real, and keeps much the same groups from other seeds.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::HashSet;

use autopeft::interrupt::Interrupt;
use autopeft::metrics::Scores;
use autopeft::pipeline;
use autopeft::progress::Silent;
use autopeft::recipe::{Override, Recipe};
use autopeft::report::{SelectionReport, Stage};
use autopeft_adapters::Kind;

fn run(changes: &[&str]) -> SelectionReport {
    let dir = tempfile::tempdir().unwrap();
    let text = autopeft::recipe::embedded("quickstart").unwrap().text;
    let changes: Vec<Override> = changes.iter().map(|text| text.parse().unwrap()).collect();
    let recipe = Recipe::read("quickstart", text, &changes).unwrap();
    let out = dir.path().join("out");
    pipeline::select(&recipe, &out, &Silent, &Interrupt::default())
        .unwrap()
        .report
}

fn accuracy(report: &SelectionReport, stage: Stage) -> f64 {
    let found = report.held_out.iter().find(|value| value.stage == stage);
    match found.unwrap().evaluation.scores {
        Scores::Classes { accuracy, .. } => accuracy,
        other => panic!("not the measures of a classification: {other:?}"),
    }
}

/// Share of the groups kept by either that both keep (Jaccard), and what it is on average for sets of these sizes drawn
/// at random.
fn overlap(a: &SelectionReport, b: &SelectionReport) -> (f64, f64) {
    let kept = |report: &SelectionReport| -> HashSet<String> {
        let groups = report.groups.iter();
        groups
            .filter(|group| group.kept && group.kind != Kind::Head)
            .map(|group| group.name.clone())
            .collect()
    };
    let (left, right) = (kept(a), kept(b));
    let all = a.groups.iter().filter(|g| g.kind != Kind::Head).count() as f64;
    let share = |both: f64| both / ((left.len() + right.len()) as f64 - both);
    let both = left.intersection(&right).count() as f64;
    (
        share(both),
        share(left.len() as f64 * right.len() as f64 / all),
    )
}

fn learns(report: &SelectionReport) {
    // 53.4 % of the held-out reviews are of the larger class; the standard error of 700 is under 2 points.
    assert!(accuracy(report, Stage::Trimmed) > 0.70);
    assert!(accuracy(report, Stage::Superset) > 0.65);
    assert!(report.kept_parameters <= report.budget.unwrap());
    let kept = report.groups.iter().filter(|group| group.kept).count();
    assert!(kept > 3, "{kept} groups kept");
}

#[test]
fn the_quickstart_beats_the_majority_class_and_keeps_much_the_same_groups_with_another_seed() {
    let reports = ["seed=0", "seed=1"].map(|seed| run(&[seed]));
    for report in &reports {
        learns(report);
        assert!(report.kept_parameters > report.budget.unwrap() / 2);
    }
    // Measured between seeds 0, 1 and 2: 0.85 to 0.88.
    let (shared, by_chance) = overlap(&reports[0], &reports[1]);
    assert!(
        shared > 2.5 * by_chance,
        "the sets share {shared:.2} of their groups, by chance {by_chance:.2}"
    );
}
