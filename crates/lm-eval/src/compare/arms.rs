//! Groups runs into arms (one experiment, several seeds) and gives each the shortest label that says what it is.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::collect::Run;
use super::comparison::Order;
use super::keys::{Keys, LR, differing, short};
use super::precision::{self, SECTION};
use crate::shazeer;

/// The runs of one experiment: equal in everything but the seed.
#[derive(Clone, Debug)]
pub(super) struct ArmRuns<'a> {
    /// The FFN's name, the precision unless it is full, and `key=value` for whatever else distinguishes it from other
    /// arms with the same FFN.
    pub label: String,
    /// The label without the precision: arms that differ in nothing else share it.
    pub experiment: String,
    /// The precision's name, followed by `key=value` for what distinguishes it from others of that name.
    pub recipe: String,
    /// Config keys that the label shows.
    pub shown: Vec<String>,
    /// Its runs, one per seed, by seed. Never empty.
    pub runs: Vec<&'a Run>,
}

/// Keys that ask for a width; the width that results says more.
const WIDTH: &str = "model.ffn.width.";

impl<'a> ArmRuns<'a> {
    /// The arm's first run, for what all its runs share.
    pub fn first(&self) -> &'a Run {
        self.runs[0]
    }

    /// Name of the FFN variant.
    pub fn ffn(&self) -> &'a str {
        &self.first().summary.ffn
    }

    /// Name of its precision recipe.
    pub fn precision(&self) -> &'a str {
        &self.first().summary.precision
    }

    pub fn is_full_precision(&self) -> bool {
        precision::is_full(self.precision())
    }

    /// The arm in full precision that equals this one in everything else, or, without one, the only one that equals it in
    /// everything but the learning rate; `None` for an arm in full precision.
    pub fn in_full_precision<'b>(&self, arms: &'b [Self]) -> Option<&'b Self> {
        if self.is_full_precision() {
            return None;
        }
        let twins = |sections: &'static [&'static str]| {
            arms.iter().filter(move |other| {
                other.is_full_precision()
                    && other.ffn() == self.ffn()
                    && other.keys().equal_outside(self.keys(), sections)
            })
        };
        let mut tuned = twins(&[SECTION, LR]);
        let only = tuned.next().filter(|_| tuned.next().is_none());
        twins(&[SECTION]).next().or(only)
    }

    pub fn keys(&self) -> &'a Keys {
        &self.first().keys
    }
}

/// Groups `runs`; the second value tells which runs were dropped because their arm already has their seed.
pub(super) fn group(runs: &[Run]) -> (Vec<ArmRuns<'_>>, Vec<String>) {
    let mut arms: Vec<ArmRuns<'_>> = Vec::new();
    let mut dropped = Vec::new();
    for run in runs {
        let same = |arm: &&mut ArmRuns<'_>| arm.ffn() == run.summary.ffn && *arm.keys() == run.keys;
        match arms.iter_mut().find(same) {
            None => arms.push(ArmRuns {
                label: String::new(),
                experiment: String::new(),
                recipe: String::new(),
                shown: Vec::new(),
                runs: vec![run],
            }),
            Some(arm) => match arm.runs.iter().find(|kept| kept.summary.seed == run.summary.seed) {
                None => arm.runs.push(run),
                Some(kept) => dropped.push(duplicate(kept, run)),
            },
        }
    }
    for arm in &mut arms {
        arm.runs.sort_by_key(|run| run.summary.seed);
    }
    label(&mut arms);
    (arms, dropped)
}

fn duplicate(kept: &Run, dropped: &Run) -> String {
    let loss = |run: &Run| run.summary.validation.as_ref().map(|v| v.loss);
    let same = if loss(kept) == loss(dropped) { "the same result" } else { "a DIFFERENT result" };
    format!(
        "{} repeats seed {} of {} with {same} and is left out",
        dropped.dir.display(),
        kept.summary.seed,
        kept.dir.display()
    )
}

/// Labels arms by their FFN, their precision and, among arms of one FFN, by every other key in which these differ. Keys
/// of the precision itself are shown only where arms of one FFN have different precisions of one name.
fn label(arms: &mut [ArmRuns<'_>]) {
    let all: Vec<&Keys> = arms.iter().map(ArmRuns::keys).collect();
    let ffns: BTreeSet<&str> = arms.iter().map(ArmRuns::ffn).collect();
    let is_width = |key: &str| key.starts_with(WIDTH);
    let is_precision = |key: &str| key.starts_with(SECTION);
    let pair = |i: usize, key: &str| format!(" {}={}", short(key, all.iter().copied()), all[i].show(key));
    for ffn in ffns {
        let twins: Vec<usize> = (0..arms.len()).filter(|&i| arms[i].ffn() == ffn).collect();
        let mut shown = differing(twins.iter().map(|&i| all[i]));
        shown.retain(|key| !is_precision(key));
        // Arms that differ in their learning rate alone are named by it. Where each has its own, as after tuning, it
        // belongs to the arm and has a column.
        let by_rate = |i: usize, j: usize| i != j && all[i].equal_outside(all[j], &[LR]);
        if !twins.iter().any(|&i| twins.iter().any(|&j| by_rate(i, j))) {
            shown.retain(|key| key != LR);
        }
        let widths_differ = shown.iter().any(|key| is_width(key));
        let settings = |i: usize, by_d_ff: bool| {
            let d_ff = (by_d_ff && widths_differ).then(|| format!(" d_ff={}", arms[i].first().summary.d_ff));
            let keys = shown.iter().filter(|key| !(by_d_ff && is_width(key))).map(|key| pair(i, key));
            d_ff.into_iter().chain(keys).collect::<String>()
        };
        // Two ways of asking for one width are told apart by how they ask.
        let alike = |i: usize, j: usize| settings(i, true) == settings(j, true);
        let differ = |i: usize, j: usize| !all[i].equal_outside(all[j], &[SECTION, LR]);
        let by_d_ff = !twins.iter().any(|&i| twins.iter().any(|&j| alike(i, j) && differ(i, j)));

        let recipe = |i: usize| {
            let of_one_name = twins.iter().filter(|&&j| arms[j].precision() == arms[i].precision());
            let mut keys = differing(of_one_name.map(|&j| all[j]));
            keys.retain(|key| is_precision(key));
            let pairs: String = keys.iter().map(|key| pair(i, key)).collect();
            (arms[i].precision().to_owned() + &pairs, keys)
        };
        let labels = twins.iter().map(|&i| (i, settings(i, by_d_ff), recipe(i)));
        for (i, settings, (recipe, keys)) in labels.collect::<Vec<_>>() {
            let named = if precision::is_full(&recipe) { String::new() } else { format!(" {recipe}") };
            arms[i].label = format!("{ffn}{named}{settings}");
            arms[i].experiment = format!("{ffn}{settings}");
            arms[i].recipe = recipe;
            arms[i].shown = shown.iter().cloned().chain(keys).collect();
        }
    }
}

/// Whether arms differ in their learning rates without their labels saying so.
pub(super) fn have_own_rates(arms: &[ArmRuns<'_>]) -> bool {
    let said = arms.iter().any(|arm| arm.shown.iter().any(|key| key == LR));
    !said && differing(arms.iter().map(ArmRuns::keys)).iter().any(|key| key == LR)
}

/// Sorts arms; under [`Order::Given`] they stay as their first runs were collected.
pub(super) fn sort(arms: &mut [ArmRuns<'_>], order: Order) {
    match order {
        Order::Given => {}
        Order::Published => arms.sort_by(published),
        Order::Loss => arms.sort_by(|a, b| mean_loss(a).total_cmp(&mean_loss(b))),
    }
}

/// The paper's order, then other variants by name; arms of one variant by precision, from wide to narrow, and then by
/// the values that distinguish them.
fn published(a: &ArmRuns<'_>, b: &ArmRuns<'_>) -> Ordering {
    fn place<'a>(arm: &ArmRuns<'a>) -> (usize, &'a str, (usize, &'a str)) {
        let rank = shazeer::rank(arm.ffn()).unwrap_or(usize::MAX);
        (rank, arm.ffn(), precision::place(arm.precision()))
    }
    let by_key = || a.shown.iter().map(|key| a.keys().compare_by(b.keys(), key)).find(|order| order.is_ne());
    place(a).cmp(&place(b)).then_with(|| by_key().unwrap_or(Ordering::Equal))
}

/// Mean held-out loss; infinite when every run diverged, so that such arms come last.
fn mean_loss(arm: &ArmRuns<'_>) -> f64 {
    let losses: Vec<f64> =
        arm.runs.iter().filter_map(|r| r.summary.validation.as_ref().map(|v| v.loss)).collect();
    crate::stats::mean(&losses).unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{RunMaker, collection};
    use super::*;

    fn labels(runs: Vec<RunMaker>, order: Order) -> Vec<String> {
        let collection = collection(runs);
        let (mut arms, dropped) = group(&collection.runs);
        assert!(dropped.is_empty(), "{dropped:?}");
        sort(&mut arms, order);
        arms.into_iter().map(|arm| arm.label).collect()
    }

    fn run(ffn: &str, config: &str) -> RunMaker {
        RunMaker::new(ffn, 0).config(config)
    }

    #[test]
    fn a_lone_variant_is_called_by_its_name() {
        let runs = vec![
            run("swiglu", "optim.lr = 0.1"),
            run("relu", "optim.lr = 0.2"),
            RunMaker::new("relu", 1).config("optim.lr = 0.2"),
        ];
        assert_eq!(labels(runs, Order::Given), ["swiglu", "relu"]);
    }

    #[test]
    fn twins_are_told_apart_by_what_differs_between_them() {
        let runs = vec![
            run("swiglu", "optim.lr = 0.01\nschedule.warmup_steps = 10"),
            run("swiglu", "optim.lr = 0.001\nschedule.warmup_steps = 10"),
            run("swiglu", "optim.lr = 0.01"),
            run("relu", "optim.lr = 0.5"),
        ];
        let expected = [
            "relu",
            "swiglu lr=0.001 warmup_steps=10",
            "swiglu lr=0.01 warmup_steps=10",
            "swiglu lr=0.01 warmup_steps=none",
        ];
        assert_eq!(labels(runs, Order::Published), expected);
    }

    #[test]
    fn widths_are_told_by_what_they_come_to() {
        let width = |exact: usize, config: &str| {
            run("gelu", &format!("model.ffn.width.exact = {exact}\n{config}"))
                .with(|summary| summary.d_ff = exact)
        };
        assert_eq!(
            labels(vec![width(64, ""), width(128, "")], Order::Given),
            ["gelu d_ff=64", "gelu d_ff=128"]
        );
        let matched = run("gelu", "model.ffn.width.param_matched = 4.0").with(|summary| summary.d_ff = 64);
        let expected = ["gelu exact=64 param_matched=none", "gelu exact=none param_matched=4.0"];
        assert_eq!(labels(vec![width(64, ""), matched], Order::Given), expected, "d_ff=64 would name both");
    }

    #[test]
    fn other_data_makes_another_arm() {
        let other =
            RunMaker::new("relu", 1).with(|summary| summary.data_fingerprint = "abcdef0123".to_owned());
        let expected = ["relu data_fingerprint=5eed5eed", "relu data_fingerprint=abcdef01"];
        assert_eq!(labels(vec![RunMaker::new("relu", 0), other], Order::Given), expected);
    }

    #[test]
    fn precisions_follow_the_ffn_from_wide_to_narrow() {
        let with = |ffn, name| RunMaker::new(ffn, 0).precision(name, 0.0);
        let runs = vec![
            with("swiglu", "mxfp4"),
            with("swiglu", "bf16"),
            run("swiglu", ""),
            with("relu", "int8"),
            with("relu", "fp8_delayed"),
        ];
        let expected = ["relu fp8_delayed", "relu int8", "swiglu", "swiglu bf16", "swiglu mxfp4"];
        assert_eq!(labels(runs, Order::Published), expected);
    }

    #[test]
    fn keys_of_a_precision_are_shown_between_arms_of_its_name() {
        let fp8 = |ffn, config| RunMaker::new(ffn, 0).precision("fp8_delayed", 0.0).config(config);
        let runs = vec![
            run("swiglu", ""),
            RunMaker::new("swiglu", 0).precision("bf16", 0.0),
            fp8("swiglu", "precision.smooth = true"),
            fp8("swiglu", "precision.smooth = false"),
            fp8("relu", "precision.smooth = false"),
        ];
        let expected = [
            "relu fp8_delayed",
            "swiglu",
            "swiglu bf16",
            "swiglu fp8_delayed smooth=false",
            "swiglu fp8_delayed smooth=true",
        ];
        assert_eq!(labels(runs, Order::Published), expected);
    }

    #[test]
    fn other_keys_are_shown_in_every_precision() {
        let rate = |lr: f64| run("swiglu", &format!("optim.lr = {lr}"));
        let runs = vec![rate(0.1), rate(0.2), rate(0.2).precision("bf16", 0.0)];
        assert_eq!(labels(runs, Order::Given), ["swiglu lr=0.1", "swiglu lr=0.2", "swiglu bf16 lr=0.2"]);
    }

    #[test]
    fn full_precision_is_found_by_all_other_keys() {
        let rate = |lr: f64| run("swiglu", &format!("optim.lr = {lr}"));
        let bf16 = |lr| rate(lr).precision("bf16", 0.0);
        let collection =
            collection([bf16(0.2), rate(0.1), rate(0.2), bf16(0.3), run("relu", "optim.lr = 0.3")]);
        let (arms, _) = group(&collection.runs);
        let twins: Vec<_> =
            arms.iter().map(|arm| arm.in_full_precision(&arms).map(|twin| twin.label.as_str())).collect();
        assert_eq!(twins, [Some("swiglu lr=0.2"), None, None, None, None]);
    }

    #[test]
    fn a_rate_of_its_own_is_no_part_of_a_label() {
        let rate = |lr: f64| run("swiglu", &format!("optim.lr = {lr}"));
        let runs = vec![rate(0.1), rate(0.2).precision("bf16", 0.0), rate(0.3).precision("int8", 0.0)];
        assert_eq!(labels(runs.clone(), Order::Given), ["swiglu", "swiglu bf16", "swiglu int8"]);
        let collection = collection(runs);
        let (arms, _) = group(&collection.runs);
        let twins: Vec<_> =
            arms.iter().map(|arm| arm.in_full_precision(&arms).map(|twin| twin.label.as_str())).collect();
        assert_eq!(twins, [None, Some("swiglu"), Some("swiglu")]);
    }

    #[test]
    fn orders() {
        let loss = |ffn: &str, loss| RunMaker::new(ffn, 0).loss(loss);
        let runs = || {
            vec![
                loss("xielu", 1.0),
                loss("swiglu", 4.0),
                loss("relu_squared", 2.0),
                loss("gelu", 3.0),
                run("relu", "").diverged(),
            ]
        };
        assert_eq!(labels(runs(), Order::Given), ["xielu", "swiglu", "relu_squared", "gelu", "relu"]);
        assert_eq!(labels(runs(), Order::Published), ["relu", "gelu", "swiglu", "relu_squared", "xielu"]);
        assert_eq!(labels(runs(), Order::Loss), ["xielu", "relu_squared", "gelu", "swiglu", "relu"]);
    }
}
