//! The feed-forward block as a module: projections around an activation or a gated product.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use kernels::Kernels;

use crate::{Activation, FfnConfig, FfnKind, Linear};

/// Standard deviations of a new block's normally distributed weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FfnInit {
    /// Of the gate and up projections.
    pub std: f64,
    /// Of the down projection, which writes to the residual stream and is often drawn smaller.
    pub down_std: f64,
}

/// A feed-forward block: `down_proj(hidden(x))`.
///
/// Its parameters are `gate_proj.weight` (gated blocks only), `up_proj.weight` and
/// `down_proj.weight`; see [`FfnConfig::parameters`].
#[derive(Debug, Clone)]
pub struct Ffn {
    branches: Branches,
    down_proj: Linear,
    kernels: Kernels,
}

#[derive(Debug, Clone)]
enum Branches {
    Ungated { up_proj: Linear, activation: Activation },
    Gated { gate_proj: Linear, up_proj: Linear, gate: Activation, up: Activation },
}

impl Ffn {
    /// Builds the block from the parameters in `vb`, where `init` says how to draw new ones.
    ///
    /// # Errors
    ///
    /// If `vb` lacks a parameter or has one of another shape.
    pub fn new(config: &FfnConfig, vb: VarBuilder, kernels: Kernels, init: FfnInit) -> Result<Self> {
        let linear = |name, d_in, d_out, stdev| {
            let init = Init::Randn { mean: 0.0, stdev };
            Linear::new(d_in, d_out, vb.pp(name), init, kernels)
        };
        let into_hidden = |name| linear(name, config.d_model, config.d_ff, init.std);
        let branches = match config.kind {
            FfnKind::Ungated { activation } => {
                Branches::Ungated { up_proj: into_hidden("up_proj")?, activation }
            }
            FfnKind::Gated { gate, up } => Branches::Gated {
                gate_proj: into_hidden("gate_proj")?,
                up_proj: into_hidden("up_proj")?,
                gate,
                up,
            },
        };
        Ok(Self {
            branches,
            down_proj: linear("down_proj", config.d_ff, config.d_model, init.down_std)?,
            kernels,
        })
    }

    /// `x_btd` of shape `[.., d_model]`; the result has the same shape.
    ///
    /// # Errors
    ///
    /// If the last dimension of `x_btd` is not `d_model`, or its dtype or device is not the weights'.
    pub fn forward(&self, x_btd: &Tensor) -> Result<Tensor> {
        self.down_proj.forward(&self.hidden(x_btd)?)
    }

    /// The hidden state that enters the down projection, `[.., d_ff]`: for probes of sparsity,
    /// outliers and dead units.
    ///
    /// # Errors
    ///
    /// As for [`forward`](Ffn::forward).
    pub fn hidden(&self, x_btd: &Tensor) -> Result<Tensor> {
        match &self.branches {
            Branches::Ungated { up_proj, activation } => {
                let up_pre = up_proj.forward(x_btd)?;
                match self.kernels.for_tensors(&[&up_pre]) {
                    Kernels::Reference => activation.forward(&up_pre),
                    Kernels::Portable => kernels::ungated(self.kernels, &up_pre, Arc::new(*activation)),
                }
            }
            Branches::Gated { gate_proj, up_proj, gate, up } => {
                let (gate_pre, up_pre) = (gate_proj.forward(x_btd)?, up_proj.forward(x_btd)?);
                match self.kernels.for_tensors(&[&gate_pre, &up_pre]) {
                    Kernels::Reference => gate.forward(&gate_pre)? * up.forward(&up_pre)?,
                    Kernels::Portable => {
                        kernels::gated(self.kernels, &gate_pre, &up_pre, Arc::new(*gate), Arc::new(*up))
                    }
                }
            }
        }
    }
}
