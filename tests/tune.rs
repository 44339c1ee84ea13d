//! Learning rates: found by runs that are runs like any others, and used by the sweep that follows.

use std::process::Stdio;
use std::time::Duration;

use ffnlab_tests::{Sandbox, TINY, text};
use serde_json::Value;

fn grid(extra: &str) -> String {
    format!(
        "{TINY}\n[optim]\nlr = 4e-3\n[sweep]\n\"model.ffn.preset\" = [\"relu\", \"swiglu\"]\nseed = [0, 1]\n{extra}"
    )
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// What a tuning came to, without the places of its runs.
fn figures(tuning: &Value) -> Vec<Value> {
    let arms = tuning["arms"].as_array().unwrap();
    let losses = |arm: &Value| {
        let measured = arm["measured"].as_array().unwrap();
        measured
            .iter()
            .map(|m| (m["steps"].clone(), m["rate"].clone(), m["loss"].clone()))
            .collect::<Vec<_>>()
    };
    arms.iter().map(|arm| serde_json::json!([arm["arm"], arm["choice"], losses(arm)])).collect()
}

#[test]
fn every_arm_gets_a_rate_that_was_compared_with_its_neighbours_in_full() {
    let sandbox = Sandbox::new();
    sandbox.write("grid.toml", grid(""));
    let tuning = sandbox.json(&["tune", "grid.toml", "--json"]);
    assert_eq!(
        (&tuning["seeds"], &tuning["sweep_seeds"]),
        (&serde_json::json!([2]), &serde_json::json!([0, 1]))
    );
    assert_eq!(tuning["arms"].as_array().unwrap().len(), 2);
    for arm in tuning["arms"].as_array().unwrap() {
        let steps: Vec<u64> =
            arm["rungs"].as_array().unwrap().iter().map(|rung| rung["steps"].as_u64().unwrap()).collect();
        assert_eq!(steps, [3, 8, 24]);
        let measured = arm["measured"].as_array().unwrap();
        let on = |steps: u64| measured.iter().filter(move |m| m["steps"] == steps);
        assert!(on(3).count() >= 5 && on(8).count() < on(3).count() + 3, "{arm}");
        let choice = &arm["choice"];
        let losses: Vec<f64> = on(24).map(|m| m["loss"].as_f64().unwrap()).collect();
        assert!(losses.iter().all(|loss| choice["loss"].as_f64().unwrap() <= *loss), "{arm}");
        for neighbour in [&choice["lower"], &choice["higher"]] {
            let tried = neighbour.is_null() || on(24).any(|m| m["rate"] == neighbour["rate"]);
            assert!(tried && (!neighbour.is_null() || choice["edges"][0].is_object()), "{arm}");
        }
        for run in measured.iter().flat_map(|m| m["runs"].as_array().unwrap()) {
            let summary = sandbox.summary(run["dir"].as_str().unwrap());
            assert_eq!((&summary["validation"]["loss"], &summary["seed"]), (&run["loss"], &run["seed"]));
        }
    }
    let record = std::fs::read_to_string(sandbox.path("runs/grid-tune/tuning.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&record).unwrap(), tuning);
}

#[test]
fn the_config_written_is_the_grid_with_the_rates_found() {
    let sandbox = Sandbox::new();
    sandbox.write("grid.toml", grid(""));
    let tuning = sandbox.json(&["tune", "grid.toml", "--rungs", "1", "--points", "3", "--json"]);
    let to = tuning["tuned"].as_str().unwrap();
    assert_eq!(to, "runs/grid-tune/grid-tuned.toml");
    let config = std::fs::read_to_string(sandbox.path(to)).unwrap();
    contains(
        &config,
        &[
            "# Written by `ffnlab tune`",
            "from grid.toml",
            "tuning seeds 2 (the sweep's: 0, 1)",
            "# relu: loss ",
        ],
    );
    let plan = |args: &[&str]| sandbox.json(&[&["sweep"], args, &["--dry-run", "--json"]].concat());
    let names = |plan: &Value| -> Vec<String> {
        plan.as_array().unwrap().iter().map(|cell| cell["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&plan(&[to])), names(&plan(&["grid.toml"])), "the same cells");
    // With the tuning seed its cells are the very runs that decided.
    let ids = |plan: Value| -> Vec<String> {
        let id = |cell: &Value| cell["out"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
        plan.as_array().unwrap().iter().map(id).collect()
    };
    let decided = tuning["arms"].as_array().unwrap().iter().map(|arm| {
        let rate = &arm["choice"]["rate"];
        let measured =
            arm["measured"].as_array().unwrap().iter().find(|m| m["rate"] == *rate && m["steps"] == 24);
        let dir = measured.unwrap()["runs"][0]["dir"].as_str().unwrap();
        dir.rsplit('-').next().unwrap().to_owned()
    });
    assert_eq!(ids(plan(&[to, "-o", "sweep.seed=[2]"])), decided.collect::<Vec<_>>());
}

#[test]
fn a_sweep_with_a_rate_per_arm_is_compared_and_said() {
    let sandbox = Sandbox::new();
    let rule =
        "[[sweep.where]]\nwhen = { \"model.ffn.preset\" = \"swiglu\" }\nset = { \"optim.lr\" = 1e-3 }\n";
    sandbox.write("grid.toml", grid(rule));
    // A single rate each, around the arm's own, which is at both ends of its search.
    let args = ["tune", "grid.toml", "--points", "1", "--growth", "0", "--rungs", "1", "--to", "rates.toml"];
    let table = sandbox.ok(&args);
    contains(
        &table,
        &["relu    0.004 ↓↑", "swiglu  0.001 ↓↑", "Warning: the best rate is at the end of the search"],
    );
    let config = std::fs::read_to_string(sandbox.path("rates.toml")).unwrap();
    contains(&config, &["AT THE LOWER END", "\"optim.lr\" = 0.004", "\"optim.lr\" = 0.001"]);
    assert_eq!(config.matches("[[sweep.where]]").count(), 2, "the old rule is gone:\n{config}");
    let result = sandbox.json(&["sweep", "rates.toml", "--json"]);
    let rates: Vec<f64> =
        result["arms"].as_array().unwrap().iter().map(|arm| arm["lr"].as_f64().unwrap()).collect();
    assert_eq!(rates, [0.004, 0.001]);
    let table = sandbox.ok(&["compare", "runs/rates"]);
    contains(
        &table,
        &[" lr ", "0.004", "0.001", "Each arm has its own learning rate", "tuned in the same way"],
    );
    assert!(!table.contains("NOT COMPARABLE") && !table.contains("different training budgets"), "{table}");
    contains(&sandbox.ok(&["compare", "runs/rates", "--format", "csv"]), &[",lr\n", ",0.004\n", ",0.001\n"]);
}

#[test]
fn a_grid_of_seeds_alone_has_one_arm_and_sets_its_rate_for_all() {
    let sandbox = Sandbox::new();
    sandbox.write("seeds.toml", format!("{TINY}\n[sweep]\nseed = [4, 7]\n\"optim.lr\" = [2e-3, 1e-3]\n"));
    let args = ["tune", "seeds.toml", "--seeds", "2", "--rungs", "2", "--growth", "1", "--json"];
    let tuning = sandbox.json(&args);
    assert_eq!(tuning["seeds"], serde_json::json!([8, 9]));
    assert_eq!(tuning["arms"][0]["arm"], "all");
    let first = tuning["arms"][0]["measured"].as_array().unwrap().iter().filter(|m| m["steps"] == 8);
    assert!(first.clone().count() >= 2 && first.clone().all(|m| m["runs"].as_array().unwrap().len() == 2));
    let to = tuning["tuned"].as_str().unwrap();
    let resolved = sandbox.json(&["config", "resolve", to, "--json"]);
    assert_eq!(resolved["optim"]["lr"], tuning["arms"][0]["choice"]["rate"]);
    let plan = sandbox.json(&["sweep", to, "--dry-run", "--json"]);
    assert_eq!(plan.as_array().unwrap().len(), 2, "the axis of rates is gone: {plan}");
}

#[test]
fn an_interrupted_search_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    sandbox.write("grid.toml", grid("").replace("steps = 24", "steps = 150"));
    let tune = |out: &'static str| ["tune", "grid.toml", "--rungs", "2", "--points", "3", "--out", out];
    sandbox.ok(&tune("whole"));
    let mut child =
        sandbox.command(&tune("part")).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = || {
        let runs = std::fs::read_dir(sandbox.path("part")).into_iter().flatten().flatten();
        runs.filter(|run| run.path().join("summary.json").exists()).count()
    };
    while ended() < 7 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the child has not been waited for, so the process id is its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{stderr}");
    assert!(stderr.contains("round 2") && stderr.contains("the same command goes on"), "{stderr}");
    assert!(!sandbox.path("part/tuning.json").exists() && !sandbox.path("part/grid-tuned.toml").exists());
    sandbox.ok(&tune("part"));
    let read = |out: &str| -> Value {
        let file = sandbox.path(&format!("{out}/tuning.json"));
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    };
    assert_eq!(figures(&read("whole")), figures(&read("part")));
    let config =
        |out: &str| std::fs::read_to_string(sandbox.path(&format!("{out}/grid-tuned.toml"))).unwrap();
    assert_eq!(config("whole"), config("part"));
    let again = sandbox.run(&tune("part"));
    assert!(again.status.success() && !text(&again.stderr).contains("round"), "nothing is repeated");
}

#[test]
fn diverged_runs_are_infinitely_bad_and_said() {
    let sandbox = Sandbox::new();
    // At a rate of 1 the decay alone multiplies the weights by -99 each step.
    let wild = grid("\"optim.lr\" = [1.0, 1e-4]\n").replace("lr = 4e-3", "weight_decay = 100.0");
    sandbox.write("wild.toml", wild.replace("warmup_steps = 5", "warmup_steps = 0"));
    let args = ["tune", "wild.toml", "--rungs", "1", "--growth", "0", "--seeds", "1"];
    let table = sandbox.ok(&args);
    contains(
        &table,
        &["next higher", "diverged", "Diverged, which counts as infinitely bad: relu from 1 on"],
    );
    let lost = sandbox.run(&[&args[..], &["-o", "sweep.optim.lr=[1.0]", "--out", "lost"]].concat());
    assert_eq!(lost.status.code(), Some(1));
    contains(
        &text(&lost.stdout),
        &["none", "every rate diverged, so there is none to choose: relu (down to 1)"],
    );
    contains(&text(&lost.stderr), &["ffnlab: no config was written", "lower optim.lr"]);
    assert!(!sandbox.path("lost/wild-tuned.toml").exists() && sandbox.path("lost/tuning.json").exists());
}

#[test]
fn what_cannot_be_tuned_is_refused_before_anything_runs() {
    let sandbox = Sandbox::new();
    let fails = |config: &str, more: &[&str]| {
        sandbox.write("bad.toml", config);
        let error = sandbox.fails(2, &[&["tune", "bad.toml", "--out", "out"], more].concat());
        assert!(!sandbox.path("out").exists(), "nothing is written");
        error
    };
    contains(&fails(TINY, &[]), &["[sweep]", "no grid"]);
    contains(&fails(&format!("{TINY}\n[sweep]\n"), &[]), &["bad.toml", "the grid is empty"]);
    contains(&fails(&grid("\"optim.lr\" = []\n"), &[]), &["bad.toml", "`optim.lr` has no values"]);
    contains(&fails(&grid("\"optim.lr\" = [0.0, 1e-3]\n"), &[]), &["optim.lr", "above 0"]);
    contains(&fails(&grid("\"optim.lr\" = [1e-3, 11.0]\n"), &[]), &["optim.lr", "found 11"]);
    contains(
        &fails(&grid(""), &["-o", "optim.lr=0"]),
        &["optim.lr", "no geometric grid around a learning rate of 0"],
    );
    contains(
        &fails(&grid("\"optim.lr\" = [1e-3]\n"), &["--points", "3"]),
        &["--points", "leave one of them out"],
    );
    let by_seed = "[[sweep.where]]\nwhen = { seed = 1 }\nset = { \"optim.eps\" = 1e-6 }\n";
    contains(&fails(&grid(by_seed), &[]), &["[[sweep.where]]", "depends on `seed`"]);
    let unmatched =
        "[[sweep.where]]\nwhen = { \"model.ffn.preset\" = \"geglu\" }\nset = { \"optim.eps\" = 1e-6 }\n";
    contains(&fails(&grid(unmatched), &[]), &["bad.toml:", "no cell has model.ffn.preset = \"geglu\""]);
    contains(&fails(&grid(""), &["--to", "bad.toml"]), &["bad.toml", "choose another --to"]);
    for (option, value) in
        [("--factor", "1"), ("--points", "0"), ("--rungs", "0"), ("--eta", "1"), ("--margin", "-1")]
    {
        let option = format!("{option}={value}");
        let output = sandbox.run(&["tune", "bad.toml", &option]);
        assert_eq!(output.status.code(), Some(2), "{option}");
    }
    let output = sandbox.run(&["tune", "-"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_published_experiment_can_be_tuned_first() {
    let sandbox = Sandbox::new();
    let args = [
        "reproduce",
        "shazeer",
        "--scale",
        "smoke",
        "--tune",
        "--seeds",
        "1",
        "--out",
        "runs/table",
        "--json",
    ];
    let narrow = ["-o", "sweep.model.ffn.preset=[\"relu\", \"swiglu\"]", "-o", "train.steps=12"];
    let table = sandbox.json(&[&args[..], &narrow].concat());
    let tuning = std::fs::read_to_string(sandbox.path("runs/table-tune/tuning.json")).unwrap();
    let tuning: Value = serde_json::from_str(&tuning).unwrap();
    assert_eq!(tuning["seeds"], serde_json::json!([1]), "the sweep has seed 0");
    let found = tuning["arms"].as_array().unwrap().iter().map(|arm| &arm["choice"]["rate"]);
    let used = table["arms"].as_array().unwrap().iter().map(|arm| &arm["lr"]);
    assert_eq!(found.collect::<Vec<_>>(), used.collect::<Vec<_>>());
}
