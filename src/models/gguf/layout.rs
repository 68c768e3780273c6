//! Where a tensor of a GGUF file belongs in a checkpoint of `transformers`: its name, and what `llama.cpp`'s converter did to
//! it on the way (`convert_hf_to_gguf.py`), which is undone here.

/// An architecture whose tensors are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
    SmolLm3,
    Phi3,
    Gemma2,
    Gemma3,
    Gpt2,
    GptNeoX,
}

/// Words of `general.architecture` that are known.
pub(super) const ARCHITECTURES: &[(&str, Architecture)] = &[
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("smollm3", Architecture::SmolLm3),
    ("phi3", Architecture::Phi3),
    ("gemma2", Architecture::Gemma2),
    ("gemma3", Architecture::Gemma3),
    ("gpt2", Architecture::Gpt2),
    ("gptneox", Architecture::GptNeoX),
];

/// How values lie in the file, compared with the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrangement {
    /// As there.
    Same,
    /// Within each of so many heads, the halves of the rotary pairs are interleaved.
    Interleaved { heads: usize },
    /// All queries, then all keys, then all values, where the checkpoint has the three of one head together.
    ByRole { heads: usize },
    /// One more than there: the gain of a norm that the checkpoint has as its distance from one.
    PlusOne,
    /// Rows and columns are exchanged there.
    Transposed,
}

/// Heads of queries and of keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) query: usize,
    pub(super) key: usize,
}

impl Architecture {
    pub(super) fn of(word: &str) -> Option<Self> {
        let found = ARCHITECTURES.iter().find(|(name, _)| *name == word);
        found.map(|(_, architecture)| *architecture)
    }

    /// The `model_type` of `transformers`.
    pub(super) const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::SmolLm3 => "smollm3",
            Self::Phi3 => "phi3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Gpt2 => "gpt2",
            Self::GptNeoX => "gpt_neox",
        }
    }

    pub(super) const fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// The name in a checkpoint of a tensor of the file, and how its values lie; `None` for what a checkpoint does not
    /// have as a tensor.
    pub(super) fn place(self, name: &str, heads: Heads) -> Option<(String, Arrangement)> {
        let (stem, part) = name.rsplit_once('.')?;
        let module = match stem.strip_prefix("blk.") {
            None => self.outer(stem)?.to_string(),
            Some(block) => {
                let (number, inner) = block.split_once('.')?;
                let number: usize = number.parse().ok()?;
                format!("{}.{number}.{}", self.layers(), self.inner(inner)?)
            }
        };
        let arrangement = self.arrangement(stem.rsplit('.').next()?, part, heads);
        Some((format!("{module}.{part}"), arrangement))
    }

    const fn layers(self) -> &'static str {
        match self {
            Self::Gpt2 => "transformer.h",
            Self::GptNeoX => "gpt_neox.layers",
            _ => "model.layers",
        }
    }

    fn outer(self, stem: &str) -> Option<&'static str> {
        Some(match (self, stem) {
            (Self::Gpt2, "token_embd") => "transformer.wte",
            (Self::Gpt2, "position_embd") => "transformer.wpe",
            (Self::Gpt2, "output_norm") => "transformer.ln_f",
            (Self::GptNeoX, "token_embd") => "gpt_neox.embed_in",
            (Self::GptNeoX, "output_norm") => "gpt_neox.final_layer_norm",
            (Self::GptNeoX, "output") => "embed_out",
            (_, "token_embd") => "model.embed_tokens",
            (_, "output_norm") => "model.norm",
            (_, "output") => "lm_head",
            _ => return None,
        })
    }

    fn inner(self, stem: &str) -> Option<&'static str> {
        Some(match self {
            Self::Gpt2 => match stem {
                "attn_norm" => "ln_1",
                "attn_qkv" => "attn.c_attn",
                "attn_output" => "attn.c_proj",
                "ffn_norm" => "ln_2",
                "ffn_up" => "mlp.c_fc",
                "ffn_down" => "mlp.c_proj",
                _ => return None,
            },
            Self::GptNeoX => match stem {
                "attn_norm" => "input_layernorm",
                "attn_qkv" => "attention.query_key_value",
                "attn_output" => "attention.dense",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_up" => "mlp.dense_h_to_4h",
                "ffn_down" => "mlp.dense_4h_to_h",
                _ => return None,
            },
            _ => match stem {
                "attn_norm" => "input_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_qkv" => "self_attn.qkv_proj",
                "attn_output" => "self_attn.o_proj",
                "attn_q_norm" => "self_attn.q_norm",
                "attn_k_norm" => "self_attn.k_norm",
                "ffn_norm" if self.is_gemma() => "pre_feedforward_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "post_attention_norm" => "post_attention_layernorm",
                "post_ffw_norm" => "post_feedforward_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" if self == Self::Phi3 => "mlp.gate_up_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            },
        })
    }

    fn arrangement(self, stem: &str, part: &str, heads: Heads) -> Arrangement {
        match (self, stem) {
            (Self::Llama | Self::SmolLm3, "attn_q") => {
                Arrangement::Interleaved { heads: heads.query }
            }
            (Self::Llama | Self::SmolLm3, "attn_k") => {
                Arrangement::Interleaved { heads: heads.key }
            }
            (Self::GptNeoX, "attn_qkv") => Arrangement::ByRole { heads: heads.query },
            (Self::Gpt2, "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down")
                if part == "weight" =>
            {
                Arrangement::Transposed
            }
            (Self::Gemma2 | Self::Gemma3, _) if stem.ends_with("norm") => Arrangement::PlusOne,
            _ => Arrangement::Same,
        }
    }
}

impl Arrangement {
    /// For each row of the checkpoint, the row of the file; `None` where they are the same or cannot be arranged so.
    pub(super) fn order(self, rows: usize) -> Option<Vec<usize>> {
        match self {
            Self::Same | Self::PlusOne | Self::Transposed => None,
            Self::Interleaved { heads } => {
                let size = rows.checked_div(heads)?;
                let half = size / 2;
                (heads * half * 2 == rows).then(|| {
                    let row = |row: usize| {
                        let (head, within) = (row / size, row % size);
                        head * size + within % half * 2 + within / half
                    };
                    (0..rows).map(row).collect()
                })
            }
            Self::ByRole { heads } => {
                let size = rows.checked_div(3 * heads)?;
                (heads * size * 3 == rows).then(|| {
                    let row = |row: usize| {
                        let (head, within) = (row / (3 * size), row % (3 * size));
                        within / size * heads * size + head * size + within % size
                    };
                    (0..rows).map(row).collect()
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_rotary_pairs_come_back_in_halves() {
        // One head of four rows lies in the file as 0 2 1 3.
        let order = Arrangement::Interleaved { heads: 2 }.order(8);
        assert_eq!(order, Some(vec![0, 2, 1, 3, 4, 6, 5, 7]));
        let order = Arrangement::Interleaved { heads: 1 }.order(6);
        assert_eq!(order, Some(vec![0, 2, 4, 1, 3, 5]));
        assert_eq!(Arrangement::Interleaved { heads: 3 }.order(8), None);
    }

    #[test]
    fn rows_by_role_come_back_by_head() {
        // Two heads of one row: the file has q0 q1 k0 k1 v0 v1, the checkpoint q0 k0 v0 q1 k1 v1.
        let order = Arrangement::ByRole { heads: 2 }.order(6);
        assert_eq!(order, Some(vec![0, 2, 4, 1, 3, 5]));
    }

    #[test]
    fn names_are_those_of_the_checkpoint() {
        let heads = Heads { query: 4, key: 2 };
        let name = |architecture: Architecture, name: &str| {
            architecture.place(name, heads).map(|(name, _)| name)
        };
        for (architecture, file, checkpoint) in [
            (
                Architecture::Llama,
                "blk.11.attn_q.weight",
                "model.layers.11.self_attn.q_proj.weight",
            ),
            (
                Architecture::Gemma2,
                "blk.0.ffn_norm.weight",
                "model.layers.0.pre_feedforward_layernorm.weight",
            ),
            (
                Architecture::Phi3,
                "blk.1.ffn_up.weight",
                "model.layers.1.mlp.gate_up_proj.weight",
            ),
            (
                Architecture::Gpt2,
                "blk.2.attn_qkv.bias",
                "transformer.h.2.attn.c_attn.bias",
            ),
            (Architecture::GptNeoX, "output.weight", "embed_out.weight"),
        ] {
            assert_eq!(name(architecture, file).as_deref(), Some(checkpoint));
        }
        assert_eq!(name(Architecture::Llama, "rope_freqs.weight"), None);
        assert_eq!(name(Architecture::Llama, "blk.x.attn_q.weight"), None);
    }
}
