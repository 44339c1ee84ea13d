//! Two runs of one seed, typically one model trained in two precisions: what their difference comes to, and
//! when it arises.
//!
//! [`diverge`] opens the runs and fills a [`Divergence`]; [`report()`] prints it. The arithmetic lies in
//! modules of pure functions on slices of f64 ([`curve`], [`spikes`], [`outputs`], [`tensors`]) that know
//! neither models nor files; what opens runs and asks their models is `runs` and `measure`.

pub mod curve;
pub mod outputs;
pub mod spikes;
pub mod tensors;

mod measure;
mod report;
mod runs;

pub use report::report;

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use kernels::Kernels;
use lm_train::data::{self, CacheDir};
use lm_train::loaded::LoadedRun;
use lm_train::record::RunStatus;
use serde::Serialize;

use curve::{GapPoint, Tail};
use outputs::OutputGap;
use runs::RunFacts;
use spikes::SpikeScore;
use tensors::{GradientGap, Pairing, WeightGap};

/// How to compare.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Held-out tokens to predict with both models at most: the beginning of the validation text.
    pub tokens: usize,
    /// Steps after which a loss gap counts half in the smoothed gap.
    pub half_life: u64,
    /// Preceding steps by which a step is judged to be a spike.
    pub window: usize,
    /// Smoothed gap, nats per token, beyond which the runs have diverged.
    pub threshold: f64,
}

impl Default for Options {
    /// 32,768 tokens; a half-life of 50 steps; the window of OLMo 2, 1,000 steps; 0.05 nats, which is a
    /// factor of 1.05 in perplexity and several times what two seeds of one small model differ by.
    fn default() -> Self {
        Self { tokens: 32_768, half_life: 50, window: 1000, threshold: 0.05 }
    }
}

/// What it takes to open the runs.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where tensors live.
    pub device: Device,
    /// Which implementation of the operations runs.
    pub kernels: Kernels,
    /// Where tokenised text is kept.
    pub cache: CacheDir,
}

/// One of the two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Run directory.
    pub path: PathBuf,
    /// Name of the feed-forward variant.
    pub ffn: String,
    /// Steps taken, by its metrics.
    pub steps: u64,
    /// How it ended; `None` while it has not.
    pub status: Option<RunStatus>,
    /// Step at which its loss or gradient stopped being finite.
    pub diverged_at: Option<u64>,
    /// Step of the newest checkpoint, whose weights are compared.
    pub checkpoint: Option<u64>,
    /// Final loss over the whole validation text, nats per token.
    pub val_loss: Option<f64>,
    /// Spikes of its training loss; `None` for a curve too short to tell.
    pub spikes: Option<SpikeScore>,
}

/// The gap between the training losses, B - A, nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LossGap {
    /// Steps that both have, with a finite loss.
    pub steps: usize,
    /// The first of them.
    pub first_step: u64,
    /// The last of them.
    pub last_step: u64,
    /// The smoothed gap at the last of them.
    pub smoothed: f64,
    /// The smoothed gap that is farthest from zero.
    pub widest: f64,
    /// The step where it is.
    pub widest_step: u64,
    /// First step from which the smoothed gap stays beyond the threshold until the end.
    pub onset: Option<u64>,
    /// Means over the last tenth of the steps.
    pub tail: Tail,
}

/// Everything [`diverge`] found. Gaps are B - A.
#[derive(Clone, Debug, Serialize)]
pub struct Divergence {
    /// Run A, the one that is compared with.
    pub a: Side,
    /// Run B.
    pub b: Side,
    /// The seed of both.
    pub seed: u64,
    /// How they were compared.
    pub options: Options,
    /// From the training losses; `None` without a common step.
    pub loss: Option<LossGap>,
    /// val_loss of B - val_loss of A; `None` unless both finished.
    pub val_gap: Option<f64>,
    /// From predictions on the held-out text; `None`, as all that follows, unless both have a checkpoint.
    pub outputs: Option<OutputGap>,
    /// From gradients on one batch.
    pub gradients: Option<GradientGap>,
    /// From the weights.
    pub weights: Option<WeightGap>,
    /// Which tensors were compared.
    pub tensors: Option<Pairing>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// The curve behind `loss`; too long for the JSON object, see [`curve::csv`].
    #[serde(skip)]
    pub curve: Vec<GapPoint>,
}

/// Compares the runs in `a` and `b`. `note` is told about what takes long; `progress` hears the tokens
/// predicted and the tokens to predict.
///
/// Held-out tokens are predicted with windows of the context length side by side. Gradients are those of the
/// batch that run A would have trained on next, without dropout, through each run's own model.
///
/// # Errors
/// A directory that is no run; two runs that are not paired: another seed, other data or another tokenizer,
/// batches of another shape; data that are gone or have changed.
pub fn diverge(
    a: &Path,
    b: &Path,
    options: &Options,
    setting: &Setting,
    note: &dyn Fn(&str),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Divergence> {
    let (facts_a, facts_b) = (RunFacts::read(a)?, RunFacts::read(b)?);
    runs::check_paired(&facts_a, &facts_b)?;
    let curve = curve::gap_curve(&facts_a.losses, &facts_b.losses, options.half_life as f64);
    let mut divergence = Divergence {
        a: facts_a.side(options)?,
        b: facts_b.side(options)?,
        seed: facts_a.config.seed,
        options: *options,
        loss: loss_gap(&curve, options.threshold),
        val_gap: None,
        outputs: None,
        gradients: None,
        weights: None,
        tensors: None,
        notes: Vec::new(),
        curve,
    };
    divergence.val_gap = divergence.a.val_loss.zip(divergence.b.val_loss).map(|(a, b)| b - a);
    if facts_a.has_checkpoint && facts_b.has_checkpoint {
        compare_models(&mut divergence, &facts_a, setting, note, progress)?;
    }
    divergence.notes = runs::notes(&divergence);
    Ok(divergence)
}

/// What the curve comes to; `None` when it is empty.
fn loss_gap(curve: &[GapPoint], threshold: f64) -> Option<LossGap> {
    let (first, last, widest) = (curve.first()?, curve.last()?, curve::widest(curve)?);
    Some(LossGap {
        steps: curve.len(),
        first_step: first.step,
        last_step: last.step,
        smoothed: last.smoothed,
        widest: widest.smoothed,
        widest_step: widest.step,
        onset: curve::onset(curve, threshold),
        tail: curve::tail(curve)?,
    })
}

/// Fills in what takes the models of both runs.
fn compare_models(
    divergence: &mut Divergence,
    facts_a: &RunFacts,
    setting: &Setting,
    note: &dyn Fn(&str),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let a = LoadedRun::open(&divergence.a.path, &setting.device, setting.kernels)?;
    let b = LoadedRun::open(&divergence.b.path, &setting.device, setting.kernels)?;
    runs::check_vocabulary(&a, &b)?;
    runs::check_data_unchanged(facts_a)?;
    let corpus = data::load(&a.config.data, &a.config.tokenizer, &setting.cache, note)?;
    (divergence.a.checkpoint, divergence.b.checkpoint) = (Some(a.step), Some(b.step));
    let (weights_a, weights_b) = (measure::weights(&a)?, measure::weights(&b)?);
    divergence.weights = Some(WeightGap::of(&weights_a, &weights_b));
    divergence.tensors = Some(tensors::pair_up(&weights_a, &weights_b).1);
    drop((weights_a, weights_b));
    let text = corpus.valid.prefix(divergence.options.tokens.saturating_add(1));
    divergence.outputs = measure::outputs(&a, &b, &text, progress)?;
    note("comparing gradients");
    let batch = measure::next_batch(&a, corpus.train)?;
    let gradient = |run| measure::gradient(run, &batch, setting.kernels);
    divergence.gradients = Some(GradientGap::of(a.step, &gradient(&a)?, &gradient(&b)?));
    Ok(())
}
