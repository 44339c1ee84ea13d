//! Projections of one input in tasks that take some rows through several of them, and through what lies between.

#[cfg(target_arch = "x86_64")]
use super::Formats;
use super::backward_rows::BackwardRows;
use super::forward_rows::ForwardRows;
use super::projection::{Kept, Projection, State};
use super::row_products::RowFormats;
#[cfg(target_arch = "x86_64")]
use crate::bf16_matmul::Amx;
use crate::matmul::Mat;
use crate::quantized::{Left, Matrix, Role, RowMaps};
use crate::row_tasks::{Operands, RowUnit};
use candle_core::{Error, Result};
use numerics::{Extent, NumericFormat, OuterScale};
use rayon::prelude::*;
use std::ops::Range;

/// Rows that are looked at in one task.
const ROWS: usize = 64;

/// Projections whose operands a task makes of its own rows.
pub(super) enum RowProjections<'a> {
    /// In f32, or every value rounded on its own, where it lies.
    ByValue(RowFormats<'a>),
    /// Quantised with scales that are known before, that rows have for themselves, or that all of them have together.
    Scaled(RowMaps<'a>),
}

/// Projections whose operands are rounded where they lie, and their weights.
pub(super) struct ByValue<'p> {
    pub(super) formats: &'p RowFormats<'p>,
    pub(super) ws: Vec<Matrix<'p>>,
}

impl<'a> RowProjections<'a> {
    /// Projections of so many rows, if tasks can make their operands.
    pub(super) fn new(all: &[&'a Projection], ws: &[&[f32]], n: usize) -> Option<Self> {
        if let Some(formats) = RowFormats::new(all) {
            return Some(Self::ByValue(formats));
        }
        let (computation, ws) = (Projection::low(all).ok()??, Projection::matrices(all, ws).ok()?);
        RowMaps::new(&computation, n, &ws).map(Self::Scaled)
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

    /// Whether tasks have to know what all rows of an operand hold before they make the first one.
    pub(super) fn need_extents(&self) -> bool {
        match self {
            Self::ByValue(_) => false,
            Self::Scaled(maps) => !maps.have_scales_of_rows(),
        }
    }

    /// What the rows hold of which `of` makes and looks at some on the calling thread, if that has to be known.
    pub(super) fn extent(&self, n: usize, of: impl Fn(Range<usize>) -> Extent + Sync) -> Extent {
        if !self.need_extents() {
            return Extent::default();
        }
        let rows =
            (0..n.div_ceil(ROWS)).into_par_iter().map(|task| of(task * ROWS..n.min((task + 1) * ROWS)));
        rows.reduce(Extent::default, Extent::merge)
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

    /// The forward pass of so many rows, which hold this, and of a backward pass to come if states are to be kept.
    pub(super) fn forward<'p>(
        &'p self,
        all: &[&Projection],
        ws: &[&'p [f32]],
        (n, extent): (usize, Extent),
        keep: bool,
    ) -> Result<ForwardRows<'p>> {
        let ws = Projection::matrices(all, ws)?;
        Ok(match self {
            Self::ByValue(formats) => ForwardRows::ByValue(ByValue { formats, ws }),
            Self::Scaled(maps) => ForwardRows::Scaled(maps.forward_rows(n, extent, &ws, keep)?.into()),
        })
    }

    /// The backward pass of so many rows of each gradient, which hold these, with what [`ForwardRows::states`] returned.
    pub(super) fn backward<'p>(
        &'p self,
        all: &[&Projection],
        ws: &[&'p [f32]],
        (n, extents): (usize, &[Extent]),
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
                BackwardRows::Scaled(maps.backward_rows(
                    n,
                    extents,
                    &kept.collect::<Result<Vec<_>>>()?,
                    &ws,
                )?)
            }
        })
    }
}

/// The unit of tiles, and the formats of projections into a block and out of it, if all values in it are bf16.
#[cfg(target_arch = "x86_64")]
pub(super) fn in_bf16<'f, 'a>(
    unit: RowUnit,
    formats: Formats,
    projections: [&'f RowProjections<'a>; 2],
) -> Option<(Amx, &'f RowFormats<'a>, &'f RowFormats<'a>)> {
    let unit = unit.tiles_of_bf16()?;
    let [RowProjections::ByValue(inward), RowProjections::ByValue(outward)] = projections else {
        return None;
    };
    let are_bf16 = formats.compute == NumericFormat::Bf16 && inward.are_bf16() && outward.are_bf16();
    are_bf16.then_some((unit, inward, outward))
}

impl ByValue<'_> {
    /// The weights, \[d_out, d_in\].
    pub(super) fn mats(&self) -> impl Iterator<Item = Mat<'_>> {
        self.ws.iter().map(|w| Mat::row_major(w.values, w.rows, w.cols))
    }
}

/// x as left operand.
pub(super) fn as_it_is(x: &[f32]) -> Left<'_> {
    Left { values: x, outer: OuterScale::Uniform(1.0) }
}

/// What a backward pass says that was given something else than its forward pass kept.
pub(super) fn other_kind() -> Error {
    Error::Msg("internal error: what the forward pass kept is of another kind".into())
}
