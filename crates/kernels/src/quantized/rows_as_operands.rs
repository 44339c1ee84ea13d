//! Rows of a matrix as operands of products that sum over its columns, and of those that sum over its rows.

use super::computation::contraction_key;
use super::{Matrix, QuantizedLinear, Role};
use crate::profile::{Part, Work, span};
use crate::round::{round_rows, to_bf16};
use crate::row_tasks::ROW_UNIT_ON_TILES;
use numerics::{Contraction, Extent, NumericFormat, OuterScale, RowQuantizer, Scaling};
use std::sync::{Mutex, PoisonError};

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
pub(super) struct RowOperand {
    cols: usize,
    ways: Ways,
    /// What its rows hold that have come by.
    seen: Mutex<Extent>,
}

/// Rows as the left operand of products, and their scales.
pub(crate) struct Left<'t> {
    /// Row-major.
    pub(crate) values: &'t [f32],
    pub(crate) outer: OuterScale,
}

impl RowOperand {
    /// Whole matrices are looked at where their scale is that of all of it.
    pub(super) fn of_whole(how: &QuantizedLinear, role: Role, of: Matrix<'_>, both: bool) -> Option<Self> {
        let extent = || span(Part::Quantise, Work::floats(of.values.len()), || numerics::extent(of.values));
        Some(Self::new(of.cols, Ways::new(how, role, [of.rows, of.cols], extent, both)?))
    }

    /// For a matrix of this shape that nobody has whole, and what it holds, where its scale is that of all of it.
    pub(super) fn of_rows(
        how: &QuantizedLinear,
        role: Role,
        shape: [usize; 2],
        extent: Extent,
        both: bool,
    ) -> Option<Self> {
        Some(Self::new(shape[1], Ways::new(how, role, shape, || extent, both)?))
    }

    fn new(cols: usize, ways: Ways) -> Self {
        Self { cols, ways, seen: Mutex::default() }
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Columns of the operand that sums over columns, where it is not the other one too.
    pub(super) fn own_width(&self) -> usize {
        match self.ways.across {
            Across::Same => 0,
            Across::Nothing | Across::Decoded(_) | Across::Again(_) => self.cols,
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

    /// Both operands of the rows x from number `first` on, in `own` memory and in that of the one that sums over rows. Returns the
    /// one that sums over columns.
    pub(super) fn quantise<'t>(
        &self,
        first: usize,
        x: &[f32],
        own: &'t mut [f32],
        across: &'t mut [f32],
    ) -> Left<'t> {
        let Self { cols, ways: Ways { along, across: way }, .. } = self;
        let own = &mut own[..x.len() / cols * self.own_width()];
        let to = if matches!(way, Across::Same) { &mut *across } else { &mut *own };
        let (extent, outer) = along.quantize(x, first, to);
        self.see(extent);
        match way {
            Across::Same => return Left { values: across, outer },
            Across::Nothing => {}
            Across::Decoded(format) => {
                let of_rows = own.chunks_exact(*cols).zip(across.chunks_exact_mut(*cols)).enumerate();
                for (row, (values, across)) in of_rows {
                    if *format == NumericFormat::Bf16 {
                        multiply_to_bf16(values, of_row(&outer, row), across);
                    } else {
                        multiply_into(values, of_row(&outer, row), across);
                        round_rows(across, *format);
                    }
                }
            }
            Across::Again(quantizer) => {
                quantizer.quantize(x, first, across);
            }
        }
        Left { values: own, outer }
    }

    fn see(&self, extent: Extent) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = seen.merge(extent);
    }

    /// Tells the keeper of a map what has come by.
    pub(super) fn tell(&self, how: &QuantizedLinear, role: Role) {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        how.observer.passed(role, seen.non_finite());
        how.observer.measured(role, how.spec(role), seen.amax());
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

    /// The same, rounded to bf16.
    fn multiply_to_bf16(x: &[f32], factor: f32, y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = to_bf16(x * factor);
        }
    }
}
