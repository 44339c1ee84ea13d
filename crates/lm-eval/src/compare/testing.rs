//! Made-up runs for tests.

use std::fs;
use std::path::{Path, PathBuf};

use lm_train::record::{EvalResult, ParamCounts, RUN_SCHEMA, RunStatus, Summary};

use super::collect::{Collection, Run};
use super::keys::Keys;
use super::precision::FULL;

/// A run that never happened, finished with a loss near 3.
#[derive(Clone)]
pub(crate) struct RunMaker {
    config: String,
    summary: Summary,
}

impl RunMaker {
    pub fn new(ffn: &str, seed: u64) -> Self {
        // Larger for a higher seed, and a little different for every variant, so that pairing has something to cancel.
        let variant = ffn.bytes().map(u64::from).sum::<u64>() as f64;
        let loss = 3.0 + 0.02 * seed as f64 + 0.004 * (variant + 7.0 * seed as f64).sin();
        let gated = ffn.ends_with("glu") || ffn == "bilinear";
        let d_ff = if gated { 344 } else { 512 };
        let ffn_params = 4 * d_ff * 128 * if gated { 3 } else { 2 };
        let summary = Summary {
            schema: RUN_SCHEMA,
            ffnlab: "0.1.0".to_owned(),
            status: RunStatus::Finished,
            run_id: format!("{ffn}-{seed}"),
            data_fingerprint: "5eed5eed5eed5eed".to_owned(),
            ffn: ffn.to_owned(),
            d_ff,
            precision: FULL.to_owned(),
            seed,
            params: ParamCounts {
                total: 787_584 + ffn_params,
                embedding: 524_288,
                attention: 262_144,
                ffn: ffn_params,
                norm: 1_152,
            },
            flops_per_token: 2 * (524_416 + ffn_params) as u64,
            vocab_size: 2048,
            steps: 1000,
            tokens: 2_048_000,
            train_loss: Some(2.9),
            validation: None,
            floor: None,
            diverged_at: None,
            wall_s: 60.0,
            tokens_per_s: 34_000.0,
            peak_rss_mb: 300.0,
            threads: 2,
            cores: None,
            host: "somewhere".to_owned(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            skipped_steps: 0,
            non_finite: 0,
            health: Vec::new(),
        };
        let config = format!("seed = {seed}\nmodel.ffn.preset = '{ffn}'\noptim.eps = 1e-8\n");
        Self { config, summary }.loss(loss)
    }

    pub fn loss(mut self, loss: f64) -> Self {
        let bits_per_byte = Some(loss / std::f64::consts::LN_2 / 4.0);
        let perplexity = loss.exp();
        let (tokens, seq_len, stride) = (100_000, 128, 128);
        self.summary.validation =
            Some(EvalResult { loss, perplexity, bits_per_byte, tokens, seq_len, stride });
        self
    }

    pub fn commit(mut self, commit: Option<&str>) -> Self {
        self.summary.commit = commit.map(str::to_owned);
        self
    }

    /// Adds a line to the config.
    pub fn config(mut self, line: &str) -> Self {
        self.config += line;
        self.config.push('\n');
        self
    }

    /// The run in another precision; `effect` is what that adds to its loss.
    pub fn precision(self, name: &str, effect: f64) -> Self {
        let loss = self.summary.validation.as_ref().expect("it finished").loss;
        let run = self.loss(loss + effect).config(&format!("precision.preset = '{name}'"));
        run.with(|summary| {
            summary.precision = name.to_owned();
            summary.run_id = format!("{}-{name}-{}", summary.ffn, summary.seed);
        })
    }

    pub fn with(mut self, change: impl FnOnce(&mut Summary)) -> Self {
        change(&mut self.summary);
        self
    }

    pub fn diverged(self) -> Self {
        self.with(|summary| {
            summary.status = RunStatus::Diverged;
            summary.validation = None;
            summary.diverged_at = Some(321);
            summary.steps = 321;
        })
    }

    pub fn run(&self) -> Run {
        let config = self.config.parse().expect("the made-up config is TOML");
        Run {
            dir: PathBuf::from(format!("runs/{}", self.summary.run_id)),
            summary: self.summary.clone(),
            keys: Keys::new(&config, &self.summary.data_fingerprint),
        }
    }

    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.toml"), &self.config).unwrap();
        fs::write(dir.join("summary.json"), serde_json::to_string(&self.summary).unwrap()).unwrap();
    }
}

pub(crate) fn collection(runs: impl IntoIterator<Item = RunMaker>) -> Collection {
    Collection { runs: runs.into_iter().map(|run| run.run()).collect(), problems: Vec::new() }
}

/// The eight variants of the paper and squared ReLU, `seeds` runs each, with differences like the paper's.
pub(crate) fn nine_variants(seeds: u64) -> Collection {
    let effects = [
        ("relu", 0.0),
        ("gelu", -0.014),
        ("swish", -0.003),
        ("glu", -0.015),
        ("bilinear", -0.037),
        ("geglu", -0.055),
        ("swiglu", -0.053),
        ("reglu", -0.044),
        ("relu_squared", -0.04),
    ];
    collection(effects.into_iter().flat_map(|(ffn, effect)| {
        (0..seeds).map(move |seed| {
            let run = RunMaker::new(ffn, seed);
            let loss = run.summary.validation.as_ref().expect("it finished").loss;
            run.loss(loss + effect).with(|summary| summary.floor = Some(2.5))
        })
    }))
}
