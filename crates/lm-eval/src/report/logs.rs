//! What runs wrote while they trained (`metrics.jsonl`), as plots need it: every file is read once.

use std::collections::BTreeMap;
use std::path::Path;

use lm_train::config::TrainConfig;
use lm_train::probe::FfnFigures;
use lm_train::record::{Metric, read_metrics};

use super::asked;
use crate::compare::{Comparison, RunRow};
use crate::diverge::curve::smoothed;

/// Points that are kept of a run, at most.
const POINTS: usize = 1500;
/// Share of the steps after which a loss counts half in a smoothed curve.
const HALF_LIFE: f64 = 0.02;

/// Losses of a run, nats per token, and seconds since its start, by step.
pub(super) type Points = BTreeMap<u64, (f64, f64)>;

/// What one run wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Log {
    /// Training losses, smoothed; not all steps of a long run.
    pub training: Points,
    /// Held-out losses on the way, as they were measured.
    pub held_out: Points,
    /// What probes saw, with the step, in the order of the file.
    pub probes: Vec<(u64, FfnFigures)>,
}

/// What all runs of a comparison wrote.
pub(super) struct Logs<'a> {
    /// The runs, in the order of the comparison; a run without a readable file has an empty log.
    runs: Vec<(&'a RunRow, Log)>,
    /// Steps after which a loss counts half.
    pub half_life: f64,
}

impl<'a> Logs<'a> {
    /// Reads the metrics of all runs.
    pub fn read(comparison: &'a Comparison) -> Self {
        let most = comparison.runs.iter().map(|run| run.summary.steps).max().unwrap_or(0);
        let half_life = (HALF_LIFE * most as f64).round().max(1.0);
        let log = |run: &'a RunRow| {
            let lines = read_metrics(&Path::new(&run.dir).join("metrics.jsonl"));
            (run, Log::new(lines.unwrap_or_default(), half_life))
        };
        Self { runs: comparison.runs.iter().map(log).collect(), half_life }
    }

    /// The runs of the arm with this label.
    pub fn of(&self, label: &str) -> impl Iterator<Item = (&'a RunRow, &Log)> {
        self.runs.iter().filter(move |(run, _)| run.arm == label).map(|(run, log)| (*run, log))
    }
}

impl Log {
    fn new(lines: Vec<Metric>, half_life: f64) -> Self {
        let mut log = Self::default();
        let (mut losses, mut seconds) = (Vec::new(), Vec::new());
        for line in lines {
            match line {
                Metric::Step { step, loss: Some(loss), wall_s, .. } => {
                    losses.push((step, loss));
                    seconds.push(wall_s);
                }
                Metric::Probe { step, ffn } => log.probes.push((step, ffn)),
                Metric::Eval { step, val_loss, wall_s, .. } => {
                    log.held_out.insert(step, (val_loss, wall_s));
                }
                Metric::Step { loss: None, .. }
                | Metric::Health { .. }
                | Metric::Alignment { .. }
                | Metric::Sparsity { .. } => {}
            }
        }
        log.training = training(&losses, &seconds, half_life);
        log
    }
}

/// Held-out tokens that a run measured its loss on while it trained; at most those that it has, which it is measured on in the
/// end. `None` for a run that has not finished.
pub(super) fn tokens_on_the_way(run: &RunRow) -> Option<u64> {
    let validation = run.summary.validation.as_ref()?;
    let config = asked::config(Path::new(&run.dir));
    let sequences =
        config.as_ref().and_then(|config| config.get("train")?.get("eval_sequences")?.as_integer());
    let sequences = sequences.map_or(TrainConfig::default().eval_sequences as u64, |n| n.unsigned_abs());
    Some((sequences * validation.seq_len as u64).min(validation.tokens))
}

/// The smoothed curve of (step, loss), reached after so many seconds.
fn training(losses: &[(u64, f64)], seconds: &[f64], half_life: f64) -> Points {
    let Some(&(last, _)) = losses.last() else { return Points::new() };
    let curve = losses.iter().zip(smoothed(losses, half_life)).zip(seconds);
    let every = (last as usize).div_ceil(POINTS) as u64;
    // The beginning is kept whole: on a logarithmic axis it is as wide as the rest.
    let is_kept = |step: u64| step <= 100 || step.is_multiple_of(every) || step == last;
    let point = |((&(step, _), loss), &wall_s)| (step, (loss, wall_s));
    curve.map(point).filter(|(step, _)| is_kept(*step)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{figures, step_line};
    use super::*;

    #[test]
    fn lines_are_sorted_by_what_they_tell() {
        let probe = |step| Metric::Probe { step, ffn: figures(0, 0.5) };
        let eval = Metric::Eval { step: 2, tokens: 20, val_loss: 3.5, wall_s: 1.25 };
        let lines = vec![
            step_line(1, Some(4.0), 0.5),
            probe(1),
            step_line(2, None, 1.0),
            eval,
            step_line(3, Some(2.0), 1.5),
        ];
        let log = Log::new(lines, 1.0);
        // With a half-life of one step, the loss two steps before counts a quarter.
        assert_eq!(log.training, Points::from([(1, (4.0, 0.5)), (3, ((4.0 * 0.25 + 2.0) / 1.25, 1.5))]));
        assert_eq!(log.held_out, Points::from([(2, (3.5, 1.25))]));
        assert_eq!(log.probes, [(1, figures(0, 0.5))]);
        assert_eq!(Log::new(Vec::new(), 1.0), Log::default());
    }

    #[test]
    fn long_runs_are_thinned_to_their_ends_and_their_beginning() {
        let lines = (1..=100_003).map(|step| step_line(step, Some(3.0), 0.0)).collect();
        let training = Log::new(lines, 10.0).training;
        assert!(training.len() < POINTS + 110, "{}", training.len());
        assert!((1..=100).chain([100_003]).all(|step| training.contains_key(&step)));
    }
}
