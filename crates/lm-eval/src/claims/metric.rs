//! What a rule measures in one run.

use std::collections::BTreeMap;

use anyhow::Context;
use lm_train::probe::FfnFigures;
use lm_train::record::{HealthRow, Metric as Line, read_metrics};
use serde::{Deserialize, Serialize};

use crate::compare::Run;
use crate::stats::mean;

/// A number of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Held-out loss, nats per token.
    Loss,
    /// Training tokens per parameter: how far training went for the model's size.
    TokensPerParameter,
    /// Worst signal to quantisation noise of the input of a down projection, in one layer and step, decibels.
    DownInputSqnrMin,
    /// Largest share of the input of a down projection that saturated, in one layer and step.
    DownInputSaturated,
    /// Mean |cos(w_gate, w_up)| over all channels, at the end.
    AlignmentMean,
    /// Largest |cos(w_gate, w_up)| of a channel, at the end.
    AlignmentMax,
    /// Share of hidden units, over all layers, that are zero on all tokens of the last probe (`train.probe_every`).
    DeadShare,
    /// Slope of the active ratio (`train.sparsity_every`) over log2 of the training tokens, within a run.
    ActiveRatioSlope,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 8] = [
        Self::Loss,
        Self::TokensPerParameter,
        Self::DownInputSqnrMin,
        Self::DownInputSaturated,
        Self::AlignmentMean,
        Self::AlignmentMax,
        Self::DeadShare,
        Self::ActiveRatioSlope,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "held-out loss",
            Self::TokensPerParameter => "training tokens per parameter",
            Self::DownInputSqnrMin => "worst signal to noise of the input of a down projection",
            Self::DownInputSaturated => "largest share of the input of a down projection that saturated",
            Self::AlignmentMean => "mean |cos(w_gate, w_up)| at the end",
            Self::AlignmentMax => "largest |cos(w_gate, w_up)| at the end",
            Self::DeadShare => "share of dead units, zero on all tokens of the last probe",
            Self::ActiveRatioSlope => "slope of the active ratio over log2 of training tokens",
        }
    }

    /// The unit that follows a number; empty for a share.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Loss => "nats",
            Self::DownInputSqnrMin => "dB",
            Self::ActiveRatioSlope => "per doubling",
            Self::TokensPerParameter
            | Self::DownInputSaturated
            | Self::AlignmentMean
            | Self::AlignmentMax
            | Self::DeadShare => "",
        }
    }

    /// Whether it is a count of few things, which may well be the same in runs that have nothing else in common.
    pub const fn is_counted(self) -> bool {
        match self {
            Self::DeadShare => true,
            Self::Loss
            | Self::TokensPerParameter
            | Self::DownInputSqnrMin
            | Self::DownInputSaturated
            | Self::AlignmentMean
            | Self::AlignmentMax
            | Self::ActiveRatioSlope => false,
        }
    }

    /// The config key with which runs log it; `None` where they always do.
    pub const fn logged_by(self) -> Option<&'static str> {
        match self {
            Self::Loss | Self::TokensPerParameter => None,
            Self::DownInputSqnrMin | Self::DownInputSaturated => Some("precision.health_every"),
            Self::AlignmentMean | Self::AlignmentMax => Some("train.alignment_every"),
            Self::DeadShare => Some("train.probe_every"),
            Self::ActiveRatioSlope => Some("train.sparsity_every"),
        }
    }

    /// Its value in `run`; `None` where the run does not have it: a loss that diverged, a health that nobody looked at.
    ///
    /// # Errors
    /// When the run's `metrics.jsonl` is needed, is there and cannot be read.
    pub fn read(self, run: &Run) -> anyhow::Result<Option<f64>> {
        let summary = &run.summary;
        Ok(match self {
            Self::Loss => summary.validation.as_ref().map(|validation| validation.loss),
            Self::TokensPerParameter => Some(summary.tokens as f64 / summary.params.total as f64),
            Self::DownInputSqnrMin => {
                down_inputs(run)?.iter().filter_map(|tensor| tensor.sqnr_db).reduce(f64::min)
            }
            Self::DownInputSaturated => {
                down_inputs(run)?.iter().map(|tensor| tensor.saturated).reduce(f64::max)
            }
            Self::AlignmentMean => {
                let cosines = alignment(run)?;
                (!cosines.is_empty()).then(|| cosines.iter().sum::<f64>() / cosines.len() as f64)
            }
            Self::AlignmentMax => alignment(run)?.into_iter().reduce(f64::max),
            Self::DeadShare => dead_share(&last_probe(run)?),
            Self::ActiveRatioSlope => active_ratio_slope(run)?,
        })
    }
}

/// The lines of a run's metrics; none where only its summary is there.
fn lines(run: &Run) -> anyhow::Result<Vec<Line>> {
    let path = run.dir.join("metrics.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    read_metrics(&path).with_context(|| format!("{} is needed for this claim", path.display()))
}

/// How the inputs of down projections fared in the steps that were looked at.
fn down_inputs(run: &Run) -> anyhow::Result<Vec<HealthRow>> {
    let of_down = |line| match line {
        Line::Health { tensor, .. } => {
            (tensor.operand == "input" && tensor.layer.ends_with("down_proj")).then_some(tensor)
        }
        Line::Step { .. }
        | Line::Eval { .. }
        | Line::Alignment { .. }
        | Line::Probe { .. }
        | Line::Sparsity { .. } => None,
    };
    Ok(lines(run)?.into_iter().filter_map(of_down).collect())
}

/// |cos(w_gate, w_up)| of the channels of all layers, when it was last looked at.
fn alignment(run: &Run) -> anyhow::Result<Vec<f64>> {
    let mut by_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for line in lines(run)? {
        if let Line::Alignment { step, cosines, .. } = line {
            by_step.entry(step).or_default().extend(cosines);
        }
    }
    Ok(by_step.pop_last().map(|(_, cosines)| cosines).unwrap_or_default())
}

/// The blocks as they were last looked at.
fn last_probe(run: &Run) -> anyhow::Result<Vec<FfnFigures>> {
    let mut by_step: BTreeMap<u64, Vec<FfnFigures>> = BTreeMap::new();
    for line in lines(run)? {
        if let Line::Probe { step, ffn } = line {
            by_step.entry(step).or_default().push(ffn);
        }
    }
    Ok(by_step.pop_last().map(|(_, blocks)| blocks).unwrap_or_default())
}

/// Dead units over units; `None` where units cannot be dead or were not counted.
fn dead_share(blocks: &[FfnFigures]) -> Option<f64> {
    let dead = blocks.iter().map(|block| block.dead_units).sum::<Option<u64>>()?;
    let units: u64 = blocks.iter().map(|block| block.units).sum();
    (units > 0).then(|| dead as f64 / units as f64)
}

/// Least-squares slope of the active ratio over log2 of the training tokens; `None` with fewer than three looks.
fn active_ratio_slope(run: &Run) -> anyhow::Result<Option<f64>> {
    let point = |line| match line {
        Line::Sparsity { tokens, found, .. } => Some(((tokens as f64).log2(), found.active_ratio)),
        Line::Step { .. }
        | Line::Eval { .. }
        | Line::Health { .. }
        | Line::Alignment { .. }
        | Line::Probe { .. } => None,
    };
    let points: Vec<(f64, f64)> = lines(run)?.into_iter().filter_map(point).collect();
    Ok(if points.len() < 3 { None } else { slope(&points) })
}

/// Of the least-squares line through points (x, y); `None` where all x are equal.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let (xs, ys): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let (x, y) = (mean(&xs)?, mean(&ys)?);
    let spread: f64 = xs.iter().map(|xi| (xi - x).powi(2)).sum();
    let together: f64 = points.iter().map(|(xi, yi)| (xi - x) * (yi - y)).sum();
    (spread > 0.0).then(|| together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::testing::RunMaker;

    #[test]
    fn what_a_run_does_not_have_is_none() {
        let run = RunMaker::new("relu", 0).diverged().run();
        assert_eq!(Metric::Loss.read(&run).unwrap(), None);
        let trained = Metric::TokensPerParameter.read(&run).unwrap().unwrap();
        assert_eq!(trained, run.summary.tokens as f64 / run.summary.params.total as f64);
        assert_eq!(Metric::AlignmentMax.read(&run).unwrap(), None, "there is no metrics.jsonl");
    }

    fn with_metrics(lines: &[Line]) -> (tempfile::TempDir, Run) {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        std::fs::write(folder.path().join("metrics.jsonl"), lines.join("\n")).unwrap();
        let mut run = RunMaker::new("swiglu", 0).run();
        run.dir = folder.path().to_owned();
        (folder, run)
    }

    #[test]
    fn alignment_is_read_over_all_layers_at_the_end() {
        let line = |step: u64, layer: &str, cosines: [f64; 2]| {
            let (layer, cosines) = (layer.to_owned(), cosines.to_vec());
            Line::Alignment { step, layer, cosines }
        };
        let lines = [line(10, "a", [0.99, 0.2]), line(20, "a", [0.1, 0.3]), line(20, "b", [0.5, 0.9])];
        let (_folder, run) = with_metrics(&lines);
        assert!((Metric::AlignmentMean.read(&run).unwrap().unwrap() - 0.45).abs() < 1e-12);
        assert_eq!(Metric::AlignmentMax.read(&run).unwrap(), Some(0.9));
        let (_folder, run) = with_metrics(&[]);
        assert_eq!(Metric::AlignmentMean.read(&run).unwrap(), None);
    }

    #[test]
    fn dead_units_are_counted_over_all_layers_of_the_last_probe() {
        let probe = |step: u64, layer: &str, units: u64, dead: Option<u64>| {
            let ffn = format!(
                r#"{{"layer":"{layer}","tokens":2048,"units":{units},"dead_units":{},"zero_share":0.5,"eps":0.001,
                "small_share":0.5,"rms":1,"max_abs":3,"kurtosis":4,"octaves":[],"saturated":[]}}"#,
                dead.map_or("null".to_owned(), |dead| dead.to_string())
            );
            Line::Probe { step, ffn: serde_json::from_str(&ffn).unwrap() }
        };
        let share = |lines: &[Line]| {
            let (_folder, run) = with_metrics(lines);
            Metric::DeadShare.read(&run).unwrap()
        };
        let early = [probe(10, "a", 60, Some(30)), probe(10, "b", 60, Some(30))];
        let late = [probe(20, "a", 60, Some(9)), probe(20, "b", 40, Some(1))];
        assert_eq!(share(&[&early[..], &late].concat()), Some(0.1));
        assert_eq!(share(&[probe(20, "a", 60, None)]), None, "Swish cannot die");
        assert_eq!(share(&[probe(20, "a", 0, None)]), None, "a run that did not count them");
        assert_eq!(share(&[]), None, "a run without probes");
    }

    #[test]
    fn the_slope_of_the_active_ratio_is_that_of_the_line() {
        let sparsity = |step: u64, active_ratio: f64| {
            let found = format!(
                r#"{{"tokens":2048,"active_ratio":{active_ratio},"dropped":[0.5],"level":0.2,"perplexity_ratio":1.01}}"#
            );
            Line::Sparsity { step, tokens: step * 1024, found: serde_json::from_str(&found).unwrap() }
        };
        let read = |lines: &[Line]| {
            let (_folder, run) = with_metrics(lines);
            Metric::ActiveRatioSlope.read(&run).unwrap()
        };
        // 0.9 less 0.05 per doubling of the tokens.
        let line: Vec<Line> =
            [1, 2, 4, 8].iter().map(|&step| sparsity(step, 0.9 - 0.05 * (step as f64).log2())).collect();
        assert!((read(&line).unwrap() + 0.05).abs() < 1e-12);
        // (0, 0), (1, 1), (2, 1): the best line rises by a half.
        let bent = [sparsity(1, 0.0), sparsity(2, 1.0), sparsity(4, 1.0)];
        assert!((read(&bent).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(read(&line[..2]), None, "two points are a line whatever they are");
        assert_eq!(read(&[]), None, "a run that did not look");
    }

    #[test]
    fn only_inputs_of_down_projections_count() {
        let row = |layer: &str, operand: &str, saturated: f64, db: f64| {
            let text = format!(
                r#"{{"layer":"{layer}","operand":"{operand}","format":"e4m3","amax":1,"saturated":{saturated},"flushed":0,
                "sqnr_db":{db},"scale_min":1,"scale_max":1}}"#
            );
            Line::Health { step: 1, tensor: serde_json::from_str(&text).unwrap() }
        };
        let (_folder, run) = with_metrics(&[
            row("0.mlp.down_proj", "input", 0.25, 20.0),
            row("1.mlp.down_proj", "input", 0.125, 10.0),
            row("0.mlp.down_proj", "weight", 0.5, 5.0),
            row("0.mlp.gate_proj", "input", 0.5, 5.0),
        ]);
        assert_eq!(Metric::DownInputSaturated.read(&run).unwrap(), Some(0.25));
        assert_eq!(Metric::DownInputSqnrMin.read(&run).unwrap(), Some(10.0));
    }
}
