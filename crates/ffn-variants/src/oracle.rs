//! Values and derivatives in `f64`: the yardstick for everything that computes an activation.
//!
//! Written for accuracy in every corner of the domain (saturated, tiny, huge, infinite inputs), one
//! element at a time. `NaN` in gives `NaN` out.

use crate::activation::{
    Activation, GELU_TANH_CUBIC, LEAKY_RELU_SLOPE, LEAKY_RELU_SQUARED_SLOPE, SELU_ALPHA, SELU_SCALE,
    SQRT_2_OVER_PI,
};
use crate::normal::{normal_cdf, normal_pdf};

impl Activation {
    /// The function's value at `x`, to a few units in the last place; in a tail that decays like
    /// `exp(-t)`, to `t` of them.
    pub fn value_f64(&self, x: f64) -> f64 {
        match *self {
            Self::Identity => x,
            Self::Relu => relu(x),
            Self::LeakyRelu => leaky_relu(x, LEAKY_RELU_SLOPE),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Elu => elu(x, 1.0),
            Self::Selu => SELU_SCALE * elu(x, SELU_ALPHA),
            Self::GeluErf => scale(x, normal_cdf(x)),
            Self::GeluTanh => scale(x, sigmoid(gelu_tanh_argument(x))),
            Self::Silu => scale(x, sigmoid(x)),
            Self::Swish { beta } => scale(x, sigmoid(beta * x)),
            Self::Hardswish if x.is_infinite() => relu(x),
            Self::Hardswish => x * ((x + 3.0).clamp(0.0, 6.0) / 6.0),
            Self::Mish => scale(x, MishGate::at(x).value),
            Self::Softplus => relu(x) + exp_minus_abs(x).ln_1p(),
            Self::Sigmoid => sigmoid(x),
            Self::Tanh => x.tanh(),
            Self::ReluSquared => relu(x) * relu(x),
            Self::LeakyReluSquared => leaky_relu(x, LEAKY_RELU_SQUARED_SLOPE).powi(2),
        }
    }

    /// The derivative at `x`.
    ///
    /// At a kink the function has two slopes and this returns the outer, saturated side's:
    ///
    /// | activation | at | derivative |
    /// |---|---|---|
    /// | relu | 0 | 0 |
    /// | leaky_relu | 0 | 0.01 |
    /// | relu6 | 0 and 6 | 0 |
    /// | selu | 0 | 1.7581 = lambda alpha |
    /// | hardswish | -3 and 3 | 0 and 1 |
    ///
    /// That is PyTorch's choice too (for hardswish since its pull request 148049); Candle's own ReLU
    /// says 1 at 0. The other activations are differentiable everywhere.
    pub fn derivative_f64(&self, x: f64) -> f64 {
        if x.is_nan() {
            return x;
        }
        match *self {
            Self::Identity => 1.0,
            Self::Relu => step(x),
            Self::LeakyRelu if x > 0.0 => 1.0,
            Self::LeakyRelu => LEAKY_RELU_SLOPE,
            Self::Relu6 => step(x) * step(6.0 - x),
            Self::Elu => x.min(0.0).exp(),
            Self::Selu if x > 0.0 => SELU_SCALE,
            Self::Selu => SELU_SCALE * SELU_ALPHA * x.exp(),
            Self::GeluErf => normal_cdf(x) + scale(x, normal_pdf(x)),
            Self::GeluTanh => {
                let slope = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * GELU_TANH_CUBIC * x * x);
                let t = gelu_tanh_argument(x);
                // The sigmoid's slope wins long before the polynomial overflows.
                sigmoid(t) + scale(x, scale(slope, sigmoid_slope(t)))
            }
            Self::Silu => sigmoid(x) + scale(x, sigmoid_slope(x)),
            Self::Swish { beta } => sigmoid(beta * x) + scale(x, beta * sigmoid_slope(beta * x)),
            Self::Hardswish if x <= -3.0 => 0.0,
            Self::Hardswish if x >= 3.0 => 1.0,
            Self::Hardswish => x / 3.0 + 0.5,
            Self::Mish => {
                let gate = MishGate::at(x);
                gate.value + scale(x, gate.slope)
            }
            Self::Softplus => sigmoid(x),
            Self::Sigmoid => sigmoid_slope(x),
            // 1 - tanh(x)^2, which would cancel: tanh(x) = 2 sigmoid(2x) - 1.
            Self::Tanh => 4.0 * sigmoid_slope(2.0 * x),
            Self::ReluSquared => 2.0 * relu(x),
            Self::LeakyReluSquared if x > 0.0 => 2.0 * x,
            Self::LeakyReluSquared => 2.0 * LEAKY_RELU_SQUARED_SLOPE.powi(2) * x,
        }
    }
}

fn relu(x: f64) -> f64 {
    if x <= 0.0 { 0.0 } else { x }
}

fn step(x: f64) -> f64 {
    if x > 0.0 { 1.0 } else { 0.0 }
}

fn leaky_relu(x: f64, slope: f64) -> f64 {
    if x <= 0.0 { slope * x } else { x }
}

fn elu(x: f64, alpha: f64) -> f64 {
    if x <= 0.0 { alpha * x.exp_m1() } else { x }
}

fn exp_minus_abs(x: f64) -> f64 {
    (-x.abs()).exp()
}

fn sigmoid(x: f64) -> f64 {
    let e = exp_minus_abs(x);
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

fn sigmoid_slope(x: f64) -> f64 {
    let e = exp_minus_abs(x);
    e / ((1.0 + e) * (1.0 + e))
}

/// `x * gate` where a gate that vanished outweighs even an infinite `x`.
fn scale(x: f64, gate: f64) -> f64 {
    if gate == 0.0 { 0.0 } else { x * gate }
}

/// `t` with `(1 + tanh(t / 2)) / 2 = sigmoid(t)` in tanh-GELU.
fn gelu_tanh_argument(x: f64) -> f64 {
    2.0 * SQRT_2_OVER_PI * x * (1.0 + GELU_TANH_CUBIC * x * x)
}

/// Mish's gate `r = tanh(ln(1 + e^x))` and its slope `r' = (1 - r)(1 + r) sigmoid(x)`.
///
/// With `t = e^x` the gate is `t (t + 2) / (t (t + 2) + 2)`, a ratio of sums of positive terms;
/// dividing through by `t^2` for `x >= 0` keeps every power of `e = exp(-|x|)` bounded.
struct MishGate {
    value: f64,
    slope: f64,
}

impl MishGate {
    fn at(x: f64) -> Self {
        let e = exp_minus_abs(x);
        let (numerator, rest) = if x < 0.0 { (e * (e + 2.0), 2.0) } else { (1.0 + 2.0 * e, 2.0 * e * e) };
        let value = numerator / (numerator + rest);
        let complement = rest / (numerator + rest);
        Self { value, slope: complement * (1.0 + value) * sigmoid(x) }
    }
}
