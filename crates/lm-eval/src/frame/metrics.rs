//! One row per training step and per validation on the way, of all runs.

use std::path::Path;

use anyhow::Result;
use lm_train::record::{Metric, read_metrics};

use super::{Column, integer};
use crate::compare::Comparison;

/// A line of a run's metrics, with the run.
pub struct MetricRow {
    run: String,
    arm: String,
    ffn: String,
    precision: String,
    seed: u64,
    metric: Metric,
}

/// The steps and validations of all runs of a comparison, by arm, seed and place in `metrics.jsonl`. What that file says
/// about single tensors is not a column of a step and stays there.
///
/// # Errors
/// Metrics that cannot be read.
pub fn metric_rows(comparison: &Comparison) -> Result<Vec<MetricRow>> {
    let mut rows = Vec::new();
    for run in &comparison.runs {
        for metric in read_metrics(&Path::new(&run.dir).join("metrics.jsonl"))? {
            match metric {
                Metric::Step { .. } | Metric::Eval { .. } => rows.push(MetricRow {
                    run: run.dir.clone(),
                    arm: run.arm.clone(),
                    ffn: run.summary.ffn.clone(),
                    precision: run.summary.precision.clone(),
                    seed: run.summary.seed,
                    metric,
                }),
                Metric::Health { .. }
                | Metric::Alignment { .. }
                | Metric::Probe { .. }
                | Metric::Sparsity { .. } => {}
            }
        }
    }
    Ok(rows)
}

/// Reads a field of a training step; null in rows of other kinds.
macro_rules! of_step {
    ($field:ident => $value:expr) => {
        |row| match &row.metric {
            Metric::Step { $field, .. } => $value,
            Metric::Eval { .. }
            | Metric::Health { .. }
            | Metric::Alignment { .. }
            | Metric::Probe { .. }
            | Metric::Sparsity { .. } => None,
        }
    };
}

/// Every column.
pub const METRIC_COLUMNS: &[Column<MetricRow>] = &[
    Column::text("run", "run directory", |row| Some(row.run.clone())),
    Column::text("arm", "label of the arm, as in the table", |row| Some(row.arm.clone())),
    Column::text("ffn", "feed-forward variant", |row| Some(row.ffn.clone())),
    Column::text("precision", "precision recipe", |row| Some(row.precision.clone())),
    Column::integer("seed", "seed", |row| integer(row.seed)),
    Column::text("kind", "step, or eval for a validation on the way", |row| {
        Some(kind(&row.metric).to_owned())
    }),
    Column::integer("step", "optimizer steps taken, this one included", |row| integer(row.metric.step())),
    Column::integer("tokens", "training tokens seen", |row| integer(tokens(&row.metric)?)),
    Column::float("loss", "training loss, nats per token; null if it is not finite", of_step!(loss => *loss)),
    Column::float("val_loss", "loss on the sequences used on the way, nats per token", |row| {
        val_loss(&row.metric)
    }),
    Column::float("lr", "learning rate of the step", of_step!(lr => Some(*lr))),
    Column::float(
        "grad_norm",
        "gradient norm before clipping; null if it is not finite",
        of_step!(grad_norm => *grad_norm),
    ),
    Column::float(
        "loss_scale",
        "factor on the loss; null without loss scaling",
        of_step!(loss_scale => *loss_scale),
    ),
    Column::flag(
        "skipped",
        "the scaled gradient overflowed and the update was left out",
        of_step!(skipped => Some(*skipped)),
    ),
    Column::integer(
        "non_finite",
        "NaN and infinities among operands of weight products",
        of_step!(non_finite => integer(*non_finite)),
    ),
    Column::float("wall_s", "time since the run began, seconds", |row| wall_s(&row.metric)),
];

fn kind(metric: &Metric) -> &'static str {
    match metric {
        Metric::Step { .. } => "step",
        Metric::Eval { .. } => "eval",
        Metric::Health { .. } => "health",
        Metric::Alignment { .. } => "alignment",
        Metric::Probe { .. } => "probe",
        Metric::Sparsity { .. } => "sparsity",
    }
}

fn tokens(metric: &Metric) -> Option<u64> {
    match metric {
        Metric::Step { tokens, .. } | Metric::Eval { tokens, .. } => Some(*tokens),
        Metric::Health { .. } | Metric::Alignment { .. } | Metric::Probe { .. } | Metric::Sparsity { .. } => {
            None
        }
    }
}

fn val_loss(metric: &Metric) -> Option<f64> {
    match metric {
        Metric::Eval { val_loss, .. } => Some(*val_loss),
        Metric::Step { .. }
        | Metric::Health { .. }
        | Metric::Alignment { .. }
        | Metric::Probe { .. }
        | Metric::Sparsity { .. } => None,
    }
}

fn wall_s(metric: &Metric) -> Option<f64> {
    match metric {
        Metric::Step { wall_s, .. } | Metric::Eval { wall_s, .. } => Some(*wall_s),
        Metric::Health { .. } | Metric::Alignment { .. } | Metric::Probe { .. } | Metric::Sparsity { .. } => {
            None
        }
    }
}
