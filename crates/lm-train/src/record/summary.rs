//! `summary.json`: what a run came to.
//!
//! Written once, when a run ends by finishing or by diverging; a run directory without it is unfinished. Everything
//! that a comparison needs is here, so that tables never have to open a checkpoint.

use serde::{Deserialize, Serialize};

use super::health::HealthSummary;

/// Version of the layout of a run directory. Raised when an old reader would misread a new directory.
pub const RUN_SCHEMA: u32 = 1;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// All steps were taken and the whole validation set was evaluated.
    Finished,
    /// The loss or the gradient norm stopped being finite: a result, not a failure.
    Diverged,
}

/// Loss over a held-out token stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalResult {
    /// Mean negative log-likelihood, nats per token.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// loss / ln 2 * tokens / bytes; absent when the size of the text is not known (token files without a tokenizer).
    pub bits_per_byte: Option<f64>,
    /// Tokens that were scored.
    pub tokens: u64,
    /// Longest context given to the model, tokens.
    pub seq_len: usize,
    /// Distance between the starts of two windows, tokens.
    pub stride: usize,
}

/// Parameters by part, counted on the real tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamCounts {
    /// All trainable parameters.
    pub total: usize,
    /// Token embedding and, when untied, the output head.
    pub embedding: usize,
    /// Attention projections.
    pub attention: usize,
    /// Feed-forward blocks.
    pub ffn: usize,
    /// Norm gains.
    pub norm: usize,
}

/// Contents of `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`RUN_SCHEMA`] at the time of writing.
    pub schema: u32,
    /// Version of ffnlab that wrote it.
    pub ffnlab: String,
    /// Commit that ffnlab was built from, where known; `-dirty` behind it where its sources differed from that commit. Of
    /// a run in several sittings it is the last one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// How the run ended.
    pub status: RunStatus,
    /// Hash of the resolved config and the data.
    pub run_id: String,
    /// Hash of the data, the tokenizer's settings included.
    pub data_fingerprint: String,
    /// Name of the feed-forward variant, such as `swiglu`.
    pub ffn: String,
    /// Hidden width of the feed-forward block.
    pub d_ff: usize,
    /// Name of the precision recipe, such as `bf16`.
    #[serde(default = "full_precision")]
    pub precision: String,
    /// Seed of the run.
    pub seed: u64,
    /// Parameters by part.
    pub params: ParamCounts,
    /// Forward FLOPs per token at full context (a multiplication and an addition count as two).
    pub flops_per_token: u64,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Training tokens seen.
    pub tokens: u64,
    /// Training loss of the last step, nats per token; absent when it was not finite.
    pub train_loss: Option<f64>,
    /// Loss over the whole validation set; absent when the run diverged.
    pub validation: Option<EvalResult>,
    /// Exact entropy of the validation text, nats per token, where the source knows it.
    pub floor: Option<f64>,
    /// Step at which the loss or the gradient stopped being finite.
    pub diverged_at: Option<u64>,
    /// Seconds spent, all sittings together.
    pub wall_s: f64,
    /// Training tokens per second, validation and checkpoints excluded.
    pub tokens_per_s: f64,
    /// Highest resident memory, MiB.
    pub peak_rss_mb: f64,
    /// Threads used.
    pub threads: usize,
    /// Numbers of the cores that the process could run on, where the system tells: its own, if it was pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<Vec<usize>>,
    /// Processor, operating system and architecture.
    pub host: String,
    /// Steps left out because the scaled gradient overflowed (loss scaling only).
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub skipped_steps: u64,
    /// NaN and infinities among the operands of weight products, over all training steps.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub non_finite: u64,
    /// How the quantised operands fared, by kind; empty in f32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<HealthSummary>,
}

impl Summary {
    /// Whether ffnlab's sources differed from the commit that is recorded.
    pub fn is_dirty(&self) -> bool {
        self.commit.as_ref().is_some_and(|commit| commit.ends_with("-dirty"))
    }
}

/// What runs were computed in before there was a choice.
fn full_precision() -> String {
    ffn_variants::PrecisionPreset::Fp32.name().to_owned()
}
