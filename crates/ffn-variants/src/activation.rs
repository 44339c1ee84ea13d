//! The closed set of activation functions.
//!
//! An [`Activation`] is only a name for a formula. What it computes lives beside it, once per use:
//! the `f64` oracle that tests compare against (`oracle`), the differentiable Candle reference
//! (`reference`) and the fused `f32` loops (`pointwise`). Gating is not an activation: it is a kind
//! of feed-forward block (see [`FfnKind`](crate::FfnKind)).

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// A scalar function applied to every element of a pre-activation.
///
/// In a configuration file it is written by its [`name`](Activation::name), for example
/// `activation = "gelu_erf"`. Swish may carry its parameter: `{ swish = { beta = 1.5 } }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x`: no activation, the linear branch of a bilinear or GLU-style block.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// ReLU with slope 0.01 on the negative side.
    LeakyRelu,
    /// ReLU capped at 6.
    Relu6,
    /// Exponential linear unit with alpha 1.
    Elu,
    /// Scaled ELU, whose constants make activations self-normalising.
    Selu,
    /// GELU in its exact form, `x Phi(x)` with the normal distribution's `Phi`.
    GeluErf,
    /// GELU in the tanh approximation.
    GeluTanh,
    /// `x sigmoid(x)`, which is Swish with beta 1.
    Silu,
    /// `x sigmoid(beta x)` with a fixed beta.
    Swish {
        /// Steepness: 0 gives `x / 2`, large values approach ReLU. Finite, at most 1000 in size.
        beta: f64,
    },
    /// The piecewise quadratic stand-in for SiLU.
    Hardswish,
    /// `x tanh(softplus(x))`.
    Mish,
    /// `ln(1 + exp(x))`.
    Softplus,
    /// The logistic function.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)^2`.
    ReluSquared,
    /// The square of a leaky ReLU with slope 0.5, positive on both sides.
    LeakyReluSquared,
}

/// Slope of [`Activation::LeakyRelu`] for negative inputs (PyTorch's default).
pub(crate) const LEAKY_RELU_SLOPE: f64 = 0.01;

/// Slope inside [`Activation::LeakyReluSquared`]. Public speed-runs write the function as
/// `leaky_relu(x, 0.5)^2`: pull request 249 of KellerJordan/modded-nanogpt, which takes it from
/// openai/parameter-golf.
pub(crate) const LEAKY_RELU_SQUARED_SLOPE: f64 = 0.5;

/// `lambda` of SELU (Klambauer et al. 2017, section 2).
pub(crate) const SELU_SCALE: f64 = 1.050_700_987_355_480_5;

/// `alpha` of SELU (Klambauer et al. 2017, section 2).
pub(crate) const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;

/// Coefficient of the cubic term in tanh-GELU (Hendrycks & Gimpel 2016, section 2).
pub(crate) const GELU_TANH_CUBIC: f64 = 0.044715;

/// `sqrt(2 / pi)`, the scale inside tanh-GELU.
pub(crate) const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

impl Activation {
    /// Beta of Swish where none is given. Swish with this beta is [`Activation::Silu`].
    pub const DEFAULT_BETA: f64 = 1.0;

    /// Largest size of Swish's beta that is accepted. Beyond it Swish is ReLU to single precision.
    pub const MAX_BETA: f64 = 1000.0;

    /// Every activation, in the order of the enum; Swish with its default beta.
    pub const ALL: [Self; 17] = [
        Self::Identity,
        Self::Relu,
        Self::LeakyRelu,
        Self::Relu6,
        Self::Elu,
        Self::Selu,
        Self::GeluErf,
        Self::GeluTanh,
        Self::Silu,
        Self::Swish { beta: Self::DEFAULT_BETA },
        Self::Hardswish,
        Self::Mish,
        Self::Softplus,
        Self::Sigmoid,
        Self::Tanh,
        Self::ReluSquared,
        Self::LeakyReluSquared,
    ];

    /// The name used in configuration files. [`Display`](fmt::Display) adds Swish's beta to it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::LeakyRelu => "leaky_relu",
            Self::Relu6 => "relu6",
            Self::Elu => "elu",
            Self::Selu => "selu",
            Self::GeluErf => "gelu_erf",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
            Self::Swish { .. } => "swish",
            Self::Hardswish => "hardswish",
            Self::Mish => "mish",
            Self::Softplus => "softplus",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::ReluSquared => "relu_squared",
            Self::LeakyReluSquared => "leaky_relu_squared",
        }
    }

    /// The definition on one line, in ordinary arithmetic (`a if c else b` selects).
    ///
    /// Constants are printed to six digits; a test evaluates this text and compares it with
    /// [`value_f64`](Activation::value_f64).
    pub fn formula(&self) -> &'static str {
        match self {
            Self::Identity => "x",
            Self::Relu => "max(x, 0)",
            Self::LeakyRelu => "max(x, 0.01 * x)",
            Self::Relu6 => "min(max(x, 0), 6)",
            Self::Elu => "x if x > 0 else exp(x) - 1",
            Self::Selu => "1.050701 * (x if x > 0 else 1.673263 * (exp(x) - 1))",
            Self::GeluErf => "x * (1 + erf(x / 1.414214)) / 2",
            Self::GeluTanh => "x * (1 + tanh(0.797885 * (x + 0.044715 * x^3))) / 2",
            Self::Silu => "x / (1 + exp(-x))",
            Self::Swish { .. } => "x / (1 + exp(-beta * x))",
            Self::Hardswish => "x * min(max(x + 3, 0), 6) / 6",
            Self::Mish => "x * tanh(ln(1 + exp(x)))",
            Self::Softplus => "ln(1 + exp(x))",
            Self::Sigmoid => "1 / (1 + exp(-x))",
            Self::Tanh => "tanh(x)",
            Self::ReluSquared => "max(x, 0)^2",
            Self::LeakyReluSquared => "max(x, 0.5 * x)^2",
        }
    }

    /// Where the function comes from: authors, year and arXiv number where there is one.
    pub fn source(&self) -> &'static str {
        match self {
            Self::Identity => "Dauphin et al. 2016, arXiv 1612.08083 (bilinear layer)",
            Self::Relu => "Nair & Hinton 2010, ICML",
            Self::LeakyRelu => "Maas et al. 2013, ICML",
            Self::Relu6 => "Krizhevsky 2010, Convolutional Deep Belief Networks on CIFAR-10",
            Self::Elu => "Clevert et al. 2015, arXiv 1511.07289",
            Self::Selu => "Klambauer et al. 2017, arXiv 1706.02515",
            Self::GeluErf | Self::GeluTanh => "Hendrycks & Gimpel 2016, arXiv 1606.08415",
            Self::Silu => "Elfwing et al. 2017, arXiv 1702.03118",
            Self::Swish { .. } => "Ramachandran et al. 2017, arXiv 1710.05941",
            Self::Hardswish => "Howard et al. 2019, arXiv 1905.02244",
            Self::Mish => "Misra 2019, arXiv 1908.08681",
            Self::Softplus => "Dugas et al. 2000, NIPS",
            Self::Sigmoid => "Rumelhart et al. 1986, Nature 323",
            Self::Tanh => "LeCun et al. 1998, Efficient BackProp",
            Self::ReluSquared => "So et al. 2021, arXiv 2109.08668",
            Self::LeakyReluSquared => "modded-nanogpt pull request 249, 2026 (slope 0.5)",
        }
    }

    /// Whether the function is zero, and flat, on a whole interval, so that a unit can be dead: zero for every input
    /// and without a gradient that would bring it back. The others are zero at single points at most (and where an
    /// f32 underflows).
    pub fn can_die(&self) -> bool {
        match self {
            Self::Relu | Self::Relu6 | Self::Hardswish | Self::ReluSquared => true,
            Self::Identity
            | Self::LeakyRelu
            | Self::Elu
            | Self::Selu
            | Self::GeluErf
            | Self::GeluTanh
            | Self::Silu
            | Self::Swish { .. }
            | Self::Mish
            | Self::Softplus
            | Self::Sigmoid
            | Self::Tanh
            | Self::LeakyReluSquared => false,
        }
    }

    /// Operations per element of one forward evaluation.
    ///
    /// The convention: every operation *as printed by* [`formula`](Activation::formula) counts 1,
    /// be it `+ - * /`, a sign change, `min`, `max`, an `if`, or one of `exp ln tanh erf`; a power
    /// `x^n` counts the `n - 1` products it stands for. It is bookkeeping, not time: an `exp` costs
    /// as much as several products.
    pub fn flops_per_element(&self) -> u64 {
        match self {
            Self::Identity => 0,
            Self::Relu | Self::Tanh => 1,
            Self::LeakyRelu | Self::Relu6 | Self::ReluSquared => 2,
            Self::Elu | Self::Softplus | Self::LeakyReluSquared => 3,
            Self::Silu | Self::Sigmoid => 4,
            Self::Selu | Self::GeluErf | Self::Swish { .. } | Self::Hardswish | Self::Mish => 5,
            Self::GeluTanh => 9,
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Swish { beta } => write!(f, "(beta={beta})"),
            Self::Identity
            | Self::Relu
            | Self::LeakyRelu
            | Self::Relu6
            | Self::Elu
            | Self::Selu
            | Self::GeluErf
            | Self::GeluTanh
            | Self::Silu
            | Self::Hardswish
            | Self::Mish
            | Self::Softplus
            | Self::Sigmoid
            | Self::Tanh
            | Self::ReluSquared
            | Self::LeakyReluSquared => Ok(()),
        }
    }
}
