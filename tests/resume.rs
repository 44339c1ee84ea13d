//! A run that was stopped, however rudely, equals one that was not, bit for bit.

use std::process::{Command, Stdio};
use std::time::Duration;

use ffnlab_tests::{Sandbox, TINY};

/// Starts a run and sends it `signal` once its metrics show `after` lines.
fn interrupt(mut command: Command, metrics: &std::path::Path, after: usize, signal: i32) -> Option<i32> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    loop {
        let lines = std::fs::read_to_string(metrics).map_or(0, |text| text.lines().count());
        if lines >= after || child.try_wait().expect("a status").is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: the child has not been waited for, so the process id is its own.
    unsafe { libc::kill(child.id() as i32, signal) };
    child.wait().expect("a status").code()
}

fn same_run(sandbox: &Sandbox, a: &str, b: &str, step: u64) {
    assert_eq!(sandbox.losses(a), sandbox.losses(b));
    assert_eq!(sandbox.weights(a, step), sandbox.weights(b, step));
    for kind in ["probe", "sparsity"] {
        assert_eq!(sandbox.metrics(a, kind), sandbox.metrics(b, kind));
    }
    assert_eq!(sandbox.summary(a)["validation"], sandbox.summary(b)["validation"]);
}

#[test]
fn signals_write_a_checkpoint_and_the_resumed_run_is_the_same() {
    let sandbox = Sandbox::new();
    let config = TINY
        .replace("[data.synthetic]", "dropout = 0.1\n[data.synthetic]")
        .replace("steps = 24", "steps = 120");
    sandbox.write("tiny.toml", config);
    sandbox.ok(&["train", "tiny.toml", "--out", "whole"]);
    let part = ["train", "tiny.toml", "--out", "part", "--resume"];
    let metrics = sandbox.path("part/metrics.jsonl");
    assert_eq!(interrupt(sandbox.command(&part), &metrics, 7, libc::SIGINT), Some(130));
    assert!(!sandbox.path("part/summary.json").exists());
    let refused = sandbox.fails(1, &["train", "tiny.toml", "--out", "part"]);
    assert!(refused.contains("--resume"), "{refused}");
    assert_eq!(interrupt(sandbox.command(&part), &metrics, 30, libc::SIGTERM), Some(143));
    sandbox.ok(&part);
    same_run(&sandbox, "whole", "part", 120);
}

#[test]
fn kill_minus_nine_at_any_moment_loses_nothing() {
    let sandbox = Sandbox::new();
    sandbox
        .write("tiny.toml", TINY.replace("steps = 24", "steps = 90\nprobe_every = 9\nsparsity_every = 15"));
    sandbox.ok(&["train", "tiny.toml", "--out", "whole"]);
    let part = ["train", "tiny.toml", "--out", "part", "--resume"];
    let metrics = sandbox.path("part/metrics.jsonl");
    let mut kills = 0;
    for after in [0, 1, 13, 27, 28, 41, 66, 97] {
        if interrupt(sandbox.command(&part), &metrics, after, libc::SIGKILL).is_none() {
            kills += 1;
        }
    }
    assert!(kills >= 5, "only {kills} of the kills met a running process");
    sandbox.ok(&part);
    same_run(&sandbox, "whole", "part", 90);
    assert_eq!(sandbox.metrics("part", "sparsity").len(), 6);
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY.replace("steps = 24", "steps = 24\nsparsity_every = 12"));
    for kernels in ["reference", "portable"] {
        for threads in ["1", "2"] {
            let out = format!("{kernels}-{threads}");
            sandbox.ok(&["train", "tiny.toml", "--threads", threads, "--kernels", kernels, "--out", &out]);
        }
        same_run(&sandbox, &format!("{kernels}-1"), &format!("{kernels}-2"), 24);
    }
}

#[test]
fn the_instruction_set_of_the_loops_does_not_show() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "widest"]);
    let mut pinned = sandbox.command(&["train", "tiny.toml", "--out", "baseline"]);
    assert!(pinned.env("FFNLAB_ISA", "baseline").status().unwrap().success());
    same_run(&sandbox, "widest", "baseline", 24);
}

#[test]
fn blocks_computed_again_give_the_same_bits() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "kept"]);
    sandbox.ok(&["train", "tiny.toml", "--recompute", "--out", "again"]);
    same_run(&sandbox, "kept", "again", 24);
    let recipe = ["train", "tiny.toml", "--recompute", "-o", "precision.preset=bf16", "--out", "low"];
    assert!(sandbox.fails(1, &recipe).contains("train.micro_batches"));
}

#[test]
fn a_run_that_has_ended_is_not_repeated() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "run"]);
    let before = std::fs::metadata(sandbox.path("run/summary.json")).unwrap().modified().unwrap();
    sandbox.ok(&["train", "tiny.toml", "--out", "run"]);
    assert_eq!(std::fs::metadata(sandbox.path("run/summary.json")).unwrap().modified().unwrap(), before);
}
