//! `[stress]`: a planted weakness and a batch that hits it.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[stress]`: the mechanism by which SwiGLU is said to fail in FP8 (Fishman et al. 2024, arXiv 2409.12517), planted rather
/// than waited for. In `channels` channels of every feed-forward block the up weights point along the embedding of one
/// `token` that the data do not contain, and the gate weights are +-`gain` times the up weights. From step `outlier_at`
/// on, `outlier_steps` batches hold nothing but that token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct StressConfig {
    /// Channels planted in every block; 0 plants nothing. Default 0.
    #[garde(skip)]
    pub channels: usize,
    /// w_gate = +-gain * w_up in these channels (in blocks without a gate, w_up is multiplied by its root). Default 2.
    #[garde(range(min = 0.0, max = 1e4))]
    pub gain: f64,
    /// Length of the planted up weights, in multiples of what a drawn weight row has. Default 1.
    #[garde(range(min = 0.0, max = 1e4))]
    pub strength: f64,
    /// The embedding of the token is multiplied by this, so that it outweighs in the residual stream what attention adds
    /// to it, also after training. Default 1.
    #[garde(range(min = 0.0, max = 1e4))]
    pub token_gain: f64,
    /// Id of the token. Default 255, which in the byte tokenizer is a byte that no UTF-8 text contains.
    #[garde(skip)]
    pub token: u32,
    /// First step (from 1) whose batch is the outlier; 0: never. Default 0.
    #[garde(skip)]
    pub outlier_at: u64,
    /// Number of outlier batches, one step each. Default 1.
    #[garde(skip)]
    pub outlier_steps: u64,
}

impl Default for StressConfig {
    fn default() -> Self {
        Self {
            channels: 0,
            gain: 2.0,
            strength: 1.0,
            token_gain: 1.0,
            token: 255,
            outlier_at: 0,
            outlier_steps: 1,
        }
    }
}

impl StressConfig {
    /// Whether the section says nothing, so that it need not be written.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the step with this number (from 1) meets an outlier batch.
    pub fn is_outlier(&self, step: u64) -> bool {
        self.outlier_at > 0 && (self.outlier_at..self.outlier_at + self.outlier_steps).contains(&step)
    }
}
