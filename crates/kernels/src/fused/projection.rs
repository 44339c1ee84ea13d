//! The weight products inside a block.

use crate::Kernels;
use crate::buffers::add_all;
use crate::matmul::{Mat, products, sum_of_products};
use crate::profile::{Part, Work, matmul_span, span};
use crate::quantized::{self, BackwardPass, Computation, Kept, Matrix, QuantizedLinear};
use candle_core::{Result, Tensor};
use std::slice;

/// A weight \[d_out, d_in\] and how it is multiplied: in f32, or as a recipe says.
#[derive(Clone, Debug)]
pub struct Projection {
    /// Weight \[d_out, d_in\].
    pub weight: Tensor,
    /// Formats of its products; `None` for f32.
    pub low: Option<QuantizedLinear>,
}

/// What a product keeps for its backward pass: nothing in f32.
pub(super) type State = Option<Kept>;

impl Projection {
    fn matrix<'a>(&self, w: &'a [f32]) -> Result<Matrix<'a>> {
        let (rows, cols) = self.weight.dims2()?;
        Ok(Matrix { values: w, rows, cols })
    }

    /// y = x wᵀ for row-major x.
    pub(super) fn forward(&self, x: &[f32], w: &[f32]) -> Result<(Vec<f32>, State)> {
        let mut all = Self::forward_each(&[self], x, &[w])?;
        all.pop().ok_or_else(missing)
    }

    /// y = x wᵀ of several projections of one x.
    pub(super) fn forward_each(all: &[&Self], x: &[f32], ws: &[&[f32]]) -> Result<Vec<(Vec<f32>, State)>> {
        let ws = Self::matrices(all, ws)?;
        let x = Matrix { values: x, rows: x.len() / ws[0].cols, cols: ws[0].cols };
        let Some(computation) = Self::low(all)? else {
            let pairs = ws.iter().map(|w| (mat(x), mat(*w).t()));
            let shape = [x.rows, x.cols, rows(&ws)];
            let ys = matmul_span(Part::MatmulForward, shape, || products(pairs));
            return Ok(ys.into_iter().map(|y| (y, None)).collect());
        };
        let (ys, kept) = computation.forward(x, &ws)?;
        Ok(ys.into_iter().zip(kept.into_iter().map(Some)).collect())
    }

    /// How projections of one x are computed, if it is not in f32.
    fn low<'a>(all: &[&'a Self]) -> Result<Option<Computation<'a>>> {
        let maps: Vec<_> = all.iter().filter_map(|projection| projection.low.as_ref()).collect();
        match maps.len() {
            0 => Ok(None),
            count if count == all.len() => Ok(Some(Computation { kernels: Kernels::Portable, maps })),
            _ => candle_core::bail!("projections of one input are either all in f32 or all below"),
        }
    }

    /// `residual` + x wᵀ.
    pub(super) fn forward_onto(&self, residual: &[f32], x: &[f32], w: &[f32]) -> Result<(Vec<f32>, State)> {
        if self.low.is_some() {
            let (mut y, state) = self.forward(x, w)?;
            add(&mut y, residual);
            return Ok((y, state));
        }
        let w = self.matrix(w)?;
        let x = Matrix { values: x, rows: x.len() / w.cols, cols: w.cols };
        let (shape, pairs) = ([x.rows, x.cols, w.rows], vec![(mat(x), mat(w).t())]);
        Ok((matmul_span(Part::MatmulForward, shape, || sum_of_products(Some(residual), pairs)), None))
    }

    /// The weights of projections, of which there is one at least, as matrices of as many columns.
    fn matrices<'a>(all: &[&Self], ws: &[&'a [f32]]) -> Result<Vec<Matrix<'a>>> {
        let ws =
            all.iter().zip(ws).map(|(projection, w)| projection.matrix(w)).collect::<Result<Vec<_>>>()?;
        match ws.iter().all(|w| w.cols == ws[0].cols) && !ws.is_empty() {
            true => Ok(ws),
            false => candle_core::bail!("projections of one input differ in its width"),
        }
    }
}

/// Projections of one x in the backward pass.
pub(super) struct Backward<'a> {
    ws: Vec<Matrix<'a>>,
    dys: Vec<Matrix<'a>>,
    /// Of products below f32.
    low: Option<BackwardPass<'a>>,
}

impl<'a> Backward<'a> {
    /// From the gradients of their results.
    pub(super) fn new(
        all: &[&'a Projection],
        states: &[&'a State],
        ws: &[&'a [f32]],
        dys: &[&'a [f32]],
    ) -> Result<Self> {
        let ws = Projection::matrices(all, ws)?;
        let of_dy =
            |(dy, w): (&&'a [f32], &Matrix<'_>)| Matrix { values: dy, rows: dy.len() / w.rows, cols: w.rows };
        let dys: Vec<_> = dys.iter().zip(&ws).map(of_dy).collect();
        let low = match Projection::low(all)? {
            Some(computation) => {
                let kept: Option<Vec<&Kept>> = states.iter().map(|state| state.as_ref()).collect();
                Some(BackwardPass::new(computation, kept.ok_or_else(missing)?, ws.clone(), dys.clone())?)
            }
            None => None,
        };
        Ok(Self { ws, dys, low })
    }

    /// Whether [`weight_gradients`] reads x: products below f32 may have kept what they need of it.
    pub(super) fn reads_input(&self) -> bool {
        self.low.as_ref().is_none_or(BackwardPass::reads_input)
    }

    /// The gradient of x, the sum of those by each projection.
    pub(super) fn input_gradient(&self) -> Result<Vec<f32>> {
        let Some(low) = &self.low else {
            let pairs = self.dys.iter().zip(&self.ws).map(|(dy, w)| (mat(*dy), mat(*w))).collect();
            let shape = [self.dys[0].rows, rows(&self.ws), self.ws[0].cols];
            return Ok(matmul_span(Part::MatmulInput, shape, || sum_of_products(None, pairs)));
        };
        let mut dxs = low.input_gradients()?.into_iter();
        let mut dx = dxs.next().ok_or_else(missing)?;
        dxs.for_each(|more| add(&mut dx, &more));
        Ok(dx)
    }

    /// x as a matrix, which may be empty where it is not read.
    fn input<'x>(&self, x: &'x [f32]) -> Matrix<'x> {
        Matrix { values: x, rows: self.dys[0].rows, cols: self.ws[0].cols }
    }
}

/// The gradients of the weights of projections of one x after those of another, each with its x, which may be empty where it
/// is not read.
pub(super) fn weight_gradients(all: &[(&Backward<'_>, &[f32])]) -> Result<Vec<Vec<f32>>> {
    let (mut pairs, mut passes) = (vec![], vec![]);
    for (backward, x) in all {
        let x = backward.input(x);
        match &backward.low {
            Some(low) => passes.push((low, x)),
            None => pairs.extend(backward.dys.iter().map(|dy| (mat(*dy).t(), mat(x)))),
        }
    }
    if pairs.is_empty() {
        return quantized::weight_gradients(&passes);
    }
    if !passes.is_empty() {
        let alone = all.iter().map(|one| weight_gradients(slice::from_ref(one)));
        return Ok(alone.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect());
    }
    let [n, d] = pairs.first().map_or([0, 0], |(_, x)| [x.rows, x.cols]);
    // As many multiplications as one product of this shape.
    let results: usize = pairs.iter().map(|(dy, x)| dy.rows * x.cols).sum();
    Ok(matmul_span(Part::MatmulWeight, [results / d.max(1), n, d], || products(pairs)))
}

/// Rows of all matrices.
fn rows(all: &[Matrix<'_>]) -> usize {
    all.iter().map(|matrix| matrix.rows).sum()
}

fn missing() -> candle_core::Error {
    candle_core::Error::Msg("internal error: a product left out a result that was asked for".into())
}

fn mat(matrix: Matrix<'_>) -> Mat<'_> {
    Mat::row_major(matrix.values, matrix.rows, matrix.cols)
}

/// sum ← sum + x.
pub(super) fn add(sum: &mut [f32], x: &[f32]) {
    span(Part::Residual, Work::floats(3 * x.len()), || add_all(sum, x));
}
