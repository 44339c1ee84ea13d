//! The weight products inside a block.

use crate::Kernels;
use crate::matmul::{Mat, add_matmul, matmul, products, sum_of_products};
use crate::profile::{Part, Work, matmul_span, span};
use crate::quantized::{Computation, Kept, Matrix, QuantizedLinear};
use crate::simd;
use candle_core::{Result, Tensor};
use rayon::prelude::*;

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
        if all.iter().all(|projection| projection.low.is_none()) {
            let pairs = ws.iter().map(|w| (mat(x), mat(*w).t()));
            let shape = [x.rows, x.cols, rows(&ws)];
            let ys = matmul_span(Part::MatmulForward, shape, || products(pairs));
            return Ok(ys.into_iter().map(|y| (y, None)).collect());
        }
        if let Some(maps) = Self::all_low(all) {
            let (ys, kept) = Computation { kernels: Kernels::Portable, maps: &maps }.forward(x, &ws)?;
            return Ok(ys.into_iter().zip(kept.into_iter().map(Some)).collect());
        }
        all.iter().zip(&ws).map(|(projection, w)| projection.forward(x.values, w.values)).collect()
    }

    /// How projections are computed, if all of them are below f32.
    fn all_low<'a>(all: &[&'a Self]) -> Option<Vec<&'a QuantizedLinear>> {
        all.iter().map(|projection| projection.low.as_ref()).collect()
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

    /// dx and dw. x may be empty if it is not read.
    pub(super) fn backward(&self, state: &State, [x, w, dy]: [&[f32]; 3]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (dx, mut dws) = Self::backward_each(&[self], &[state], x, &[w], &[dy])?;
        Ok((dx, dws.pop().ok_or_else(missing)?))
    }

    /// Whether [`Projection::backward`] reads x: a product below f32 may have kept what it needs of it.
    pub(super) fn reads_input(&self, state: &State) -> bool {
        match (&self.low, state) {
            (Some(how), Some(kept)) => how.reads_input(kept),
            _ => true,
        }
    }

    /// The sum of dx, and every dw, of several projections of one x, which may be empty where none of them reads it.
    pub(super) fn backward_each<'d>(
        all: &[&Self],
        states: &[&State],
        x: &[f32],
        ws: &[&[f32]],
        dys: &[&'d [f32]],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let ws = Self::matrices(all, ws)?;
        let of_dy =
            |(dy, w): (&&'d [f32], &Matrix<'_>)| Matrix { values: dy, rows: dy.len() / w.rows, cols: w.rows };
        let dys: Vec<_> = dys.iter().zip(&ws).map(of_dy).collect();
        let n = dys.first().map_or(0, |dy| dy.rows);
        let x = Matrix { values: x, rows: n, cols: ws[0].cols };
        if all.iter().all(|projection| projection.low.is_none()) {
            let pairs = dys.iter().zip(&ws).map(|(dy, w)| (mat(*dy), mat(*w))).collect();
            let shape = [x.rows, rows(&ws), x.cols];
            let dx = matmul_span(Part::MatmulInput, shape, || sum_of_products(None, pairs));
            let pairs = dys.iter().map(|dy| (mat(*dy).t(), mat(x)));
            let shape = [rows(&ws), x.rows, x.cols];
            return Ok((dx, matmul_span(Part::MatmulWeight, shape, || products(pairs))));
        }
        let kept: Option<Vec<&Kept>> = states.iter().map(|state| state.as_ref()).collect();
        let (dxs, dws): (Vec<_>, Vec<_>);
        if let (Some(maps), Some(kept)) = (Self::all_low(all), kept) {
            let computation = Computation { kernels: Kernels::Portable, maps: &maps };
            [dxs, dws] = computation.backward(&kept, x, &ws, &dys, [true, true])?;
        } else if all.len() == 1 {
            return Err(missing());
        } else {
            let one = |index: usize| {
                all[index].backward(states[index], [x.values, ws[index].values, dys[index].values])
            };
            (dxs, dws) = (0..all.len()).map(one).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        }
        let mut dxs = dxs.into_iter();
        let mut dx = dxs.next().ok_or_else(missing)?;
        dxs.for_each(|more| add(&mut dx, &more));
        Ok((dx, dws))
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

    /// dx of a product in f32.
    pub(super) fn input_gradient(&self, w: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        let w = self.matrix(w)?;
        let dy = Matrix { values: dy, rows: dy.len() / w.rows, cols: w.rows };
        Ok(matmul_span(Part::MatmulInput, [dy.rows, w.rows, w.cols], || matmul(mat(dy), mat(w))))
    }
}

/// dw = dyᵀ x of a product in f32, added to `sum` if there is one.
pub(super) fn add_weight_gradient(sum: Option<Vec<f32>>, dy: Mat<'_>, x: &[f32]) -> Vec<f32> {
    let d_in = x.len() / dy.rows.max(1);
    let x = Mat::row_major(x, dy.rows, d_in);
    matmul_span(Part::MatmulWeight, [dy.cols, dy.rows, d_in], || match sum {
        Some(sum) => add_matmul(sum, dy.t(), x),
        None => matmul(dy.t(), x),
    })
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

/// Floats per task of a pass that does next to nothing with each.
const TASK: usize = 32 * 1024;

/// sum ← sum + x.
pub(super) fn add(sum: &mut [f32], x: &[f32]) {
    span(Part::Residual, Work::floats(3 * x.len()), || {
        sum.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(sum, x)| simd::add(sum, x));
    });
}
