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

use crate::Kernels;
use crate::buffers::{elements, with_elements};
use crate::profile::{Part, Work, matmul_span, span};
use crate::round::round_in_place;
use crate::scaled_matmul::{Factor, scaled_matmul};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};
use numerics::{
    Contraction, NumericFormat, Operand, OuterScale, Overflow, QuantSpec, Rounding, RoundingMode, Scaling,
};
use std::borrow::Cow;
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

    /// Whether operands are to be shown whole; asked once per pass. If not, those whose values are rounded one by one may go
    /// by in parts, and only [`Observer::passed`] hears of them.
    fn looks(&self) -> bool;

    /// An operand was quantised in parts, and so many of its values were not finite.
    fn passed(&self, role: Role, non_finite: u64);

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

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(crate) struct Kept {
    input: Operand,
    weight: Operand,
    /// What the columns of x were multiplied with.
    smoothing: Option<Vec<f32>>,
}

struct Op {
    kernels: Kernels,
    how: QuantizedLinear,
    kept: OnceLock<Kept>,
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
        let (y, kept) = self.computation().forward(x, w)?;
        self.kept.get_or_init(|| kept);
        Ok((CpuStorage::F32(y), Shape::from((n, d_out))))
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
            self.computation().backward(kept, x, w, dy, wanted)
        })?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, (n, d_in), x.device())).transpose()?;
        let dw = dw.map(|dw| Tensor::from_vec(dw, (d_out, d_in), w.device())).transpose()?;
        Ok((dx, dw))
    }
}

impl Op {
    fn computation(&self) -> Computation<'_> {
        Computation { kernels: self.kernels, how: &self.how }
    }
}

/// The products on plain matrices.
pub(crate) struct Computation<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) how: &'a QuantizedLinear,
}

impl Computation<'_> {
    /// y = x wᵀ, and what [`Computation::backward`] needs of it.
    pub(crate) fn forward(&self, x: Matrix<'_>, w: Matrix<'_>) -> Result<(Vec<f32>, Kept)> {
        let find = || span(Part::Quantise, Work::floats(x.values.len()), || smoothing(x.values, x.cols));
        let smoothing = self.how.smooth.then(find);
        let smooth = smoothing
            .as_ref()
            .map(|factors| [scaled(x.values, factors), scaled(w.values, &inverse(factors))]);
        let [x, w] = match &smooth {
            Some([x_values, w_values]) => {
                [Matrix { values: x_values, ..x }, Matrix { values: w_values, ..w }]
            }
            None => [x, w],
        };
        let kept = Kept {
            input: self.quantise_and_tell(Role::Input, x)?,
            weight: self.quantise_and_tell(Role::Weight, w)?,
            smoothing,
        };
        let y = self.multiply(
            Part::MatmulForward,
            Factor::new(&kept.input, x.rows, x.cols, Contraction::Columns),
            Factor::new(&kept.weight, w.rows, w.cols, Contraction::Columns),
            self.how.output,
        )?;
        Ok((y, kept))
    }

    /// dx and dw, as far as they are `wanted`.
    pub(crate) fn backward(
        &self,
        kept: &Kept,
        x: Matrix<'_>,
        w: Matrix<'_>,
        dy: Matrix<'_>,
        wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let ((n, d_in), d_out) = ((x.rows, x.cols), w.rows);
        let along_outputs = self.quantise_and_tell(Role::Grad, dy)?;
        let dx = if wanted[0] {
            let factors = kept.smoothing.as_deref().map(inverse);
            let weight = self.for_backward(Role::Weight, &kept.weight, w, factors.as_deref())?;
            let mut dx = self.multiply(
                Part::MatmulInput,
                Factor::new(&along_outputs, n, d_out, Contraction::Columns),
                Factor::new(&weight, d_out, d_in, Contraction::Rows),
                if kept.smoothing.is_some() { NumericFormat::Fp32 } else { self.how.output },
            )?;
            if let Some(factors) = &kept.smoothing {
                scale_columns(&mut dx, factors);
                span(Part::Quantise, Work::floats(2 * dx.len()), || round_in_place(&mut dx, self.how.output));
            }
            Some(dx)
        } else {
            None
        };
        let dw = if wanted[1] {
            let input = self.for_backward(Role::Input, &kept.input, x, kept.smoothing.as_deref())?;
            let grad = self.for_backward(Role::Grad, &along_outputs, dy, None)?;
            let mut dw = self.multiply(
                Part::MatmulWeight,
                Factor::new(&grad, n, d_out, Contraction::Rows),
                Factor::new(&input, n, d_in, Contraction::Rows),
                NumericFormat::Fp32,
            )?;
            if let Some(factors) = &kept.smoothing {
                scale_columns(&mut dw, &inverse(factors));
            }
            Some(dw)
        } else {
            None
        };
        Ok([dx, dw])
    }

    fn spec(&self, role: Role) -> &QuantSpec {
        self.how.spec(role)
    }

    fn quantise_and_tell(&self, role: Role, matrix: Matrix<'_>) -> Result<Operand> {
        let operand = self.quantise(role, matrix, Contraction::Columns)?;
        self.how.observer.quantised(role, matrix, self.spec(role), &operand);
        Ok(operand)
    }

    fn quantise(&self, role: Role, matrix: Matrix<'_>, contraction: Contraction) -> Result<Operand> {
        let Matrix { values, rows, cols } = matrix;
        let mut spec = *self.spec(role);
        let mut scale = None;
        if let Scaling::Delayed { .. } = spec.scaling {
            scale = self.how.observer.delayed_scale(role, &spec);
            if scale.is_none() {
                spec.scaling = Scaling::Tensor; // nothing has been seen yet
            }
        }
        let key = self.how.observer.key(role) ^ contraction_key(contraction);
        let operand = span(Part::Quantise, Work::floats(2 * values.len()), || match self.kernels {
            Kernels::Reference => numerics::encode_matrix(values, rows, cols, contraction, &spec, key, scale)
                .map(|encoded| encoded.operand),
            Kernels::Portable => numerics::quantize(values, rows, cols, contraction, &spec, key, scale),
        });
        operand.map_err(candle_core::Error::wrap)
    }

    /// Whether [`Computation::backward`] reads x, and not only what was kept of it.
    pub(crate) fn reads_input(&self, kept: &Kept) -> bool {
        !self.serves_backward(Role::Input, &kept.input) && self.how.grad.scaling != Scaling::None
    }

    /// Whether an operand quantised for the forward product is good for one that sums over its rows.
    fn serves_backward(&self, role: Role, forward: &Operand) -> bool {
        matches!(forward.outer, OuterScale::Uniform(_)) && !self.spec(role).scaling.follows_sum()
    }

    /// The operand of a backward product that sums over the rows of `matrix`, made again where it has to be. `factors`
    /// multiply its columns first.
    fn for_backward<'a>(
        &self,
        role: Role,
        forward: &'a Operand,
        matrix: Matrix<'_>,
        factors: Option<&[f32]>,
    ) -> Result<Cow<'a, Operand>> {
        if self.serves_backward(role, forward) {
            return Ok(Cow::Borrowed(forward));
        }
        if self.how.grad.scaling == Scaling::None {
            let values = span(Part::Quantise, Work::floats(2 * matrix.values.len()), || {
                let mut values = forward.dequantize(matrix.rows, matrix.cols, Contraction::Columns);
                let rounding = Rounding::NEAREST_EVEN;
                numerics::round_slice(&mut values, self.how.grad.format, rounding, Overflow::Propagate);
                values
            });
            let Operand { amax, non_finite, .. } = *forward;
            return Ok(Cow::Owned(Operand { values, outer: OuterScale::Uniform(1.0), amax, non_finite }));
        }
        let operand = match factors {
            Some(factors) => {
                let values = &*scaled(matrix.values, factors);
                self.quantise(role, Matrix { values, ..matrix }, Contraction::Rows)
            }
            None => self.quantise(role, matrix, Contraction::Rows),
        };
        operand.map(Cow::Owned)
    }

    /// The product, rounded to `output`.
    fn multiply(&self, part: Part, a: Factor<'_>, b: Factor<'_>, output: NumericFormat) -> Result<Vec<f32>> {
        matmul_span(part, Factor::product_shape(a, b), || match self.kernels {
            Kernels::Reference => {
                let product = a.decoded()?.matmul(&b.decoded()?.t()?)?;
                let mut product = product.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                round_in_place(&mut product, output);
                Ok(product)
            }
            Kernels::Portable => scaled_matmul(a, b, |rows| round_in_place(rows, output)),
        })
    }
}

/// The two roundings of one operand along different sums draw different bits.
fn contraction_key(contraction: Contraction) -> u64 {
    match contraction {
        Contraction::Columns => 0,
        Contraction::Rows => 0x9e37_79b9_7f4a_7c15,
    }
}

/// For every column a power of two that brings its largest finite magnitude into [1, 2); 1 for a column of zeros.
fn smoothing(x: &[f32], cols: usize) -> Vec<f32> {
    let mut largest = vec![0f32; cols];
    for row in x.chunks_exact(cols) {
        for (largest, x) in largest.iter_mut().zip(row) {
            if x.is_finite() {
                *largest = largest.max(x.abs());
            }
        }
    }
    // The exponent field of a float alone is the power of two below it; the bounds keep both factors normal.
    let below = |x: f32| f32::from_bits(x.to_bits() & 0x7f80_0000).clamp(2f32.powi(-100), 2f32.powi(100));
    largest.into_iter().map(|x| if x == 0.0 { 1.0 } else { below(x).recip() }).collect()
}

fn inverse(factors: &[f32]) -> Vec<f32> {
    factors.iter().map(|factor| factor.recip()).collect()
}

fn scaled(values: &[f32], factors: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    scale_columns(&mut values, factors);
    values
}

fn scale_columns(values: &mut [f32], factors: &[f32]) {
    span(Part::Quantise, Work::floats(2 * values.len()), || {
        for row in values.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
    });
}

#[cfg(test)]
mod tests;
