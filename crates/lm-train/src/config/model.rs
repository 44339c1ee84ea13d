//! `[model]`: the decoder-only transformer around the feed-forward block under study.

use ffn_variants::FfnSection;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[model]`: sizes of the decoder-only transformer (Llama's layout: RMSNorm before each block, RoPE, no biases).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Width of the residual stream. Default 128.
    #[garde(range(min = 2, max = 65536))]
    pub d_model: usize,
    /// Number of transformer blocks. Default 4.
    #[garde(range(min = 1, max = 1024))]
    pub n_layer: usize,
    /// Number of attention heads; d_model / n_head must be even (RoPE rotates pairs). Default 4.
    #[garde(range(min = 1, max = 1024))]
    pub n_head: usize,
    /// Context length in tokens. Default 128.
    #[garde(range(min = 1, max = 1_048_576))]
    pub seq_len: usize,
    /// Use the token embedding as output head too. Default false.
    #[garde(skip)]
    pub tie_embeddings: bool,
    /// Share of activations dropped after attention and after the FFN while training. Default 0 (off).
    #[garde(range(min = 0.0, max = 0.95))]
    pub dropout: f64,
    /// Base of the rotary position frequencies (Su et al. 2021). Default 10000.
    #[garde(range(min = 1.0, max = 1e12))]
    pub rope_theta: f64,
    /// Added to the mean square inside RMSNorm. Default 1e-5.
    #[garde(range(min = 1e-12, max = 1e-1))]
    pub norm_eps: f64,
    /// Standard deviation of the initial weights; projections that write into the residual stream get
    /// init_std / sqrt(2 n_layer) (GPT-2). Default 0.02.
    #[garde(range(min = 1e-6, max = 1.0))]
    pub init_std: f64,
    /// The feed-forward block.
    #[garde(skip)]
    pub ffn: FfnSection,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            d_model: 128,
            n_layer: 4,
            n_head: 4,
            seq_len: 128,
            tie_embeddings: false,
            dropout: 0.0,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            init_std: 0.02,
            ffn: FfnSection::default(),
        }
    }
}

impl ModelConfig {
    /// Width of one attention head.
    pub fn d_head(&self) -> usize {
        self.d_model / self.n_head
    }
}
