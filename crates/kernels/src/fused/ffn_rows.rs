//! A feed-forward block whose tasks take some rows all the way through it.

use super::backward_rows::BackwardRows;
use super::ffn_block::{FfnBlock, Kept, Weights};
#[cfg(target_arch = "x86_64")]
use super::ffn_tiles::FfnTiles;
use super::forward_rows::ForwardRows;
use super::residual_blocks::Gradients;
use super::row_products::{AT_ONCE, norm_rows, past_block, width_past_block};
use super::row_projections::{RowProjections, other_kind};
use super::rows_of;
use crate::Pointwise;
#[cfg(target_arch = "x86_64")]
use crate::bf16_matmul::{Amx, BLOCK, Parts};
use crate::matmul::{Mat, MatMut, written};
use crate::pointwise::{product_and_gradients_into, product_into, value_and_gradient_into};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::rms_norm;
use crate::round::round_rows;
use crate::row_operands::{Factor, ToMake, products_over_rows};
use crate::row_tasks::{RowTask, RowUnit};
use candle_core::Result;
use numerics::NumericFormat;
use std::slice;

/// A block whose operands tasks make of their own rows, with weights that are packed together.
pub(super) struct FfnRows<'a> {
    block: &'a FfnBlock,
    w: &'a Weights<'a>,
    unit: RowUnit,
    /// Those into the hidden state.
    inward: RowProjections<'a>,
    /// The one out of it.
    outward: RowProjections<'a>,
    x: &'a [f32],
    /// Rows of x.
    n: usize,
    d: usize,
    d_ff: usize,
    /// d_ff, or 0 without a gate.
    d_gate: usize,
    /// d_ff, or 0 without a norm before the down projection.
    d_sub_norm: usize,
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
    fn up(&self) -> usize {
        usize::from(self.d_gate > 0)
    }

    fn down(&self) -> usize {
        self.up() + 1
    }

    fn functions(&self) -> (Option<&'a dyn Pointwise>, &'a dyn Pointwise) {
        (self.block.gate.as_ref().map(|branch| &*branch.function), &*self.block.up.function)
    }

    /// The block as one that keeps its hidden state on tiles, if it is of that kind too.
    #[cfg(target_arch = "x86_64")]
    fn on_tiles(&self) -> Option<FfnTiles<'_, Amx>> {
        let Self { block, w, x, n, d, d_ff, .. } = *self;
        let RowUnit::Tiles(unit, Parts::One) = self.unit else { return None };
        let (RowProjections::ByValue(inward), RowProjections::ByValue(outward)) =
            (&self.inward, &self.outward)
        else {
            return None;
        };
        let are_bf16 =
            block.formats.compute == NumericFormat::Bf16 && inward.are_bf16() && outward.are_bf16();
        let is_one = are_bf16 && self.d_sub_norm == 0 && n.is_multiple_of(BLOCK);
        is_one.then_some(FfnTiles { unit, rows: self.unit, block, w, inward, outward, x, n, d, d_ff })
    }

    /// As [`super::residual_blocks::OnSlices::run`].
    pub(super) fn run(&self, keep: bool) -> Result<(Vec<f32>, Kept)> {
        #[cfg(target_arch = "x86_64")]
        if let Some(result) = self.on_tiles().and_then(|block| block.run(keep)) {
            return Ok(result);
        }
        let Self { n, d, d_ff, d_gate, unit, .. } = *self;
        let inward = self.inward.forward(&self.block.branches(), &self.w.branches(), n, keep)?;
        let outward = self.outward.forward(&[&self.block.down], &[self.w.down], n, keep)?;
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
        // SAFETY: tasks write products to all rows of the results, and all rows of operands.
        let ([y, up, gate], (rstd, [normed, hidden])) = unsafe {
            written(n, [d, d_ff, d_gate], |results| {
                parts.run(|clocks| {
                    let passes = [&inward, &outward];
                    unit.with_packed(&right, round, |right| {
                        right.by_rows_making(results, operands, scratch, |task| {
                            self.run_rows(task, clocks, passes)
                        })
                    })
                })
            })
        };
        drop(right);
        let gate = self.block.gate.is_some().then_some(gate);
        let (rstd, sub_rstd): (Vec<_>, Vec<_>) = rstd.into_iter().unzip();
        let down_state = outward.states(hidden).pop().flatten();
        let kept = Kept {
            rstd: rstd.concat(),
            gate,
            up,
            sub_rstd: sub_rstd.concat(),
            tiles: None,
            branch_states: inward.states(normed),
            down_state,
            by_rows: true,
        };
        Ok((y, kept))
    }

    /// Returns `rstd` of both norms.
    fn run_rows(
        &self,
        task: RowTask<'_, 3, 4, 2>,
        clocks: &[Clock; 5],
        [inward, outward]: [&ForwardRows<'_>; 2],
    ) -> (Vec<f32>, Vec<f32>) {
        let RowTask { rows, results: [mut y, mut up, mut gate], operands, scratch, mut products } = task;
        let ([of_normed, of_hidden], [normed, mut hidden, after_norm, own]) = (operands, scratch);
        let Self { block, w, d, .. } = self;
        let format = block.formats.compute;
        let [norm, quantise, into_hidden, activation, out_of_hidden] = clocks;
        let x = rows_of(self.x, &rows, *d);
        let rstd = norm.time(|| {
            norm_rows(&block.norm, [x, w.norm], format, normed, |normed| {
                inward.round_in_place(format, normed)
            })
        });
        let left = inward.enter(quantise, rows.start, normed, own, of_normed);
        into_hidden.time(|| match block.gate.is_some() {
            true => inward.multiply(&mut products, &left, 0, &mut [&mut gate, &mut up]),
            false => inward.multiply(&mut products, &left, 0, &mut [&mut up]),
        });
        activation.time(|| {
            let (up, gate) = (up.elements(), gate.elements());
            self.hidden([gate, up], hidden, |hidden| {
                if block.sub_norm.is_none() {
                    outward.round_in_place(format, hidden);
                }
            });
        });
        let mut sub_rstd = vec![];
        if let Some(sub_norm) = &block.sub_norm {
            let enter = |normed: &mut [f32]| outward.round_in_place(format, normed);
            sub_rstd = norm.time(|| norm_rows(sub_norm, [hidden, w.sub_norm], format, after_norm, enter));
            hidden = after_norm;
        }
        let left = outward.enter(quantise, rows.start, hidden, own, of_hidden);
        out_of_hidden.time(|| {
            let part = normed; // which has been read
            outward.onto(x, &mut products, (&left, self.down()), &mut y, part, block.formats.residual);
        });
        (rstd, sub_rstd)
    }

    /// The hidden state, rounded and passed to `enter` while in a cache.
    fn hidden(&self, [gate, up]: [&[f32]; 2], hidden: &mut [f32], enter: impl Fn(&mut [f32])) {
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

    /// As [`super::residual_blocks::OnSlices::back`].
    pub(super) fn back(&self, kept: &Kept, grad: &[f32]) -> Result<Gradients> {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = &kept.tiles {
            let gradients = self.on_tiles().and_then(|block| block.back(&kept.rstd, tiles, grad));
            return gradients.ok_or_else(other_kind);
        }
        let Self { block, w, n, d, d_ff, d_gate, d_sub_norm, unit, .. } = *self;
        let inward = self.inward.backward(&block.branches(), &w.branches(), n, &kept.branch_states)?;
        let outward =
            self.outward.backward(&[&block.down], &[w.down], n, slice::from_ref(&kept.down_state))?;
        let parts = Shared::new([
            pass(Part::Quantise, 2 * n * (d + d_ff + d_gate)),
            product(Part::MatmulInput, [n, d, d_ff]),
            pass(Part::Activation, n * 2 * (d_ff + d_gate + d_ff)),
            product(Part::MatmulInput, [n, d_ff + d_gate, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let second = if d_gate > 0 { self.inward.width_if_low(d) } else { 0 };
        let apart = if inward.is_by_value() { [0; 2] } else { [d_ff, d_gate] };
        let own = inward.own_width().max(outward.own_width());
        let past = width_past_block(block.formats.residual, d);
        let scratch = [d, second, past, own, apart[0], apart[1], d_sub_norm, d_sub_norm];
        let of_y = match outward.is_full() {
            true => ToMake::given(unit, Factor::First, Mat::row_major(grad, n, d)),
            false => outward.across(0, unit, n),
        };
        let of_branches = [0, 1].map(|index| inward.across(index, unit, n));
        let [of_first, of_second] = of_branches;
        let operands = [inward.input(unit, n), outward.input(unit, n), of_first, of_second, of_y];
        let right = [inward.right(), outward.right()].concat();
        let round = |index, values: &mut [f32]| match index == self.down() {
            true => outward.round_weight(values),
            false => inward.round_weight(values),
        };
        // SAFETY: tasks write all rows of the results and operands.
        let ([of_x], (partial, [normed, hidden, of_first, of_second, of_y])) = unsafe {
            written(n, [d], |results| {
                parts.run(|clocks| {
                    let passes = [&inward, &outward];
                    unit.with_packed(&right, round, |right| {
                        right.by_rows_making(results, operands, scratch, |task| {
                            self.back_rows(task, clocks, passes, kept, grad)
                        })
                    })
                })
            })
        };
        drop(right);
        let of_branches = [of_first, of_second].into_iter().take(self.down()).collect();
        let (inward, outward) = (inward.operands(of_branches, normed), outward.operands(vec![of_y], hidden));
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [d_ff + d_gate + d_ff, n, d], || {
            products_over_rows(unit, &[inward.pairs(), outward.pairs()].concat())
        });
        let (of_norm, of_sub_norm): (Vec<_>, Vec<_>) = partial.into_iter().unzip();
        let mut of_weights = vec![rms_norm::sum_partial_dw(d, of_norm)];
        of_weights.extend(of_products);
        if block.sub_norm.is_some() {
            of_weights.insert(1 + self.down(), rms_norm::sum_partial_dw(d_ff, of_sub_norm));
        }
        Ok(Gradients { of_x, of_weights })
    }

    /// Returns sums for the gradients of both norms' weights.
    fn back_rows(
        &self,
        task: RowTask<'_, 1, 8, 5>,
        clocks: &[Clock; 5],
        [inward, outward]: [&BackwardRows<'_>; 2],
        kept: &Kept,
        grad: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let RowTask { rows, results: [mut of_x], operands, scratch, mut products } = task;
        let [normed, hidden, of_first, of_second, of_y] = operands;
        let [of_normed, second, past, own, first_apart, second_apart, before_norm, of_before_norm] = scratch;
        let Self { block, w, d, d_ff, .. } = self;
        let (d, d_ff, formats) = (*d, *d_ff, block.formats);
        let format = formats.compute;
        let [quantise, out_of_hidden, activation, into_hidden, norm] = clocks;
        // Gradients of the branches: where they become operands, or where they are quantised from.
        let mut across = [of_first, of_second];
        let mut of_branches = match inward.is_by_value() {
            true => across.each_mut().map(std::mem::take),
            false => [first_apart, second_apart],
        };
        // That of the hidden state first is where that of the last branch will be.
        let (of_gate, of_up) = of_branches.split_at_mut(self.up());
        let (mut of_gate, of_up) = (of_gate.first_mut(), &mut *of_up[0]);
        let grad = past_block(rows_of(grad, &rows, d), formats.residual, past);
        let left = outward.enter_copy(quantise, 0, rows.start, (grad, formats.residual), &mut *own, of_y);
        out_of_hidden.time(|| {
            let mut of_hidden = MatMut::row_major(of_up, rows.len(), d_ff);
            outward.add(0, &mut products, (&left, self.down()), &mut of_hidden, &mut []);
        });
        let up = rows_of(&kept.up, &rows, d_ff);
        let gate = kept.gate.as_ref().map_or(&[][..], |gate| rows_of(gate, &rows, d_ff));
        let mut of_sub_norm = vec![];
        if block.sub_norm.is_some() {
            activation.time(|| self.hidden([gate, up], before_norm, |_| {}));
            of_sub_norm = norm.time(|| {
                let (x, w, rstd) = (&*before_norm, w.sub_norm, &kept.sub_rstd[rows.clone()]);
                outward.round_output(format, of_up);
                outward.norm_again([x, w, rstd], format, hidden);
                rms_norm::backward_rows(x, w, rstd, of_up, None, of_before_norm)
            });
        }
        activation.time(|| {
            let remakes = outward.is_by_value() && block.sub_norm.is_none();
            let [mut dy, mut unread] = [[0.0; AT_ONCE]; 2];
            for (index, of_up) in of_up.chunks_mut(AT_ONCE).enumerate() {
                let part = Span::new(index, of_up.len());
                let dy = &mut dy[..of_up.len()];
                match block.sub_norm.is_some() {
                    true => {
                        dy.copy_from_slice(part.of(of_before_norm));
                        round_rows(dy, format);
                    }
                    false => {
                        dy.copy_from_slice(of_up);
                        outward.round_output(format, dy);
                    }
                }
                let hidden = if remakes { part.of_mut(hidden) } else { &mut unread[..dy.len()] };
                match (self.functions(), of_gate.as_mut()) {
                    ((Some(gate_fn), up_fn), Some(of_gate)) => {
                        let of_gate = part.of_mut(of_gate);
                        let results = [&mut *hidden, &mut *of_gate, &mut *of_up];
                        let inputs = [part.of(gate), part.of(up), dy];
                        product_and_gradients_into(inputs, [gate_fn, up_fn], results);
                        inward.round_in_place(0, NumericFormat::Fp32, of_gate);
                    }
                    ((_, up_fn), _) => {
                        value_and_gradient_into(up_fn, [part.of(up), dy], [&mut *hidden, &mut *of_up]);
                    }
                }
                inward.round_in_place(self.up(), NumericFormat::Fp32, of_up);
                if remakes {
                    round_rows(hidden, format);
                    outward.round_input(format, hidden);
                }
            }
        });
        let mut dx = MatMut::row_major(of_normed, rows.len(), d);
        let all = of_branches.into_iter().zip(across).take(self.down());
        for (index, (dy, across)) in all.enumerate() {
            let left = inward.enter(quantise, index, rows.start, dy, &mut *own, across);
            into_hidden.time(|| inward.add(index, &mut products, (&left, index), &mut dx, second));
        }
        let of_norm = norm.time(|| {
            let (x, rstd) = (rows_of(self.x, &rows, d), &kept.rstd[rows.clone()]);
            round_rows(of_normed, format);
            inward.norm_again([x, w.norm, rstd], format, normed);
            rms_norm::backward_rows(x, w.norm, rstd, of_normed, Some(grad), of_x.elements())
        });
        (of_norm, of_sub_norm)
    }
}

/// A part of the rows' floats, of [`AT_ONCE`] or what is left.
struct Span(std::ops::Range<usize>);

impl Span {
    fn new(index: usize, len: usize) -> Self {
        Self(index * AT_ONCE..index * AT_ONCE + len)
    }

    fn of<'x>(&self, x: &'x [f32]) -> &'x [f32] {
        &x[self.0.clone()]
    }

    fn of_mut<'x>(&self, x: &'x mut [f32]) -> &'x mut [f32] {
        &mut x[self.0.clone()]
    }
}
