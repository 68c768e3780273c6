//! A result's adapter in the weights of its base model: `load → write → verified by loading it back`.

use std::path::{Path, PathBuf};

use autopeft_adapters::Adapters;
use candle_core::{DType, Device};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::apply::{Adapted, Network};
use crate::base::BaseModel;
use crate::data::{Encoded, EncodedRow, Padding};
use crate::error::{Error, Result};
use crate::export::{
    Input, MergedOptions, OutputFolder, SHARD_BYTES, largest_difference, write_merged,
};
use crate::interrupt::Interrupt;
use crate::models::LoadOptions;
use crate::recipe::Pooling;
use crate::report::{Manifest, merged_card};
use crate::train::outputs;

/// Sequences on which the merged model is compared.
const VERIFIED_ROWS: usize = 16;
/// Their longest.
const VERIFIED_TOKENS: usize = 48;
/// Largest difference of two logits, as a share of the largest logit or of 1, that rounding explains in `f32`: a product with the
/// sum of two matrices rounds otherwise than the sum of two products.
const TOLERANCE: f64 = 1e-4;

/// How a model is merged.
#[derive(Debug, Clone, Copy)]
pub struct MergeOptions {
    /// Number type of the files; `None`: that of most numbers of the base model.
    pub dtype: Option<DType>,
    /// Whether a result or a merged model at the output may be replaced.
    pub force: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergedModel {
    /// The folder.
    pub folder: PathBuf,
    /// The class of `transformers` that loads it.
    pub class: String,
    /// Number type of the files.
    pub dtype: &'static str,
    /// Names of the files with weights.
    pub weights: Vec<String>,
    /// Numbers in them.
    pub parameters: usize,
    /// Weights that a LoRA was added to.
    pub low_rank: usize,
    /// Norms, biases and parts of the head that are the adapter's own.
    pub own: usize,
    /// What was copied from the base model's folder.
    pub copied: Vec<&'static str>,
    /// Largest difference of a logit to the base model with the adapter beside it.
    pub difference: f64,
    /// Sequences on which it was compared.
    pub verified_rows: usize,
}

/// Writes the model `base` with the adapter of `result` in its weights into the folder `out`, as `transformers` stores a
/// model: weights, `config.json`, tokenizer. It is read back, and must give the logits of the adapter beside the base model;
/// in a half-precision type, where it cannot, the difference is told.
///
/// # Errors
/// [`Error::Conflict`] for a head that no class of `transformers` has, or a GGUF file as base model; those of
/// [`OutputFolder::check`]; [`Error::NotVerified`] when the logits differ; [`Error::Stopped`] when a stop was asked for; and
/// when `result` is none, does not fit the base model, or cannot be merged. Then `out` is as it was.
pub fn merge(
    result: &Path,
    base: BaseModel,
    out: &Path,
    options: MergeOptions,
    interrupt: &Interrupt,
) -> Result<MergedModel> {
    // First, so that an unusable target costs nothing.
    let inputs = merge_inputs(result, &base.name);
    let folder = OutputFolder::prepare(out, options.force, &inputs)?;
    let manifest = Manifest::read(result)?;
    if manifest.pooling == Pooling::Mean {
        return Err(Error::Conflict {
            what: "the head reads the mean over the tokens, which no class of `transformers` does"
                .to_string(),
            hint: "use the adapter as it is, or select again with `--set task.pooling=default`"
                .to_string(),
        });
    }
    let config_json = base.config_json()?;
    let stored = base.checkpoint().usual_dtype().unwrap_or(DType::F32);
    let dtype = match options.dtype.unwrap_or(stored) {
        DType::F64 => DType::F32,
        dtype => dtype,
    };
    let base = lossless(base, stored)?;
    let adapted = Adapted::open(result, base, VERIFIED_ROWS, Device::Cpu, DType::F32)?;
    let pad_token_id = adapted.base.padding_token();
    let rows = drawn_rows(&adapted, pad_token_id);
    let padding = adapted.padding();
    let expected = logits(&adapted.network, &rows, padding)?;
    // Two networks in memory would be one too many.
    let Adapted { base, .. } = adapted;
    let merged = MergedOptions {
        config: &base.config,
        config_json: &config_json,
        task: manifest.task,
        labels: manifest.label_names(),
        pad_token_id,
        dtype,
        shard_bytes: SHARD_BYTES,
    };
    let files = write_merged(folder.path(), base.checkpoint(), result, &merged, interrupt)
        .map_err(|error| folder.shown(error))?;
    let copied = base
        .copy_text_files(folder.path())
        .map_err(|error| folder.shown(error))?;

    let again = BaseModel::open(&folder.path().to_string_lossy(), "main", &mut |_| {})?;
    let again = lossless(again, dtype)?;
    let network = Network::build(
        &again,
        &Adapters::none(),
        &manifest,
        DType::F32,
        &Device::Cpu,
    )?;
    let difference = largest_difference(&expected, &logits(&network, &rows, padding)?);
    let largest = expected
        .iter()
        .flatten()
        .fold(1.0f64, |most, z| most.max(z.abs()));
    if !difference.is_finite() || (dtype == DType::F32 && difference > TOLERANCE * largest) {
        return Err(Error::NotVerified {
            path: out.to_path_buf(),
            difference,
        });
    }
    let model = MergedModel {
        folder: folder.target().to_path_buf(),
        class: files.class,
        dtype: dtype.as_str(),
        weights: files.weights,
        parameters: files.parameters,
        low_rank: files.low_rank,
        own: files.own,
        copied,
        difference,
        verified_rows: rows.rows.len(),
    };
    folder.write("README.md", &merged_card(&model, &manifest))?;
    folder.commit()?;
    Ok(model)
}

/// What [`merge`] reads.
pub fn merge_inputs<'a>(result: &'a Path, base: &'a str) -> [Input<'a>; 2] {
    [
        Input::new("the result that is merged", result),
        Input::new("the base model", base),
    ]
}

/// Keeps the matrices of a decoder in memory as they are stored: they are widened where they are used, so nothing is lost.
fn lossless(base: BaseModel, stored: DType) -> Result<BaseModel> {
    let is_half = matches!(stored, DType::F16 | DType::BF16);
    let options = LoadOptions {
        storage: (is_half && base.config.decoder.is_some()).then_some(stored),
        ..LoadOptions::default()
    };
    base.with_options(options)
}

/// Random tokens, which are as good as any to see whether two models are one.
fn drawn_rows(adapted: &Adapted, pad_token_id: Option<u32>) -> Encoded {
    let config = &adapted.base.config;
    let most = VERIFIED_TOKENS
        .min(adapted.manifest.max_length)
        .min(config.max_length())
        .max(1);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let vocabulary = config.vocab_size as u32;
    let mut token = || loop {
        let token = random.random_range(0..vocabulary);
        // A decoder's head looks for the padding to find the end.
        if Some(token) != pad_token_id || vocabulary < 2 {
            return token;
        }
    };
    let rows = (0..VERIFIED_ROWS).map(|row| {
        let length = 1 + row * (most - 1) / (VERIFIED_ROWS - 1);
        EncodedRow {
            input_ids: (0..length).map(|_| token()).collect(),
            token_type_ids: vec![0; length],
            segments: Vec::new(),
            passages: Vec::new(),
            target: None,
        }
    });
    Encoded {
        rows: rows.collect(),
        ..Encoded::default()
    }
}

fn logits(network: &Network, rows: &Encoded, padding: Padding) -> Result<Vec<Vec<f64>>> {
    outputs(
        network.objective(),
        rows,
        padding,
        VERIFIED_ROWS,
        &Device::Cpu,
    )
}
