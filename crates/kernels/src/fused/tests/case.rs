//! Blocks to be tested, and the compositions of single operations that define them.

use super::super::*;
use crate::testing::*;
use crate::{Kernels, Matrix, Observer, Pointwise, QuantizedLinear, Role};
use candle_core::Result;
use numerics::{Operand, Overflow, QuantSpec, RoundingMode, Scaling};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Functions that are as easily written for tensors.
#[derive(Clone, Copy, Debug)]
enum Function {
    /// x³
    Cube,
    /// 2 x + 1
    Line,
}

impl Function {
    fn of_tensor(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cube => x.sqr()? * x,
            Self::Line => (x * 2.0)? + 1.0,
        }
    }
}

impl Pointwise for Function {
    fn value(&self, x: &[f32], y: &mut [f32]) {
        for (&x, y) in x.iter().zip(y) {
            *y = match self {
                Self::Cube => x * x * x,
                Self::Line => 2.0 * x + 1.0,
            };
        }
    }

    fn value_and_derivative(&self, x: &[f32], y: &mut [f32], dydx: &mut [f32]) {
        self.value(x, y);
        for (&x, slope) in x.iter().zip(dydx) {
            *slope = match self {
                Self::Cube => 3.0 * x * x,
                Self::Line => 2.0,
            };
        }
    }
}

/// Counts what is not finite, and always draws the same bits.
#[derive(Debug, Default)]
pub(super) struct Counter {
    /// Whether operands are to be shown whole.
    pub(super) looks: bool,
    /// Operands that were shown whole.
    pub(super) shown: AtomicU64,
    /// Operands that went by in parts and were measured.
    pub(super) measured: AtomicU64,
    /// Values that were not finite, by role.
    pub(super) non_finite: [AtomicU64; 3],
}

impl Observer for Counter {
    fn delayed_scale(&self, _: Role, _: &QuantSpec) -> Option<f32> {
        Some(0.01)
    }

    fn key(&self, _: Role) -> u64 {
        7
    }

    fn looks(&self) -> bool {
        self.looks
    }

    fn passed(&self, role: Role, non_finite: u64) {
        self.non_finite[role as usize].fetch_add(non_finite, Ordering::Relaxed);
    }

    fn measured(&self, _: Role, _: &QuantSpec, _: f32) {
        self.measured.fetch_add(1, Ordering::Relaxed);
    }

    fn quantised(&self, role: Role, _: Matrix<'_>, _: &QuantSpec, operand: &Operand) {
        self.shown.fetch_add(1, Ordering::Relaxed);
        self.passed(role, operand.non_finite);
    }
}

/// How the products of a block under test are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipe {
    /// In f32.
    Full,
    /// int8 operands by row, gradients in bf16, bf16 between operations and in the residual stream.
    Int8,
    /// E4M3 operands and E5M2 gradients with a scale a tensor, bf16 between operations.
    Current,
    /// The same with scales that are known before.
    Delayed,
    /// E4M3 in blocks of 32, bf16 between operations.
    Mx,
    /// E2M1 in blocks of 16 under a scale of the tensor, gradients rounded at random.
    Nvfp4,
    /// Ternary weights, int8 inputs by row, gradients in bf16.
    Ternary,
    /// bf16 throughout.
    Bf16,
    /// bf16 between operations, E4M3 inputs and weights of the down and output projections, without scales.
    Mixed,
    /// TF32 operands, and f32.
    Tf32,
}

/// What a block under test has.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) gated: bool,
    pub(super) sub_norm: bool,
    pub(super) recipe: Recipe,
    pub(super) counter: Arc<Counter>,
}

pub(super) const EPS: f64 = 1e-5;
const SCALE: f64 = 0.4;

/// Which projection of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Inward,
    Outward,
}

impl Case {
    /// A gated block.
    pub(super) fn new(recipe: Recipe) -> Self {
        Self { gated: true, sub_norm: false, recipe, counter: Arc::default() }
    }

    pub(super) fn all(recipe: Recipe) -> impl Iterator<Item = Self> {
        let with = move |gated| [false, true].map(|sub_norm| Self { gated, sub_norm, ..Self::new(recipe) });
        [false, true].into_iter().flat_map(with)
    }

    pub(super) fn formats(&self) -> Formats {
        match self.recipe {
            Recipe::Full | Recipe::Tf32 => Formats::FULL,
            Recipe::Int8 | Recipe::Bf16 | Recipe::Mx | Recipe::Nvfp4 | Recipe::Ternary => {
                Formats { compute: NumericFormat::Bf16, residual: NumericFormat::Bf16 }
            }
            Recipe::Mixed | Recipe::Current | Recipe::Delayed => {
                Formats { compute: NumericFormat::Bf16, residual: NumericFormat::Fp32 }
            }
        }
    }

    fn how(&self, place: Place) -> Option<QuantizedLinear> {
        let plain = QuantSpec::unscaled;
        let bf16 = plain(NumericFormat::Bf16);
        let scaled = |format, scaling| QuantSpec { scaling, overflow: Overflow::Saturate, ..plain(format) };
        let [input, weight, grad] = match self.recipe {
            Recipe::Full => return None,
            Recipe::Int8 => {
                let int8 = QuantSpec { scaling: Scaling::Row, ..plain(NumericFormat::Int8) };
                [int8, int8, bf16]
            }
            Recipe::Current | Recipe::Delayed => {
                let delayed = Scaling::Delayed { history: 4, margin: 0 };
                let scaling = if self.recipe == Recipe::Current { Scaling::Tensor } else { delayed };
                let e4m3 = scaled(NumericFormat::E4m3, scaling);
                [e4m3, e4m3, scaled(NumericFormat::E5m2, scaling)]
            }
            Recipe::Mx => [scaled(NumericFormat::E4m3, Scaling::Mx); 3],
            Recipe::Nvfp4 => {
                let lines = scaled(NumericFormat::E2m1, Scaling::Nvfp4);
                let grad = QuantSpec { rounding: RoundingMode::Stochastic, ..lines };
                [lines, scaled(NumericFormat::E2m1, Scaling::Nvfp4Weight), grad]
            }
            Recipe::Ternary => {
                let int8 = scaled(NumericFormat::Int8, Scaling::Row);
                [int8, scaled(NumericFormat::Ternary, Scaling::Absmean), bf16]
            }
            Recipe::Mixed if place == Place::Outward => {
                let e4m3 = QuantSpec { overflow: Overflow::Saturate, ..plain(NumericFormat::E4m3) };
                [e4m3, e4m3, bf16]
            }
            Recipe::Bf16 | Recipe::Mixed => [bf16; 3],
            Recipe::Tf32 => [plain(NumericFormat::Tf32); 3],
        };
        let (output, observer) = (self.formats().compute, self.counter.clone());
        Some(QuantizedLinear { input, weight, grad, output, smooth: false, observer })
    }

    fn projection(&self, weight: &Tensor, place: Place) -> Projection {
        Projection { weight: weight.clone(), low: self.how(place) }
    }

    fn linear(&self, kernels: Kernels, x: &Tensor, w: &Tensor, place: Place) -> Result<Tensor> {
        match self.how(place) {
            None => crate::linear(kernels, x, w),
            Some(how) => crate::quantized_linear(kernels, x, w, how),
        }
    }

    fn round(&self, kernels: Kernels, x: &Tensor) -> Result<Tensor> {
        crate::round(kernels, x, self.formats().compute)
    }

    fn norm(&self, kernels: Kernels, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        self.round(kernels, &crate::rms_norm(kernels, x, w, EPS)?)
    }

    /// x, norm, gate, up, norm before down, down.
    pub(super) fn ffn_inputs(&self, leading: &[usize], d: usize, d_ff: usize) -> Result<Vec<Tensor>> {
        let x = random(1, [leading, &[d]].concat())?;
        let mut inputs = vec![x, random(2, d)?];
        if self.gated {
            inputs.push(random(3, (d_ff, d))?);
        }
        inputs.push(random(4, (d_ff, d))?);
        if self.sub_norm {
            inputs.push(random(5, d_ff)?);
        }
        inputs.push(random(6, (d, d_ff))?);
        Ok(inputs)
    }

    pub(super) fn ffn_block(&self, inputs: &[Tensor]) -> FfnBlock {
        let mut inputs = inputs[1..].iter();
        let mut next = || inputs.next().expect("as many inputs as the case has");
        let norm = |weight: &Tensor| Norm { weight: weight.clone(), eps: EPS };
        let branch = |w: &Tensor, f: Function| Branch {
            projection: self.projection(w, Place::Inward),
            function: Arc::new(f),
        };
        FfnBlock {
            norm: norm(next()),
            gate: self.gated.then(|| branch(next(), Function::Cube)),
            up: branch(next(), Function::Line),
            sub_norm: self.sub_norm.then(|| norm(next())),
            down: self.projection(next(), Place::Outward),
            formats: self.formats(),
        }
    }

    pub(super) fn ffn(&self, fused: Option<Saving>, kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        let (x, block) = (&inputs[0], self.ffn_block(inputs));
        if let Some(saving) = fused {
            return block.forward(x, saving);
        }
        let n = self.norm(kernels, x, &block.norm.weight)?;
        let through = |branch: &Branch| self.linear(kernels, &n, &branch.projection.weight, Place::Inward);
        let mut hidden = Function::Line.of_tensor(&through(&block.up)?)?;
        if let Some(gate) = &block.gate {
            hidden = (hidden * Function::Cube.of_tensor(&through(gate)?)?)?;
        }
        let mut hidden = self.round(kernels, &hidden)?;
        if let Some(norm) = &block.sub_norm {
            hidden = self.norm(kernels, &hidden, &norm.weight)?;
        }
        self.round(kernels, &(x + self.linear(kernels, &hidden, &block.down.weight, Place::Outward)?)?)
    }

    /// x, norm, q, k, v, norm before o, o.
    pub(super) fn attention_inputs(&self, [b, t, h, d_head]: [usize; 4]) -> Result<Vec<Tensor>> {
        let d = h * d_head;
        let mut inputs = vec![random(1, (b, t, d))?, random(2, d)?];
        for seed in [3, 4, 5] {
            inputs.push(random(seed, (d, d))?);
        }
        if self.sub_norm {
            inputs.push(random(6, d)?);
        }
        inputs.push(random(7, (d, d))?);
        Ok(inputs)
    }

    pub(super) fn attention_block(&self, h: usize, inputs: &[Tensor]) -> Result<AttentionBlock> {
        let (_, t, d) = inputs[0].dims3()?;
        let angles = (random(8, (t, d / h / 2))? * 3.0)?.to_dtype(inputs[0].dtype())?;
        let norm = |weight: &Tensor| Norm { weight: weight.clone(), eps: EPS };
        Ok(AttentionBlock {
            norm: norm(&inputs[1]),
            qkv: std::array::from_fn(|i| self.projection(&inputs[2 + i], Place::Inward)),
            sub_norm: self.sub_norm.then(|| norm(&inputs[5])),
            o: self.projection(&inputs[inputs.len() - 1], Place::Outward),
            rotary: [angles.cos()?, angles.sin()?],
            n_head: h,
            scale: SCALE,
            formats: self.formats(),
        })
    }

    pub(super) fn attention(
        &self,
        fused: Option<Saving>,
        kernels: Kernels,
        h: usize,
        inputs: &[Tensor],
    ) -> Result<Tensor> {
        let (x, block) = (&inputs[0], self.attention_block(h, inputs)?);
        if let Some(saving) = fused {
            return block.forward(x, saving);
        }
        let (b, t, d) = x.dims3()?;
        let [cos, sin] = &block.rotary;
        let n = self.norm(kernels, x, &block.norm.weight)?;
        let heads = |i: usize| {
            self.linear(kernels, &n, &block.qkv[i].weight, Place::Inward)?.reshape((b, t, h, d / h))
        };
        let rotated = |i| self.round(kernels, &crate::rope(kernels, &heads(i)?, cos, sin)?);
        let qkv = [rotated(0)?, rotated(1)?, heads(2)?];
        let format = self.formats().compute;
        let y = crate::causal_attention(kernels, &qkv[0], &qkv[1], &qkv[2], SCALE, format)?;
        let mut y = self.round(kernels, &y)?.reshape((b, t, d))?;
        if let Some(norm) = &block.sub_norm {
            y = self.norm(kernels, &y, &norm.weight)?;
        }
        self.round(kernels, &(x + self.linear(kernels, &y, &block.o.weight, Place::Outward)?)?)
    }

    /// The loss of x, norm and head.
    pub(super) fn head_loss(
        &self,
        fused: bool,
        kernels: Kernels,
        inputs: &[Tensor],
        targets: &Tensor,
    ) -> Result<Tensor> {
        let [x, norm, head] = inputs else { panic!("x, norm and head") };
        if fused {
            let head = self.projection(head, Place::Inward);
            assert!(HeadLoss::takes(&head));
            let norm = Norm { weight: norm.clone(), eps: EPS };
            return HeadLoss { norm, head, formats: self.formats() }.forward(x, targets);
        }
        let logits = self.linear(kernels, &self.norm(kernels, x, norm)?, head, Place::Inward)?;
        crate::cross_entropy(kernels, &logits, targets)
    }
}
