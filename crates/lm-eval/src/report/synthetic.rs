//! Made-up run directories: sweeps of any size that nobody trained.

use std::fs;
use std::path::Path;

use lm_train::probe::{FfnFigures, layer_name};
use lm_train::record::Metric;

use crate::compare::testing::RunMaker;

/// A sweep over everything it lists.
#[derive(Clone, Debug)]
pub(super) struct Sweep<'a> {
    /// Variants, each with what it adds to a loss.
    pub ffns: &'a [(&'a str, f64)],
    /// Precisions, each with what it adds to a loss; the first is full.
    pub precisions: &'a [(&'a str, f64)],
    pub seeds: u64,
    pub steps: u64,
}

impl Sweep<'_> {
    /// Writes all runs into `folder`.
    pub fn write(&self, folder: &Path) {
        for (ffn, effect) in self.ffns {
            for (precision, cost) in self.precisions {
                for seed in 0..self.seeds {
                    let run = run(ffn, precision, seed, effect + cost);
                    write_run(
                        &run,
                        &folder.join(format!("{ffn}-{precision}-{seed}")),
                        seed,
                        effect + cost,
                        self.steps,
                    );
                }
            }
        }
    }
}

/// A finished run.
pub(super) fn run(ffn: &str, precision: &str, seed: u64, effect: f64) -> RunMaker {
    let run = RunMaker::new(ffn, seed);
    let arm: u64 = ffn.bytes().chain(precision.bytes()).map(u64::from).sum();
    let run = run.loss(3.0 + effect + 0.02 * noise(seed, 0) + 0.004 * noise(seed * 31 + arm, 1));
    let run = run.with(|summary| summary.floor = Some(2.5));
    if precision == "fp32" { run } else { run.precision(precision, 0.0) }
}

/// Writes a run with metrics that fall to 3 + `effect` in `steps` steps.
pub(super) fn write_run(run: &RunMaker, dir: &Path, seed: u64, effect: f64, steps: u64) {
    run.write(dir);
    let line = |step: u64| {
        let t = step as f64 / steps as f64;
        let batch = 0.05 * noise(seed * 7919 + step, 2); // the same for all arms of a seed
        let loss = 3.0
            + effect * t.sqrt()
            + 4.0 * (-6.0 * t).exp()
            + batch
            + 0.02 * noise(seed * 131 + step + (effect * 1e4) as u64, 3);
        let metric = step_line(step, Some(loss), 0.06 * step as f64 * (1.0 + effect.abs()));
        serde_json::to_string(&metric).expect("a metric is plain") + "\n"
    };
    fs::write(dir.join("metrics.jsonl"), (1..=steps).map(line).collect::<String>()).expect("a file");
}

/// What a step leaves behind.
pub(super) fn step_line(step: u64, loss: Option<f64>, wall_s: f64) -> Metric {
    Metric::Step {
        step,
        tokens: step * 2048,
        loss,
        lr: 1e-3,
        grad_norm: Some(1.0),
        loss_scale: None,
        skipped: false,
        non_finite: 0,
        wall_s,
    }
}

/// What a probe saw in a layer, a share of zeros among it.
pub(super) fn figures(layer: usize, zero_share: f64) -> FfnFigures {
    FfnFigures {
        layer: layer_name(layer),
        tokens: 2048,
        units: 0,
        dead_units: None,
        zero_share,
        eps: 1e-3,
        small_share: zero_share,
        rms: 1.0,
        max_abs: 3.0,
        kurtosis: Some(4.0),
        octaves: vec![(-3, 5), (-1, 40), (0, 20)],
        negative_octaves: Some(vec![(-3, 5)]),
        saturated: Vec::new(),
    }
}

/// Adds lines of probes to the metrics of a run: (step, share of zeros), the same in both layers.
pub(super) fn append_probes(dir: &Path, shares: &[(u64, f64)]) {
    let path = dir.join("metrics.jsonl");
    let mut text = fs::read_to_string(&path).expect("metrics");
    for &(step, zero_share) in shares {
        for layer in 0..2 {
            let line = serde_json::to_string(&Metric::Probe { step, ffn: figures(layer, zero_share) })
                .expect("a metric is plain");
            text += &(line + "\n");
        }
    }
    fs::write(path, text).expect("a file");
}

/// Adds held-out losses on the way to the metrics of a run: (step, loss).
pub(super) fn append_evals(dir: &Path, losses: &[(u64, f64)]) {
    let path = dir.join("metrics.jsonl");
    let mut text = fs::read_to_string(&path).expect("metrics");
    for &(step, val_loss) in losses {
        let line = Metric::Eval { step, tokens: step * 2048, val_loss, wall_s: 0.06 * step as f64 };
        text += &(serde_json::to_string(&line).expect("a metric is plain") + "\n");
    }
    fs::write(path, text).expect("a file");
}

/// Something between -1 and 1 that looks random and is always the same.
fn noise(seed: u64, stream: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}
