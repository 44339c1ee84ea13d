//! The products of quantised operands on plain matrices: of several maps of one x at a time, which share what they quantise
//! alike.

use super::{Matrix, QuantizedLinear, Role};
use crate::Kernels;
use crate::profile::{Part, Work, matmul_span, span};
use crate::round::round_in_place;
use crate::scaled_matmul::{Factor, Pair, scaled_products};
use candle_core::{DType, Result};
use numerics::{Contraction, NumericFormat, Operand, OuterScale, QuantSpec, RoundingMode, Scaling};
use std::sync::Arc;

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Shared where several maps of one x quantise it alike.
    input: Arc<Operand>,
    weight: Arc<Operand>,
    /// What the columns of x were multiplied with.
    smoothing: Option<Vec<f32>>,
}

/// Maps that share their x.
pub(crate) struct Computation<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) maps: Vec<&'a QuantizedLinear>,
}

impl Computation<'_> {
    /// y = x wᵀ for each w, and what [`BackwardPass`] needs of it.
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
        let ys = multiply(self.kernels, Part::MatmulForward, &pairs, |map| self.maps[map].output)?;
        let kept = inputs.into_iter().zip(weights).zip(smoothing);
        Ok((ys, kept.map(|((input, weight), smoothing)| Kept { input, weight, smoothing }).collect()))
    }

    pub(super) fn quantise_and_tell(&self, role: Role, matrices: &[Matrix<'_>]) -> Result<Vec<Arc<Operand>>> {
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
    pub(super) fn for_backward(
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
}

/// The backward pass of maps that share their x.
pub(crate) struct BackwardPass<'a> {
    computation: Computation<'a>,
    kept: Vec<&'a Kept>,
    ws: Vec<Matrix<'a>>,
    dys: Vec<Matrix<'a>>,
    /// The gradients as operands of products that sum over their columns.
    along_outputs: Vec<Arc<Operand>>,
}

impl<'a> BackwardPass<'a> {
    /// Quantises the gradients of the results.
    pub(crate) fn new(
        computation: Computation<'a>,
        kept: Vec<&'a Kept>,
        ws: Vec<Matrix<'a>>,
        dys: Vec<Matrix<'a>>,
    ) -> Result<Self> {
        let along_outputs = computation.quantise_and_tell(Role::Grad, &dys)?;
        Ok(Self { computation, kept, ws, dys, along_outputs })
    }

    /// Whether [`weight_gradients`] reads x, and not only what was kept of it.
    pub(crate) fn reads_input(&self) -> bool {
        let reads = |(how, kept): (&&QuantizedLinear, &&Kept)| {
            !how.serves_backward(Role::Input, &kept.input) && how.grad.scaling != Scaling::None
        };
        self.computation.maps.iter().zip(&self.kept).any(reads)
    }

    /// dx of each map.
    pub(crate) fn input_gradients(&self) -> Result<Vec<Vec<f32>>> {
        let Self { computation, kept, ws, dys, along_outputs } = self;
        let forward: Vec<_> = kept.iter().map(|kept| &kept.weight).collect();
        let factors: Vec<_> = kept.iter().map(|kept| kept.smoothing.as_deref().map(inverse)).collect();
        let weights = computation.for_backward(Role::Weight, &forward, ws, &factors)?;
        let pairs: Vec<_> = (0..ws.len())
            .map(|map| {
                let dy = factor(&along_outputs[map], dys[map], Contraction::Columns);
                (dy, factor(&weights[map], ws[map], Contraction::Rows))
            })
            .collect();
        let output = |map: usize| match kept[map].smoothing {
            Some(_) => NumericFormat::Fp32,
            None => computation.maps[map].output,
        };
        let mut dxs = multiply(computation.kernels, Part::MatmulInput, &pairs, output)?;
        for ((dx, kept), how) in dxs.iter_mut().zip(kept).zip(&computation.maps) {
            if let Some(factors) = &kept.smoothing {
                scale_columns(dx, factors);
                span(Part::Quantise, Work::floats(2 * dx.len()), || round_in_place(dx, how.output));
            }
        }
        Ok(dxs)
    }

    /// The operands of dw = dyᵀ x for each map: dy, then x.
    fn of_weight_gradients(&self, x: Matrix<'_>) -> Result<[Vec<Arc<Operand>>; 2]> {
        let Self { computation, kept, dys, along_outputs, .. } = self;
        let forward: Vec<_> = kept.iter().map(|kept| &kept.input).collect();
        let factors: Vec<_> = kept.iter().map(|kept| kept.smoothing.clone()).collect();
        let inputs = computation.for_backward(Role::Input, &forward, &vec![x; dys.len()], &factors)?;
        let forward: Vec<_> = along_outputs.iter().collect();
        let grads = computation.for_backward(Role::Grad, &forward, dys, &vec![None; dys.len()])?;
        Ok([grads, inputs])
    }
}

/// Every dw of backward passes, each with its x, which may be empty where it is not read. They are computed together.
pub(crate) fn weight_gradients(passes: &[(&BackwardPass<'_>, Matrix<'_>)]) -> Result<Vec<Vec<f32>>> {
    let Some((BackwardPass { computation: Computation { kernels, .. }, .. }, _)) = passes.first() else {
        return Ok(vec![]);
    };
    let operands = passes.iter().map(|(pass, x)| pass.of_weight_gradients(*x)).collect::<Result<Vec<_>>>()?;
    let mut pairs = vec![];
    for ([dys, xs], (pass, x)) in operands.iter().zip(passes) {
        for ((of_dy, of_x), dy) in dys.iter().zip(xs).zip(&pass.dys) {
            pairs.push((factor(of_dy, *dy, Contraction::Rows), factor(of_x, *x, Contraction::Rows)));
        }
    }
    let mut dws = multiply(*kernels, Part::MatmulWeight, &pairs, |_| NumericFormat::Fp32)?;
    for (dw, kept) in dws.iter_mut().zip(passes.iter().flat_map(|(pass, _)| &pass.kept)) {
        if let Some(factors) = &kept.smoothing {
            scale_columns(dw, &inverse(factors));
        }
    }
    Ok(dws)
}

/// The product of each pair, rounded to the format that `output` gives for its number.
fn multiply(
    kernels: Kernels,
    part: Part,
    pairs: &[Pair<'_>],
    output: impl Fn(usize) -> NumericFormat + Sync,
) -> Result<Vec<Vec<f32>>> {
    matmul_span(part, shape_of_all(part, pairs), || match kernels {
        Kernels::Reference => {
            let one = |(number, (a, b)): (usize, &Pair<'_>)| {
                let product = a.decoded()?.matmul(&b.decoded()?.t()?)?;
                let mut product = product.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
                round_in_place(&mut product, output(number));
                Ok(product)
            };
            pairs.iter().enumerate().map(one).collect()
        }
        Kernels::Portable => scaled_products(pairs, output),
    })
}

/// An operand of a product that sums along a matrix, which it was quantised from.
pub(super) fn factor<'a>(operand: &'a Operand, of: Matrix<'_>, along: Contraction) -> Factor<'a> {
    Factor::new(operand, of.rows, of.cols, along)
}

/// That of one product with as many multiplications as all of these.
fn shape_of_all(part: Part, pairs: &[Pair<'_>]) -> [usize; 3] {
    let mut shapes = pairs.iter().map(|(a, b)| Factor::product_shape(*a, *b));
    let first = shapes.next().unwrap_or_default();
    shapes.fold(first, |[m, k, n], [more_m, more_k, more_n]| match part {
        Part::MatmulInput => [m, k + more_k, n],
        Part::MatmulWeight => [m + more_m * more_n / n.max(1), k, n],
        _ => [m, k, n + more_n],
    })
}

/// The two roundings of one operand along different sums draw different bits.
pub(super) fn contraction_key(contraction: Contraction) -> u64 {
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
