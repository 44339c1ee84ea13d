//! The linear layer: the one seam at which a precision recipe acts.
//!
//! Every weight matrix is multiplied here and nowhere else: the projections of a feed-forward block,
//! and whatever else a model puts through it. A recipe that rounds operands, gradients or weights to
//! a smaller format therefore changes this file only, and nothing about it shows in a checkpoint:
//! on disk there is one named weight, without a bias.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use kernels::Kernels;

/// `y = x W^T` with `W` stored as `[d_out, d_in]`; no bias.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    kernels: Kernels,
}

impl Linear {
    /// Takes the parameter `weight` of shape `[d_out, d_in]` from `vb`, where `init` says how to
    /// draw it if it does not exist yet.
    ///
    /// # Errors
    ///
    /// If `vb` has no such parameter or one of another shape.
    pub fn new(d_in: usize, d_out: usize, vb: VarBuilder, init: Init, kernels: Kernels) -> Result<Self> {
        let weight = vb.get_with_hints((d_out, d_in), "weight", init)?;
        Ok(Self { weight, kernels })
    }

    /// A layer over a weight `[d_out, d_in]` that something else owns, such as an output head tied to
    /// the embedding.
    pub fn from_weight(weight: Tensor, kernels: Kernels) -> Self {
        Self { weight, kernels }
    }

    /// `x` of shape `[.., d_in]` becomes `[.., d_out]`.
    ///
    /// # Errors
    ///
    /// If the last dimension of `x` is not `d_in`, or its dtype or device is not the weight's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::linear(self.kernels, x, &self.weight)
    }

    /// The weight, `[d_out, d_in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}
