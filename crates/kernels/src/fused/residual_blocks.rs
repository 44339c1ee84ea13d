//! Residual blocks as one operation: one edge in, one edge out, however many there are between, and when values are kept.

use super::relay::Relay;
use super::{AttentionBlock, FfnBlock, Saving};
use crate::buffers::{elements, with_elements};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use std::borrow::Cow;
use std::sync::OnceLock;

/// A residual block.
#[derive(Clone, Debug)]
pub enum ResidualBlock {
    /// Attention with its norm.
    Attention(AttentionBlock),
    /// A feed-forward block with its norm.
    Ffn(FfnBlock),
}

/// x \[b, t, d_model\], f32 on the CPU, through residual blocks, one after another.
///
/// # Errors
/// When shapes do not fit, a tensor is of another kind, or a product below f32 would have to be made again.
pub fn residual_blocks(
    x: &Tensor,
    blocks: impl IntoIterator<Item = ResidualBlock>,
    saving: Saving,
) -> Result<Tensor> {
    let link = |block| match block {
        ResidualBlock::Attention(block) => block.link(x),
        ResidualBlock::Ffn(block) => Ok(block.link()),
    };
    let links = blocks.into_iter().map(link).collect::<Result<Vec<Link>>>()?;
    if saving == Saving::Recompute && links.iter().any(|link| link.low) {
        candle_core::bail!("only blocks in f32 can be computed again in the backward pass")
    }
    let relay = Relay::new(links.iter().flat_map(|link| &link.weights))?;
    let (x, scalar) = (x.contiguous()?, relay.scalar()?);
    let back = super::will_go_back(&[&x, &scalar]);
    let keep = back && saving == Saving::Keep;
    x.apply_op2(&scalar, Op { links, relay, back, keep, inputs: OnceLock::new() })
}

/// A residual block on plain slices. Its weights come in an order of its own, as do their gradients.
pub(super) trait OnSlices: Send + Sync + 'static {
    /// Values of the forward pass that the backward pass needs.
    type Kept: Send + Sync;

    /// The block's result, of the shape of x, and what its backward pass needs, which is whole if it is to be kept.
    fn run(&self, x: &[f32], weights: &[&[f32]], keep: bool) -> Result<(Vec<f32>, Self::Kept)>;

    /// The gradient of x, and those of the weights, from that of the result.
    fn back(&self, x: &[f32], weights: &[&[f32]], kept: &Self::Kept, grad: &[f32]) -> Result<Gradients>;
}

/// Gradients of a block.
pub(super) struct Gradients {
    pub(super) of_x: Vec<f32>,
    pub(super) of_weights: Vec<Vec<f32>>,
}

/// A block of several.
pub(super) struct Link {
    block: Box<dyn Keeping>,
    /// In its order.
    weights: Vec<Tensor>,
    /// Whether any of its products is below f32.
    low: bool,
}

impl Link {
    pub(super) fn new(block: impl OnSlices, weights: Vec<Tensor>, low: bool) -> Self {
        Self { block: Box::new(Keeper { block, kept: OnceLock::new() }), weights, low }
    }
}

/// A block and what its forward pass keeps.
struct Keeper<B: OnSlices> {
    block: B,
    kept: OnceLock<B::Kept>,
}

/// A [`Keeper`] of any block.
trait Keeping: Send + Sync {
    fn run(&self, x: &[f32], weights: &[&[f32]], keep: bool) -> Result<Vec<f32>>;

    fn back(&self, x: &[f32], weights: &[&[f32]], grad: &[f32]) -> Result<Gradients>;
}

impl<B: OnSlices> Keeping for Keeper<B> {
    fn run(&self, x: &[f32], weights: &[&[f32]], keep: bool) -> Result<Vec<f32>> {
        let (y, kept) = self.block.run(x, weights, keep)?;
        if keep {
            self.kept.get_or_init(|| kept);
        }
        Ok(y)
    }

    fn back(&self, x: &[f32], weights: &[&[f32]], grad: &[f32]) -> Result<Gradients> {
        match self.kept.get() {
            Some(kept) => self.block.back(x, weights, kept, grad),
            None => self.block.back(x, weights, &self.block.run(x, weights, true)?.1, grad),
        }
    }
}

struct Op {
    links: Vec<Link>,
    relay: Relay,
    /// Whether there will be a backward pass.
    back: bool,
    /// Whether blocks keep what it needs besides their inputs.
    keep: bool,
    /// Inputs of all blocks but the first, for the backward pass.
    inputs: OnceLock<Vec<Vec<f32>>>,
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "residual-blocks"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut x = Cow::Borrowed(elements(x, layout)?);
        let mut inputs = vec![];
        self.relay.with_weights(|mut weights| {
            for Link { block, weights: own, .. } in &self.links {
                let of_block;
                (of_block, weights) = weights.split_at(own.len());
                let y = block.run(&x, of_block, self.keep)?;
                if let (true, Cow::Owned(x)) = (self.back, std::mem::replace(&mut x, Cow::Owned(y))) {
                    inputs.push(x);
                }
            }
            Ok(())
        })?;
        self.inputs.get_or_init(|| inputs);
        Ok((CpuStorage::F32(x.into_owned()), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scalar: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(inputs) = self.inputs.get() else {
            candle_core::bail!("residual blocks: backward before forward")
        };
        let (of_x, of_weights) = with_elements([x, &grad.contiguous()?], |[x, grad]| {
            self.relay.with_weights(|mut weights| {
                let (mut grad, mut of_weights) = (Cow::Borrowed(grad), vec![]);
                let inputs = inputs.iter().map(|input| &input[..]).rev().chain([x]);
                for (Link { block, weights: own, .. }, x) in self.links.iter().rev().zip(inputs) {
                    let of_block;
                    (weights, of_block) = weights.split_at(weights.len() - own.len());
                    let gradients = block.back(x, of_block, &grad)?;
                    grad = Cow::Owned(gradients.of_x);
                    of_weights.push(gradients.of_weights);
                }
                Ok((grad.into_owned(), of_weights))
            })
        })?;
        self.relay.leave(of_weights.into_iter().rev().flatten().collect());
        Ok((Some(Tensor::from_vec(of_x, x.shape(), x.device())?), Some(scalar.zeros_like()?)))
    }
}
