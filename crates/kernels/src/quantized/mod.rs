//! The linear map y = x wᵀ on operands in low precision, and its gradients.
//!
//! Every product is "round the operands to a format, multiply what they decode to, sum in f32, apply the
//! scales to the sums", as tensor cores do it. Products of two values of at most 11 significant bits are exact
//! in f32; formats of up to 8 bits and bf16 have at most 8. What this idealises: hardware may sum in fewer bits
//! than f32 within a block of products, and in another order.
//!
//! **Which operands the backward products see.** dx = dy w sums over the outputs and dw = dyᵀ x over the
//! tokens, so operands whose scales run along the sum of y = x wᵀ have the wrong scales there. When the
//! gradient itself is scaled, x and w are quantised again from their full-precision values along the sum of
//! each product, as hardware for block formats has to. When the gradient is only rounded (to bf16, say), the
//! products take what the forward operands decode to, the straight-through estimator of quantisation-aware
//! training (Bengio et al. 2013, arXiv 1308.3432). Rounding itself always has derivative 1, also where it
//! saturates.

mod by_rows;
mod computation;
mod row_passes;
mod rows_as_operands;

pub(crate) use by_rows::{RowKept, RowMaps};
pub(crate) use computation::{BackwardPass, Computation, Kept, weight_gradients};
pub(crate) use row_passes::{RowBackward, RowForward, RowGradients};
pub(crate) use rows_as_operands::Left;

use crate::Kernels;
use crate::buffers::{elements, with_elements};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use numerics::{NumericFormat, Operand, OuterScale, QuantSpec, RoundingMode, Scaling};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

/// Which operand of the products a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// x, the activations.
    Input,
    /// w.
    Weight,
    /// dy, the gradient of the result.
    Grad,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Input, Self::Weight, Self::Grad];

    /// Its name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Weight => "weight",
            Self::Grad => "grad",
        }
    }
}

/// A row-major matrix about to be quantised.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Its elements.
    pub values: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
}

/// What a quantised linear map asks of, and tells, the one who keeps its state between steps.
///
/// It hears of every operand once per forward and backward pass: of x and w as they enter y = x wᵀ, of dy as it enters
/// dx = dy w. Operands that are quantised a second time along another sum are not reported again.
pub trait Observer: Send + Sync + Debug {
    /// The scale for the coming operand, under [`Scaling::Delayed`]; `None` lets the operand's own maximum decide.
    fn delayed_scale(&self, role: Role, spec: &QuantSpec) -> Option<f32>;

    /// Key of the random bits for this operand in this pass, under stochastic rounding.
    fn key(&self, role: Role) -> u64;

    /// Whether operands are to be shown whole. If not, those whose rows can be quantised by themselves may go by in parts, and only
    /// [`Observer::passed`] hears of them, and of their largest magnitude [`Observer::measured`]. The answer must stay the same from a forward pass to the end of its backward pass.
    fn looks(&self) -> bool;

    /// An operand was quantised in parts, and so many of its values were not finite.
    fn passed(&self, role: Role, non_finite: u64);

    /// The largest finite magnitude of an operand that was quantised in parts, if it was looked for: where `spec` has a scale.
    fn measured(&self, role: Role, spec: &QuantSpec, amax: f32);

    /// The operand has been quantised for a product that sums over its columns.
    fn quantised(&self, role: Role, matrix: Matrix<'_>, spec: &QuantSpec, operand: &Operand);
}

/// How one linear map computes: formats of its operands and of its results.
#[derive(Clone, Debug)]
pub struct QuantizedLinear {
    /// Format of x.
    pub input: QuantSpec,
    /// Format of w.
    pub weight: QuantSpec,
    /// Format of dy.
    pub grad: QuantSpec,
    /// Type to which y and dx are rounded, to nearest even. dw stays in f32.
    pub output: NumericFormat,
    /// Divide every column of x by (about) its largest magnitude before quantising it, and multiply the same column of
    /// w: Smooth-SwiGLU (Fishman et al. 2024, arXiv 2409.12517). The factors are powers of two, so nothing but the
    /// quantisation changes.
    pub smooth: bool,
    /// Keeper of the state.
    pub observer: Arc<dyn Observer>,
}

impl QuantizedLinear {
    /// Format of an operand.
    pub(crate) fn spec(&self, role: Role) -> &QuantSpec {
        match role {
            Role::Input => &self.input,
            Role::Weight => &self.weight,
            Role::Grad => &self.grad,
        }
    }

    /// The format of an operand, and its scale, if that is known before: without a history delayed scaling takes that of the
    /// tensor itself.
    fn with_scale(&self, role: Role) -> (QuantSpec, Option<f32>) {
        let spec = *self.spec(role);
        match spec.scaling {
            Scaling::Delayed { .. } => match self.observer.delayed_scale(role, &spec) {
                None => (QuantSpec { scaling: Scaling::Tensor, ..spec }, None),
                scale => (spec, scale),
            },
            _ => (spec, None),
        }
    }

    /// Whether an operand quantised for the forward product is good for one that sums over its rows.
    fn serves_backward(&self, role: Role, forward: &Operand) -> bool {
        matches!(forward.outer, OuterScale::Uniform(_)) && !self.spec(role).scaling.follows_sum()
    }

    /// Whether every value of every operand is rounded to nearest on its own, whatever the others are.
    pub(crate) fn is_by_value(&self) -> bool {
        let by_value = |role| {
            let QuantSpec { scaling, rounding, .. } = self.spec(role);
            *scaling == Scaling::None && *rounding == RoundingMode::NearestEven
        };
        !self.smooth && Role::ALL.into_iter().all(by_value)
    }
}

/// y = x wᵀ for x \[.., d_in\] and w \[d_out, d_in\], both f32 on the CPU, computed as `how` says; y is \[.., d_out\].
///
/// The reference quantises one number after the other, multiplies and sums what the operands stand for in f64, and rounds
/// once. The portable version uses the vectorised quantiser, sums in f32 and applies scales to sums.
///
/// # Errors
/// When the shapes do not fit, a block does not divide a width, or the tensors are not f32 on the CPU.
pub fn quantized_linear(kernels: Kernels, x: &Tensor, w: &Tensor, how: QuantizedLinear) -> Result<Tensor> {
    let (d_out, d_in) = w.dims2()?;
    let Some((&last, leading)) = x.dims().split_last() else {
        candle_core::bail!("quantized_linear: x is a scalar");
    };
    if last != d_in {
        candle_core::bail!("quantized_linear: x {:?} does not fit w {:?}", x.dims(), w.dims());
    }
    let n: usize = leading.iter().product();
    let op = Op { kernels, how, kept: OnceLock::new() };
    let y = x.reshape((n, d_in))?.contiguous()?.apply_op2(&w.contiguous()?, op)?;
    y.reshape([leading, &[d_out]].concat())
}

struct Op {
    kernels: Kernels,
    how: QuantizedLinear,
    kept: OnceLock<Vec<Kept>>,
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "quantized-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, d_in), (d_out, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
        let x = Matrix { values: elements(x, x_layout)?, rows: n, cols: d_in };
        let w = Matrix { values: elements(w, w_layout)?, rows: d_out, cols: d_in };
        let (mut ys, kept) = self.computation().forward(x, &[w])?;
        self.kept.get_or_init(|| kept);
        Ok((CpuStorage::F32(ys.swap_remove(0)), Shape::from((n, d_out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("quantized_linear: backward before forward")
        };
        let ((n, d_in), (d_out, _)) = (x.dims2()?, w.dims2()?);
        let wanted = [x.track_op(), w.track_op()];
        let [dx, dw] = with_elements([x, w, &dy.contiguous()?], |[x, w, dy]| {
            let x = Matrix { values: x, rows: n, cols: d_in };
            let w = Matrix { values: w, rows: d_out, cols: d_in };
            let dy = Matrix { values: dy, rows: n, cols: d_out };
            let pass = BackwardPass::new(self.computation(), kept.iter().collect(), vec![w], vec![dy])?;
            let of_x = if wanted[0] { pass.input_gradients()? } else { vec![] };
            let of_w = if wanted[1] { weight_gradients(&[(&pass, x)])? } else { vec![] };
            Ok([of_x, of_w])
        })?;
        let dx = dx.into_iter().next().map(|dx| Tensor::from_vec(dx, (n, d_in), x.device())).transpose()?;
        let dw =
            dw.into_iter().next().map(|dw| Tensor::from_vec(dw, (d_out, d_in), w.device())).transpose()?;
        Ok((dx, dw))
    }
}

impl Op {
    fn computation(&self) -> Computation<'_> {
        Computation { kernels: self.kernels, maps: vec![&self.how] }
    }
}

#[cfg(test)]
mod tests;
