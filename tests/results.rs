//! What the verbs report is true and in the promised shape.

use ffnlab_tests::{Sandbox, TINY};
use serde_json::Value;

fn number(value: &serde_json::Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is not a number in {value}"))
}

#[test]
fn eval_gives_the_final_validation_and_its_parts_fit_together() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    let summary = sandbox.json(&["train", "tiny.toml", "--out", "run", "--json"]);
    let eval = sandbox.json(&["eval", "run", "--json"]);
    assert_eq!(eval, summary["validation"]);
    let mut keys: Vec<&str> = eval.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["bits_per_byte", "loss", "perplexity", "seq_len", "stride", "tokens"]);
    assert!((number(&eval, "loss").exp() - number(&eval, "perplexity")).abs() < 1e-9);
    // A byte tokenizer: bits per byte is the loss in bits, but for the separators.
    let bits = number(&eval, "loss") / std::f64::consts::LN_2;
    assert!((number(&eval, "bits_per_byte") / bits - 1.0).abs() < 0.02);
    // A trained model beats the uniform distribution and does not beat the language itself.
    assert!(number(&eval, "loss") < 257f64.ln());
    assert!(number(&eval, "loss") > number(&summary, "floor"));
    let closer = sandbox.json(&["eval", "run", "--json", "--stride", "8"]);
    assert_eq!((closer["tokens"].clone(), closer["stride"].as_u64()), (eval["tokens"].clone(), Some(8)));
}

#[test]
fn a_run_records_the_commit_of_the_program_that_made_it() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    let summary = sandbox.json(&["train", "tiny.toml", "--out", "run", "--json"]);
    let version = sandbox.ok(&["--version"]);
    let in_brackets = version.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    // Built outside of a repository, neither knows.
    assert_eq!(summary["commit"].as_str(), in_brackets.map(|(commit, _)| commit));
}

#[test]
fn eval_reads_a_given_text_with_the_separators_of_training() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "run"]);
    sandbox.write("a.txt", "hello world, hello text\n");
    let eval = sandbox.json(&["eval", "run", "--data", "a.txt", "--json"]);
    // 24 bytes, the first of them unpredicted; nothing is added at the end.
    assert_eq!(eval["tokens"], 23);
}

#[test]
fn bench_reports_rates_that_fit_together() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    let bench = sandbox.json(&["bench", "tiny.toml", "--steps", "3", "--json"]);
    let (low, mid, high) = (
        number(&bench, "tokens_per_s_min"),
        number(&bench, "tokens_per_s"),
        number(&bench, "tokens_per_s_max"),
    );
    assert!(low > 0.0 && low <= mid && mid <= high, "{bench}");
    assert!((number(&bench, "step_ms") * mid / 1e3 - 4.0 * 32.0).abs() < 1e-6);
    assert!(number(&bench, "peak_rss_mb") > 1.0);
}

/// A model whose products can be counted by hand.
fn profiled<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let args = "bench tiny.toml -o model.ffn.preset=swiglu -o model.ffn.width.exact=40 -o tokenizer.kind=bpe \
                -o tokenizer.vocab_size=300 --steps 2 --profile";
    args.split(' ').chain(more.iter().copied()).collect()
}

#[test]
fn a_profile_holds_all_products_of_a_step_and_no_more_than_its_time() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    let (tokens, d_model, d_ff, vocab, seq_len) = (4.0 * 32.0, 16.0, 40.0, 300.0, 32.0);
    // Weights are multiplied once forward and twice backward, and nothing is skipped: the gradient of the embedding goes
    // through the first layer too. Attention's products stop at the diagonal.
    let weights = 4.0 * d_model * d_model + 3.0 * d_model * d_ff + d_model * vocab;
    let products = 3.0 * 2.0 * tokens * weights;
    let attention = 3.0 * 2.0 * tokens * d_model * (seq_len + 1.0);
    for precision in ["fp32", "fp8_current"] {
        let bench = sandbox.json(&profiled(&["--precision", precision, "--json"]));
        let profile = &bench["profile"];
        let parts = profile["parts"].as_array().unwrap();
        let sum = |key: &str, name: &str| -> f64 {
            let chosen = parts.iter().filter(|part| part["part"].as_str().unwrap().starts_with(name));
            chosen.map(|part| number(part, key)).sum()
        };
        assert_eq!(sum("flops", "matmul"), products, "{profile}");
        assert_eq!(sum("flops", "attention"), attention, "{profile}");
        assert_eq!(sum("flops", ""), products + attention, "{profile}");
        for part in ["embedding", "norm", "rope", "activation", "loss", "gradient norm", "optimizer"] {
            assert!(sum("calls", part) >= 1.0 && sum("bytes", part) > 0.0, "{part} in {profile}");
        }
        assert_eq!(sum("calls", "quantise") > 0.0, precision != "fp32", "{profile}");
        let (step, rest) = (number(profile, "step_ms"), number(profile, "rest_ms"));
        assert!(rest >= 0.0 && sum("ms", "") <= step, "{profile}");
        assert!((sum("ms", "") + rest - step).abs() < 1e-6 * step, "{profile}");
        assert!((sum("floor_ms", "") / number(profile, "floor_ms") - 1.0).abs() < 1e-6, "{profile}");
        for rate in ["gflops", "gb_per_s"].map(|rate| &profile["machine"][rate]) {
            let (median, best) = (number(rate, "median"), number(rate, "best"));
            assert!(0.0 < median && median <= best, "{profile}");
        }
    }
}

#[test]
fn the_table_of_a_profile_has_a_row_for_every_part() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    let profile = &sandbox.json(&profiled(&["--json"]))["profile"];
    let table = sandbox.ok(&profiled(&[]));
    for part in profile["parts"].as_array().unwrap() {
        let (name, calls) = (part["part"].as_str().unwrap(), number(part, "calls").to_string());
        let shape: Vec<String> =
            part["shape"].as_array().into_iter().flatten().map(|size| size.to_string()).collect();
        let row = |line: &&str| {
            let cells = format!("{line} ");
            cells.starts_with(&format!(" {name} "))
                && cells.contains(&shape.join("x"))
                && cells.contains(&calls)
        };
        assert_eq!(table.lines().filter(row).count(), 1, "{part} in\n{table}");
    }
    for row in [" data ", " graph, gradients' sums", " total "] {
        assert_eq!(table.lines().filter(|line| line.starts_with(row)).count(), 1, "{row}in\n{table}");
    }
    assert!(table.contains("GFLOP/s (median") && table.contains("GB/s (median"), "{table}");
    let bench = sandbox.json(&["bench", "tiny.toml", "--steps", "1", "--json"]);
    assert!(bench.get("profile").is_none(), "{bench}");
    let error = sandbox.fails(2, &["bench", "--profile", "--kernels", "reference"]);
    assert!(error.contains("--profile") && error.contains("--kernels portable"), "{error}");
}

#[test]
fn an_interval_over_the_text_surrounds_the_loss_and_a_difference_is_sharper() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    for preset in ["relu", "swiglu"] {
        sandbox.ok(&["train", "tiny.toml", "-o", &format!("model.ffn.preset={preset}"), "--out", preset]);
    }
    let plain = sandbox.json(&["eval", "swiglu", "--json"]);
    for (over, units) in [("documents", 8), ("64", 0)] {
        let found = sandbox.json(&["eval", "swiglu", "--over", over, "--against", "relu", "--json"]);
        assert_eq!(found["loss"], plain["loss"]);
        let interval = &found["over_text"]["interval"];
        let (low, high) =
            (number(&interval["bca"]["interval"], "low"), number(&interval["bca"]["interval"], "high"));
        assert!(low < number(&plain, "loss") && number(&plain, "loss") < high, "{found}");
        assert_eq!(interval["tokens"], plain["tokens"]);
        assert!(units == 0 || interval["documents"] == units, "{found}");
        let gap = number(&plain, "loss") - number(&sandbox.json(&["eval", "relu", "--json"]), "loss");
        let difference = &found["difference"]["interval"]["bca"];
        assert!((number(difference, "estimate") - gap).abs() < 1e-9, "{found}");
        let width = number(&difference["interval"], "high") - number(&difference["interval"], "low");
        assert!(width < high - low, "{found}");
    }
    let text = sandbox.ok(&["eval", "swiglu", "--over", "documents", "--against", "relu"]);
    assert!(text.contains("difference from relu: ") && text.contains("over 8 documents"), "{text}");
    sandbox.write("one.txt", "one long story ".repeat(40).as_str());
    let one = sandbox.ok(&["eval", "swiglu", "--data", "one.txt", "--over", "documents"]);
    assert!(one.contains("no interval over the text: the text is one document"), "{one}");
    let error = sandbox.fails(2, &["eval", "swiglu", "--against", "relu"]);
    assert!(error.contains("--against") && error.contains("--over"), "{error}");
}

#[test]
fn batches_are_what_training_sees_and_the_same_for_every_variant() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    for preset in ["relu", "swiglu"] {
        let over = format!("model.ffn.preset={preset}");
        let out = format!("{preset}.safetensors");
        sandbox.ok(&["data", "batches", "tiny.toml", "-o", &over, "--steps", "3", "--out", &out]);
    }
    let relu = std::fs::read(sandbox.path("relu.safetensors")).unwrap();
    assert_eq!(relu, std::fs::read(sandbox.path("swiglu.safetensors")).unwrap());
    let file = safetensors::SafeTensors::deserialize(&relu).unwrap();
    let ids = |name: &str| -> Vec<i64> {
        let bytes = file.tensor(name).unwrap().data().to_vec();
        bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    };
    assert_eq!(file.tensor("inputs").unwrap().shape(), [3, 4, 32]);
    let (inputs, targets) = (ids("inputs"), ids("targets"));
    for (input, target) in inputs.chunks(32).zip(targets.chunks(32)) {
        assert_eq!(input[1..], target[..31], "targets are inputs, one token later");
    }
}

#[test]
fn a_non_finite_loss_is_a_result() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    // A decay of more than 1 per step: the weights grow 99-fold each time until they overflow.
    let over = ["-o", "optim.lr=1", "-o", "optim.weight_decay=100", "-o", "schedule.warmup_steps=0"];
    let mut args = vec!["train", "tiny.toml", "--out", "wild", "--json"];
    args.extend(over);
    let summary = sandbox.json(&args);
    assert_eq!(summary["status"], "diverged", "{summary}");
    assert!(summary["diverged_at"].as_u64().unwrap() >= 1);
    assert!(summary["validation"].is_null());
    sandbox.ok(&["train", "tiny.toml", "--out", "tame"]);
    let comparison = sandbox.json(&["compare", "wild", "tame", "--format", "json"]);
    assert!(comparison.to_string().contains("diverged"));
}

#[test]
fn samples_are_reproducible_and_begin_with_the_prompt() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "run"]);
    let args = ["sample", "run", "--prompt", "the ", "--tokens", "40", "--seed", "3"];
    let first = sandbox.ok(&args);
    assert!(first.starts_with("the ") && first.len() > 10, "{first}");
    assert_eq!(first, sandbox.ok(&args));
}

#[test]
fn micro_batches_give_the_gradient_of_the_whole_batch() {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    sandbox.ok(&["train", "tiny.toml", "--out", "whole"]);
    sandbox.ok(&["train", "tiny.toml", "-o", "train.micro_batches=2", "--out", "parts"]);
    for (a, b) in sandbox.losses("whole").iter().zip(sandbox.losses("parts")) {
        let (a, b) = (f64::from_bits(a.2), f64::from_bits(b.2));
        assert!((a - b).abs() < 2e-4, "{a} {b}");
    }
}

#[test]
fn every_format_of_a_comparison_holds_every_arm() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "grid.toml",
        format!("{TINY}\n[sweep]\n\"model.ffn.preset\" = [\"relu\", \"geglu\"]\nseed = [0, 1]\n"),
    );
    sandbox.ok(&["sweep", "grid.toml", "--out", "runs"]);
    for format in ["table", "markdown", "csv", "latex", "json"] {
        let text = sandbox.ok(&["compare", "runs", "--format", format]);
        assert!(text.contains("relu") && text.contains("geglu"), "{format}:\n{text}");
    }
}

#[test]
fn tables_for_other_tools_hold_every_run_and_every_step() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    let sandbox = Sandbox::new();
    sandbox.write("grid.toml", format!("{TINY}\n[sweep]\nseed = [0, 1]\n"));
    sandbox.ok(&["sweep", "grid.toml", "--out", "runs"]);
    let export =
        ["--export", "runs.parquet", "--export", "tables/metrics.parquet", "--export", "metrics.csv"];
    let args = [&["compare", "runs"], &export[..]].concat();
    assert!(sandbox.fails(1, &args).contains("tables/metrics.parquet"), "the folder is not there");
    std::fs::create_dir(sandbox.path("tables")).unwrap();
    sandbox.ok(&args);
    let value = |field: &Field| match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => (*flag).into(),
        Field::Long(integer) => (*integer).into(),
        Field::Double(float) => (*float).into(),
        Field::Str(text) => text.as_str().into(),
        other => panic!("no column has the type of {other}"),
    };
    let rows = |name: &str| -> Vec<Value> {
        let reader = SerializedFileReader::new(std::fs::File::open(sandbox.path(name)).unwrap()).unwrap();
        let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
        rows.map(|row| row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
            .collect()
    };
    let runs = rows("runs.parquet");
    assert_eq!(runs.len(), 2);
    for run in &runs {
        let summary = sandbox.summary(run["run"].as_str().unwrap());
        assert_eq!((&run["val_loss"], &run["seed"]), (&summary["validation"]["loss"], &summary["seed"]));
        assert_eq!((&run["lr"], &run["params"]), (&Value::from(1e-3), &summary["params"]["total"]));
    }
    let metrics = rows("tables/metrics.parquet");
    let first = runs[0]["run"].as_str().unwrap();
    let of_first = |kind: &str, column: &str| -> Vec<Value> {
        let rows = metrics.iter().filter(|row| row["run"] == first && row["kind"] == kind);
        rows.map(|row| row[column].clone()).collect()
    };
    let logged = |kind: &str, field: &str| -> Vec<Value> {
        sandbox.metrics(first, kind).iter().map(|line| line[field].clone()).collect()
    };
    for (kind, column) in
        [("step", "loss"), ("step", "lr"), ("step", "grad_norm"), ("eval", "val_loss"), ("eval", "step")]
    {
        assert_eq!(of_first(kind, column), logged(kind, column), "{column}");
    }
    assert_eq!(metrics.len(), 2 * (24 + 2), "24 steps and two validations on the way, of two runs");
    let csv = std::fs::read_to_string(sandbox.path("metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), metrics.len() + 1);
    let error = sandbox.run(&["compare", "runs", "--export", "runs.xlsx"]);
    assert_eq!(error.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(stderr.contains("does not end in .parquet or .csv"), "{stderr}");
}
