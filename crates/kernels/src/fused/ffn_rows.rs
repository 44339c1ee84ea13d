//! A feed-forward block whose tasks take some rows all the way through it.

use super::ffn_block::{FfnBlock, Kept, Weights};
use super::residual_blocks::Gradients;
use super::row_products::{AT_ONCE, RowFormats, width_past_block};
use super::rows_of;
use crate::Pointwise;
use crate::matmul::{Mat, MatMut, Update, written};
use crate::pointwise::{product_and_gradients_into, product_into, value_and_gradient_into};
use crate::profile::{Clock, Part, Shared, matmul_span, pass, product};
use crate::quantized::Role;
use crate::rms_norm;
use crate::round::round_rows;
use crate::row_operands::{Factor, ToMake, products_over_rows};
use crate::row_tasks::{RowTask, RowUnit};

/// A block that rounds every value on its own, if any, without a norm before its down projection, with weights that are packed
/// together.
pub(super) struct FfnRows<'a> {
    block: &'a FfnBlock,
    w: &'a Weights<'a>,
    unit: RowUnit,
    /// Formats of the projections into the hidden state.
    inward: RowFormats<'a>,
    /// Formats of the projection out of it.
    outward: RowFormats<'a>,
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
        let FfnBlock { gate, up, sub_norm, down, .. } = block;
        if sub_norm.is_some() {
            return None;
        }
        let (inward, outward) = (RowFormats::new(&block.branches())?, RowFormats::new(&[down])?);
        let (d_ff, d) = up.projection.weight.dims2().ok()?;
        let fit = block.branches().iter().all(|projection| projection.weight.dims() == [d_ff, d])
            && down.weight.dims() == [d, d_ff]
            && w.norm.len() == d
            && x.len().is_multiple_of(d.max(1));
        if !fit {
            return None;
        }
        let (n, d_gate) = (x.len() / d.max(1), if gate.is_some() { d_ff } else { 0 });
        let operands = inward.operands().max(outward.operands());
        let unit = RowUnit::new(n, &transposed(right(w, [d, d_ff])), operands)?;
        Some(Self { block, w, unit, inward, outward, x, n, d, d_ff, d_gate })
    }

    /// Whether somebody wants to see operands whole.
    pub(super) fn is_looked_at(&self) -> bool {
        self.inward.are_looked_at() || self.outward.are_looked_at()
    }

    /// Rounds a packed weight of this number.
    fn round_weight(&self, index: usize, values: &mut [f32]) {
        match index {
            DOWN => self.outward.round(Role::Weight, values),
            _ => self.inward.round(Role::Weight, values),
        }
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
                    let round = |index, values: &mut [f32]| self.round_weight(index, values);
                    self.unit.with_packed(&right, round, |right| {
                        right.by_rows(results, [d, d_ff], |task| self.run_rows(task, clocks))
                    })
                })
            })
        };
        let gate = self.block.gate.is_some().then_some(gate);
        self.inward.count_weights(&self.w.branches());
        self.outward.count_weights(&[self.w.down]);
        for formats in [&self.inward, &self.outward] {
            formats.tell(&[Role::Input, Role::Weight]);
        }
        (y, Kept { rstd: rstd.concat(), gate, up, by_rows: true, ..Kept::default() })
    }

    /// Returns `rstd` of the norm.
    fn run_rows(&self, task: RowTask<'_, 3, 2>, clocks: &[Clock; 4]) -> Vec<f32> {
        let RowTask {
            rows, results: [mut y, mut up, mut gate], scratch: [normed, hidden], mut products, ..
        } = task;
        let Self { block, w, inward, outward, d, d_ff, .. } = self;
        let (d, d_ff, formats) = (*d, *d_ff, block.formats);
        let [norm, into_hidden, activation, out_of_hidden] = clocks;
        let x = rows_of(self.x, &rows, d);
        let rstd = norm.time(|| inward.norm(&block.norm, [x, w.norm], formats.compute, normed));
        into_hidden.time(|| {
            let mut results = vec![(UP, &mut up, Update::OVERWRITE)];
            if block.gate.is_some() {
                results.push((GATE, &mut gate, Update::OVERWRITE));
            }
            let normed = Mat::row_major(normed, rows.len(), d);
            products.multiply_rounded(normed, &mut results, inward.output(), &mut []);
        });
        activation.time(|| {
            let (up, gate) = (up.elements(), gate.elements());
            for (index, hidden) in hidden.chunks_mut(AT_ONCE).enumerate() {
                let part = Span::new(index, hidden.len());
                match self.functions() {
                    (Some(gate_fn), up_fn) => {
                        product_into([part.of(gate), part.of(up)], [gate_fn, up_fn], hidden);
                    }
                    (None, up_fn) => up_fn.value(part.of(up), hidden),
                }
                round_rows(hidden, formats.compute);
                outward.enter(formats.compute, Role::Input, hidden);
            }
        });
        out_of_hidden.time(|| {
            let hidden = Mat::row_major(hidden, rows.len(), d_ff);
            outward.onto(x, &mut products, (hidden, DOWN), &mut y, normed, formats.residual);
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
        let second = if d_gate > 0 { self.inward.width_if_low(d) } else { 0 };
        let scratch = [d_ff, d, second, width_past_block(self.block.formats.residual, d)];
        let operand = |factor, cols| ToMake::new(self.unit, factor, [n, cols]);
        let of_y = match self.outward.is_full() {
            true => ToMake::given(self.unit, Factor::First, Mat::row_major(grad, n, d)),
            false => operand(Factor::First, d),
        };
        let operands = [
            operand(Factor::Second, d),
            operand(Factor::Second, d_ff),
            operand(Factor::First, d_ff),
            operand(Factor::First, d_gate),
            of_y,
        ];
        // SAFETY: tasks write all rows of the results and operands.
        let ([of_x], (partial, [normed, hidden, of_up, of_gate, of_y])) = unsafe {
            written(n, [d], |results| {
                parts.run(|clocks| {
                    let task = |task: RowTask<'_, 1, 4, 5>| self.back_rows(task, clocks, kept, grad);
                    let round = |index, values: &mut [f32]| self.round_weight(index, values);
                    self.unit.with_packed(&right, round, |right| {
                        right.by_rows_making(results, operands, scratch, task)
                    })
                })
            })
        };
        for formats in [&self.inward, &self.outward] {
            formats.tell(&[Role::Grad]);
        }
        let branches = if d_gate > 0 { vec![&of_gate, &of_up] } else { vec![&of_up] };
        // As many multiplications as one product of this shape.
        let of_products = matmul_span(Part::MatmulWeight, [d_ff + d_gate + d_ff, n, d], || {
            let of_branches = branches.into_iter().map(|dy| (1.0, dy, &normed));
            let pairs: Vec<_> = of_branches.chain([(1.0, &of_y, &hidden)]).collect();
            products_over_rows(self.unit, &pairs)
        });
        let of_norm = rms_norm::sum_partial_dw(d, partial);
        Gradients { of_x, of_weights: [of_norm].into_iter().chain(of_products).collect() }
    }

    /// Returns sums for the gradient of the norm's weight.
    fn back_rows(
        &self,
        task: RowTask<'_, 1, 4, 5>,
        clocks: &[Clock; 4],
        kept: &Kept,
        grad: &[f32],
    ) -> Vec<f32> {
        let RowTask { rows, results: [mut of_x], operands, scratch, mut products } = task;
        let [normed, hidden, of_up, of_gate, of_y] = operands;
        let [of_hidden, of_normed, second, residual] = scratch;
        let Self { block, w, inward, outward, d, d_ff, .. } = self;
        let (d, d_ff, formats) = (*d, *d_ff, block.formats);
        let [out_of_hidden, activation, into_hidden, norm] = clocks;
        let (x, grad, rstd) = (rows_of(self.x, &rows, d), rows_of(grad, &rows, d), &kept.rstd[rows.clone()]);
        let grad = out_of_hidden.time(|| {
            let [grad, of_y] = outward.gradient(grad, formats.residual, residual, of_y);
            let mut of_hidden = MatMut::row_major(of_hidden, rows.len(), d_ff);
            outward.input_gradient(&mut products, &[(of_y, DOWN)], &mut of_hidden, &mut []);
            grad
        });
        activation.time(|| {
            let up = rows_of(&kept.up, &rows, d_ff);
            let parts = hidden.chunks_mut(AT_ONCE).zip(of_hidden.chunks_mut(AT_ONCE));
            for (index, (hidden, of_hidden)) in parts.enumerate() {
                let part = Span::new(index, hidden.len());
                let of_up = part.of_mut(of_up);
                outward.round_output(formats.compute, of_hidden);
                match (self.functions(), &kept.gate) {
                    ((Some(gate_fn), up_fn), Some(gate)) => {
                        let inputs = [part.of(rows_of(gate, &rows, d_ff)), part.of(up), of_hidden];
                        let of_gate = part.of_mut(of_gate);
                        let results = [&mut *hidden, &mut *of_gate, &mut *of_up];
                        product_and_gradients_into(inputs, [gate_fn, up_fn], results);
                        inward.enter_one(0, Role::Grad, of_gate);
                        inward.enter_one(1, Role::Grad, of_up);
                    }
                    ((_, up_fn), _) => {
                        value_and_gradient_into(up_fn, [part.of(up), of_hidden], [&mut *hidden, &mut *of_up]);
                        inward.enter_one(0, Role::Grad, of_up);
                    }
                }
                round_rows(hidden, formats.compute);
                outward.round_from(formats.compute, Role::Input, hidden);
            }
        });
        into_hidden.time(|| {
            let mut of_normed = MatMut::row_major(of_normed, rows.len(), d);
            let mut dys = vec![];
            if kept.gate.is_some() {
                dys.push((&*of_gate, GATE));
            }
            dys.push((of_up, UP));
            inward.input_gradient(&mut products, &dys, &mut of_normed, second);
        });
        norm.time(|| {
            let results = [normed, of_x.elements()];
            inward.norm_backward([x, w.norm, rstd, grad], formats.compute, of_normed, results)
        })
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
