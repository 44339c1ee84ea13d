//! A feed-forward block whose tasks take some rows all the way through it.

use super::ffn_block::{FfnBlock, Kept, Weights};
#[cfg(target_arch = "x86_64")]
use super::ffn_tiles::FfnTiles;
use super::forward_rows::ForwardRows;
use super::projection::State;
use super::row_products::{AT_ONCE, norm_rows};
use super::row_projections::RowProjections;
#[cfg(target_arch = "x86_64")]
use super::row_projections::in_bf16;
use super::rows_of;
use crate::Pointwise;
#[cfg(target_arch = "x86_64")]
use crate::bf16_matmul::{Amx, BLOCK};
use crate::matmul::{Mat, MatMut};
use crate::pointwise::product_into;
use crate::profile::{Clock, Part, Shared, pass, product};
use crate::round::round_rows;
use crate::row_tasks::{RowProducts, RowTask, RowUnit};
use candle_core::Result;
use numerics::Extent;
use std::ops::Range;

/// A block whose operands tasks make of their own rows, with weights that are packed together.
pub(super) struct FfnRows<'a> {
    pub(super) block: &'a FfnBlock,
    pub(super) w: &'a Weights<'a>,
    pub(super) unit: RowUnit,
    /// Those into the hidden state.
    pub(super) inward: RowProjections<'a>,
    /// The one out of it.
    pub(super) outward: RowProjections<'a>,
    pub(super) x: &'a [f32],
    /// Rows of x.
    pub(super) n: usize,
    pub(super) d: usize,
    pub(super) d_ff: usize,
    /// d_ff, or 0 without a gate.
    pub(super) d_gate: usize,
    /// d_ff, or 0 without a norm before the down projection.
    pub(super) d_sub_norm: usize,
}

impl<'a> FfnRows<'a> {
    /// The block on the rows of x, if it is one of this kind.
    pub(super) fn new(block: &'a FfnBlock, x: &'a [f32], w: &'a Weights<'a>) -> Option<Self> {
        let FfnBlock { gate, up, sub_norm, down, .. } = block;
        let (d_ff, d) = up.projection.weight.dims2().ok()?;
        let fit = block.branches().iter().all(|projection| projection.weight.dims() == [d_ff, d])
            && down.weight.dims() == [d, d_ff]
            && w.norm.len() == d
            && x.len().is_multiple_of(d.max(1));
        if !fit {
            return None;
        }
        let n = x.len() / d.max(1);
        let inward = RowProjections::new(&block.branches(), &w.branches(), n)?;
        let outward = RowProjections::new(&[down], &[w.down], n)?;
        let into_hidden = w.branches().into_iter().map(|w| Mat::row_major(w, d_ff, d).t());
        let right: Vec<_> = into_hidden.chain([Mat::row_major(w.down, d, d_ff).t()]).collect();
        let unit = inward.unit(&outward, n, &right)?;
        let d_gate = if gate.is_some() { d_ff } else { 0 };
        let d_sub_norm = if sub_norm.is_some() { d_ff } else { 0 };
        Some(Self { block, w, unit, inward, outward, x, n, d, d_ff, d_gate, d_sub_norm })
    }

    /// Whether somebody wants to see operands whole.
    pub(super) fn is_looked_at(&self) -> bool {
        self.inward.are_looked_at() || self.outward.are_looked_at()
    }

    /// Number of the last projection into the hidden state, and of the gate before it. That out of it comes next.
    pub(super) fn up(&self) -> usize {
        usize::from(self.d_gate > 0)
    }

    pub(super) fn down(&self) -> usize {
        self.up() + 1
    }

    pub(super) fn functions(&self) -> (Option<&'a dyn Pointwise>, &'a dyn Pointwise) {
        (self.block.gate.as_ref().map(|branch| &*branch.function), &*self.block.up.function)
    }

    /// The block as one that keeps its hidden state on tiles, if it is of that kind too.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn on_tiles(&self) -> Option<FfnTiles<'_, Amx>> {
        let Self { block, w, x, n, d, d_ff, .. } = *self;
        let (unit, inward, outward) = in_bf16(self.unit, block.formats, [&self.inward, &self.outward])?;
        let is_one = self.d_sub_norm == 0 && n.is_multiple_of(BLOCK);
        is_one.then_some(FfnTiles { unit, rows: self.unit, block, w, inward, outward, x, n, d, d_ff })
    }

    /// As [`super::residual_blocks::OnSlices::run`].
    pub(super) fn run(&self, keep: bool) -> Result<(Vec<f32>, Kept)> {
        #[cfg(target_arch = "x86_64")]
        if let Some(result) = self.on_tiles().and_then(|block| block.run(keep)) {
            return Ok(result);
        }
        let Self { block, w, n, d, d_ff, d_gate, unit, .. } = *self;
        let of_normed = self.inward.extent(n, |rows| self.extent_of_normed(rows));
        let inward = self.inward.forward(&block.branches(), &w.branches(), (n, of_normed), keep)?;
        if self.outward.need_extents() {
            return self.run_apart(inward, keep);
        }
        let outward = self.outward.forward(&[&block.down], &[w.down], (n, Extent::default()), keep)?;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            pass(Part::Quantise, 2 * n * (d + d_ff)),
            product(Part::MatmulForward, [n, d, d_ff + d_gate]),
            pass(Part::Activation, n * (d_ff + d_gate + d_ff)),
            product(Part::MatmulForward, [n, d_ff, d]),
        ]);
        let scratch = [d, d_ff, self.d_sub_norm, inward.own_width().max(outward.own_width())];
        let operands = [inward.across(unit, n), outward.across(unit, n)];
        let right = [inward.right(), outward.right()].concat();
        let round = |index, values: &mut [f32]| match index == self.down() {
            true => outward.round_weight(values),
            false => inward.round_weight(values),
        };
        let task = |task: RowTask<'_, 3, 4, 2>, [norm, quantise, into, activation, out_of]: &[Clock; 5]| {
            let RowTask { rows, results: [mut y, mut up, mut gate], operands, scratch, mut products } = task;
            let ([of_normed, of_hidden], [normed, hidden, after_norm, own]) = (operands, scratch);
            let clocks = [norm, quantise, into];
            let results = [&mut up, &mut gate];
            let rstd = self.rows_into_hidden(
                &rows,
                results,
                &mut products,
                [normed, own],
                of_normed,
                clocks,
                &inward,
            );
            let clocks = [norm, quantise, activation, out_of];
            let branches = [&*gate.elements(), up.elements()];
            let scratch = [hidden, after_norm, own, normed];
            let products = (&mut products, self.down());
            let sub_rstd = self
                .rows_out_of_hidden(&rows, branches, &mut y, products, scratch, of_hidden, clocks, &outward);
            (rstd, sub_rstd)
        };
        // SAFETY: tasks write products to all rows of the results, and all rows of operands.
        let ([y, up, gate], (rstd, [normed, hidden])) = unsafe {
            unit.write_rows((n, [d, d_ff, d_gate]), (&right, round), operands, scratch, parts, task)
        };
        drop(right);
        let (rstd, sub_rstd) = rstd.into_iter().unzip();
        Ok((y, self.kept([up, gate], [rstd, sub_rstd], [inward.states(normed), outward.states(hidden)])))
    }

    /// The forward pass of projections that have to know what all of the hidden state holds: tasks go up to it, and others on.
    fn run_apart(&self, inward: ForwardRows<'_>, keep: bool) -> Result<(Vec<f32>, Kept)> {
        let Self { block, w, n, d, d_ff, d_gate, d_sub_norm, unit, .. } = *self;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d),
            pass(Part::Quantise, 2 * n * d),
            product(Part::MatmulForward, [n, d, d_ff + d_gate]),
            pass(Part::Activation, n * (d_ff + d_gate)),
        ]);
        let task = |task: RowTask<'_, 2, 4, 1>, [norm, quantise, into, activation]: &[Clock; 4]| {
            let RowTask { rows, results: [mut up, mut gate], operands, scratch, mut products } = task;
            let ([of_normed], [normed, hidden, after_norm, own]) = (operands, scratch);
            let (results, clocks) = ([&mut up, &mut gate], [norm, quantise, into]);
            let rstd = self.rows_into_hidden(
                &rows,
                results,
                &mut products,
                [normed, own],
                of_normed,
                clocks,
                &inward,
            );
            let branches = [&*gate.elements(), up.elements()];
            let (operand, _) =
                self.operand_of_down(branches, [hidden, after_norm], [norm, activation], |_| {});
            (rstd, Extent::of(operand))
        };
        let (scratch, right) = ([d, d_ff, d_sub_norm, inward.own_width()], inward.right());
        let operands = [inward.across(unit, n)];
        // SAFETY: tasks write products to all rows of the results, and all rows of operands.
        let ([up, gate], (rstd, [normed])) = unsafe {
            let round = |_, values: &mut [f32]| inward.round_weight(values);
            unit.write_rows((n, [d_ff, d_gate]), (&right, round), operands, scratch, parts, task)
        };
        drop(right);
        let (rstd, extents): (Vec<_>, Vec<_>) = rstd.into_iter().unzip();
        let extent = extents.into_iter().fold(Extent::default(), Extent::merge);
        let outward = self.outward.forward(&[&block.down], &[w.down], (n, extent), keep)?;
        let parts = Shared::new([
            pass(Part::Norm, 2 * n * d_sub_norm),
            pass(Part::Quantise, 2 * n * d_ff),
            pass(Part::Activation, n * (d_ff + d_gate + d_ff)),
            product(Part::MatmulForward, [n, d_ff, d]),
        ]);
        let task = |task: RowTask<'_, 1, 4, 1>, [norm, quantise, activation, out_of]: &[Clock; 4]| {
            let RowTask { rows, results: [mut y], operands: [of_hidden], scratch, mut products } = task;
            let branches = [&gate, &up].map(|x| if x.is_empty() { &[] } else { rows_of(x, &rows, d_ff) });
            let clocks = [norm, quantise, activation, out_of];
            let products = (&mut products, 0);
            self.rows_out_of_hidden(&rows, branches, &mut y, products, scratch, of_hidden, clocks, &outward)
        };
        let (scratch, right) = ([d_ff, d_sub_norm, outward.own_width(), d], outward.right());
        let operands = [outward.across(unit, n)];
        // SAFETY: as above.
        let ([y], (sub_rstd, [hidden])) = unsafe {
            let round = |_, values: &mut [f32]| outward.round_weight(values);
            unit.write_rows((n, [d]), (&right, round), operands, scratch, parts, task)
        };
        drop(right);
        Ok((y, self.kept([up, gate], [rstd, sub_rstd], [inward.states(normed), outward.states(hidden)])))
    }

    fn kept(
        &self,
        [up, gate]: [Vec<f32>; 2],
        rstd: [Vec<Vec<f32>>; 2],
        [branch_states, mut of_down]: [Vec<State>; 2],
    ) -> Kept {
        let [rstd, sub_rstd] = rstd.map(|of_rows| of_rows.concat());
        let gate = self.block.gate.is_some().then_some(gate);
        let down_state = of_down.pop().flatten();
        Kept { rstd, gate, up, sub_rstd, branch_states, down_state, tiles: None, by_rows: true }
    }

    fn extent_of_normed(&self, rows: Range<usize>) -> Extent {
        let x = rows_of(self.x, &rows, self.d);
        let mut normed = vec![0.0; x.len()];
        norm_rows(&self.block.norm, [x, self.w.norm], self.block.formats.compute, &mut normed, |_| {});
        Extent::of(&normed)
    }

    /// Up and gate of rows, if there is one. Returns `rstd` of the norm.
    #[expect(clippy::too_many_arguments, reason = "what a task has, and what all tasks share")]
    fn rows_into_hidden(
        &self,
        rows: &Range<usize>,
        [up, gate]: [&mut MatMut<'_>; 2],
        products: &mut RowProducts<'_>,
        [normed, own]: [&mut [f32]; 2],
        of_normed: &mut [f32],
        [norm, quantise, into_hidden]: [&Clock; 3],
        inward: &ForwardRows<'_>,
    ) -> Vec<f32> {
        let (block, x) = (self.block, rows_of(self.x, rows, self.d));
        let format = block.formats.compute;
        let rstd = norm.time(|| {
            let enter = |normed: &mut [f32]| inward.round_in_place(format, normed);
            norm_rows(&block.norm, [x, self.w.norm], format, normed, enter)
        });
        let left = inward.enter(quantise, rows.start, normed, own, of_normed);
        into_hidden.time(|| match block.gate.is_some() {
            true => inward.multiply(products, &left, 0, &mut [gate, up]),
            false => inward.multiply(products, &left, 0, &mut [up]),
        });
        rstd
    }

    /// The hidden state as it enters the down projection, in memory of which one part is before a norm and one after it. Returns
    /// the norm's `rstd` too.
    fn operand_of_down<'t>(
        &self,
        branches: [&[f32]; 2],
        [hidden, after_norm]: [&'t mut [f32]; 2],
        [norm, activation]: [&Clock; 2],
        enter: impl Fn(&mut [f32]),
    ) -> (&'t [f32], Vec<f32>) {
        let Self { block, w, .. } = self;
        let Some(sub_norm) = &block.sub_norm else {
            activation.time(|| self.hidden(branches, hidden, enter));
            return (hidden, vec![]);
        };
        activation.time(|| self.hidden(branches, hidden, |_| {}));
        let values = [&*hidden, w.sub_norm];
        let rstd = norm.time(|| norm_rows(sub_norm, values, block.formats.compute, after_norm, enter));
        (after_norm, rstd)
    }

    /// The block's result from gate and up of rows. Returns `rstd` of the norm before the down projection.
    #[expect(clippy::too_many_arguments, reason = "what a task has, and what all tasks share")]
    fn rows_out_of_hidden(
        &self,
        rows: &Range<usize>,
        branches: [&[f32]; 2],
        y: &mut MatMut<'_>,
        (products, index): (&mut RowProducts<'_>, usize),
        [hidden, after_norm, own, part]: [&mut [f32]; 4],
        of_hidden: &mut [f32],
        [norm, quantise, activation, out_of_hidden]: [&Clock; 4],
        outward: &ForwardRows<'_>,
    ) -> Vec<f32> {
        let (formats, x) = (self.block.formats, rows_of(self.x, rows, self.d));
        let enter = |hidden: &mut [f32]| outward.round_in_place(formats.compute, hidden);
        let (operand, rstd) = self.operand_of_down(branches, [hidden, after_norm], [norm, activation], enter);
        let left = outward.enter(quantise, rows.start, operand, own, of_hidden);
        out_of_hidden.time(|| outward.onto(x, products, (&left, index), y, part, formats.residual));
        rstd
    }

    /// The hidden state, rounded and passed to `enter` while in a cache.
    pub(super) fn hidden(&self, [gate, up]: [&[f32]; 2], hidden: &mut [f32], enter: impl Fn(&mut [f32])) {
        for (index, hidden) in hidden.chunks_mut(AT_ONCE).enumerate() {
            let part = Span::new(index, hidden.len());
            match self.functions() {
                (Some(gate_fn), up_fn) => {
                    product_into([part.of(gate), part.of(up)], [gate_fn, up_fn], hidden);
                }
                (None, up_fn) => up_fn.value(part.of(up), hidden),
            }
            round_rows(hidden, self.block.formats.compute);
            enter(hidden);
        }
    }
}

/// A part of the rows' floats, of [`AT_ONCE`] or what is left.
pub(super) struct Span(std::ops::Range<usize>);

impl Span {
    pub(super) fn new(index: usize, len: usize) -> Self {
        Self(index * AT_ONCE..index * AT_ONCE + len)
    }

    pub(super) fn of<'x>(&self, x: &'x [f32]) -> &'x [f32] {
        &x[self.0.clone()]
    }

    pub(super) fn of_mut<'x>(&self, x: &'x mut [f32]) -> &'x mut [f32] {
        &mut x[self.0.clone()]
    }
}
