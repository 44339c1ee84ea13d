//! The weight products inside a block.

use crate::Kernels;
use crate::matmul::{Mat, add_matmul, matmul};
use crate::profile::{Part, Work, matmul_span, span};
use crate::quantized::{Computation, Kept, Matrix, QuantizedLinear};
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
        let w = self.matrix(w)?;
        let x = Matrix { values: x, rows: x.len() / w.cols, cols: w.cols };
        match &self.low {
            None => {
                let y =
                    matmul_span(Part::MatmulForward, [x.rows, x.cols, w.rows], || matmul(mat(x), mat(w).t()));
                Ok((y, None))
            }
            Some(how) => {
                let (y, kept) = Computation { kernels: Kernels::Portable, how }.forward(x, w)?;
                Ok((y, Some(kept)))
            }
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
        let sum = span(Part::Residual, Work::floats(2 * residual.len()), || copy(residual));
        let shape = [x.rows, x.cols, w.rows];
        Ok((matmul_span(Part::MatmulForward, shape, || add_matmul(sum, mat(x), mat(w).t())), None))
    }

    /// dw, and dx, which is added to what `dx` holds.
    pub(super) fn backward(
        &self,
        state: &State,
        [x, w, dy]: [&[f32]; 3],
        dx: &mut Option<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let (Some(how), Some(kept)) = (&self.low, state) else {
            *dx = Some(self.product_with_weight(w, dy, dx.take())?);
            return self.weight_gradient(x, dy);
        };
        let w = self.matrix(w)?;
        let x = Matrix { values: x, rows: x.len() / w.cols, cols: w.cols };
        let dy = Matrix { values: dy, rows: x.rows, cols: w.rows };
        let computation = Computation { kernels: Kernels::Portable, how };
        let [of_x, of_w] = computation.backward(kept, x, w, dy, [true, true])?;
        let (Some(of_x), Some(of_w)) = (of_x, of_w) else {
            candle_core::bail!("internal error: a product left out a gradient that was asked for")
        };
        match dx {
            Some(sum) => add(sum, &of_x),
            None => *dx = Some(of_x),
        }
        Ok(of_w)
    }

    /// dx of a product in f32.
    pub(super) fn input_gradient(&self, w: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        self.product_with_weight(w, dy, None)
    }

    /// dy w, added to `sum` if there is one.
    fn product_with_weight(&self, w: &[f32], dy: &[f32], sum: Option<Vec<f32>>) -> Result<Vec<f32>> {
        let w = self.matrix(w)?;
        let dy = Matrix { values: dy, rows: dy.len() / w.rows, cols: w.rows };
        Ok(matmul_span(Part::MatmulInput, [dy.rows, w.rows, w.cols], || match sum {
            Some(sum) => add_matmul(sum, mat(dy), mat(w)),
            None => matmul(mat(dy), mat(w)),
        }))
    }

    /// dw of a product in f32.
    pub(super) fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        self.add_weight_gradient(None, x, dy)
    }

    /// dw of a product in f32, added to `sum` if there is one.
    pub(super) fn add_weight_gradient(
        &self,
        sum: Option<Vec<f32>>,
        x: &[f32],
        dy: &[f32],
    ) -> Result<Vec<f32>> {
        let (d_out, d_in) = self.weight.dims2()?;
        let x = Matrix { values: x, rows: x.len() / d_in, cols: d_in };
        let dy = Matrix { values: dy, rows: x.rows, cols: d_out };
        Ok(matmul_span(Part::MatmulWeight, [d_out, x.rows, d_in], || match sum {
            Some(sum) => add_matmul(sum, mat(dy).t(), mat(x)),
            None => matmul(mat(dy).t(), mat(x)),
        }))
    }
}

fn mat(matrix: Matrix<'_>) -> Mat<'_> {
    Mat::row_major(matrix.values, matrix.rows, matrix.cols)
}

/// Floats per task of a pass that does next to nothing with each.
const TASK: usize = 32 * 1024;

/// sum ← sum + x.
pub(super) fn add(sum: &mut [f32], x: &[f32]) {
    span(Part::Residual, Work::floats(3 * x.len()), || {
        sum.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(sum, x)| {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum += x;
            }
        });
    });
}

/// A copy made by all threads.
fn copy(x: &[f32]) -> Vec<f32> {
    crate::buffers::fill_one(x.len(), 4096, |task, y| y.copy_from_slice(&x[task * 4096..][..y.len()]))
}
