//! Operands of the products that sum over rows, which tasks make some rows of at a time: those of weights' gradients.

#[cfg(target_arch = "x86_64")]
use crate::bf16_matmul::{OverRows, Side, Strips, packed_products};
use crate::matmul::{Mat, MatMut, scaled_products};
use crate::row_tasks::RowUnit;
use std::ops::Range;
use std::ptr::NonNull;

/// Which operand of aᵀ b a matrix is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Factor {
    /// The one whose columns are the rows of the product.
    First,
    /// The one whose columns are its columns.
    Second,
}

/// A matrix whose rows are to be made.
pub(crate) enum ToMake<'a> {
    /// It is there already.
    Given(Mat<'a>),
    /// Room for its values.
    Values { values: Vec<f32>, rows: usize, cols: usize },
    /// Room for its tiles. The values are in the memory of the task that makes them, and packed when it is done.
    #[cfg(target_arch = "x86_64")]
    Tiles(OverRows),
}

/// A matrix whose rows have been made.
pub(crate) enum Made<'a> {
    /// It was there.
    Given(Mat<'a>),
    /// As values, row-major.
    Values { values: Vec<f32>, rows: usize, cols: usize },
    /// Packed.
    #[cfg(target_arch = "x86_64")]
    Tiles(Strips),
}

impl<'a> ToMake<'a> {
    /// Room for a matrix.
    pub(crate) fn new(unit: RowUnit, factor: Factor, [rows, cols]: [usize; 2]) -> Self {
        match unit {
            RowUnit::F32(_) => Self::Values { values: Vec::with_capacity(rows * cols), rows, cols },
            #[cfg(target_arch = "x86_64")]
            RowUnit::Tiles(_, parts) => {
                let side = if factor == Factor::First { Side::Left } else { Side::Right };
                Self::Tiles(OverRows::new(side, parts, rows, cols))
            }
        }
    }

    /// Nothing to make.
    pub(crate) fn nothing() -> Self {
        Self::Given(Mat::row_major(&[], 0, 0))
    }

    /// A matrix that is there, or room for its copy where it has to be packed.
    pub(crate) fn given(unit: RowUnit, factor: Factor, mat: Mat<'a>) -> Self {
        match unit {
            RowUnit::F32(_) => Self::Given(mat),
            #[cfg(target_arch = "x86_64")]
            RowUnit::Tiles(..) => Self::new(unit, factor, [mat.rows, mat.cols]),
        }
    }

    /// A row-major matrix that tasks change; also what they are to begin with, where that is not in its place.
    pub(crate) fn changed(
        unit: RowUnit,
        factor: Factor,
        values: Vec<f32>,
        [rows, cols]: [usize; 2],
    ) -> (Self, Vec<f32>) {
        assert_eq!(values.len(), rows * cols);
        match unit {
            RowUnit::F32(_) => (Self::Values { values, rows, cols }, vec![]),
            #[cfg(target_arch = "x86_64")]
            RowUnit::Tiles(..) => (Self::new(unit, factor, [rows, cols]), values),
        }
    }

    /// The place of values that are kept, for tasks to write.
    pub(crate) fn place(&mut self) -> MatMut<'static> {
        let (place, rows, cols) = match self {
            Self::Values { values, rows, cols } => (values.as_mut_ptr(), *rows, *cols),
            Self::Given(_) => (NonNull::dangling().as_ptr(), 0, 0),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(_) => (NonNull::dangling().as_ptr(), 0, 0),
        };
        // SAFETY: the capacity is the matrix, nobody else has it until `made`, and tasks write it before they read it.
        unsafe { MatMut::from_raw(place, [rows, cols], cols) }
    }

    /// Columns of values that are not kept.
    pub(crate) fn scratch(&self) -> usize {
        match self {
            Self::Given(_) | Self::Values { .. } => 0,
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(tiles) => tiles.cols(),
        }
    }

    /// Takes rows that a task has made in its own memory.
    ///
    /// # Safety
    /// No other task makes any of them.
    pub(crate) unsafe fn take(&self, rows: Range<usize>, values: &[f32]) {
        match self {
            Self::Given(_) | Self::Values { .. } => {}
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise.
            Self::Tiles(tiles) => unsafe { tiles.pack(rows, values) },
        }
    }

    /// The matrix.
    ///
    /// # Safety
    /// All rows have been made.
    pub(crate) unsafe fn made(self) -> Made<'a> {
        match self {
            Self::Given(mat) => Made::Given(mat),
            Self::Values { mut values, rows, cols } => {
                // SAFETY: the caller's promise.
                unsafe { values.set_len(rows * cols) };
                Made::Values { values, rows, cols }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise.
            Self::Tiles(tiles) => Made::Tiles(unsafe { tiles.packed() }),
        }
    }
}

impl Made<'_> {
    fn mat(&self) -> Option<Mat<'_>> {
        match self {
            Self::Given(mat) => Some(*mat),
            Self::Values { values, rows, cols } => Some(Mat::row_major(values, *rows, *cols)),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(_) => None,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn strips(&self) -> Option<&Strips> {
        match self {
            Self::Given(_) | Self::Values { .. } => None,
            Self::Tiles(strips) => Some(strips),
        }
    }
}

/// `factor` aᵀ b for each, all of which have been made by one unit, on all threads of the current rayon pool.
pub(crate) fn products_over_rows(unit: RowUnit, pairs: &[(f32, &Made<'_>, &Made<'_>)]) -> Vec<Vec<f32>> {
    let products = match unit {
        RowUnit::F32(_) => {
            let mats =
                pairs.iter().filter_map(|(factor, a, b)| Some((*factor, a.mat()?.t(), b.mat()?, None)));
            scaled_products(mats)
        }
        #[cfg(target_arch = "x86_64")]
        RowUnit::Tiles(unit, _) => {
            let packed = pairs.iter().filter_map(|(factor, a, b)| Some((*factor, a.strips()?, b.strips()?)));
            let packed: Vec<_> = packed.collect();
            packed_products(unit, &packed)
        }
    };
    assert_eq!(products.len(), pairs.len(), "one unit has made all operands");
    products
}
