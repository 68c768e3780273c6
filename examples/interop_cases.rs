//! Writes the exports that `tests/interop/run.sh` lets Python read: for each family of tiny fixture models, the
//! mixes of kinds that a selection may leave, with the logits that this library computes for them.
//!
//!     cargo run --example interop_cases -- FOLDER
//!
//! `tests/interop/cases.py` describes the layout. Every number of an adapter is changed by a seeded draw, so a
//! part that is lost or put in the wrong place shows in the logits; but for the adapters that wait for a training.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use autopeft::base::BaseModel;
use autopeft::export::{
    AdapterOptions, MergedOptions, SHARD_BYTES, TOLERANCE, write_adapter, write_merged,
};
use autopeft::groups::{Group, Grouping, partition};
use autopeft::interrupt::Interrupt;
use autopeft::models::checkpoint::Checkpoint;
use autopeft::models::{self, Config, Inputs, Model, Pooling};
use autopeft::recipe::Target;
use autopeft_adapters::peft::LoraScale;
use autopeft_adapters::{
    Adapters, BottleneckPlan, BottleneckStyle, Kind, LoraPlan, LoraTargets, Parameter, Pass, State,
    Superset,
};
use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One export.
struct Case {
    name: &'static str,
    target: Target,
    style: BottleneckStyle,
    values: Values,
    keep: fn(&Group) -> bool,
}

/// What an adapter's numbers are.
#[derive(Clone, Copy)]
enum Values {
    /// Drawn.
    Drawn,
    /// Those at which it changes nothing, as `autopeft transfer` writes them.
    Untrained,
}

impl Values {
    const fn scale(self) -> LoraScale {
        match self {
            Self::Drawn => LoraScale::Folded,
            Self::Untrained => LoraScale::Written,
        }
    }
}

impl Case {
    const fn new(name: &'static str, keep: fn(&Group) -> bool) -> Self {
        Self {
            name,
            target: Target::Autopeft,
            style: BottleneckStyle::Houlsby,
            values: Values::Drawn,
            keep,
        }
    }

    const fn with_style(mut self, style: BottleneckStyle) -> Self {
        self.style = style;
        self
    }

    const fn untrained(mut self) -> Self {
        self.values = Values::Untrained;
        self
    }

    const fn for_servers(mut self) -> Self {
        self.target = Target::Servers;
        self
    }

    const fn for_adapterhub(mut self) -> Self {
        self.target = Target::Adapterhub;
        self
    }
}

/// What may survive, on a model of any family.
const CASES: &[Case] = &[
    Case::new("lora", some_lora),
    Case::new("lora-one-layer-head", |group| {
        head(group) || (group.kind == Kind::Lora && group.layer == Some(1))
    }),
    Case::new("mix", mix),
    Case::new("biases-head", |group| head(group) || some_biases(group)),
    Case::new("norms-head", |group| head(group) || some_norms(group)),
    Case::new("biases-norms", |group| {
        some_biases(group) || some_norms(group)
    }),
    Case::new("head", head),
    Case::new("everything", |_| true),
    Case::new("everything-but-bottlenecks", |group| {
        group.kind != Kind::Bottleneck
    }),
    Case::new("pfeiffer-mix", |group| mix(group) || layer_one(group))
        .with_style(BottleneckStyle::Pfeiffer),
    Case::new("union-mix", |group| mix(group) || crosswise(group)),
    Case::new("parallel-head", |group| head(group) || bottleneck(group))
        .with_style(BottleneckStyle::Parallel),
    Case::new("adapterhub-pfeiffer", |group| {
        head(group) || layer_one(group)
    })
    .with_style(BottleneckStyle::Pfeiffer)
    .for_adapterhub(),
    Case::new("adapterhub-houlsby", |group| {
        head(group) || bottleneck(group)
    })
    .for_adapterhub(),
    Case::new("adapterhub-union", |group| head(group) || crosswise(group)).for_adapterhub(),
    Case::new("adapterhub-parallel", |group| {
        head(group) || layer_one(group)
    })
    .with_style(BottleneckStyle::Parallel)
    .for_adapterhub(),
];

/// The same on encoders whose head is new.
const BARE_CASES: &[Case] = &[
    Case::new("head", head),
    Case::new("mix", mix),
    Case::new("untrained-mix", mix).untrained(),
    Case::new("everything", |_| true),
];

/// Classifiers, with a head `score`.
const DECODERS: &[&str] = &[
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma2", "gemma3", "gpt2", "gpt-neox",
];

const DECODER_CASES: &[Case] = &[
    Case::new("mix", mix),
    Case::new("everything", |group| group.kind != Kind::Bottleneck),
];

const LANGUAGE_MODELS: &[&str] = &[
    "llama",
    "llama-bias-tied",
    "llama-yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt2-by-layer",
    "gpt-neox",
    "gpt-neox-serial",
];

const LANGUAGE_CASES: &[Case] = &[
    Case::new("language-lora", some_lora),
    Case::new("language-lora-for-servers", some_lora).for_servers(),
    Case::new("language-norms", some_norms),
    Case::new("language-everything", |_| true),
];

fn head(group: &Group) -> bool {
    group.kind == Kind::Head
}

fn mix(group: &Group) -> bool {
    head(group) || some_lora(group) || some_biases(group) || some_norms(group)
}

/// The part that a module has in its layer, under one name for all families.
fn role(group: &Group) -> &str {
    match group.role.as_str() {
        "attention.self.query"
        | "attention.q_lin"
        | "self_attn.q_proj"
        | "self_attn.qkv_proj"
        | "attn.c_attn"
        | "attention.query_key_value" => "query",
        "attention.self.value"
        | "attention.v_lin"
        | "self_attn.v_proj"
        | "self_attn.o_proj"
        | "attn.c_proj"
        | "attention.dense" => "value",
        "intermediate.dense" | "ffn.lin1" | "mlp.up_proj" | "mlp.gate_up_proj" | "mlp.c_fc"
        | "mlp.dense_h_to_4h" => "first",
        "output.dense" | "ffn.lin2" | "mlp.down_proj" | "mlp.c_proj" | "mlp.dense_4h_to_h" => {
            "second"
        }
        "attention.output.LayerNorm" | "sa_layer_norm" | "input_layernorm" | "ln_1" => {
            "attention norm"
        }
        "output.LayerNorm" | "output_layer_norm" | "post_attention_layernorm" | "ln_2" => {
            "last norm"
        }
        "attention.output" | "attention_adapters" => "attention adapter",
        "output" | "output_adapters" => "last adapter",
        other => other,
    }
}

/// Ranks 1, 3, 2, 8 and 5 out of blocks of 1, 2, 1 and 4; the blocks that are left need not be the first.
fn some_lora(group: &Group) -> bool {
    let part = (group.layer, role(group), group.block);
    group.kind == Kind::Lora
        && matches!(
            part,
            (Some(0), "query", Some(0))
                | (Some(0), "value", Some(0 | 1))
                | (Some(1), "query", Some(1))
                | (Some(1), "first", _)
                | (Some(1), "value", Some(2 | 3))
        )
}

/// Under a LoRA of [`some_lora`] and elsewhere.
fn some_biases(group: &Group) -> bool {
    let part = (group.layer, role(group));
    group.kind == Kind::Bias && matches!(part, (Some(0), "query" | "second") | (Some(1), "first"))
}

fn some_norms(group: &Group) -> bool {
    let part = (group.layer, role(group));
    group.kind == Kind::Norm
        && matches!(
            part,
            (None, _) | (Some(0), "attention norm") | (Some(1), "last norm")
        )
}

fn bottleneck(group: &Group) -> bool {
    group.kind == Kind::Bottleneck
}

fn layer_one(group: &Group) -> bool {
    bottleneck(group) && group.layer == Some(1)
}

/// Other layers at the two places.
fn crosswise(group: &Group) -> bool {
    let part = (group.layer, role(group));
    bottleneck(group)
        && matches!(
            part,
            (Some(0), "attention adapter") | (Some(1), "last adapter")
        )
}

fn main() -> Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("name the folder to write into".into());
    };
    for model in ["bert", "roberta", "distilbert"] {
        for case in CASES {
            // As many labels as the checkpoint's head has.
            write(&folder, model, 3, case)?;
        }
    }
    for model in [
        "bert-bare",
        "bert-bare-no-pooler",
        "roberta-bare",
        "distilbert-bare",
    ] {
        for case in BARE_CASES {
            write(&folder, model, 4, case)?;
        }
    }
    for model in DECODERS {
        for case in DECODER_CASES {
            write(&folder, model, 3, case)?;
        }
    }
    for model in LANGUAGE_MODELS {
        for case in LANGUAGE_CASES {
            write_causal(&folder, model, case)?;
        }
    }
    // The checkpoint has a head, but for other labels.
    write(&folder, "roberta", 2, &Case::new("other-labels", mix))
}

/// Writes one case.
fn write(folder: &Path, model: &str, num_labels: usize, case: &Case) -> Result<()> {
    let folder = folder.join(format!("{model}-{}", case.name));
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(model);
    let base = BaseModel::open(&source.to_string_lossy(), "main", &mut |_| {})?;
    copy(&source, &folder.join("base"))?;
    let stored = candle_core::safetensors::load(source.join("expected.safetensors"), &Device::Cpu)?;

    let adapters = Adapters::superset(superset(case), 1);
    let build = |adapters: &Adapters| -> Result<Box<dyn Model>> {
        let pooling = Pooling::Default;
        Ok(base.build(adapters, num_labels, pooling, DType::F32, &Device::Cpu)?)
    };
    let trained = build(&adapters)?;
    prepare(&adapters, case)?;
    let labels: Vec<String> = (0..num_labels)
        .map(|label| format!("label {label}"))
        .collect();
    let options = AdapterOptions {
        task: autopeft::recipe::TaskKind::TextClassification,
        base_model: model,
        config: &base.config,
        labels: &labels,
        lora_dropout: 0.0,
        lora_scale: case.values.scale(),
        target: case.target,
    };
    let adapter = folder.join("adapter");
    fs::create_dir(&adapter)?;
    write_adapter(&adapter, &adapters, &options)?;

    let inputs = inputs(&stored)?;
    let logits = trained.forward(&inputs, &Pass::eval())?;
    check(
        &*build(&Adapters::load(&adapter)?)?,
        &inputs,
        &logits,
        &folder,
    )?;
    if !adapter.join("bottleneck").exists() {
        write_merged_model(&folder, base.checkpoint(), &base.config_json()?, &options)?;
    }
    let names = ["input_ids", "attention_mask", "token_type_ids"];
    let given = names
        .iter()
        .filter_map(|name| Some((*name, stored.get(*name)?.clone())));
    candle_core::safetensors::save(
        &given.collect::<HashMap<_, _>>(),
        folder.join("inputs.safetensors"),
    )?;
    let logits = HashMap::from([("logits", logits)]);
    candle_core::safetensors::save(&logits, folder.join("logits.safetensors"))?;
    Ok(())
}

/// Writes one case of a language model; its logits are 0 at the padding.
fn write_causal(folder: &Path, model: &str, case: &Case) -> Result<()> {
    let folder = folder.join(format!("{model}-{}", case.name));
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/decoders")
        .join(model);
    copy(&source, &folder.join("base"))?;
    let stored = candle_core::safetensors::load(source.join("expected.safetensors"), &Device::Cpu)?;
    let config = Config::read(&source.join("config.json"))?;
    let checkpoint = Arc::new(Checkpoint::open_folder(&source)?);
    let inputs = inputs(&stored)?;
    let logits = |adapters: &Adapters, prepare: &dyn Fn() -> Result<()>| -> Result<Tensor> {
        let device = Device::Cpu;
        let model = models::load_causal(&config, &checkpoint, adapters, DType::F32, &device)?;
        prepare()?;
        let hidden = model.hidden(&inputs, &Pass::eval())?;
        let (batch, length, _) = hidden.dims3()?;
        let logits = model.unembed(&hidden.flatten(0, 1)?)?;
        let mask = inputs.attention_mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        Ok(logits.reshape((batch, length, ()))?.broadcast_mul(&mask)?)
    };
    let adapters = Adapters::superset(superset(case), 1);
    let expected = logits(&adapters, &|| prepare(&adapters, case))?;
    let options = AdapterOptions {
        task: autopeft::recipe::TaskKind::CausalLm,
        base_model: model,
        config: &config,
        labels: &[],
        lora_dropout: 0.0,
        lora_scale: case.values.scale(),
        target: case.target,
    };
    let adapter = folder.join("adapter");
    fs::create_dir(&adapter)?;
    write_adapter(&adapter, &adapters, &options)?;
    let again = Adapters::load(&adapter)?;
    let difference: f32 = (&expected - logits(&again, &|| Ok(()))?)?
        .abs()?
        .max_all()?
        .to_scalar()?;
    again.check_used()?;
    if f64::from(difference) > TOLERANCE {
        let folder = folder.display();
        return Err(format!("{folder}: read back, the logits differ by {difference:e}").into());
    }
    let json = fs::read(source.join("config.json"))?;
    write_merged_model(&folder, &checkpoint, &json, &options)?;
    let given = ["input_ids", "attention_mask"]
        .iter()
        .filter_map(|name| Some((*name, stored.get(*name)?.clone())));
    candle_core::safetensors::save(
        &given.collect::<HashMap<_, _>>(),
        folder.join("inputs.safetensors"),
    )?;
    let logits = HashMap::from([("logits", expected)]);
    candle_core::safetensors::save(&logits, folder.join("logits.safetensors"))?;
    Ok(())
}

/// The case's base with its adapter in the weights, beside them; the model has been made from `base` before.
fn write_merged_model(
    folder: &Path,
    base: &Arc<Checkpoint>,
    config_json: &[u8],
    options: &AdapterOptions<'_>,
) -> Result<()> {
    let merged = folder.join("merged");
    fs::create_dir(&merged)?;
    let options = MergedOptions {
        config: options.config,
        config_json,
        task: options.task,
        labels: options.labels,
        pad_token_id: Some(options.config.pad_token_id),
        dtype: DType::F32,
        shard_bytes: SHARD_BYTES,
    };
    let (adapter, stop) = (folder.join("adapter"), Interrupt::default());
    write_merged(&merged, base, &adapter, &options, &stop)?;
    Ok(())
}

fn superset(case: &Case) -> Superset {
    let all = case.target != Target::Adapterhub;
    Superset {
        lora: all.then(|| LoraPlan {
            rank_blocks: vec![1, 2, 1, 4],
            scale: 1.5,
            dropout: 0.0,
        }),
        lora_targets: LoraTargets::AllLinear,
        bias: all,
        inert_bias: false,
        norm: all,
        bottleneck: Some(BottleneckPlan::new(case.style, 4.0)),
        base: false,
        exclude: Vec::new(),
    }
}

/// Gives the parameters their values, and drops what the case does not keep.
fn prepare(adapters: &Adapters, case: &Case) -> Result<()> {
    match case.values {
        Values::Drawn => adapters.parameters().iter().try_for_each(|p| scramble(p))?,
        Values::Untrained => {}
    }
    for group in partition(&adapters.parameters(), &Grouping::Module, false) {
        if !(case.keep)(&group) {
            group.set_state(State::Dropped);
        }
    }
    Ok(())
}

/// Moves every number of a parameter, by a draw that depends on its name.
fn scramble(parameter: &Parameter) -> Result<()> {
    let seed = parameter
        .name()
        .bytes()
        .fold(7u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let initial = parameter.initial();
    let noise: Vec<f32> = (0..parameter.elem_count())
        .map(|_| random.random_range(-0.5..0.5))
        .collect();
    Ok(parameter.set(&(initial + Tensor::from_vec(noise, initial.dims(), initial.device())?)?)?)
}

/// The library reads its own files.
fn check(loaded: &dyn Model, inputs: &Inputs, logits: &Tensor, folder: &Path) -> Result<()> {
    let again = loaded.forward(inputs, &Pass::eval())?;
    let difference: f32 = (logits - again)?.abs()?.max_all()?.to_scalar()?;
    if f64::from(difference) <= TOLERANCE {
        return Ok(());
    }
    Err(format!(
        "{}: read back, the logits differ by {difference:e}",
        folder.display()
    )
    .into())
}

fn inputs(stored: &HashMap<String, Tensor>) -> Result<Inputs> {
    let numbers = |name: &str| -> Result<Option<Tensor>> {
        Ok(stored
            .get(name)
            .map(|tensor| tensor.to_dtype(DType::U32))
            .transpose()?)
    };
    let input_ids = numbers("input_ids")?.ok_or("the fixture has no input_ids")?;
    Ok(Inputs {
        segments: None,
        attention_mask: numbers("attention_mask")?.ok_or("the fixture has no attention_mask")?,
        token_type_ids: numbers("token_type_ids")?.map_or_else(|| input_ids.zeros_like(), Ok)?,
        input_ids,
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let files: BTreeMap<_, _> = fs::read_dir(from)?
        .map(|entry| entry.map(|entry| (entry.file_name(), entry.path())))
        .collect::<std::io::Result<_>>()?;
    for (name, path) in files {
        fs::copy(path, to.join(name))?;
    }
    Ok(())
}
