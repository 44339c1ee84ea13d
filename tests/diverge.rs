//! Two runs of one seed: equal ones are equal in every figure, unequal ones are not, unpaired ones are
//! refused.

use ffnlab_tests::{keys, number, trained};
use serde_json::Value;

#[test]
fn a_run_equals_itself_in_every_figure() {
    let sandbox = trained(&[("run", &[])]);
    let found = sandbox.json(&["diverge", "run", "run", "--json"]);
    let zeros = [
        "/val_gap",
        "/loss/smoothed",
        "/loss/widest",
        "/loss/tail/gap",
        "/outputs/loss_gap",
        "/outputs/kl_ab",
        "/outputs/kl_ba",
        "/weights/distance",
    ];
    for place in zeros {
        assert_eq!(number(&found, place), 0.0, "{place}");
    }
    for place in ["/outputs/top1_agreement", "/gradients/cosine", "/weights/cosine"] {
        assert_eq!(number(&found, place), 1.0, "{place}");
    }
    assert!(found["loss"]["onset"].is_null());
    let tensors = found["gradients"]["tensors"].as_array().expect("a list");
    assert!(tensors.len() == 12 && tensors.iter().all(|tensor| tensor["cosine"] == 1.0), "{tensors:?}");
    assert_eq!(found["tensors"]["shared"], 12);
    assert_eq!(found["notes"], serde_json::json!([]));
}

#[test]
fn the_json_has_the_promised_shape_and_agrees_with_eval_and_metrics() {
    let sandbox = trained(&[("a", &[]), ("b", &["optim.lr=4e-3"])]);
    let found = sandbox.json(&["diverge", "a", "b", "--json", "--tokens", "1000000", "--csv", "curve.csv"]);
    assert_eq!(
        keys(&found),
        [
            "a",
            "b",
            "seed",
            "options",
            "loss",
            "val_gap",
            "outputs",
            "gradients",
            "weights",
            "tensors",
            "notes"
        ]
    );
    assert_eq!(
        keys(&found["a"]),
        ["path", "ffn", "steps", "status", "diverged_at", "checkpoint", "val_loss", "spikes"]
    );
    assert_eq!(keys(&found["a"]["spikes"]), ["score", "judged", "steps"]);
    assert_eq!(keys(&found["options"]), ["tokens", "half_life", "window", "threshold"]);
    assert_eq!(
        keys(&found["loss"]),
        ["steps", "first_step", "last_step", "smoothed", "widest", "widest_step", "onset", "tail"]
    );
    assert_eq!(keys(&found["loss"]["tail"]), ["steps", "loss_a", "loss_b", "gap"]);
    assert_eq!(
        keys(&found["outputs"]),
        ["tokens", "loss_a", "loss_b", "loss_gap", "kl_ab", "kl_ba", "top1_agreement"]
    );
    assert_eq!(keys(&found["gradients"]), ["batch", "cosine", "norm_a", "norm_b", "tensors"]);
    assert_eq!(keys(&found["gradients"]["tensors"][0]), ["name", "cosine", "norm_a", "norm_b"]);
    assert_eq!(keys(&found["weights"]), ["distance", "cosine", "tensors"]);
    assert_eq!(keys(&found["weights"]["tensors"][0]), ["name", "distance", "cosine"]);
    assert_eq!(keys(&found["tensors"]), ["shared", "only_a", "only_b", "other_shape"]);

    // Another learning rate: another model.
    assert!(number(&found, "/outputs/kl_ab") > 1e-4 && number(&found, "/outputs/kl_ba") > 1e-4, "{found}");
    assert!(number(&found, "/outputs/top1_agreement") < 1.0);
    assert!(number(&found, "/weights/distance") > 0.0);
    assert!(number(&found, "/gradients/cosine") < 1.0);
    // With the whole validation text, both losses are those of `ffnlab eval`, up to f32.
    for (run, loss) in [("a", "/outputs/loss_a"), ("b", "/outputs/loss_b")] {
        let eval = sandbox.json(&["eval", run, "--json"]);
        assert_eq!(eval["tokens"], found["outputs"]["tokens"]);
        assert!((number(&eval, "/loss") - number(&found, loss)).abs() < 1e-5);
    }
    // The curve holds the losses of the metrics, digit by digit.
    let csv = std::fs::read_to_string(sandbox.path("curve.csv")).expect("the curve");
    assert!(csv.starts_with("step,loss_a,loss_b,gap,smoothed\n"));
    for (column, run) in [(1, "a"), (2, "b")] {
        let losses = sandbox.losses(run).into_iter().filter(|(kind, _, _)| kind == "step");
        let expected: Vec<f64> = losses.map(|(_, _, bits)| f64::from_bits(bits)).collect();
        let field =
            |line: &str| line.split(',').nth(column).expect("a field").parse::<f64>().expect("a number");
        let found: Vec<f64> = csv.lines().skip(1).map(field).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn the_gradient_is_the_one_that_training_would_have_taken_next() {
    let constant = ["schedule.kind=constant"];
    let longer = ["schedule.kind=constant", "train.steps=25"];
    let parts = ["schedule.kind=constant", "train.micro_batches=2"];
    let sandbox = trained(&[("run", &constant), ("longer", &longer), ("parts", &parts)]);
    let found = sandbox.json(&["diverge", "run", "longer", "--json"]);
    assert_eq!(number(&found, "/loss/widest"), 0.0, "one run is the beginning of the other");
    assert_eq!((number(&found, "/gradients/batch"), number(&found, "/a/steps")), (24.0, 24.0));
    assert!(found["notes"].to_string().contains("different steps (24 and 25)"), "{}", found["notes"]);
    let metrics = std::fs::read_to_string(sandbox.path("longer/metrics.jsonl")).expect("metrics");
    let mut lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let next = lines.find(|line| line["kind"] == "step" && line["step"] == 25).expect("step 25");
    let (taken, compared) = (number(&next, "/grad_norm"), number(&found, "/gradients/norm_a"));
    assert!((taken / compared - 1.0).abs() < 1e-5, "{taken} {compared}");
    // In two parts, the gradient is that of the whole batch.
    let found = sandbox.json(&["diverge", "run", "parts", "--json"]);
    let (whole, parts) = (number(&found, "/gradients/norm_a"), number(&found, "/gradients/norm_b"));
    assert!((whole / parts - 1.0).abs() < 1e-3, "{whole} {parts}");
    assert!(number(&found, "/gradients/cosine") > 0.9999);
}

#[test]
fn two_variants_are_compared_where_they_have_the_same_tensors() {
    let sandbox = trained(&[("relu", &["model.ffn.preset=relu"]), ("swiglu", &["model.ffn.preset=swiglu"])]);
    let found = sandbox.json(&["diverge", "relu", "swiglu", "--json"]);
    let tensors = &found["tensors"];
    assert_eq!(tensors["only_a"], serde_json::json!([]));
    assert_eq!(tensors["only_b"], serde_json::json!(["model.layers.0.mlp.gate_proj.weight"]));
    assert_eq!(tensors["other_shape"].as_array().expect("a list").len(), 2, "{tensors}");
    let text = sandbox.ok(&["diverge", "relu", "swiglu"]);
    for part in [
        "Each run",
        "Between them",
        "KL(A‖B)",
        "half-life 50 steps",
        "the 9 tensors that both have",
        "gate_proj",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

#[test]
fn a_run_that_ended_early_is_compared_as_far_as_it_went() {
    let wild =
        ["optim.lr=1", "optim.weight_decay=100", "schedule.warmup_steps=0", "train.checkpoint_every=0"];
    let sandbox = trained(&[("tame", &[]), ("wild", &wild)]);
    let at = sandbox.summary("wild")["diverged_at"].clone();
    assert!(at.as_u64().is_some_and(|step| step > 1), "{at}");
    let found = sandbox.json(&["diverge", "tame", "wild", "--json"]);
    assert_eq!(found["b"]["diverged_at"], at);
    assert!(number(&found, "/loss/widest") > 0.05);
    assert!(found["loss"]["onset"].as_u64().is_some());
    for absent in ["val_gap", "outputs", "gradients", "weights", "tensors"] {
        assert!(found[absent].is_null(), "{absent}");
    }
    let text = sandbox.ok(&["diverge", "tame", "wild"]);
    assert!(text.contains("a checkpoint of both") && text.contains("stopped being finite"), "{text}");
}

#[test]
fn runs_that_are_not_paired_are_refused() {
    let sandbox = trained(&[
        ("run", &[]),
        ("seed", &["seed=1"]),
        ("text", &["data.synthetic.train_documents=61"]),
        ("tokens", &["tokenizer.kind=bpe", "tokenizer.vocab_size=260"]),
        ("batch", &["train.batch_size=8"]),
    ]);
    let cases: [(&str, &[&str]); 5] = [
        ("seed", &["different seeds (0 and 1)", "paired"]),
        ("text", &["data.synthetic.train_documents is 60 and 61"]),
        ("tokens", &["tokenizer.kind is \"byte\" and \"bpe\""]),
        ("batch", &["4 x 32 and 8 x 32", "train.batch_size"]),
        ("absent", &["absent is not a run directory"]),
    ];
    for (other, parts) in cases {
        let error = sandbox.fails(1, &["diverge", "run", other]);
        for part in parts {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
    }
}
