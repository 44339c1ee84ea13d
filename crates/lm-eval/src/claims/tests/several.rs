//! Rules on the value of one arm, several rules in one claim, and rules that need more than runs.

use std::fmt::Write;
use std::path::Path;

use super::*;
use crate::compare::Run;

/// Runs with what `metrics` says in their `metrics.jsonl`.
fn with_metrics(folder: &Path, runs: Vec<(RunMaker, String)>) -> Collection {
    let place = |(i, (run, metrics)): (usize, (RunMaker, String))| {
        let dir = folder.join(i.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("metrics.jsonl"), metrics).unwrap();
        Run { dir, ..run.run() }
    };
    Collection { runs: runs.into_iter().enumerate().map(place).collect(), problems: Vec::new() }
}

fn probe(dead: u64) -> String {
    format!(
        r#"{{"kind":"probe","step":800,"ffn":{{"layer":"a","tokens":2048,"units":1000,"dead_units":{dead},"zero_share":0.5,"eps":0.001,"small_share":0.5,"rms":1,"max_abs":3,"kurtosis":4,"octaves":[],"saturated":[]}}}}"#
    )
}

/// Claim 20 by dead units of 1000 with and without warm-up, by seed.
fn dead_units(with: impl Fn(u64) -> u64, without: impl Fn(u64) -> u64) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let run = |seed, steps: u64, dead| {
        let warm_up = format!("schedule.warmup_steps = {steps}");
        let run = RunMaker::new("relu", seed).config(&warm_up);
        (run.with(|summary| summary.run_id = format!("{steps}-{seed}")), probe(dead))
    };
    let runs = (0..8).flat_map(|seed| [run(seed, 50, with(seed)), run(seed, 0, without(seed))]).collect();
    let all = with_metrics(folder.path(), runs);
    judged(assess(&shipped_claim("20"), &all, None).unwrap().state).remove(0)
}

#[test]
fn the_value_of_an_arm_and_a_difference_decide_together() {
    let found = dead_units(|seed| 10 + seed % 3, |seed| 80 + seed % 5);
    assert_eq!(found.decision, Decision::Confirmed, "{found:?}");
    let labels: Vec<&str> = found.comparisons.iter().map(|c| c.label.as_str()).collect();
    assert_eq!(labels, ["warm_up below 0.05", "no_warm_up - warm_up"]);
    let quantities: Vec<Quantity> = found.comparisons.iter().map(|c| c.quantity).collect();
    assert_eq!(quantities, [Quantity::Value, Quantity::Difference]);
    assert!((found.comparisons[0].difference - 0.010_875).abs() < 1e-12, "{found:?}");
    assert_eq!(found.reason, "both intervals lie where the claim says (Holm)");

    let many = dead_units(|seed| 100 + seed, |seed| 180 + 2 * seed);
    assert_eq!(many.decision, Decision::Refuted);
    assert!(many.reason.contains("warm_up below 0.05 (1 of 2, Holm)"), "{}", many.reason);
    assert_eq!(dead_units(|seed| 10 + seed % 3, |seed| 11 + seed % 2).decision, Decision::Refuted, "no more");
    let noisy = dead_units(|seed| 10 + seed, |seed| 100 * (seed % 2));
    assert_eq!(noisy.decision, Decision::Underpowered);
    assert!(noisy.reason.contains("1 of 2 comparisons are open, 1 confirmed"), "{}", noisy.reason);
}

#[test]
fn no_dead_unit_in_any_seed_is_judged_without_an_interval() {
    let found = dead_units(|_| 0, |seed| 60 + seed);
    assert_eq!((found.decision, found.comparisons[0].interval), (Decision::Confirmed, None));
    assert_eq!(found.reason, "both comparisons lie where the claim says (Holm)");
    let said = found.notes.join("; ");
    assert!(said.contains("warm_up below 0.05: the value is 0 in all 8 seeds"), "{said}");
    let none = dead_units(|_| 0, |_| 0);
    assert_eq!(none.decision, Decision::Refuted, "warm-up prevented nothing: {none:?}");
    assert_eq!(none.reason, "the claimed effect is excluded for no_warm_up - warm_up (1 of 2, Holm)");
    assert!(none.notes.join("; ").contains("the difference is 0 in all 8 seeds"), "{:?}", none.notes);
}

#[test]
fn runs_that_did_not_look_say_what_would_make_them() {
    let folder = tempfile::tempdir().unwrap();
    let run = |seed, steps: u64| {
        (RunMaker::new("relu", seed).config(&format!("schedule.warmup_steps = {steps}")), String::new())
    };
    let all = with_metrics(folder.path(), vec![run(0, 50), run(1, 50), run(0, 0), run(1, 0)]);
    let said = reasons(assess(&shipped_claim("20"), &all, None).unwrap().state);
    assert!(said.contains("no run has it") && said.contains("with train.probe_every"), "{said}");
}

/// Sparsity lines whose active ratio changes by `slope` per doubling.
fn sparsity(slope: f64) -> String {
    let mut text = String::new();
    for step in [50u64, 100, 200, 400, 800] {
        let (tokens, ratio) = (step * 1024, 0.5 + slope * (step as f64 / 800.0).log2());
        let found = format!(
            r#"{{"tokens":2048,"active_ratio":{ratio},"dropped":[0.5],"level":0.1,"perplexity_ratio":1.01}}"#
        );
        let _ = writeln!(text, r#"{{"kind":"sparsity","step":{step},"tokens":{tokens},"found":{found}}}"#);
    }
    text
}

#[test]
fn slopes_of_two_arms_lie_on_their_sides_of_zero() {
    let decide = |relu: f64, swish: f64| {
        let folder = tempfile::tempdir().unwrap();
        let arm = |ffn, slope: f64| {
            (0..5).map(move |seed| (RunMaker::new(ffn, seed), sparsity(slope + 0.002 * (seed as f64).sin())))
        };
        let all = with_metrics(folder.path(), arm("relu", relu).chain(arm("swish", swish)).collect());
        judged(assess(&shipped_claim("19"), &all, None).unwrap().state).remove(0)
    };
    let found = decide(-0.03, 0.02);
    assert_eq!(found.decision, Decision::Confirmed, "{found:?}");
    assert_eq!((found.comparisons[0].unit.as_str(), found.comparisons.len()), ("per doubling", 2));
    assert_eq!(decide(-0.03, -0.02).decision, Decision::Refuted, "one part is refuted");
    assert_eq!(decide(-0.03, 0.0).decision, Decision::Refuted, "less than the smallest effect of interest");
    let text = report(&assess(&shipped_claim("19"), &Collection::default(), None).unwrap(), None);
    assert!(text.contains("NO RUNS"), "{text}");
}

#[test]
fn times_are_taken_for_a_verdict_and_not_for_a_list() {
    let claim = shipped_claim("26");
    let alike = |effect: f64| -> Vec<RunMaker> {
        let jitter = |seed: u64| 0.0005 * (seed as f64).sin();
        let named = |seed| RunMaker::new("swish", seed).with(|summary| summary.ffn = "hardswish".to_owned());
        (0..5).flat_map(|seed| [run("swish", seed, effect + jitter(seed)), named(seed)]).collect()
    };
    let listed = assess_untimed(&claim, &collection(alike(0.0)), None).unwrap();
    assert!(matches!(listed.state, State::Untimed { runs: 10 }), "{:?}", listed.state);
    assert!(list(&[listed], Scale::Small, None).contains("to be timed"));
    assert!(
        matches!(assess_runs(&claim, vec![]), State::NoRuns),
        "without runs there is nothing to time for"
    );

    let found = judged(assess_runs(&claim, alike(0.0))).remove(0);
    let labels: Vec<&str> = found.comparisons.iter().map(|c| c.label.as_str()).collect();
    assert_eq!(labels, ["hardswish / relu6", "silu / hardswish", "hardswish - swish"]);
    assert_eq!(found.comparisons[2].outcome, Outcome::Confirmed);
    assert_eq!((found.comparisons[0].n, found.comparisons[0].seeds.len()), (100, 0));
    assert!(found.notes.iter().any(|note| note.contains("want it idle")), "{:?}", found.notes);
    let apart = judged(assess_runs(&claim, alike(0.05))).remove(0);
    assert_eq!(apart.decision, Decision::Refuted, "whatever the times are");
    assert!(apart.reason.contains("hardswish - swish"), "{}", apart.reason);
    let short = alike(0.05).into_iter().map(|run| run.with(|summary| summary.tokens = 1000)).collect();
    assert_eq!(judged(assess_runs(&claim, short))[0].decision, Decision::NotReached);
    let text = report(&assess(&claim, &collection(alike(0.0)), None).unwrap(), None);
    for part in [
        "Time per element, forward and backward",
        "rounds",
        "Held-out loss",
        "difference, nats",
        "Holm over 3",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
}

/// A claim of one's own on bilinear and GLU, with more rules than one.
fn own(rules: &str) -> Result<Claim, lm_train::config::ConfigError> {
    let text = format!(
        r#"
number = 99
name = "mine"
title = "A title"
claim = "A claim"
sources = ["me"]
expected = "less"
hypothesis = "bilinear is below GLU, and more"
rule_in_words = "bilinear minus GLU, and more"
seeds = 5
[arms]
bilinear = {{ model.ffn.preset = "bilinear" }}
glu = {{ model.ffn.preset = "glu" }}
[[rule.all]]
less = {{ metric = "loss", arms = ["bilinear"], than = ["glu"], smallest_effect = 0.01 }}
{rules}"#
    );
    Claim::parse("mine.toml", &text)
}

#[test]
fn computations_and_runs_decide_together() {
    let mish = |claimed: f64| {
        let bound = format!("claimed = {claimed}, tolerance = 0.005, reach = 40.0");
        own(&format!("[[rule.all]]\nexact = {{ mish_bounded_below = {{ {bound} }} }}")).unwrap()
    };
    let with = |claim: &Claim, effect| {
        judged(assess_runs(claim, runs(&[("bilinear", effect), ("glu", 0.0)]))).remove(0)
    };
    let found = with(&mish(-0.31), -0.05);
    assert_eq!((found.decision, found.comparisons.len()), (Decision::Confirmed, 1));
    assert!(!found.checks.is_empty() && found.setting.is_some(), "{found:?}");
    assert_eq!(with(&mish(-0.31), 0.05).decision, Decision::Refuted, "by the runs");
    let wrong = with(&mish(-0.5), -0.05);
    assert_eq!(wrong.decision, Decision::Refuted);
    assert!(
        wrong.reason.starts_with("computed: this does not hold: least value of Mish"),
        "{}",
        wrong.reason
    );
    assert!(matches!(assess_runs(&mish(-0.31), vec![]), State::NoRuns));
}

#[test]
fn several_rules_that_make_no_sense_are_refused() {
    let error = |rules: &str| own(rules).expect_err("refused").to_string();
    assert!(error("").contains("rule.all: needs at least two rules"));
    let wrong = error("[[rule.all]]\nvalue = { metric = \"loss\", arm = \"glu\" }");
    assert!(wrong.contains("rule.all: rule 2 of 2, value: needs one bound"), "{wrong}");
    let wrong = error("[[rule.all]]\nvalue = { metric = \"loss\", arm = \"glu\", below = 1.0, above = 1.0 }");
    assert!(wrong.contains("needs one bound"), "{wrong}");
    let wrong = error("[[rule.all]]\nvalue = { metric = \"loss\", arm = \"glu\", below = 0.0 }");
    assert!(wrong.contains("smallest_effect must be above 0 where the bound is 0"), "{wrong}");
    let wrong = error("[[rule.all]]\nvalue = { metric = \"loss\", arm = \"glu2\", below = 1.0 }");
    assert!(wrong.contains("no arm is called `glu2`, did you mean `glu`?"), "{wrong}");
    let wrong = error("[[rule.all]]\nnot_yet_testable = { missing = \"much\" }");
    assert!(wrong.contains("cannot be one of several rules"), "{wrong}");
    let wrong =
        error("[[rule.all]]\nactivation_cost = { rising = [\"silu\"], rounds = 9, smallest_effect = 0.1 }");
    assert!(wrong.contains("at least two activations"), "{wrong}");
    let wrong = error(
        "[[rule.all]]\nactivation_cost = { rising = [\"silu\", \"relu7\"], rounds = 9, smallest_effect = 0.1 }",
    );
    assert!(wrong.contains("relu6"), "{wrong}");
}
