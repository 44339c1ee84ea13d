//! Products of quantised operands: sums in f32, scales applied to the sums.

use crate::buffers::fill_one;
use crate::matmul::{Mat, MatMut, Mode, matmul_into, matmul_with};
use candle_core::{Device, Result, Tensor};
use numerics::{Contraction, Operand, OuterScale};
use rayon::prelude::*;

/// One factor of a product, as lines (the index that remains) by steps (the index summed over).
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    operand: &'a Operand,
    rows: usize,
    cols: usize,
    contraction: Contraction,
}

impl<'a> Factor<'a> {
    /// The operand as a row-major matrix \[rows, cols\] of which `contraction` is summed over.
    pub(crate) fn new(operand: &'a Operand, rows: usize, cols: usize, contraction: Contraction) -> Self {
        Self { operand, rows, cols, contraction }
    }

    /// Its values as lines by steps.
    fn mat(&self) -> Mat<'a> {
        let mat = Mat::row_major(&self.operand.values, self.rows, self.cols);
        match self.contraction {
            Contraction::Columns => mat,
            Contraction::Rows => mat.t(),
        }
    }

    /// Lines of a, steps of both, lines of b.
    pub(crate) fn product_shape(a: Self, b: Self) -> [usize; 3] {
        let (a, b) = (a.mat(), b.mat());
        [a.rows, a.cols, b.rows]
    }

    /// What the operand stands for, exactly, as an f64 tensor of lines by steps.
    pub(crate) fn decoded(&self) -> Result<Tensor> {
        let (lines, steps) = (self.mat().rows, self.mat().cols);
        let block = self.block().unwrap_or(steps);
        let at = |line: usize, step: usize| {
            let index = match self.contraction {
                Contraction::Columns => line * self.cols + step,
                Contraction::Rows => step * self.cols + line,
            };
            f64::from(self.operand.values[index]) * f64::from(self.scale(line, step / block))
        };
        let values: Vec<f64> = (0..lines)
            .flat_map(|line| (0..steps).map(move |step| (line, step)))
            .map(|(l, s)| at(l, s))
            .collect();
        Tensor::from_vec(values, (lines, steps), &Device::Cpu)
    }

    /// The scale of a line in a block of steps.
    fn scale(&self, line: usize, block: usize) -> f32 {
        match &self.operand.outer {
            OuterScale::Uniform(scale) => *scale,
            OuterScale::PerLine(scales) => scales[line],
            OuterScale::PerBlock { size, scales } => {
                let blocks = self.mat().cols.div_ceil(*size);
                scales[line * blocks + block]
            }
        }
    }

    /// Steps that share a scale, where not all do.
    fn block(&self) -> Option<usize> {
        match &self.operand.outer {
            OuterScale::Uniform(_) | OuterScale::PerLine(_) => None,
            OuterScale::PerBlock { size, .. } => Some(*size),
        }
    }
}

/// Lines of the first factor that a task multiplies: enough to keep the GEMM busy, few enough to share out.
const LINES_PER_TASK: usize = 64;

/// a bᵀ over the steps that both have: \[lines of a, lines of b\], row-major, on all threads of the current pool.
///
/// # Errors
/// When the blocks of the two factors have different sizes.
pub(crate) fn scaled_matmul(a: Factor<'_>, b: Factor<'_>) -> Result<Vec<f32>> {
    let (left, right) = (a.mat(), b.mat().t());
    let block = match (a.block(), b.block()) {
        (None, None) => return Ok(unblocked(a, b)),
        (Some(size), None) | (None, Some(size)) => size,
        (Some(size), Some(other)) if size == other => size,
        (Some(size), Some(other)) => candle_core::bail!("blocks of {size} and of {other} in one product"),
    };
    let (cols, steps) = (right.cols, left.cols);
    let mut c = fill_one(left.rows * cols, LINES_PER_TASK * cols, |task, c| {
        let (first, lines) = (task * LINES_PER_TASK, c.len() / cols);
        let mut sums = vec![0.0; c.len()];
        let of_b = |block| (0..cols).map(|j| b.scale(j, block)).collect::<Vec<_>>();
        for (block_index, start) in (0..steps).step_by(block).enumerate() {
            let count = block.min(steps - start);
            let part = left.rows(first, lines).t().rows(start, count).t();
            let sums_view = MatMut::row_major(&mut sums, lines, cols);
            matmul_into(sums_view, Mode::Overwrite, 1.0, part, right.rows(start, count));
            let of_b = of_b(block_index);
            for (line, (c, sums)) in c.chunks_exact_mut(cols).zip(sums.chunks_exact(cols)).enumerate() {
                let of_a = a.scale(first + line, block_index);
                for ((c, sum), of_b) in c.iter_mut().zip(sums).zip(&of_b) {
                    *c += sum * (of_a * of_b);
                }
            }
        }
    });
    c.shrink_to_fit();
    Ok(c)
}

/// The product when every line has one scale.
fn unblocked(a: Factor<'_>, b: Factor<'_>) -> Vec<f32> {
    let (left, right) = (a.mat(), b.mat().t());
    if let (OuterScale::Uniform(of_a), OuterScale::Uniform(of_b)) = (&a.operand.outer, &b.operand.outer) {
        return matmul_with(of_a * of_b, left, right);
    }
    let mut c = matmul_with(1.0, left, right);
    let of_b: Vec<f32> = (0..right.cols).map(|j| b.scale(j, 0)).collect();
    let rows = c.par_chunks_mut(right.cols.max(1)).with_min_len(LINES_PER_TASK);
    rows.enumerate().for_each(|(line, row)| {
        let of_a = a.scale(line, 0);
        row.iter_mut().zip(&of_b).for_each(|(c, of_b)| *c *= of_a * of_b);
    });
    c
}
