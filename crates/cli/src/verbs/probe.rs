//! `ffnlab probe`: what the feed-forward blocks of a trained run do inside.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lm_eval::perplexity::{text_from, validation_text};
use lm_eval::probe::{Options, probe, report};
use lm_train::data::CacheDir;
use lm_train::loaded::LoadedRun;
use lm_train::probe::Threshold;

use super::at_least;
use crate::args::Common;
use crate::output::{note, print, print_json};

/// What the feed-forward blocks of a trained run do inside
///
/// Sparsity, dead units, vanished derivatives, outliers, effective rank, and gradient norms, layer by layer, on
/// held-out text. The model is computed in the precision it was trained in. To log the cheap ones of these figures
/// during training, set train.probe_every; for what can be dropped at +1% perplexity, train.sparsity_every.
#[derive(Debug, Args)]
#[command(after_long_help = FIGURES)]
pub struct Probe {
    /// Run directory
    run: PathBuf,
    /// Text file or glob to look at [default: the run's own validation text]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Tokens to look at, from the beginning of the text
    #[arg(long, value_name = "N", default_value_t = Options::default().tokens, value_parser = at_least::<1>)]
    tokens: usize,
    /// Size below which an activation is small [default: 0.001 times the root mean square of its block]
    #[arg(long, value_name = "X", value_parser = size)]
    eps: Option<f64>,
    /// Use the checkpoint of this step [default: the newest]
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Print one JSON object: run, ffn, precision, status, step, tokens, loss, perplexity, saturated_below, can_die,
    /// layers, ppl_sparsity, gradients, notes
    #[arg(long)]
    json: bool,
}

const FIGURES: &str = "\
Figures:
  h               hidden activations: what enters the down projection, before a precision recipe
                  quantises it
  zero            share of h that is exactly 0
  dead units      units that are exactly 0 on all tokens looked at. Where no function in the block
                  is zero on a whole interval, small units: |h| < eps on all tokens
  CETT            cumulative error of tail truncation (Zhang et al. 2024, arXiv 2402.03804): the
                  length of the output of dropped neurons over that of the whole output, mean over
                  tokens. A neuron is dropped for a token if the length of its output,
                  |h_i| ||w_down_i||, is below a threshold, one for each layer
  dropped         share of neurons that the largest threshold drops whose CETT is at most 0.2
  at +1% perplexity
                  CETT-PPL-1% (Luo et al. 2024, arXiv 2411.02335): the share that can be dropped in
                  all layers, at one CETT level, before the perplexity on these tokens rises by
                  more than 1 %
  f'(x)           derivative of the activation. At initialisation: the same seed's first weights
  kurtosis        fourth standardised moment of all elements, 3 for a normal distribution
  top channel     largest |value| of the channel that has the largest, over that of the median
                  channel; its number in brackets. The residual stream is taken behind the layer
  effective rank  exp of the entropy of the singular values of h over their sum (Roy & Vetterli
                  2007): the number of directions in use
  gradient norms  of the mean loss over the first tokens, at most a training batch of them,
                  without dropout and clipping";

impl Probe {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        let device = common.device.open()?;
        let run = match self.step {
            Some(step) => LoadedRun::open_at(&self.run, step, &device, common.kernels)?,
            None => LoadedRun::open(&self.run, &device, common.kernels)?,
        };
        let text = match &self.data {
            Some(path) => text_from(&run, path)?,
            None => validation_text(&run, &CacheDir::default(), &note)?,
        };
        let small = self.eps.map_or(Threshold::default(), Threshold::Absolute);
        let bar = indicatif::ProgressBar::new(0);
        let found = probe(
            &run,
            &text,
            common.kernels,
            &Options { tokens: self.tokens, small },
            &mut |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            },
        );
        bar.finish_and_clear();
        let found = found?;
        if self.json {
            print_json(&found)?;
        } else {
            print(&report(&found, super::terminal_width()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A positive number.
fn size(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(size) if size.is_finite() && size > 0.0 => Ok(size),
        Ok(_) | Err(_) => Err("not a number above 0".to_owned()),
    }
}
