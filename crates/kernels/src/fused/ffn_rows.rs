//! A feed-forward block in f32 whose tasks take some rows all the way through it.

use super::ffn_block::{FfnBlock, Kept, Weights};
use super::residual_blocks::Gradients;
use super::{Formats, rows_of};
use crate::Pointwise;
use crate::f32_matmul::{Products, RowTask};
use crate::matmul::{Before, Mat, MatMut, Update, products, written};
use crate::pointwise::{product_and_gradients_into, product_into, value_and_gradient_into};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::rms_norm;

/// A block in f32 throughout, without a norm before its down projection, with weights that are packed together.
pub(super) struct FfnRows<'a> {
    block: &'a FfnBlock,
    w: &'a Weights<'a>,
    products: Products,
    x: &'a [f32],
    /// Rows of x.
    n: usize,
    d: usize,
    d_ff: usize,
    /// d_ff, or 0 without a gate.
    d_gate: usize,
}

// Numbers of the right operands.
const UP: usize = 0;
const DOWN: usize = 1;
const GATE: usize = 2;

impl<'a> FfnRows<'a> {
    /// The block on the rows of x, if it is one of this kind.
    pub(super) fn new(block: &'a FfnBlock, x: &'a [f32], w: &'a Weights<'a>) -> Option<Self> {
        let FfnBlock { gate, up, sub_norm, down, formats, .. } = block;
        if sub_norm.is_some() || *formats != Formats::FULL || block.is_low() {
            return None;
        }
        let (d_ff, d) = up.projection.weight.dims2().ok()?;
        let fit = block.branches().iter().all(|projection| projection.weight.dims() == [d_ff, d])
            && down.weight.dims() == [d, d_ff]
            && w.norm.len() == d
            && x.len().is_multiple_of(d.max(1));
        if !fit {
            return None;
        }
        let (n, d_gate) = (x.len() / d.max(1), if gate.is_some() { d_ff } else { 0 });
        let products = Products::of_rows(n, &transposed(right(w, [d, d_ff])))?;
        Some(Self { block, w, products, x, n, d, d_ff, d_gate })
    }

    fn functions(&self) -> (Option<&'a dyn Pointwise>, &'a dyn Pointwise) {
        (self.block.gate.as_ref().map(|branch| &*branch.function), &*self.block.up.function)
    }

    /// As [`super::residual_blocks::OnSlices::run`].
    pub(super) fn run(&self) -> (Vec<f32>, Kept) {
        let Self { n, d, d_ff, d_gate, .. } = *self;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            product(Part::MatmulForward, [n, d, d_ff + d_gate]),
            pass(Part::Activation, n * (d_ff + d_gate + d_ff)),
            product(Part::MatmulForward, [n, d_ff, d]),
        ]);
        let right = transposed(right(self.w, [d, d_ff]));
        // SAFETY: tasks write products to all rows of the results.
        let ([y, up, gate], rstd) = unsafe {
            written(n, [d, d_ff, d_gate], |results| {
                parts.run(|clocks| {
                    self.products.with_packed(&right, |right| {
                        right.by_rows(results, [d, d_ff], |task| self.run_rows(task, clocks))
                    })
                })
            })
        };
        let gate = self.block.gate.is_some().then_some(gate);
        (y, Kept { rstd: rstd.concat(), gate, up, ..Kept::default() })
    }

    /// Returns `rstd` of the norm.
    fn run_rows(&self, task: RowTask<'_, 3, 2>, clocks: &[Clock; 4]) -> Vec<f32> {
        let RowTask { rows, results: [mut y, mut up, mut gate], scratch: [normed, hidden], mut products } =
            task;
        let Self { block, w, d, d_ff, .. } = *self;
        let [norm, inward, activation, outward] = clocks;
        let x = rows_of(self.x, &rows, d);
        let rstd = norm.time(|| rms_norm::forward_rows(x, w.norm, block.norm.eps as f32, normed));
        inward.time(|| {
            let mut results = vec![(UP, &mut up, Update::OVERWRITE)];
            if block.gate.is_some() {
                results.push((GATE, &mut gate, Update::OVERWRITE));
            }
            products.multiply(Mat::row_major(normed, rows.len(), d), &mut results);
        });
        activation.time(|| match self.functions() {
            (Some(gate_fn), up_fn) => {
                product_into([gate.elements(), up.elements()], [gate_fn, up_fn], hidden);
            }
            (None, up_fn) => up_fn.value(up.elements(), hidden),
        });
        outward.time(|| {
            let residual = Before::Other(Mat::row_major(x, rows.len(), d));
            let update = Update { before: residual, ..Update::OVERWRITE };
            products.multiply(Mat::row_major(hidden, rows.len(), d_ff), &mut [(DOWN, &mut y, update)]);
        });
        rstd
    }

    /// As [`super::residual_blocks::OnSlices::back`].
    pub(super) fn back(&self, kept: &Kept, grad: &[f32]) -> Gradients {
        let Self { n, d, d_ff, d_gate, .. } = *self;
        let parts = Shared::new([
            product(Part::MatmulInput, [n, d, d_ff]),
            pass(Part::Activation, n * 2 * (d_ff + d_gate + d_ff)),
            product(Part::MatmulInput, [n, d_ff + d_gate, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let right = right(self.w, [d, d_ff]);
        let widths = [d, d, d_ff, d_ff, d_gate];
        // SAFETY: tasks write all rows of the results.
        let ([of_x, normed, hidden, of_up, of_gate], partial) = unsafe {
            written(n, widths, |results| {
                parts.run(|clocks| {
                    let task = |task: RowTask<'_, 5, 2>| self.back_rows(task, clocks, kept, grad);
                    self.products.with_packed(&right, |right| right.by_rows(results, [d_ff, d], task))
                })
            })
        };
        let mat = |x, cols| Mat::row_major(x, n, cols);
        let branches = if d_gate > 0 { vec![&of_gate, &of_up] } else { vec![&of_up] };
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [d_ff + d_gate + d_ff, n, d], || {
            let of_branches = branches.into_iter().map(|dy| (mat(dy, d_ff).t(), mat(&normed, d)));
            products(of_branches.chain([(mat(grad, d).t(), mat(&hidden, d_ff))]))
        });
        let of_norm = rms_norm::sum_partial_dw(d, partial);
        Gradients { of_x, of_weights: [of_norm].into_iter().chain(of_products).collect() }
    }

    /// Returns sums for the gradient of the norm's weight.
    fn back_rows(&self, task: RowTask<'_, 5, 2>, clocks: &[Clock; 4], kept: &Kept, grad: &[f32]) -> Vec<f32> {
        let RowTask { rows, results, scratch: [of_hidden, of_normed], mut products } = task;
        let [mut of_x, mut normed, mut hidden, mut of_up, mut of_gate] = results;
        let Self { w, d, d_ff, .. } = *self;
        let [outward, activation, inward, norm] = clocks;
        let (x, grad, rstd) = (rows_of(self.x, &rows, d), rows_of(grad, &rows, d), &kept.rstd[rows.clone()]);
        let mat = |x, cols| Mat::row_major(x, rows.len(), cols);
        outward.time(|| {
            let mut of_hidden = MatMut::row_major(of_hidden, rows.len(), d_ff);
            products.multiply(mat(grad, d), &mut [(DOWN, &mut of_hidden, Update::OVERWRITE)]);
        });
        activation.time(|| {
            let (up, results) = (rows_of(&kept.up, &rows, d_ff), [hidden.elements(), of_up.elements()]);
            let [hidden, of_up] = results;
            match (self.functions(), &kept.gate) {
                ((Some(gate_fn), up_fn), Some(gate)) => {
                    let inputs = [rows_of(gate, &rows, d_ff), up, of_hidden];
                    let results = [hidden, of_gate.elements(), of_up];
                    product_and_gradients_into(inputs, [gate_fn, up_fn], results);
                }
                ((_, up_fn), _) => value_and_gradient_into(up_fn, [up, of_hidden], [hidden, of_up]),
            }
        });
        inward.time(|| {
            let mut of_normed = MatMut::row_major(of_normed, rows.len(), d);
            let mut update = Update::OVERWRITE;
            if kept.gate.is_some() {
                products.multiply(mat(of_gate.elements(), d_ff), &mut [(GATE, &mut of_normed, update)]);
                update = Update::ACCUMULATE;
            }
            products.multiply(mat(of_up.elements(), d_ff), &mut [(UP, &mut of_normed, update)]);
        });
        norm.time(|| {
            rms_norm::again_rows(x, w.norm, rstd, normed.elements());
            rms_norm::backward_rows(x, w.norm, rstd, of_normed, Some(grad), of_x.elements())
        })
    }
}

/// The weights as gradients are multiplied with them.
fn right<'a>(w: &Weights<'a>, [d, d_ff]: [usize; 2]) -> Vec<Mat<'a>> {
    let mut right = vec![Mat::row_major(w.up, d_ff, d), Mat::row_major(w.down, d, d_ff)];
    if !w.gate.is_empty() {
        right.push(Mat::row_major(w.gate, d_ff, d));
    }
    right
}

/// From those of gradients to those of values.
fn transposed(right: Vec<Mat<'_>>) -> Vec<Mat<'_>> {
    right.into_iter().map(Mat::t).collect()
}
