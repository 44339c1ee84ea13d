//! Losses of runs over their steps, and what the seeds of an arm have in common.

use super::logs::{Logs, Points};
use crate::compare::{Arm, Comparison};
use crate::plots::CurvePoint;

/// A run's losses.
#[derive(Clone, Debug)]
struct RunCurve {
    seed: u64,
    points: Points,
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
                .map(|(run, log)| RunCurve { seed: run.summary.seed, points: log.training.clone() })
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

    /// Mean, lowest and highest difference from another arm within a seed, over the seeds that both have.
    pub fn minus(&self, other: &Self) -> Vec<CurvePoint> {
        let pairs: Vec<(&RunCurve, &RunCurve)> = self
            .runs
            .iter()
            .filter_map(|run| Some((run, other.runs.iter().find(|theirs| theirs.seed == run.seed)?)))
            .collect();
        let Some((first, _)) = pairs.first() else { return Vec::new() };
        let difference = |(ours, theirs): &(&RunCurve, &RunCurve), step: &u64| {
            Some(ours.points.get(step)?.0 - theirs.points.get(step)?.0)
        };
        let values =
            |step: &u64| pairs.iter().map(|pair| difference(pair, step)).collect::<Option<Vec<f64>>>();
        first.points.keys().filter_map(|step| summary(*step as f64, &values(step)?)).collect()
    }
}

fn summary(x: f64, values: &[f64]) -> Option<CurvePoint> {
    let mean = crate::stats::mean(values)?;
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    Some(CurvePoint { x, mean, low, high })
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Sweep, run, write_run};
    use super::*;
    use crate::compare::{Options, find};

    /// A run of this seed with (step, loss, seconds).
    fn curve(seed: u64, points: &[(u64, f64, f64)]) -> RunCurve {
        RunCurve { seed, points: points.iter().map(|&(step, loss, wall_s)| (step, (loss, wall_s))).collect() }
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
    }
}
