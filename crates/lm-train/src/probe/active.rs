//! The active ratio on the way: CETT-PPL-1% of a model that is being trained.

use anyhow::Result;
use candle_core::{Device, Tensor};
use ffn_variants::{Ffn, FfnInside};
use serde::{Deserialize, Serialize};

use super::figures::elements;
use super::prune::{Prunable, PrunableBlock};
use crate::data::TokenStream;
use crate::evaluate::passes;
use crate::model::{BlockProbe, Transformer};

/// How many neurons a model needs on some tokens: those that cannot be dropped before perplexity rises by
/// [`PPL_RISE`](super::PPL_RISE).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveRatio {
    /// Tokens looked at.
    pub tokens: u64,
    /// Share of neurons that cannot be dropped, mean over tokens and blocks.
    pub active_ratio: f64,
    /// Share that can, block by block.
    pub dropped: Vec<f64>,
    /// CETT level at which they are dropped.
    pub level: f64,
    /// Perplexity with them dropped over that without.
    pub perplexity_ratio: f64,
}

/// The active ratio of a detached model on all tokens of a stream; `None` when its activations or its loss are not finite.
/// Nothing of the model changes.
///
/// # Errors
/// A stream of fewer than two tokens; whatever the model fails with.
pub fn active_ratio(
    model: &Transformer,
    stream: &TokenStream,
    device: &Device,
) -> Result<Option<ActiveRatio>> {
    let mut collector = Collector { blocks: Vec::new(), finite: true };
    let (mut sum, mut tokens) = (0.0, 0);
    for pass in passes(stream, model.seq_len(), model.seq_len(), device)? {
        let pass = pass?;
        let logits = model.forward_probed(&pass.ids_bt, &mut collector)?;
        let losses = kernels::token_losses(&logits, &pass.targets_n)?;
        sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        tokens += losses.len() as u64;
    }
    let loss = sum / tokens as f64;
    if !(collector.finite && loss.is_finite()) {
        return Ok(None);
    }
    let blocks = collector.blocks.iter().collect();
    let found = Prunable { model, stream, device, blocks }.at_ppl_rise(loss, &mut |_| {})?;
    Ok(Some(ActiveRatio {
        tokens,
        active_ratio: 1.0 - found.sparsity,
        dropped: found.layers,
        level: found.level,
        perplexity_ratio: found.perplexity_ratio,
    }))
}

struct Collector {
    blocks: Vec<PrunableBlock>,
    finite: bool,
}

impl BlockProbe for Collector {
    fn ffn(&mut self, layer: usize, ffn: &Ffn, inside: &FfnInside) -> candle_core::Result<Option<Tensor>> {
        if layer == self.blocks.len() {
            self.blocks.push(PrunableBlock::new(ffn)?);
        }
        let hidden = elements(&inside.hidden)?;
        self.finite = self.finite && hidden.iter().all(|h| h.is_finite());
        if self.finite {
            self.blocks[layer].add(&hidden);
        }
        Ok(None)
    }

    fn residual(&mut self, _: usize, _: &Tensor) -> candle_core::Result<()> {
        Ok(())
    }
}
