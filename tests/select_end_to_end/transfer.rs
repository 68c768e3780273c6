//! A choice that was made on a small model, carried to a deeper one of its family.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use autopeft::base::BaseModel;
use autopeft::data::{self, ColumnNames, Encoded, Padding, Source, load_labelled};
use autopeft::error::{Error, Result};
use autopeft::groups::TransferError;
use autopeft::interrupt::Interrupt;
use autopeft::models::Pooling;
use autopeft::pipeline::{self, Origin, Training, Transferred};
use autopeft::progress::{Progress, Silent};
use autopeft::recipe::{Override, Recipe};
use autopeft::report::{GroupReport, SelectionReport, Stage, TransferReport};
use autopeft::task::Objective;
use autopeft::train::outputs;
use autopeft_adapters::peft::PeftConfig;
use autopeft_adapters::{Adapters, Kind};
use candle_core::{DType, Device};
use serde_json::{Value, json};

use crate::bench::{Bench, Listener, fixture, names, opened, tree};
use crate::language;

fn large(bench: &Bench) -> PathBuf {
    bench.path("large")
}

/// The recipe of the bench's result, for another model.
fn recipe(bench: &Bench, model: &Path, settings: &[&str]) -> Recipe {
    let model = format!("model={}", model.display());
    let settings = std::iter::once(model.as_str()).chain(settings.iter().copied());
    let changes: Vec<Override> = settings.map(|s| s.parse().unwrap()).collect();
    let file = bench.out().join("recipe.yaml");
    Recipe::load(file.to_str().unwrap(), &changes).unwrap()
}

/// From [`Bench::out`] to [`large`].
fn carry(
    bench: &Bench,
    model: &Path,
    training: Training,
    settings: &[&str],
) -> Result<Transferred> {
    let recipe = recipe(bench, model, settings);
    run(bench, &recipe, training, &Silent, &Interrupt::default())
}

fn run(
    bench: &Bench,
    recipe: &Recipe,
    training: Training,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Transferred> {
    let origin = Origin::read(&bench.out())?;
    pipeline::transfer(
        &origin,
        recipe,
        training,
        &large(bench),
        progress,
        interrupt,
    )
}

/// The error of a transfer that leaves nothing behind.
fn refused(bench: &Bench, model: &Path, training: Training, settings: &[&str]) -> Error {
    let before = tree(bench.root());
    let Err(error) = carry(bench, model, training, settings) else {
        panic!("{settings:?} succeeded");
    };
    assert_eq!(tree(bench.root()), before, "{settings:?}: {error}");
    assert!(error.hint().is_some(), "{error}");
    error
}

/// Kind, role, rank block (and for halves of a LoRA which) of what is kept in each layer, the head left out.
fn by_layer<'a>(
    kept: impl Iterator<Item = (&'a str, Kind, Option<usize>)>,
) -> BTreeMap<Option<usize>, BTreeSet<String>> {
    let mut found: BTreeMap<Option<usize>, BTreeSet<String>> = BTreeMap::new();
    for (name, _, layer) in kept.filter(|(_, kind, _)| *kind != Kind::Head) {
        let part = match layer {
            Some(layer) => format!("{name}/").replacen(&format!("/{layer}/"), "/", 1),
            None => name.to_string(),
        };
        found.entry(layer).or_default().insert(part);
    }
    found
}

fn chosen(report: &SelectionReport) -> BTreeMap<Option<usize>, BTreeSet<String>> {
    let kept = report.groups.iter().filter(|group| group.kept);
    by_layer(kept.map(|group| (group.name.as_str(), group.kind, group.layer)))
}

/// Fails unless each layer has what the one at its depth had in the selection.
fn assert_carried(from: &SelectionReport, to: &TransferReport, layers: &[usize]) {
    assert_eq!(to.layers, layers);
    let (from, kept) = (chosen(from), to.kept());
    let kept = by_layer(kept.map(|group| (group.name.as_str(), group.kind, group.layer)));
    assert_eq!(kept.get(&None), from.get(&None));
    for (layer, source) in layers.iter().enumerate() {
        assert_eq!(kept.get(&Some(layer)), from.get(&Some(*source)), "{layer}");
    }
}

fn texts(bench: &Bench, model: &Path) -> Encoded {
    let labels = ["negative", "neutral", "positive"].map(String::from);
    let labels = data::Labels::try_from(labels.to_vec()).unwrap();
    let file = Source::File(bench.path("validation.jsonl"));
    let rows = load_labelled(&file, &ColumnNames::default(), &labels, false).unwrap();
    data::encode(&base(model).tokenizer, &rows.rows, 16).unwrap()
}

fn base(model: &Path) -> BaseModel {
    BaseModel::open(model.to_str().unwrap(), "main", &mut |_| {}).unwrap()
}

/// Logits of a model with these modules.
fn logits(model: &Path, adapters: &Adapters, rows: &Encoded) -> Vec<Vec<f64>> {
    let base = base(model);
    let network = base.build(adapters, 3, Pooling::Default, DType::F32, &Device::Cpu);
    let network: Box<dyn Objective> = Box::new(network.unwrap());
    adapters.check_used().unwrap();
    let padding = Padding::new(Some(base.config.pad_token_id), &base.tokenizer, 16);
    outputs(&*network, rows, padding, 8, &Device::Cpu).unwrap()
}

#[test]
fn without_rows_the_adapter_has_the_choice_and_the_logits_of_the_base() {
    let bench = Bench::new();
    let from = bench.report(&["select.budget=1500"]);
    let model = bench.deeper(&fixture("bert"), 5);
    let made = carry(&bench, &model, Training::None, &[]).unwrap();
    let report = &made.report;
    assert_carried(&from, report, &[0, 0, 1, 1, 1]);
    assert!(report.kept().any(|group| group.kind == Kind::Lora));

    let common = [
        "README.md",
        "autopeft.json",
        "metrics.jsonl",
        "recipe.yaml",
        "transfer.json",
    ];
    let peft = ["adapter_config.json", "adapter_model.safetensors"];
    let expected = common.iter().chain(&peft).map(ToString::to_string);
    assert_eq!(names(&large(&bench)), expected.collect());
    let text = fs::read_to_string(large(&bench).join("transfer.json")).unwrap();
    assert_eq!(text, serde_json::to_string_pretty(report).unwrap() + "\n");
    assert!(!text.contains("influence"));

    // The head is the checkpoint's, so the logits are those of the base model to the last bit.
    let rows = texts(&bench, &model);
    let adapters = Adapters::load(&large(&bench)).unwrap();
    assert_eq!(
        logits(&model, &adapters, &rows),
        logits(&model, &Adapters::none(), &rows)
    );
    assert_eq!(made.written.difference, 0.0);
    assert!(made.written.verified_rows > 0);

    assert!(!report.is_trained());
    assert!(report.held_out.is_empty() && report.steps == 0);
    let sizes = report.kept().map(|group| group.parameters);
    assert_eq!(sizes.sum::<usize>(), report.kept_parameters);
    assert_eq!(report.origin.kept_parameters, from.kept_parameters);
    assert_eq!((report.origin.layers, report.model.layers), (2, Some(5)));
    let card = fs::read_to_string(large(&bench).join("README.md")).unwrap();
    for part in [
        "not trained",
        "is_trainable=True",
        "nothing was measured here",
        "base_model: ",
    ] {
        assert!(card.contains(part), "no `{part}` in: {card}");
    }
}

/// Ranks are the sums of the blocks that were kept, and a training by others steps as one here would.
#[test]
fn ranks_and_scale_are_those_of_the_selection() {
    let bench = Bench::new();
    let settings = ["select.budget=1500", "superset.lora.alpha=24"];
    let from = bench.report(&settings);
    let model = bench.deeper(&fixture("bert"), 6);
    carry(&bench, &model, Training::None, &[]).unwrap();
    let blocks = [1, 1, 2, 4];
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    let is_lora = |group: &&GroupReport| group.kept && group.kind == Kind::Lora;
    for group in from.groups.iter().filter(is_lora) {
        for layer in (0..6).filter(|layer| Some(layer / 3) == group.layer) {
            let module = format!("bert.encoder.layer.{layer}.{}", group.role);
            *expected.entry(module).or_default() += blocks[group.block.unwrap()];
        }
    }
    let config = PeftConfig::read(&large(&bench)).unwrap();
    let (rank, alpha) = (config.r.unwrap(), config.lora_alpha.unwrap());
    let (ranks, alphas) = (config.rank_pattern.unwrap(), config.alpha_pattern.unwrap());
    assert!(!expected.is_empty());
    for (module, wanted) in expected {
        assert_eq!(ranks.get(&module).unwrap_or(&rank), &wanted, "{module}");
        let alpha = *alphas.get(&module).unwrap_or(&alpha);
        assert_eq!(alpha, 3.0 * wanted as f64, "{module}: 24 / 8 a rank");
    }
}

#[test]
fn every_kind_and_both_halves_of_a_lora_are_carried() {
    for (model, settings, kinds) in [
        (
            "bert",
            &["superset.lora.split=true"][..],
            &[Kind::Lora, Kind::Bias, Kind::Norm][..],
        ),
        (
            "bert",
            &["probe.grouping=kind-layer"],
            &[Kind::Lora, Kind::Bias, Kind::Norm],
        ),
        (
            "roberta",
            &[
                "superset.bottleneck.enabled=true",
                "superset.lora.enabled=false",
            ],
            &[Kind::Bottleneck],
        ),
        (
            "bert-bare",
            &["superset.lora.targets=[query]"],
            &[Kind::Lora],
        ),
    ] {
        let bench = Bench::new();
        let source = format!("model={}", fixture(model).display());
        let all = ["select.method=threshold", "select.threshold=1.0", &source];
        let settings: Vec<&str> = settings.iter().copied().chain(all).collect();
        let from = bench.report(&settings);
        let deep = bench.deeper(&fixture(model), 4);
        let made = carry(&bench, &deep, Training::None, &[]).unwrap();
        assert_carried(&from, &made.report, &[0, 0, 1, 1]);
        for kind in kinds {
            assert!(
                made.report.kept().any(|group| group.kind == *kind),
                "{model} {kind}"
            );
        }
        Adapters::load(&large(&bench)).unwrap();
    }
}

#[test]
fn with_rows_it_is_trained_over_the_whole_horizon_and_the_loss_falls() {
    let bench = Bench::new();
    // Of more steps than the selection's, so that twelve held-out rows show it.
    let from = bench.report(&["select.budget=1500"]);
    let model = bench.deeper(&fixture("bert-bare"), 4);
    let settings = [
        "train.steps=120",
        "train.learning_rate=0.01",
        "select.refit=12",
    ];
    let recipe = recipe(&bench, &model, &settings);
    let listener = Listener::default();
    let whole = Training::WholeHorizon;
    let made = run(&bench, &recipe, whole, &listener, &Interrupt::default()).unwrap();
    assert_eq!(listener.stages(), ["head", "train"]);
    let report = &made.report;
    assert_carried(&from, report, &[0, 0, 1, 1]);
    assert_eq!((report.steps, report.is_trained()), (2 + 120, true));
    let stages: Vec<Stage> = report.held_out.iter().map(|value| value.stage).collect();
    assert_eq!(stages, [Stage::Untrained, Stage::Trimmed]);
    let (first, last) = (report.held_out[0].evaluation, report.held_out[1].evaluation);
    assert!(last.loss < 0.8 * first.loss, "{first:?} {last:?}");
    let adapted = opened(&large(&bench), model.to_str().unwrap());
    let file = Source::File(bench.path("validation.jsonl"));
    let labels = adapted.manifest.labels.as_ref().unwrap();
    let rows = load_labelled(&file, &ColumnNames::default(), labels, false).unwrap();
    let again = adapted.evaluate(&rows.rows).unwrap();
    assert!(
        (again.loss - last.loss).abs() < 1e-5,
        "{again:?} is not {last:?}"
    );
    let card = fs::read_to_string(large(&bench).join("README.md")).unwrap();
    assert!(
        card.contains("Held-out values") && !card.contains("is_trainable"),
        "{card}"
    );
}

#[test]
fn its_training_fits_the_height_of_its_rates_where_the_recipe_says_so() {
    let bench = Bench::new();
    bench.report(&["select.budget=1500"]);
    let model = bench.deeper(&fixture("bert-bare"), 4);
    let rates = |more: &str| {
        // A hundredth of what this model takes.
        let settings = [
            "train.steps=80",
            "train.learning_rate=1e-4",
            "select.max_learning_rate=3e-4",
            "export.force=true",
            more,
        ];
        let made = carry(&bench, &model, Training::WholeHorizon, &settings).unwrap();
        let rates = made.report.groups.iter().map(|group| group.learning_rate);
        rates.collect::<Option<Vec<f64>>>().unwrap()
    };
    for fixed in ["select.refit=0", "probe.learning_rates=fixed"] {
        assert!(rates(fixed).iter().all(|rate| *rate == 1e-4), "{fixed}");
    }
    // Not above the highest.
    let fitted = rates("select.refit=4");
    assert!(
        fitted
            .iter()
            .all(|rate| (1.5e-4..=3.0001e-4).contains(rate)),
        "{fitted:?}"
    );
}

#[test]
fn a_language_model_s_choice_is_carried_with_and_without_rows() {
    let bench = Bench::new();
    bench.file("train.jsonl", &language::rows(12, false));
    bench.file("validation.jsonl", &language::rows(6, false));
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/llama");
    let source = format!("model={}", small.display());
    let settings = [
        source.as_str(),
        "task.type=causal-lm",
        "task.max_length=64",
        "select.budget=600",
        "train.learning_rate=0.03",
    ];
    let from = bench.report(&settings);
    let model = bench.deeper(&small, 3);
    let untaught = carry(&bench, &model, Training::None, &[]).unwrap();
    assert_carried(&from, &untaught.report, &[0, 1, 1]);
    assert_eq!(untaught.report.head_parameters, 0);
    assert_eq!(untaught.written.difference, 0.0);
    let config = fs::read_to_string(large(&bench).join("adapter_config.json")).unwrap();
    assert!(config.contains("\"CAUSAL_LM\""), "{config}");

    let settings = ["export.force=true", "train.steps=40"];
    let taught = carry(&bench, &model, Training::WholeHorizon, &settings).unwrap();
    let values = &taught.report.held_out;
    assert!(
        values[1].evaluation.loss < 0.8 * values[0].evaluation.loss,
        "{values:?}"
    );
}

#[test]
fn what_is_no_selection_is_refused() {
    let bench = Bench::new();
    let error = Origin::read(&bench.out()).unwrap_err();
    assert!(error.to_string().contains("no such folder"), "{error}");
    fs::create_dir(bench.out()).unwrap();
    let error = Origin::read(&bench.out()).unwrap_err();
    assert!(
        error.to_string().contains("it has no `selection.json`"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("autopeft select"), "{error}");
}

/// Changes the report of the bench's result.
fn change(bench: &Bench, change: impl Fn(&mut Value)) {
    let file = bench.out().join("selection.json");
    let mut report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut report);
    fs::write(&file, report.to_string()).unwrap();
}

#[test]
fn a_choice_that_does_not_fit_is_refused_with_what_where_and_what_to_do() {
    let bench = Bench::new();
    bench.report(&["select.budget=1500"]);
    let model = bench.deeper(&fixture("bert"), 4);
    let transfer = |error: Error| match error {
        Error::Transfer(error) => error,
        other => panic!("{other:?}"),
    };

    let other = transfer(refused(&bench, &fixture("roberta"), Training::None, &[]));
    let text = other.to_string();
    assert!(
        text.contains("type `roberta`") && text.contains("type `bert`"),
        "{text}"
    );

    // The pattern spares the small model's layers, which have the numbers 0 and 1.
    let exclude = r#"superset.exclude=['layer\.3\.']"#;
    let lacking = transfer(refused(&bench, &model, Training::WholeHorizon, &[exclude]));
    let TransferError::Missing { missing } = &lacking else {
        panic!("{lacking:?}");
    };
    assert!(
        missing.iter().all(|name| name.contains("/3/")),
        "{missing:?}"
    );

    fs::create_dir(large(&bench)).unwrap();
    fs::write(large(&bench).join("a.txt"), "a").unwrap();
    let exists = refused(&bench, &model, Training::None, &[]);
    assert!(matches!(exists, Error::OutputForeign { .. }), "{exists:?}");
    fs::remove_dir_all(large(&bench)).unwrap();

    let language = refused(&bench, &model, Training::None, &["task.type=causal-lm"]);
    assert!(language.to_string().contains("bert"), "{language}");

    change(&bench, |report| {
        for group in report["groups"].as_array_mut().unwrap() {
            group["kept"] = json!(group["kind"] == "head");
        }
    });
    let nothing = transfer(refused(&bench, &model, Training::None, &[]));
    assert_eq!(nothing, TransferError::NothingKept);

    change(&bench, |report| report["complete"] = json!(false));
    let unfinished = transfer(refused(&bench, &model, Training::None, &[]));
    assert!(matches!(unfinished, TransferError::Unfinished { .. }));
}

#[test]
fn a_stop_in_the_training_keeps_the_log_alone() {
    let bench = Bench::new();
    bench.report(&["select.budget=1500"]);
    let model = bench.deeper(&fixture("bert"), 3);
    for (stage, step) in [("head", 1), ("train", 4)] {
        let (listener, interrupt) = Listener::stopping(stage, step);
        let recipe = recipe(&bench, &model, &[]);
        let stopped = run(
            &bench,
            &recipe,
            Training::WholeHorizon,
            &listener,
            &interrupt,
        );
        let Err(Error::Interrupted { path }) = stopped else {
            panic!("{stopped:?}");
        };
        let expected = ["metrics.jsonl", "recipe.yaml"].map(String::from);
        assert_eq!(names(&path), expected.into(), "{stage}");
        assert!(autopeft::report::is_result(&path), "{stage}");
        fs::remove_dir_all(path).unwrap();
    }
}
