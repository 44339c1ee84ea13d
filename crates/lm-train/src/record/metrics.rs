//! `metrics.jsonl`: one line per step and per validation, append-only.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::atomic::write_atomic;
use super::health::HealthRow;
use crate::probe::{ActiveRatio, FfnFigures};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Metric {
    /// An optimizer step.
    Step {
        /// Steps taken, this one included.
        step: u64,
        /// Tokens seen, this step included.
        tokens: u64,
        /// Training loss, nats per token; null when it is not finite.
        loss: Option<f64>,
        /// Learning rate.
        lr: f64,
        /// Gradient norm before clipping; null when it is not finite.
        grad_norm: Option<f64>,
        /// Factor on the loss in the backward pass; absent without loss scaling.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss_scale: Option<f64>,
        /// The scaled gradient overflowed, and the update was left out.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
        /// NaN and infinities among the operands of weight products; absent when there were none.
        #[serde(default, skip_serializing_if = "super::is_zero")]
        non_finite: u64,
        /// Seconds since the run began, all sittings together.
        wall_s: f64,
    },
    /// A validation on the way.
    Eval {
        /// Steps taken before it.
        step: u64,
        /// Tokens seen before it.
        tokens: u64,
        /// Loss on the validation sequences used on the way, nats per token.
        val_loss: f64,
        /// Seconds since the run began, all sittings together.
        wall_s: f64,
    },
    /// How one operand of one layer fared when it was quantised in a step that was looked at.
    Health {
        /// Steps taken, this one included.
        step: u64,
        /// The operand and what was seen.
        tensor: HealthRow,
    },
    /// How parallel gate and up weights are, in one gated block.
    Alignment {
        /// Steps taken.
        step: u64,
        /// The block, such as `model.layers.0.mlp`.
        layer: String,
        /// |cos(w_gate, w_up)| of every channel.
        cosines: Vec<f64>,
    },
    /// The inside of one feed-forward block on the first validation tokens.
    Probe {
        /// Steps taken.
        step: u64,
        /// The block and its figures.
        ffn: FfnFigures,
    },
    /// How much of all blocks together can be dropped before perplexity rises, on the first validation tokens.
    Sparsity {
        /// Steps taken.
        step: u64,
        /// Training tokens seen.
        tokens: u64,
        /// What was found.
        found: ActiveRatio,
    },
}

impl Metric {
    /// Step of the line.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step { step, .. }
            | Self::Eval { step, .. }
            | Self::Health { step, .. }
            | Self::Alignment { step, .. }
            | Self::Probe { step, .. }
            | Self::Sparsity { step, .. } => *step,
        }
    }

    /// NaN and infinities among the operands of a step's weight products.
    pub fn non_finite(&self) -> u64 {
        match self {
            Self::Step { non_finite, .. } => *non_finite,
            Self::Eval { .. }
            | Self::Health { .. }
            | Self::Alignment { .. }
            | Self::Probe { .. }
            | Self::Sparsity { .. } => 0,
        }
    }
}

/// Appends to `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// Opens `path`, keeping the lines up to `step` and dropping those that a resumed run will write again.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        if path.exists() {
            let kept: String = read_lines(path)?
                .into_iter()
                .filter(|(_, metric)| metric.step() <= step)
                .map(|(line, _)| line + "\n")
                .collect();
            write_atomic(path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends one line with a single write, so that a crash leaves at most one partial line, which readers skip.
    ///
    /// # Errors
    /// When the disk is full or the file is gone.
    pub fn append(&mut self, metric: &Metric) -> Result<()> {
        let mut line = serde_json::to_string(metric)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("cannot sync {}", self.path.display()))
    }
}

/// All whole lines of a metrics file.
///
/// # Errors
/// When the file cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<Metric>> {
    Ok(read_lines(path)?.into_iter().map(|(_, metric)| metric).collect())
}

fn read_lines(path: &Path) -> Result<Vec<(String, Metric)>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        // A line cut short by a crash does not parse; nothing that was finished is lost with it.
        if let Ok(text) = String::from_utf8(line)
            && let Ok(metric) = serde_json::from_str(&text)
        {
            lines.push((text, metric));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Metric {
        Metric::Step {
            step,
            tokens: step * 10,
            loss: Some(0.1),
            lr: 1e-3,
            grad_norm: None,
            loss_scale: None,
            skipped: false,
            non_finite: 0,
            wall_s: 1.5,
        }
    }

    #[test]
    fn reopening_drops_later_and_partial_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::open(&path, 0).unwrap();
        (1..=5).for_each(|i| writer.append(&step(i)).unwrap());
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"kind\":\"st").unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), 5);
        let mut writer = MetricsWriter::open(&path, 3).unwrap();
        writer.append(&step(4)).unwrap();
        let steps: Vec<u64> = read_metrics(&path).unwrap().iter().map(Metric::step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }

    #[test]
    fn a_probe_from_before_units_were_logged_is_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = r#"{"kind":"probe","step":6,"ffn":{"layer":"model.layers.0.mlp","tokens":2048,"zero_share":0.5,
            "eps":0.001,"small_share":0.5,"rms":1.0,"max_abs":3.0,"kurtosis":4.0,"octaves":[[-1,40]],"saturated":[]}}"#;
        std::fs::write(&path, line.replace('\n', "") + "\n").unwrap();
        let lines = read_metrics(&path).unwrap();
        let [Metric::Probe { step: 6, ffn }] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((ffn.units, ffn.dead_units, ffn.zero_share), (0, None, 0.5));
    }
}
