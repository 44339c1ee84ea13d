//! One row per run.

use lm_train::record::{RunStatus, Summary};

use super::{Column, integer};
use crate::compare::Comparison;

/// A run with its arm.
pub struct RunRow {
    arm: String,
    lr: Option<f64>,
    dir: String,
    run: Summary,
}

/// The runs of a comparison, by arm and seed.
pub fn run_rows(comparison: &Comparison) -> Vec<RunRow> {
    let rows = comparison.runs.iter().filter_map(|row| {
        let arm = comparison.arms.iter().find(|arm| arm.label == row.arm)?;
        Some(RunRow { arm: row.arm.clone(), lr: arm.lr, dir: row.dir.clone(), run: row.summary.clone() })
    });
    rows.collect()
}

fn loss(row: &RunRow) -> Option<f64> {
    Some(row.run.validation.as_ref()?.loss)
}

/// Every column.
pub const RUN_COLUMNS: &[Column<RunRow>] = &[
    Column::text("run", "run directory", |row| Some(row.dir.clone())),
    Column::text("arm", "label of the arm, as in the table", |row| Some(row.arm.clone())),
    Column::text("ffn", "feed-forward variant", |row| Some(row.run.ffn.clone())),
    Column::text("precision", "precision recipe", |row| Some(row.run.precision.clone())),
    Column::integer("seed", "seed", |row| integer(row.run.seed)),
    Column::text("status", "finished or diverged", |row| Some(status(row.run.status).to_owned())),
    Column::float("lr", "peak learning rate", |row| row.lr),
    Column::integer("d_ff", "hidden width of the feed-forward block", |row| integer(row.run.d_ff)),
    Column::integer("params", "trainable parameters", |row| integer(row.run.params.total)),
    Column::integer("flops_per_token", "forward FLOPs per token at full context", |row| {
        integer(row.run.flops_per_token)
    }),
    Column::integer("vocab_size", "size of the vocabulary", |row| integer(row.run.vocab_size)),
    Column::integer("steps", "optimizer steps taken", |row| integer(row.run.steps)),
    Column::integer("tokens", "training tokens seen", |row| integer(row.run.tokens)),
    Column::float("train_loss", "training loss of the last step, nats per token", |row| row.run.train_loss),
    Column::float("val_loss", "held-out loss, nats per token; null if it diverged", loss),
    Column::float("perplexity", "exp(val_loss)", |row| Some(row.run.validation.as_ref()?.perplexity)),
    Column::float("bits_per_byte", "held-out loss, bits per byte of text", |row| {
        row.run.validation.as_ref()?.bits_per_byte
    }),
    Column::float("floor", "entropy of the held-out text where known, nats per token", |row| row.run.floor),
    Column::integer("diverged_at", "step at which it diverged", |row| integer(row.run.diverged_at?)),
    Column::float("wall_s", "time spent, seconds", |row| Some(row.run.wall_s)),
    Column::float("tokens_per_s", "training tokens per second", |row| Some(row.run.tokens_per_s)),
    Column::float("peak_rss_mb", "highest resident memory, MiB", |row| Some(row.run.peak_rss_mb)),
    Column::integer("threads", "threads used", |row| integer(row.run.threads)),
    Column::text("run_id", "hash of config and data", |row| Some(row.run.run_id.clone())),
    Column::text("data_fingerprint", "hash of the data", |row| Some(row.run.data_fingerprint.clone())),
    Column::text("ffnlab", "version that trained it", |row| Some(row.run.ffnlab.clone())),
    Column::text("commit", "commit that ffnlab was built from, where known", |row| row.run.commit.clone()),
    Column::text("host", "processor and system", |row| Some(row.run.host.clone())),
];

fn status(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Finished => "finished",
        RunStatus::Diverged => "diverged",
    }
}
