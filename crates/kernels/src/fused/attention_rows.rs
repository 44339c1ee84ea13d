//! What comes before and after the heads of an attention block in f32, by tasks that take some rows through all of it.

use super::attention_block::{Kept, Shaped, Weights};
use super::residual_blocks::Gradients;
use super::{Formats, rows_of};
use crate::buffers::with_elements;
use crate::f32_matmul::{Products, RowTask};
use crate::heads::HeadShape;
use crate::matmul::{Mat, MatMut, Update, products, written};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::rms_norm;
use crate::rope::rotate_rows;
use candle_core::Result;

/// A block in f32 throughout, without a norm before its output projection, with weights that are packed together.
pub(super) struct AttentionRows<'a> {
    shaped: &'a Shaped,
    w: &'a Weights<'a>,
    products: Products,
    x: &'a [f32],
    /// Rows of x.
    n: usize,
    d: usize,
}

impl<'a> AttentionRows<'a> {
    /// The block on the rows of x, if it is one of this kind.
    pub(super) fn new(shaped: &'a Shaped, x: &'a [f32], w: &'a Weights<'a>) -> Option<Self> {
        let block = &shaped.block;
        if block.sub_norm.is_some() || block.formats != Formats::FULL || block.is_low() {
            return None;
        }
        let d = w.norm.len();
        let fit = block.qkv.iter().all(|projection| projection.weight.dims() == [d, d]);
        if !fit || !x.len().is_multiple_of(d.max(1)) {
            return None;
        }
        let n = x.len() / d.max(1);
        let products = Products::of_rows(n, &qkv(w, d).map(Mat::t))?;
        Some(Self { shaped, w, products, x, n, d })
    }

    /// Queries, keys and values, and `rstd` of the norm.
    pub(super) fn forward(&self) -> Result<([Vec<f32>; 3], Vec<f32>)> {
        let Self { n, d, .. } = *self;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            product(Part::MatmulForward, [n, d, 3 * d]),
            pass(Part::Rope, 4 * n * d),
        ]);
        let right = qkv(self.w, d).map(Mat::t);
        let [cos, sin] = &self.shaped.block.rotary;
        with_elements([cos, sin], |angles| {
            // SAFETY: tasks write products to all rows of the results.
            let (qkv, rstd) = unsafe {
                written(n, [d; 3], |results| {
                    parts.run(|clocks| {
                        let task = |task: RowTask<'_, 3, 1>| self.forward_rows(task, clocks, angles);
                        self.products.with_packed(&right, |right| right.by_rows(results, [d], task))
                    })
                })
            };
            Ok((qkv, rstd.concat()))
        })
    }

    fn forward_rows(&self, task: RowTask<'_, 3, 1>, clocks: &[Clock; 3], angles: [&[f32]; 2]) -> Vec<f32> {
        let RowTask { rows, results: [mut q, mut k, mut v], scratch: [normed], mut products } = task;
        let [norm, projections, rope] = clocks;
        let x = rows_of(self.x, &rows, self.d);
        let eps = self.shaped.block.norm.eps as f32;
        let rstd = norm.time(|| rms_norm::forward_rows(x, self.w.norm, eps, normed));
        projections.time(|| {
            let update = Update::OVERWRITE;
            let mut results = [(0, &mut q, update), (1, &mut k, update), (2, &mut v, update)];
            products.multiply(Mat::row_major(normed, rows.len(), self.d), &mut results);
        });
        rope.time(|| self.rotate([&mut q, &mut k], rows.start, angles, 1.0));
        rstd
    }

    /// Gradients from those of the output and of queries, keys and values.
    pub(super) fn back(&self, kept: &Kept, grad: &[f32], mut of_qkv: [Vec<f32>; 3]) -> Result<Gradients> {
        let Self { n, d, .. } = *self;
        let parts = Shared::new([
            pass(Part::Rope, 4 * n * d),
            product(Part::MatmulInput, [n, 3 * d, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let right = qkv(self.w, d);
        let [cos, sin] = &self.shaped.block.rotary;
        let [of_q, of_k, of_v] = of_qkv.each_mut().map(|x| MatMut::row_major(x, n, d));
        let ([of_x, normed], partial) = with_elements([cos, sin], |angles| {
            // SAFETY: tasks write all rows of the results.
            Ok(unsafe {
                written(n, [d; 2], |[of_x, normed]| {
                    parts.run(|clocks| {
                        let task = |task: RowTask<'_, 5, 1>| self.back_rows(task, clocks, angles, kept, grad);
                        let results = [of_x, normed, of_q, of_k, of_v];
                        self.products.with_packed(&right, |right| right.by_rows(results, [d], task))
                    })
                })
            })
        })?;
        let mat = |x| Mat::row_major(x, n, d);
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [4 * d, n, d], || {
            let of_qkv = of_qkv.iter().map(|dy| (mat(dy).t(), mat(&normed)));
            products(of_qkv.chain([(mat(grad).t(), mat(&kept.out))]))
        });
        let of_norm = rms_norm::sum_partial_dw(d, partial);
        Ok(Gradients { of_x, of_weights: [of_norm].into_iter().chain(of_products).collect() })
    }

    /// Returns sums for the gradient of the norm's weight.
    fn back_rows(
        &self,
        task: RowTask<'_, 5, 1>,
        clocks: &[Clock; 3],
        angles: [&[f32]; 2],
        kept: &Kept,
        grad: &[f32],
    ) -> Vec<f32> {
        let RowTask { rows, results, scratch: [of_normed], mut products } = task;
        let [mut of_x, mut normed, mut of_q, mut of_k, mut of_v] = results;
        let [rope, projections, norm] = clocks;
        rope.time(|| self.rotate([&mut of_q, &mut of_k], rows.start, angles, -1.0));
        projections.time(|| {
            let mut of_normed = MatMut::row_major(of_normed, rows.len(), self.d);
            let mut update = Update::OVERWRITE;
            for (index, dy) in [&mut of_q, &mut of_k, &mut of_v].into_iter().enumerate() {
                let dy = Mat::row_major(dy.elements(), rows.len(), self.d);
                products.multiply(dy, &mut [(index, &mut of_normed, update)]);
                update = Update::ACCUMULATE;
            }
        });
        norm.time(|| {
            let (x, rstd) = (rows_of(self.x, &rows, self.d), &kept.rstd[rows.clone()]);
            let grad = rows_of(grad, &rows, self.d);
            rms_norm::again_rows(x, self.w.norm, rstd, normed.elements());
            rms_norm::backward_rows(x, self.w.norm, rstd, of_normed, Some(grad), of_x.elements())
        })
    }

    fn rotate(&self, tensors: [&mut MatMut<'_>; 2], first: usize, [cos, sin]: [&[f32]; 2], direction: f32) {
        let HeadShape { t, .. } = self.shaped.shape;
        for x in tensors {
            rotate_rows(x.elements(), first, cos, sin, [t, self.d], direction);
        }
    }
}

/// The weights of queries, keys and values as gradients are multiplied with them.
fn qkv<'a>(w: &Weights<'a>, d: usize) -> [Mat<'a>; 3] {
    w.qkv.map(|w| Mat::row_major(w, d, d))
}
