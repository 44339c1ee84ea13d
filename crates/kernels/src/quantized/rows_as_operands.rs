//! Rows of a matrix as operands of products that sum over its columns, and of those that sum over its rows.

use super::computation::contraction_key;
use super::{Matrix, QuantizedLinear, Role};
use crate::profile::{Part, Work, span};
use crate::round::round_rows;
use crate::row_tasks::ROW_UNIT_ON_TILES;
use numerics::{Contraction, Extent, NumericFormat, OuterScale, RowQuantizer, Scaling};
use std::ops::Range;

/// How rows become operands of products that sum over columns, and of those that sum over rows.
pub(super) struct Ways {
    pub(super) along: RowQuantizer,
    across: Across,
}

/// An operand of products that sum over rows.
enum Across {
    /// There is none.
    Nothing,
    /// The one that sums over columns.
    Same,
    /// What that one stands for, rounded: the straight-through estimator.
    Decoded(NumericFormat),
    /// Quantised again, with other scales.
    Again(RowQuantizer),
}

impl Ways {
    /// For a matrix of this shape, if its rows can be quantised by themselves; `extent` looks at all of it.
    pub(super) fn new(
        how: &QuantizedLinear,
        role: Role,
        shape: [usize; 2],
        extent: impl FnOnce() -> Extent,
        both: bool,
    ) -> Option<Self> {
        let (spec, given) = how.with_scale(role);
        let tensor = match spec.scaling {
            Scaling::Tensor | Scaling::Nvfp4 | Scaling::Nvfp4Weight => spec.tensor_scale(extent().amax()),
            Scaling::None | Scaling::Delayed { .. } | Scaling::Row | Scaling::Mx => given,
            Scaling::Block { .. } | Scaling::Block2d { .. } | Scaling::Absmean | Scaling::Absmedian => None,
        };
        let quantizer = |contraction| {
            let key = how.observer.key(role) ^ contraction_key(contraction);
            let quantizer = RowQuantizer::new(&spec, shape, contraction, key, tensor)?;
            ROW_UNIT_ON_TILES.is_multiple_of(quantizer.unit()).then_some(quantizer)
        };
        let along = quantizer(Contraction::Columns)?;
        let serves_both = along.scale().is_some() && !spec.scaling.follows_sum();
        let across = match how.grad.scaling {
            _ if !both => Across::Nothing,
            _ if serves_both => Across::Same,
            Scaling::None => Across::Decoded(how.grad.format),
            _ => Across::Again(quantizer(Contraction::Rows)?),
        };
        Some(Self { along, across })
    }
}

/// A matrix whose rows become operands.
pub(super) struct RowOperand<'a> {
    of: Matrix<'a>,
    ways: Ways,
}

impl<'a> RowOperand<'a> {
    pub(super) fn new(how: &QuantizedLinear, role: Role, of: Matrix<'a>, both: bool) -> Option<Self> {
        let extent = || span(Part::Quantise, Work::floats(of.values.len()), || numerics::extent(of.values));
        Some(Self { of, ways: Ways::new(how, role, [of.rows, of.cols], extent, both)? })
    }

    pub(super) fn cols(&self) -> usize {
        self.of.cols
    }

    /// Columns of the operand that sums over columns, where it is not the other one too.
    pub(super) fn own_width(&self) -> usize {
        match self.ways.across {
            Across::Same => 0,
            Across::Nothing | Across::Decoded(_) | Across::Again(_) => self.of.cols,
        }
    }

    /// The scale of products that sum over rows.
    pub(super) fn scale_across(&self) -> f32 {
        let Ways { along, across } = &self.ways;
        let quantizer = match across {
            Across::Same => along,
            Across::Again(quantizer) => quantizer,
            Across::Nothing | Across::Decoded(_) => return 1.0,
        };
        quantizer.scale().unwrap_or(1.0)
    }

    /// Both operands of some rows, in `own` memory and in that of the one that sums over rows. Returns the one that sums over
    /// columns, what the rows hold, and its scales.
    pub(super) fn quantise<'t>(
        &self,
        rows: &Range<usize>,
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> (&'t [f32], Extent, OuterScale) {
        let (cols, first) = (self.of.cols, rows.start);
        let x = &self.of.values[first * cols..rows.end * cols];
        let Ways { along, across: way } = &self.ways;
        let to = if matches!(way, Across::Same) { &mut *across } else { &mut *own };
        let (extent, outer) = along.quantize(x, first, to);
        match way {
            Across::Same => return (across, extent, outer),
            Across::Nothing => {}
            Across::Decoded(format) => {
                let of_rows = own.chunks_exact(cols).zip(across.chunks_exact_mut(cols)).enumerate();
                for (row, (values, across)) in of_rows {
                    multiply_into(values, of_row(&outer, row), across);
                    round_rows(across, *format);
                }
            }
            Across::Again(quantizer) => {
                quantizer.quantize(x, first, across);
            }
        }
        (own, extent, outer)
    }
}

/// The scale of all lines. ([`Ways`] and `goes_by_rows` let no blocks through.)
pub(super) fn uniform(outer: &OuterScale) -> f32 {
    match outer {
        OuterScale::Uniform(scale) => *scale,
        OuterScale::PerLine(_) | OuterScale::PerBlock { .. } => 1.0,
    }
}

/// The scale of a row of some.
pub(super) fn of_row(outer: &OuterScale, row: usize) -> f32 {
    match outer {
        OuterScale::PerLine(scales) => scales[row],
        OuterScale::Uniform(_) | OuterScale::PerBlock { .. } => uniform(outer),
    }
}

crate::multiversion! {
    /// y ← x `factor`.
    fn multiply_into(x: &[f32], factor: f32, y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = x * factor;
        }
    }
}
