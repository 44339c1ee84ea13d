//! The feed-forward block as a module: projections around an activation or a gated product.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use kernels::{Branch, FfnBlock, Kernels};

use crate::inside::{Branch as InsideBranch, BranchName, FfnInside};
use crate::precision::{ActivationType, LinearRole, Precision};
use crate::{Activation, FfnConfig, FfnKind, Linear, RmsNorm};

/// Standard deviations of a new block's normally distributed weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FfnInit {
    /// Of the gate and up projections.
    pub std: f64,
    /// Of the down projection, which writes to the residual stream and is often drawn smaller.
    pub down_std: f64,
    /// Added to the mean square inside the norm before the down projection, where a recipe has one.
    pub norm_eps: f64,
}

/// A feed-forward block: `down_proj(hidden(x))`.
///
/// Its parameters are `gate_proj.weight` (gated blocks only), `up_proj.weight` and
/// `down_proj.weight`, see [`FfnConfig::parameters`]; a recipe with a norm before the down projection adds
/// `ffn_sub_norm.weight` of width `d_ff`.
#[derive(Debug, Clone)]
pub struct Ffn {
    branches: Branches,
    sub_norm: Option<RmsNorm>,
    down_proj: Linear,
    kernels: Kernels,
    precision: Precision,
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
    pub fn new(
        config: &FfnConfig,
        vb: VarBuilder,
        kernels: Kernels,
        init: FfnInit,
        precision: &Precision,
    ) -> Result<Self> {
        let linear = |name, widths, stdev, role| {
            let init = Init::Randn { mean: 0.0, stdev };
            Linear::new(widths, vb.pp(name), init, kernels, precision, role)
        };
        let into_hidden =
            |name| linear(name, [config.d_model, config.d_ff], init.std, LinearRole::IntoHidden);
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
        let norm = || RmsNorm::new(config.d_ff, init.norm_eps, vb.pp("ffn_sub_norm"), kernels, precision);
        Ok(Self {
            branches,
            sub_norm: precision.recipe().sub_norm.then(norm).transpose()?,
            down_proj: linear("down_proj", [config.d_ff, config.d_model], init.down_std, LinearRole::Down)?,
            kernels,
            precision: precision.clone(),
        })
    }

    /// `x_btd` of shape `[.., d_model]`; the result has the same shape.
    ///
    /// # Errors
    ///
    /// If the last dimension of `x_btd` is not `d_model`, or its dtype or device is not the weights'.
    pub fn forward(&self, x_btd: &Tensor) -> Result<Tensor> {
        self.project(&self.normed(self.hidden(x_btd)?)?)
    }

    /// The down projection alone: [`FfnInside::hidden`], or that with units set to zero, becomes the block's result.
    ///
    /// # Errors
    ///
    /// If the last dimension of `hidden` is not `d_ff`.
    pub fn project(&self, hidden: &Tensor) -> Result<Tensor> {
        self.down_proj.forward(hidden)
    }

    /// Everything between the projections of [`forward`](Ffn::forward), kept apart for probes.
    ///
    /// # Errors
    ///
    /// As for [`forward`](Ffn::forward).
    pub fn inside(&self, x_btd: &Tensor) -> Result<FfnInside> {
        let preactivations = self.branches.forward(x_btd)?;
        let hidden = self.normed(self.activated(&preactivations)?)?;
        Ok(FfnInside { branches: preactivations.into_branches(), hidden })
    }

    /// The weight of the down projection as its product sees it, `[d_model, d_ff]`, see
    /// [`Linear::weight_in_product`].
    ///
    /// # Errors
    ///
    /// As for [`Linear::weight_in_product`].
    pub fn down_weight(&self) -> Result<Tensor> {
        self.down_proj.weight_in_product()
    }

    /// Through the norm before the down projection, where a recipe has one.
    fn normed(&self, hidden: Tensor) -> Result<Tensor> {
        match &self.sub_norm {
            Some(norm) => norm.forward(&hidden),
            None => Ok(hidden),
        }
    }

    /// x + ffn(norm(x)) as one operation; `None` where the recipe evaluates activations in another type than f32.
    pub fn block(&self, norm: &RmsNorm) -> Option<FfnBlock> {
        if self.precision.recipe().activation != ActivationType::Fp32 {
            return None;
        }
        let branch = |linear: &Linear, activation: Activation| Branch {
            projection: linear.projection(),
            function: Arc::new(activation),
        };
        let (gate, up) = match &self.branches {
            Branches::Ungated { up_proj, activation } => (None, branch(up_proj, *activation)),
            Branches::Gated { gate_proj, up_proj, gate, up } => {
                (Some(branch(gate_proj, *gate)), branch(up_proj, *up))
            }
        };
        Some(FfnBlock {
            norm: norm.part(),
            gate,
            up,
            sub_norm: self.sub_norm.as_ref().map(RmsNorm::part),
            down: self.down_proj.projection(),
            formats: self.precision.formats(),
        })
    }

    /// The product of the activated branches, `[.., d_ff]`, which enters the down projection (through a norm
    /// where a recipe has one).
    ///
    /// # Errors
    ///
    /// As for [`forward`](Ffn::forward).
    pub fn hidden(&self, x_btd: &Tensor) -> Result<Tensor> {
        self.activated(&self.branches.forward(x_btd)?)
    }

    fn activated(&self, branches: &Preactivations) -> Result<Tensor> {
        let hidden = match self.precision.recipe().activation {
            ActivationType::Fp32 => branches.activate(self.kernels)?,
            ActivationType::Compute => return branches.activate_in(self.precision.recipe().compute.dtype()),
        };
        self.precision.round(self.kernels, &hidden)
    }
}

impl Branches {
    fn forward(&self, x_btd: &Tensor) -> Result<Preactivations> {
        Ok(match self {
            Self::Ungated { up_proj, activation } => {
                Preactivations::Ungated { up: up_proj.forward(x_btd)?, activation: *activation }
            }
            Self::Gated { gate_proj, up_proj, gate, up } => Preactivations::Gated {
                gate: gate_proj.forward(x_btd)?,
                up: up_proj.forward(x_btd)?,
                activations: [*gate, *up],
            },
        })
    }
}

/// What the projections into the hidden state gave, and the functions they go through.
enum Preactivations {
    Ungated { up: Tensor, activation: Activation },
    Gated { gate: Tensor, up: Tensor, activations: [Activation; 2] },
}

impl Preactivations {
    fn into_branches(self) -> Vec<InsideBranch> {
        let branch = |name, activation, preactivation| InsideBranch { name, activation, preactivation };
        match self {
            Self::Ungated { up, activation } => vec![branch(BranchName::Up, activation, up)],
            Self::Gated { gate, up, activations: [of_gate, of_up] } => {
                vec![branch(BranchName::Gate, of_gate, gate), branch(BranchName::Up, of_up, up)]
            }
        }
    }

    /// Evaluated in the type of the tensors; half precision is widened inside.
    fn activate(&self, kernels: Kernels) -> Result<Tensor> {
        match self {
            Self::Ungated { up, activation } => match kernels.for_tensors(&[up]) {
                Kernels::Reference => activation.forward(up),
                Kernels::Portable => kernels::ungated(kernels, up, Arc::new(*activation)),
            },
            Self::Gated { gate, up, activations: [of_gate, of_up] } => {
                match kernels.for_tensors(&[gate, up]) {
                    Kernels::Reference => of_gate.forward(gate)? * of_up.forward(up)?,
                    Kernels::Portable => {
                        kernels::gated(kernels, gate, up, Arc::new(*of_gate), Arc::new(*of_up))
                    }
                }
            }
        }
    }

    /// Evaluated in `dtype`, every operation of the formula and of its derivative rounded to it; the result is given in
    /// the type of the tensors.
    fn activate_in(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Ungated { up, activation } => {
                activation.forward_in(&up.to_dtype(dtype)?)?.to_dtype(up.dtype())
            }
            Self::Gated { gate, up, activations: [of_gate, of_up] } => {
                let gated = of_gate.forward_in(&gate.to_dtype(dtype)?)?;
                (gated * of_up.forward_in(&up.to_dtype(dtype)?)?)?.to_dtype(up.dtype())
            }
        }
    }
}
