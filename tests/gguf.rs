//! A language model in a GGUF file computes what `transformers` computes with the numbers that the file's blocks stand for, and
//! gives the same token numbers.

#[allow(dead_code, reason = "other tests use the rest")]
mod golden;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use autopeft::base::BaseModel;
use autopeft::models::checkpoint::{Checkpoint, CheckpointError};
use autopeft::models::gguf::Gguf;
use autopeft::models::{self, Inputs};
use autopeft_adapters::{Adapters, LoraPlan, LoraTargets, Pass, Superset};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use golden::{assert_close, device};

const TOLERANCE: f64 = 1e-4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the fixtures");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| Gguf::is_name(path))
        .collect();
    files.sort();
    assert_eq!(files.len(), 11);
    files
}

fn open(path: &Path) -> BaseModel {
    BaseModel::open(&path.display().to_string(), "main", &mut |_| {})
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn logits(model: &dyn models::CausalLm, inputs: &Inputs) -> Tensor {
    let hidden = model.hidden(inputs, &Pass::eval()).expect("hidden states");
    let (batch, length, _) = hidden.dims3().expect("three dimensions");
    let logits = model
        .unembed(&hidden.flatten(0, 1).expect("rows"))
        .expect("logits");
    let mask = inputs.attention_mask.to_dtype(DType::F32).expect("a mask");
    let mask = mask.reshape((batch, length, 1)).expect("a mask");
    logits
        .reshape((batch, length, ()))
        .and_then(|logits| logits.broadcast_mul(&mask))
        .expect("logits")
}

#[test]
fn every_architecture_has_the_logits_of_its_blocks() {
    for path in files() {
        let base = open(&path);
        let expected = candle_core::safetensors::load(path.with_extension("safetensors"), device())
            .expect("expected values");
        let ids = expected["input_ids"].to_dtype(DType::U32).expect("ids");
        let mask = expected["attention_mask"]
            .to_dtype(DType::U32)
            .expect("a mask");
        let inputs = Inputs {
            token_type_ids: ids.zeros_like().expect("zeros"),
            input_ids: ids,
            attention_mask: mask,
            segments: None,
        };
        let model = base
            .build_causal(&Adapters::none(), DType::F32, device())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let got = logits(&*model, &inputs);
        let what = path.display().to_string();
        assert_close(&got, &expected["logits"], TOLERANCE, TOLERANCE, &what);
    }
}

#[test]
fn the_vocabulary_of_a_file_gives_the_tokens_of_its_tokenizer() {
    let json = std::fs::read_to_string(folder().join("tokens.json")).expect("tokens");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let texts: Vec<String> = serde_json::from_value(json["texts"].clone()).expect("texts");
    let ids: BTreeMap<String, Vec<Vec<u32>>> =
        serde_json::from_value(json["ids"].clone()).expect("token numbers");
    for path in files() {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let tokenizer = open(&path).tokenizer;
        for (text, expected) in texts.iter().zip(&ids[&name]) {
            let got = tokenizer.encode(text.as_str(), true).expect("tokens");
            assert_eq!(got.get_ids(), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_text_comes_back_from_its_tokens() {
    for path in files() {
        let tokenizer = open(&path).tokenizer;
        let text = "the movie was not bad";
        let tokens = tokenizer.encode(text, true).expect("tokens");
        let back = tokenizer.decode(tokens.get_ids(), true).expect("a text");
        assert_eq!(back, text, "{}", path.display());
    }
}

#[test]
fn a_file_knows_its_special_tokens_and_its_chat_template() {
    let base = open(&folder().join("llama-q4_1.gguf"));
    assert_eq!(base.text.special.get("eos_token"), Some("</s>"));
    assert_eq!(
        (base.text.end, base.text.stops.as_slice()),
        (Some(2), &[2][..])
    );
    let template = base.text.template.expect("a template");
    let chat = autopeft::chat::Conversation::turns(&[("user", "hi")]);
    assert_eq!(
        template.render(&chat, false).expect("a text"),
        "user: hi</s>"
    );
}

#[test]
fn a_tokenizer_beside_the_file_goes_before_its_vocabulary() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("model.gguf");
    std::fs::copy(folder().join("gpt2-q8_0.gguf"), &file).expect("a copy");
    let other = folder()
        .with_file_name("models")
        .join("bert/tokenizer.json");
    std::fs::copy(other, dir.path().join("tokenizer.json")).expect("a copy");
    let by_folder = open(dir.path());
    assert!(by_folder.tokenizer.token_to_id("[CLS]").is_some());
    std::fs::copy(&file, dir.path().join("second.gguf")).expect("a copy");
    let error = BaseModel::open(&dir.path().display().to_string(), "main", &mut |_| {})
        .expect_err("two files");
    assert!(error.to_string().contains("2 GGUF files"), "{error}");
}

/// Adapters on a model in blocks: same places, same names as on the model of numbers, and gradients as if the blocks were numbers.
#[test]
fn adapters_on_blocks_have_the_gradients_of_adapters_on_numbers() {
    for name in ["llama-q4_1", "gpt2-q8_0"] {
        let path = folder().join(format!("{name}.gguf"));
        let gguf = Gguf::open(&path).expect("a file");
        let config = gguf.config().expect("a configuration");
        let blocks = Arc::new(Checkpoint::from_gguf(gguf).expect("a checkpoint"));
        let numbers: HashMap<String, Tensor> = blocks
            .names()
            .map(|name| {
                let values = blocks.tensor(name, DType::F32, device()).expect("values");
                (name.to_string(), values)
            })
            .collect();
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("model.safetensors");
        candle_core::safetensors::save(&numbers, &file).expect("a file");
        let plain = Arc::new(Checkpoint::open_folder(dir.path()).expect("a checkpoint"));
        let gradients = |checkpoint: &Arc<Checkpoint>| {
            let adapters = Adapters::superset(superset(), 3);
            let model = models::load_causal(&config, checkpoint, &adapters, DType::F32, device())
                .expect("a model");
            let ids = Tensor::new(&[[5u32, 9, 20, 7, 30]], device()).expect("ids");
            let pass = Pass::train(1);
            let hidden = model
                .hidden(&Inputs::single(&ids).expect("inputs"), &pass)
                .expect("states");
            let loss = hidden.sqr().and_then(|x| x.mean_all()).expect("a loss");
            let gradients = pass.backward(&loss).expect("gradients");
            let parameters = adapters.parameters();
            parameters
                .iter()
                .map(|parameter| {
                    let gradient = gradients
                        .get(parameter.index())
                        .expect("a gradient")
                        .clone();
                    (parameter.name(), gradient)
                })
                .collect::<Vec<(String, Tensor)>>()
        };
        let (got, expected) = (gradients(&blocks), gradients(&plain));
        assert!(got.len() > 10);
        for ((name, got), (other, expected)) in got.iter().zip(&expected) {
            assert_eq!(name, other);
            assert_close(got, expected, 1e-5, 1e-4, name);
        }
    }
}

fn superset() -> Superset {
    Superset {
        lora: Some(LoraPlan {
            rank_blocks: vec![2],
            scale: 1.0,
            dropout: 0.0,
        }),
        lora_targets: LoraTargets::AllLinear,
        bias: true,
        inert_bias: true,
        norm: true,
        bottleneck: None,
        base: false,
        exclude: Vec::new(),
    }
}

/// A file with one matrix in blocks, as an embedding of a model without layers' tensors.
fn write(path: &Path, dtype: GgmlDType, values: &Tensor, changes: &[(&str, Value)]) {
    let matrix = QTensor::quantize(values, dtype).expect("blocks");
    let mut metadata: BTreeMap<&str, Value> = BTreeMap::from([
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(8)),
        ("llama.embedding_length", Value::U32(256)),
        ("llama.feed_forward_length", Value::U32(256)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ]);
    metadata.extend(changes.iter().map(|(key, value)| (*key, value.clone())));
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let mut file = std::fs::File::create(path).expect("a file");
    gguf_file::write(&mut file, &metadata, &[("token_embd.weight", &matrix)]).expect("written");
}

#[test]
fn every_kind_of_block_is_read_as_the_numbers_it_stands_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let values: Vec<f32> = (0..6 * 256).map(|i| (i as f32 * 0.37).sin()).collect();
    let values = Tensor::from_vec(values, (6, 256), device()).expect("values");
    for (dtype, error) in [
        (GgmlDType::F32, 0.0),
        (GgmlDType::F16, 1e-3),
        (GgmlDType::BF16, 1e-2),
        (GgmlDType::Q8_0, 1e-2),
        (GgmlDType::Q6K, 5e-2),
        (GgmlDType::Q5_0, 0.1),
        (GgmlDType::Q5_1, 0.1),
        (GgmlDType::Q5K, 0.1),
        (GgmlDType::Q4_0, 0.2),
        (GgmlDType::Q4_1, 0.2),
        (GgmlDType::Q4K, 0.2),
    ] {
        let path = dir.path().join("one.gguf");
        write(&path, dtype, &values, &[]);
        let name = "model.embed_tokens.weight";
        let checkpoint =
            Checkpoint::from_gguf(Gguf::open(&path).expect("a file")).expect("a checkpoint");
        let read = checkpoint
            .tensor(name, DType::F32, device())
            .expect("values");
        assert_close(&read, &values, 0.0, error, &format!("{dtype:?}"));
        let matrix = checkpoint
            .matrix(name, (6, 256), device())
            .expect("a matrix");
        let matrix = matrix.expect("blocks");
        let wide = matrix.widen(DType::F32).expect("values");
        assert_close(&wide, &read, 0.0, 0.0, &format!("{dtype:?}"));
        let ids = Tensor::new(&[4u32, 0, 4], device()).expect("ids");
        let rows = matrix.rows(&ids, DType::F32).expect("rows");
        let expected = read.index_select(&ids, 0).expect("rows");
        assert_close(&rows, &expected, 0.0, 0.0, &format!("rows of {dtype:?}"));
    }
}

/// As in Phi-4-mini, where 96 of the 128 features of a head are turned, with a divisor for each of their 48 frequencies.
#[test]
fn a_phi3_file_may_turn_a_part_of_each_head() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("partial.gguf");
    let string = |word: &str| Value::String(word.into());
    let metadata = [
        ("general.architecture", string("phi3")),
        ("phi3.block_count", Value::U32(1)),
        ("phi3.context_length", Value::U32(64)),
        ("phi3.embedding_length", Value::U32(256)),
        ("phi3.feed_forward_length", Value::U32(256)),
        ("phi3.attention.head_count", Value::U32(2)),
        ("phi3.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("phi3.rope.dimension_count", Value::U32(96)),
        ("phi3.rope.scaling.original_context_length", Value::U32(16)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let plain = |shape: &[usize]| {
        let ones = Tensor::ones(shape, DType::F32, device()).expect("values");
        QTensor::quantize(&ones, GgmlDType::F32).expect("blocks")
    };
    let (table, factors) = (plain(&[6, 256]), plain(&[48]));
    let mut file = std::fs::File::create(&path).expect("a file");
    let tensors = [
        ("token_embd.weight", &table),
        ("rope_factors_short.weight", &factors),
        ("rope_factors_long.weight", &factors),
    ];
    gguf_file::write(&mut file, &metadata, &tensors).expect("written");
    let config = Gguf::open(&path).expect("a file").config();
    let decoder = config.expect("sizes").decoder.expect("a language model");
    assert_eq!((decoder.head_dim, decoder.ropes[0].dim), (128, 96));
}

#[test]
fn bad_files_are_told_by_name_and_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("bad.gguf");
    let values = Tensor::ones((6, 256), DType::F32, device()).expect("values");
    let missing = BaseModel::open("nowhere.gguf", "main", &mut |_| {}).expect_err("no file");
    assert!(
        missing.to_string().contains("no such folder or file"),
        "{missing}"
    );
    let reason = |error: CheckpointError| {
        let text = error.to_string();
        assert!(
            text.contains("bad.gguf") && error.hint().is_some(),
            "{text}"
        );
        text
    };
    let open = |path: &Path| reason(Gguf::open(path).expect_err("a bad file"));

    std::fs::write(&path, b"GGUF").expect("a file");
    open(&path);
    std::fs::write(&path, b"PK\x03\x04 and more bytes than a header has").expect("a file");
    assert!(open(&path).contains("magic"));
    let architecture = |word: &str| [("general.architecture", Value::String(word.into()))];
    write(&path, GgmlDType::F32, &values, &architecture("mamba"));
    let text = open(&path);
    assert!(text.contains("`mamba`") && text.contains("qwen2"), "{text}");

    let text = |key: &str, value: Value| {
        write(&path, GgmlDType::F32, &values, &[(key, value)]);
        let gguf = Gguf::open(&path).expect("a file");
        gguf.config().expect_err("no configuration").to_string()
    };
    assert!(text("llama.block_count", Value::String("two".into())).contains("not a count"));
    assert!(text("llama.expert_count", Value::U32(8)).contains("experts"));
    let counts = Value::Array(vec![Value::U32(4), Value::U32(2)]);
    assert!(text("llama.feed_forward_length", counts).contains("layer to layer"));

    write(&path, GgmlDType::F32, &values, &[]);
    let gguf = Gguf::open(&path).expect("a file");
    let error = gguf.tokenizer().expect_err("no vocabulary");
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("tokenizer.json"))
    );
    assert!(reason(error).contains("tokenizer.ggml.model"));
    let config = gguf.config().expect("sizes");
    let checkpoint = Arc::new(Checkpoint::from_gguf(gguf).expect("a checkpoint"));
    let error = models::load_causal(
        &config,
        &checkpoint,
        &Adapters::none(),
        DType::F32,
        device(),
    )
    .expect_err("no layers");
    assert!(error.to_string().contains("model.layers.0."), "{error}");

    let text = [
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        (
            "tokenizer.ggml.tokens",
            Value::Array(vec![Value::String("a".into())]),
        ),
        ("tokenizer.ggml.pre", Value::String("tekken".into())),
    ];
    write(&path, GgmlDType::F32, &values, &text);
    let error = Gguf::open(&path)
        .expect("a file")
        .tokenizer()
        .expect_err("unknown");
    let text = reason(error);
    assert!(
        text.contains("`tekken`") && text.contains("smollm"),
        "{text}"
    );

    let nan = Tensor::full(f32::NAN, (6, 256), device()).expect("values");
    write(&path, GgmlDType::F32, &nan, &[]);
    let checkpoint =
        Checkpoint::from_gguf(Gguf::open(&path).expect("a file")).expect("a checkpoint");
    let name = "model.embed_tokens.weight";
    let error = checkpoint
        .matrix(name, (6, 256), device())
        .expect_err("not finite");
    assert!(
        matches!(error, CheckpointError::NotFinite { count: 1536, .. }),
        "{error}"
    );
    let error = checkpoint
        .matrix(name, (256, 6), device())
        .expect_err("another shape");
    assert!(
        matches!(error, CheckpointError::ShapeMismatch { .. }),
        "{error}"
    );
}
