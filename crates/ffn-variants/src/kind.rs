//! The two shapes of a feed-forward block, and the published blocks by name.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Activation;

/// What happens between the projections of a feed-forward block.
///
/// One product of two activated branches covers every gated block in the literature: GLU, GTU,
/// bilinear, ReGLU, GEGLU, SwiGLU, dReLU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FfnKind {
    /// `activation(x W_up) W_down`: two matrices.
    Ungated {
        /// Applied to the up projection.
        activation: Activation,
    },
    /// `(gate(x W_gate) * up(x W_up)) W_down`: three matrices.
    Gated {
        /// Applied to the gate projection.
        gate: Activation,
        /// Applied to the up projection; the identity in most published blocks.
        up: Activation,
    },
}

impl FfnKind {
    /// How many `d_model` x `d_ff` matrices a block of this kind has.
    pub fn num_matrices(&self) -> usize {
        match self {
            Self::Ungated { .. } => 2,
            Self::Gated { .. } => 3,
        }
    }

    /// The block as a formula, for example `(silu(x W_gate) * (x W_up)) W_down`.
    pub fn formula(&self) -> String {
        let branch = |activation: &Activation, weight: &str| match activation {
            Activation::Identity => format!("(x {weight})"),
            activation => format!("{activation}(x {weight})"),
        };
        match self {
            Self::Ungated { activation } => format!("{} W_down", branch(activation, "W_up")),
            Self::Gated { gate, up } => {
                format!("({} * {}) W_down", branch(gate, "W_gate"), branch(up, "W_up"))
            }
        }
    }

    /// Elementwise operations per hidden unit and token: the activations, and a gate's product.
    /// Counted as [`Activation::flops_per_element`] says.
    pub fn flops_per_hidden_unit(&self) -> u64 {
        match self {
            Self::Ungated { activation } => activation.flops_per_element(),
            Self::Gated { gate, up } => gate.flops_per_element() + up.flops_per_element() + 1,
        }
    }
}

/// The preset's name where there is one, else the kind and its activations: `gated(silu, tanh)`.
impl fmt::Display for FfnKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(preset) = FfnPreset::of(self) {
            return f.write_str(preset.name());
        }
        match self {
            Self::Ungated { activation } => write!(f, "ungated({activation})"),
            Self::Gated { gate, up } => write!(f, "gated({gate}, {up})"),
        }
    }
}

/// A published feed-forward block, or the obvious gated form of a published activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FfnPreset {
    /// Two matrices around a ReLU: the original Transformer's block.
    Relu,
    /// Two matrices around exact GELU (`gelu_erf`, Shazeer's `x Phi(x)`).
    Gelu,
    /// Two matrices around SiLU, that is Swish with beta 1.
    Swish,
    /// Two matrices around hard Swish.
    Hardswish,
    /// Two matrices around Mish.
    Mish,
    /// Two matrices around a squared ReLU.
    ReluSquared,
    /// Gated linear unit: a sigmoid gate.
    Glu,
    /// Gated tanh unit: a sigmoid gate on a tanh branch.
    Gtu,
    /// A product of two linear branches.
    Bilinear,
    /// A ReLU gate.
    Reglu,
    /// A gate of exact GELU (`gelu_erf`).
    Geglu,
    /// A SiLU gate.
    Swiglu,
    /// ReLU on both branches.
    Drelu,
    /// A squared-ReLU gate.
    ReluSquaredGlu,
    /// A Mish gate.
    MishGlu,
    /// A hard-Swish gate.
    HardswishGlu,
}

impl FfnPreset {
    /// Every preset: ungated blocks first, then gated ones, older before newer.
    pub const ALL: [Self; 16] = [
        Self::Relu,
        Self::Gelu,
        Self::Swish,
        Self::Hardswish,
        Self::Mish,
        Self::ReluSquared,
        Self::Glu,
        Self::Gtu,
        Self::Bilinear,
        Self::Reglu,
        Self::Geglu,
        Self::Swiglu,
        Self::Drelu,
        Self::ReluSquaredGlu,
        Self::MishGlu,
        Self::HardswishGlu,
    ];

    /// The name used in configuration files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Swish => "swish",
            Self::Hardswish => "hardswish",
            Self::Mish => "mish",
            Self::ReluSquared => "relu_squared",
            Self::Glu => "glu",
            Self::Gtu => "gtu",
            Self::Bilinear => "bilinear",
            Self::Reglu => "reglu",
            Self::Geglu => "geglu",
            Self::Swiglu => "swiglu",
            Self::Drelu => "drelu",
            Self::ReluSquaredGlu => "relu_squared_glu",
            Self::MishGlu => "mish_glu",
            Self::HardswishGlu => "hardswish_glu",
        }
    }

    /// What the preset stands for.
    pub fn kind(&self) -> FfnKind {
        let ungated = |activation| FfnKind::Ungated { activation };
        let gated = |gate, up| FfnKind::Gated { gate, up };
        match self {
            Self::Relu => ungated(Activation::Relu),
            Self::Gelu => ungated(Activation::GeluErf),
            Self::Swish => ungated(Activation::Silu),
            Self::Hardswish => ungated(Activation::Hardswish),
            Self::Mish => ungated(Activation::Mish),
            Self::ReluSquared => ungated(Activation::ReluSquared),
            Self::Glu => gated(Activation::Sigmoid, Activation::Identity),
            Self::Gtu => gated(Activation::Sigmoid, Activation::Tanh),
            Self::Bilinear => gated(Activation::Identity, Activation::Identity),
            Self::Reglu => gated(Activation::Relu, Activation::Identity),
            Self::Geglu => gated(Activation::GeluErf, Activation::Identity),
            Self::Swiglu => gated(Activation::Silu, Activation::Identity),
            Self::Drelu => gated(Activation::Relu, Activation::Relu),
            Self::ReluSquaredGlu => gated(Activation::ReluSquared, Activation::Identity),
            Self::MishGlu => gated(Activation::Mish, Activation::Identity),
            Self::HardswishGlu => gated(Activation::Hardswish, Activation::Identity),
        }
    }

    /// The preset that stands for this kind, if there is one.
    pub fn of(kind: &FfnKind) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.kind() == *kind)
    }

    /// [`FfnKind::formula`] of what the preset stands for.
    pub fn formula(&self) -> String {
        self.kind().formula()
    }

    /// Where the block was proposed for Transformers (or, for GLU and GTU, first used): authors,
    /// year, arXiv number.
    pub fn source(&self) -> &'static str {
        match self {
            Self::Relu => "Vaswani et al. 2017, arXiv 1706.03762",
            Self::Gelu | Self::Swish => "Shazeer 2020, arXiv 2002.05202 (as an ungated baseline)",
            Self::Bilinear | Self::Reglu | Self::Geglu | Self::Swiglu => "Shazeer 2020, arXiv 2002.05202",
            Self::Hardswish => "activation of Howard et al. 2019, arXiv 1905.02244",
            Self::Mish => "activation of Misra 2019, arXiv 1908.08681",
            Self::ReluSquared => "So et al. 2021, arXiv 2109.08668",
            Self::Glu => "Dauphin et al. 2016, arXiv 1612.08083",
            Self::Gtu => "van den Oord et al. 2016, arXiv 1606.05328",
            Self::Drelu => "Song et al. 2024, arXiv 2406.05955",
            Self::ReluSquaredGlu => "Ma et al. 2025, arXiv 2504.12285 (BitNet b1.58 2B4T)",
            Self::MishGlu => "Shazeer 2020 with the activation of Misra 2019, arXiv 1908.08681",
            Self::HardswishGlu => "Shazeer 2020 with the activation of Howard et al. 2019, arXiv 1905.02244",
        }
    }
}

impl fmt::Display for FfnPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
