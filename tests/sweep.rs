//! Grids: every cell once, whatever happens in between.

use std::process::Stdio;
use std::time::Duration;

use ffnlab_tests::{Sandbox, TINY, text};

fn grid(extra: &str) -> String {
    format!("{TINY}\n[sweep]\n\"model.ffn.preset\" = [\"relu\", \"swiglu\"]\nseed = [0, 1]\n{extra}")
}

#[test]
fn trains_every_cell_and_skips_what_has_ended() {
    let sandbox = Sandbox::new();
    sandbox.write("grid.toml", grid(""));
    let plan = sandbox.json(&["sweep", "grid.toml", "--out", "runs", "--dry-run", "--json"]);
    assert_eq!(plan.as_array().unwrap().len(), 4);
    assert!(!sandbox.path("runs").exists(), "a dry run writes nothing");
    let result = sandbox.json(&["sweep", "grid.toml", "--out", "runs", "--jobs", "2", "--json"]);
    assert_eq!(result["arms"].as_array().unwrap().len(), 2);
    assert_eq!(result["runs"].as_array().unwrap().len(), 4);
    let output = sandbox.run(&["sweep", "grid.toml", "--out", "runs"]);
    assert!(text(&output.stderr).contains("4 of 4 runs had ended before"), "{}", text(&output.stderr));
    let plan = sandbox.json(&["sweep", "grid.toml", "--out", "runs", "--dry-run", "--json"]);
    assert!(plan.as_array().unwrap().iter().all(|cell| cell["ended"] == true));
}

#[test]
fn a_cell_is_the_run_that_train_would_make() {
    let sandbox = Sandbox::new();
    sandbox.write("grid.toml", grid(""));
    sandbox.write("one.toml", TINY);
    let plan = sandbox.json(&["sweep", "grid.toml", "--out", "runs", "--dry-run", "--json"]);
    sandbox.ok(&["sweep", "grid.toml", "--out", "runs", "-o", "sweep.seed=[1]"]);
    sandbox.ok(&["train", "one.toml", "-o", "model.ffn.preset=relu", "-o", "seed=1", "--out", "alone"]);
    let cell = plan[1]["out"].as_str().unwrap();
    assert_eq!(plan[1]["name"], "relu-seed1");
    assert_eq!(sandbox.losses(cell), sandbox.losses("alone"));
}

#[test]
fn words_name_cells_and_a_run_under_an_older_name_is_still_that_run() {
    let sandbox = Sandbox::new();
    let grid = "[model.ffn]\nkind = \"ungated\"\n[sweep]\n\"model.ffn.activation\" = [\"elu\", \"selu\"]\nseed = [3]\n";
    sandbox.write("grid.toml", format!("{TINY}\n{grid}"));
    let sweep = ["sweep", "grid.toml", "--out", "runs"];
    let plan = |sandbox: &Sandbox| sandbox.json(&[&sweep[..], &["--dry-run", "--json"]].concat());
    let fresh = plan(&sandbox);
    assert_eq!((&fresh[0]["name"], &fresh[1]["name"]), (&"elu-seed3".into(), &"selu-seed3".into()));
    sandbox.ok(&sweep);
    let out = fresh[0]["out"].as_str().unwrap();
    let older = out.replace("elu-seed3", "activationelu-seed3");
    std::fs::rename(sandbox.path(out), sandbox.path(&older)).unwrap();
    let again = plan(&sandbox);
    assert_eq!((&again[0]["out"], &again[0]["ended"]), (&older.into(), &true.into()));
    assert_eq!((&again[1]["out"], &again[1]["ended"]), (&fresh[1]["out"], &true.into()));
}

/// Cores that the runs of a grid of two seeds could run on, by run; and those of a run outside of any grid.
#[cfg(target_os = "linux")]
fn cores_of_two_cells(keep_to: Option<&[u64]>) -> (Vec<Vec<u64>>, Vec<u64>) {
    use lm_train::cores::Pin;
    use std::os::unix::process::CommandExt;
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.write("grid.toml", format!("{TINY}\n[sweep]\nseed = [0, 1]\n"));
    for args in [["train", "tiny.toml", "--out", "alone"], ["sweep", "grid.toml", "--out", "runs"]] {
        let mut command = sandbox.command(&args);
        if let Some(cores) = keep_to {
            let cores: Vec<usize> = cores.iter().map(|&core| core as usize).collect();
            let pin = Pin::to(&cores);
            // SAFETY: a pin is safe to apply between fork and exec.
            unsafe {
                command.pre_exec(move || pin.apply().then_some(()).ok_or_else(std::io::Error::last_os_error))
            };
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let cores = |run: &str| -> Vec<u64> {
        sandbox.summary(run)["cores"].as_array().unwrap().iter().map(|core| core.as_u64().unwrap()).collect()
    };
    let plan = sandbox.json(&["sweep", "grid.toml", "--out", "runs", "--dry-run", "--json"]);
    let cells = plan.as_array().unwrap().iter().map(|cell| cores(cell["out"].as_str().unwrap())).collect();
    (cells, cores("alone"))
}

#[cfg(target_os = "linux")]
#[test]
fn cells_side_by_side_keep_to_cores_of_their_own() {
    let (cells, all) = cores_of_two_cells(None);
    let quota = std::thread::available_parallelism().unwrap().get() < all.len();
    if all.len() < 2 || quota {
        assert_eq!(cells, [all.clone(), all], "nothing to share out");
        return;
    }
    let middle = all.len().div_ceil(2);
    assert_eq!(cells, [all[..middle].to_vec(), all[middle..].to_vec()]);
    // A sweep that is itself kept to a core stays there.
    let last = &all[all.len() - 1..];
    let (cells, alone) = cores_of_two_cells(Some(last));
    assert_eq!((alone.as_slice(), cells), (last, vec![last.to_vec(); 2]));
}

#[test]
fn a_failing_cell_is_reported_and_the_others_go_on() {
    let sandbox = Sandbox::new();
    let plan_of =
        |sandbox: &Sandbox| sandbox.json(&["sweep", "grid.toml", "--out", "runs", "--dry-run", "--json"]);
    sandbox.write("grid.toml", grid(""));
    let broken = plan_of(&sandbox)[2]["out"].as_str().unwrap().to_owned();
    sandbox.write(&format!("{broken}/something-else.txt"), "not a run");
    let output = sandbox.run(&["sweep", "grid.toml", "--out", "runs"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("swiglu-seed0 failed") && stderr.contains("not a run directory"), "{stderr}");
    let ended = plan_of(&sandbox).as_array().unwrap().iter().filter(|cell| cell["ended"] == true).count();
    assert_eq!(ended, 3);
}

#[test]
fn an_interrupted_sweep_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    sandbox.write("grid.toml", grid("").replace("steps = 24", "steps = 150"));
    sandbox.ok(&["sweep", "grid.toml", "--out", "whole"]);
    let mut command = sandbox.command(&["sweep", "grid.toml", "--out", "part", "--jobs", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = || {
        let runs = std::fs::read_dir(sandbox.path("part")).into_iter().flatten().flatten();
        runs.filter(|run| {
            std::fs::read_to_string(run.path().join("metrics.jsonl")).is_ok_and(|m| m.lines().count() > 5)
        })
        .count()
    };
    while metrics() < 2 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the child has not been waited for, so the process id is its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    sandbox.ok(&["sweep", "grid.toml", "--out", "part"]);
    let names = |folder: &str| {
        let mut names: Vec<String> = std::fs::read_dir(sandbox.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("whole"), names("part"));
    for name in names("whole") {
        let (whole, part) = (format!("whole/{name}"), format!("part/{name}"));
        assert_eq!(sandbox.losses(&whole), sandbox.losses(&part), "{name}");
    }
}
