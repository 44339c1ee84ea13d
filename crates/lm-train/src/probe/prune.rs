//! CETT-PPL-1%: how many neurons can be dropped before perplexity rises by 1 % (Luo et al. 2024, arXiv 2411.02335,
//! algorithm 1).
//!
//! A CETT level gives every block its threshold; the model is evaluated with the neurons below it dropped in all blocks,
//! and the level is found by bisection. A block behind others sees what their dropped neurons have changed, so the share
//! that is really dropped, which is what is reported, can differ a little from that of the curve.

use anyhow::Result;
use candle_core::{Device, Tensor};
use ffn_variants::{Ffn, FfnInside};
use serde::Serialize;

use super::cett::{CettCurve, Neurons, Sparsity};
use super::figures::elements;
use crate::data::TokenStream;
use crate::evaluate::passes;
use crate::model::{BlockProbe, Transformer};

/// Rise of perplexity that is allowed.
pub const PPL_RISE: f64 = 0.01;
/// Halvings of the interval of levels, which begins as 0..1.
pub const BISECTIONS: usize = 10;

/// What can be dropped of all blocks together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PplSparsity {
    /// Rise of perplexity that is allowed, as a share.
    pub rise: f64,
    /// The largest CETT level found at which perplexity rises by no more.
    pub level: f64,
    /// Loss with the neurons dropped, nats per token.
    pub loss: f64,
    /// Perplexity with the neurons dropped over that without.
    pub perplexity_ratio: f64,
    /// Share of neurons dropped, mean over tokens and blocks.
    pub sparsity: f64,
    /// The same, block by block.
    pub layers: Vec<f64>,
    /// Neurons with an output shorter than this were dropped, block by block.
    pub thresholds: Vec<f64>,
}

/// The neurons of a block, and what dropping them costs.
#[derive(Clone, Debug)]
pub struct PrunableBlock {
    /// What each puts out.
    pub neurons: Neurons,
    /// What dropping the least of them costs.
    pub curve: CettCurve,
}

impl PrunableBlock {
    /// Nothing seen of a block.
    ///
    /// # Errors
    /// When its weight cannot be read.
    pub fn new(ffn: &Ffn) -> candle_core::Result<Self> {
        let weight = ffn.down_weight()?;
        let neurons = Neurons::new(&elements(&weight)?, weight.dim(0)?);
        Ok(Self { neurons, curve: CettCurve::default() })
    }

    /// Adds the tokens of `hidden`, rows of d_ff finite numbers.
    pub fn add(&mut self, hidden: &[f32]) {
        self.curve.add(&self.neurons, hidden);
    }
}

/// A model whose neurons can be dropped, on one text.
pub struct Prunable<'a> {
    /// The model, detached.
    pub model: &'a Transformer,
    /// The text.
    pub stream: &'a TokenStream,
    /// Device of the model.
    pub device: &'a Device,
    /// The blocks, from the first layer to the last, as they were on this text.
    pub blocks: Vec<&'a PrunableBlock>,
}

/// A model evaluated with neurons dropped.
#[derive(Clone, Debug)]
struct Pruned {
    /// Loss, nats per token.
    loss: f64,
    /// Share of neurons dropped, by block.
    layers: Vec<f64>,
}

impl Prunable<'_> {
    /// The loss with all neurons of block l dropped whose output is shorter than `thresholds[l]`. `progress` hears the
    /// number of tokens just predicted.
    ///
    /// # Errors
    /// When the model fails.
    fn evaluate(&self, thresholds: &[f64], progress: &mut dyn FnMut(u64)) -> Result<Pruned> {
        let mut dropper =
            Dropper { blocks: &self.blocks, thresholds, dropped: vec![(0, 0); thresholds.len()] };
        let (mut sum, mut tokens) = (0.0, 0);
        let seq_len = self.model.seq_len();
        for pass in passes(self.stream, seq_len, seq_len, self.device)? {
            let pass = pass?;
            let logits = self.model.forward_probed(&pass.ids_bt, &mut dropper)?;
            let losses = kernels::token_losses(&logits, &pass.targets_n)?;
            sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            tokens += losses.len() as u64;
            progress(losses.len() as u64);
        }
        let share = |&(dropped, seen): &(u64, u64)| dropped as f64 / seen.max(1) as f64;
        Ok(Pruned { loss: sum / tokens as f64, layers: dropper.dropped.iter().map(share).collect() })
    }

    /// The greatest sparsity within [`PPL_RISE`] of the perplexity without dropping, whose loss is `whole`.
    ///
    /// Bisection finds a level at which the rise is allowed and just above which (by 2^-[`BISECTIONS`]) it is not;
    /// where perplexity does not rise steadily with the level, there can be others. The end of the interval is tried
    /// first, and its beginning, at which only neurons without any output are dropped, is known to cost nothing.
    ///
    /// # Errors
    /// When the model fails.
    pub fn at_ppl_rise(&self, whole: f64, progress: &mut dyn FnMut(u64)) -> Result<PplSparsity> {
        let allowed = whole + (1.0 + PPL_RISE).ln();
        let at =
            |level: f64| -> Vec<Sparsity> { self.blocks.iter().map(|block| block.curve.at(level)).collect() };
        let thresholds = |level| -> Vec<f64> { at(level).iter().map(|found| found.threshold).collect() };
        let untouched = Pruned { loss: whole, layers: at(0.0).iter().map(|found| found.sparsity).collect() };
        let (mut best, mut low, mut high) = (untouched, 0.0, 1.0);
        let mut level = high;
        for _ in 0..=BISECTIONS {
            let pruned = self.evaluate(&thresholds(level), progress)?;
            if pruned.loss <= allowed {
                (best, low) = (pruned, level);
            } else {
                high = level;
            }
            if low == high {
                break; // nothing raises perplexity so far
            }
            level = (low + high) / 2.0;
        }
        Ok(PplSparsity {
            rise: PPL_RISE,
            level: low,
            loss: best.loss,
            perplexity_ratio: (best.loss - whole).exp(),
            sparsity: best.layers.iter().sum::<f64>() / best.layers.len().max(1) as f64,
            layers: best.layers,
            thresholds: thresholds(low),
        })
    }
}

struct Dropper<'a> {
    blocks: &'a [&'a PrunableBlock],
    thresholds: &'a [f64],
    /// Dropped and seen, by block.
    dropped: Vec<(u64, u64)>,
}

impl BlockProbe for Dropper<'_> {
    fn ffn(&mut self, layer: usize, _: &Ffn, inside: &FfnInside) -> candle_core::Result<Option<Tensor>> {
        let mut hidden = elements(&inside.hidden)?;
        let (dropped, seen) = &mut self.dropped[layer];
        *dropped += self.blocks[layer].neurons.drop_below(self.thresholds[layer], &mut hidden);
        *seen += hidden.len() as u64;
        Tensor::from_vec(hidden, inside.hidden.shape(), inside.hidden.device()).map(Some)
    }

    fn residual(&mut self, _: usize, _: &Tensor) -> candle_core::Result<()> {
        Ok(())
    }
}
