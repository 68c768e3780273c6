//! Writes the token numbers of a text and the logits that a language model gives for them, to compare them with another program's.
//!
//!     cargo run --release --example causal_logits -- MODEL OUT.safetensors 'Once upon a time'
//!
//! MODEL is what `autopeft select --model` takes: a folder, a GGUF file, or a hub id.
#![expect(clippy::print_stdout, reason = "an example's result")]

use std::collections::HashMap;
use std::error::Error;

use autopeft::base::BaseModel;
use autopeft::models::Inputs;
use autopeft_adapters::{Adapters, Pass};
use candle_core::{DType, Device, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, text] = arguments.as_slice() else {
        return Err("usage: causal_logits MODEL OUT.safetensors TEXT".into());
    };
    let base = BaseModel::open(model, "main", &mut |_| {})?;
    let tokens = base.tokenizer.encode(text.as_str(), true);
    let tokens = tokens.map_err(|error| error.to_string())?;
    let ids = Tensor::from_slice(tokens.get_ids(), (1, tokens.len()), &Device::Cpu)?;
    let model = base.build_causal(&Adapters::none(), DType::F32, &Device::Cpu)?;
    let hidden = model.hidden(&Inputs::single(&ids)?, &Pass::eval())?;
    let logits = model.unembed(&hidden.squeeze(0)?)?;
    println!("{:?} logits", logits.dims());
    let tensors = HashMap::from([("input_ids", ids), ("logits", logits)]);
    candle_core::safetensors::save(&tensors, out)?;
    Ok(())
}
