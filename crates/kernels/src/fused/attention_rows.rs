//! What comes before and after the heads of an attention block, by tasks that take some rows through all of it.

use super::attention_block::{Kept, Shaped, Weights};
use super::residual_blocks::Gradients;
use super::row_products::{RowFormats, past_block, width_past_block};
use super::rows_of;
use crate::buffers::with_elements;
use crate::heads::HeadShape;
use crate::matmul::{Mat, MatMut, Update, written};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::quantized::Role;
use crate::rms_norm;
use crate::rope::rotate_rows;
use crate::round::round_rows;
use crate::row_operands::{Factor, Made, ToMake, products_over_rows};
use crate::row_tasks::{RowTask, RowUnit};
use candle_core::Result;

/// A block that rounds every value on its own, if any, without a norm before its output projection, with weights that are
/// packed together.
pub(super) struct AttentionRows<'a> {
    shaped: &'a Shaped,
    w: &'a Weights<'a>,
    unit: RowUnit,
    /// Formats of queries, keys and values.
    inward: RowFormats<'a>,
    /// Formats of the output projection.
    outward: RowFormats<'a>,
    x: &'a [f32],
    /// Rows of x.
    n: usize,
    d: usize,
}

/// The operands of the gradient of the output projection's weight: the block's gradient, and what the heads gave.
pub(super) type OutputOperands<'a> = [Made<'a>; 2];

/// Queries, keys and values, and `rstd` of the norm.
type BeforeHeads = ([Vec<f32>; 3], Vec<f32>);

impl<'a> AttentionRows<'a> {
    /// The block on the rows of x, if it is one of this kind.
    pub(super) fn new(shaped: &'a Shaped, x: &'a [f32], w: &'a Weights<'a>) -> Option<Self> {
        let block = &shaped.block;
        if block.sub_norm.is_some() {
            return None;
        }
        let (inward, outward) = (RowFormats::new(&block.qkv.each_ref())?, RowFormats::new(&[&block.o])?);
        let d = w.norm.len();
        let fit = block.qkv.iter().chain([&block.o]).all(|projection| projection.weight.dims() == [d, d]);
        if !fit || !x.len().is_multiple_of(d.max(1)) {
            return None;
        }
        let n = x.len() / d.max(1);
        let operands = inward.operands().max(outward.operands());
        let unit = RowUnit::new(n, &qkv(w, d).map(Mat::t), operands)?;
        Some(Self { shaped, w, unit, inward, outward, x, n, d })
    }

    /// Whether somebody wants to see operands whole.
    pub(super) fn is_looked_at(&self) -> bool {
        self.inward.are_looked_at() || self.outward.are_looked_at()
    }

    /// What comes before the heads.
    pub(super) fn before_heads(&self) -> Result<BeforeHeads> {
        let Self { n, d, .. } = *self;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            product(Part::MatmulForward, [n, d, 3 * d]),
            pass(Part::Rope, 4 * n * d),
        ]);
        let right = qkv(self.w, d).map(Mat::t);
        let round = |_, values: &mut [f32]| self.inward.round(Role::Weight, values);
        let [cos, sin] = &self.shaped.block.rotary;
        let (qkv, rstd) = with_elements([cos, sin], |angles| {
            // SAFETY: tasks write products to all rows of the results.
            Ok(unsafe {
                written(n, [d; 3], |results| {
                    parts.run(|clocks| {
                        let task = |task: RowTask<'_, 3, 1>| self.rows_before_heads(task, clocks, angles);
                        self.unit.with_packed(&right, round, |right| right.by_rows(results, [d], task))
                    })
                })
            })
        })?;
        self.inward.count_weights(&self.w.qkv);
        self.inward.tell(&[Role::Input, Role::Weight]);
        Ok((qkv, rstd.concat()))
    }

    fn rows_before_heads(
        &self,
        task: RowTask<'_, 3, 1>,
        clocks: &[Clock; 3],
        angles: [&[f32]; 2],
    ) -> Vec<f32> {
        let RowTask { rows, results: [mut q, mut k, mut v], scratch: [normed], mut products, .. } = task;
        let [norm, projections, rope] = clocks;
        let block = &self.shaped.block;
        let x = rows_of(self.x, &rows, self.d);
        let rstd =
            norm.time(|| self.inward.norm(&block.norm, [x, self.w.norm], block.formats.compute, normed));
        projections.time(|| {
            let update = Update::OVERWRITE;
            let mut results = [(0, &mut q, update), (1, &mut k, update), (2, &mut v, update)];
            let normed = Mat::row_major(normed, rows.len(), self.d);
            products.multiply_rounded(normed, &mut results, self.inward.output(), &mut []);
        });
        rope.time(|| {
            self.rotate([q.elements(), k.elements()], rows.start, angles, 1.0);
            round_rows(q.elements(), block.formats.compute);
            round_rows(k.elements(), block.formats.compute);
        });
        rstd
    }

    /// The block's result from that of the heads, which is rounded.
    pub(super) fn after_heads(&self, out: &mut [f32]) -> Vec<f32> {
        let Self { n, d, .. } = *self;
        let right = [Mat::row_major(self.w.o, d, d).t()];
        let round = |_, values: &mut [f32]| self.outward.round(Role::Weight, values);
        let out = MatMut::row_major(out, n, d);
        let formats = self.shaped.block.formats;
        let task = |task: RowTask<'_, 2, 2>| {
            let RowTask { rows, results: [mut y, mut out], scratch: [operand, part], mut products, .. } =
                task;
            round_rows(out.elements(), formats.compute);
            let mut out = &*out.elements();
            if operand.is_empty() {
                self.outward.count(Role::Input, out);
            } else {
                operand.copy_from_slice(out);
                self.outward.enter(formats.compute, Role::Input, operand);
                out = operand;
            }
            let (x, out) = (rows_of(self.x, &rows, d), Mat::row_major(out, rows.len(), d));
            self.outward.onto(x, &mut products, (out, 0), &mut y, part, formats.residual);
        };
        let widths = [self.width_of_operand(), self.outward.width_if_low(d)];
        // SAFETY: tasks write products to all rows of the result.
        let ([y], _) = matmul_span(Part::MatmulForward, [n, d, d], || unsafe {
            written(n, [d], |[y]| {
                self.unit.with_packed(&right, round, |right| right.by_rows([y, out], widths, task))
            })
        });
        self.outward.count_weights(&[self.w.o]);
        self.outward.tell(&[Role::Input, Role::Weight]);
        y
    }

    /// From the gradient of the block to that of what the heads gave.
    pub(super) fn back_to_heads<'g>(
        &self,
        kept: &'g Kept,
        grad: &'g [f32],
    ) -> (Vec<f32>, OutputOperands<'g>) {
        let Self { n, d, unit, .. } = *self;
        let formats = self.shaped.block.formats;
        let right = [Mat::row_major(self.w.o, d, d)];
        let round = |_, values: &mut [f32]| self.outward.round(Role::Weight, values);
        let task = |task: RowTask<'_, 1, 1, 2>| {
            let RowTask { rows, results: [mut of_out], operands, scratch: [residual], mut products } = task;
            let ([of_y, out], grad) = (operands, rows_of(grad, &rows, d));
            let [_, of_y] = self.outward.gradient(grad, formats.residual, residual, of_y);
            self.outward.input_gradient(&mut products, &[(of_y, 0)], &mut of_out, &mut []);
            self.outward.round_output(formats.compute, of_out.elements());
            if !out.is_empty() {
                out.copy_from_slice(rows_of(&kept.out, &rows, d));
                self.outward.round_from(formats.compute, Role::Input, out);
            }
        };
        let operand = |factor, mat, is_as_it_is| match is_as_it_is {
            true => ToMake::given(unit, factor, mat),
            false => ToMake::new(unit, factor, [n, d]),
        };
        let [of_y, out] = [grad, &kept.out[..]].map(|values| Mat::row_major(values, n, d));
        let operands = [
            operand(Factor::First, of_y, self.outward.is_full()),
            operand(Factor::Second, out, self.outward.holds(Role::Input, formats.compute)),
        ];
        let scratch = [self.width_past()];
        // SAFETY: tasks write all rows of the result and of the operands.
        let ([of_out], (_, operands)) = matmul_span(Part::MatmulInput, [n, d, d], || unsafe {
            written(n, [d], |results| {
                unit.with_packed(&right, round, |right| {
                    right.by_rows_making(results, operands, scratch, task)
                })
            })
        });
        self.outward.tell(&[Role::Grad]);
        (of_out, operands)
    }

    /// Gradients from those of the output and of queries, keys and values.
    pub(super) fn back(
        &self,
        kept: &Kept,
        grad: &[f32],
        of_output: &OutputOperands<'_>,
        of_qkv: [Vec<f32>; 3],
    ) -> Result<Gradients> {
        let Self { n, d, unit, .. } = *self;
        let parts = Shared::new([
            pass(Part::Rope, 4 * n * d),
            product(Part::MatmulInput, [n, 3 * d, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let right = qkv(self.w, d);
        let round = |_, values: &mut [f32]| self.inward.round(Role::Weight, values);
        let [cos, sin] = &self.shaped.block.rotary;
        let scratch = [d, self.inward.width_if_low(d), self.width_past()];
        let [q, k, v] = of_qkv.map(|values| ToMake::changed(unit, Factor::First, values, [n, d]));
        let of_heads = [&q.1[..], &k.1, &v.1];
        let operands = [ToMake::new(unit, Factor::Second, [n, d]), q.0, k.0, v.0];
        let ([of_x], (partial, [normed, of_q, of_k, of_v])) = with_elements([cos, sin], |angles| {
            // SAFETY: tasks write all rows of the result and of the operands.
            Ok(unsafe {
                written(n, [d], |results| {
                    parts.run(|clocks| {
                        let task = |task: RowTask<'_, 1, 3, 4>| {
                            self.back_rows(task, clocks, angles, kept, of_heads, grad)
                        };
                        unit.with_packed(&right, round, |right| {
                            right.by_rows_making(results, operands, scratch, task)
                        })
                    })
                })
            })
        })?;
        self.inward.tell(&[Role::Grad]);
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [4 * d, n, d], || {
            let [of_y, out] = of_output;
            let pairs = [(&of_q, &normed), (&of_k, &normed), (&of_v, &normed), (of_y, out)];
            products_over_rows(unit, &pairs.map(|(dy, x)| (1.0, dy, x)))
        });
        let of_norm = rms_norm::sum_partial_dw(d, partial);
        Ok(Gradients { of_x, of_weights: [of_norm].into_iter().chain(of_products).collect() })
    }

    /// Returns sums for the gradient of the norm's weight.
    fn back_rows(
        &self,
        task: RowTask<'_, 1, 3, 4>,
        clocks: &[Clock; 3],
        angles: [&[f32]; 2],
        kept: &Kept,
        of_heads: [&[f32]; 3],
        grad: &[f32],
    ) -> Vec<f32> {
        let RowTask { rows, results: [mut of_x], operands, scratch, mut products } = task;
        let [normed, of_q, of_k, of_v] = operands;
        let [of_normed, another, residual] = scratch;
        let [rope, projections, norm] = clocks;
        let (formats, d) = (self.shaped.block.formats, self.d);
        rope.time(|| {
            for (of_x, of_head) in [&mut *of_q, &mut *of_k, &mut *of_v].into_iter().zip(of_heads) {
                if !of_head.is_empty() {
                    of_x.copy_from_slice(rows_of(of_head, &rows, d));
                }
            }
            round_rows(of_q, formats.compute);
            round_rows(of_k, formats.compute);
            self.rotate([&mut *of_q, &mut *of_k], rows.start, angles, -1.0);
        });
        projections.time(|| {
            let mut dys = [(of_q, 0), (of_k, 1), (of_v, 2)];
            for (dy, index) in &mut dys {
                self.inward.enter_one(*index, Role::Grad, dy);
            }
            let dys = dys.map(|(dy, index)| (&*dy, index));
            let mut of_normed = MatMut::row_major(of_normed, rows.len(), d);
            self.inward.input_gradient(&mut products, &dys, &mut of_normed, another);
        });
        norm.time(|| {
            let (x, rstd) = (rows_of(self.x, &rows, d), &kept.rstd[rows.clone()]);
            let grad = past_block(rows_of(grad, &rows, d), formats.residual, residual);
            let results = [normed, of_x.elements()];
            self.inward.norm_backward([x, self.w.norm, rstd, grad], formats.compute, of_normed, results)
        })
    }

    /// Width of a copy of what the heads gave, where it is not an operand as it is.
    fn width_of_operand(&self) -> usize {
        let holds = self.outward.holds(Role::Input, self.shaped.block.formats.compute);
        if holds { 0 } else { self.d }
    }

    /// Width of a gradient's copy as it goes past the block.
    fn width_past(&self) -> usize {
        width_past_block(self.shaped.block.formats.residual, self.d)
    }

    fn rotate(&self, tensors: [&mut [f32]; 2], first: usize, [cos, sin]: [&[f32]; 2], direction: f32) {
        let HeadShape { t, .. } = self.shaped.shape;
        for x in tensors {
            rotate_rows(x, first, cos, sin, [t, self.d], direction);
        }
    }
}

/// The weights of queries, keys and values as gradients are multiplied with them.
fn qkv<'a>(w: &Weights<'a>, d: usize) -> [Mat<'a>; 3] {
    w.qkv.map(|w| Mat::row_major(w, d, d))
}
