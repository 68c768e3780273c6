//! A result merged into its base model, read as a model of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use autopeft::base::BaseModel;
use autopeft::data::{self, ColumnNames, Padding, Source, load_labelled};
use autopeft::error::{Error, Result};
use autopeft::export::{MergedOptions, largest_difference, write_merged};
use autopeft::interrupt::Interrupt;
use autopeft::models::Pooling;
use autopeft::pipeline::{self, Adapted, MergeOptions, MergedModel};
use autopeft::recipe::TaskKind;
use autopeft::train::outputs;
use autopeft_adapters::Adapters;
use candle_core::{DType, Device};
use serde_json::Value;

use crate::bench::{Bench, fixture, names, opened, tree};

/// Nothing is dropped, so that every kind that can be merged is.
const EVERYTHING: [&str; 2] = ["select.method=threshold", "select.threshold=1"];

const AS_STORED: MergeOptions = MergeOptions {
    dtype: None,
    force: false,
};

fn base(model: &Path) -> BaseModel {
    BaseModel::open(&model.to_string_lossy(), "main", &mut |_| {}).unwrap()
}

/// A run over a fixture with these settings.
fn trained(model: &Path, settings: &[&str]) -> Bench {
    let bench = Bench::new();
    let model = format!("model={}", model.display());
    let settings: Vec<&str> = std::iter::once(model.as_str())
        .chain(settings.iter().copied())
        .collect();
    bench.report(&settings);
    bench
}

fn merged_folder(bench: &Bench) -> PathBuf {
    bench.path("merged")
}

fn merge(bench: &Bench, model: &Path, options: MergeOptions) -> Result<MergedModel> {
    let (out, stop) = (merged_folder(bench), Interrupt::default());
    pipeline::merge(&bench.out(), base(model), &out, options, &stop)
}

/// Logits of the held-out rows by a model without any adapter.
fn plain_logits(base: &BaseModel, bench: &Bench, adapted: &Adapted) -> Vec<Vec<f64>> {
    let model = base
        .build(
            &Adapters::none(),
            adapted.manifest.label_names().len(),
            Pooling::Default,
            DType::F32,
            &Device::Cpu,
        )
        .unwrap();
    let rows = held_out(bench, adapted);
    let most = adapted.manifest.max_length;
    let encoded = data::encode(&base.tokenizer, &rows, most).unwrap();
    let padding = Padding::new(Some(base.config.pad_token_id), &base.tokenizer, most);
    outputs(&model, &encoded, padding, 5, &Device::Cpu).unwrap()
}

fn held_out(bench: &Bench, adapted: &Adapted) -> Vec<data::Example> {
    let file = Source::File(bench.path("validation.jsonl"));
    let labels = adapted.manifest.labels.as_ref().unwrap();
    load_labelled(&file, &ColumnNames::default(), labels, false)
        .unwrap()
        .rows
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_merged_classifier_is_the_base_model_with_the_adapter() {
    let classes = [
        ("bert", "BertForSequenceClassification", "bert."),
        ("bert-bare", "BertForSequenceClassification", "bert."),
        (
            "bert-bare-no-pooler",
            "BertForSequenceClassification",
            "bert.",
        ),
        (
            "bert-legacy-names",
            "BertForSequenceClassification",
            "bert.",
        ),
        ("bert-sharded", "BertForSequenceClassification", "bert."),
        ("roberta", "RobertaForSequenceClassification", "roberta."),
        (
            "roberta-masked-lm",
            "RobertaForSequenceClassification",
            "roberta.",
        ),
        (
            "xlm-roberta",
            "XLMRobertaForSequenceClassification",
            "roberta.",
        ),
        (
            "camembert",
            "CamembertForSequenceClassification",
            "roberta.",
        ),
        (
            "distilbert-bare",
            "DistilBertForSequenceClassification",
            "distilbert.",
        ),
        ("llama", "LlamaForSequenceClassification", "model."),
        ("mistral", "MistralForSequenceClassification", "model."),
        ("qwen2", "Qwen2ForSequenceClassification", "model."),
        ("qwen3", "Qwen3ForSequenceClassification", "model."),
        ("smollm3", "SmolLM3ForSequenceClassification", "model."),
        ("phi3", "Phi3ForSequenceClassification", "model."),
        ("gemma2", "Gemma2ForSequenceClassification", "model."),
        ("gemma3", "Gemma3TextForSequenceClassification", "model."),
        ("gpt2", "GPT2ForSequenceClassification", "transformer."),
        ("gpt-neox", "GPTNeoXForSequenceClassification", "gpt_neox."),
    ];
    for (model, class, prefix) in classes {
        let source = fixture(model);
        let bench = trained(&source, &EVERYTHING);
        let written = merge(&bench, &source, AS_STORED).unwrap();
        assert!(
            written.low_rank > 0 && written.own > 2,
            "{model}: {written:?}"
        );
        assert_eq!(written.class, class);

        let (adapted, folder) = (
            opened(&bench.out(), &source.to_string_lossy()),
            merged_folder(&bench),
        );
        let merged = base(&folder);
        let expected = adapted.outputs(&held_out(&bench, &adapted)).unwrap();
        let difference = largest_difference(&expected, &plain_logits(&merged, &bench, &adapted));
        assert!(
            difference < 1e-5,
            "{model}: logits differ by {difference:e}"
        );

        let file: BTreeSet<&str> = merged.checkpoint().names().collect();
        for name in &file {
            let is_head = ["classifier.", "score.", "pre_classifier."]
                .iter()
                .any(|head| name.starts_with(head));
            assert!(is_head || name.starts_with(prefix), "{model}: {name}");
            assert!(
                !name.ends_with(".gamma") && !name.ends_with(".beta"),
                "{model}: {name}"
            );
        }
        let config = config(&folder);
        assert_eq!(config["architectures"], serde_json::json!([class]));
        assert_eq!(config["id2label"]["2"], "positive");
        assert_eq!(config["label2id"]["negative"], 0);
        assert_eq!(config["torch_dtype"], "float32");
        assert!(names(&folder).contains("tokenizer.json"), "{model}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |name: &str| {
                fs::metadata(folder.join(name))
                    .unwrap()
                    .permissions()
                    .mode()
            };
            assert_eq!(mode("model.safetensors"), mode("config.json"), "{model}");
        }
        let card = fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(
            card.contains("AutoModelForSequenceClassification"),
            "{card}"
        );
    }
}

/// Without one, a class of `transformers` takes the last token of a row, padding or not; with token 0 it would miss a text's own.
#[test]
fn a_decoder_without_a_padding_token_gets_the_tokenizer_s_or_the_end_but_never_token_0() {
    let edit = |path: &Path, change: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    };
    // Whether the tokenizer names a padding token, and whether it puts the end, which is token 2, behind each text.
    for (names_padding, puts_end, expected) in [
        (true, true, Some(1)),
        (false, false, Some(2)),
        (false, true, None),
    ] {
        let copies = Bench::new();
        let model = copies.copy_of("gpt2");
        edit(&model.join("config.json"), &|config| {
            config.as_object_mut().unwrap().remove("pad_token_id");
        });
        if !names_padding {
            edit(&model.join("tokenizer_config.json"), &|config| {
                config.as_object_mut().unwrap().remove("pad_token");
            });
        }
        if !puts_end {
            edit(&model.join("tokenizer.json"), &|tokenizer| {
                tokenizer["post_processor"] = Value::Null;
            });
        }
        let bench = trained(&model, &EVERYTHING);
        merge(&bench, &model, AS_STORED).unwrap();
        let folder = merged_folder(&bench);
        let written = config(&folder).get("pad_token_id").cloned();
        assert_eq!(written, expected.map(Value::from));
        let adapted = opened(&bench.out(), &model.to_string_lossy());
        let expected = adapted.outputs(&held_out(&bench, &adapted)).unwrap();
        let difference =
            largest_difference(&expected, &plain_logits(&base(&folder), &bench, &adapted));
        assert!(difference < 1e-5, "{written:?}: {difference:e}");
    }
}

#[test]
fn the_number_type_is_that_of_the_base_model_unless_another_is_asked_for() {
    let (single, half) = (fixture("bert"), fixture("bert-bf16"));
    for (model, asked, expected, torch, exact) in [
        (&half, None, DType::BF16, "bfloat16", false),
        (&half, Some(DType::F32), DType::F32, "float32", true),
        (&single, Some(DType::F16), DType::F16, "float16", false),
    ] {
        let bench = trained(model, &EVERYTHING);
        let options = MergeOptions {
            dtype: asked,
            force: false,
        };
        let written = merge(&bench, model, options).unwrap();
        let merged = base(&merged_folder(&bench));
        let checkpoint = merged.checkpoint();
        assert!(
            checkpoint
                .names()
                .all(|name| checkpoint.dtype(name) == Some(expected))
        );
        assert_eq!(config(&merged_folder(&bench))["torch_dtype"], torch);
        // Rounding to 8 or 11 binary digits shows in the logits, and is told.
        assert_eq!(written.difference < 1e-5, exact, "{written:?}");
        assert!(written.difference < 0.1, "{written:?}");
    }
}

#[test]
fn weights_beyond_the_limit_of_a_file_go_into_several_with_an_index() {
    let source = fixture("bert");
    let bench = trained(&source, &EVERYTHING);
    let base_model = base(&source);
    let json = base_model.config_json().unwrap();
    let adapted = Adapted::open(&bench.out(), base_model, 5, Device::Cpu, DType::F32).unwrap();
    let base_model = base(&source);
    base_model
        .build(
            &Adapters::none(),
            3,
            Pooling::Default,
            DType::F32,
            &Device::Cpu,
        )
        .unwrap();
    let folder = merged_folder(&bench);
    fs::create_dir(&folder).unwrap();
    let options = MergedOptions {
        config: &base_model.config,
        config_json: &json,
        task: TaskKind::TextClassification,
        labels: adapted.manifest.label_names(),
        pad_token_id: base_model.padding_token(),
        dtype: DType::F32,
        shard_bytes: 8 << 10,
    };
    let write = |interrupt: &Interrupt| {
        write_merged(
            &folder,
            base_model.checkpoint(),
            &bench.out(),
            &options,
            interrupt,
        )
    };
    let files = write(&Interrupt::default()).unwrap();
    assert!(files.weights.len() > 2, "{files:?}");
    let expected: BTreeSet<String> = ["config.json", "model.safetensors.index.json"]
        .into_iter()
        .map(str::to_owned)
        .chain(files.weights.iter().cloned())
        .collect();
    assert_eq!(names(&folder), expected);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(name), folder.join(name)).unwrap();
    }
    let logits = adapted.outputs(&held_out(&bench, &adapted)).unwrap();
    let difference = largest_difference(&logits, &plain_logits(&base(&folder), &bench, &adapted));
    assert!(difference < 1e-5, "{difference:e}");

    let stop = Interrupt::default();
    stop.raise();
    assert!(matches!(write(&stop), Err(Error::Stopped)));
}

#[test]
fn a_merged_language_model_has_no_head_and_says_the_same() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language/llama");
    let bench = Bench::new();
    let rows = crate::language::rows(12, false);
    bench.file("train.jsonl", &rows);
    bench.file("validation.jsonl", &rows);
    let model = format!("model={}", source.display());
    bench.report(&[
        &model,
        "task.type=causal-lm",
        "task.max_length=64",
        EVERYTHING[0],
        EVERYTHING[1],
    ]);
    let written = merge(&bench, &source, AS_STORED).unwrap();
    assert_eq!(written.class, "LlamaForCausalLM");
    let folder = merged_folder(&bench);
    let config = config(&folder);
    assert_eq!(
        config["architectures"],
        serde_json::json!(["LlamaForCausalLM"])
    );
    assert!(config.get("problem_type").is_none());
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        assert!(names(&folder).contains(name), "{name}");
    }
    // A merged model is a base model: the tokens that follow are those of the adapter.
    let merged = base(&folder);
    let model = merged
        .build_causal(&Adapters::none(), DType::F32, &Device::Cpu)
        .unwrap();
    let tokens = [1u32, 5, 9, 12];
    let mut cache = model.cache();
    let next: Vec<f32> = model
        .advance(&tokens, &mut cache)
        .unwrap()
        .to_vec1()
        .unwrap();
    let with_adapter = base(&source).build_causal(
        &Adapters::load(&bench.out()).unwrap(),
        DType::F32,
        &Device::Cpu,
    );
    let with_adapter = with_adapter.unwrap();
    let mut cache = with_adapter.cache();
    let expected: Vec<f32> = with_adapter
        .advance(&tokens, &mut cache)
        .unwrap()
        .to_vec1()
        .unwrap();
    let largest = next
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(largest < 1e-5, "{largest:e}");
}

#[test]
fn what_cannot_be_merged_is_refused_and_nothing_is_written() {
    let source = fixture("bert");
    let refused = |bench: &Bench, parts: &[&str]| {
        let before = tree(bench.root());
        let error = merge(bench, &source, AS_STORED).unwrap_err();
        let text = format!("{error}\n{}", error.hint().unwrap());
        for part in parts {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
        assert_eq!(tree(bench.root()), before, "{text}");
    };
    let settings = [&EVERYTHING[..], &["superset.bottleneck.enabled=true"]].concat();
    refused(
        &trained(&source, &settings),
        &["bottleneck", "cannot be merged"],
    );
    let settings = [&EVERYTHING[..], &["task.pooling=mean"]].concat();
    refused(
        &trained(&source, &settings),
        &["mean over the tokens", "task.pooling=default"],
    );

    let bench = trained(&source, &EVERYTHING);
    let before = tree(bench.root());
    for out in [bench.out(), source.clone()] {
        let force = MergeOptions {
            force: true,
            ..AS_STORED
        };
        let stop = Interrupt::default();
        let error = pipeline::merge(&bench.out(), base(&source), &out, force, &stop).unwrap_err();
        assert!(matches!(error, Error::OutputIsInput { .. }), "{error:?}");
    }
    assert_eq!(tree(bench.root()), before);
    assert!(source.join("model.safetensors").is_file());
    fs::create_dir(merged_folder(&bench)).unwrap();
    fs::write(merged_folder(&bench).join("mine.txt"), "mine").unwrap();
    refused(&bench, &["merged", "no result of autopeft"]);
    fs::remove_file(merged_folder(&bench).join("mine.txt")).unwrap();
    merge(&bench, &source, AS_STORED).unwrap();
    // A merged model is known as one, and may be replaced.
    fs::write(merged_folder(&bench).join("mine.txt"), "mine").unwrap();
    refused(&bench, &["merged", "--force"]);
    let force = MergeOptions {
        force: true,
        ..AS_STORED
    };
    merge(&bench, &source, force).unwrap();
    assert!(!names(&merged_folder(&bench)).contains("mine.txt"));
}

#[test]
fn a_gguf_file_is_no_base_to_merge_into() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/qwen2-q4_0.gguf");
    let bench = Bench::new();
    let rows = crate::language::rows(12, false);
    bench.file("train.jsonl", &rows);
    bench.file("validation.jsonl", &rows);
    let model = format!("model={}", file.display());
    bench.report(&[&model, "task.type=causal-lm", "task.max_length=32"]);
    let error = merge(&bench, &file, AS_STORED).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(
        error.to_string().contains("GGUF") && hint.contains("--model"),
        "{error}: {hint}"
    );
}
