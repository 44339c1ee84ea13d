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
use crate::scaled_matmul::{Factor, Pair, scaled_products};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};
use numerics::{Contraction, NumericFormat, Operand, OuterScale, QuantSpec, RoundingMode, Scaling};
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

    /// Whether [`Computation::backward`] reads x, and not only what was kept of it.
    pub(crate) fn reads_input(&self, kept: &Kept) -> bool {
        !self.serves_backward(Role::Input, &kept.input) && self.grad.scaling != Scaling::None
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
    /// Shared where several maps of one x quantise it alike.
    input: Arc<Operand>,
    weight: Arc<Operand>,
    /// What the columns of x were multiplied with.
    smoothing: Option<Vec<f32>>,
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
        let (ys, kept) = Computation { kernels: self.kernels, maps: &[&self.how] }.forward(x, &[w])?;
        self.kept.get_or_init(|| kept);
        Ok((CpuStorage::F32(ys.concat()), Shape::from((n, d_out))))
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
            let computation = Computation { kernels: self.kernels, maps: &[&self.how] };
            computation.backward(&[&kept[0]], x, &[w], &[dy], wanted)
        })?;
        let dx = dx.into_iter().next().map(|dx| Tensor::from_vec(dx, (n, d_in), x.device())).transpose()?;
        let dw =
            dw.into_iter().next().map(|dw| Tensor::from_vec(dw, (d_out, d_in), w.device())).transpose()?;
        Ok((dx, dw))
    }
}

/// The products of maps that share their x, on plain matrices.
pub(crate) struct Computation<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) maps: &'a [&'a QuantizedLinear],
}

impl Computation<'_> {
    /// y = x wᵀ for each w, and what [`Computation::backward`] needs of it.
    pub(crate) fn forward(&self, x: Matrix<'_>, ws: &[Matrix<'_>]) -> Result<(Vec<Vec<f32>>, Vec<Kept>)> {
        let find = || span(Part::Quantise, Work::floats(x.values.len()), || smoothing(x.values, x.cols));
        let smoothing: Vec<_> = self.maps.iter().map(|how| how.smooth.then(find)).collect();
        let smooth = |(factors, w): (&Option<Vec<f32>>, &Matrix<'_>)| {
            factors.as_ref().map(|factors| [scaled(x.values, factors), scaled(w.values, &inverse(factors))])
        };
        let smooth: Vec<_> = smoothing.iter().zip(ws).map(smooth).collect();
        let (xs, ws): (Vec<_>, Vec<_>) = smooth
            .iter()
            .zip(ws)
            .map(|(smooth, w)| match smooth {
                Some([of_x, of_w]) => (Matrix { values: of_x, ..x }, Matrix { values: of_w, ..*w }),
                None => (x, *w),
            })
            .unzip();
        let inputs = self.quantise_and_tell(Role::Input, &xs)?;
        let weights = self.quantise_and_tell(Role::Weight, &ws)?;
        let along = Contraction::Columns;
        let pairs: Vec<_> = (0..ws.len())
            .map(|map| (factor(&inputs[map], xs[map], along), factor(&weights[map], ws[map], along)))
            .collect();
        let ys = self.multiply(Part::MatmulForward, &pairs, |map| self.maps[map].output)?;
        let kept = inputs.into_iter().zip(weights).zip(smoothing);
        Ok((ys, kept.map(|((input, weight), smoothing)| Kept { input, weight, smoothing }).collect()))
    }

    /// dx of each map and every dw, as far as they are `wanted`; otherwise nothing.
    pub(crate) fn backward(
        &self,
        kept: &[&Kept],
        x: Matrix<'_>,
        ws: &[Matrix<'_>],
        dys: &[Matrix<'_>],
        wanted: [bool; 2],
    ) -> Result<[Vec<Vec<f32>>; 2]> {
        let along_outputs = self.quantise_and_tell(Role::Grad, dys)?;
        let [mut dxs, mut dws] = [vec![], vec![]];
        if wanted[0] {
            let forward: Vec<_> = kept.iter().map(|kept| &kept.weight).collect();
            let factors: Vec<_> = kept.iter().map(|kept| kept.smoothing.as_deref().map(inverse)).collect();
            let weights = self.for_backward(Role::Weight, &forward, ws, &factors)?;
            let pairs: Vec<_> = (0..ws.len())
                .map(|map| {
                    let dy = factor(&along_outputs[map], dys[map], Contraction::Columns);
                    (dy, factor(&weights[map], ws[map], Contraction::Rows))
                })
                .collect();
            let output = |map: usize| match kept[map].smoothing {
                Some(_) => NumericFormat::Fp32,
                None => self.maps[map].output,
            };
            dxs = self.multiply(Part::MatmulInput, &pairs, output)?;
            for ((dx, kept), how) in dxs.iter_mut().zip(kept).zip(self.maps) {
                if let Some(factors) = &kept.smoothing {
                    scale_columns(dx, factors);
                    span(Part::Quantise, Work::floats(2 * dx.len()), || round_in_place(dx, how.output));
                }
            }
        }
        if wanted[1] {
            let forward: Vec<_> = kept.iter().map(|kept| &kept.input).collect();
            let factors: Vec<_> = kept.iter().map(|kept| kept.smoothing.clone()).collect();
            let inputs = self.for_backward(Role::Input, &forward, &vec![x; ws.len()], &factors)?;
            let forward: Vec<_> = along_outputs.iter().collect();
            let grads = self.for_backward(Role::Grad, &forward, dys, &vec![None; ws.len()])?;
            let pairs: Vec<_> = (0..ws.len())
                .map(|map| {
                    let dy = factor(&grads[map], dys[map], Contraction::Rows);
                    (dy, factor(&inputs[map], x, Contraction::Rows))
                })
                .collect();
            dws = self.multiply(Part::MatmulWeight, &pairs, |_| NumericFormat::Fp32)?;
            for (dw, kept) in dws.iter_mut().zip(kept) {
                if let Some(factors) = &kept.smoothing {
                    scale_columns(dw, &inverse(factors));
                }
            }
        }
        Ok([dxs, dws])
    }

    fn quantise_and_tell(&self, role: Role, matrices: &[Matrix<'_>]) -> Result<Vec<Arc<Operand>>> {
        let mut operands: Vec<(QuantSpec, Option<f32>, Arc<Operand>)> = vec![];
        for (how, matrix) in self.maps.iter().zip(matrices) {
            let (spec, scale) = how.with_scale(role);
            let alike =
                |(other, (of_other, scale_of_other, _)): &(&Matrix<'_>, &(QuantSpec, Option<f32>, _))| {
                    std::ptr::eq(other.values, matrix.values)
                        && *of_other == spec
                        && *scale_of_other == scale
                        && spec.rounding != RoundingMode::Stochastic
                };
            let operand = match matrices.iter().zip(&operands).find(alike) {
                Some((_, (_, _, operand))) => operand.clone(),
                None => Arc::new(self.quantise(how, role, *matrix, Contraction::Columns)?),
            };
            how.observer.quantised(role, *matrix, how.spec(role), &operand);
            operands.push((spec, scale, operand));
        }
        Ok(operands.into_iter().map(|(_, _, operand)| operand).collect())
    }

    fn quantise(
        &self,
        how: &QuantizedLinear,
        role: Role,
        Matrix { values, rows, cols }: Matrix<'_>,
        contraction: Contraction,
    ) -> Result<Operand> {
        let (spec, scale) = how.with_scale(role);
        let key = how.observer.key(role) ^ contraction_key(contraction);
        let operand = span(Part::Quantise, Work::floats(2 * values.len()), || match self.kernels {
            Kernels::Reference => numerics::encode_matrix(values, rows, cols, contraction, &spec, key, scale)
                .map(|encoded| encoded.operand),
            Kernels::Portable => numerics::quantize(values, rows, cols, contraction, &spec, key, scale),
        });
        operand.map_err(candle_core::Error::wrap)
    }

    /// The operands of backward products that sum over the rows of `matrices`, made again where they have to be. `factors`
    /// multiply their columns first.
    fn for_backward(
        &self,
        role: Role,
        forward: &[&Arc<Operand>],
        matrices: &[Matrix<'_>],
        factors: &[Option<Vec<f32>>],
    ) -> Result<Vec<Arc<Operand>>> {
        let mut operands: Vec<Arc<Operand>> = vec![];
        for (map, how) in self.maps.iter().enumerate() {
            // What was one operand in the forward pass is one here.
            let alike = |other: &usize| {
                let (specs, of_other) = ([how.spec(role), &how.grad], self.maps[*other]);
                Arc::ptr_eq(forward[*other], forward[map])
                    && [of_other.spec(role), &of_other.grad] == specs
                    && specs.iter().all(|spec| spec.rounding != RoundingMode::Stochastic)
            };
            let operand = match (0..map).find(alike) {
                Some(other) => operands[other].clone(),
                None => {
                    self.one_for_backward(how, role, forward[map], matrices[map], factors[map].as_deref())?
                }
            };
            operands.push(operand);
        }
        Ok(operands)
    }

    fn one_for_backward(
        &self,
        how: &QuantizedLinear,
        role: Role,
        forward: &Arc<Operand>,
        matrix: Matrix<'_>,
        factors: Option<&[f32]>,
    ) -> Result<Arc<Operand>> {
        if how.serves_backward(role, forward) {
            return Ok(forward.clone());
        }
        if how.grad.scaling == Scaling::None {
            let (format, rows, cols) = (how.grad.format, matrix.rows, matrix.cols);
            let values = span(Part::Quantise, Work::floats(2 * rows * cols), || {
                forward.dequantize_to(format, rows, cols, Contraction::Columns)
            });
            let Operand { amax, non_finite, .. } = **forward;
            return Ok(Arc::new(Operand { values, outer: OuterScale::Uniform(1.0), amax, non_finite }));
        }
        let scaled = factors.map(|factors| scaled(matrix.values, factors));
        let values = scaled.as_deref().unwrap_or(matrix.values);
        self.quantise(how, role, Matrix { values, ..matrix }, Contraction::Rows).map(Arc::new)
    }

    /// The product of each pair, rounded to the format that `output` gives for its number.
    fn multiply(
        &self,
        part: Part,
        pairs: &[Pair<'_>],
        output: impl Fn(usize) -> NumericFormat + Sync,
    ) -> Result<Vec<Vec<f32>>> {
        matmul_span(part, shape_of_all(part, pairs), || match self.kernels {
            Kernels::Reference => {
                let one = |(number, (a, b)): (usize, &Pair<'_>)| {
                    let product = a.decoded()?.matmul(&b.decoded()?.t()?)?;
                    let mut product = product.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                    round_in_place(&mut product, output(number));
                    Ok(product)
                };
                pairs.iter().enumerate().map(one).collect()
            }
            Kernels::Portable => scaled_products(pairs, |number, rows| round_in_place(rows, output(number))),
        })
    }
}

/// An operand of a product that sums along a matrix, which it was quantised from.
fn factor<'a>(operand: &'a Operand, of: Matrix<'_>, along: Contraction) -> Factor<'a> {
    Factor::new(operand, of.rows, of.cols, along)
}

/// That of one product with as many multiplications as all of these.
fn shape_of_all(part: Part, pairs: &[Pair<'_>]) -> [usize; 3] {
    let mut shapes = pairs.iter().map(|(a, b)| Factor::product_shape(*a, *b));
    let first = shapes.next().unwrap_or_default();
    shapes.fold(first, |[m, k, n], [more_m, more_k, more_n]| match part {
        Part::MatmulInput => [m, k + more_k, n],
        Part::MatmulWeight => [m + more_m, k, n],
        _ => [m, k, n + more_n],
    })
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
