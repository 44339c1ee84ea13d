//! Which combinations make sense, and what is wrong with the others.

use crate::format::NumericFormat;
use crate::rounding::{Overflow, RoundingMode};
use crate::scaling::{Contraction, QuantSpec, ScaleKind, Scaling};

/// A quantisation that cannot be carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantError {
    /// The slice does not hold the matrix.
    #[error("a {rows} x {cols} matrix has {} elements, but {len} were given", rows.saturating_mul(*cols))]
    Length {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Elements given.
        len: usize,
    },
    /// The matrix has no elements.
    #[error("a {rows} x {cols} matrix has nothing to quantise")]
    Empty {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
    /// The blocks do not cover the matrix exactly.
    #[error(
        "{scaling} scaling cuts {axis} into blocks of {size}, and {length} is not a multiple of it; pad the matrix"
    )]
    Ragged {
        /// The scaling's name.
        scaling: &'static str,
        /// "rows" or "columns".
        axis: &'static str,
        /// Elements of a block along the axis.
        size: usize,
        /// Elements of the matrix along the axis.
        length: usize,
    },
    /// A parameter of the scaling is out of range.
    #[error("{scaling} scaling needs {parameter} {range}, found {found}")]
    Parameter {
        /// The scaling's name.
        scaling: &'static str,
        /// The parameter's name.
        parameter: &'static str,
        /// What is allowed.
        range: &'static str,
        /// What was given.
        found: i64,
    },
    /// The format has no use for this scaling.
    #[error("{format} elements cannot have {scaling} scaling: {reason}")]
    Scaling {
        /// The element format.
        format: NumericFormat,
        /// The scaling's name.
        scaling: &'static str,
        /// Why, and what to use.
        reason: &'static str,
    },
    /// The rounding mode does not go with the format.
    #[error("{format} elements cannot be rounded by {rounding}: {reason}")]
    Rounding {
        /// The element format.
        format: NumericFormat,
        /// The mode.
        rounding: RoundingMode,
        /// Why, and what to use.
        reason: &'static str,
    },
    /// The overflow rule does not go with the scaling.
    #[error(
        "overflow \"propagate\" does not go with mx scaling of {format}: a block's largest value may lie beyond the \
             largest element, where MX v1.0 clamps; use \"saturate\""
    )]
    MxOverflow {
        /// The element format.
        format: NumericFormat,
    },
    /// A power-of-two scale was asked for where there is no fp32 scale.
    #[error(
        "scale \"power_of_two\" does not go with {scaling} scaling, which has no choice of scale; leave it out"
    )]
    ScaleKind {
        /// The scaling's name.
        scaling: &'static str,
    },
    /// Delayed scaling without a scale.
    #[error(
        "delayed scaling needs a scale; push the amax of the first tensor to its DelayedScale before using it"
    )]
    MissingScale,
    /// A scale was given to a scaling that finds its own.
    #[error("a scale was given, but {scaling} scaling finds its own")]
    UnexpectedScale {
        /// The scaling's name.
        scaling: &'static str,
    },
    /// The given scale is no scale.
    #[error("a scale must be at least 2^-100 and finite, found {found}")]
    BadScale {
        /// What was given.
        found: f32,
    },
}

/// Largest power of two by which delayed scaling may change its scale.
const MAX_MARGIN: i32 = 32;

impl QuantSpec {
    /// The format alone, with no scale, to nearest even: the usual meaning of "in bf16".
    pub const fn unscaled(format: NumericFormat) -> Self {
        Self {
            format,
            scaling: Scaling::None,
            scale: ScaleKind::Float,
            rounding: RoundingMode::NearestEven,
            overflow: Overflow::Propagate,
        }
    }

    /// Refuses what makes no sense for any matrix.
    pub fn validate(&self) -> Result<(), QuantError> {
        self.check_parameters()?;
        self.check_format()?;
        let fixed_scale = match self.scaling {
            Scaling::None | Scaling::Mx => true,
            Scaling::Tensor | Scaling::Delayed { .. } | Scaling::Row => false,
            Scaling::Block { .. } | Scaling::Block2d { .. } => false,
            Scaling::Nvfp4 | Scaling::Nvfp4Weight | Scaling::Absmean | Scaling::Absmedian => false,
        };
        if fixed_scale && self.scale == ScaleKind::PowerOfTwo {
            return Err(QuantError::ScaleKind { scaling: self.scaling.name() });
        }
        if self.scaling == Scaling::Mx && self.overflow == Overflow::Propagate && self.format.has_nan() {
            return Err(QuantError::MxOverflow { format: self.format });
        }
        if self.format == NumericFormat::Fp32 && self.rounding == RoundingMode::Stochastic {
            let reason = "values are fp32 already, so there is nothing to round; use nearest_even";
            return Err(QuantError::Rounding { format: self.format, rounding: self.rounding, reason });
        }
        Ok(())
    }

    /// Refuses what makes no sense for a `[rows, cols]` matrix with this contraction.
    pub fn check(&self, rows: usize, cols: usize, contraction: Contraction) -> Result<(), QuantError> {
        self.validate()?;
        if rows == 0 || cols == 0 {
            return Err(QuantError::Empty { rows, cols });
        }
        let (tile_rows, tile_cols) = self.scaling.tile(rows, cols, contraction);
        for (axis, size, length) in [("rows", tile_rows, rows), ("columns", tile_cols, cols)] {
            if !length.is_multiple_of(size) {
                return Err(QuantError::Ragged { scaling: self.scaling.name(), axis, size, length });
            }
        }
        Ok(())
    }

    fn check_parameters(&self) -> Result<(), QuantError> {
        let scaling = self.scaling.name();
        let at_least_one = |parameter, found: usize| match found {
            0 => Err(QuantError::Parameter { scaling, parameter, range: "of at least 1", found: 0 }),
            1.. => Ok(()),
        };
        match self.scaling {
            Scaling::Delayed { history, margin } => {
                at_least_one("history", history)?;
                if margin.abs() > MAX_MARGIN {
                    let range = "between -32 and 32";
                    return Err(QuantError::Parameter {
                        scaling,
                        parameter: "margin",
                        range,
                        found: margin.into(),
                    });
                }
                Ok(())
            }
            Scaling::Block { size } => at_least_one("size", size),
            Scaling::Block2d { rows, cols } => at_least_one("rows", rows).and(at_least_one("cols", cols)),
            Scaling::None | Scaling::Tensor | Scaling::Row | Scaling::Mx => Ok(()),
            Scaling::Nvfp4 | Scaling::Nvfp4Weight | Scaling::Absmean | Scaling::Absmedian => Ok(()),
        }
    }

    fn check_format(&self) -> Result<(), QuantError> {
        use NumericFormat::{
            Bf16, E2m1, E2m3, E3m2, E4m3, E5m2, E8m0, Fp16, Fp32, Int4, Int8, Ternary, Tf32,
        };
        let refuse =
            |reason| Err(QuantError::Scaling { format: self.format, scaling: self.scaling.name(), reason });
        if self.format == E8m0 {
            return refuse(
                "e8m0 has neither sign nor zero and holds scales only; use mx scaling with another format",
            );
        }
        match self.scaling {
            Scaling::None => Ok(()),
            Scaling::Tensor
            | Scaling::Delayed { .. }
            | Scaling::Row
            | Scaling::Block { .. }
            | Scaling::Block2d { .. } => match self.format {
                Fp32 | Tf32 | Bf16 => {
                    refuse("it has the range of fp32 and needs no scale; use scaling \"none\"")
                }
                Fp16 | E4m3 | E5m2 | E3m2 | E2m3 | E2m1 | E8m0 | Int8 | Int4 | Ternary => Ok(()),
            },
            Scaling::Mx => match self.format {
                E4m3 | E5m2 | E3m2 | E2m3 | E2m1 | Int8 => Ok(()),
                Fp32 | Tf32 | Bf16 | Fp16 | E8m0 | Int4 | Ternary => {
                    refuse("MX v1.0 knows e4m3, e5m2, e3m2, e2m3, e2m1 and int8")
                }
            },
            Scaling::Nvfp4 | Scaling::Nvfp4Weight if self.format != E2m1 => refuse("NVFP4 elements are e2m1"),
            Scaling::Absmean | Scaling::Absmedian if self.format != Ternary => {
                refuse("it is defined for ternary elements; use tensor, row or block scaling")
            }
            Scaling::Nvfp4 | Scaling::Nvfp4Weight | Scaling::Absmean | Scaling::Absmedian => Ok(()),
        }
    }
}
