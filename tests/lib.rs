//! What the end-to-end tests share: the built binary, a private folder for every test, and readers of its results.

pub mod browser;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// The `ffnlab` binary. Cargo builds it before the tests of its package run, and puts it one folder above them.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // target/PROFILE/deps/this-test
        let exe = std::env::current_exe().expect("path of the test binary");
        let profile =
            exe.parent().and_then(Path::parent).expect("the test binary lies in target/PROFILE/deps");
        let binary = profile.join(format!("ffnlab{}", std::env::consts::EXE_SUFFIX));
        assert!(binary.exists(), "{} is not there", binary.display());
        binary
    })
}

/// Root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// A private folder in which the binary runs, with a cache of its own.
pub struct Sandbox {
    folder: TempDir,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A new, empty folder.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// Path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file inside the folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// A command that runs the binary inside the folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.folder.path()).env("FFNLAB_CACHE", self.path("cache"));
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    /// Runs the binary, expects success, and returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?} ended with {}: {}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs the binary with an expected failure: checks the exit code, that there is exactly one line on standard error
    /// that starts with the program's name, and returns it.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("ffnlab: ")).collect();
        assert_eq!(lines.len(), 1, "{args:?}: one line of error, not:\n{stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("internal error"), "{stderr}");
        lines[0].to_owned()
    }

    /// Runs the binary and parses its standard output as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(args);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error} in:\n{out}"))
    }

    /// Losses by step from a run's metrics, as bits, so that equality means equality.
    pub fn losses(&self, run: &str) -> Vec<(String, u64, u64)> {
        let metrics = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).expect("metrics");
        let parse = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("a whole line");
            let kind = value["kind"].as_str().expect("a kind").to_owned();
            let loss = match kind.as_str() {
                "step" => &value["loss"],
                "eval" => &value["val_loss"],
                _ => return None,
            };
            let loss = loss.as_f64().expect("a loss");
            Some((kind, value["step"].as_u64().expect("a step"), loss.to_bits()))
        };
        metrics.lines().filter_map(parse).collect()
    }

    /// All lines of one kind in a run's metrics.
    pub fn metrics(&self, run: &str, kind: &str) -> Vec<Value> {
        let metrics = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).expect("metrics");
        let lines = metrics.lines().map(|line| serde_json::from_str(line).expect("a whole line"));
        lines.filter(|value: &Value| value["kind"] == kind).collect()
    }

    /// Bytes of the weights of a run's checkpoint at `step`.
    pub fn weights(&self, run: &str, step: u64) -> Vec<u8> {
        let path = self.path(run).join(format!("checkpoints/step-{step}/model.safetensors"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Summary of a run.
    pub fn summary(&self, run: &str) -> Value {
        let text = std::fs::read_to_string(self.path(run).join("summary.json")).expect("a summary");
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A config that trains in a second or two.
pub const TINY: &str = r#"
[model]
d_model = 16
n_layer = 1
n_head = 2
seq_len = 32
[data.synthetic]
train_documents = 60
valid_documents = 8
[tokenizer]
kind = "byte"
[schedule]
warmup_steps = 5
[train]
steps = 24
batch_size = 4
eval_every = 8
eval_sequences = 8
checkpoint_every = 5
"#;

/// A folder with runs of [`TINY`], each with overrides of its own.
pub fn trained(runs: &[(&str, &[&str])]) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("tiny.toml", TINY);
    for (name, overrides) in runs {
        let mut args = vec!["train", "tiny.toml", "--out", name];
        overrides.iter().for_each(|over| args.extend(["-o", over]));
        sandbox.ok(&args);
    }
    sandbox
}

/// Keys of a JSON object, in their order.
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// The number at a JSON pointer, such as `/layers/0/d_ff`.
pub fn number(value: &Value, place: &str) -> f64 {
    value.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {place} in {value}"))
}
