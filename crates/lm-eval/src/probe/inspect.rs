//! The one pass in which everything is measured that takes the activations of the trained model.

use anyhow::Result;
use candle_core::Tensor;
use ffn_variants::{Ffn, FfnInside};
use lm_train::data::TokenStream;
use lm_train::evaluate::passes;
use lm_train::loaded::LoadedRun;
use lm_train::model::BlockProbe;
use lm_train::probe::prune::{Prunable, PrunableBlock};
use lm_train::probe::{FfnSums, TensorStats, Threshold, elements};

use super::rank::Gram;

/// Sums over one block.
pub(super) struct Block {
    pub(super) sums: FfnSums,
    pub(super) residual: TensorStats,
    pub(super) prunable: PrunableBlock,
    pub(super) gram: Gram,
}

/// What the pass found.
pub(super) struct Inspection {
    /// Mean loss, nats per token.
    pub(super) loss: f64,
    pub(super) blocks: Vec<Block>,
}

impl Inspection {
    /// The model with neurons to drop. Thresholds are taken from what this pass has seen.
    pub(super) fn prunable<'a>(&'a self, run: &'a LoadedRun, stream: &'a TokenStream) -> Prunable<'a> {
        let blocks = self.blocks.iter().map(|block| &block.prunable).collect();
        Prunable { model: &run.model, stream, device: &run.device, blocks }
    }
}

/// Looks at all tokens of `stream`. `progress` hears the number of tokens just seen.
///
/// # Errors
/// A stream of fewer than two tokens; activations that are not finite.
pub(super) fn inspect(
    run: &LoadedRun,
    stream: &TokenStream,
    small: Threshold,
    progress: &mut dyn FnMut(u64),
) -> Result<Inspection> {
    let mut inspector = Inspector { small, blocks: Vec::new() };
    let (mut sum, mut tokens) = (0.0, 0);
    let seq_len = run.model.seq_len();
    for pass in passes(stream, seq_len, seq_len, &run.device)? {
        let pass = pass?;
        let logits = run.model.forward_probed(&pass.ids_bt, &mut inspector)?;
        // Before anything else: sums of what is not finite say nothing.
        inspector.blocks.iter().try_for_each(|block| block.sums.figures().map(drop))?;
        let losses = kernels::token_losses(&logits, &pass.targets_n)?;
        sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        tokens += losses.len() as u64;
        progress(losses.len() as u64);
    }
    Ok(Inspection { loss: sum / tokens as f64, blocks: inspector.blocks })
}

struct Inspector {
    small: Threshold,
    blocks: Vec<Block>,
}

impl Inspector {
    fn block(&mut self, layer: usize, ffn: &Ffn, inside: &FfnInside) -> candle_core::Result<&mut Block> {
        if layer == self.blocks.len() {
            self.blocks.push(Block {
                sums: FfnSums::new(layer, self.small, inside)?,
                residual: TensorStats::new(ffn.down_weight()?.dim(0)?),
                prunable: PrunableBlock::new(ffn)?,
                gram: Gram::default(),
            });
        }
        Ok(&mut self.blocks[layer])
    }
}

impl BlockProbe for Inspector {
    fn ffn(&mut self, layer: usize, ffn: &Ffn, inside: &FfnInside) -> candle_core::Result<Option<Tensor>> {
        let block = self.block(layer, ffn, inside)?;
        let hidden = elements(&inside.hidden)?;
        block.sums.add(inside, &hidden)?;
        if block.sums.hidden().non_finite() == 0 {
            block.prunable.add(&hidden);
            block.gram.add(&hidden, block.prunable.neurons.d_ff())?;
        }
        Ok(None)
    }

    fn residual(&mut self, layer: usize, x_btd: &Tensor) -> candle_core::Result<()> {
        self.blocks[layer].residual.add(&elements(x_btd)?);
        Ok(())
    }
}
