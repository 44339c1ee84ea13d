//! Rows through projections of one input.

use super::projection::{Kept, State};
use super::row_projections::{ByValue, as_it_is};
use crate::matmul::{Before, Mat, MatMut, Update};
use crate::profile::Clock;
use crate::quantized::{Left, Role, RowForward};
use crate::round::round_rows;
use crate::row_operands::{Made, ToMake};
use crate::row_tasks::{RowProducts, RowUnit};
use numerics::NumericFormat;

/// The forward pass of projections.
pub(super) enum ForwardRows<'p> {
    ByValue(ByValue<'p>),
    Scaled(Box<RowForward<'p>>),
}

impl ForwardRows<'_> {
    /// The right operands of products, one of each projection.
    pub(super) fn right(&self) -> Vec<Mat<'_>> {
        match self {
            Self::ByValue(by_value) => by_value.mats().map(Mat::t).collect(),
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

    /// Columns of memory that a task needs for an operand.
    pub(super) fn own_width(&self) -> usize {
        match self {
            Self::ByValue(_) => 0,
            Self::Scaled(pass) => pass.own_width(),
        }
    }

    /// Room for what a backward pass needs of the input.
    pub(super) fn across(&self, unit: RowUnit, n: usize) -> ToMake<'static> {
        match self {
            Self::ByValue(_) => ToMake::nothing(),
            Self::Scaled(pass) => pass.across(unit, n),
        }
    }

    /// Rounds some values of `format` of the input, if that is done where they lie.
    pub(super) fn round_in_place(&self, format: NumericFormat, values: &mut [f32]) {
        match self {
            Self::ByValue(ByValue { formats, .. }) => formats.enter(format, Role::Input, values),
            Self::Scaled(_) => {}
        }
    }

    /// The same of values that must stay, in memory for a copy unless they are the operand as they are. `clock`
    /// runs while anything is done.
    pub(super) fn round_copy<'t>(
        &self,
        clock: &Clock,
        format: NumericFormat,
        values: &'t [f32],
        copy: &'t mut [f32],
    ) -> &'t [f32] {
        match self {
            Self::ByValue(ByValue { formats, .. }) if copy.is_empty() => {
                formats.count(Role::Input, values);
                values
            }
            Self::ByValue(ByValue { formats, .. }) => clock.time(|| {
                copy.copy_from_slice(values);
                formats.enter(format, Role::Input, copy);
                &*copy
            }),
            Self::Scaled(_) => values,
        }
    }

    /// The rows x of the input from number `first` on as left operand, in `own` memory and in that of [`ForwardRows::across`]
    /// unless they have been rounded where they lie. `clock` runs while anything is done.
    pub(super) fn enter<'t>(
        &self,
        clock: &Clock,
        first: usize,
        x: &'t [f32],
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        match self {
            Self::ByValue(_) => as_it_is(x),
            Self::Scaled(pass) => clock.time(|| pass.enter(first, x, own, across)),
        }
    }

    /// c ← left wᵀ for each c and projection, whose right operands are those from number `first` on.
    pub(super) fn multiply(
        &self,
        products: &mut RowProducts<'_>,
        left: &Left<'_>,
        first: usize,
        results: &mut [&mut MatMut<'_>],
    ) {
        match self {
            Self::ByValue(ByValue { formats, ws }) => {
                let left = Mat::row_major(left.values, left.values.len() / ws[0].cols, ws[0].cols);
                let all =
                    results.iter_mut().zip(first..).map(|(c, index)| (index, &mut **c, Update::OVERWRITE));
                products.multiply_rounded(left, &mut all.collect::<Vec<_>>(), formats.output(), &mut []);
            }
            Self::Scaled(pass) => pass.multiply(products, left, first, results, None, &mut []),
        }
    }

    /// y ← residual + left wᵀ, in the format of the residual stream. The right operand is number `index`; `part` is memory for a
    /// product below f32.
    pub(super) fn onto(
        &self,
        residual: &[f32],
        products: &mut RowProducts<'_>,
        (left, index): (&Left<'_>, usize),
        y: &mut MatMut<'_>,
        part: &mut [f32],
        format: NumericFormat,
    ) {
        match self {
            Self::ByValue(ByValue { formats, ws }) => {
                let [rows, cols] = y.shape();
                let before = Before::Other(Mat::row_major(residual, rows, cols));
                let left = Mat::row_major(left.values, rows, ws[0].cols);
                let mut results = [(index, &mut *y, Update { before, ..Update::OVERWRITE })];
                products.multiply_rounded(left, &mut results, formats.output(), part);
            }
            Self::Scaled(pass) => pass.multiply(products, left, index, &mut [y], Some(residual), part),
        }
        round_rows(y.elements(), format);
    }

    /// Tells the keepers of the projections what has come by. A state of each projection.
    pub(super) fn states(self, across: Made<'static>) -> Vec<State> {
        match self {
            Self::ByValue(ByValue { formats, ws }) => {
                formats.count_weights(&ws.iter().map(|w| w.values).collect::<Vec<_>>());
                formats.tell(&[Role::Input, Role::Weight]);
                ws.iter().map(|_| None).collect()
            }
            Self::Scaled(pass) => {
                pass.kept(across).into_iter().map(|kept| Some(Kept::ByRows(kept))).collect()
            }
        }
    }
}
