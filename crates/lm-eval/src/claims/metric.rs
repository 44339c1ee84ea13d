//! What a rule measures in one run.

use std::collections::BTreeMap;

use anyhow::Context;
use lm_train::record::{HealthRow, Metric as Line, read_metrics};
use serde::{Deserialize, Serialize};

use crate::compare::Run;

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
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 6] = [
        Self::Loss,
        Self::TokensPerParameter,
        Self::DownInputSqnrMin,
        Self::DownInputSaturated,
        Self::AlignmentMean,
        Self::AlignmentMax,
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
        }
    }

    /// The unit that follows a number; empty for a share.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Loss => "nats",
            Self::DownInputSqnrMin => "dB",
            Self::TokensPerParameter
            | Self::DownInputSaturated
            | Self::AlignmentMean
            | Self::AlignmentMax => "",
        }
    }

    /// Its value in `run`; `None` where the run does not have it: a loss that diverged, a health that nobody looked at.
    ///
    /// # Errors
    /// When the run's `metrics.jsonl` is needed and cannot be read.
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
        })
    }
}

fn lines(run: &Run) -> anyhow::Result<Vec<Line>> {
    let path = run.dir.join("metrics.jsonl");
    read_metrics(&path).with_context(|| format!("{} is needed for this claim", path.display()))
}

/// How the inputs of down projections fared in the steps that were looked at.
fn down_inputs(run: &Run) -> anyhow::Result<Vec<HealthRow>> {
    let of_down = |line| match line {
        Line::Health { tensor, .. } => {
            (tensor.operand == "input" && tensor.layer.ends_with("down_proj")).then_some(tensor)
        }
        Line::Step { .. } | Line::Eval { .. } | Line::Alignment { .. } | Line::Probe { .. } => None,
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
        assert!(Metric::AlignmentMax.read(&run).unwrap_err().to_string().contains("metrics.jsonl"));
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
