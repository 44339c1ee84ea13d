//! Quantisation of a matrix some rows at a time, by whoever has just made them, while they are in its cache.

use std::mem::MaybeUninit;

use crate::bands::{Bands, Extent};
use crate::grid::Grid;
use crate::operand::OuterScale;
use crate::rounding::Rounding;
use crate::scale::{ScaleRule, nvfp4_tensor_scale};
use crate::scaling::{Contraction, QuantSpec, Scaling};
use crate::sweep::{sweep_one_scale, sweep_unscaled};

impl QuantSpec {
    /// The scale of a whole tensor with this largest finite magnitude, where that decides it: of [`Scaling::Tensor`], and the one
    /// over the blocks' own of NVFP4.
    pub fn tensor_scale(&self, amax: f32) -> Option<f32> {
        match self.scaling {
            Scaling::Tensor => Some(ScaleRule::new(self, 1.0).scale(amax).divisor),
            Scaling::Nvfp4 | Scaling::Nvfp4Weight => Some(nvfp4_tensor_scale(amax, self.scale)),
            Scaling::None | Scaling::Delayed { .. } | Scaling::Row | Scaling::Mx => None,
            Scaling::Block { .. } | Scaling::Block2d { .. } => None,
            Scaling::Absmean | Scaling::Absmedian => None,
        }
    }
}

/// Quantises rows as [`quantize`](crate::quantize) does a whole matrix, bit for bit.
pub struct RowQuantizer {
    cols: usize,
    /// Rows that share scales.
    unit: usize,
    way: Way,
}

enum Way {
    Unscaled(Grid, Rounding),
    OneScale(f32, Grid, Rounding),
    /// Scales that are multiplied back into the values, and that of the sums.
    Folded(Bands, f32),
    /// A scale for every row.
    PerRow(Bands),
}

impl RowQuantizer {
    /// For a matrix \[rows, cols\] and a key as [`quantize`](crate::quantize) takes them; `tensor` is the scale of the whole tensor
    /// where it has one, from [`DelayedScale::scale`](crate::DelayedScale::scale) or [`QuantSpec::tensor_scale`].
    ///
    /// There is none where rows have to wait for others (averages, scales of columns), where sums would have to be cut into
    /// blocks, or what [`quantize`](crate::quantize) would refuse.
    pub fn new(
        spec: &QuantSpec,
        [rows, cols]: [usize; 2],
        contraction: Contraction,
        key: u64,
        tensor: Option<f32>,
    ) -> Option<Self> {
        let given = tensor.filter(|_| matches!(spec.scaling, Scaling::Delayed { .. }));
        spec.check_input(rows * cols, rows, cols, contraction, given).ok()?;
        let rounding = Rounding { mode: spec.rounding, key };
        let grid = Grid::new(spec.format, spec.rounding, spec.overflow);
        let (tile_rows, tile_cols) = spec.scaling.tile(rows, cols, contraction);
        let bands = |tensor| {
            let rule = ScaleRule::new(spec, tensor);
            Bands { rule, grid, rounding, cols, tile_rows, tile_cols }
        };
        let (unit, way) = match spec.scaling {
            Scaling::None => (1, Way::Unscaled(grid, rounding)),
            Scaling::Tensor | Scaling::Delayed { .. } => {
                (1, Way::OneScale(spec.scale.round_up(tensor?), grid, rounding))
            }
            Scaling::Row if contraction == Contraction::Columns => (1, Way::PerRow(bands(1.0))),
            Scaling::Mx => (tile_rows, Way::Folded(bands(1.0), 1.0)),
            Scaling::Nvfp4 | Scaling::Nvfp4Weight => (tile_rows, Way::Folded(bands(tensor?), tensor?)),
            Scaling::Row | Scaling::Block { .. } | Scaling::Block2d { .. } => return None,
            Scaling::Absmean | Scaling::Absmedian => return None,
        };
        Some(Self { cols, unit, way })
    }

    /// Rows that are quantised at a time are a multiple of so many, the first of them too.
    pub fn unit(&self) -> usize {
        self.unit
    }

    /// The scale that all sums have, unless every row has one of its own.
    pub fn scale(&self) -> Option<f32> {
        match &self.way {
            Way::Unscaled(..) => Some(1.0),
            Way::OneScale(scale, ..) | Way::Folded(_, scale) => Some(*scale),
            Way::PerRow(_) => None,
        }
    }

    /// Quantises rows from number `first` on, on the calling thread. Returns what they hold, and their scales if every row has one
    /// of its own.
    ///
    /// # Panics
    /// When `out` is not as long as `x`, or rows that share scales are cut.
    pub fn quantize(&self, x: &[f32], first: usize, out: &mut [f32]) -> (Extent, OuterScale) {
        assert!(
            x.len() == out.len()
                && x.len().is_multiple_of(self.unit * self.cols)
                && first.is_multiple_of(self.unit)
        );
        // SAFETY: MaybeUninit<f32> has the layout of f32, and the sweeps write nothing but numbers.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
        let index = (first * self.cols) as u32;
        match &self.way {
            Way::Unscaled(grid, rounding) => {
                let amax = sweep_unscaled(x, out, grid, *rounding, index);
                (Extent::with_amax(amax, x), OuterScale::Uniform(1.0))
            }
            Way::OneScale(scale, grid, rounding) => {
                let amax = sweep_one_scale(x, *scale, out, grid, *rounding, index);
                (Extent::with_amax(amax, x), OuterScale::Uniform(*scale))
            }
            Way::Folded(bands, scale) => {
                let mut divisors = vec![0.0; x.len() / (bands.tile_rows * bands.tile_cols)];
                let extent = bands.quantize(&mut bands.scales(), x, out, index, &mut divisors);
                (extent, OuterScale::Uniform(*scale))
            }
            Way::PerRow(bands) => {
                let mut divisors = vec![0.0; x.len() / self.cols];
                let extent = bands.quantize(&mut bands.scales(), x, out, index, &mut divisors);
                (extent, OuterScale::PerLine(divisors))
            }
        }
    }
}
