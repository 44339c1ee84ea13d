//! The result of quantisation: what a matrix product multiplies, and what it scales its sums by.

use rayon::prelude::*;

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
        debug_assert_eq!(self.values.len(), rows * cols);
        let mut out = self.values.clone();
        let rows_of = out.par_chunks_mut(cols.max(1)).enumerate();
        match &self.outer {
            OuterScale::Uniform(scale) => {
                rows_of.for_each(|(_, row)| row.iter_mut().for_each(|x| *x *= scale))
            }
            outer @ (OuterScale::PerLine(_) | OuterScale::PerBlock { .. }) => rows_of.for_each(|(r, row)| {
                for (c, x) in row.iter_mut().enumerate() {
                    *x *= outer.of_element((r, c), (rows, cols), contraction);
                }
            }),
        }
        out
    }
}
