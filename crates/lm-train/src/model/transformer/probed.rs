//! The forward pass with somebody looking on.

use candle_core::{Result, Tensor};
use ffn_variants::{Ffn, FfnInside};

use super::{Block, Transformer};
use crate::model::attention::RotaryTable;

/// Looks into the blocks of a forward pass, and may change what enters a down projection.
pub trait BlockProbe {
    /// The feed-forward block of a layer (from 0) and its inside. A tensor that is returned enters the down
    /// projection instead of [`FfnInside::hidden`].
    ///
    /// # Errors
    /// Whatever it fails with ends the forward pass.
    fn ffn(&mut self, layer: usize, ffn: &Ffn, inside: &FfnInside) -> Result<Option<Tensor>>;

    /// The residual stream behind a layer, [b, t, d_model].
    ///
    /// # Errors
    /// Whatever it fails with ends the forward pass.
    fn residual(&mut self, layer: usize, x_btd: &Tensor) -> Result<()>;
}

impl Transformer {
    /// Token ids (u32) [b, t] -> logits [b * t, vocab_size], by single operations, which define the fused blocks, and
    /// without dropout. Call it on a detached model.
    ///
    /// # Errors
    /// As [`Transformer::forward`]; what the probe fails with.
    pub fn forward_probed(&self, ids_bt: &Tensor, probe: &mut dyn BlockProbe) -> Result<Tensor> {
        let mut x_btd = self.embedded(ids_bt)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x_btd = block.forward_probed(&x_btd, &self.rotary, layer, probe)?;
            probe.residual(layer, &x_btd)?;
        }
        self.lm_head.forward(&self.norm.forward(&x_btd.flatten(0, 1)?)?)
    }

    /// The feed-forward blocks, from the first layer to the last.
    pub fn ffns(&self) -> impl ExactSizeIterator<Item = &Ffn> {
        self.blocks.iter().map(|block| &block.ffn)
    }
}

impl Block {
    fn forward_probed(
        &self,
        x: &Tensor,
        rotary: &RotaryTable,
        layer: usize,
        probe: &mut dyn BlockProbe,
    ) -> Result<Tensor> {
        let y = self.attention.forward(&self.input_norm.forward(x)?, rotary)?;
        let x = self.add(x, &y)?;
        let inside = self.ffn.inside(&self.ffn_norm.forward(&x)?)?;
        let hidden = probe.ffn(layer, &self.ffn, &inside)?.unwrap_or(inside.hidden);
        self.add(&x, &self.ffn.project(&hidden)?)
    }
}
