//! Projections of one input in tasks that take some rows through several of them, and through what lies between.

use super::projection::{Kept, Projection, State};
use super::row_products::{AT_ONCE, RowFormats, norm_rows_again};
use crate::matmul::{Before, Mat, MatMut, Update};
use crate::quantized::{Left, Matrix, Role, RowBackward, RowForward, RowGradients, RowMaps};
use crate::round::round_rows;
use crate::row_operands::{Factor, Made, ToMake};
use crate::row_tasks::{Operands, RowProducts, RowUnit};
use candle_core::{Error, Result};
use numerics::{NumericFormat, OuterScale};

/// Projections whose operands a task makes of its own rows.
pub(super) enum RowProjections<'a> {
    /// In f32, or every value rounded on its own, where it lies.
    ByValue(RowFormats<'a>),
    /// Quantised with scales that are known before, or that rows have for themselves.
    Scaled(RowMaps<'a>),
}

/// Their forward pass.
pub(super) enum ForwardRows<'p> {
    ByValue(ByValue<'p>),
    Scaled(Box<RowForward<'p>>),
}

/// Their backward pass.
pub(super) enum BackwardRows<'p> {
    ByValue(ByValue<'p>),
    Scaled(RowBackward<'p>),
}

/// Projections whose operands are rounded where they lie, and their weights.
pub(super) struct ByValue<'p> {
    formats: &'p RowFormats<'p>,
    ws: Vec<Matrix<'p>>,
}

/// Operands of the gradients of weights.
pub(super) enum WeightOperands<'m> {
    /// dy of each projection, and their x.
    ByValue(Vec<Made<'m>>, Made<'m>),
    Scaled(RowGradients<'m>),
}

impl<'a> RowProjections<'a> {
    /// Projections of so many rows, if tasks can make their operands.
    pub(super) fn new(all: &[&'a Projection], ws: &[&[f32]], n: usize) -> Option<Self> {
        if let Some(formats) = RowFormats::new(all) {
            return Some(Self::ByValue(formats));
        }
        let (computation, ws) = (Projection::low(all).ok()??, Projection::matrices(all, ws).ok()?);
        RowMaps::new(&computation, n, &ws).filter(RowMaps::have_scales_of_rows).map(Self::Scaled)
    }

    /// What multiplies rows with these right operands for projections and others, if all of them are of one kind.
    pub(super) fn unit(&self, other: &Self, n: usize, right: &[Mat<'_>]) -> Option<RowUnit> {
        match [self, other] {
            [Self::ByValue(formats), Self::ByValue(of_other)] => {
                RowUnit::new(n, right, formats.operands().max(of_other.operands()))
            }
            [Self::Scaled(_), Self::Scaled(_)] => {
                RowUnit::new(n, right, Operands::Bf16).filter(|unit| unit.is_on_tiles())
            }
            [Self::ByValue(_), Self::Scaled(_)] | [Self::Scaled(_), Self::ByValue(_)] => None,
        }
    }

    /// Whether somebody wants to see operands whole, which those with scales then are not made by rows for.
    pub(super) fn are_looked_at(&self) -> bool {
        match self {
            Self::ByValue(formats) => formats.are_looked_at(),
            Self::Scaled(_) => false,
        }
    }

    /// `width` for values that are rounded where they lie, unless all is in f32.
    pub(super) fn width_if_low(&self, width: usize) -> usize {
        match self {
            Self::ByValue(formats) => formats.width_if_low(width),
            Self::Scaled(_) => width,
        }
    }

    /// Whether numbers of `format` can be the input as they are: nothing is rounded, or it is where it is read.
    pub(super) fn takes(&self, format: NumericFormat) -> bool {
        match self {
            Self::ByValue(formats) => formats.holds(Role::Input, format),
            Self::Scaled(_) => true,
        }
    }

    /// The forward pass of so many rows, and of a backward pass to come if states are to be kept.
    pub(super) fn forward<'p>(
        &'p self,
        all: &[&Projection],
        ws: &[&'p [f32]],
        n: usize,
        keep: bool,
    ) -> Result<ForwardRows<'p>> {
        let ws = Projection::matrices(all, ws)?;
        Ok(match self {
            Self::ByValue(formats) => ForwardRows::ByValue(ByValue { formats, ws }),
            Self::Scaled(maps) => ForwardRows::Scaled(maps.forward_rows(n, &ws, keep)?.into()),
        })
    }

    /// The backward pass of so many rows, with what [`ForwardRows::states`] returned.
    pub(super) fn backward<'p>(
        &'p self,
        all: &[&Projection],
        ws: &[&'p [f32]],
        n: usize,
        states: &[State],
    ) -> Result<BackwardRows<'p>> {
        let ws = Projection::matrices(all, ws)?;
        Ok(match self {
            Self::ByValue(formats) => BackwardRows::ByValue(ByValue { formats, ws }),
            Self::Scaled(maps) => {
                let kept = states.iter().map(|state| match state {
                    Some(Kept::ByRows(kept)) => Ok(kept),
                    Some(Kept::Whole(_)) | None => Err(other_kind()),
                });
                BackwardRows::Scaled(maps.backward_rows(n, &kept.collect::<Result<Vec<_>>>()?, &ws)?)
            }
        })
    }
}

impl ByValue<'_> {
    fn mats(&self) -> impl Iterator<Item = Mat<'_>> {
        self.ws.iter().map(|w| Mat::row_major(w.values, w.rows, w.cols))
    }
}

/// x as left operand.
fn as_it_is(x: &[f32]) -> Left<'_> {
    Left { values: x, outer: OuterScale::Uniform(1.0) }
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

    /// The same of values that must stay, in memory for a copy unless they are the operand as they are.
    pub(super) fn round_copy<'t>(
        &self,
        format: NumericFormat,
        values: &'t [f32],
        copy: &'t mut [f32],
    ) -> &'t [f32] {
        match self {
            Self::ByValue(ByValue { formats, .. }) if copy.is_empty() => {
                formats.count(Role::Input, values);
                values
            }
            Self::ByValue(ByValue { formats, .. }) => {
                copy.copy_from_slice(values);
                formats.enter(format, Role::Input, copy);
                copy
            }
            Self::Scaled(_) => values,
        }
    }

    /// The rows x of the input from number `first` on as left operand, in `own` memory and in that of [`ForwardRows::across`]
    /// unless they have been rounded where they lie.
    pub(super) fn enter<'t>(
        &self,
        first: usize,
        x: &'t [f32],
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        match self {
            Self::ByValue(_) => as_it_is(x),
            Self::Scaled(pass) => pass.enter(first, x, own, across),
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
    /// that of [`BackwardRows::across`], unless they have been rounded where they lie.
    pub(super) fn enter<'t>(
        &self,
        index: usize,
        first: usize,
        dy: &'t [f32],
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        match self {
            Self::ByValue(_) => as_it_is(dy),
            Self::Scaled(pass) => pass.enter(index, first, dy, own, across),
        }
    }

    /// The same of rows of `format` that must stay: those rounded on their own are copied, if there is room for that.
    pub(super) fn enter_copy<'t>(
        &self,
        index: usize,
        first: usize,
        (dy, format): (&'t [f32], NumericFormat),
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        match self {
            Self::ByValue(_) if across.is_empty() => as_it_is(dy),
            Self::ByValue(_) => {
                for (across, dy) in across.chunks_mut(AT_ONCE).zip(dy.chunks(AT_ONCE)) {
                    across.copy_from_slice(dy);
                    self.round_in_place(index, format, across);
                }
                as_it_is(across)
            }
            Self::Scaled(pass) => pass.enter(index, first, dy, own, across),
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

pub(super) fn other_kind() -> Error {
    Error::Msg("internal error: what the forward pass kept is of another kind".into())
}
