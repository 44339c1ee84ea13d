//! Gradients of rows back through projections of one input.

use super::row_products::{AT_ONCE, norm_rows_again};
use super::row_projections::{ByValue, as_it_is};
use crate::matmul::{Mat, MatMut, Update};
use crate::profile::Clock;
use crate::quantized::{Left, Role, RowBackward, RowGradients};
use crate::round::round_rows;
use crate::row_operands::{Factor, Made, ToMake};
use crate::row_tasks::{RowProducts, RowUnit};
use numerics::NumericFormat;

/// The backward pass of projections.
pub(super) enum BackwardRows<'p> {
    ByValue(ByValue<'p>),
    Scaled(RowBackward<'p>),
}

/// Operands of the gradients of weights.
pub(super) enum WeightOperands<'m> {
    /// dy of each projection, and their x.
    ByValue(Vec<Made<'m>>, Made<'m>),
    Scaled(RowGradients<'m>),
}

impl BackwardRows<'_> {
    /// The right operands of products, one of each projection.
    pub(super) fn right(&self) -> Vec<Mat<'_>> {
        match self {
            Self::ByValue(by_value) => by_value.mats().collect(),
            Self::Scaled(pass) => pass.right().collect(),
        }
    }

    /// Rounds values of a right operand where it is packed.
    pub(super) fn round_weight(&self, values: &mut [f32]) {
        match self {
            Self::ByValue(ByValue { formats, .. }) => formats.round(Role::Weight, values),
            Self::Scaled(_) => {}
        }
    }

    /// Whether operands are made where their values lie.
    pub(super) fn is_by_value(&self) -> bool {
        matches!(self, Self::ByValue(_))
    }

    /// Whether gradients are operands as they are.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::ByValue(ByValue { formats, .. }) if formats.is_full())
    }

    /// Whether numbers of `format` are the input as operand as they are.
    pub(super) fn holds_input(&self, format: NumericFormat) -> bool {
        matches!(self, Self::ByValue(ByValue { formats, .. }) if formats.holds(Role::Input, format))
    }

    /// Columns of memory that a task needs for an operand.
    pub(super) fn own_width(&self) -> usize {
        match self {
            Self::ByValue(_) => 0,
            Self::Scaled(pass) => pass.own_width(),
        }
    }

    /// Room for the gradient of this projection's result as operand of its weight's, nothing if there is no such projection.
    pub(super) fn across(&self, index: usize, unit: RowUnit, n: usize) -> ToMake<'static> {
        match self {
            Self::ByValue(ByValue { ws, .. }) => match ws.get(index) {
                Some(w) => ToMake::new(unit, Factor::First, [n, w.rows]),
                None => ToMake::nothing(),
            },
            Self::Scaled(pass) => pass.across(index, unit, n),
        }
    }

    /// Room for the input as operand of the weights' gradients, if it is to be made again.
    pub(super) fn input(&self, unit: RowUnit, n: usize) -> ToMake<'static> {
        match self {
            Self::ByValue(ByValue { ws, .. }) => ToMake::new(unit, Factor::Second, [n, ws[0].cols]),
            Self::Scaled(_) => ToMake::nothing(),
        }
    }

    /// The input again, if it is to be made and is what a norm gave, from its `rstd`.
    pub(super) fn norm_again(&self, [x, w, rstd]: [&[f32]; 3], format: NumericFormat, normed: &mut [f32]) {
        if !normed.is_empty() {
            norm_rows_again([x, w, rstd], format, normed, |normed| self.round_input(format, normed));
        }
    }

    /// Rounds some values of `format` of the input that has been made again, if that is done where they lie.
    pub(super) fn round_input(&self, format: NumericFormat, values: &mut [f32]) {
        match self {
            Self::ByValue(ByValue { formats, .. }) => formats.round_from(format, Role::Input, values),
            Self::Scaled(_) => {}
        }
    }

    /// Rounds some values of `format` of the gradient of this projection's result, if that is done where they lie.
    pub(super) fn round_in_place(&self, index: usize, format: NumericFormat, values: &mut [f32]) {
        match self {
            Self::ByValue(ByValue { formats, .. }) => formats.enter_one(index, format, Role::Grad, values),
            Self::Scaled(_) => {}
        }
    }

    /// Rounds to `format` what [`BackwardRows::add`] of a single projection gave, which may have been done.
    pub(super) fn round_output(&self, format: NumericFormat, values: &mut [f32]) {
        match self {
            Self::ByValue(ByValue { formats, .. }) => formats.round_output(format, values),
            Self::Scaled(pass) if pass.output() != format => round_rows(values, format),
            Self::Scaled(_) => {}
        }
    }

    /// The rows dy of the gradient of this projection's result, from number `first` on, as left operand: in `own` memory and in
    /// that of [`BackwardRows::across`], unless they have been rounded where they lie. `clock` runs while anything is done.
    pub(super) fn enter<'t>(
        &self,
        clock: &Clock,
        index: usize,
        first: usize,
        dy: &'t [f32],
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        match self {
            Self::ByValue(_) => as_it_is(dy),
            Self::Scaled(pass) => clock.time(|| pass.enter(index, first, dy, own, across)),
        }
    }

    /// The same of rows of `format` that must stay: those rounded on their own are copied, if there is room for that.
    pub(super) fn enter_copy<'t>(
        &self,
        clock: &Clock,
        index: usize,
        first: usize,
        (dy, format): (&'t [f32], NumericFormat),
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        match self {
            Self::ByValue(_) if across.is_empty() => as_it_is(dy),
            Self::ByValue(_) => clock.time(|| {
                for (across, dy) in across.chunks_mut(AT_ONCE).zip(dy.chunks(AT_ONCE)) {
                    across.copy_from_slice(dy);
                    self.round_in_place(index, format, across);
                }
                as_it_is(across)
            }),
            Self::Scaled(pass) => clock.time(|| pass.enter(index, first, dy, own, across)),
        }
    }

    /// Room for the gradient as [`BackwardRows::across`], and what tasks begin with: `values`, where they are not in their place.
    pub(super) fn changed(
        &self,
        index: usize,
        unit: RowUnit,
        n: usize,
        values: Vec<f32>,
    ) -> (ToMake<'static>, Vec<f32>) {
        match self {
            Self::ByValue(ByValue { ws, .. }) => {
                ToMake::changed(unit, Factor::First, values, [n, ws[index].rows])
            }
            Self::Scaled(pass) => (pass.across(index, unit, n), values),
        }
    }

    /// dx ← left w of this projection, and what is in dx already unless it is the first. The right operand is number `right`;
    /// `part` is memory for one of several products below f32.
    pub(super) fn add(
        &self,
        index: usize,
        products: &mut RowProducts<'_>,
        (left, right): (&Left<'_>, usize),
        dx: &mut MatMut<'_>,
        part: &mut [f32],
    ) {
        match self {
            Self::ByValue(ByValue { formats, ws }) => {
                let dy = Mat::row_major(left.values, dx.shape()[0], ws[index].rows);
                let update = if index == 0 { Update::OVERWRITE } else { Update::ACCUMULATE };
                products.multiply_rounded(dy, &mut [(right, dx, update)], formats.output(), part);
            }
            Self::Scaled(pass) => pass.add(index, products, left, right, dx, part),
        }
    }

    /// Tells the keepers of the projections what has come by. The operands of their weights' gradients.
    pub(super) fn operands<'m>(self, across: Vec<Made<'m>>, input: Made<'m>) -> WeightOperands<'m> {
        match self {
            Self::ByValue(ByValue { formats, .. }) => {
                formats.tell(&[Role::Grad]);
                WeightOperands::ByValue(across, input)
            }
            Self::Scaled(pass) => WeightOperands::Scaled(pass.gradients(across)),
        }
    }
}

impl<'m> WeightOperands<'m> {
    /// Factor, dy and x of each gradient.
    pub(super) fn pairs(&self) -> Vec<(f32, &Made<'m>, &Made<'m>)> {
        match self {
            Self::ByValue(dys, x) => dys.iter().map(|dy| (1.0, dy, x)).collect(),
            Self::Scaled(gradients) => gradients.pairs().collect(),
        }
    }
}
