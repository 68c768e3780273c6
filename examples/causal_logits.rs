//! Writes the logits that a language model gives for token numbers, to compare them with another program's.
//!
//!     cargo run --release --example causal_logits -- MODEL_FOLDER OUT.safetensors 1,2,3
#![expect(clippy::print_stdout, reason = "an example's result")]

use std::collections::HashMap;
use std::error::Error;

use autopeft::models::checkpoint::Checkpoint;
use autopeft::models::{self, Config, Inputs};
use autopeft_adapters::{Adapters, Pass};
use candle_core::{DType, Device, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out, ids] = arguments.as_slice() else {
        return Err("usage: causal_logits MODEL_FOLDER OUT.safetensors 1,2,3".into());
    };
    let folder = std::path::Path::new(folder);
    let config = Config::read(&folder.join("config.json"))?;
    let checkpoint = std::sync::Arc::new(Checkpoint::open_folder(folder)?);
    let adapters = Adapters::none();
    let model = models::load_causal(&config, &checkpoint, &adapters, DType::F32, &Device::Cpu)?;
    let ids: Vec<u32> = ids.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let ids = Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu)?;
    let hidden = model.hidden(&Inputs::single(&ids)?, &Pass::eval())?;
    let logits = model.unembed(&hidden.squeeze(0)?)?;
    println!("{:?}", logits.dims());
    candle_core::safetensors::save(&HashMap::from([("logits", logits)]), out)?;
    Ok(())
}
