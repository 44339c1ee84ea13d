//! A feed-forward block with its widths settled, and what it costs.

use candle_core::Shape;

use crate::FfnKind;

/// A block whose kind and widths are known: enough to build it and to count it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FfnConfig {
    /// What happens between the projections.
    pub kind: FfnKind,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the hidden state, that is of each branch.
    pub d_ff: usize,
}

/// Floating-point operations of one forward pass over one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FfnFlops {
    /// In the matrix products: a multiplication and an addition per weight.
    pub matmul: u64,
    /// In the activations and the gate's product, as counted by
    /// [`Activation::flops_per_element`](crate::Activation::flops_per_element).
    pub elementwise: u64,
}

impl FfnFlops {
    /// Both parts together.
    pub fn total(&self) -> u64 {
        self.matmul + self.elementwise
    }
}

impl FfnConfig {
    /// The kind's name: a preset's where it equals one, else for example `gated(silu, tanh)`.
    pub fn name(&self) -> String {
        self.kind.to_string()
    }

    /// Name and shape (`[out, in]`) of every parameter, in the order a forward pass meets them.
    pub fn parameters(&self) -> Vec<(&'static str, Shape)> {
        let up = Shape::from((self.d_ff, self.d_model));
        let down = Shape::from((self.d_model, self.d_ff));
        let ungated = [("up_proj.weight", up.clone()), ("down_proj.weight", down)];
        match self.kind {
            FfnKind::Ungated { .. } => ungated.into(),
            FfnKind::Gated { .. } => [("gate_proj.weight", up)].into_iter().chain(ungated).collect(),
        }
    }

    /// Number of weights; there are no biases.
    pub fn num_params(&self) -> usize {
        self.kind.num_matrices() * self.d_model * self.d_ff
    }

    /// Operations of one forward pass over one token. A backward pass does twice the products again.
    pub fn flops_per_token(&self) -> FfnFlops {
        FfnFlops {
            matmul: 2 * self.num_params() as u64,
            elementwise: self.kind.flops_per_hidden_unit() * self.d_ff as u64,
        }
    }
}
