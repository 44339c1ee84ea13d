//! Every rule on made-up runs whose answer is known.

mod registration;
mod settings;
mod several;

use std::collections::BTreeSet;

use super::*;
use crate::compare::Collection;
use crate::compare::testing::{RunMaker, collection, nine_variants};

fn shipped_claim(wanted: &str) -> Claim {
    find(wanted).unwrap().unwrap()
}

/// A run whose loss is `effect` above what the block and the seed alone would give.
fn run(ffn: &str, seed: u64, effect: f64) -> RunMaker {
    RunMaker::new(ffn, seed).with(|summary| summary.validation.as_mut().unwrap().loss += effect)
}

/// Five seeds of every block with its effect.
fn runs(effects: &[(&str, f64)]) -> Vec<RunMaker> {
    effects.iter().flat_map(|&(ffn, effect)| (0..5).map(move |seed| run(ffn, seed, effect))).collect()
}

fn assess_runs(claim: &Claim, runs: Vec<RunMaker>) -> State {
    assess(claim, &collection(runs), None).unwrap().state
}

fn judged(state: State) -> Vec<Verdict> {
    match state {
        State::Judged(verdicts) => verdicts,
        State::Incomplete { .. } | State::NoRuns | State::Untimed { .. } | State::NotYetTestable { .. } => {
            panic!("{state:?}")
        }
    }
}

fn verdict(claim: &str, runs: Vec<RunMaker>) -> Verdict {
    judged(assess_runs(&shipped_claim(claim), runs)).remove(0)
}

fn decision(claim: &str, effects: &[(&str, f64)]) -> Decision {
    verdict(claim, runs(effects)).decision
}

fn reasons(state: State) -> String {
    match state {
        State::Incomplete { reasons, .. } => reasons.join("; "),
        State::Judged(_) | State::NoRuns | State::Untimed { .. } | State::NotYetTestable { .. } => {
            panic!("{state:?}")
        }
    }
}

#[test]
fn less_and_greater() {
    assert_eq!(decision("3", &[("bilinear", -0.05), ("glu", 0.0)]), Decision::Confirmed);
    assert_eq!(decision("3", &[("bilinear", 0.05), ("glu", 0.0)]), Decision::Refuted);
    assert_eq!(decision("5", &[("gtu", 0.05), ("swiglu", 0.0)]), Decision::Confirmed);
    assert_eq!(decision("5", &[("gtu", -0.05), ("swiglu", 0.0)]), Decision::Refuted);
    let noisy = |ffn, sign: f64| (0..5).map(move |seed| run(ffn, seed, sign * 0.05 * (seed as f64 - 2.2)));
    let found = verdict("3", noisy("bilinear", 1.0).chain(noisy("glu", -1.0)).collect());
    assert_eq!(found.decision, Decision::Underpowered);
    let needed = found.comparisons[0].seeds_needed.unwrap();
    assert!(
        needed.seeds.unwrap() > 5 && found.reason.contains(&needed.seeds.unwrap().to_string()),
        "{found:?}"
    );
}

#[test]
fn a_claim_about_each_fails_with_one() {
    let three = |swish: f64| [("bilinear", -0.06), ("relu", 0.0), ("gelu", 0.0), ("swish", swish)];
    let found = verdict("4", runs(&three(0.0)));
    assert_eq!((found.decision, found.comparisons.len()), (Decision::Confirmed, 3));
    let found = verdict("4", runs(&three(-0.12)));
    assert_eq!(found.decision, Decision::Refuted);
    assert!(found.reason.contains("bilinear - swish") && found.reason.contains("1 of 3"), "{}", found.reason);
}

#[test]
fn means_of_groups_are_one_comparison() {
    let gated = |effect: f64| ["reglu", "geglu", "swiglu", "bilinear"].map(|ffn| (ffn, effect));
    let plain = [("relu", 0.0), ("gelu", 0.01), ("swish", -0.01)];
    let found = verdict("1", runs(&[&gated(-0.05)[..], &plain].concat()));
    assert_eq!((found.decision, found.comparisons.len()), (Decision::Confirmed, 1));
    assert!((found.comparisons[0].difference + 0.05).abs() < 0.005, "{found:?}");
    assert_eq!(decision("1", &[&gated(0.05)[..], &plain].concat()), Decision::Refuted);
}

#[test]
fn equivalence() {
    // Twice the same block, told apart by its name alone, so that only the effect differs.
    let pair = |effect: f64, noise: f64| -> Vec<RunMaker> {
        let swiglu = |seed| RunMaker::new("geglu", seed).with(|summary| summary.ffn = "swiglu".to_owned());
        let geglu = move |seed: u64| run("geglu", seed, effect + noise * (seed as f64 - 2.0));
        (0..5).map(swiglu).chain((0..5).map(geglu)).collect()
    };
    assert_eq!(verdict("2", pair(0.001, 0.001)).decision, Decision::Confirmed);
    assert_eq!(verdict("2", pair(0.05, 0.001)).decision, Decision::Refuted);
    assert_eq!(verdict("2", pair(0.0, 0.02)).decision, Decision::Underpowered);
}

/// Runs of one block in two or three precisions.
fn precisions(ffn: &str, effects: &[(&str, f64)]) -> Vec<RunMaker> {
    let of = |&(name, effect): &(&str, f64)| -> Vec<RunMaker> {
        let (ffn, name) = (ffn.to_owned(), name.to_owned());
        let noise = |seed: u64| 0.0005 * (seed as f64 + effect * 100.0).sin();
        let run = |seed: u64| match &*name {
            "fp32" => RunMaker::new(&ffn, seed),
            _ => RunMaker::new(&ffn, seed).precision(&name, effect + noise(seed)),
        };
        (0..5).map(run).collect()
    };
    effects.iter().flat_map(of).collect()
}

#[test]
fn bounds_and_precisions() {
    let gaps = |current, delayed| {
        precisions("swiglu", &[("bf16", 0.0), ("fp8_current", current), ("fp8_delayed", delayed)])
    };
    assert_eq!(verdict("12", gaps(0.002, 0.003)).decision, Decision::Confirmed);
    assert_eq!(verdict("12", gaps(0.002, 0.03)).decision, Decision::Refuted);
    assert_eq!(
        verdict("11", precisions("swiglu", &[("fp32", 0.0), ("bf16", 0.001)])).decision,
        Decision::Confirmed
    );
    let other = precisions("relu", &[("fp32", 0.0), ("bf16", 0.001)]);
    assert!(matches!(assess_runs(&shipped_claim("11"), other), State::NoRuns), "the claim fixes the block");
}

#[test]
fn monotone() {
    let widths = |losses: [f64; 3]| -> Vec<RunMaker> {
        let of = |(width, loss): (f64, f64)| {
            (0..5).map(move |seed| {
                run("swiglu", seed, loss + 0.001 * (seed as f64 * width).sin())
                    .config(&format!("model.ffn.width.param_matched = {width:?}"))
            })
        };
        [2.0, 4.0, 6.0].into_iter().zip(losses).flat_map(of).collect()
    };
    assert_eq!(verdict("10", widths([0.1, 0.05, 0.0])).decision, Decision::Confirmed);
    assert_eq!(verdict("10", widths([0.1, 0.0, 0.05])).decision, Decision::Refuted);
}

#[test]
fn interaction() {
    let cell = |ffn: &'static str, narrow: f64| {
        let wide = (0..5).map(move |seed| RunMaker::new(ffn, seed).precision("bf16", 0.0));
        let low = (0..5).map(move |seed| {
            let noise = 0.0005 * (seed as f64).sin();
            RunMaker::new(ffn, seed)
                .precision("bf16", narrow + noise)
                .config("precision.activation = 'compute'")
        });
        wide.chain(low)
    };
    let all = |relu, gelu, swiglu| -> Vec<RunMaker> {
        cell("relu", relu).chain(cell("gelu", gelu)).chain(cell("swiglu", swiglu)).collect()
    };
    // Noise is the same in all cells and cancels, so a little is added to one of them.
    let jitter = |mut runs: Vec<RunMaker>| {
        for (i, made) in runs.iter_mut().enumerate() {
            let by = 0.0003 * (i as f64 * 1.7).sin();
            *made = made.clone().with(|summary| summary.validation.as_mut().unwrap().loss += by);
        }
        runs
    };
    let found = verdict("13", jitter(all(0.0, 0.02, 0.02)));
    assert_eq!((found.decision, found.comparisons.len()), (Decision::Confirmed, 2));
    assert!((found.comparisons[0].difference - 0.02).abs() < 0.002, "{found:?}");
    assert_eq!(verdict("13", jitter(all(0.02, 0.0, 0.0))).decision, Decision::Refuted);
}

#[test]
fn decomposition() {
    let grid = |gate: f64, activation: f64| {
        let cell = |ffn, gated: f64, act: f64| (ffn, gate * gated + activation * act);
        runs(&[
            cell("relu", 0.0, 0.0),
            cell("gelu", 0.0, 1.0),
            cell("swish", 0.0, 2.0),
            cell("reglu", 1.0, 0.0),
            cell("geglu", 1.0, 1.0),
            cell("swiglu", 1.0, 2.0),
        ])
    };
    let found = verdict("6", grid(-0.1, 0.005));
    assert_eq!(found.decision, Decision::Confirmed);
    assert!(found.comparisons[0].difference > 0.8, "{found:?}");
    assert_eq!(verdict("6", grid(-0.005, 0.1)).decision, Decision::Refuted);
}

#[test]
fn trend_of_differences() {
    let sizes = |gaps: [f64; 3]| -> Vec<RunMaker> {
        let of = |(d_model, gap): (u64, f64)| {
            (0..5).flat_map(move |seed| {
                let size = format!("model.d_model = {d_model}");
                let noise = 0.002 * ((seed * d_model) as f64).sin();
                [("bf16", 0.0), ("bitnet_b158", gap + noise)]
                    .map(|(name, effect)| RunMaker::new("swiglu", seed).precision(name, effect).config(&size))
            })
        };
        [32, 64, 128].into_iter().zip(gaps).flat_map(of).collect()
    };
    let found = verdict("17", sizes([0.6, 0.5, 0.4]));
    assert_eq!(found.decision, Decision::Confirmed);
    assert!((found.comparisons[0].difference + 0.1).abs() < 0.01, "nats per doubling: {found:?}");
    assert_eq!(verdict("17", sizes([0.4, 0.5, 0.6])).decision, Decision::Refuted);
}

#[test]
fn a_precondition_that_did_not_occur_leaves_the_claim_open_whatever_the_differences() {
    let short = |run: RunMaker| run.with(|summary| summary.tokens = 1000);
    let found = verdict("3", runs(&[("bilinear", -0.5), ("glu", 0.0)]).into_iter().map(short).collect());
    assert_eq!(found.decision, Decision::NotReached);
    assert!(found.reason.contains("at least 1.00") && !found.preconditions[0].met, "{}", found.reason);
    assert!(found.comparisons[0].interval.is_some(), "the effect is shown all the same");
}

#[test]
fn a_sweep_of_nine_variants_decides_what_it_has_the_arms_for() {
    let found = nine_variants(5);
    let state = |claim: &str| assess(&shipped_claim(claim), &found, None).unwrap().state;
    for claim in ["1", "2", "3", "4", "6", "8"] {
        assert_eq!(judged(state(claim)).len(), 1, "claim {claim}");
    }
    assert_eq!(judged(state("1"))[0].decision, Decision::Confirmed);
    assert_eq!(judged(state("8"))[0].decision, Decision::Refuted, "squared ReLU is made 0.013 worse there");
    assert!(reasons(state("5")).contains("no run that ended for gtu"));
    assert!(reasons(state("7")).contains("selu"));
}

#[test]
fn missing_arms_and_no_runs() {
    assert!(matches!(assess_runs(&shipped_claim("3"), vec![]), State::NoRuns));
    assert!(matches!(assess_runs(&shipped_claim("3"), runs(&[("relu", 0.0)])), State::NoRuns));
    assert_eq!(
        reasons(assess_runs(&shipped_claim("3"), runs(&[("glu", 0.0)]))),
        "no run that ended for bilinear"
    );
    let apart = vec![run("bilinear", 0, 0.0), run("glu", 1, 0.0)];
    assert!(reasons(assess_runs(&shipped_claim("3"), apart)).contains("no finished seed in common"));
}

#[test]
fn few_seeds_missing_seeds_and_repeated_runs_are_said() {
    let mut three: Vec<RunMaker> =
        (0..3).flat_map(|s| [run("bilinear", s, -0.05), run("glu", s, 0.0)]).collect();
    three.extend([run("glu", 7, 0.0), run("glu", 0, 9.0)]);
    let found = verdict("3", three);
    let said = found.notes.join("\n");
    for part in ["3 seeds per comparison; the rule asks for 5", "few seeds", "seed 7", "1 runs repeat a seed"]
    {
        assert!(said.contains(part), "`{part}` is missing in {said}");
    }
    assert_eq!(found.comparisons[0].n, 3);
}

#[test]
fn seeds_can_be_chosen() {
    let all = collection(runs(&[("bilinear", -0.05), ("glu", 0.0)]));
    let chosen = |seeds: &[u64]| {
        let seeds: BTreeSet<u64> = seeds.iter().copied().collect();
        assess(&shipped_claim("3"), &all, Some(&seeds)).unwrap().state
    };
    assert_eq!(judged(chosen(&[1, 3, 4]))[0].comparisons[0].seeds, [1, 3, 4]);
    assert!(matches!(chosen(&[8, 9]), State::NoRuns));
    assert!(judged(chosen(&[1]))[0].reason.contains("no interval"));
}

#[test]
fn a_diverged_run_confirms_nothing() {
    let mut all = runs(&[("bilinear", -0.05), ("glu", 0.0)]);
    all[4] = all[4].clone().diverged();
    let found = verdict("3", all);
    assert_eq!(found.decision, Decision::Underpowered);
    assert!(
        found.reason.contains("bilinear diverged") && found.notes.join("\n").contains("have no loss"),
        "{found:?}"
    );
}

#[test]
fn what_cannot_be_tested_says_what_is_missing() {
    for claim in ["21", "22"] {
        let State::NotYetTestable { missing } = assess_runs(&shipped_claim(claim), vec![]) else {
            panic!("claim {claim}")
        };
        assert!(missing.len() > 20, "{missing}");
    }
}

#[test]
fn verdicts_of_computations_need_no_runs() {
    for (claim, decision) in [("24", Decision::Refuted), ("25", Decision::Confirmed)] {
        let found = verdict(claim, vec![]);
        assert_eq!((found.decision, found.setting.is_none()), (decision, true));
        assert!(found.checks.iter().any(|check| !check.asked.is_empty()));
    }
}

#[test]
fn reports_hold_the_effect_the_interval_and_the_rule() {
    let found = assess(&shipped_claim("4"), &nine_variants(3), None).unwrap();
    let text = report(&found, None);
    let interval = judged(found.state.clone())[0].comparisons[0].interval.unwrap();
    for part in [
        "Claim 4: Bilinear beats every ungated block",
        "bilinear - swish",
        &format!("[{:+.4}, {:+.4}]", interval.low, interval.high),
        "few seeds",
        "adjusted by Holm over 3 comparisons",
        "Bilinear minus each",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
    let json = serde_json::to_value(&found).unwrap();
    assert!(json["state"]["judged"][0]["comparisons"][0]["interval"]["low"].is_number(), "{json}");
    let all: Vec<Assessment> = shipped()
        .unwrap()
        .iter()
        .map(|claim| assess_untimed(claim, &nine_variants(3), None).unwrap())
        .collect();
    let table = list(&all, Scale::Small, None);
    for part in [
        "26  h-swish",
        "10 x 800, timing",
        "not yet testable",
        "35 x 800",
        "incomplete, 3 runs",
        "no runs",
        "seconds",
    ] {
        assert!(table.contains(part), "`{part}` is missing in\n{table}");
    }
}

#[test]
fn a_description_holds_all_of_the_file() {
    for claim in shipped().unwrap() {
        let text = describe(&claim);
        for arm in &claim.arms {
            assert!(text.contains(&arm.name), "{} in\n{text}", arm.name);
        }
        let kind = format!("[{}", claim.rule.kind());
        assert!(text.contains(&claim.hash) && text.contains(&kind), "{kind}\n{text}");
    }
}
