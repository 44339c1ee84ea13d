//! What both halves of a transformer block share: one edge in, one edge out, and when values are kept.

use super::Saving;
use super::projection::Projection;
use super::relay::Relay;
use crate::buffers::{elements, with_elements};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// A residual block on plain slices. Its weights come in an order of its own, as do their gradients.
pub(super) trait HalfBlock: Send + Sync + 'static {
    /// Name of the operation.
    const NAME: &'static str;

    /// Values of the forward pass that the backward pass needs.
    type Kept: Send + Sync;

    /// The block's result, of the shape of x.
    fn run(&self, x: &[f32], weights: &[&[f32]]) -> Result<(Vec<f32>, Self::Kept)>;

    /// The gradient of x, and those of the weights, from that of the result.
    fn back(&self, x: &[f32], weights: &[&[f32]], kept: &Self::Kept, grad: &[f32]) -> Result<Gradients>;
}

/// Gradients of a block.
pub(super) struct Gradients {
    pub(super) of_x: Vec<f32>,
    pub(super) of_weights: Vec<Vec<f32>>,
}

/// The block as an operation of Candle's graph.
pub(super) fn apply<'a, B: HalfBlock>(
    block: B,
    x: &Tensor,
    weights: &[&Tensor],
    products: impl IntoIterator<Item = &'a Projection>,
    saving: Saving,
) -> Result<Tensor> {
    if saving == Saving::Recompute && products.into_iter().any(|product| product.low.is_some()) {
        candle_core::bail!("only blocks in f32 can be computed again in the backward pass")
    }
    let relay = Relay::new(weights)?;
    let (x, scalar) = (x.contiguous()?, relay.scalar()?);
    let keep = saving == Saving::Keep && super::will_go_back(&[&x, &scalar]);
    x.apply_op2(&scalar, Op { block, relay, keep, kept: OnceLock::new() })
}

struct Op<B: HalfBlock> {
    block: B,
    relay: Relay,
    keep: bool,
    kept: OnceLock<B::Kept>,
}

impl<B: HalfBlock> CustomOp2 for Op<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = elements(x, layout)?;
        let (y, kept) = self.relay.with_weights(|weights| self.block.run(x, weights))?;
        if self.keep {
            self.kept.get_or_init(|| kept);
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scalar: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Gradients { of_x, of_weights } = with_elements([x, &grad.contiguous()?], |[values, grad]| {
            self.relay.with_weights(|weights| match self.kept.get() {
                Some(kept) => self.block.back(values, weights, kept, grad),
                None => self.block.back(values, weights, &self.block.run(values, weights)?.1, grad),
            })
        })?;
        self.relay.leave(of_weights);
        Ok((Some(Tensor::from_vec(of_x, x.shape(), x.device())?), Some(scalar.zeros_like()?)))
    }
}
