//! What every family does between its projections: rotary positions, cache, masked attention.

use autopeft_adapters::ops;
use candle_core::{Result, Tensor};

use super::context::Context;
use super::{Cache, DecoderConfig, LayerConfig};
use crate::models::Config;

/// The attention of one layer, without its projections.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    layer: usize,
    sizes: ops::Attention,
    num_kv_heads: usize,
    own: LayerConfig,
}

impl Attention {
    pub(super) fn new(config: &Config, decoder: &DecoderConfig, layer: usize) -> Self {
        let own = decoder.layers.get(layer).copied().unwrap_or(LayerConfig {
            rope: None,
            window: None,
            scale: 1.0,
        });
        Self {
            layer,
            own,
            num_kv_heads: decoder.num_kv_heads,
            sizes: ops::Attention {
                num_heads: config.num_heads,
                scale: own.scale,
                softcap: decoder.attention_softcap,
            },
        }
    }

    /// `query`: (batch, length, heads · size), `key` and `value`: (batch, length, kv heads · size). Returns the shape of
    /// `query`.
    pub(super) fn forward(
        &self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: &Context,
        cache: Option<&mut Cache>,
    ) -> Result<Tensor> {
        let (mut query, mut key, mut value) = (query, key, value);
        if let Some((cos, sin)) = self.own.rope.and_then(|rope| context.ropes.get(rope)) {
            query = ops::rope(&query, cos, sin, self.sizes.num_heads)?;
            key = ops::rope(&key, cos, sin, self.num_kv_heads)?;
        }
        if let Some(cache) = cache {
            (key, value) = cache.extend(self.layer, &key, &value)?;
        }
        let mask = context.mask(self.own.window);
        ops::attention(&query, &key, &value, mask, self.sizes)
    }
}
