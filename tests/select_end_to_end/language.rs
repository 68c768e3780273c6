//! A tiny language model from recipe to result, and the result in use.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use autopeft::data::Source;
use autopeft::data::language::{PassageNames, read_passages};
use autopeft::metrics::Scores;
use autopeft::models::checkpoint::Checkpoint;
use autopeft::models::gguf::Gguf;
use autopeft::models::{self, Inputs};
use autopeft::pipeline::GenerateOptions;
use autopeft::recipe::Recipe;
use autopeft_adapters::{Adapters, Kind, Pass};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::bench::{Bench, opened};

fn llama() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/llama");
    format!("model={}", path.display())
}

/// What follows depends on the prompt.
pub fn rows(count: usize, chat: bool) -> String {
    let row = |number: usize| {
        let (prompt, completion) = [
            ("name: Blue Spice", "Blue Spice is a pub."),
            ("area: riverside", "It is by the river."),
            ("The movie was slow", "It was dull, a mess."),
        ][number % 3];
        let row = if chat {
            json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]})
        } else {
            json!({"prompt": prompt, "completion": completion})
        };
        row.to_string() + "\n"
    };
    (0..count).map(row).collect()
}

fn bench(chat: bool) -> Bench {
    let bench = Bench::new();
    bench.file("train.jsonl", &rows(12, chat));
    bench.file("validation.jsonl", &rows(6, chat));
    bench
}

const SETTINGS: [&str; 6] = [
    "task.max_length=64",
    "train.steps=40",
    "train.learning_rate=0.03",
    "select.max_learning_rate=0.3",
    "select.budget=600",
    "superset.bias.enabled=false",
];

/// Engines that know one rank, one scale, or whole types of modules only, and nothing beside LoRA, load it.
#[test]
fn an_adapter_for_servers_is_uniform_and_computes_the_same() {
    let bench = bench(false);
    let model = llama();
    let settings: Vec<&str> = SETTINGS[..4]
        .iter()
        .copied()
        .chain([
            model.as_str(),
            "task.type=causal-lm",
            "export.target=servers",
        ])
        .collect();
    // The writer has read it back, and would have refused another result.
    let report = bench.report(&settings);
    let modules: BTreeSet<(Option<usize>, &str)> = (report.groups.iter())
        .filter(|group| group.kept)
        .map(|group| (group.layer, group.role.as_str()))
        .collect();
    assert!(report.groups.iter().all(|group| group.kind == Kind::Lora));

    let config = fs::read(bench.out().join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let rank = config["r"].as_u64().unwrap() as usize;
    assert_eq!(config["lora_alpha"].as_f64(), Some(rank as f64));
    for patterns in ["rank_pattern", "alpha_pattern"] {
        assert_eq!(config[patterns], json!({}));
    }
    assert_eq!(
        (&config["bias"], &config["modules_to_save"]),
        (&json!("none"), &json!([]))
    );
    let tensors =
        candle_core::safetensors::load(bench.out().join("adapter_model.safetensors"), &Device::Cpu)
            .unwrap();
    let targets: Vec<&str> = (config["target_modules"].as_array().unwrap().iter())
        .map(|name| name.as_str().unwrap())
        .collect();
    let mut empty = 0;
    for name in &targets {
        assert!(!name.contains('.'), "{name}");
        for layer in 0..2 {
            let part = if name.ends_with("_proj") && "qkvo".contains(&name[..1]) {
                "self_attn"
            } else {
                "mlp"
            };
            let module = format!("base_model.model.model.layers.{layer}.{part}.{name}");
            let a = &tensors[&format!("{module}.lora_A.weight")];
            let b = &tensors[&format!("{module}.lora_B.weight")];
            assert_eq!(
                (a.dim(0).unwrap(), b.dim(1).unwrap()),
                (rank, rank),
                "{module}"
            );
            let size: f32 = b.abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
            empty += usize::from(size == 0.0);
        }
    }
    assert_eq!(tensors.len(), 2 * 2 * targets.len());
    assert_eq!(empty, 2 * targets.len() - modules.len(), "{modules:?}");
    // What is filled up changes no logit of PEFT's either: tests/interop has such a case for each family.
}

/// The adapter of a quantized base is that of its checkpoint: the same names, and it computes the same there.
#[test]
fn the_result_on_a_gguf_file_fits_the_checkpoint_of_the_model() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/gguf/llama-sentencepiece-f16.gguf");
    let bench = bench(true);
    let model = format!("model={}", file.display());
    let settings = [model.as_str(), "task.type=causal-lm"].into_iter();
    let report = bench.report(&settings.chain(SETTINGS).collect::<Vec<&str>>());
    assert!(report.kept_parameters > 0);

    let gguf = Gguf::open(&file).unwrap();
    let config = gguf.config().unwrap();
    let blocks = Arc::new(Checkpoint::from_gguf(gguf).unwrap());
    let numbers: HashMap<String, Tensor> = blocks
        .names()
        .map(|name| {
            let values = blocks.tensor(name, DType::F32, &Device::Cpu).unwrap();
            (name.to_string(), values)
        })
        .collect();
    let folder = bench.path("plain");
    fs::create_dir(&folder).unwrap();
    candle_core::safetensors::save(&numbers, folder.join("model.safetensors")).unwrap();
    let plain = Arc::new(Checkpoint::open_folder(&folder).unwrap());
    let hidden = |checkpoint: &Arc<Checkpoint>, adapters: Adapters| {
        let model =
            models::load_causal(&config, checkpoint, &adapters, DType::F32, &Device::Cpu).unwrap();
        adapters.check_used().unwrap();
        let ids = Tensor::new(&[[1u32, 300, 270, 305, 280]], &Device::Cpu).unwrap();
        let states = model.hidden(&Inputs::single(&ids).unwrap(), &Pass::eval());
        states
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let adapted = |checkpoint| hidden(checkpoint, Adapters::load(&bench.out()).unwrap());
    let base = hidden(&plain, Adapters::none());
    let distance = |a: &[f32], b: &[f32]| {
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    };
    assert!(distance(&adapted(&blocks), &adapted(&plain)) < 1e-5);
    assert!(distance(&adapted(&plain), &base) > 1e-3);
}

/// Layers that are computed again change no measurement, and neither do matrices that stay in the type of their file.
#[test]
fn keeping_less_in_memory_selects_the_same() {
    let bench = bench(false);
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/llama");
    let folder = bench.path("half");
    fs::create_dir(&folder).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(name), folder.join(name)).unwrap();
    }
    let weights = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu);
    let halved = weights.unwrap().into_iter();
    let halved = halved.map(|(name, weight)| (name, weight.to_dtype(DType::BF16).unwrap()));
    let halved: HashMap<String, Tensor> = halved.collect();
    candle_core::safetensors::save(&halved, folder.join("model.safetensors")).unwrap();

    let model = format!("model={}", folder.display());
    let influence = |more: &str| {
        let settings = [
            model.as_str(),
            "task.type=causal-lm",
            "export.force=true",
            more,
        ];
        let settings = settings.into_iter().chain(SETTINGS);
        let report = bench.report(&settings.collect::<Vec<&str>>());
        let groups = report.groups.iter();
        let influence = groups.map(|group| (group.name.clone(), group.influence, group.kept));
        influence.collect::<Vec<(String, f64, bool)>>()
    };
    let plain = influence("seed=0");
    assert!(plain.len() > 10);
    assert_eq!(plain, influence("train.checkpointing=true"));
    assert_eq!(plain, influence("storage=bf16"));
    assert_ne!(plain, influence("storage=f16")); // rounds small numbers once more
}

/// What a frozen layer gives of a row is the same in each epoch, packed or not, and when the layers above are computed again.
#[test]
fn keeping_what_frozen_layers_give_selects_the_same() {
    let bench = bench(false);
    let llama = llama();
    let run = |more: &[&str]| {
        let settings = [
            llama.as_str(),
            "task.type=causal-lm",
            "export.force=true",
            "superset.exclude=[model.layers.0.*]",
        ];
        let settings = settings
            .into_iter()
            .chain(SETTINGS)
            .chain(more.iter().copied());
        let report = bench.report(&settings.collect::<Vec<&str>>());
        let groups = report.groups.iter();
        let kept = groups
            .filter(|group| group.kept)
            .map(|group| group.name.clone());
        let losses = report.held_out.iter().map(|held| held.evaluation.loss);
        (kept.collect::<Vec<String>>(), losses.collect::<Vec<f64>>())
    };
    for packing in ["task.packing=false", "task.packing=true"] {
        let (kept, losses) = run(&[packing]);
        assert!(!kept.is_empty());
        for more in ["train.checkpointing=false", "train.checkpointing=true"] {
            let (again, their_losses) = run(&[packing, more, "train.keep_frozen_layers=true"]);
            assert_eq!(again, kept, "{packing}, {more}");
            for (loss, theirs) in losses.iter().zip(&their_losses) {
                assert!(
                    (loss - theirs).abs() < 1e-3 * loss,
                    "{packing}, {more}: {loss} {theirs}"
                );
            }
        }
    }
}

/// An encoder has no such choice, and says so.
#[test]
fn an_encoder_refuses_what_only_decoders_have() {
    let bench = Bench::new();
    for setting in ["storage=bf16", "train.checkpointing=true"] {
        let error = bench.error(&[setting]);
        assert!(error.to_string().contains("language models"), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_language_model_is_selected_trained_exported_and_read_back() {
    for (task, chat, packing) in [
        ("causal-lm", false, "false"),
        ("instruction", true, "true"),
        ("instruction", false, "false"),
    ] {
        let bench = bench(chat);
        let (llama, task_setting) = (llama(), format!("task.type={task}"));
        let packing_setting = format!("task.packing={packing}");
        let settings: Vec<&str> = [
            llama.as_str(),
            task_setting.as_str(),
            packing_setting.as_str(),
        ]
        .into_iter()
        .chain(SETTINGS)
        .chain(["train.steps=80"])
        .collect();
        let report = bench.report(&settings);
        let place = format!("{task}, chat {chat}, packing {packing}");
        assert!(
            report.kept_parameters > 0 && report.kept_parameters <= 600,
            "{place}"
        );
        assert_eq!(report.head_parameters, 0, "{place}");
        let (first, last) = (
            &report.held_out[0].evaluation,
            &report.held_out.last().unwrap().evaluation,
        );
        assert!(
            last.loss < 0.6 * first.loss,
            "{place}: {} is not below {}",
            last.loss,
            first.loss
        );
        assert!(
            matches!(last.scores, Scores::Tokens { tokens, .. } if tokens > 20),
            "{place}"
        );
        let config = fs::read_to_string(bench.out().join("adapter_config.json")).unwrap();
        assert!(config.contains("\"CAUSAL_LM\""), "{config}");
        let card = fs::read_to_string(bench.out().join("README.md")).unwrap();
        assert!(
            card.contains("AutoModelForCausalLM")
                && card.contains("perplexity")
                && card.contains("| base model |"),
            "{card}"
        );

        let recipe_file = bench.out().join("recipe.yaml");
        let recipe = Recipe::load(recipe_file.to_str().unwrap(), &[]).unwrap();
        let adapted = opened(&bench.out(), &recipe.model);
        assert!(adapted.is_language());
        let file = Source::File(bench.path("validation.jsonl"));
        let (passages, ..) = read_passages(&file, &PassageNames::default(), true, false).unwrap();
        let again = adapted.evaluate_passages(&recipe, &passages).unwrap();
        assert!(
            (again.loss - last.loss).abs() < 1e-4,
            "{place}: {again:?} is not {last:?}"
        );

        let options = GenerateOptions {
            max_new_tokens: 12,
            ..GenerateOptions::default()
        };
        let mut pieces = String::new();
        let mut on_text = |piece: &str| {
            pieces.push_str(piece);
            Ok(())
        };
        let text = adapted
            .generate(&recipe, &passages[0], &options, &mut on_text)
            .unwrap();
        assert_eq!(text, pieces, "{place}");
        assert!(!text.is_empty(), "{place}");
        let (overlap, prompts) = adapted
            .score_generation(&recipe, &passages, 10, &options, &mut |_| ())
            .unwrap()
            .unwrap();
        assert_eq!(prompts, 3, "{place}");
        assert!((0.0..=100.0).contains(&overlap.bleu) && overlap.rouge.rouge1 <= 1.0);
        // Text that was learned shares words with what was to be said.
        assert!(overlap.rouge.rouge1 > 0.0, "{place}: {text:?} {overlap:?}");
    }
}

#[test]
fn rows_of_a_chat_need_a_template_and_an_assistant() {
    let bench = bench(true);
    let llama = llama();
    bench.file(
        "train.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"good\"}]}\n",
    );
    let settings = [llama.as_str(), "task.type=instruction"];
    bench.refused_early(&settings, &["row 1", "assistant"]);
    bench.file("train.jsonl", "{\"messages\": \"good\"}\n");
    bench.refused_early(&settings, &["line 1", "`messages`"]);
    bench.refused_early(
        &[&llama, "task.type=causal-lm", "export.target=adapterhub"],
        &["adapterhub"],
    );
}
