//! What several tests of this crate share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use candle_core::{DType, Device, Result, Tensor, Var};
use ffn_variants::Activation;

/// Every activation, and Swish with the parameters that are special in some way.
pub fn activations() -> Vec<Activation> {
    let swishes = [-0.5, 0.0, 1e-12, 1.5, 1.702, Activation::MAX_BETA];
    let swishes = swishes.map(|beta| Activation::Swish { beta });
    Activation::ALL.into_iter().chain(swishes).collect()
}

/// Where the formula changes from one piece to another: finite differences must not straddle it.
pub fn joints(activation: Activation) -> &'static [f64] {
    match activation {
        Activation::Relu
        | Activation::LeakyRelu
        | Activation::Elu
        | Activation::Selu
        | Activation::ReluSquared
        | Activation::LeakyReluSquared => &[0.0],
        Activation::Relu6 => &[0.0, 6.0],
        Activation::Hardswish => &[-3.0, 3.0],
        Activation::Identity
        | Activation::GeluErf
        | Activation::GeluTanh
        | Activation::Silu
        | Activation::Swish { .. }
        | Activation::Mish
        | Activation::Softplus
        | Activation::Sigmoid
        | Activation::Tanh => &[],
    }
}

/// What a test has to know about a floating-point dtype.
#[derive(Debug, Clone, Copy)]
pub struct Float {
    pub dtype: DType,
    /// Distance from 1 to the next number.
    pub epsilon: f64,
    pub max: f64,
    pub min_normal: f64,
    pub min_subnormal: f64,
}

const fn float(dtype: DType, epsilon: f64, max: f64, min_normal: f64) -> Float {
    let min_subnormal = min_normal * epsilon;
    Float { dtype, epsilon, max, min_normal, min_subnormal }
}

/// The four dtypes that activations are defined for.
pub const FLOATS: [Float; 4] = [
    float(DType::F64, f64::EPSILON, f64::MAX, f64::MIN_POSITIVE),
    float(DType::F32, f32::EPSILON as f64, f32::MAX as f64, f32::MIN_POSITIVE as f64),
    float(DType::BF16, 1.0 / 128.0, 3.3895313892515355e38, f32::MIN_POSITIVE as f64),
    float(DType::F16, 1.0 / 1024.0, 65504.0, 1.0 / 16384.0),
];

impl Float {
    /// The dtype's corners, the kinks, both sides of every internal threshold, and a grid over the
    /// range where activations bend. Rounded to the dtype, so the oracle sees the same inputs.
    pub fn inputs(&self) -> Result<Vec<f64>> {
        let corners = [
            0.0,
            self.min_subnormal,
            self.min_normal,
            self.epsilon,
            1e-4,
            3.0,
            6.0,
            20.0,
            39.75,
            40.0,
            40.25,
            88.0,
            104.0,
            709.0,
            799.5,
            800.0,
            801.0,
            1e4,
            self.max.sqrt(),
            self.max / 2.0,
            self.max,
        ];
        let corners = corners.into_iter().flat_map(|x| [x, -x]);
        let grid = (-1200..=1200).map(|i| f64::from(i) / 100.0);
        let raw: Vec<f64> = corners.chain(grid).collect();
        let rounded = Tensor::new(raw, &Device::Cpu)?.to_dtype(self.dtype)?;
        rounded.to_dtype(DType::F64)?.to_vec1()
    }

    /// A vector of this dtype.
    pub fn tensor(&self, values: &[f64]) -> Result<Tensor> {
        Tensor::new(values, &Device::Cpu)?.to_dtype(self.dtype)
    }
}

/// The tensor's elements as f64, in row-major order.
pub fn values(x: &Tensor) -> Result<Vec<f64>> {
    x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

/// `f(x)` and the gradient of `sum(weight * f(x))` by autograd, both as f64.
pub fn value_and_gradient(
    x: &Tensor,
    weight: f64,
    f: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let x = Var::from_tensor(x)?;
    let y = f(&x)?;
    // A product rather than a sum, which bf16 and f16 would accumulate badly and could overflow.
    let gradients = (&y * weight)?.backward()?;
    let gradient = gradients.get(&x).expect("x takes part in y");
    Ok((values(&y)?, values(gradient)?))
}
