//! `[optim]`, `[schedule]` and `[train]`: how a run is optimised and for how long.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Largest peak learning rate that a config may ask for.
pub const MAX_LR: f64 = 10.0;

/// `[optim]`: AdamW with decoupled decay (Loshchilov & Hutter 2019).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Peak learning rate. Default 1e-3.
    #[garde(range(min = 0.0, max = MAX_LR))]
    pub lr: f64,
    /// Decay of the first moment. Default 0.9.
    #[garde(range(min = 0.0, max = 0.999_999))]
    pub beta1: f64,
    /// Decay of the second moment. Default 0.95.
    #[garde(range(min = 0.0, max = 0.999_999))]
    pub beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    #[garde(range(min = 1e-20, max = 1.0))]
    pub eps: f64,
    /// Decoupled weight decay, applied to matrices only. Default 0.1.
    #[garde(range(min = 0.0, max = 100.0))]
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 turns clipping off. Default 1.
    #[garde(range(min = 0.0, max = 1e9))]
    pub grad_clip: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0 }
    }
}

/// Shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine from the peak to the final rate.
    Cosine,
    /// A straight line from the peak to the final rate.
    Linear,
    /// Peak * sqrt(warmup / step) (Vaswani et al. 2017), no final decay.
    InverseSqrt,
    /// The peak throughout.
    Constant,
    /// Warm-up, stable, decay: the peak, then a straight line over the last decay_fraction of the steps.
    Wsd,
}

impl ScheduleKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Cosine, Self::Linear, Self::InverseSqrt, Self::Constant, Self::Wsd];
}

/// `[schedule]`: warm-up and decay of the learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// "cosine", "linear", "inverse_sqrt", "constant" or "wsd". Default "cosine".
    #[garde(skip)]
    pub kind: ScheduleKind,
    /// Steps over which the rate rises linearly to its peak. Default 100.
    #[garde(skip)]
    pub warmup_steps: u64,
    /// Final rate as a share of the peak (cosine, linear, wsd). Default 0.1.
    #[garde(range(min = 0.0, max = 1.0))]
    pub min_lr_ratio: f64,
    /// Share of the steps spent decaying (wsd only). Default 0.2.
    #[garde(range(min = 0.0, max = 1.0))]
    pub decay_fraction: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup_steps: 100, min_lr_ratio: 0.1, decay_fraction: 0.2 }
    }
}

/// `[train]`: budget, batches, and when to look and to save.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimizer steps. Give this or tokens; 1000 when neither is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub steps: Option<u64>,
    /// Training tokens, rounded up to whole steps. Give this or steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub tokens: Option<u64>,
    /// Sequences per optimizer step. Default 16.
    #[garde(range(min = 1, max = 1_048_576))]
    pub batch_size: usize,
    /// Number of equal parts in which a batch is computed, to save memory; the gradient is that of the whole batch.
    /// Must divide batch_size. Default 1.
    #[garde(range(min = 1, max = 1_048_576))]
    pub micro_batches: usize,
    /// Validate every so many steps (and always over the whole validation set at the end); 0: only at the end. Default 200.
    #[garde(skip)]
    pub eval_every: u64,
    /// Sequences used by those intermediate validations. Default 64.
    #[garde(range(min = 1, max = 1_048_576))]
    pub eval_sequences: usize,
    /// Save a checkpoint every so many steps (and always at the end); 0: only at the end. Default 500.
    #[garde(skip)]
    pub checkpoint_every: u64,
    /// Checkpoints kept in the run directory, the newest ones. Default 1.
    #[garde(range(min = 1, max = 1_000_000))]
    pub keep_checkpoints: usize,
    /// Log |cos(w_gate, w_up)| of every channel every so many steps; 0: never. Default 0.
    #[serde(skip_serializing_if = "crate::record::is_zero")]
    #[garde(skip)]
    pub alignment_every: u64,
    /// Log the inside of every feed-forward block (zeros, dead units, small and largest activations, kurtosis, vanished
    /// derivatives) on the first 2048 validation tokens every so many steps; 0: never. Training is not changed by it.
    /// Default 0.
    #[serde(skip_serializing_if = "crate::record::is_zero")]
    #[garde(skip)]
    pub probe_every: u64,
    /// Log how many neurons cannot be dropped before perplexity on the first 2048 validation tokens rises by 1 %
    /// (CETT-PPL-1%) every so many steps; 0: never. It takes a dozen passes over these tokens each time, and training is
    /// not changed by it. Default 0.
    #[serde(skip_serializing_if = "crate::record::is_zero")]
    #[garde(skip)]
    pub sparsity_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: None,
            tokens: None,
            batch_size: 16,
            micro_batches: 1,
            eval_every: 200,
            eval_sequences: 64,
            checkpoint_every: 500,
            keep_checkpoints: 1,
            alignment_every: 0,
            probe_every: 0,
            sparsity_every: 0,
        }
    }
}

/// Steps taken when a config gives neither `train.steps` nor `train.tokens`.
pub const DEFAULT_STEPS: u64 = 1000;

impl TrainConfig {
    /// Optimizer steps of the whole run, for sequences of `seq_len` tokens.
    pub fn total_steps(&self, seq_len: usize) -> u64 {
        match (self.steps, self.tokens) {
            (Some(steps), _) => steps,
            (None, Some(tokens)) => tokens.div_ceil((self.batch_size * seq_len) as u64),
            (None, None) => DEFAULT_STEPS,
        }
    }
}
