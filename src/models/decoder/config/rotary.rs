//! What a configuration says of rotary positions: the keys of transformers 5 (`rope_parameters`) and the older ones.

use serde_json::{Map, Value};

use crate::models::config::Reader;
use crate::models::decoder::rope::{RopeConfig, RopeScaling};

impl Reader<'_> {
    /// Rotary positions; `layer_type` chooses among several.
    pub(super) fn rope(
        &mut self,
        layer_type: Option<&str>,
        theta: f64,
        head_dim: usize,
        partial: f64,
        max_positions: usize,
    ) -> RopeConfig {
        let is_local = layer_type == Some("sliding_attention");
        let new = self.present("rope_parameters").and_then(Value::as_object);
        let new = match (new, layer_type) {
            (Some(all), Some(kind)) if all.contains_key(kind) => {
                all.get(kind).and_then(Value::as_object)
            }
            (new, _) => new,
        };
        // The older key is for the global layers alone.
        let old = self.present("rope_scaling").and_then(Value::as_object);
        let values: Map<String, Value> = match (new, old) {
            (Some(new), _) => new.clone(),
            (None, Some(old)) if !is_local => old.clone(),
            _ => Map::new(),
        };
        let number = |key: &str| values.get(key).and_then(Value::as_f64);
        let theta = number("rope_theta").unwrap_or_else(|| {
            self.number_or(
                if is_local {
                    "rope_local_base_freq"
                } else {
                    "rope_theta"
                },
                theta,
            )
        });
        let partial = number("partial_rotary_factor")
            .unwrap_or_else(|| self.number_or("partial_rotary_factor", partial));
        let trained = number("original_max_position_embeddings")
            .or_else(|| self.present("original_max_position_embeddings")?.as_f64())
            .unwrap_or(max_positions as f64);
        let factor = number("factor").unwrap_or(max_positions as f64 / trained);
        let kind = values.get("rope_type").or_else(|| values.get("type"));
        let kind = kind
            .and_then(Value::as_str)
            .unwrap_or("default")
            .to_string();
        let list = |key: &str| -> Vec<f64> {
            let numbers = values.get(key).and_then(Value::as_array);
            numbers
                .into_iter()
                .flatten()
                .filter_map(Value::as_f64)
                .collect()
        };
        let dim = (head_dim as f64 * partial) as usize;
        let scaling = match kind.as_str() {
            "default" | "mrope" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor },
            "dynamic" => RopeScaling::Dynamic {
                factor,
                trained: max_positions as f64,
            },
            "llama3" => RopeScaling::Llama3 {
                factor,
                low: number("low_freq_factor").unwrap_or(1.0),
                high: number("high_freq_factor").unwrap_or(4.0),
                trained,
            },
            "yarn" => RopeScaling::Yarn {
                factor,
                attention: number("attention_factor").unwrap_or_else(|| {
                    let scale = |mscale: f64| {
                        if factor <= 1.0 {
                            1.0
                        } else {
                            0.1 * mscale * factor.ln() + 1.0
                        }
                    };
                    match (number("mscale"), number("mscale_all_dim")) {
                        (Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
                            scale(one) / scale(all)
                        }
                        _ => scale(1.0),
                    }
                }),
                fast: number("beta_fast").unwrap_or(32.0),
                slow: number("beta_slow").unwrap_or(1.0),
                trained,
                truncate: values.get("truncate") != Some(&Value::Bool(false)),
            },
            "longrope" | "su" => RopeScaling::Long {
                short: list("short_factor"),
                long: list("long_factor"),
                attention: number("attention_factor").unwrap_or_else(|| {
                    // Phi-3 says the longer context beside the old one, not as a factor.
                    let factor = max_positions as f64 / trained;
                    if factor <= 1.0 {
                        1.0
                    } else {
                        (1.0 + factor.ln() / trained.ln()).sqrt()
                    }
                }),
                trained,
            },
            _ => {
                self.fault(format!(
                    "`rope_type` is \"{kind}\", supported are default, linear, dynamic, llama3, yarn, longrope"
                ));
                RopeScaling::Default
            }
        };
        if let RopeScaling::Long { short, long, .. } = &scaling
            && (short.len() != dim / 2 || long.len() != dim / 2)
        {
            self.fault(format!(
                "`short_factor` and `long_factor` must have {} numbers",
                dim / 2
            ));
        }
        let all_positive = [theta, factor, trained]
            .iter()
            .all(|x| x.is_finite() && *x > 0.0);
        if !all_positive || dim % 2 == 1 || dim > head_dim || dim == 0 {
            self.fault(format!(
                "rotary positions of {dim} in {head_dim} features cannot be computed"
            ));
        }
        RopeConfig {
            theta,
            dim,
            scaling,
        }
    }
}
