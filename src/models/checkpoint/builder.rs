//! The `VarBuilder` backend over a [`Checkpoint`].

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;

use super::names::Names;
use super::{Checkpoint, CheckpointError};

/// Looks tensors up by the rules of [`Names`] and checks their shape before reading them.
pub(super) struct CheckedBackend {
    checkpoint: Arc<Checkpoint>,
    names: Names,
}

impl CheckedBackend {
    pub(super) fn new(checkpoint: Arc<Checkpoint>, base_model_prefix: &str) -> Self {
        let names = Names::detect(base_model_prefix, checkpoint.names());
        Self { checkpoint, names }
    }

    /// The name in the file of the tensor asked for.
    fn find(&self, asked: &str) -> Result<String, CheckpointError> {
        let candidates = self.names.candidates(asked);
        candidates
            .into_iter()
            .find(|name| self.checkpoint.shape(name).is_some())
            .ok_or_else(|| CheckpointError::MissingTensor {
                name: asked.into(),
                nearest: self.names.nearest(asked, self.checkpoint.names()),
                file: self.checkpoint.first_file(),
            })
    }

    fn read(
        &self,
        expected: Option<&Shape>,
        asked: &str,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, CheckpointError> {
        let name = self.find(asked)?;
        let got = self.checkpoint.shape(&name).unwrap_or_default();
        if let Some(expected) = expected
            && expected.dims() != got
        {
            let (expected, got) = (expected.dims().to_vec(), got.to_vec());
            let file = self.file_of(&name);
            return Err(CheckpointError::ShapeMismatch {
                name,
                expected,
                got,
                file,
            });
        }
        let tensor = self.checkpoint.tensor(&name, dtype, device)?;
        if let Ok(mut read) = self.checkpoint.read.lock() {
            read.insert(asked.to_string());
        }
        Ok(tensor)
    }

    fn file_of(&self, name: &str) -> PathBuf {
        let source = self
            .checkpoint
            .tensors
            .get(name)
            .and_then(|entry| self.checkpoint.sources.get(entry.source));
        source
            .map(|source| source.file().to_path_buf())
            .unwrap_or_default()
    }

    /// Passes the text on as candle's error and keeps the error for [`Checkpoint::take_failure`].
    fn report(&self, error: CheckpointError) -> candle_core::Error {
        let text = error.to_string();
        if let Ok(mut failure) = self.checkpoint.failure.lock() {
            *failure = Some(error);
        }
        candle_core::Error::Msg(text)
    }
}

impl SimpleBackend for CheckedBackend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(Some(&shape), name, dtype, device)
            .map_err(|error| self.report(error))
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(None, name, dtype, device)
            .map_err(|error| self.report(error))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }
}
