//! Whatever a user gets wrong: one clear line, the right exit code, nothing already written lost.

use std::io::Read;
use std::process::{Command, Stdio};

use ffnlab_tests::{Sandbox, TINY, binary, text};

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn mistakes_in_a_config_name_file_line_column_and_what_was_meant() {
    let sandbox = Sandbox::new();
    let cases: [(&str, &[&str]); 9] = [
        (
            "[schedule]\nwarmup_step = 3\n",
            &["bad.toml:2:1", "unknown field `warmup_step`", "did you mean `warmup_steps`?"],
        ),
        ("[model]\nd_model = \"wide\"\n", &["bad.toml:2:11", "model.d_model", "invalid type"]),
        ("[optim]\nlr = -0.5\n", &["bad.toml:2:1", "optim.lr", "-0.5"]),
        ("[model]\nd_model = 30\nn_head = 4\n", &["bad.toml:3:1", "model.n_head", "30"]),
        ("[model.ffn]\npreset = \"swigul\"\n", &["bad.toml:2:10", "did you mean `swiglu`?"]),
        ("[model.ffn]\nkind = \"gated\"\n", &["bad.toml", "gate"]),
        ("[train]\nsteps = 5\ntokens = 5\n", &["bad.toml:3:1", "train.tokens", "once"]),
        ("[train\nsteps = 5\n", &["bad.toml:1:7"]),
        ("base = \"nowhere.toml\"\n", &["nowhere.toml"]),
    ];
    for (config, parts) in cases {
        sandbox.write("bad.toml", config);
        contains(&sandbox.fails(2, &["train", "bad.toml", "--out", "run"]), parts);
        assert!(!sandbox.path("run").exists(), "nothing is written for a bad config");
    }
    contains(&sandbox.fails(2, &["train", "absent.toml"]), &["absent.toml", "cannot read"]);
    sandbox.write("tiny.toml", TINY);
    let error = sandbox.fails(2, &["train", "tiny.toml", "-o", "optim.lrr=1"]);
    contains(&error, &["-o optim.lrr=1", "did you mean `lr`?"]);
    sandbox.write("two.toml", "base = \"one.toml\"\n");
    sandbox.write("one.toml", "base = \"tiny.toml\"\n");
    contains(&sandbox.fails(2, &["train", "two.toml"]), &["one.toml:1:1", "one level"]);
    sandbox.write("latin.toml", b"seed = 1 # \xe9\n");
    contains(&sandbox.fails(2, &["train", "latin.toml"]), &["latin.toml", "UTF-8"]);
}

#[test]
fn unusable_text_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("text.toml", format!("{TINY}\n[data]\nsource = \"text\"\nvalid_fraction = 0.2\n"));
    sandbox.write("good.txt", "some words and more words\n".repeat(200));
    sandbox.write("empty.txt", "");
    sandbox.write("latin.txt", [b"abc\n".repeat(2), b"caf\xe9\n".to_vec()].concat());
    sandbox.write("short.txt", "ab\ncd\n");
    let fails = |over: &str| sandbox.fails(1, &["train", "text.toml", "--out", "run", "-o", over]);
    contains(&fails("data.train=absent.txt"), &["absent.txt"]);
    contains(&fails("data.train=empty.txt"), &["empty.txt", "empty"]);
    contains(&fails("data.train=latin.txt"), &["latin.txt", "UTF-8", "3"]);
    contains(&fails("data.train=short.txt"), &["4 tokens", "33"]);
    let same =
        ["train", "text.toml", "-o", "data.train=good.txt", "-o", "data.valid=good.txt", "--out", "run"];
    contains(&sandbox.fails(1, &same), &["good.txt"]);
    let error = sandbox.fails(2, &["train", "text.toml", "--out", "run"]);
    contains(&error, &["data.train"]);
    sandbox.ok(&["train", "text.toml", "-o", "data.train=good.txt", "--out", "good"]);
}

#[test]
fn unusable_token_files_and_tokenizers_are_refused() {
    let sandbox = Sandbox::new();
    let config = TINY.replace("kind = \"byte\"", "kind = \"byte\"\nvocab_size = 300");
    sandbox.write(
        "tokens.toml",
        format!("{config}\n[data]\nsource = \"tokens\"\ntrain = \"train.bin\"\nvalid = \"val.bin\"\n"),
    );
    let good: Vec<u8> = (0..2000u16).flat_map(|i| (i % 251).to_le_bytes()).collect();
    sandbox.write("train.bin", &good);
    sandbox.write("val.bin", &good[..600]);
    sandbox.ok(&["train", "tokens.toml", "--out", "good"]);
    sandbox.write("train.bin", &good[..999]);
    contains(&sandbox.fails(1, &["train", "tokens.toml", "--out", "odd"]), &["train.bin", "odd"]);
    let large: Vec<u8> = (0..2000u16).flat_map(|_| 999u16.to_le_bytes()).collect();
    sandbox.write("train.bin", large);
    contains(&sandbox.fails(1, &["train", "tokens.toml", "--out", "large"]), &["train.bin", "999"]);
    sandbox.write("tiny.toml", TINY);
    sandbox.write("tokenizer.json", "{\"not\": \"a tokenizer\"}");
    let over = [
        "train",
        "tiny.toml",
        "-o",
        "tokenizer.kind=file",
        "-o",
        "tokenizer.file=tokenizer.json",
        "--out",
        "t",
    ];
    contains(&sandbox.fails(1, &over), &["tokenizer.json"]);
}

#[test]
fn a_folder_of_another_run_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "run"]);
    let before = sandbox.weights("run", 24);
    let error = sandbox.fails(1, &["train", "tiny.toml", "-o", "optim.lr=0.5", "--out", "run", "--resume"]);
    contains(&error, &["run", "optim.lr", "0.5"]);
    assert_eq!(sandbox.weights("run", 24), before);
    sandbox.write("mine/thesis.txt", "do not touch");
    contains(&sandbox.fails(1, &["train", "tiny.toml", "--out", "mine"]), &["thesis.txt"]);
    contains(&sandbox.fails(1, &["eval", "mine"]), &["mine", "not a run directory"]);
    contains(&sandbox.fails(1, &["compare", "mine"]), &["mine"]);
}

#[test]
fn a_damaged_checkpoint_is_noticed() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "run"]);
    let model = sandbox.path("run/checkpoints/step-24/model.safetensors");
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    contains(&sandbox.fails(1, &["eval", "run"]), &["step-24", "truncated"]);
    contains(&sandbox.fails(1, &["export", "run", "--to", "hf", "out"]), &["step-24"]);
    std::fs::write(&model, &bytes).unwrap();
    sandbox.ok(&["eval", "run"]);
    sandbox.ok(&["train", "tiny.toml", "-o", "seed=1", "--out", "other"]);
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let from = sandbox.path("other/checkpoints/step-24").join(file);
        std::fs::copy(from, sandbox.path("run/checkpoints/step-24").join(file)).unwrap();
    }
    contains(&sandbox.fails(1, &["eval", "run"]), &["step-24", "does not belong"]);
}

#[test]
fn evaluation_refuses_what_makes_no_sense() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "run"]);
    contains(&sandbox.fails(1, &["eval", "run", "--stride", "0"]), &["stride = 0", "1..=32"]);
    contains(&sandbox.fails(1, &["eval", "run", "--stride", "33"]), &["stride = 33"]);
    contains(&sandbox.fails(1, &["eval", "run", "--data", "absent.txt"]), &["absent.txt"]);
    sandbox.ok(&["train", "tiny.toml", "-o", "model.ffn.preset=gtu", "--out", "gtu"]);
    contains(&sandbox.fails(1, &["export", "gtu", "--to", "hf", "out"]), &["gtu", "tanh"]);
    contains(&sandbox.fails(1, &["compare", "run", "--baseline", "swiglo"]), &["swiglo", "swiglu"]);
}

#[test]
fn an_environment_that_asks_for_what_is_not_there_is_refused_before_anything_runs() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    let train = |variable: &str, value: &str, more: &[&str]| {
        let mut command = sandbox.command(&[&["train", "tiny.toml", "--out", "run"], more].concat());
        let output = command.env(variable, value).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let mut cases =
        vec![("FFNLAB_ISA", "sse9", "avx2"), ("FFNLAB_KERNELS", "fast", "reference, portable, auto")];
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !cpu.contains("avx512f") {
        cases.push(("FFNLAB_ISA", "avx512", "this CPU has no avx512"));
    }
    if !cpu.contains("amx_bf16") {
        cases.push(("FFNLAB_ISA", "amx", "this CPU has no amx"));
    }
    for (variable, value, expected) in cases {
        let (code, stderr) = train(variable, value, &[]);
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
        contains(&stderr, &["ffnlab: ", variable, value, expected]);
        assert!(!sandbox.path("run").exists(), "nothing runs under {variable}={value}");
    }
    // A flag wins over the variable, and an empty variable is none.
    assert_eq!(train("FFNLAB_KERNELS", "fast", &["--kernels", "auto"]).0, Some(0));
    assert_eq!(train("FFNLAB_KERNELS", "", &[]).0, Some(0));
    assert_eq!(train("FFNLAB_ISA", "", &[]).0, Some(0));
}

#[test]
fn a_full_disk_ends_the_run_with_one_line_and_keeps_what_was_written() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "tiny.toml",
        TINY.replace("steps = 24", "steps = 4000").replace("checkpoint_every = 5", "checkpoint_every = 100"),
    );
    // A limit on the size of any file stands in for a full disk: metrics.jsonl runs into it.
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" train tiny.toml --out run";
    let mut command = Command::new("bash");
    command
        .args(["-c", script])
        .arg(binary())
        .current_dir(sandbox.path(""))
        .env("FFNLAB_CACHE", sandbox.path("cache"));
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    contains(last, &["ffnlab: ", "metrics.jsonl"]);
    sandbox.ok(&["eval", "run"]);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let sandbox = Sandbox::new();
    let mut child =
        sandbox.command(&["config", "schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let code = child.wait().unwrap().code();
    // The schema may fit into the pipe before it is closed; then nobody noticed.
    if code != Some(0) {
        assert_eq!(code, Some(141));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let closed = "\"$0\" variants | true; exit ${PIPESTATUS[0]}";
    let output = Command::new("bash").args(["-c", closed]).arg(binary()).output().unwrap();
    assert!(!text(&output.stderr).contains("panicked"));
}
