//! A whole model with the adapter in its weights: what servers load that know no adapters, or only some kinds of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use autopeft_adapters::{Error as AdapterError, Mergeable};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::models::checkpoint::{Checkpoint, INDEX_FILE, SINGLE_FILE};
use crate::models::{Config, ModelError};
use crate::recipe::TaskKind;

/// Most bytes of the tensors in one file. They are in memory twice while it is written.
pub const SHARD_BYTES: usize = 1 << 30;

/// What the files say, and how.
#[derive(Debug, Clone, Copy)]
pub struct MergedOptions<'a> {
    /// Configuration of the base model.
    pub config: &'a Config,
    /// The same as in its file.
    pub config_json: &'a [u8],
    /// What was learned.
    pub task: TaskKind,
    /// Label names, by class.
    pub labels: &'a [String],
    /// The token by which a classifier tells the padding from the text ([`crate::base::BaseModel::padding_token`]); `None` leaves
    /// it unnamed.
    pub pad_token_id: Option<u32>,
    /// Number type of all tensors.
    pub dtype: DType,
    /// Most bytes of the tensors in one file, [`SHARD_BYTES`] by default.
    pub shard_bytes: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedFiles {
    /// The class of `transformers` that loads them.
    pub class: String,
    /// Names of the files with weights.
    pub weights: Vec<String>,
    /// Numbers in them.
    pub parameters: usize,
    /// Weights that a LoRA was added to.
    pub low_rank: usize,
    /// Tensors that are the adapter's own: norms, biases, heads.
    pub own: usize,
}

/// Writes the tensors of `base` with the adapter in `adapter` merged into them, and a `config.json` for the class in
/// `transformers` that has the task's head, into `folder`. The model must have been made from `base` before, by which
/// the tensors are known that its class has ([`Checkpoint::names_read`]); their names are that class's.
///
/// # Errors
/// When the adapter has bottlenecks or does not fit the model, a number is too large for `dtype`, on input or output
/// errors, and when a stop was asked for.
pub fn write_merged(
    folder: &Path,
    base: &Arc<Checkpoint>,
    adapter: &Path,
    options: &MergedOptions<'_>,
    interrupt: &Interrupt,
) -> Result<MergedFiles> {
    let adapter = Mergeable::read(adapter)?;
    let mut names: BTreeSet<String> = base.names_read().into_iter().collect();
    let low_rank = adapter.low_rank_weights();
    if let Some(missing) = low_rank.iter().find(|name| !names.contains(*name)) {
        return Err(AdapterError::NotExpressible {
            target: "a merged model",
            reason: format!("the base model has no `{missing}`"),
        }
        .into());
    }
    let own: Vec<String> = adapter
        .own_tensors()
        .into_iter()
        .map(str::to_owned)
        .collect();
    names.extend(own.iter().cloned());

    let prefix = options.config.family.base_model_prefix();
    let cpu = Device::Cpu;
    let tensors = adapter.over(base.var_builder(prefix, DType::F32, &cpu), DType::F32, &cpu);
    let mut shards = Shards::new(folder, options.shard_bytes);
    for name in names {
        if interrupt.is_raised() {
            return Err(Error::Stopped);
        }
        let tensor =
            rounded(&tensors, &name, options.dtype).map_err(|error| match base.take_failure() {
                Some(failure) => ModelError::from(failure).into(),
                None => error,
            })?;
        shards.add(name, tensor)?;
    }
    let (weights, parameters) = shards.finish()?;
    let class = match options.task.is_language() {
        true => options.config.language_model_class(),
        false => options.config.classifier_class(),
    };
    let configuration = configuration(options, &class)?;
    write_json(&folder.join("config.json"), &configuration)?;
    Ok(MergedFiles {
        class,
        weights,
        parameters,
        low_rank: low_rank.len(),
        own: own.len(),
    })
}

/// A tensor in the wanted type, every number of which is finite there.
fn rounded(tensors: &VarBuilder<'static>, name: &str, dtype: DType) -> Result<Tensor> {
    let tensor = tensors.get_unchecked(name)?.to_dtype(dtype)?.contiguous()?;
    let largest: f32 = tensor
        .to_dtype(DType::F32)?
        .abs()?
        .flatten_all()?
        .max(0)?
        .to_scalar()?;
    if largest.is_finite() {
        return Ok(tensor);
    }
    Err(Error::Conflict {
        what: format!("a number of `{name}` is not finite in {}", dtype.as_str()),
        hint: "merge with `--dtype f32` or `--dtype bf16`, which have room for larger numbers"
            .to_string(),
    })
}

/// Tensors on their way into files of a limited size.
struct Shards<'a> {
    folder: &'a Path,
    most: usize,
    waiting: Vec<(String, Tensor)>,
    bytes: usize,
    total_bytes: usize,
    parameters: usize,
    /// The names in each file that was written.
    written: Vec<Vec<String>>,
}

impl<'a> Shards<'a> {
    fn new(folder: &'a Path, most: usize) -> Self {
        Self {
            folder,
            most,
            waiting: Vec::new(),
            bytes: 0,
            total_bytes: 0,
            parameters: 0,
            written: Vec::new(),
        }
    }

    fn add(&mut self, name: String, tensor: Tensor) -> Result<()> {
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        if !self.waiting.is_empty() && self.bytes + bytes > self.most {
            self.flush()?;
        }
        self.bytes += bytes;
        self.total_bytes += bytes;
        self.parameters += tensor.elem_count();
        self.waiting.push((name, tensor));
        Ok(())
    }

    /// Where a file is until it is known how many there are.
    fn unnamed(&self, number: usize) -> PathBuf {
        self.folder.join(format!("model-{number:05}.part"))
    }

    fn flush(&mut self) -> Result<()> {
        let path = self.unnamed(self.written.len() + 1);
        let tensors = std::mem::take(&mut self.waiting);
        self.written
            .push(tensors.iter().map(|(name, _)| name.clone()).collect());
        self.bytes = 0;
        // What `transformers` looks at to know where a file is from.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        let bytes =
            safetensors::serialize(tensors, Some(metadata)).map_err(|error| Error::Malformed {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        let mut file = File::create(&path).map_err(Error::io("creating", &path))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(Error::io("writing", path))
    }

    /// Gives the files their names, and writes an index where there are several. Their names, and the numbers in them.
    fn finish(mut self) -> Result<(Vec<String>, usize)> {
        if !self.waiting.is_empty() {
            self.flush()?;
        }
        let count = self.written.len();
        let name = |number: usize| match count {
            1 => SINGLE_FILE.to_string(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        let mut places = BTreeMap::new();
        let mut files = Vec::with_capacity(count);
        for (number, tensors) in (1..).zip(&self.written) {
            let file = name(number);
            let to = self.folder.join(&file);
            std::fs::rename(self.unnamed(number), &to).map_err(Error::io("creating", to))?;
            places.extend(tensors.iter().map(|tensor| (tensor, file.clone())));
            files.push(file);
        }
        if count > 1 {
            let index = json!({"metadata": {"total_size": self.total_bytes}, "weight_map": places});
            write_json(&self.folder.join(INDEX_FILE), &index)?;
        }
        Ok((files, self.parameters))
    }
}

/// The base model's configuration with another class, the labels of its head, and the type of the tensors.
fn configuration(options: &MergedOptions<'_>, class: &str) -> Result<Value> {
    let mut keys: Map<String, Value> =
        serde_json::from_slice(options.config_json).map_err(|error| ModelError::Json {
            reason: error.to_string(),
        })?;
    let mut set = |key: &str, value: Value| keys.insert(key.to_string(), value);
    set("architectures", json!([class]));
    if !options.task.is_language() {
        let labels = options.labels.iter().enumerate();
        let by_number = |(number, label): (usize, &String)| (number.to_string(), json!(label));
        set(
            "id2label",
            labels.clone().map(by_number).collect::<Map<_, _>>().into(),
        );
        let by_name = |(number, label): (usize, &String)| (label.clone(), json!(number));
        set(
            "label2id",
            labels.map(by_name).collect::<Map<_, _>>().into(),
        );
        set("problem_type", json!(options.task.problem_type()));
        // A decoder's class finds the last token of a row by it.
        if let Some(token) = options.pad_token_id {
            set("pad_token_id", json!(token));
        }
    }
    let dtype = match options.dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    // `transformers` calls it `dtype` from version 5 on, and reads the older name too.
    keys.remove("dtype");
    keys.insert("torch_dtype".to_string(), json!(dtype));
    Ok(Value::Object(keys))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(Error::io("writing", path))
}
