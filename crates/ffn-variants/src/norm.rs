//! RMSNorm as a module (Zhang & Sennrich 2019).

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use kernels::{Kernels, Norm};

use crate::Precision;

/// `y = w x / sqrt(mean x^2 + eps)` over the last dimension, computed in f32 and rounded to the type between
/// operations.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
    kernels: Kernels,
    precision: Precision,
}

impl RmsNorm {
    /// Takes the parameter `weight` of shape `[d]` from `vb`, or starts it at 1.
    ///
    /// # Errors
    ///
    /// If `vb` has one of another shape.
    pub fn new(d: usize, eps: f64, vb: VarBuilder, kernels: Kernels, precision: &Precision) -> Result<Self> {
        let weight = vb.get_with_hints(d, "weight", Init::Const(1.0))?;
        Ok(Self { weight, eps, kernels, precision: precision.clone() })
    }

    /// `x` of shape `[.., d]`; the result has the same shape.
    ///
    /// # Errors
    ///
    /// If the last dimension is not `d`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = kernels::rms_norm(self.kernels, x, &self.weight, self.eps)?;
        self.precision.round(self.kernels, &y)
    }

    /// The norm as part of a fused block.
    pub fn part(&self) -> Norm {
        Norm { weight: self.weight.clone(), eps: self.eps }
    }
}
