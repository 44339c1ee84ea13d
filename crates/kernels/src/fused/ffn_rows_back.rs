//! The backward pass of [`FfnRows`].

use super::backward_rows::BackwardRows;
use super::ffn_block::Kept;
use super::ffn_rows::{FfnRows, Span};
use super::residual_blocks::Gradients;
use super::row_products::{AT_ONCE, past_block, width_past_block};
#[cfg(target_arch = "x86_64")]
use super::row_projections::other_kind;
use super::rows_of;
use crate::matmul::{Mat, MatMut};
use crate::pointwise::{product_and_gradients_into, value_and_gradient_into};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::rms_norm;
use crate::round::round_rows;
use crate::row_operands::{Factor, Made, ToMake, products_over_rows};
use crate::row_tasks::{RowProducts, RowTask};
use candle_core::Result;
use numerics::{Extent, NumericFormat};
use std::ops::Range;
use std::slice;

/// A task's memory on the way to the gradients of the branches.
struct ToBranches<'t> {
    own: &'t mut [f32],
    before_norm: &'t mut [f32],
    of_before_norm: &'t mut [f32],
    /// Operands of the gradient of the down projection's weight.
    hidden: &'t mut [f32],
    of_y: &'t mut [f32],
}

/// A task's memory on the way from there to the gradient of the input.
struct ToInput<'t> {
    of_normed: &'t mut [f32],
    /// For a second product.
    second: &'t mut [f32],
    own: &'t mut [f32],
    /// Operands of the gradients of the branches' weights.
    normed: &'t mut [f32],
    across: [&'t mut [f32]; 2],
}

impl FfnRows<'_> {
    /// As [`super::residual_blocks::OnSlices::back`].
    pub(super) fn back(&self, kept: &Kept, grad: &[f32]) -> Result<Gradients> {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = &kept.tiles {
            let gradients = self.on_tiles().and_then(|block| block.back(&kept.rstd, tiles, grad));
            return gradients.ok_or_else(other_kind);
        }
        let Self { block, w, n, d, .. } = *self;
        let of_grad = self.outward.extent(n, |rows| {
            let grad = rows_of(grad, &rows, d);
            let mut past = vec![0.0; rows.len() * self.past()];
            Extent::of(past_block(grad, block.formats.residual, &mut past))
        });
        let state = slice::from_ref(&kept.down_state);
        let outward = self.outward.backward(&[&block.down], &[w.down], (n, &[of_grad]), state)?;
        match self.inward.need_extents() {
            true => self.back_apart(outward, kept, grad),
            false => self.back_together(outward, kept, grad),
        }
    }

    /// Tasks go all the way.
    fn back_together(&self, outward: BackwardRows<'_>, kept: &Kept, grad: &[f32]) -> Result<Gradients> {
        let Self { block, w, n, d, d_ff, d_gate, d_sub_norm, unit, .. } = *self;
        let unknown = [Extent::default(); 2];
        let inward =
            self.inward.backward(&block.branches(), &w.branches(), (n, &unknown), &kept.branch_states)?;
        let parts = Shared::new([
            pass(Part::Quantise, 2 * n * (d + d_ff + d_gate)),
            product(Part::MatmulInput, [n, d, d_ff]),
            pass(Part::Activation, n * 2 * (d_ff + d_gate + d_ff)),
            product(Part::MatmulInput, [n, d_ff + d_gate, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let apart = if inward.is_by_value() { [0; 2] } else { [d_ff, d_gate] };
        let own = inward.own_width().max(outward.own_width());
        let scratch = [d, self.second(), self.past(), own, apart[0], apart[1], d_sub_norm, d_sub_norm];
        let [of_first, of_second] = [0, 1].map(|index| inward.across(index, unit, n));
        let of_y = self.of_y(&outward, grad);
        let operands = [inward.input(unit, n), outward.input(unit, n), of_first, of_second, of_y];
        let task = |task: RowTask<'_, 1, 8, 5>, clocks: &[Clock; 5]| {
            let RowTask { rows, results: [mut of_x], operands, scratch, mut products } = task;
            let [normed, hidden, of_first, of_second, of_y] = operands;
            let [of_normed, second, past, own, first, other, before_norm, of_before_norm] = scratch;
            let [quantise, out_of, activation, into, norm] = clocks;
            // Gradients of the branches: where they become operands, or where they are quantised from.
            let mut across = [of_first, of_second];
            let mut of_branches = match inward.is_by_value() {
                true => across.each_mut().map(std::mem::take),
                false => [first, other],
            };
            let grad = past_block(rows_of(grad, &rows, d), block.formats.residual, past);
            let memory = ToBranches { own: &mut *own, before_norm, of_before_norm, hidden, of_y };
            let of_sub_norm = self.rows_to_branches(
                (&rows, grad, kept),
                (&mut products, self.down(), &outward),
                memory,
                [quantise, out_of, activation, norm],
                of_branches.each_mut().map(|dy| &mut **dy),
                |index, dy| inward.round_in_place(index, NumericFormat::Fp32, dy),
            );
            let memory = ToInput { of_normed, second, own, normed, across };
            let of_norm = self.rows_to_input(
                (&rows, grad, kept),
                (&mut products, &inward),
                memory,
                [quantise, into, norm],
                of_branches.each_ref().map(|dy| &**dy),
                of_x.elements(),
            );
            (of_norm, of_sub_norm)
        };
        let right = [inward.right(), outward.right()].concat();
        let round = |index, values: &mut [f32]| match index == self.down() {
            true => outward.round_weight(values),
            false => inward.round_weight(values),
        };
        // SAFETY: tasks write all rows of the results and operands.
        let ([of_x], (partial, [normed, hidden, of_first, of_second, of_y])) =
            unsafe { unit.write_rows((n, [d]), (&right, round), operands, scratch, parts, task) };
        drop(right);
        let (of_norm, of_sub_norm) = partial.into_iter().unzip();
        let operands = [vec![of_first, of_second], vec![of_y]];
        Ok(self.gradients(of_x, [of_norm, of_sub_norm], [inward, outward], operands, [normed, hidden]))
    }

    /// Tasks go to the gradients of the branches. When it is known what all of these hold, others go on.
    fn back_apart(&self, outward: BackwardRows<'_>, kept: &Kept, grad: &[f32]) -> Result<Gradients> {
        let Self { block, w, n, d, d_ff, d_gate, d_sub_norm, unit, .. } = *self;
        let parts = Shared::new([
            pass(Part::Quantise, 2 * n * d),
            product(Part::MatmulInput, [n, d, d_ff]),
            pass(Part::Activation, n * 2 * (d_ff + d_gate)),
            pass(Part::Norm, 4 * n * d_sub_norm),
        ]);
        let operands = [outward.input(unit, n), self.of_y(&outward, grad)];
        let scratch = [self.past(), outward.own_width(), d_sub_norm, d_sub_norm];
        let task = |task: RowTask<'_, 2, 4, 2>, [quantise, out_of, activation, norm]: &[Clock; 4]| {
            let RowTask { rows, results: [mut first, mut other], operands, scratch, mut products } = task;
            let ([hidden, of_y], [past, own, before_norm, of_before_norm]) = (operands, scratch);
            let grad = past_block(rows_of(grad, &rows, d), block.formats.residual, past);
            let of_sub_norm = self.rows_to_branches(
                (&rows, grad, kept),
                (&mut products, 0, &outward),
                ToBranches { own, before_norm, of_before_norm, hidden, of_y },
                [quantise, out_of, activation, norm],
                [first.elements(), other.elements()],
                |_, _| {},
            );
            (of_sub_norm, [Extent::of(first.elements()), Extent::of(other.elements())])
        };
        let right = outward.right();
        // SAFETY: tasks write all rows of the results and operands.
        let (of_branches, (partial, [hidden, of_y])) = unsafe {
            let round = |_, values: &mut [f32]| outward.round_weight(values);
            unit.write_rows((n, [d_ff, d_gate]), (&right, round), operands, scratch, parts, task)
        };
        drop(right);
        let (of_sub_norm, extents): (_, Vec<_>) = partial.into_iter().unzip();
        let extents = [0, 1].map(|index| {
            let of_tasks = extents.iter().map(|of_task| of_task[index]);
            of_tasks.fold(Extent::default(), Extent::merge)
        });
        let inward =
            self.inward.backward(&block.branches(), &w.branches(), (n, &extents), &kept.branch_states)?;
        let parts = Shared::new([
            pass(Part::Quantise, 2 * n * (d_ff + d_gate)),
            product(Part::MatmulInput, [n, d_ff + d_gate, d]),
            pass(Part::Norm, 6 * n * d),
        ]);
        let [of_first, of_second] = [0, 1].map(|index| inward.across(index, unit, n));
        let operands = [inward.input(unit, n), of_first, of_second];
        let scratch = [d, self.second(), self.past(), inward.own_width()];
        let task = |task: RowTask<'_, 1, 4, 3>, [quantise, into, norm]: &[Clock; 3]| {
            let RowTask { rows, results: [mut of_x], operands, scratch, mut products } = task;
            let ([normed, of_first, of_second], [of_normed, second, past, own]) = (operands, scratch);
            let memory = ToInput { of_normed, second, own, normed, across: [of_first, of_second] };
            let dys = of_branches.each_ref().map(|dy| match dy.is_empty() {
                true => &[],
                false => rows_of(dy, &rows, d_ff),
            });
            self.rows_to_input(
                (&rows, past_block(rows_of(grad, &rows, d), block.formats.residual, past), kept),
                (&mut products, &inward),
                memory,
                [quantise, into, norm],
                dys,
                of_x.elements(),
            )
        };
        let right = inward.right();
        // SAFETY: as above.
        let ([of_x], (of_norm, [normed, of_first, of_second])) = unsafe {
            let round = |_, values: &mut [f32]| inward.round_weight(values);
            unit.write_rows((n, [d]), (&right, round), operands, scratch, parts, task)
        };
        drop(right);
        let operands = [vec![of_first, of_second], vec![of_y]];
        Ok(self.gradients(of_x, [of_norm, of_sub_norm], [inward, outward], operands, [normed, hidden]))
    }

    /// All gradients, from that of x, sums for those of the norms, and the operands of those of the other weights: gradients of the
    /// results of projections, and inputs.
    fn gradients(
        &self,
        of_x: Vec<f32>,
        [of_norm, of_sub_norm]: [Vec<Vec<f32>>; 2],
        [inward, outward]: [BackwardRows<'_>; 2],
        [mut of_branches, of_y]: [Vec<Made<'_>>; 2],
        [normed, hidden]: [Made<'_>; 2],
    ) -> Gradients {
        let Self { n, d, d_ff, d_gate, unit, .. } = *self;
        of_branches.truncate(self.down());
        let (inward, outward) = (inward.operands(of_branches, normed), outward.operands(of_y, hidden));
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [d_ff + d_gate + d_ff, n, d], || {
            products_over_rows(unit, &[inward.pairs(), outward.pairs()].concat())
        });
        let mut of_weights = vec![rms_norm::sum_partial_dw(d, of_norm)];
        of_weights.extend(of_products);
        if self.block.sub_norm.is_some() {
            of_weights.insert(1 + self.down(), rms_norm::sum_partial_dw(d_ff, of_sub_norm));
        }
        Gradients { of_x, of_weights }
    }

    /// The block's gradient as operand of the down projection's weight gradient.
    fn of_y<'g>(&self, outward: &BackwardRows<'_>, grad: &'g [f32]) -> ToMake<'g> {
        match outward.is_full() {
            true => ToMake::given(self.unit, Factor::First, Mat::row_major(grad, self.n, self.d)),
            false => outward.across(0, self.unit, self.n),
        }
    }

    /// Width of a gradient's copy as it goes past the block.
    fn past(&self) -> usize {
        width_past_block(self.block.formats.residual, self.d)
    }

    /// Width of memory for the second of two products.
    fn second(&self) -> usize {
        if self.d_gate > 0 { self.inward.width_if_low(self.d) } else { 0 }
    }

    /// From the block's gradient to those of the branches, each passed to `enter` with its number while in a cache. The right operand
    /// is that of this number. Returns sums for the gradient of the weight of the norm before the down projection.
    fn rows_to_branches(
        &self,
        (rows, grad, kept): (&Range<usize>, &[f32], &Kept),
        (products, index, outward): (&mut RowProducts<'_>, usize, &BackwardRows<'_>),
        ToBranches { own, before_norm, of_before_norm, hidden, of_y }: ToBranches<'_>,
        [quantise, out_of_hidden, activation, norm]: [&Clock; 4],
        mut of_branches: [&mut [f32]; 2],
        enter: impl Fn(usize, &mut [f32]),
    ) -> Vec<f32> {
        let Self { block, w, d_ff, .. } = self;
        let (d_ff, formats) = (*d_ff, block.formats);
        let format = formats.compute;
        // That of the hidden state first is where that of the last branch will be.
        let (of_gate, of_up) = of_branches.split_at_mut(self.up());
        let (mut of_gate, of_up) = (of_gate.first_mut(), &mut *of_up[0]);
        let left = outward.enter_copy(quantise, 0, rows.start, (grad, formats.residual), own, of_y);
        out_of_hidden.time(|| {
            let mut of_hidden = MatMut::row_major(of_up, rows.len(), d_ff);
            outward.add(0, products, (&left, index), &mut of_hidden, &mut []);
        });
        let up = rows_of(&kept.up, rows, d_ff);
        let gate = kept.gate.as_ref().map_or(&[][..], |gate| rows_of(gate, rows, d_ff));
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
                        enter(0, of_gate);
                    }
                    ((_, up_fn), _) => {
                        value_and_gradient_into(up_fn, [part.of(up), dy], [&mut *hidden, &mut *of_up]);
                    }
                }
                enter(self.up(), of_up);
                if remakes {
                    round_rows(hidden, format);
                    outward.round_input(format, hidden);
                }
            }
        });
        of_sub_norm
    }

    /// From the gradients of the branches to that of the input. Returns sums for the gradient of the norm's weight.
    fn rows_to_input(
        &self,
        (rows, grad, kept): (&Range<usize>, &[f32], &Kept),
        (products, inward): (&mut RowProducts<'_>, &BackwardRows<'_>),
        ToInput { of_normed, second, own, normed, across }: ToInput<'_>,
        [quantise, into_hidden, norm]: [&Clock; 3],
        of_branches: [&[f32]; 2],
        of_x: &mut [f32],
    ) -> Vec<f32> {
        let Self { w, d, .. } = self;
        let format = self.block.formats.compute;
        let mut dx = MatMut::row_major(of_normed, rows.len(), *d);
        let all = of_branches.into_iter().zip(across).take(self.down());
        for (index, (dy, across)) in all.enumerate() {
            let left = inward.enter(quantise, index, rows.start, dy, &mut *own, across);
            into_hidden.time(|| inward.add(index, products, (&left, index), &mut dx, second));
        }
        norm.time(|| {
            let (x, rstd) = (rows_of(self.x, rows, *d), &kept.rstd[rows.clone()]);
            round_rows(of_normed, format);
            inward.norm_again([x, w.norm, rstd], format, normed);
            rms_norm::backward_rows(x, w.norm, rstd, of_normed, Some(grad), of_x)
        })
    }
}
