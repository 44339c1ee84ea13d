//! What comes before and after the heads of an attention block, by tasks that take some rows through all of it.

use super::attention_block::{AttentionBlock, Kept, Shaped, Weights};
#[cfg(target_arch = "x86_64")]
use super::attention_tiles::AttentionTiles;
use super::backward_rows::{BackwardRows, WeightOperands};
use super::forward_rows::ForwardRows;
use super::projection::State;
use super::residual_blocks::Gradients;
use super::row_products::{norm_rows, past_block, width_past_block};
use super::row_projections::RowProjections;
#[cfg(target_arch = "x86_64")]
use super::row_projections::in_bf16;
use super::{Formats, rows_of};
#[cfg(target_arch = "x86_64")]
use crate::bf16_matmul::{Amx, BLOCK};
use crate::buffers::with_elements;
use crate::matmul::{Mat, MatMut, written};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::rms_norm;
use crate::rope::rotate_rows;
use crate::round::round_rows;
use crate::row_operands::{Factor, ToMake, products_over_rows};
use crate::row_tasks::{RowTask, RowUnit};
use candle_core::Result;
use numerics::{Extent, NumericFormat};
use std::ops::Range;
use std::slice;

/// A block whose operands tasks make of their own rows, with weights that are packed together.
pub(super) struct AttentionRows<'a> {
    shaped: &'a Shaped,
    w: &'a Weights<'a>,
    unit: RowUnit,
    /// Those to queries, keys and values.
    inward: RowProjections<'a>,
    /// The output projection.
    outward: RowProjections<'a>,
    x: &'a [f32],
    /// Rows of x.
    n: usize,
    d: usize,
    /// d, or 0 without a norm before the output projection.
    d_sub_norm: usize,
}

/// Queries, keys and values, `rstd` of the norm, and states.
type BeforeHeads = ([Vec<f32>; 3], Vec<f32>, Vec<State>);

/// The block's result, `rstd` of the norm before the output projection, and the state of that.
type AfterHeads = (Vec<f32>, Vec<f32>, State);

/// The gradient of what the heads gave, sums for that of the norm's weight, and operands of that of the output projection's.
pub(super) type BackToHeads<'g> = (Vec<f32>, Vec<Vec<f32>>, WeightOperands<'g>);

impl<'a> AttentionRows<'a> {
    /// The block on the rows of x, if it is one of this kind.
    pub(super) fn new(shaped: &'a Shaped, x: &'a [f32], w: &'a Weights<'a>) -> Option<Self> {
        let block = &shaped.block;
        let d = w.norm.len();
        let fit = block.qkv.iter().chain([&block.o]).all(|projection| projection.weight.dims() == [d, d]);
        if !fit || !x.len().is_multiple_of(d.max(1)) {
            return None;
        }
        let n = x.len() / d.max(1);
        let inward = RowProjections::new(&block.qkv.each_ref(), &w.qkv, n)?;
        let outward = RowProjections::new(&[&block.o], &[w.o], n)?;
        let unit = inward.unit(&outward, n, &w.qkv.map(|w| Mat::row_major(w, d, d).t()))?;
        let d_sub_norm = if block.sub_norm.is_some() { d } else { 0 };
        Some(Self { shaped, w, unit, inward, outward, x, n, d, d_sub_norm })
    }

    /// Whether somebody wants to see operands whole.
    pub(super) fn is_looked_at(&self) -> bool {
        self.inward.are_looked_at() || self.outward.are_looked_at()
    }

    /// The block as one whose heads stay on tiles, if it is of that kind too.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn on_tiles(&self) -> Option<AttentionTiles<'_, Amx>> {
        let Self { shaped, w, x, n, d, .. } = *self;
        let (unit, inward, outward) = in_bf16(self.unit, self.formats(), [&self.inward, &self.outward])?;
        let is_whole = [shaped.shape.t, shaped.shape.d].iter().all(|len| len.is_multiple_of(BLOCK));
        let is_one = is_whole && self.d_sub_norm == 0;
        is_one.then_some(AttentionTiles { unit, rows: self.unit, shaped, w, inward, outward, x, n, d })
    }

    fn formats(&self) -> Formats {
        self.shaped.block.formats
    }

    /// What comes before the heads.
    pub(super) fn before_heads(&self, keep: bool) -> Result<BeforeHeads> {
        let Self { n, d, unit, .. } = *self;
        let block = &self.shaped.block;
        let of_normed = self.inward.extent(n, |rows| {
            let x = rows_of(self.x, &rows, d);
            let mut normed = vec![0.0; x.len()];
            norm_rows(&block.norm, [x, self.w.norm], block.formats.compute, &mut normed, |_| {});
            Extent::of(&normed)
        });
        let forward = self.inward.forward(&block.qkv.each_ref(), &self.w.qkv, (n, of_normed), keep)?;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            pass(Part::Quantise, 2 * n * d),
            product(Part::MatmulForward, [n, d, 3 * d]),
            pass(Part::Rope, 4 * n * d),
        ]);
        let right = forward.right();
        let round = |_, values: &mut [f32]| forward.round_weight(values);
        let (scratch, across) = ([d, forward.own_width()], [forward.across(unit, n)]);
        let [cos, sin] = &block.rotary;
        let (qkv, (rstd, [across])) = with_elements([cos, sin], |angles| {
            // SAFETY: tasks write products to all rows of the results, and all rows of an operand.
            Ok(unsafe {
                unit.write_rows((n, [d; 3]), (&right, round), across, scratch, parts, |task, clocks| {
                    self.rows_before_heads(task, clocks, &forward, angles)
                })
            })
        })?;
        drop(right);
        Ok((qkv, rstd.concat(), forward.states(across)))
    }

    fn rows_before_heads(
        &self,
        task: RowTask<'_, 3, 2, 1>,
        clocks: &[Clock; 4],
        forward: &ForwardRows<'_>,
        angles: [&[f32]; 2],
    ) -> Vec<f32> {
        let RowTask { rows, results, operands: [across], scratch: [normed, own], mut products } = task;
        let [mut q, mut k, mut v] = results;
        let [norm, quantise, projections, rope] = clocks;
        let format = self.formats().compute;
        let x = rows_of(self.x, &rows, self.d);
        let rstd = norm.time(|| {
            let enter = |normed: &mut [f32]| forward.round_in_place(format, normed);
            norm_rows(&self.shaped.block.norm, [x, self.w.norm], format, normed, enter)
        });
        let left = forward.enter(quantise, rows.start, normed, own, across);
        projections.time(|| forward.multiply(&mut products, &left, 0, &mut [&mut q, &mut k, &mut v]));
        rope.time(|| {
            for x in [q.elements(), k.elements()] {
                self.rotate(x, rows.start, angles, 1.0);
                round_rows(x, format);
            }
        });
        rstd
    }

    /// The block's result from that of the heads, which is rounded.
    pub(super) fn after_heads(&self, out: &mut [f32], keep: bool) -> Result<AfterHeads> {
        let Self { n, d, d_sub_norm, unit, .. } = *self;
        let AttentionBlock { o, sub_norm, .. } = &self.shaped.block;
        let of_operand = self.outward.extent(n, |rows| {
            let mut out = rows_of(out, &rows, d).to_vec();
            round_rows(&mut out, self.formats().compute);
            let Some(norm) = sub_norm else { return Extent::of(&out) };
            let mut normed = vec![0.0; out.len()];
            norm_rows(norm, [&out, self.w.sub_norm], self.formats().compute, &mut normed, |_| {});
            Extent::of(&normed)
        });
        let forward = self.outward.forward(&[o], &[self.w.o], (n, of_operand), keep)?;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d_sub_norm),
            pass(Part::Quantise, 2 * n * d),
            product(Part::MatmulForward, [n, d, d]),
        ]);
        let right = forward.right();
        let round = |_, values: &mut [f32]| forward.round_weight(values);
        let copy = if d_sub_norm > 0 || self.outward.takes(self.formats().compute) { 0 } else { d };
        let scratch = [copy, d_sub_norm, forward.own_width(), self.outward.width_if_low(d)];
        let across = [forward.across(unit, n)];
        let out = MatMut::row_major(out, n, d);
        let task =
            |task: RowTask<'_, 2, 4, 1>, clocks: &[Clock; 3]| self.rows_after_heads(task, clocks, &forward);
        // SAFETY: tasks write products to all rows of the result, and all rows of an operand.
        let ([y], (sub_rstd, [across])) = unsafe {
            written(n, [d], |[y]| {
                parts.run(|clocks| {
                    unit.with_packed(&right, round, |right| {
                        right.by_rows_making([y, out], across, scratch, |rows| task(rows, clocks))
                    })
                })
            })
        };
        drop(right);
        Ok((y, sub_rstd.concat(), forward.states(across).pop().flatten()))
    }

    /// Returns `rstd` of the norm before the output projection.
    fn rows_after_heads(
        &self,
        task: RowTask<'_, 2, 4, 1>,
        [norm, quantise, projection]: &[Clock; 3],
        forward: &ForwardRows<'_>,
    ) -> Vec<f32> {
        let RowTask { rows, results, operands: [across], scratch, mut products } = task;
        let ([mut y, mut out], [copy, normed, own, part]) = (results, scratch);
        let (formats, mut sub_rstd) = (self.formats(), vec![]);
        let out = out.elements();
        projection.time(|| round_rows(out, formats.compute));
        let operand = match &self.shaped.block.sub_norm {
            Some(sub_norm) => {
                let enter = |normed: &mut [f32]| forward.round_in_place(formats.compute, normed);
                sub_rstd =
                    norm.time(|| norm_rows(sub_norm, [out, self.w.sub_norm], formats.compute, normed, enter));
                &*normed
            }
            None => forward.round_copy(quantise, formats.compute, out, copy),
        };
        let left = forward.enter(quantise, rows.start, operand, own, across);
        let x = rows_of(self.x, &rows, self.d);
        projection.time(|| forward.onto(x, &mut products, (&left, 0), &mut y, part, formats.residual));
        sub_rstd
    }

    /// From the gradient of the block to that of what the heads gave.
    pub(super) fn back_to_heads<'g>(&self, kept: &'g Kept, grad: &'g [f32]) -> Result<BackToHeads<'g>> {
        let Self { n, d, d_sub_norm, unit, .. } = *self;
        let formats = self.formats();
        let state = slice::from_ref(&kept.o_state);
        let of_grad = self.outward.extent(n, |rows| {
            let mut past = vec![0.0; rows.len() * self.width_past()];
            Extent::of(past_block(rows_of(grad, &rows, d), formats.residual, &mut past))
        });
        let o = &self.shaped.block.o;
        let backward = self.outward.backward(&[o], &[self.w.o], (n, &[of_grad]), state)?;
        let parts = Shared::new([
            pass(Part::Quantise, 2 * n * d),
            product(Part::MatmulInput, [n, d, d]),
            pass(Part::Norm, 4 * n * d_sub_norm),
        ]);
        let right = backward.right();
        let round = |_, values: &mut [f32]| backward.round_weight(values);
        let of_y = match backward.is_full() {
            true => ToMake::given(unit, Factor::First, Mat::row_major(grad, n, d)),
            false => backward.across(0, unit, n),
        };
        let out = match d_sub_norm == 0 && backward.holds_input(formats.compute) {
            true => ToMake::given(unit, Factor::Second, Mat::row_major(&kept.out, n, d)),
            false => backward.input(unit, n),
        };
        let scratch = [self.width_past(), backward.own_width(), d_sub_norm];
        let task = |task: RowTask<'_, 1, 3, 2>, clocks: &[Clock; 3]| {
            self.rows_back_to_heads(task, clocks, &backward, kept, grad)
        };
        // SAFETY: tasks write all rows of the result and of the operands.
        let ([of_out], (of_sub_norm, [of_y, out])) =
            unsafe { unit.write_rows((n, [d]), (&right, round), [of_y, out], scratch, parts, task) };
        drop(right);
        Ok((of_out, of_sub_norm, backward.operands(vec![of_y], out)))
    }

    /// Returns sums for the gradient of the weight of the norm before the output projection.
    fn rows_back_to_heads(
        &self,
        task: RowTask<'_, 1, 3, 2>,
        [quantise, projection, norm]: &[Clock; 3],
        backward: &BackwardRows<'_>,
        kept: &Kept,
        grad: &[f32],
    ) -> Vec<f32> {
        let RowTask { rows, results: [mut of_out], operands: [of_y, out], scratch, mut products } = task;
        let [past, own, of_normed] = scratch;
        let Formats { compute, residual } = self.formats();
        let grad = past_block(rows_of(grad, &rows, self.d), residual, past);
        let left = backward.enter_copy(quantise, 0, rows.start, (grad, residual), own, of_y);
        let (x, of_out) = (rows_of(&kept.out, &rows, self.d), of_out.elements());
        let of_operand = if self.d_sub_norm > 0 { &mut *of_normed } else { &mut *of_out };
        projection.time(|| {
            let mut dx = MatMut::row_major(of_operand, rows.len(), self.d);
            backward.add(0, &mut products, (&left, 0), &mut dx, &mut []);
            backward.round_output(compute, of_operand);
        });
        if self.d_sub_norm > 0 {
            return norm.time(|| {
                let (w, rstd) = (self.w.sub_norm, &kept.sub_rstd[rows.clone()]);
                backward.norm_again([x, w, rstd], compute, out);
                let partial = rms_norm::backward_rows(x, w, rstd, of_normed, None, of_out);
                round_rows(of_out, compute);
                partial
            });
        }
        if !out.is_empty() {
            projection.time(|| {
                out.copy_from_slice(x);
                backward.round_input(compute, out);
            });
        }
        vec![]
    }

    /// Gradients from those of queries, keys and values, and what [`AttentionRows::back_to_heads`] returned besides.
    pub(super) fn back(
        &self,
        kept: &Kept,
        grad: &[f32],
        (of_sub_norm, of_output): (Vec<Vec<f32>>, &WeightOperands<'_>),
        of_qkv: [Vec<f32>; 3],
    ) -> Result<Gradients> {
        let Self { n, d, d_sub_norm, unit, .. } = *self;
        let block = &self.shaped.block;
        let extents = with_elements(block.rotary.each_ref(), |angles| {
            let of_head = |index: usize, rows: Range<usize>| {
                let mut dy = rows_of(&of_qkv[index], &rows, d).to_vec();
                self.back_through_angles(index, rows.start, angles, &mut dy);
                Extent::of(&dy)
            };
            Ok([0, 1, 2].map(|index| self.inward.extent(n, |rows| of_head(index, rows))))
        })?;
        let qkv = block.qkv.each_ref();
        let backward = self.inward.backward(&qkv, &self.w.qkv, (n, &extents), &kept.qkv_states)?;
        let parts = Shared::new([
            pass(Part::Rope, 4 * n * d),
            pass(Part::Quantise, 6 * n * d),
            product(Part::MatmulInput, [n, 3 * d, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let right = backward.right();
        let round = |_, values: &mut [f32]| backward.round_weight(values);
        let apart = if backward.is_by_value() { 0 } else { d };
        let scratch = [d, self.inward.width_if_low(d), self.width_past(), apart, backward.own_width()];
        let mut of_qkv = of_qkv.into_iter().enumerate();
        let [q, k, v] = std::array::from_fn(|_| {
            let (index, values) = of_qkv.next().unwrap_or_default();
            backward.changed(index, unit, n, values)
        });
        let of_heads = [&q.1[..], &k.1, &v.1];
        let operands = [backward.input(unit, n), q.0, k.0, v.0];
        let ([of_x], (partial, [normed, of_q, of_k, of_v])) =
            with_elements(block.rotary.each_ref(), |angles| {
                // SAFETY: tasks write all rows of the result and of the operands.
                Ok(unsafe {
                    unit.write_rows((n, [d]), (&right, round), operands, scratch, parts, |task, clocks| {
                        self.back_rows(task, clocks, &backward, angles, kept, of_heads, grad)
                    })
                })
            })?;
        drop(right);
        let of_inward = backward.operands(vec![of_q, of_k, of_v], normed);
        // As many multiplications as one product of this shape.
        let mut of_products = matmul_span(Part::MatmulWeight, [4 * d, n, d], || {
            products_over_rows(unit, &[of_inward.pairs(), of_output.pairs()].concat())
        });
        let of_o = of_products.pop();
        let mut of_weights = vec![rms_norm::sum_partial_dw(d, partial)];
        of_weights.extend(of_products);
        of_weights.extend((d_sub_norm > 0).then(|| rms_norm::sum_partial_dw(d, of_sub_norm)));
        of_weights.extend(of_o);
        Ok(Gradients { of_x, of_weights })
    }

    /// Returns sums for the gradient of the norm's weight.
    #[expect(clippy::too_many_arguments, reason = "what every task of the pass reads")]
    fn back_rows(
        &self,
        task: RowTask<'_, 1, 5, 4>,
        clocks: &[Clock; 4],
        backward: &BackwardRows<'_>,
        angles: [&[f32]; 2],
        kept: &Kept,
        of_heads: [&[f32]; 3],
        grad: &[f32],
    ) -> Vec<f32> {
        let RowTask { rows, results: [mut of_x], operands, scratch, mut products } = task;
        let [normed, of_q, of_k, of_v] = operands;
        let [of_normed, another, past, apart, own] = scratch;
        let [rope, quantise, projections, norm] = clocks;
        let (formats, d) = (self.formats(), self.d);
        let mut dx = MatMut::row_major(of_normed, rows.len(), d);
        for (index, (mut across, of_head)) in [of_q, of_k, of_v].into_iter().zip(of_heads).enumerate() {
            // The gradient becomes an operand where it is, or is quantised from where it is.
            let dy = if backward.is_by_value() { std::mem::take(&mut across) } else { &mut *apart };
            rope.time(|| {
                if !of_head.is_empty() {
                    dy.copy_from_slice(rows_of(of_head, &rows, d));
                }
                self.back_through_angles(index, rows.start, angles, dy);
                backward.round_in_place(index, NumericFormat::Fp32, dy);
            });
            let left = backward.enter(quantise, index, rows.start, dy, own, across);
            projections.time(|| backward.add(index, &mut products, (&left, index), &mut dx, another));
        }
        norm.time(|| {
            let (x, w, rstd) = (rows_of(self.x, &rows, d), self.w.norm, &kept.rstd[rows.clone()]);
            let grad = past_block(rows_of(grad, &rows, d), formats.residual, past);
            round_rows(of_normed, formats.compute);
            backward.norm_again([x, w, rstd], formats.compute, normed);
            rms_norm::backward_rows(x, w, rstd, of_normed, Some(grad), of_x.elements())
        })
    }

    /// From the gradient of rotated queries (0) or keys (1), rows from number `first` on, to that of what was rotated; values (2) were
    /// not.
    fn back_through_angles(&self, index: usize, first: usize, angles: [&[f32]; 2], dy: &mut [f32]) {
        if index < 2 {
            round_rows(dy, self.formats().compute);
            self.rotate(dy, first, angles, -1.0);
        }
    }

    /// Width of a gradient's copy as it goes past the block.
    fn width_past(&self) -> usize {
        width_past_block(self.formats().residual, self.d)
    }

    fn rotate(&self, x: &mut [f32], first: usize, [cos, sin]: [&[f32]; 2], direction: f32) {
        rotate_rows(x, first, cos, sin, [self.shaped.shape.t, self.d], direction);
    }
}
