#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::select::coupled::Term;

fn group(name: &str, parameters: usize, value: f64) -> Candidate {
    Candidate {
        name: name.into(),
        parameters,
        value,
        influence: 2.0 * value / parameters as f64,
        slope: value,
        always: name == "head",
        turn: 0,
        frozen_early: false,
    }
}

/// Influences: a 0.2, b 0.1, c 0.02, d 0.005; `e` was never measured, `f` was frozen.
fn input() -> SelectionInput {
    let mut frozen = group("f", 10, 9.0);
    frozen.frozen_early = true;
    SelectionInput {
        candidates: vec![
            group("d", 400, 1.0),
            group("head", 1_000, 50.0),
            group("b", 60, 3.0),
            group("a", 50, 5.0),
            group("c", 100, 1.0),
            group("e", 1, 0.0),
            frozen,
        ],
        base_parameters: 100_000,
        references: vec![0.01, 0.002],
        determined: None,
        terms: Vec::new(),
    }
}

fn run(method: Method) -> Selection {
    select(&input(), method, &SelectOptions::default()).unwrap()
}

fn kept(selection: &Selection) -> Vec<&str> {
    let kept = selection.groups.iter().filter(|decision| decision.kept);
    kept.map(|decision| decision.name.as_str()).collect()
}

fn reason(selection: &Selection, name: &str) -> Reason {
    selection
        .groups
        .iter()
        .find(|decision| decision.name == name)
        .unwrap()
        .reason
}

fn budget(count: usize, solver: Solver) -> Method {
    Method::Budget {
        budget: Budget::Count(count),
        solver,
    }
}

#[test]
fn the_head_is_kept_by_every_rule_and_counts_in_no_budget() {
    for method in [
        budget(50, Solver::Exact),
        budget(50, Solver::Greedy),
        Method::Pareto,
        Method::Psi { psi: 1e6 },
        Method::Top { k: 1 },
        Method::Threshold { share: 0.1 },
    ] {
        let selection = run(method);
        assert_eq!(reason(&selection, "head"), Reason::Always, "{method:?}");
        assert_eq!(selection.always_parameters, 1_000);
        assert!(selection.parameters < 1_000);
    }
}

#[test]
fn every_dropped_group_says_why() {
    let selection = run(budget(110, Solver::Exact));
    assert_eq!(kept(&selection), ["head", "b", "a"]);
    assert_eq!(
        (selection.budget, selection.parameters, selection.value),
        (Some(110), 110, 8.0)
    );
    assert_eq!(reason(&selection, "a"), Reason::WithinBudget);
    assert_eq!(reason(&selection, "d"), Reason::OverBudget);
    assert_eq!(reason(&selection, "e"), Reason::NoSignal);
    assert_eq!(reason(&selection, "f"), Reason::FrozenEarly);
}

#[test]
fn a_budget_that_nothing_fits_names_the_smallest_that_works() {
    let error = select(
        &input(),
        budget(49, Solver::Exact),
        &SelectOptions::default(),
    )
    .unwrap_err();
    assert_eq!(
        error,
        SelectError::Unreachable {
            budget: 49,
            smallest: 50
        }
    );
    assert!(error.is_answer_no());
    assert_eq!(
        error.hint().unwrap(),
        "the smallest reachable budget is `50`"
    );
    assert_eq!(kept(&run(budget(50, Solver::Exact))), ["head", "a"]);
}

#[test]
fn psi_keeps_what_is_clearly_above_the_least_base_weights() {
    // 10 times 0.002 is the influence of `c`, which is not below it.
    let selection = run(Method::Psi { psi: 10.0 });
    assert_eq!(kept(&selection), ["head", "b", "a", "c"]);
    assert_eq!(reason(&selection, "d"), Reason::BelowReference);
    assert_eq!(kept(&run(Method::Psi { psi: 11.0 })), ["head", "b", "a"]);
    assert_eq!(kept(&run(Method::Psi { psi: 1e6 })), ["head"]);
    // Base weights without any influence are no reference.
    let still = SelectionInput {
        references: vec![0.0, 0.01, 0.002],
        ..input()
    };
    let selection = select(&still, Method::Psi { psi: 11.0 }, &SelectOptions::default());
    assert_eq!(kept(&selection.unwrap()), ["head", "b", "a"]);
}

#[test]
fn psi_needs_references_and_something_to_keep() {
    let psi =
        |input: &SelectionInput, psi| select(input, Method::Psi { psi }, &SelectOptions::default());
    for references in [vec![], vec![0.0]] {
        let without = SelectionInput {
            references,
            ..input()
        };
        assert_eq!(psi(&without, 10.0).unwrap_err(), SelectError::NoReferences);
    }
    let mut headless = input();
    headless.candidates.remove(1);
    assert_eq!(
        psi(&headless, 1e6).unwrap_err(),
        SelectError::NothingKept { groups: 6 }
    );
    assert!(matches!(
        psi(&input(), f64::NAN).unwrap_err(),
        SelectError::InvalidRule { what: "psi", .. }
    ));
}

#[test]
fn top_keeps_the_most_influential_and_never_what_has_no_signal() {
    assert_eq!(kept(&run(Method::Top { k: 2 })), ["head", "b", "a"]);
    assert_eq!(
        kept(&run(Method::Top { k: 99 })),
        ["d", "head", "b", "a", "c"]
    );
    assert!(select(&input(), Method::Top { k: 0 }, &SelectOptions::default()).is_err());
}

#[test]
fn threshold_keeps_the_shortest_prefix_that_reaches_the_share() {
    // In the order of influence the values are 5, 3, 1 and 1.
    for (share, expected) in [
        (0.5, vec!["head", "a"]),
        (0.51, vec!["head", "b", "a"]),
        (0.8, vec!["head", "b", "a"]),
        (0.9, vec!["head", "b", "a", "c"]),
        (1.0, vec!["d", "head", "b", "a", "c"]),
    ] {
        assert_eq!(kept(&run(Method::Threshold { share })), expected, "{share}");
    }
    for share in [0.0, -0.5, 1.1, f64::NAN] {
        let error = select(
            &input(),
            Method::Threshold { share },
            &SelectOptions::default(),
        )
        .unwrap_err();
        assert!(matches!(
            error,
            SelectError::InvalidRule { what: "share", .. }
        ));
    }
}

#[test]
fn pareto_offers_the_knee_and_its_neighbours() {
    let selection = run(Method::Pareto);
    let frontier = selection.frontier.as_ref().unwrap();
    let chain: Vec<_> = frontier
        .points
        .iter()
        .map(|p| (p.adds.as_str(), p.parameters, p.value))
        .collect();
    assert_eq!(
        chain,
        [
            ("a", 50, 5.0),
            ("b", 110, 8.0),
            ("c", 210, 9.0),
            ("d", 610, 10.0)
        ]
    );
    assert_eq!(
        (frontier.knee, frontier.candidates.as_slice()),
        (2, [1, 2, 3].as_slice())
    );
    assert_eq!(kept(&selection), ["head", "b", "a"]);
    assert_eq!(
        kept(&select_prefix(&input(), 3).unwrap()),
        ["head", "b", "a", "c"]
    );
    assert!(select_prefix(&input(), 0).is_err() && select_prefix(&input(), 5).is_err());
}

#[test]
fn ties_go_to_fewer_parameters_then_to_the_name() {
    let tied = SelectionInput {
        candidates: vec![
            group("y", 20, 2.0),
            group("x", 10, 1.0),
            group("w", 10, 1.0),
        ],
        base_parameters: 1_000,
        ..SelectionInput::default()
    };
    let run = |method| select(&tied, method, &SelectOptions::default()).unwrap();
    assert_eq!(kept(&run(Method::Top { k: 1 })), ["w"]);
    assert_eq!(kept(&run(Method::Top { k: 2 })), ["x", "w"]);
    assert_eq!(kept(&run(budget(10, Solver::Exact))), ["w"]);
    // {y} and {w, x} have the same value and size.
    assert_eq!(kept(&run(budget(20, Solver::Exact))), ["x", "w"]);
}

#[test]
fn all_sets_are_reported_with_both_values() {
    // `a` and `b` are one direction; `c` is independent.
    let curvature = vec![1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let coupled = SelectionInput {
        candidates: vec![
            group("a", 10, 0.5),
            group("b", 10, 0.5),
            group("c", 10, 0.125),
        ],
        determined: None,
        base_parameters: 1_000,
        references: Vec::new(),
        terms: vec![Term {
            slope: vec![1.0, 1.0, 0.5],
            curvature,
        }],
    };
    let selection = select(
        &coupled,
        budget(20, Solver::Coupled),
        &SelectOptions::default(),
    )
    .unwrap();
    assert_eq!(kept(&selection), ["a", "c"]);
    let sets: Vec<_> = selection
        .sets
        .iter()
        .map(|set| (set.solver, set.groups.join(" "), set.value))
        .collect();
    assert_eq!(
        sets,
        [
            (Solver::Slope, "a b".into(), 1.0),
            (Solver::Exact, "a b".into(), 1.0),
            (Solver::Greedy, "a b".into(), 1.0),
            (Solver::Coupled, "a c".into(), 0.625)
        ]
    );
    let values: Vec<f64> = selection
        .sets
        .iter()
        .map(|set| set.coupled_value.unwrap())
        .collect();
    assert!(
        (values[0] - 0.5).abs() < 1e-3 && (values[3] - 0.625).abs() < 1e-3,
        "{values:?}"
    );
    assert_eq!(selection.sets[3].optimality, Optimality::Local);
    // The same with the default solver: same sets, another one used.
    let exact = select(
        &coupled,
        budget(20, Solver::Exact),
        &SelectOptions::default(),
    )
    .unwrap();
    assert_eq!(kept(&exact), ["a", "b"]);
    assert!(exact.sets[1].used && !exact.sets[3].used);
}

#[test]
fn the_set_of_slopes_does_not_look_at_the_curvature() {
    // `bent` has the greater slope, and for its curvature the smaller predicted decrease.
    let mut bent = group("bent", 10, 1.0);
    bent.slope = 4.0;
    let mut flat = group("flat", 10, 2.0);
    flat.slope = 1.0;
    let input = SelectionInput {
        candidates: vec![bent, flat],
        base_parameters: 1_000,
        ..SelectionInput::default()
    };
    let chosen = |solver| {
        let selection = select(&input, budget(10, solver), &SelectOptions::default()).unwrap();
        (kept(&selection).join(" "), selection.value)
    };
    assert_eq!(chosen(Solver::Slope), ("bent".to_owned(), 1.0));
    assert_eq!(chosen(Solver::Exact), ("flat".to_owned(), 2.0));
}

#[test]
fn coupled_selection_needs_the_whole_curvature() {
    let error = select(
        &input(),
        budget(110, Solver::Coupled),
        &SelectOptions::default(),
    )
    .unwrap_err();
    assert_eq!(error, SelectError::NoCoupling);
}

#[test]
fn a_bad_curvature_is_an_error_only_for_who_needs_it() {
    let mut broken = input();
    broken.terms = vec![Term {
        slope: vec![f64::NAN; 7],
        curvature: vec![0.0; 49],
    }];
    assert!(
        select(
            &broken,
            budget(110, Solver::Coupled),
            &SelectOptions::default()
        )
        .is_err()
    );
    let selection = select(
        &broken,
        budget(110, Solver::Exact),
        &SelectOptions::default(),
    )
    .unwrap();
    assert_eq!(selection.notes.len(), 1);
    assert_eq!(selection.sets.len(), 3);
}

#[test]
fn faulty_input_is_refused() {
    let run = |input: &SelectionInput| {
        select(input, Method::Top { k: 1 }, &SelectOptions::default()).unwrap_err()
    };
    assert_eq!(run(&SelectionInput::default()), SelectError::NoGroups);
    let mut twice = input();
    twice.candidates[0].name = "a".into();
    assert_eq!(run(&twice), SelectError::DuplicateName { name: "a".into() });
    let mut diverged = input();
    diverged.candidates[0].value = f64::NAN;
    assert!(matches!(
        run(&diverged),
        SelectError::InvalidScore { what: "value", .. }
    ));
    let mut silent = input();
    silent
        .candidates
        .retain(|candidate| candidate.value == 0.0 || candidate.always);
    assert_eq!(run(&silent), SelectError::NoSignal { groups: 1 });
}

#[test]
fn a_selection_survives_its_file() {
    for method in [
        budget(110, Solver::Exact),
        Method::Pareto,
        Method::Psi { psi: 10.0 },
    ] {
        let selection = run(method);
        let text = serde_json::to_string(&selection).unwrap();
        assert_eq!(serde_json::from_str::<Selection>(&text).unwrap(), selection);
    }
    let method: Method = serde_json::from_str(r#"{"rule": "budget", "budget": "0.1%"}"#).unwrap();
    assert_eq!(
        method,
        Method::Budget {
            budget: Budget::Percent(0.1),
            solver: Solver::Exact
        }
    );
}

proptest! {
    #![proptest_config(crate::select::fixed_cases(64))]

    /// Any set of groups within the budget, a uniform baseline among them, is a choice that the rule has weighed.
    #[test]
    fn no_feasible_set_is_worth_more_than_the_exact_one(
        rows in prop::collection::vec((1..500_usize, 0.0..1.0_f64), 1..=15), capacity in 1..3_000_usize, mask in 0..1_u32 << 15,
    ) {
        let candidates: Vec<Candidate> =
            rows.iter().enumerate().map(|(k, &(size, value))| group(&format!("{k:02}"), size, value)).collect();
        let input = SelectionInput { candidates, base_parameters: 10_000, ..SelectionInput::default() };
        let baseline: Vec<usize> = (0..rows.len()).filter(|k| mask >> k & 1 == 1).collect();
        let size: usize = baseline.iter().map(|&k| rows[k].0).sum();
        let value: f64 = baseline.iter().map(|&k| rows[k].1).sum();
        match select(&input, budget(capacity, Solver::Exact), &SelectOptions::default()) {
            Ok(selection) => {
                prop_assert!(selection.parameters <= capacity);
                prop_assert!(size > capacity || value <= selection.value * (1.0 + 1e-12));
                prop_assert!(selection.sets[1].value <= selection.sets[0].value * (1.0 + 1e-12));
            }
            Err(error) => prop_assert!(error.is_answer_no() && (size > capacity || value == 0.0)),
        }
    }
}

/// First `b` and `c`, then `a`, then the others.
fn by_turns() -> SelectionInput {
    let mut input = input();
    for candidate in &mut input.candidates {
        candidate.turn = match candidate.name.as_str() {
            "b" | "c" => 0,
            "a" => 1,
            _ => 7,
        };
    }
    input
}

#[test]
fn a_budget_is_spent_on_earlier_turns_before_what_is_worth_more() {
    for solver in [Solver::Exact, Solver::Greedy, Solver::Slope] {
        let kept_of = |count| {
            let method = budget(count, solver);
            let selection = select(&by_turns(), method, &SelectOptions::default()).unwrap();
            kept(&selection).join(" ")
        };
        assert_eq!(kept_of(60), "head b", "{solver:?}");
        // What an earlier turn cannot use is the next one's.
        assert_eq!(kept_of(110), "head b a");
        assert_eq!(kept_of(210), "head b a c");
        assert_eq!(kept_of(610), "d head b a c");
        // Of the first turn nothing fits.
        assert_eq!(kept_of(50), "head a");
    }
}

#[test]
fn the_coupled_search_counts_earlier_turns_as_given() {
    // `a` does what `b` does and is worth more; `d` is weak and by itself.
    let candidates = [("b", 0), ("a", 1), ("d", 1)].map(|(name, turn)| Candidate {
        turn,
        ..group(name, 10, 1.0)
    });
    let mut input = SelectionInput {
        candidates: candidates.into(),
        base_parameters: 1_000,
        references: Vec::new(),
        determined: None,
        terms: vec![Term {
            slope: vec![1.9, 2.0, 0.9],
            curvature: vec![1.0, 0.95, 0.0, 0.95, 1.0, 0.0, 0.0, 0.0, 1.0],
        }],
    };
    let kept_of = |input: &SelectionInput| {
        let method = budget(20, Solver::Coupled);
        let selection = select(input, method, &SelectOptions::default()).unwrap();
        kept(&selection).join(" ")
    };
    assert_eq!(kept_of(&input), "b d");
    input.candidates[0].turn = 1;
    assert_eq!(kept_of(&input), "a d");
}

#[test]
fn after_the_first_turn_a_budget_is_filled_as_far_as_the_rows_determine() {
    let select_of = |input: SelectionInput, determined| {
        let input = SelectionInput {
            determined: Some(determined),
            ..input
        };
        let method = budget(210, Solver::Exact);
        select(&input, method, &SelectOptions::default()).unwrap()
    };
    let kept_of = |input, determined| kept(&select_of(input, determined)).join(" ");
    assert_eq!(kept_of(by_turns(), 1_000), "head b a c");
    // `b` and `c` have 160, with `a` 210.
    assert_eq!(kept_of(by_turns(), 210), "head b a c");
    assert_eq!(kept_of(by_turns(), 209), "head b c");
    assert_eq!(kept_of(by_turns(), 1), "head b c");

    let cut = select_of(by_turns(), 209);
    assert_eq!(cut.determined, Some(209));
    assert_eq!(reason(&cut, "a"), Reason::Undetermined);
    assert!(cut.notes[0].contains("209"), "{:?}", cut.notes);
    assert_eq!(select_of(by_turns(), 210).determined, None);
    let at_once = select_of(input(), 1);
    assert_eq!((at_once.determined, at_once.parameters), (None, 210));

    // The first turn is the first one that keeps something, whatever its number.
    let mut late = by_turns();
    late.candidates
        .iter_mut()
        .for_each(|candidate| candidate.turn += 1);
    assert_eq!(kept_of(late, 1), "head b c");
}
