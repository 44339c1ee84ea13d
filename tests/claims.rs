//! Claims from the command line: listed, shown, decided by computation, by their own runs, and by anybody's.

use ffnlab_tests::{Sandbox, TINY, text};
use serde_json::Value;

/// A claim whose runs take a moment.
const MINE: &str = r#"
number = 99
name = "mine"
title = "ReLU beats GELU"
claim = "ReLU beats GELU."
sources = ["nobody"]
expected = "nothing"
hypothesis = "The loss of ReLU is below that of GELU."
rule_in_words = "ReLU minus GELU within each seed."
seeds = 2
equal_parameters = true
[config]
train.steps = 4
[arms]
relu = { model.ffn.preset = "relu" }
gelu = { model.ffn.preset = "gelu" }
[rule.less]
metric = "loss"
arms = ["relu"]
than = ["gelu"]
smallest_effect = 0.01
"#;

fn verdict(assessment: &Value) -> &Value {
    assessment["state"]["judged"].get(0).unwrap_or_else(|| panic!("no verdict in {assessment}"))
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn every_claim_is_listed_with_its_cost_and_state() {
    let sandbox = Sandbox::new();
    let table = sandbox.ok(&["claims", "list"]);
    contains(&table, &["35 x 800", "no runs", "not yet testable", "refuted", "confirmed", "seconds"]);
    contains(&sandbox.ok(&["claims", "list", "--scale", "smoke"]), &["35 x 40"]);
    let all = sandbox.json(&["claims", "list", "--json"]);
    let numbers: Vec<u64> =
        all.as_array().unwrap().iter().map(|row| row["claim"]["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=26).collect::<Vec<u64>>());
    assert!(!sandbox.path("runs").exists(), "looking writes nothing");
}

#[test]
fn a_claim_is_shown_by_number_and_by_name() {
    let sandbox = Sandbox::new();
    let shown = sandbox.ok(&["claims", "show", "12"]);
    contains(
        &shown,
        &[
            "Claim 12: The FP8 gap",
            "marin issue 7298",
            "wholly below +0.01 nats",
            "bound = 0.01",
            "fp8_delayed",
        ],
    );
    assert_eq!(shown, sandbox.ok(&["claims", "show", "fp8-gap"]));
    let claim = sandbox.json(&["claims", "show", "12", "--json"]);
    assert_eq!(claim["rule"]["at_most"]["bound"], 0.01);
    assert_eq!(claim["hash"].as_str().unwrap().len(), 16);
}

#[test]
fn exact_claims_are_decided_at_once() {
    let sandbox = Sandbox::new();
    for (claim, decision) in
        [("9", "confirmed"), ("16", "confirmed"), ("23", "confirmed"), ("24", "refuted"), ("25", "confirmed")]
    {
        let assessment = sandbox.json(&["claims", "verdict", claim, "--json"]);
        let verdict = verdict(&assessment);
        assert_eq!(verdict["decision"], decision, "claim {claim}: {verdict}");
        assert!(!verdict["checks"].as_array().unwrap().is_empty());
    }
    contains(&sandbox.ok(&["claims", "run", "24"]), &["REFUTED", "-1.278", "least derivative of Swish"]);
    assert!(!sandbox.path("runs").exists(), "nothing is trained");
}

#[test]
fn a_claim_is_run_resumed_and_shares_its_runs() {
    let sandbox = Sandbox::new();
    let run = ["claims", "run", "3", "--scale", "smoke", "--seeds", "2"];
    let plan = sandbox.json(&[&run[..], &["--dry-run", "--json"]].concat());
    assert_eq!(plan.as_array().unwrap().len(), 4);
    assert!(!sandbox.path("runs").exists(), "a dry run writes nothing");
    let assessment = sandbox.json(&[&run[..], &["--json"]].concat());
    let first = verdict(&assessment);
    assert_eq!(first["decision"], "not_reached", "40 steps are too few: {first}");
    assert_eq!((&first["registration"], &first["setting"]["runs"]), (&"before".into(), &4.into()));
    let comparison = &first["comparisons"][0];
    assert_eq!((comparison["n"].as_u64(), comparison["interval"]["level"].as_f64()), (Some(2), Some(0.95)));

    let again = sandbox.run(&run);
    contains(&text(&again.stderr), &["4 of 4 runs had ended before"]);
    contains(
        &text(&again.stdout),
        &["NOT REACHED AT THIS SCALE", "few seeds", "bilinear - glu", "fixed before"],
    );
    let later = sandbox.json(&["claims", "verdict", "bilinear-beats-glu", "--json"]);
    assert_eq!(verdict(&later)["comparisons"], first["comparisons"]);

    let others = sandbox.ok(&["claims", "run", "4", "--scale", "smoke", "--seeds", "2", "--dry-run"]);
    contains(&others, &["ended   bilinear-seed0", "to do   relu-seed0", "8 runs, 6 to do"]);
    contains(&sandbox.ok(&["claims", "list"]), &["not reached", "incomplete, 2 runs"]);
}

#[test]
fn claims_about_the_inside_and_the_cost_of_blocks_end_with_a_verdict() {
    let sandbox = Sandbox::new();
    let run = |claim: &str| {
        let run = ["claims", "run", claim, "--scale", "smoke", "--seeds", "2", "--json"];
        verdict(&sandbox.json(&run)).clone()
    };
    let labels = |verdict: &Value| -> Vec<String> {
        let comparisons = verdict["comparisons"].as_array().unwrap().iter();
        comparisons.map(|comparison| comparison["label"].as_str().unwrap().to_owned()).collect()
    };
    let slopes = run("active-ratio-with-data");
    assert_eq!(labels(&slopes), ["relu below 0", "swish above 0"]);
    let dead = run("dead-units-and-warm-up");
    assert_eq!(labels(&dead), ["warm_up below 0.05", "no_warm_up - warm_up"]);
    let cost = run("hardswish-cost");
    assert_eq!(labels(&cost), ["hardswish / relu6", "silu / hardswish", "hardswish - swish"]);
    for found in [&slopes, &dead, &cost] {
        assert_eq!(found["decision"], "not_reached", "so few steps are too few: {found}");
        assert_eq!((&found["registration"], &found["setting"]["runs"]), (&"before".into(), &4.into()));
        assert!(found["comparisons"][0]["difference"].is_number(), "{found}");
    }
    assert!(cost["comparisons"][0]["interval"]["low"].as_f64() > Some(0.0), "{cost}");
    contains(&sandbox.ok(&["claims", "list"]), &["to be timed", "`ffnlab claims verdict 26`", "not reached"]);
    let again = sandbox.run(&["claims", "verdict", "26"]);
    contains(&text(&again.stderr), &["claim 26 times activation functions: leave the machine idle"]);
    contains(&text(&again.stdout), &["Time per element, forward and backward", "rounds", "want it idle"]);
}

#[test]
fn a_sweep_decides_a_claim_by_what_its_configs_say() {
    let sandbox = Sandbox::new();
    let grid = "[sweep]\n\"model.ffn.preset\" = [\"relu_squared\", \"swiglu\", \"relu\"]\nseed = [0, 1, 2]\n";
    sandbox.write("grid.toml", format!("{TINY}\n{grid}"));
    sandbox.ok(&["sweep", "grid.toml", "--out", "elsewhere/deep"]);
    let assessment = sandbox.json(&["claims", "verdict", "8", "--runs", "elsewhere", "--json"]);
    let found = verdict(&assessment);
    assert_eq!(found["registration"]["unregistered"], 6, "{found}");
    let comparison = sandbox.json(&["compare", "elsewhere", "--baseline", "swiglu", "--json"]);
    let arms = comparison["arms"].as_array().unwrap();
    let squared = arms.iter().find(|arm| arm["label"] == "relu_squared").unwrap();
    let (ours, theirs) = (&found["comparisons"][0], &squared["difference"]["estimate"]);
    assert_eq!(ours["difference"], theirs["mean"], "the same difference as in the table");
    let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-12;
    assert!(near(&ours["interval"]["low"], &theirs["ci95"][0]), "{ours} {theirs}");
    let two = sandbox.json(&["claims", "verdict", "8", "--runs", "elsewhere", "--seeds", "0,2", "--json"]);
    assert_eq!(verdict(&two)["comparisons"][0]["seeds"], serde_json::json!([0, 2]));
    let page = sandbox.ok(&["report", "elsewhere"]);
    contains(
        &page,
        &["id=\"claims\"", "Claim 8: ", found["reason"].as_str().unwrap().split(':').next().unwrap()],
    );
    let error = sandbox.fails(1, &["claims", "verdict", "2", "--runs", "elsewhere"]);
    contains(&error, &["3 runs in elsewhere belong to claim 2", "no run that ended for geglu"]);
    contains(&sandbox.ok(&["claims", "verdict", "all", "--runs", "elsewhere"]), &["no run that ended for"]);
}

#[test]
fn a_claim_of_ones_own_and_a_rule_changed_afterwards() {
    let sandbox = Sandbox::new();
    sandbox.write("mine.toml", MINE);
    let run = ["claims", "run", "mine.toml", "--scale", "smoke", "--out", "mine"];
    contains(
        &sandbox.ok(&run),
        &["Claim 99: ReLU beats GELU", "fixed before every one of these runs", "few seeds"],
    );
    sandbox.write("mine.toml", MINE.replace("smallest_effect = 0.01", "smallest_effect = 0.5"));
    let changed = sandbox.ok(&["claims", "verdict", "mine.toml", "--runs", "mine"]);
    contains(&changed, &["THE RULE WAS CHANGED after 4 of these runs had begun"]);
    contains(&sandbox.ok(&run), &["THE RULE WAS CHANGED"]);
    sandbox.write("mine.toml", MINE.replace("\"loss\"", "\"los\""));
    contains(&sandbox.fails(2, &run), &["mine.toml:18:10", "did you mean `loss`?"]);
    sandbox.write("mine.toml", MINE.replace("than = [\"gelu\"]", "than = [\"gleu\"]"));
    contains(&sandbox.fails(2, &run), &["rule.less", "did you mean `gelu`?"]);
    sandbox.write("mine.toml", MINE.replace("preset = \"gelu\"", "preset = \"geluu\""));
    contains(&sandbox.fails(2, &run), &["mine.toml: arms.gelu.model.ffn.preset", "did you mean `gelu`?"]);
}

#[test]
fn what_cannot_be_decided_says_why() {
    let sandbox = Sandbox::new();
    contains(&sandbox.fails(2, &["claims", "show", "27"]), &["claim 27", "1 to 26"]);
    contains(
        &sandbox.fails(2, &["claims", "run", "bilinear-beats-gul"]),
        &["did you mean `bilinear-beats-glu`?"],
    );
    contains(
        &sandbox.fails(2, &["claims", "verdict", "absent.toml"]),
        &["absent.toml", "cannot read this claim"],
    );
    contains(
        &sandbox.fails(1, &["claims", "verdict", "3"]),
        &["runs/claims: no such directory", "claims run"],
    );
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "-o", "model.ffn.preset=relu", "--out", "one/relu"]);
    let error = sandbox.fails(1, &["claims", "verdict", "3", "--runs", "one"]);
    contains(&error, &["no run in one belongs to claim 3", "bilinear, glu", "`ffnlab claims run 3`"]);
    for (preset, language, out) in [("bilinear", 1, "mixed/a"), ("glu", 2, "mixed/b")] {
        let preset = format!("model.ffn.preset={preset}");
        let language = format!("data.synthetic.language_seed={language}");
        sandbox.ok(&["train", "tiny.toml", "-o", &preset, "-o", &language, "--out", out]);
    }
    let error = sandbox.fails(1, &["claims", "verdict", "3", "--runs", "mixed"]);
    contains(&error, &["not in one setting", "data (", "language_seed (1, 2)"]);
    contains(&sandbox.ok(&["claims", "verdict", "21"]), &["NOT YET TESTABLE", "missing: inference"]);
}
