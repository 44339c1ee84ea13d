//! Looking inside the feed-forward blocks of a trained run: how sparse and how even their hidden activations are, which
//! units are dead, where derivatives have vanished, and how much could be dropped.
//!
//! [`probe`] takes one pass over the text for everything that is measured on activations, a second one through the model
//! as it was initialised, and a dozen for the sparsity that perplexity allows. Sums are in f64; nothing but sums is kept.
//! The model is computed in the precision it was trained in, by single operations.

pub mod gradients;
pub mod outliers;
pub mod rank;

mod inspect;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use kernels::Kernels;
use lm_train::loaded::LoadedRun;
use lm_train::probe::prune::BISECTIONS;
use lm_train::probe::{FfnFigures, FfnSums, SATURATED_BELOW, Threshold, alignment, sample};
use lm_train::record::RunStatus;
use lm_train::session::Session;
use serde::Serialize;

use crate::perplexity::EvalText;

pub use lm_train::probe::{PplSparsity, Sparsity};

pub use gradients::{GradientNorms, TensorNorm};
pub use outliers::{ChannelMax, Outliers};
pub use report::report;

/// CETT at which sparsity is reported, the value of Zhang et al. 2024.
pub const CETT_LEVEL: f64 = 0.2;

/// How to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Tokens looked at, from the beginning of the text.
    pub tokens: usize,
    /// What counts as a small activation.
    pub small: Threshold,
}

impl Default for Options {
    fn default() -> Self {
        Self { tokens: 8192, small: Threshold::default() }
    }
}

/// Everything [`probe`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeReport {
    /// Run directory.
    pub run: PathBuf,
    /// The feed-forward block.
    pub ffn: String,
    /// The precision it is computed in.
    pub precision: String,
    /// How the run ended; null when it has not.
    pub status: Option<RunStatus>,
    /// Step of the weights.
    pub step: u64,
    /// Tokens looked at.
    pub tokens: u64,
    /// Loss on them, nats per token.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// A derivative smaller than this counts as vanished.
    pub saturated_below: f64,
    /// Whether units of this block can be dead: zero for every input, without a gradient.
    pub can_die: bool,
    /// The blocks, from the first layer to the last.
    pub layers: Vec<LayerReport>,
    /// What can be dropped of all blocks before perplexity rises by [`PPL_RISE`](lm_train::probe::PPL_RISE).
    pub ppl_sparsity: PplSparsity,
    /// Norms of the gradient on the first of the tokens.
    pub gradients: GradientNorms,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// One feed-forward block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Width of its hidden state.
    pub d_ff: usize,
    /// The hidden activations.
    pub hidden: FfnFigures,
    /// The same, on the same tokens, of the model as it was initialised.
    pub at_init: FfnFigures,
    /// Units that are exactly zero on all tokens; null where the block's functions cannot be, see
    /// [`ProbeReport::can_die`].
    pub dead_units: Option<u64>,
    /// Units with |h| < eps on all tokens.
    pub small_units: u64,
    /// What can be dropped at [`CETT_LEVEL`].
    pub cett: Sparsity,
    /// Effective rank of the hidden activations; null when all are zero.
    pub effective_rank: Option<f64>,
    /// Outliers of the hidden activations.
    pub outliers: Outliers,
    /// Outliers of the residual stream behind this layer.
    pub residual: Outliers,
    /// |cos(w_gate, w_up)| over the channels; null without a gate.
    pub gate_up_cosine: Option<Cosines>,
}

/// |cos(w_gate, w_up)| over the channels of a gated block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cosines {
    /// Mean.
    pub mean: f64,
    /// Largest.
    pub max: f64,
}

/// Looks into the blocks of `run` on the first tokens of `text`. `progress` hears the tokens that have gone through a
/// model and how many will.
///
/// # Errors
/// A text of fewer than two tokens; activations that are not finite.
pub fn probe(
    run: &LoadedRun,
    text: &EvalText,
    kernels: Kernels,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ProbeReport> {
    let stream = text.stream.prefix(options.tokens.saturating_add(1));
    let tokens = stream.len().saturating_sub(1) as u64;
    let (mut done, total) = (0, tokens * (BISECTIONS as u64 + 3));
    let mut advance = |by: u64| {
        done += by;
        progress(done, total);
    };
    let found = inspect::inspect(run, &stream, options.small, &mut advance)?;
    let start = Session::new(&run.config, run.vocab_size, &run.device, kernels)
        .context("cannot make the initial weights again")?;
    let at_init = sample(start.eval_model(), &stream, options.small, &run.device, &mut advance)?;
    drop(start);
    let mut cosines = alignment(&run.params)?.into_iter().map(|(_, cosines)| Cosines::of(&cosines));
    let mut layers = Vec::with_capacity(found.blocks.len());
    for (block, at_init) in found.blocks.iter().zip(&at_init) {
        layers.push(block.report(at_init, cosines.next())?);
    }
    let ppl_sparsity = found.prunable(run, &stream).at_ppl_rise(found.loss, &mut advance)?;
    let report = ProbeReport {
        run: run.path.clone(),
        ffn: run.config.model.ffn.resolve(run.config.model.d_model)?.name(),
        precision: run.precision.recipe().name.clone(),
        status: run.summary.as_ref().map(|summary| summary.status),
        step: run.step,
        tokens,
        loss: found.loss,
        perplexity: found.loss.exp(),
        saturated_below: SATURATED_BELOW,
        can_die: layers.iter().any(|layer| layer.dead_units.is_some()),
        layers,
        ppl_sparsity,
        gradients: gradients::gradient_norms(run, &stream, kernels)?,
        notes: Vec::new(),
    };
    Ok(ProbeReport { notes: notes(&report, options), ..report })
}

impl inspect::Block {
    fn report(&self, at_init: &FfnSums, cosines: Option<Cosines>) -> Result<LayerReport> {
        let hidden = self.sums.figures()?;
        let small = |max: &&f64| **max < hidden.eps;
        Ok(LayerReport {
            d_ff: self.prunable.neurons.d_ff(),
            dead_units: hidden.dead_units,
            small_units: self.sums.hidden().channel_max().iter().filter(small).count() as u64,
            cett: self.prunable.curve.at(CETT_LEVEL),
            effective_rank: self.gram.effective_rank()?,
            outliers: Outliers::of(self.sums.hidden()),
            residual: Outliers::of(&self.residual),
            gate_up_cosine: cosines,
            at_init: at_init.figures().context("the model as it was initialised")?,
            hidden,
        })
    }
}

impl Cosines {
    fn of(cosines: &[f64]) -> Self {
        Self {
            mean: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
            max: cosines.iter().copied().fold(0.0, f64::max),
        }
    }
}

/// What a reader of the figures must know.
fn notes(report: &ProbeReport, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    match report.status {
        None => notes.push("the run has not ended; figures are as of its newest checkpoint".to_owned()),
        Some(RunStatus::Diverged) => {
            notes.push("the run diverged; figures are of a checkpoint before that".to_owned());
        }
        Some(RunStatus::Finished) => {}
    }
    if report.tokens < options.tokens as u64 {
        notes.push(format!("the text has {} tokens to look at, fewer than asked for", report.tokens));
    }
    if !report.can_die {
        notes.push(format!(
            "units of {} cannot be dead: no function in it is zero on a whole interval; small units, with |h| < eps on \
             all tokens, are counted instead",
            report.ffn
        ));
    }
    if report.layers.iter().all(|layer| layer.gate_up_cosine.is_none()) {
        notes.push(format!("{} has no gate, so there is no angle between gate and up weights", report.ffn));
    }
    if report.ppl_sparsity.level == 1.0 {
        notes.push(
            "dropping at a CETT of 1 does not raise perplexity by 1 %: these blocks hardly matter to the model on this \
             text"
                .to_owned(),
        );
    }
    notes
}
