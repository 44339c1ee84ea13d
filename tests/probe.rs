//! `ffnlab probe` and `train.probe_every`: what a user sees of the inside of a run.

use ffnlab_tests::{keys, number, trained};

#[test]
fn the_json_has_the_promised_shape_and_agrees_with_eval() {
    let sandbox = trained(&[("run", &["model.ffn.preset=swiglu"])]);
    let found = sandbox.json(&["probe", "run", "--json", "--tokens", "1000000"]);
    assert_eq!(
        keys(&found),
        [
            "run",
            "ffn",
            "precision",
            "status",
            "step",
            "tokens",
            "loss",
            "perplexity",
            "saturated_below",
            "can_die",
            "layers",
            "ppl_sparsity",
            "gradients",
            "notes"
        ]
    );
    let layer = &found["layers"][0];
    assert_eq!(
        keys(layer),
        [
            "d_ff",
            "hidden",
            "at_init",
            "dead_units",
            "small_units",
            "cett",
            "effective_rank",
            "outliers",
            "residual",
            "gate_up_cosine"
        ]
    );
    assert_eq!(
        keys(&layer["hidden"]),
        [
            "layer",
            "tokens",
            "units",
            "dead_units",
            "zero_share",
            "eps",
            "small_share",
            "rms",
            "max_abs",
            "kurtosis",
            "octaves",
            "negative_octaves",
            "saturated"
        ]
    );
    assert_eq!(keys(&layer["at_init"]), keys(&layer["hidden"]));
    assert_eq!(keys(&layer["hidden"]["saturated"][0]), ["branch", "activation", "share"]);
    assert_eq!(keys(&layer["cett"]), ["level", "cett", "threshold", "sparsity"]);
    assert_eq!(keys(&layer["outliers"]), ["max_abs", "kurtosis", "median_channel_max", "channels"]);
    assert_eq!(keys(&layer["outliers"]["channels"][0]), ["channel", "max_abs", "over_median"]);
    assert_eq!(keys(&layer["gate_up_cosine"]), ["mean", "max"]);
    assert_eq!(
        keys(&found["ppl_sparsity"]),
        ["rise", "level", "loss", "perplexity_ratio", "sparsity", "layers", "thresholds"]
    );
    assert_eq!(keys(&found["gradients"]), ["tokens", "norm", "tensors"]);
    assert_eq!(keys(&found["gradients"]["tensors"][0]), ["name", "norm"]);
    assert_eq!(found["gradients"]["tensors"].as_array().map(Vec::len), Some(12));
    assert!(found["notes"].to_string().contains("fewer than asked for"), "{}", found["notes"]);

    // With the whole validation text, the loss is that of `ffnlab eval`, up to f32.
    let eval = sandbox.json(&["eval", "run", "--json"]);
    assert_eq!((&eval["tokens"], &found["step"]), (&found["tokens"], &24.into()));
    assert!((number(&eval, "/loss") - number(&found, "/loss")).abs() < 1e-5);
    // What perplexity allows keeps to it, and drops something.
    assert!(number(&found, "/ppl_sparsity/perplexity_ratio") <= 1.01);
    assert!(number(&found, "/ppl_sparsity/sparsity") > 0.0);
}

#[test]
fn the_text_has_a_table_per_question() {
    let runs: [(&str, &[&str]); 3] = [
        ("relu", &["model.ffn.preset=relu", "model.n_layer=2"]),
        ("gtu", &["model.ffn.preset=gtu"]),
        ("bilinear", &["model.ffn.preset=bilinear"]),
    ];
    let sandbox = trained(&runs);
    let relu = sandbox.ok(&["probe", "relu", "--tokens", "500"]);
    let parts = [
        "relu  (relu, fp32, step 24, finished)",
        "500 tokens: loss",
        "dead units",
        "dropped at CETT 0.2",
        "up (relu) at initialisation",
        "top channel",
        "effective rank of h",
        "Gradient norms on 128 tokens",
        "Note: relu has no gate",
    ];
    for part in parts {
        assert!(relu.contains(part), "`{part}` is missing in:\n{relu}");
    }
    assert!(!relu.contains("cos(gate, up)"), "{relu}");
    let gtu = sandbox.ok(&["probe", "gtu", "--eps", "0.001"]);
    for part in [
        "gate (sigmoid) at step 24",
        "up (tanh) at step 24",
        "1.00e-3",
        "|cos(gate, up)| mean",
        "cannot be dead",
    ] {
        assert!(gtu.contains(part), "`{part}` is missing in:\n{gtu}");
    }
    let bilinear = sandbox.ok(&["probe", "bilinear"]);
    assert!(!bilinear.contains("Vanished derivatives"), "{bilinear}");
}

#[test]
fn a_relu_starts_half_saturated_and_other_text_is_read() {
    let sandbox = trained(&[("relu", &["model.ffn.preset=relu"])]);
    sandbox.write("other.txt", "some words and more words\n".repeat(30));
    let found = sandbox.json(&["probe", "relu", "--data", "other.txt", "--json"]);
    let at_init = number(&found, "/layers/0/at_init/saturated/0/share");
    assert!((at_init - 0.5).abs() < 0.15, "{at_init}");
    assert!(number(&found, "/tokens") < 800.0);
    assert!(found["layers"][0]["gate_up_cosine"].is_null() && found["can_die"] == true);
    assert!(found["layers"][0]["dead_units"].as_u64().is_some());
}

#[test]
fn a_run_with_probes_takes_the_same_steps() {
    let probed = ["train.probe_every=6", "train.sparsity_every=8"];
    let fp8 = ["precision.preset=fp8_delayed", "model.d_model=32"];
    let fp8_probed = [fp8[0], fp8[1], probed[0], probed[1]];
    let sandbox = trained(&[("plain", &[]), ("probed", &probed), ("fp8", &fp8), ("fp8_probed", &fp8_probed)]);
    for (plain, probed, width) in [("plain", "probed", 16), ("fp8", "fp8_probed", 32)] {
        assert_eq!(sandbox.losses(plain), sandbox.losses(probed));
        assert_eq!(sandbox.weights(plain, 24), sandbox.weights(probed, 24));
        let lines = sandbox.metrics(probed, "probe");
        let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().expect("a step")).collect();
        assert_eq!(steps, [6, 12, 18, 24], "one layer, d_model {width}");
        let last = &lines[3]["ffn"];
        assert_eq!(last["layer"], "model.layers.0.mlp");
        assert!(last["units"].as_u64() > Some(width), "{last}");
        // The validation text of TINY is longer than what is looked at in training.
        let found = sandbox.json(&["probe", probed, "--tokens", &last["tokens"].to_string(), "--json"]);
        assert_eq!(&found["layers"][0]["hidden"], last, "the last line is what the probe of the run says");
        let lines = sandbox.metrics(probed, "sparsity");
        let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().expect("a step")).collect();
        assert_eq!(steps, [8, 16, 24]);
        let (whole, line) = (&found["ppl_sparsity"], &lines[2]["found"]);
        assert_eq!((&line["tokens"], &line["level"]), (&last["tokens"], &whole["level"]));
        assert_eq!(
            (&line["dropped"], &line["perplexity_ratio"]),
            (&whole["layers"], &whole["perplexity_ratio"])
        );
        // One is rounded from the other's complement.
        assert!((number(line, "/active_ratio") - (1.0 - number(whole, "/sparsity"))).abs() < 1e-12);
        assert!(number(&lines[2], "/tokens") > number(&lines[1], "/tokens"));
    }
    assert!(sandbox.metrics("plain", "probe").is_empty() && sandbox.metrics("plain", "sparsity").is_empty());
}

#[test]
fn a_checkpoint_of_another_step_can_be_chosen() {
    let sandbox = trained(&[("run", &["train.keep_checkpoints=3", "train.probe_every=5"])]);
    let steps = |step: &str| sandbox.json(&["probe", "run", "--step", step, "--json", "--tokens", "2048"]);
    let (early, late) = (steps("15"), steps("24"));
    assert_eq!((&early["step"], &late["step"]), (&15.into(), &24.into()));
    assert_eq!(early["layers"][0]["at_init"], late["layers"][0]["at_init"]);
    assert!(number(&early, "/loss") > number(&late, "/loss"));
    let line = sandbox.metrics("run", "probe").into_iter().find(|line| line["step"] == 15).expect("step 15");
    assert_eq!(early["layers"][0]["hidden"], line["ffn"]);
    let error = sandbox.fails(1, &["probe", "run", "--step", "10"]);
    assert!(error.contains("no checkpoint of step 10, but of 15, 20, 24"), "{error}");
}

#[test]
fn what_cannot_be_looked_into_is_refused() {
    let sandbox = trained(&[("run", &[])]);
    let error = |args: &[&str]| sandbox.fails(1, &[&["probe"], args].concat());
    sandbox.write("mine/thesis.txt", "do not touch");
    for folder in ["mine", "absent"] {
        assert!(error(&[folder]).contains(&format!("{folder} is not a run directory")));
    }
    // A run that has not come to its first checkpoint, and one that has.
    let config = std::fs::read_to_string(sandbox.path("run/config.toml")).expect("a config");
    sandbox.write("begun/config.toml", config);
    assert!(error(&["begun"]).contains("begun has no checkpoint yet"));
    std::fs::remove_file(sandbox.path("run/summary.json")).expect("a summary");
    let found = sandbox.json(&["probe", "run", "--json"]);
    assert!(found["status"].is_null() && found["notes"].to_string().contains("has not ended"), "{found}");

    sandbox.write("short.txt", "a");
    assert!(error(&["run", "--data", "short.txt"]).contains("it takes two to predict one"));
    assert!(error(&["run", "--data", "absent.txt"]).contains("absent.txt"));
    if !cfg!(feature = "cuda") {
        assert!(error(&["run", "--device", "cuda"]).contains("no CUDA support"));
    }
    for (option, value) in [("--tokens", "0"), ("--eps", "0"), ("--eps", "NaN"), ("--step", "-1")] {
        let output = sandbox.run(&["probe", "run", option, value]);
        assert_eq!(output.status.code(), Some(2), "{option} {value}");
    }
}
