//! Recipes as a user meets them: embedded ones, faults, overrides, and what is written back.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use autopeft::recipe::{
    self, DeviceChoice, EMBEDDED, Estimator, Fault, Form, Grouping, KEYS, Override, Recipe,
    RecipeError, Solver, Target, Targets,
};
use proptest::prelude::*;
use serde_yaml::Value;

fn read(text: &str, overrides: &[&str]) -> Result<Recipe, RecipeError> {
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    Recipe::read("test.yaml", text, &overrides)
}

fn faults(text: &str, overrides: &[&str]) -> Vec<Fault> {
    match read(text, overrides) {
        Err(RecipeError::Invalid { faults, .. }) => faults,
        other => panic!("expected faults, got {other:?}"),
    }
}

/// The only fault, as a user reads it.
fn fault(text: &str, overrides: &[&str]) -> String {
    let faults = faults(text, overrides);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults[0].to_string()
}

fn leaves(value: &Value, path: &str, out: &mut Vec<String>) {
    for (name, child) in value.as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        let path = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        out.push(path.clone());
        if child.is_mapping() {
            leaves(child, &path, out);
        }
    }
}

#[test]
fn every_embedded_recipe_is_valid_and_says_how_to_run_it() {
    for embedded in EMBEDDED {
        Recipe::load(embedded.name, &[]).unwrap();
        assert!(
            embedded.text.starts_with("# "),
            "{} opens with what it is for",
            embedded.name
        );
        assert!(
            embedded.text.contains("#   autopeft select"),
            "{} has a command to run",
            embedded.name
        );
        assert!(!embedded.about.is_empty());
    }
}

#[test]
fn text_classification_is_the_defaults_with_the_meaning_of_each_key() {
    let text = recipe::text_of("text-classification").unwrap();
    assert_eq!(read(&text, &[]).unwrap(), Recipe::default());
    let body = text.find("\nmodel:").map(|at| &text[at + 1..]).unwrap();
    // To write it anew: `autopeft recipe show text-classification --resolved`, under the old head.
    assert_eq!(body, Recipe::default().resolved_yaml());
}

#[test]
fn the_table_of_keys_is_the_schema_in_its_order() {
    let mut schema = Vec::new();
    leaves(
        &serde_yaml::to_value(Recipe::default()).unwrap(),
        "",
        &mut schema,
    );
    let documented: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
    assert_eq!(documented, schema);
    for key in KEYS {
        assert!(key.meaning.len() > 3, "`{}` has a meaning", key.path);
        assert_eq!(
            recipe::default_of(key).is_none(),
            key.form == Form::Section,
            "`{}`",
            key.path
        );
    }
}

#[test]
fn every_word_of_the_table_is_accepted_by_the_schema() {
    for key in KEYS {
        for word in key.form.words() {
            let value = match key.form {
                Form::WordList(_) => format!("[{word}]"),
                _ => (*word).to_owned(),
            };
            let set = format!("{}={value}", key.path);
            if let Err(RecipeError::Invalid { faults, .. }) = read("", &[&set]) {
                assert!(
                    faults
                        .iter()
                        .all(|fault| !fault.message.starts_with("expected")),
                    "{set}: {faults:?}"
                );
            }
        }
    }
}

#[test]
fn an_empty_recipe_is_the_defaults() {
    assert_eq!(read("", &[]).unwrap(), Recipe::default());
    assert_eq!(read("# nothing\n", &[]).unwrap(), Recipe::default());
    assert_eq!(
        read("train:\n  # steps: 5\nprobe:\n", &[]).unwrap(),
        Recipe::default()
    );
}

#[test]
fn all_faults_are_reported_together_with_their_lines() {
    let text = "\
model: bert-base-uncased
task: {pooling: men}
train:
  learing_rate: 1e-3
  batch_size: many
  beta1: 1.5
select:
  budget: 0
rank: 8
";
    let found: Vec<String> = faults(text, &["probe.estimater=hvp", "seed=-1"])
        .iter()
        .map(Fault::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "line 2, `task.pooling`: expected one of `default`, `mean`, found `men`; did you mean `mean`?",
            "line 4, `train.learing_rate`: unknown key; did you mean `train.learning_rate`?",
            "line 5, `train.batch_size`: expected a whole number, not negative, found `many`",
            "line 6, `train.beta1`: must be at least 0 and less than 1",
            "line 8, `select.budget`: the budget `0` is not positive; give at least one parameter, for example `10k` or `0.1%`",
            "line 9, `rank`: unknown key; did you mean `superset.lora.rank_blocks`?",
            "`--set probe.estimater=hvp`, `probe.estimater`: unknown key; did you mean `probe.estimator`?",
            "`--set seed=-1`, `seed`: expected a whole number, not negative, found `-1`",
        ]
    );
}

#[test]
fn the_error_names_the_recipe_and_lists_the_faults() {
    let error = read("modle: x\nsede: 1\n", &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the recipe `test.yaml` has 2 faults\n  line 1, `modle`: unknown key; did you mean `model`?\n  line 2, `sede`: unknown key; did you mean `seed`?"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("autopeft recipe show --docs")
    );
}

#[test]
fn text_that_is_no_yaml_is_one_fault_with_its_line() {
    let found = faults("model: x\ntrain: {steps: 5\n", &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].line.is_some(), "{found:?}");
    assert!(fault("model: a\nmodel: b\n", &[]).contains("duplicate"));
    assert!(
        fault("- a\n- b\n", &[]).contains("expected a mapping of keys, found `[\"a\", \"b\"]`")
    );
    assert!(
        fault("train: 5", &[])
            .starts_with("line 1, `train`: expected a mapping of keys, found `5`")
    );
}

#[test]
fn anchors_and_merge_keys_work() {
    let recipe = read("train: &t {batch_size: 4}\nprobe: {every: 5}\n", &[]).unwrap();
    assert_eq!((recipe.train.batch_size, recipe.probe.every), (4, 5));
    let recipe = read(
        "superset:\n  bias: &off {enabled: false}\n  norm: {<<: *off}\n",
        &[],
    )
    .unwrap();
    assert!(!recipe.superset.norm.enabled);
}

#[test]
fn overrides_win_over_the_text_and_the_last_one_wins() {
    let recipe = read(
        "train: {batch_size: 4}",
        &["train.batch_size=8", "train.batch_size=32"],
    )
    .unwrap();
    assert_eq!(recipe.train.batch_size, 32);
}

#[test]
fn overrides_are_yaml_and_may_fill_a_whole_section() {
    let recipe = read(
        "",
        &[
            "superset.lora={rank_blocks: [2, 2], alpha: 4}",
            "superset.exclude=[layer\\.0]",
            "task.type = text-classification",
        ],
    )
    .unwrap();
    assert_eq!(recipe.superset.lora.rank_blocks, [2, 2]);
    assert_eq!(recipe.superset.lora.alpha, 4.0);
    assert!(
        recipe.superset.lora.enabled,
        "keys that are not named keep their values"
    );
    assert_eq!(recipe.superset.exclude, ["layer\\.0"]);
}

#[test]
fn a_number_is_text_where_text_is_wanted() {
    let recipe = read(
        "",
        &[
            "data.label_column=1",
            "select.budget=5000",
            "model=007",
            "data.validation=null",
        ],
    )
    .unwrap();
    assert_eq!(recipe.data.label_column.as_deref(), Some("1"));
    assert_eq!(recipe.select.budget, "5000");
    assert_eq!(recipe.model, "007");
    assert_eq!(recipe.data.validation, None);
}

#[test]
fn an_override_without_an_equals_sign_is_refused() {
    for text in ["train.steps", "=5", ""] {
        let error = text.parse::<Override>().unwrap_err();
        assert!(
            matches!(error, RecipeError::NotAnOverride { .. }),
            "{error:?}"
        );
        assert!(error.hint().is_some());
    }
}

#[test]
fn an_override_below_a_value_is_refused() {
    assert!(
        fault("", &["model.name=x"]).ends_with("unknown key; `model` is a value, not a section")
    );
}

#[test]
fn steps_and_epochs_exclude_each_other_and_the_later_layer_wins() {
    let recipe = read("", &["train.steps=500"]).unwrap();
    assert_eq!((recipe.train.steps, recipe.train.epochs), (Some(500), None));
    let recipe = read("train: {steps: 500}", &[]).unwrap();
    assert_eq!((recipe.train.steps, recipe.train.epochs), (Some(500), None));
    let recipe = read("train: {steps: 500}", &["train.epochs=2"]).unwrap();
    assert_eq!((recipe.train.steps, recipe.train.epochs), (None, Some(2.0)));
    assert!(fault("train: {steps: 500, epochs: 2}", &[]).contains("only one can count"));
    assert!(fault("train: {epochs: null}", &[]).contains("neither"));
}

#[test]
fn the_order_of_kinds_is_a_list_without_repetition() {
    let recipe = read("select: {order: [bias, lora]}\n", &["select.per_nat=null"]).unwrap();
    let order: Vec<&str> = recipe
        .select
        .order
        .iter()
        .map(|kind| kind.as_str())
        .collect();
    assert_eq!((order, recipe.select.per_nat), (vec!["bias", "lora"], None));
    assert!(
        read("", &["select.order=[]"])
            .unwrap()
            .select
            .order
            .is_empty()
    );
    for (order, message) in [
        (
            "[norm, lorra]",
            "expected a list of `lora`, `bias`, `norm`, `bottleneck`",
        ),
        ("norm", "did you mean `[norm]`?"),
        ("[norm, norm]", "must name no kind twice"),
    ] {
        let fault = fault("", &[&format!("select.order={order}")]);
        assert!(fault.contains(message), "{fault}");
    }
    assert!(fault("", &["select.per_nat=0"]).contains("greater than 0"));
}

#[test]
fn kept_outputs_and_dropout_exclude_each_other() {
    let keeps = "train.keep_frozen_layers=true";
    assert!(fault("", &[keeps, "train.dropout=0.1"]).contains("changes from pass to pass"));
    assert!(read("", &[keeps, "train.dropout=0"]).is_ok());
    assert!(read("", &["train.dropout=0.1"]).is_ok());
    assert!(fault("", &["train.dropout=1"]).contains("less than 1"));
}

#[test]
fn the_export_target_restricts_the_superset_and_never_against_the_recipe() {
    assert!(read("", &[]).unwrap().superset.bottleneck.enabled);
    let recipe = read(
        "superset: {bottleneck: {enabled: true}}",
        &["export.target=peft"],
    )
    .unwrap();
    assert!(!recipe.superset.bottleneck.enabled);
    let recipe = read("", &["export.target=adapterhub"]).unwrap();
    let superset = &recipe.superset;
    assert_eq!(
        (
            superset.lora.enabled,
            superset.bias.enabled,
            superset.norm.enabled
        ),
        (false, false, false)
    );
    assert!(superset.bottleneck.enabled);
    let recipe = read("", &["task.type=causal-lm", "export.target=servers"]).unwrap();
    let superset = &recipe.superset;
    assert!(superset.lora.enabled);
    assert!(!superset.bias.enabled && !superset.norm.enabled && !superset.bottleneck.enabled);
    let headed = fault("", &["export.target=servers"]);
    assert!(
        headed.contains("`text-classification` cannot be exported for `servers`"),
        "{headed}"
    );
    let both = "superset: {bottleneck: {enabled: true}}\nexport: {target: peft}\n";
    assert!(fault(both, &[]).starts_with("line 1, `superset.bottleneck.enabled`: the export target `peft` cannot hold bottleneck adapters"));
    assert_eq!(
        faults(
            "",
            &["export.target=peft", "superset.bottleneck.enabled=true"]
        )
        .len(),
        1
    );
}

#[test]
fn coupled_selection_gives_way_to_an_estimator_that_cannot_measure_it() {
    let recipe = read("select: {solver: coupled}", &["probe.estimator=hvp"]).unwrap();
    assert_eq!(
        (recipe.probe.estimator, recipe.select.solver),
        (Estimator::Hvp, Solver::Exact)
    );
    let full = read("select: {solver: coupled}", &["probe.estimator=full"]).unwrap();
    assert_eq!(full.select.solver, Solver::Coupled);
    assert!(
        fault("probe: {estimator: fit}\nselect: {solver: coupled}", &[])
            .contains("does not measure how groups act together")
    );
    read(
        "probe: {estimator: fit}\nselect: {solver: coupled, method: top}",
        &[],
    )
    .unwrap();
}

#[test]
fn budgets_are_counts_or_shares() {
    for good in [
        "5000", "0.3%", "100%", "41_500", "'5000'", "1e4", "10k", "1.5M",
    ] {
        read(&format!("select: {{budget: {good}}}"), &[]).unwrap();
    }
    for (bad, message) in [
        ("0", "`0` is not positive; give at least one parameter"),
        ("0%", "`0%` is not positive"),
        ("101%", "more than 100 %"),
        ("-5", "`-5` is not positive"),
        ("many", "`many` is not a budget"),
        ("x%", "`x%` is not a budget"),
        (
            "0.003",
            "not a whole number of parameters; did you mean `0.003%`?",
        ),
        (
            "[1]",
            "expected a count, or a share such as `0.3%`, found `[1]`",
        ),
    ] {
        let found = fault(&format!("select: {{budget: {bad}}}"), &[]);
        assert!(found.contains(message), "{bad}: {found}");
    }
}

#[test]
fn patterns_must_be_regular_expressions() {
    assert!(fault("superset: {exclude: ['*.query']}", &[]).contains("write `.*`, not `*`"));
    assert!(fault("probe: {grouping: ['(']}", &[]).contains("no regular expression"));
    assert!(fault("superset: {lora: {targets: []}}", &[]).contains("the list is empty"));
    let recipe = read(
        "probe: {grouping: [query, value]}\nsuperset: {lora: {targets: [query]}}",
        &[],
    )
    .unwrap();
    assert_eq!(
        recipe.probe.grouping,
        Grouping::Patterns(vec!["query".into(), "value".into()])
    );
    assert_eq!(
        recipe.superset.lora.targets,
        Targets::Patterns(vec!["query".into()])
    );
    assert!(fault("probe: {grouping: kind-leyer}", &[]).ends_with("did you mean `kind-layer`?"));
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let none = "superset: {lora: {enabled: false}, bias: {enabled: false}, norm: {enabled: false}, bottleneck: {enabled: false}}";
    assert!(fault(none, &[]).contains("no kind is enabled"));
    assert!(
        fault("device: cpu\ndtype: bf16", &[])
            .starts_with("line 2, `dtype`: `bf16` is not supported on the CPU")
    );
    assert!(fault("probe: {steps: 8, burn_in: 0.9}", &[]).contains("no measurement fits"));
    assert!(fault("", &["train.steps=20"]).contains("leave none after the probe's 24"));
    read("select: {steps: 50}", &["train.steps=20"]).unwrap();
}

#[test]
fn devices_are_named_as_the_flag_names_them() {
    for (text, device) in [
        ("cuda", DeviceChoice::Cuda(0)),
        ("cuda:3", DeviceChoice::Cuda(3)),
        ("metal", DeviceChoice::Metal),
    ] {
        assert_eq!(
            read(&format!("device: {text}"), &[]).unwrap().device,
            device
        );
    }
    assert!(fault("device: gpu", &[]).contains("found `gpu`"));
    assert!(fault("device: cuda:x", &[]).contains("`cuda:N`"));
}

#[test]
fn the_horizon_counts_steps_or_epochs() {
    let recipe = read(
        "train: {epochs: 2, batch_size: 10, accumulate: 2}\nprobe: {steps: 30}",
        &[],
    )
    .unwrap();
    assert_eq!(recipe.total_steps(1001), 102);
    assert_eq!(recipe.horizon(1001).after, 72);
    assert_eq!(
        recipe.horizon(20).after,
        30,
        "a tiny set still trains after the selection"
    );
    let recipe = read("train: {steps: 130}", &["select.steps=7"]).unwrap();
    assert_eq!(recipe.horizon(1).after, 7);
    assert_eq!(
        read("train: {steps: 130}", &[]).unwrap().horizon(1).after,
        106
    );
}

#[test]
fn a_missing_recipe_is_named_with_the_nearest() {
    let error = Recipe::load("quikstart", &[]).unwrap_err();
    assert!(
        matches!(
            error,
            RecipeError::NotFound {
                nearest: Some("quickstart"),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("did you mean `quickstart`?"));
}

#[test]
fn the_resolved_recipe_reads_back_as_itself() {
    for overrides in [
        &[
            "model=a: b # c",
            "data.text_column='null'",
            "superset.exclude=['a,b', '\\d]', 'é\"']",
            "select.budget=5000",
        ][..],
        &[
            "export.target=adapterhub",
            "train.steps=700",
            "probe.grouping=[a, b]",
        ],
        &[
            "probe.estimator=fit",
            "device=cuda:1",
            "dtype=bf16",
            "train.epochs=0.5",
            "model=\"two\\nlines\"",
        ],
    ] {
        let recipe = read("", overrides).unwrap();
        assert_eq!(
            read(&recipe.resolved_yaml(), &[]).unwrap(),
            recipe,
            "{}",
            recipe.resolved_yaml()
        );
    }
    assert_eq!(
        read(&Recipe::default().resolved_yaml(), &["export.target=peft"])
            .unwrap()
            .export
            .target,
        Target::Peft
    );
}

#[test]
fn every_key_of_the_resolved_recipe_has_its_meaning_beside_it() {
    let text = read(
        "",
        &["model=/a/very/long/path/that/reaches/beyond/the/column/of/comments"],
    )
    .unwrap()
    .resolved_yaml();
    for line in text.lines().filter(|line| !line.is_empty()) {
        assert!(line.contains('#'), "{line}");
        assert!(line.chars().count() <= 140, "{line}");
    }
}

proptest! {
    #[test]
    fn any_text_survives_writing_and_reading(text in "[ -~äß…]{1,24}", seed: u64, rate in 1e-12f64..1e3) {
        prop_assume!(!text.trim().is_empty());
        let mut recipe = Recipe { model: text.clone(), ..Recipe::default() };
        recipe.data.pair_column = Some(text.clone());
        recipe.superset.exclude = vec![regex::escape(&text)];
        recipe.seed = seed;
        recipe.train.learning_rate = rate;
        prop_assert_eq!(read(&recipe.resolved_yaml(), &[]).unwrap(), recipe);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z:{}\\[\\]&*!|>%@#,.'\"\n -]{0,80}") {
        let _ = read(&text, &[]);
    }
}
