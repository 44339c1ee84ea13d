//! Losses of runs over their steps, and what the seeds of an arm have in common.

use std::collections::BTreeSet;

use super::logs::{Logs, Points, tokens_on_the_way};
use crate::compare::{Arm, Comparison};
use crate::plots::CurvePoint;

/// A run's losses.
#[derive(Clone, Debug)]
struct RunCurve {
    seed: u64,
    points: Points,
    /// Step and loss at the end on other text than `points`, and so no point of the curve.
    end: Option<(u64, f64)>,
}

/// The curves of one arm, over the runs that finished.
#[derive(Clone, Debug)]
pub(super) struct ArmCurves<'a> {
    pub arm: &'a Arm,
    runs: Vec<RunCurve>,
}

/// All curves of a comparison.
pub(super) struct AllCurves<'a> {
    /// The arms that have any, in the order of the comparison.
    pub arms: Vec<ArmCurves<'a>>,
    /// Labels of arms without any, and why.
    pub without: Vec<(&'a str, &'static str)>,
}

impl<'a> AllCurves<'a> {
    /// The curves of all runs that finished.
    pub fn new(comparison: &'a Comparison, logs: &Logs<'_>) -> Self {
        let mut all = Self { arms: Vec::new(), without: Vec::new() };
        for arm in &comparison.arms {
            let finished = logs.of(&arm.label).filter(|(run, _)| run.summary.validation.is_some());
            let curves: Vec<RunCurve> = finished
                .filter(|(_, log)| !log.training.is_empty())
                .map(|(run, log)| RunCurve {
                    seed: run.summary.seed,
                    points: log.training.clone(),
                    end: None,
                })
                .collect();
            if arm.seeds.is_empty() {
                all.without.push((&arm.label, "diverged"));
            } else if curves.is_empty() {
                all.without.push((&arm.label, "no readable metrics.jsonl"));
            } else {
                all.arms.push(ArmCurves { arm, runs: curves });
            }
        }
        all
    }

    /// The curves of the arm with this label.
    pub fn of(&self, label: &str) -> Option<&ArmCurves<'a>> {
        self.arms.iter().find(|curves| curves.arm.label == label)
    }
}

/// Held-out losses on the way, of the runs that measured any.
pub(super) struct HeldOut<'a> {
    /// The arms that have any, in the order of the comparison.
    arms: Vec<ArmCurves<'a>>,
    /// Tokens that all of them used on the way.
    pub tokens: u64,
    /// Tokens at the end, where all have the same; other than `tokens` unless the curves hold the end too.
    pub at_end: Option<u64>,
}

impl<'a> HeldOut<'a> {
    /// The curves of all runs that finished; `None` where none measured anything on the way.
    ///
    /// # Errors
    /// Runs that used different numbers of tokens, whose losses are not comparable: says so.
    pub fn new(comparison: &'a Comparison, logs: &Logs<'_>) -> Result<Option<Self>, String> {
        let (mut on_the_way, mut at_end) = (BTreeSet::new(), BTreeSet::new());
        let mut arms = Vec::new();
        for arm in &comparison.arms {
            let mut runs = Vec::new();
            for (run, log) in logs.of(&arm.label).filter(|(_, log)| !log.held_out.is_empty()) {
                let (Some(tokens), Some(validation)) = (tokens_on_the_way(run), &run.summary.validation)
                else {
                    continue;
                };
                on_the_way.insert(tokens);
                at_end.insert(validation.tokens);
                let mut points = log.held_out.clone();
                let end = (run.summary.steps, validation.loss);
                let is_same_text = tokens == validation.tokens;
                if is_same_text {
                    points.insert(end.0, (end.1, run.summary.wall_s));
                }
                runs.push(RunCurve { seed: run.summary.seed, points, end: (!is_same_text).then_some(end) });
            }
            if !runs.is_empty() {
                arms.push(ArmCurves { arm, runs });
            }
        }
        let only = |tokens: &BTreeSet<u64>| tokens.first().copied().filter(|_| tokens.len() == 1);
        match only(&on_the_way) {
            Some(tokens) => Ok(Some(Self { arms, tokens, at_end: only(&at_end) })),
            None if arms.is_empty() => Ok(None),
            None => {
                let tokens: Vec<String> = on_the_way.iter().map(u64::to_string).collect();
                Err(format!(
                    "Held-out losses on the way are not drawn, since runs measured them on different numbers of tokens: {}",
                    tokens.join(", ")
                ))
            }
        }
    }

    /// The curves of the arm with this label.
    pub fn of(&self, label: &str) -> Option<&ArmCurves<'a>> {
        self.arms.iter().find(|curves| curves.arm.label == label)
    }
}

impl ArmCurves<'_> {
    /// Mean, lowest and highest loss over seeds at every step that all of them have.
    pub fn over_steps(&self) -> Vec<CurvePoint> {
        let values = |step: &u64| {
            self.runs.iter().map(|run| Some(run.points.get(step)?.0)).collect::<Option<Vec<f64>>>()
        };
        let points = self.runs[0].points.keys().filter_map(|step| summary(*step as f64, &values(step)?));
        points.collect()
    }

    /// The same over seconds: at every step, the mean over seeds of the time at which it was reached.
    pub fn over_time(&self) -> Vec<CurvePoint> {
        let seconds = |step: &u64| -> Option<f64> {
            let seconds: Vec<f64> =
                self.runs.iter().map(|run| Some(run.points.get(step)?.1)).collect::<Option<_>>()?;
            crate::stats::mean(&seconds)
        };
        let at_steps = self.over_steps();
        at_steps
            .into_iter()
            .filter_map(|point| Some(CurvePoint { x: seconds(&(point.x as u64))?, ..point }))
            .collect()
    }

    /// Step and mean loss over seeds at the end, where that is no point of the curve; the step is the last of any seed.
    pub fn end(&self) -> Option<(f64, f64)> {
        let ends: Vec<(u64, f64)> = self.runs.iter().map(|run| run.end).collect::<Option<_>>()?;
        mean_end(&ends)
    }

    /// The same of the differences from another arm within a seed.
    pub fn end_minus(&self, other: &Self) -> Option<(f64, f64)> {
        let difference = |(ours, theirs): (&RunCurve, &RunCurve)| {
            let (step, loss) = ours.end?;
            Some((step, loss - theirs.end?.1))
        };
        let ends: Vec<(u64, f64)> = self.pairs(other).into_iter().map(difference).collect::<Option<_>>()?;
        mean_end(&ends)
    }

    /// The runs of seeds that another arm has too, with its runs.
    fn pairs<'b>(&'b self, other: &'b Self) -> Vec<(&'b RunCurve, &'b RunCurve)> {
        let theirs = |seed: u64| other.runs.iter().find(|theirs| theirs.seed == seed);
        self.runs.iter().filter_map(|run| Some((run, theirs(run.seed)?))).collect()
    }

    /// Mean, lowest and highest difference from another arm within a seed, over the seeds that both have.
    pub fn minus(&self, other: &Self) -> Vec<CurvePoint> {
        let pairs = self.pairs(other);
        let Some((first, _)) = pairs.first() else { return Vec::new() };
        let difference = |(ours, theirs): &(&RunCurve, &RunCurve), step: &u64| {
            Some(ours.points.get(step)?.0 - theirs.points.get(step)?.0)
        };
        let values =
            |step: &u64| pairs.iter().map(|pair| difference(pair, step)).collect::<Option<Vec<f64>>>();
        first.points.keys().filter_map(|step| summary(*step as f64, &values(step)?)).collect()
    }
}

fn mean_end(ends: &[(u64, f64)]) -> Option<(f64, f64)> {
    let last = ends.iter().map(|(step, _)| *step).max()?;
    let losses: Vec<f64> = ends.iter().map(|(_, loss)| *loss).collect();
    Some((last as f64, crate::stats::mean(&losses)?))
}

fn summary(x: f64, values: &[f64]) -> Option<CurvePoint> {
    let mean = crate::stats::mean(values)?;
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    Some(CurvePoint { x, mean, low, high })
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Sweep, append_evals, run, write_run};
    use super::*;
    use crate::compare::{Options, find};

    /// A run of this seed with (step, loss, seconds).
    fn curve(seed: u64, points: &[(u64, f64, f64)]) -> RunCurve {
        let points = points.iter().map(|&(step, loss, wall_s)| (step, (loss, wall_s))).collect();
        RunCurve { seed, points, end: None }
    }

    fn with_arm(runs: Vec<RunCurve>, check: impl FnOnce(ArmCurves<'_>)) {
        let collection =
            crate::compare::testing::collection([crate::compare::testing::RunMaker::new("relu", 0)]);
        let comparison = Comparison::new(&collection, &Options::default()).unwrap();
        check(ArmCurves { arm: &comparison.arms[0], runs });
    }

    #[test]
    fn means_and_bands_are_over_the_seeds_at_common_steps() {
        let runs =
            vec![curve(0, &[(1, 4.0, 10.0), (2, 3.0, 20.0)]), curve(1, &[(1, 5.0, 30.0), (3, 2.0, 60.0)])];
        with_arm(runs, |arm| {
            assert_eq!(arm.over_steps(), [CurvePoint { x: 1.0, mean: 4.5, low: 4.0, high: 5.0 }]);
            assert_eq!(arm.over_time(), [CurvePoint { x: 20.0, mean: 4.5, low: 4.0, high: 5.0 }]);
        });
    }

    #[test]
    fn differences_are_within_a_seed() {
        let ours = vec![curve(7, &[(1, 4.0, 0.0)]), curve(8, &[(1, 9.0, 0.0)]), curve(9, &[(1, 1.0, 0.0)])];
        let theirs = vec![curve(8, &[(1, 8.5, 0.0)]), curve(7, &[(1, 4.25, 0.0)])];
        with_arm(ours, |ours| {
            with_arm(theirs, |theirs| {
                assert_eq!(ours.minus(&theirs), [CurvePoint { x: 1.0, mean: 0.125, low: -0.25, high: 0.5 }]);
            });
        });
        with_arm(vec![curve(0, &[(1, 4.0, 0.0)])], |ours| {
            with_arm(vec![curve(1, &[(1, 4.0, 0.0)])], |theirs| assert_eq!(ours.minus(&theirs), []));
        });
    }

    #[test]
    fn ends_are_means_over_seeds_and_their_differences_are_within_a_seed() {
        let run = |seed, end| RunCurve { end, ..curve(seed, &[(1, 4.0, 0.0)]) };
        let ours = vec![run(7, Some((9, 3.0))), run(8, Some((8, 5.0))), run(9, Some((9, 1.0)))];
        let theirs = vec![run(8, Some((8, 4.0))), run(7, Some((9, 3.5)))];
        with_arm(ours, |ours| {
            assert_eq!(ours.end(), Some((9.0, 3.0)));
            with_arm(theirs, |theirs| assert_eq!(ours.end_minus(&theirs), Some((9.0, 0.25))));
            with_arm(vec![run(7, None)], |joined| {
                assert_eq!((joined.end(), ours.end_minus(&joined)), (None, None));
            });
        });
    }

    /// Two runs of 40 steps with held-out losses at steps 10 and 20, whose configs say these numbers of sequences.
    fn held_out<T>(sequences: [&str; 2], check: impl FnOnce(Result<Option<HeldOut<'_>>, String>) -> T) -> T {
        let root = tempfile::tempdir().unwrap();
        for (seed, sequences) in (0..).zip(sequences) {
            let dir = root.path().join(seed.to_string());
            let run = run("relu", "fp32", seed, 0.0).with(|summary| summary.steps = 40);
            write_run(&run.config(sequences), &dir, seed, 0.0, 40);
            append_evals(&dir, &[(10, 3.5), (20, 3.25)]);
        }
        let found = find(&[root.path().to_owned()]).unwrap();
        let comparison = Comparison::new(&found, &Options::default()).unwrap();
        check(HeldOut::new(&comparison, &Logs::read(&comparison)))
    }

    #[test]
    fn the_final_loss_is_a_point_of_the_curve_only_where_it_is_of_the_same_text() {
        let steps = |arm: &ArmCurves<'_>| arm.over_steps().iter().map(|point| point.x).collect::<Vec<_>>();
        held_out([""; 2], |found| {
            let found = found.unwrap().unwrap();
            let arm = found.of("relu").unwrap();
            assert_eq!((found.tokens, found.at_end), (64 * 128, Some(100_000)), "64 is the default");
            assert_eq!((steps(arm), arm.end().map(|end| end.0)), (vec![10.0, 20.0], Some(40.0)));
        });
        held_out(["train.eval_sequences = 1000"; 2], |found| {
            let found = found.unwrap().unwrap();
            let arm = found.of("relu").unwrap();
            assert_eq!((found.tokens, found.at_end), (100_000, Some(100_000)));
            assert_eq!((steps(arm), arm.end()), (vec![10.0, 20.0, 40.0], None));
        });
    }

    #[test]
    fn losses_on_different_text_are_not_compared() {
        let error = held_out(["train.eval_sequences = 8", "train.eval_sequences = 16"], |found| found.err());
        assert!(error.unwrap().ends_with("different numbers of tokens: 1024, 2048"));
    }

    #[test]
    fn arms_without_curves_are_told_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let relu = [("relu", 0.0), ("gelu", 0.0)];
        Sweep { ffns: &relu, precisions: &[("fp32", 0.0)], seeds: 2, steps: 20 }.write(root.path());
        for seed in 0..2 {
            std::fs::remove_file(root.path().join(format!("gelu-fp32-{seed}/metrics.jsonl"))).unwrap();
        }
        write_run(&run("glu", "fp32", 0, 0.0).diverged(), &root.path().join("glu"), 0, 0.0, 20);
        let comparison =
            Comparison::new(&find(&[root.path().to_owned()]).unwrap(), &Options::default()).unwrap();
        let all = AllCurves::new(&comparison, &Logs::read(&comparison));
        assert_eq!(all.without, [("gelu", "no readable metrics.jsonl"), ("glu", "diverged")]);
        assert_eq!(all.of("relu").unwrap().over_steps().len(), 20);
        assert!(all.of("gelu").is_none());
        assert!(HeldOut::new(&comparison, &Logs::read(&comparison)).unwrap().is_none());
    }
}
