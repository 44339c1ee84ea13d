//! The Candle path of every activation: plain tensor operations that autograd differentiates.
//!
//! It is the reference that faster kernels are compared with, so it must be right where formulas
//! usually are not:
//!
//! - **Stable forms.** Exponentials only ever see `-|x|`; products `x * gate(x)` see a bounded `x`.
//! - **No poison from dead branches.** `where_cond` sends a zero into the branch it did not take,
//!   and `0 * inf` there would be NaN in the gradient. Every branch is finite for every input.
//! - **Kinks as in [`Activation::derivative_f64`]**, so Candle's `relu` (slope 1 at 0), `clamp` and
//!   `minimum` (half the gradient on a tie) are not used where a tie could be seen.
//! - **Half precision is storage.** bf16 and f16 are widened to f32, evaluated and rounded once, as
//!   PyTorch does; the gradient likewise. Only [`Activation::forward_in`] computes in them.

use std::f64::consts::FRAC_1_SQRT_2;

use candle_core::{DType, Result, Tensor, bail};

use crate::activation::{
    Activation, GELU_TANH_CUBIC, LEAKY_RELU_SLOPE, LEAKY_RELU_SQUARED_SLOPE, SELU_ALPHA, SELU_SCALE,
    SQRT_2_OVER_PI,
};

/// From here on every gate in this file is 1, and its slope times `x` is 0, to f64 precision.
const GATE_OPEN: f64 = 40.0;

/// Below minus this every gate in this file is 0 even among f64 subnormals.
const GATE_BOUND: f64 = 800.0;

impl Activation {
    /// Applies the function to every element; same shape and dtype as `x`, differentiable.
    ///
    /// Values and gradients are finite wherever the exact ones fit the dtype. NaN stays NaN.
    ///
    /// # Errors
    ///
    /// If `x` is not f32, f64, bf16 or f16, or if Candle fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        if matches!(dtype, DType::F32 | DType::F64) {
            self.evaluate(x)
        } else if matches!(dtype, DType::BF16 | DType::F16) {
            self.evaluate(&x.to_dtype(DType::F32)?)?.to_dtype(dtype)
        } else {
            bail!("activation {self} needs f32, f64, bf16 or f16, not {dtype:?}")
        }
    }

    /// As [`forward`](Activation::forward), but bf16 and f16 are not widened: every Candle operation of the
    /// formula, and of its derivative, rounds to the type of `x`. What that costs is the question that a recipe
    /// with `activation = "compute"` asks.
    ///
    /// # Errors
    ///
    /// If `x` is not f32, f64, bf16 or f16, or if Candle fails.
    pub fn forward_in(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        if !matches!(dtype, DType::F32 | DType::F64 | DType::BF16 | DType::F16) {
            bail!("activation {self} needs f32, f64, bf16 or f16, not {dtype:?}")
        }
        self.evaluate(x)
    }

    fn evaluate(&self, x: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Identity => Ok(x.clone()),
            Self::Relu => relu(x),
            Self::LeakyRelu => leaky_relu(x, LEAKY_RELU_SLOPE),
            Self::Relu6 => {
                let six = (x.zeros_like()? + 6.0)?;
                x.ge(6.0)?.where_cond(&six, &relu(x)?)
            }
            Self::Elu => elu(x, 1.0),
            Self::Selu => elu(x, SELU_ALPHA)? * SELU_SCALE,
            Self::GeluErf => times_gate(x, 1.0, |x| (x * FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5)),
            Self::GeluTanh => times_gate(x, 1.0, |x| {
                // (1 + tanh(t / 2)) / 2 = sigmoid(t)
                let inner = (x + (x.sqr()? * x)? * GELU_TANH_CUBIC)?;
                sigmoid(&(inner * (2.0 * SQRT_2_OVER_PI))?)
            }),
            Self::Silu => times_gate(x, 1.0, sigmoid),
            Self::Swish { beta } => times_gate(x, beta, |x| sigmoid(&(x * beta)?)),
            Self::Hardswish => hardswish(x),
            Self::Mish => times_gate(x, 1.0, mish_gate),
            Self::Softplus => softplus(x),
            Self::Sigmoid => sigmoid(x),
            Self::Tanh => x.tanh(),
            Self::ReluSquared => relu(x)?.sqr(),
            Self::LeakyReluSquared => leaky_relu(x, LEAKY_RELU_SQUARED_SLOPE)?.sqr(),
        }
    }
}

/// `max(x, 0)` with slope 0 at 0. Asking `x <= 0` rather than `x > 0` lets NaN through.
fn relu(x: &Tensor) -> Result<Tensor> {
    x.le(0.0)?.where_cond(&x.zeros_like()?, x)
}

fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    x.le(0.0)?.where_cond(&(x * slope)?, x)
}

/// `x` if positive, else `alpha (e^x - 1)`, with the left slope at 0.
fn elu(x: &Tensor, alpha: f64) -> Result<Tensor> {
    let positive = x.gt(0.0)?;
    // Zero instead of a large x in the branch that is not taken: no overflow to multiply by zero.
    let negative_part = positive.where_cond(&x.zeros_like()?, x)?;
    let below = ((negative_part.exp()? - 1.0)? * alpha)?;
    positive.where_cond(x, &below)
}

fn hardswish(x: &Tensor) -> Result<Tensor> {
    // The ties of the clamp lie in branches that are not taken.
    let inside = x.clamp(-3.0, 3.0)?;
    let parabola = (&inside * inside.affine(1.0 / 6.0, 0.5)?)?;
    let right = x.ge(3.0)?.where_cond(x, &parabola)?;
    x.le(-3.0)?.where_cond(&x.zeros_like()?, &right)
}

/// `x * gate(x)` for a gate that rises from 0 to 1 with `beta x`.
///
/// The gate is evaluated on a bounded `x`, where neither it nor its gradient can overflow. Beyond
/// the bound on one side the product is 0, and well before the bound on the other it is `x`.
fn times_gate(x: &Tensor, beta: f64, gate: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let bound = GATE_BOUND / beta.abs();
    let bounded = x.clamp(-bound, bound)?;
    let product = (&bounded * gate(&bounded)?)?;
    let open = (&bounded * beta)?.ge(GATE_OPEN)?;
    open.where_cond(x, &product)
}

/// `exp(-|x|)`, never above 1. Its slope at 0 is that of the right side.
fn exp_minus_abs(x: &Tensor) -> Result<Tensor> {
    x.abs()?.neg()?.exp()
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    let e = exp_minus_abs(x)?;
    let one_plus_e = (&e + 1.0)?;
    x.ge(0.0)?.where_cond(&one_plus_e.recip()?, &(e / one_plus_e)?)
}

/// `tanh(ln(1 + e^x))` as a ratio of sums of positive terms in `e = exp(-|x|)`.
fn mish_gate(x: &Tensor) -> Result<Tensor> {
    let e = exp_minus_abs(x)?;
    let e_squared = e.sqr()?;
    let positive = x.ge(0.0)?;
    let two = (e.zeros_like()? + 2.0)?;
    let numerator = positive.where_cond(&e.affine(2.0, 1.0)?, &(&e_squared + (&e * 2.0)?)?)?;
    let rest = positive.where_cond(&(e_squared * 2.0)?, &two)?;
    &numerator / (&numerator + rest)?
}

/// `max(x, 0) + ln(1 + exp(-|x|))`.
fn softplus(x: &Tensor) -> Result<Tensor> {
    // Slope 1 at 0 on purpose: together with the right slope of exp(-|x|) it makes 1/2.
    let positive_part = x.lt(0.0)?.where_cond(&x.zeros_like()?, x)?;
    positive_part + ln_one_plus(&exp_minus_abs(x)?)?
}

/// `ln(1 + e)` for `0 <= e <= 1`. The sum is rounded; what it lost, to first order in the loss,
/// comes back as `lost / (1 + e)`, so that tiny `e` are not dropped.
fn ln_one_plus(e: &Tensor) -> Result<Tensor> {
    let sum = (e + 1.0)?;
    let lost = (e - (&sum - 1.0)?)?;
    sum.log()? + (lost / &sum)?
}
