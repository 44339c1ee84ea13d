//! The result of quantisation: what a matrix product multiplies, and what it scales its sums by.

use rayon::prelude::*;

use crate::format::NumericFormat;
use crate::multiversion;
use crate::quantize::{TASK, round_rows};
use crate::rounding::Overflow;
use crate::scaling::{Contraction, QuantSpec, Scaling};

/// A quantised operand of a matrix product.
#[derive(Debug, Clone, PartialEq)]
pub struct Operand {
    /// What the product multiplies: elements times those scales that keep products exact (the E8M0 scales of
    /// MX, the E4M3 block scales of NVFP4). Row-major, in the layout of the input. NaN elements are NaN.
    ///
    /// Elements of at most 8 significant bits (all but fp16, tf32 and fp32) are exact in bf16 as well, and
    /// their products in `f32`; folded MX scales below 2^-110 may take values below what bf16 holds.
    pub values: Vec<f32>,
    /// The rest of the scale, for the `f32` sums.
    pub outer: OuterScale,
    /// The largest magnitude of the finite input elements, 0 if there are none.
    pub amax: f32,
    /// Input elements that are NaN or infinite.
    pub non_finite: u64,
}

/// Scales to multiply the `f32` sums of a product by.
#[derive(Debug, Clone, PartialEq)]
pub enum OuterScale {
    /// One for all.
    Uniform(f32),
    /// One per line (see [`Contraction`]).
    PerLine(Vec<f32>),
    /// One per line and block of the contracted index: each block's partial sum is scaled before it is added.
    PerBlock {
        /// Elements of a block.
        size: usize,
        /// `[lines, blocks]`, row-major.
        scales: Vec<f32>,
    },
}

impl OuterScale {
    /// Brings the scales of the tiles, `[rows / tile rows, cols / tile cols]`, into the order of the sums.
    /// `tensor` is the scale of the tensor where blocks have folded scales of their own.
    pub(crate) fn from_tiles(
        spec: &QuantSpec,
        (rows, cols): (usize, usize),
        contraction: Contraction,
        tiles: Vec<f32>,
        tensor: f32,
    ) -> Self {
        let (tile_rows, tile_cols) = spec.scaling.tile(rows, cols, contraction);
        match spec.scaling {
            Scaling::None | Scaling::Mx => Self::Uniform(1.0),
            Scaling::Tensor | Scaling::Delayed { .. } | Scaling::Absmean | Scaling::Absmedian => {
                Self::Uniform(tiles[0])
            }
            Scaling::Nvfp4 | Scaling::Nvfp4Weight => Self::Uniform(tensor),
            Scaling::Row => Self::PerLine(tiles),
            Scaling::Block { .. } | Scaling::Block2d { .. } => {
                let across = cols / tile_cols;
                let (size, scale_of): (usize, &dyn Fn(usize, usize) -> f32) = match contraction {
                    Contraction::Columns => {
                        (tile_cols, &|line, block| tiles[line / tile_rows * across + block])
                    }
                    Contraction::Rows => (tile_rows, &|line, block| tiles[block * across + line / tile_cols]),
                };
                let blocks = contraction.length(rows, cols) / size;
                let of_line = |line| (0..blocks).map(move |block| scale_of(line, block));
                Self::PerBlock {
                    size,
                    scales: (0..contraction.lines(rows, cols)).flat_map(of_line).collect(),
                }
            }
        }
    }

    /// The scale of the element at `position` of `line`. `length` is the length of a line.
    #[inline]
    fn at(&self, line: usize, position: usize, length: usize) -> f32 {
        match self {
            Self::Uniform(scale) => *scale,
            Self::PerLine(scales) => scales[line],
            Self::PerBlock { size, scales } => scales[line * (length / size) + position / size],
        }
    }

    /// The scale of the element at (`row`, `col`) of a `[rows, cols]` matrix.
    #[inline]
    pub(crate) fn of_element(
        &self,
        (row, col): (usize, usize),
        (rows, cols): (usize, usize),
        contraction: Contraction,
    ) -> f32 {
        match contraction {
            Contraction::Columns => self.at(row, col, cols),
            Contraction::Rows => self.at(col, row, rows),
        }
    }
}

impl Operand {
    /// What the operand stands for: values times scales, each product rounded once to `f32`. Shape and
    /// contraction are those that it was quantised with.
    pub fn dequantize(&self, rows: usize, cols: usize, contraction: Contraction) -> Vec<f32> {
        self.decoded((rows, cols), contraction, |_| {})
    }

    /// [`dequantize`](Self::dequantize), then to the nearest number of a format, beyond its largest one to infinity where there
    /// is one.
    pub fn dequantize_to(
        &self,
        format: NumericFormat,
        rows: usize,
        cols: usize,
        contraction: Contraction,
    ) -> Vec<f32> {
        self.decoded((rows, cols), contraction, |values| round_rows(values, format, Overflow::Propagate))
    }

    fn decoded(
        &self,
        (rows, cols): (usize, usize),
        contraction: Contraction,
        then: impl Fn(&mut [f32]) + Sync,
    ) -> Vec<f32> {
        debug_assert_eq!(self.values.len(), rows * cols);
        let mut out = Vec::with_capacity(self.values.len());
        let task_rows = (TASK / cols.max(1)).max(1);
        let task = (task_rows * cols).max(1);
        let parts = out.spare_capacity_mut()[..self.values.len()].par_chunks_mut(task);
        parts.zip(self.values.par_chunks(task)).enumerate().for_each(|(index, (out, values))| {
            let out = out.write_copy_of_slice(values);
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                self.scale_row(index * task_rows + row, rows, contraction, out);
            }
            then(out);
        });
        // SAFETY: the tasks wrote all of it.
        unsafe { out.set_len(self.values.len()) };
        out
    }

    /// Multiplies a row of so many by its scales.
    fn scale_row(&self, row: usize, rows: usize, contraction: Contraction, values: &mut [f32]) {
        let cols = values.len();
        match (&self.outer, contraction) {
            (OuterScale::Uniform(scale), _) => scale_run(values, *scale),
            (OuterScale::PerLine(scales), Contraction::Columns) => scale_run(values, scales[row]),
            (OuterScale::PerBlock { size, scales }, Contraction::Columns) => {
                let of_row = &scales[row * (cols / size)..];
                values.chunks_mut(*size).zip(of_row).for_each(|(run, scale)| scale_run(run, *scale));
            }
            (outer @ (OuterScale::PerLine(_) | OuterScale::PerBlock { .. }), Contraction::Rows) => {
                for (col, x) in values.iter_mut().enumerate() {
                    *x *= outer.of_element((row, col), (rows, cols), contraction);
                }
            }
        }
    }
}

multiversion! {
    fn scale_run(values: &mut [f32], scale: f32) {
        for x in values {
            *x *= scale;
        }
    }
}
