//! `ffnlab diverge`: two runs of one seed, and when they part.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use lm_eval::diverge::spikes::MIN_HISTORY;
use lm_eval::diverge::{Options, Setting, curve, diverge, report};
use lm_train::data::CacheDir;

use super::at_least;
use crate::args::Common;
use crate::output::{note, print, print_json};

/// What the difference of two runs of one seed comes to, and when it arises
///
/// Made for one model trained in two precisions. The comparison is paired: seed, data, tokenizer and batch
/// shape must agree, anything else may differ. Of two feed-forward variants only the tensors that both have
/// are compared. Gaps are B - A. Weights are those of the newest checkpoints.
#[derive(Debug, Args)]
#[command(after_long_help = FIGURES)]
pub struct Diverge {
    /// Run directory A, the reference
    run_a: PathBuf,
    /// Run directory B, compared with it
    run_b: PathBuf,
    /// Held-out tokens to predict with both models, from the beginning of the validation text
    #[arg(long, value_name = "N", default_value_t = Options::default().tokens, value_parser = at_least::<1>)]
    tokens: usize,
    /// Steps after which a loss gap counts half in the smoothed gap
    #[arg(long, value_name = "N", default_value_t = Options::default().half_life,
        value_parser = clap::value_parser!(u64).range(1..))]
    half_life: u64,
    /// Preceding steps by which a step is judged to be a spike
    #[arg(long, value_name = "N", default_value_t = Options::default().window, value_parser = at_least::<MIN_HISTORY>)]
    window: usize,
    /// Smoothed gap, nats per token, beyond which the runs have diverged
    #[arg(long, value_name = "X", default_value_t = Options::default().threshold, value_parser = nats)]
    threshold: f64,
    /// Print one JSON object: a, b, seed, options, loss, val_gap, outputs, gradients,
    /// weights, tensors, notes
    #[arg(long)]
    json: bool,
    /// Write the curve to this file: step, loss_a, loss_b, gap, smoothed
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

const FIGURES: &str = "\
Figures:
  training loss   mean over the last tenth of the steps that both runs have
  smoothed gap    exponential moving average of the gaps of single steps, bias corrected
  stays beyond    first step from which the smoothed gap is beyond the threshold, on one side,
                  until the end; a gap that closes again is no divergence
  spike score     share of steps whose training loss is 7 standard deviations or more above the
                  mean of the steps before it (OLMo 2, arXiv 2501.00656); the first 20 steps are
                  not judged
  KL(A‖B)         sum over the vocabulary of p_a ln(p_a / p_b), mean over held-out tokens: the
                  nats per token lost by predicting with B what A would write; 0 only for equal
                  predictions
  same most probable token
                  share of held-out tokens for which both models rank the same token first
  gradients       of both models on the batch that A would have trained on next, without
                  dropout and clipping; cosine 1: same direction
  distance of weights
                  length of the difference over the length of A's weights";

impl Diverge {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let setting =
            Setting { device: common.device.open()?, kernels: common.kernels, cache: CacheDir::default() };
        let options = Options {
            tokens: self.tokens,
            half_life: self.half_life,
            window: self.window,
            threshold: self.threshold,
        };
        let bar = indicatif::ProgressBar::new(self.tokens as u64);
        let found = diverge(
            &self.run_a,
            &self.run_b,
            &options,
            &setting,
            &|text| bar.suspend(|| note(text)),
            &mut |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            },
        );
        bar.finish_and_clear();
        let found = found?;
        if let Some(path) = &self.csv {
            std::fs::write(path, curve::csv(&found.curve))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if self.json {
            print_json(&found)?;
        } else {
            print(&report(&found, super::terminal_width()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A positive number of nats.
fn nats(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(nats) if nats.is_finite() && nats > 0.0 => Ok(nats),
        Ok(_) | Err(_) => Err("not a number above 0".to_owned()),
    }
}
