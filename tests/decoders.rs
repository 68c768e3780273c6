//! Language models compute what `transformers` computes, whatever is recomputed, cached, packed, or kept in fewer bits.

#[expect(dead_code, reason = "other tests use the rest")]
mod golden;

use std::collections::HashMap;

use autopeft::models::{self, CausalLm, Config, Inputs, LoadOptions, ModelError};
use autopeft_adapters::ops::{self, TokenLabels};
use autopeft_adapters::{
    Adapters, Gradients, Kind, LoraPlan, LoraTargets, Part, Pass, State, Superset,
};
use candle_core::{DType, Tensor};
use golden::{Golden, assert_close, device, folders};
use serde_json::{Map, Value};

/// `transformers` computes angles and RMSNorms in f32, and the logits of Gemma are of size 100.
const TOLERANCE: f64 = 1e-4;

fn all() -> Vec<Golden> {
    let names = folders("decoders");
    let names = names.iter().filter_map(|folder| folder.file_name());
    names
        .map(|name| Golden::open_in("decoders", &name.to_string_lossy()))
        .collect()
}

fn superset(base: bool, dropout: f64) -> Superset {
    Superset {
        lora: Some(LoraPlan {
            rank_blocks: vec![2, 1],
            scale: 0.7,
            dropout,
        }),
        lora_targets: LoraTargets::AllLinear,
        bias: true,
        inert_bias: true,
        norm: true,
        bottleneck: None,
        base,
        exclude: Vec::new(),
    }
}

fn load(
    golden: &Golden,
    adapters: &Adapters,
    dtype: DType,
    options: LoadOptions,
) -> Box<dyn CausalLm> {
    models::load_causal_with(
        &golden.config,
        &golden.checkpoint,
        adapters,
        dtype,
        device(),
        options,
    )
    .unwrap_or_else(|error| panic!("{}: {error}", golden.name))
}

/// Logits of every place, (batch, length, vocabulary); those of padding are 0.
fn logits(model: &dyn CausalLm, inputs: &Inputs) -> Tensor {
    let hidden = model.hidden(inputs, &Pass::eval()).expect("hidden states");
    let (batch, length, _) = hidden.dims3().expect("three dimensions");
    let rows = hidden.flatten(0, 1).expect("rows");
    let logits = model.unembed(&rows).expect("logits");
    let mask = inputs
        .attention_mask
        .to_dtype(logits.dtype())
        .expect("a mask");
    let mask = mask.reshape((batch, length, 1)).expect("a mask");
    logits
        .reshape((batch, length, ()))
        .and_then(|logits| logits.broadcast_mul(&mask))
        .expect("logits")
}

/// The mean loss of every token with one before it.
fn loss(model: &dyn CausalLm, inputs: &Inputs, pass: &Pass) -> Tensor {
    let ids: Vec<Vec<u32>> = inputs.input_ids.to_vec2().expect("ids");
    let mask: Vec<Vec<u32>> = inputs.attention_mask.to_vec2().expect("a mask");
    let (mut places, mut labels) = (Vec::new(), Vec::new());
    for (row, (ids, mask)) in ids.iter().zip(&mask).enumerate() {
        for at in 1..ids.len() {
            if mask[at] != 0 && mask[at - 1] != 0 {
                places.push((row * ids.len() + at - 1) as u32);
                labels.push(ids[at]);
            }
        }
    }
    let count = places.len();
    let hidden = (model.hidden_at(inputs, &places, pass)).expect("hidden states");
    let labels = TokenLabels::Given(&labels);
    let loss = ops::sliced_cross_entropy(&hidden, labels, Some(7), model.unembedding());
    let loss = loss.expect("a loss");
    (loss.sum / count as f64).expect("a mean")
}

/// The model with everything attached and moved off the identity, and the gradients of its loss.
/// A model with every kind attached, away from the identity.
fn moved(
    golden: &Golden,
    dtype: DType,
    dropout: f64,
    options: LoadOptions,
) -> (Adapters, Box<dyn CausalLm>) {
    let adapters = Adapters::superset(superset(false, dropout), 7);
    let model = load(golden, &adapters, dtype, options);
    for parameter in adapters.parameters() {
        let initial = parameter.initial();
        let numbers: Vec<f64> = (0..initial.elem_count())
            .map(|i| 0.1 * (1.7 * i as f64 + 37.1 * parameter.index() as f64).sin())
            .collect();
        let noise = Tensor::from_vec(numbers, initial.shape(), device())
            .and_then(|noise| noise.to_dtype(initial.dtype()))
            .expect("noise");
        parameter
            .set(&(initial + noise).expect("a sum"))
            .expect("the same shape");
    }
    (adapters, model)
}

fn gradients(
    golden: &Golden,
    dtype: DType,
    dropout: f64,
    options: LoadOptions,
) -> (Adapters, Gradients) {
    let (adapters, model) = moved(golden, dtype, dropout, options);
    let pass = Pass::train(3);
    let loss = loss(&*model, &golden.inputs, &pass);
    let gradients = pass.backward(&loss).expect("gradients");
    assert_eq!(
        gradients.len(),
        adapters.parameters().len(),
        "{}",
        golden.name
    );
    (adapters, gradients)
}

/// Checkpoints from before release 5 of `transformers` have the base beside the scaling, and call the scaling's kind `type`.
#[test]
fn older_forms_of_rotary_positions_mean_the_same() {
    let mut forms = 0;
    for folder in folders("decoders") {
        let text = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
        let new: Map<String, Value> = serde_json::from_str(&text).expect("JSON");
        let Some(Value::Object(rope)) = new.get("rope_parameters") else {
            continue;
        };
        let mut old = new.clone();
        old.remove("rope_parameters");
        let mut scaling = match rope.get("full_attention") {
            Some(Value::Object(full)) => {
                let local = rope["sliding_attention"]["rope_theta"].clone();
                old.insert("rope_local_base_freq".to_string(), local);
                full.clone()
            }
            _ => rope.clone(),
        };
        let theta = scaling.remove("rope_theta").expect("a base");
        old.insert("rope_theta".to_string(), theta);
        // GPT-NeoX had names of its own for both.
        if new["model_type"] == "gpt_neox" {
            let share = scaling.remove("partial_rotary_factor").expect("a share");
            old.insert("rotary_pct".to_string(), share);
            let base = old.remove("rope_theta").expect("a base");
            old.insert("rotary_emb_base".to_string(), base);
        }
        let kind = scaling.remove("rope_type").expect("a kind");
        if kind != "default" {
            scaling.insert("type".to_string(), kind);
            old.insert("rope_scaling".to_string(), Value::Object(scaling));
        }
        let parse = |keys: &Map<String, Value>| {
            let json = Value::Object(keys.clone()).to_string();
            Config::parse(json.as_bytes()).expect("a configuration")
        };
        assert_eq!(parse(&old), parse(&new), "{}", folder.display());
        forms += 1;
    }
    assert!(forms > 10);
}

#[test]
fn language_models_have_the_logits_of_transformers() {
    let mut types = Vec::new();
    for golden in all() {
        for dtype in [DType::F32, DType::F64] {
            let model = load(&golden, &Adapters::none(), dtype, LoadOptions::default());
            let got = logits(&*model, &golden.inputs);
            let what = format!("{} {dtype:?}", golden.name);
            assert_close(
                &got,
                &golden.expected["logits"],
                TOLERANCE,
                TOLERANCE,
                &what,
            );
        }
        types.push(golden.config.model_type.clone());
    }
    assert!(types.len() >= 18);
}

#[test]
fn gradients_of_language_models_equal_those_of_pytorch() {
    for golden in all() {
        let adapters = Adapters::superset(superset(true, 0.0), 7);
        let model = load(&golden, &adapters, DType::F32, LoadOptions::default());
        for parameter in adapters.parameters() {
            parameter.set_state(State::Trainable);
        }
        let pass = Pass::train(0);
        let loss = loss(&*model, &golden.inputs, &pass);
        assert_close(&loss, &golden.expected["loss"], 1e-5, 1e-5, &golden.name);
        let gradients = pass.backward(&loss).expect("gradients");
        let mut compared = 0;
        for parameter in adapters.parameters() {
            if !matches!(parameter.part(), Part::Weight | Part::Bias) {
                continue;
            }
            let name = format!("grad.{}.{}", parameter.module(), parameter.part().name());
            let expected = &golden.expected[&name];
            let expected =
                match parameter.kind() == Kind::Base && golden.config.model_type == "gpt2" {
                    true => expected.t().expect("a matrix"),
                    false => expected.clone(),
                };
            let got = gradients.get(parameter.index()).expect("a gradient");
            assert_close(
                got,
                &expected,
                1e-3,
                TOLERANCE,
                &format!("{} {name}", golden.name),
            );
            compared += 1;
        }
        let available = golden
            .expected
            .keys()
            .filter(|name| name.starts_with("grad."));
        assert_eq!(compared, available.count(), "{}", golden.name);
    }
}

/// The same operations, but for the order of the sum of two gradients at the input of a layer. With dropout the masks
/// come from other draws, so only their reach is compared.
#[test]
fn recomputing_layers_gives_the_same_gradients() {
    for golden in all() {
        let recomputed = LoadOptions {
            checkpointing: true,
            ..LoadOptions::default()
        };
        let (adapters, plain) = gradients(&golden, DType::F64, 0.3, LoadOptions::default());
        let (_, again) = gradients(&golden, DType::F64, 0.3, recomputed);
        assert_eq!(plain.len(), again.len());
        let (_, plain) = gradients(&golden, DType::F64, 0.0, LoadOptions::default());
        let (_, again) = gradients(&golden, DType::F64, 0.0, recomputed);
        for parameter in adapters.parameters() {
            let what = format!("{} {}", golden.name, parameter.name());
            let (got, expected) = (again.get(parameter.index()), plain.get(parameter.index()));
            let (got, expected) = (got.expect("recomputed"), expected.expect("plain"));
            assert_close(got, expected, 1e-10, 1e-12, &what);
        }
    }
}

/// By finite differences, whose losses have the masks of the forward pass alone.
#[test]
fn recomputed_layers_drop_what_they_dropped_before() {
    const STEP: f64 = 1e-6;
    let recomputed = LoadOptions {
        checkpointing: true,
        ..LoadOptions::default()
    };
    let number = |tensor: Tensor| tensor.to_scalar::<f64>().expect("a number");
    for name in ["gpt2", "gpt-neox", "phi3", "llama"] {
        let golden = Golden::open_in("decoders", name);
        let (adapters, model) = moved(&golden, DType::F64, 0.2, recomputed);
        let pass = Pass::train_dropping(3, 0.3);
        let gradients = pass
            .backward(&loss(&*model, &golden.inputs, &pass))
            .expect("gradients");
        let parameters = adapters.parameters();
        let values: Vec<Tensor> = parameters.iter().map(|p| p.value()).collect();
        let direction = |index: usize| values[index].cos().expect("a tensor");
        let at = |step: f64| {
            for (index, parameter) in parameters.iter().enumerate() {
                let moved = (direction(index) * step).and_then(|change| &values[index] + change);
                let moved = moved.expect("a sum");
                parameter.set(&moved).expect("the same shape");
            }
            let pass = Pass::train_dropping(3, 0.3);
            number(loss(&*model, &golden.inputs, &pass))
        };
        let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let got: f64 = (parameters.iter().enumerate())
            .map(|(index, parameter)| {
                let gradient = gradients.get(parameter.index()).expect("a gradient");
                let along = (gradient * direction(index)).and_then(|along| along.sum_all());
                number(along.expect("a sum"))
            })
            .sum();
        assert!(
            (got - expected).abs() < 1e-6 * (1.0 + expected.abs()),
            "{name}: {got} by the graph, {expected} by differences"
        );
    }
}

#[test]
fn a_cache_gives_the_logits_of_the_whole_sequence() {
    for golden in all() {
        let model = load(
            &golden,
            &Adapters::none(),
            DType::F64,
            LoadOptions::default(),
        );
        let ids: Vec<Vec<u32>> = golden.inputs.input_ids.to_vec2().expect("ids");
        // Dynamic positions depend on the length, so a cache within the trained length.
        let ids = &ids[0][..12];
        let whole = Tensor::from_slice(ids, (1, ids.len()), device()).expect("ids");
        let whole = logits(&*model, &Inputs::single(&whole).expect("inputs"));
        let mut cache = model.cache();
        let mut read = 0;
        for part in [5, 1, 1, 4, 1] {
            let got = model
                .advance(&ids[read..read + part], &mut cache)
                .expect("logits");
            read += part;
            assert_eq!(cache.len(), read);
            let expected = whole
                .narrow(1, read - 1, 1)
                .and_then(|row| row.flatten_all());
            assert_close(&got, &expected.expect("a row"), 1e-9, 1e-9, &golden.name);
        }
    }
}

#[test]
fn passages_that_share_a_row_and_padding_on_the_left_change_no_logits() {
    for golden in all() {
        let model = load(
            &golden,
            &Adapters::none(),
            DType::F64,
            LoadOptions::default(),
        );
        let ids: Vec<Vec<u32>> = golden.inputs.input_ids.to_vec2().expect("ids");
        let (a, b) = (&ids[0][..6], &ids[2][..8]);
        let alone = |ids: &[u32]| {
            let ids = Tensor::from_slice(ids, (1, ids.len()), device()).expect("ids");
            logits(&*model, &Inputs::single(&ids).expect("inputs"))
        };
        let tensor = |numbers: &[u32]| {
            Tensor::from_slice(numbers, (1, numbers.len()), device()).expect("numbers")
        };
        let packed: Vec<u32> = a.iter().chain(b).copied().chain([1, 1]).collect();
        let segments: Vec<u32> = [vec![0; 6], vec![1; 8], vec![u32::MAX; 2]].concat();
        let mut inputs = Inputs::single(&tensor(&packed)).expect("inputs");
        inputs.attention_mask = tensor(&[vec![1; 14], vec![0; 2]].concat());
        inputs.segments = Some(tensor(&segments));
        let got = logits(&*model, &inputs);
        let part = |from, count| got.narrow(1, from, count).expect("a part");
        assert_close(&part(0, 6), &alone(a), 1e-9, 1e-9, &golden.name);
        assert_close(&part(6, 8), &alone(b), 1e-9, 1e-9, &golden.name);

        if golden
            .config
            .decoder
            .as_ref()
            .is_some_and(|decoder| decoder.ropes.is_empty())
        {
            continue; // learned positions count the padding, as in `transformers`
        }
        let shifted: Vec<u32> = [1, 1, 1].iter().chain(b).copied().collect();
        let mut inputs = Inputs::single(&tensor(&shifted)).expect("inputs");
        inputs.attention_mask = tensor(&[vec![0; 3], vec![1; 8]].concat());
        let got = logits(&*model, &inputs).narrow(1, 3, 8).expect("a part");
        // Angles are of type f32.
        assert_close(&got, &alone(b), 1e-5, 1e-5, &golden.name);
    }
}

/// Half-precision weights are those numbers; everything else is computed in f32.
#[test]
fn weights_in_half_precision_are_only_rounded() {
    for golden in all() {
        for storage in [DType::BF16, DType::F16] {
            let options = LoadOptions {
                storage: Some(storage),
                checkpointing: true,
            };
            let (adapters, got) = gradients(&golden, DType::F32, 0.0, options);
            for parameter in adapters.parameters() {
                assert_eq!(parameter.initial().dtype(), DType::F32);
            }
            let rounded = rounded(&golden, storage);
            let (_, expected) = gradients(&rounded, DType::F32, 0.0, LoadOptions::default());
            for parameter in adapters.parameters() {
                let what = format!("{} {storage:?} {}", golden.name, parameter.name());
                let (got, expected) = (got.get(parameter.index()), expected.get(parameter.index()));
                assert_close(got.expect("one"), expected.expect("one"), 1e-4, 1e-5, &what);
            }
        }
    }
}

/// The fixture with its matrices rounded.
fn rounded(golden: &Golden, storage: DType) -> Golden {
    let mut tensors = HashMap::new();
    for name in golden.checkpoint.names() {
        let tensor = golden
            .checkpoint
            .tensor(name, DType::F32, device())
            .expect("a tensor");
        // Learned positions are added, not multiplied, and stay as they are.
        let is_matrix = tensor.rank() == 2 && !name.ends_with("wpe.weight");
        let tensor = match is_matrix {
            true => tensor
                .to_dtype(storage)
                .and_then(|tensor| tensor.to_dtype(DType::F32))
                .expect("rounded"),
            false => tensor,
        };
        tensors.insert(name.to_string(), tensor);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors, &file).expect("a file");
    let bytes = std::fs::read(&file).expect("bytes");
    let mut copy = Golden::open_in("decoders", &golden.name);
    copy.checkpoint = std::sync::Arc::new(
        models::checkpoint::Checkpoint::from_bytes("rounded", bytes).expect("a checkpoint"),
    );
    copy
}

#[test]
fn an_encoder_is_no_language_model() {
    let golden = Golden::open("bert");
    let error = models::load_causal(
        &golden.config,
        &golden.checkpoint,
        &Adapters::none(),
        DType::F32,
        device(),
    );
    assert!(matches!(error, Err(ModelError::NotCausal { model_type }) if model_type == "bert"));
}
