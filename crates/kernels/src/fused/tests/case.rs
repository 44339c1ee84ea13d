//! Blocks to be tested, and the compositions of single operations that define them.

use super::super::*;
use crate::testing::*;
use crate::{Kernels, Matrix, Observer, Pointwise, QuantizedLinear, Role};
use candle_core::Result;
use numerics::{Operand, QuantSpec, Scaling};
use std::sync::Arc;

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

/// Keeps nothing, and always draws the same bits.
#[derive(Debug)]
struct Deaf;

impl Observer for Deaf {
    fn delayed_scale(&self, _: Role, _: &QuantSpec) -> Option<f32> {
        None
    }

    fn key(&self, _: Role) -> u64 {
        7
    }

    fn quantised(&self, _: Role, _: Matrix<'_>, _: &QuantSpec, _: &Operand) {}
}

/// What a block under test has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) gated: bool,
    pub(super) sub_norm: bool,
    /// int8 operands by row, bf16 between operations.
    pub(super) low: bool,
}

pub(super) const EPS: f64 = 1e-5;
const SCALE: f64 = 0.4;

impl Case {
    pub(super) const FULL: Self = Self { gated: true, sub_norm: false, low: false };

    pub(super) fn all(low: bool) -> impl Iterator<Item = Self> {
        let with = move |gated| [false, true].map(|sub_norm| Self { gated, sub_norm, low });
        [false, true].into_iter().flat_map(with)
    }

    pub(super) fn formats(self) -> Formats {
        let format = if self.low { NumericFormat::Bf16 } else { NumericFormat::Fp32 };
        Formats { compute: format, residual: format }
    }

    fn how(self) -> Option<QuantizedLinear> {
        let int8 = QuantSpec { scaling: Scaling::Row, ..QuantSpec::unscaled(NumericFormat::Int8) };
        self.low.then(|| QuantizedLinear {
            input: int8,
            weight: int8,
            grad: QuantSpec::unscaled(NumericFormat::Bf16),
            output: NumericFormat::Bf16,
            smooth: false,
            observer: Arc::new(Deaf),
        })
    }

    pub(super) fn projection(self, weight: &Tensor) -> Projection {
        Projection { weight: weight.clone(), low: self.how() }
    }

    fn linear(self, kernels: Kernels, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        match self.how() {
            None => crate::linear(kernels, x, w),
            Some(how) => crate::quantized_linear(kernels, x, w, how),
        }
    }

    fn round(self, kernels: Kernels, x: &Tensor) -> Result<Tensor> {
        crate::round(kernels, x, self.formats().compute)
    }

    fn norm(self, kernels: Kernels, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        self.round(kernels, &crate::rms_norm(kernels, x, w, EPS)?)
    }

    /// x, norm, gate, up, norm before down, down.
    pub(super) fn ffn_inputs(self, leading: &[usize], d: usize, d_ff: usize) -> Result<Vec<Tensor>> {
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

    pub(super) fn ffn_block(self, inputs: &[Tensor]) -> FfnBlock {
        let mut inputs = inputs[1..].iter();
        let mut next = || inputs.next().expect("as many inputs as the case has");
        let norm = |weight: &Tensor| Norm { weight: weight.clone(), eps: EPS };
        let branch =
            |w: &Tensor, f: Function| Branch { projection: self.projection(w), function: Arc::new(f) };
        FfnBlock {
            norm: norm(next()),
            gate: self.gated.then(|| branch(next(), Function::Cube)),
            up: branch(next(), Function::Line),
            sub_norm: self.sub_norm.then(|| norm(next())),
            down: self.projection(next()),
            formats: self.formats(),
        }
    }

    pub(super) fn ffn(self, fused: Option<Saving>, kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        let (x, block) = (&inputs[0], self.ffn_block(inputs));
        if let Some(saving) = fused {
            return block.forward(x, saving);
        }
        let n = self.norm(kernels, x, &block.norm.weight)?;
        let through = |branch: &Branch| self.linear(kernels, &n, &branch.projection.weight);
        let mut hidden = Function::Line.of_tensor(&through(&block.up)?)?;
        if let Some(gate) = &block.gate {
            hidden = (hidden * Function::Cube.of_tensor(&through(gate)?)?)?;
        }
        let mut hidden = self.round(kernels, &hidden)?;
        if let Some(norm) = &block.sub_norm {
            hidden = self.norm(kernels, &hidden, &norm.weight)?;
        }
        self.round(kernels, &(x + self.linear(kernels, &hidden, &block.down.weight)?)?)
    }

    /// x, norm, q, k, v, norm before o, o.
    pub(super) fn attention_inputs(self, [b, t, h, d_head]: [usize; 4]) -> Result<Vec<Tensor>> {
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

    pub(super) fn attention_block(self, h: usize, inputs: &[Tensor]) -> Result<AttentionBlock> {
        let (_, t, d) = inputs[0].dims3()?;
        let angles = (random(8, (t, d / h / 2))? * 3.0)?.to_dtype(inputs[0].dtype())?;
        let norm = |weight: &Tensor| Norm { weight: weight.clone(), eps: EPS };
        Ok(AttentionBlock {
            norm: norm(&inputs[1]),
            qkv: std::array::from_fn(|i| self.projection(&inputs[2 + i])),
            sub_norm: self.sub_norm.then(|| norm(&inputs[5])),
            o: self.projection(&inputs[inputs.len() - 1]),
            rotary: [angles.cos()?, angles.sin()?],
            n_head: h,
            scale: SCALE,
            formats: self.formats(),
        })
    }

    pub(super) fn attention(
        self,
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
        let heads = |i: usize| self.linear(kernels, &n, &block.qkv[i].weight)?.reshape((b, t, h, d / h));
        let rotated = |i| self.round(kernels, &crate::rope(kernels, &heads(i)?, cos, sin)?);
        let y = crate::causal_attention(kernels, &rotated(0)?, &rotated(1)?, &heads(2)?, SCALE)?;
        let mut y = self.round(kernels, &y)?.reshape((b, t, d))?;
        if let Some(norm) = &block.sub_norm {
            y = self.norm(kernels, &y, &norm.weight)?;
        }
        self.round(kernels, &(x + self.linear(kernels, &y, &block.o.weight)?)?)
    }
}
