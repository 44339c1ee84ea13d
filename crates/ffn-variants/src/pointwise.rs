//! Every activation as `f32` loops for the fused kernels.
//!
//! One function per activation returns value and derivative of one element, without branches, so
//! that the compiler turns the loop around it into vector code; where only values are wanted it
//! drops the rest. For finite `x` both agree with the `f64` oracle to within 3 f32 epsilons of
//! `max(1, |exact|)`, and are finite wherever the exact ones fit an f32. Swish, whose exponent
//! `beta x` is rounded, may be off by `|beta x|` epsilons more (at most 40; then it is saturated).

use kernels::math::{erf, exp, sigmoid, softplus, tanh};
use kernels::{Pointwise, multiversion};

use crate::activation::{
    Activation, GELU_TANH_CUBIC, LEAKY_RELU_SLOPE, LEAKY_RELU_SQUARED_SLOPE, SELU_ALPHA, SELU_SCALE,
    SQRT_2_OVER_PI,
};

/// Expands to the loop `$each!(x => (value, derivative))` of the activation at hand.
///
/// A macro because a closure would not do: one above LLVM's inlining threshold, such as that of
/// GELU, would be called once per element, outside the instruction set that the loop is compiled for.
macro_rules! with_formula {
    ($activation:expr, $each:ident) => {
        match $activation {
            Activation::Identity => $each!(x => (x, 1.0)),
            Activation::Relu => $each!(x => relu(x)),
            Activation::LeakyRelu => $each!(x => leaky_relu(x, LEAKY_RELU_SLOPE as f32)),
            Activation::Relu6 => $each!(x => relu6(x)),
            Activation::Elu => $each!(x => elu(x, 1.0, 1.0)),
            Activation::Selu => $each!(x => elu(x, SELU_SCALE as f32, SELU_ALPHA as f32)),
            Activation::GeluErf => $each!(x => gelu_erf(x)),
            Activation::GeluTanh => $each!(x => gelu_tanh(x)),
            Activation::Silu => $each!(x => swish(x, 1.0)),
            Activation::Swish { beta } => $each!(x => swish(x, beta as f32)),
            Activation::Hardswish => $each!(x => hardswish(x)),
            Activation::Mish => $each!(x => mish(x)),
            Activation::Softplus => $each!(x => (softplus(x), sigmoid(x))),
            Activation::Sigmoid => $each!(x => sigmoid_and_slope(x)),
            Activation::Tanh => $each!(x => tanh_and_slope(x)),
            Activation::ReluSquared => $each!(x => square(relu(x))),
            Activation::LeakyReluSquared => {
                $each!(x => square(leaky_relu(x, LEAKY_RELU_SQUARED_SLOPE as f32)))
            }
        }
    };
}

impl Pointwise for Activation {
    fn value(&self, x: &[f32], y: &mut [f32]) {
        fill_value(*self, x, y);
    }

    fn value_and_derivative(&self, x: &[f32], y: &mut [f32], dydx: &mut [f32]) {
        fill_value_and_derivative(*self, x, y, dydx);
    }

    fn is_identity(&self) -> bool {
        matches!(self, Self::Identity)
    }
}

multiversion! {
    fn fill_value(activation: Activation, x: &[f32], y: &mut [f32]) {
        macro_rules! each {
            ($x:ident => $pair:expr) => {
                for (&$x, y) in x.iter().zip(y) {
                    *y = $pair.0;
                }
            };
        }
        with_formula!(activation, each)
    }

    fn fill_value_and_derivative(activation: Activation, x: &[f32], y: &mut [f32], dydx: &mut [f32]) {
        macro_rules! each {
            ($x:ident => $pair:expr) => {
                for ((&$x, y), dydx) in x.iter().zip(y).zip(dydx) {
                    (*y, *dydx) = $pair;
                }
            };
        }
        with_formula!(activation, each)
    }
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    // Asking for the negative side lets NaN through.
    let value = if x <= 0.0 { 0.0 } else { x };
    (value, if x <= 0.0 { 0.0 } else { 1.0 })
}

#[inline(always)]
fn leaky_relu(x: f32, slope: f32) -> (f32, f32) {
    let slope = if x <= 0.0 { slope } else { 1.0 };
    (slope * x, slope)
}

#[inline(always)]
fn relu6(x: f32) -> (f32, f32) {
    let (value, slope) = relu(x);
    let full = x >= 6.0;
    (if full { 6.0 } else { value }, if full { 0.0 } else { slope })
}

#[inline(always)]
fn elu(x: f32, scale: f32, alpha: f32) -> (f32, f32) {
    let e = alpha * exp(x);
    let (value, slope) = if x > 0.0 { (x, 1.0) } else { (e - alpha, e) };
    (scale * value, scale * slope)
}

/// `f^2` and `2 f f'`.
#[inline(always)]
fn square((value, slope): (f32, f32)) -> (f32, f32) {
    (value * value, 2.0 * value * slope)
}

#[inline(always)]
fn sigmoid_and_slope(x: f32) -> (f32, f32) {
    let e = exp(-x.abs());
    let r = 1.0 / (1.0 + e);
    (if x >= 0.0 { r } else { e * r }, e * r * r)
}

#[inline(always)]
fn tanh_and_slope(x: f32) -> (f32, f32) {
    let y = tanh(x);
    (y, (1.0 - y) * (1.0 + y))
}

/// `x g` and `g + x g'`, for a gate `g` that takes `x` as it is.
#[inline(always)]
fn times_gate(x: f32, (gate, slope): (f32, f32)) -> (f32, f32) {
    (x * gate, gate + x * slope)
}

#[inline(always)]
fn swish(x: f32, beta: f32) -> (f32, f32) {
    let (gate, slope) = sigmoid_and_slope(beta * x);
    times_gate(x, (gate, beta * slope))
}

#[inline(always)]
fn gelu_erf(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_2_PI: f32 = 0.398_942_3;
    let gate = 0.5 + 0.5 * erf(x * std::f32::consts::FRAC_1_SQRT_2);
    times_gate(x, (gate, FRAC_1_SQRT_2_PI * exp(-0.5 * x * x)))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const SCALE: f32 = 2.0 * SQRT_2_OVER_PI as f32;
    const CUBIC: f32 = GELU_TANH_CUBIC as f32;
    // At 30 the gate is shut or open for good; beyond, the cube would overflow.
    let bounded = if x > 30.0 { 30.0 } else { x };
    let bounded = if bounded < -30.0 { -30.0 } else { bounded };
    let square = bounded * bounded;
    // (1 + tanh(t / 2)) / 2 = sigmoid(t)
    let (gate, slope) = sigmoid_and_slope(SCALE * bounded * (1.0 + CUBIC * square));
    times_gate(x, (gate, slope * SCALE * (1.0 + 3.0 * CUBIC * square)))
}

#[inline(always)]
fn hardswish(x: f32) -> (f32, f32) {
    let inside = (x * (x * (1.0 / 6.0) + 0.5), x * (1.0 / 3.0) + 0.5);
    let (value, slope) = if x >= 3.0 { (x, 1.0) } else { inside };
    if x <= -3.0 { (0.0, 0.0) } else { (value, slope) }
}

/// With `e = exp(-|x|)` the gate `tanh(ln(1 + e^x))` is a ratio of sums of positive terms, and its
/// slope is `(1 - gate) (1 + gate) sigmoid(x)`.
#[inline(always)]
fn mish(x: f32) -> (f32, f32) {
    let e = exp(-x.abs());
    let positive = x >= 0.0;
    let numerator = if positive { 1.0 + 2.0 * e } else { e * (e + 2.0) };
    let rest = if positive { 2.0 * e * e } else { 2.0 };
    let r = 1.0 / (numerator + rest);
    let gate = numerator * r;
    let sigmoid = (if positive { 1.0 } else { e }) / (1.0 + e);
    times_gate(x, (gate, rest * r * (1.0 + gate) * sigmoid))
}
