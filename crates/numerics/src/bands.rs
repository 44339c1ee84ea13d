//! Bands of tiles: the rows that a line of tiles covers, from largest magnitudes to rounded values while they are in a cache.

use std::mem::MaybeUninit;

use crate::grid::Grid;
use crate::mx::{self, Blocks};
use crate::rounding::Rounding;
use crate::scale::{ScaleRule, tile_scales};
use crate::sweep::{is_finite, sweep_amax, sweep_one_scale, sweep_scaled};

/// What a look at values finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The largest finite magnitude, as bits.
    pub(crate) amax: i32,
    pub(crate) non_finite: u64,
}

impl Extent {
    /// The largest finite magnitude, 0 if there is none.
    pub fn amax(&self) -> f32 {
        f32::from_bits(self.amax as u32)
    }

    /// How many values are NaN or infinite.
    pub fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// That of both.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self { amax: self.amax.max(other.amax), non_finite: self.non_finite + other.non_finite }
    }

    /// That of values, on the calling thread.
    pub fn of(x: &[f32]) -> Self {
        let mut amax = [0];
        let non_finite = if x.is_empty() { 0 } else { sweep_amax(x, x.len(), x.len(), &mut amax) };
        Self { amax: amax[0], non_finite }
    }

    /// The same, with their largest magnitude as bits, be it finite or not.
    pub(crate) fn with_amax(amax: i32, x: &[f32]) -> Self {
        if is_finite(amax) { Self { amax, non_finite: 0 } } else { Self::of(x) }
    }
}

/// The scales of a band of tiles.
pub(crate) struct BandScales {
    /// Largest magnitudes, as bits.
    pub(crate) amax: Vec<i32>,
    /// What rounded values are multiplied by.
    pub(crate) folds: Vec<f32>,
}

impl BandScales {
    pub(crate) fn new(tiles: usize) -> Self {
        Self { amax: vec![0; tiles], folds: vec![1.0; tiles] }
    }

    /// Finds the scales of the tiles from their largest magnitudes. Divisors are kept in `kept`.
    pub(crate) fn fill(&mut self, rule: &ScaleRule, kept: &mut [f32]) {
        tile_scales(rule, &self.amax, kept, &mut self.folds);
    }
}

/// How bands are quantised.
pub(crate) struct Bands {
    pub(crate) rule: ScaleRule,
    pub(crate) grid: Grid,
    pub(crate) rounding: Rounding,
    pub(crate) cols: usize,
    pub(crate) tile_rows: usize,
    pub(crate) tile_cols: usize,
}

impl Bands {
    /// Memory for the scales of a band.
    pub(crate) fn scales(&self) -> BandScales {
        BandScales::new(self.cols / self.tile_cols)
    }

    /// Quantises whole bands, all of which it writes. `first` is the index of the first element in the stream of random bits. The
    /// divisors of tiles are kept.
    pub(crate) fn quantize(
        &self,
        scales: &mut BandScales,
        x: &[f32],
        out: &mut [MaybeUninit<f32>],
        first: u32,
        kept: &mut [f32],
    ) -> Extent {
        let Self { rule, grid, rounding, cols, tile_rows, tile_cols } = self;
        let (band, across) = (tile_rows * cols, cols / tile_cols);
        let mut extent = Extent::default();
        if let ScaleRule::Mx { max_exponent, fraction_bits } = *rule {
            // Nobody reads the divisors, which are all in the values.
            let how = Blocks { max_exponent, fraction_bits, grid: *grid, rounding: *rounding };
            if (*tile_rows, *tile_cols) != (mx::BLOCK, 1) {
                return Extent::with_amax(mx::sweep_runs(x, out, &how, first), x);
            }
            for (i, (x, out)) in x.chunks_exact(band).zip(out.chunks_exact_mut(band)).enumerate() {
                let amax = mx::sweep_columns(x, out, &how, first.wrapping_add((i * band) as u32));
                extent = extent.merge(Extent::with_amax(amax, x));
            }
            return extent;
        }
        let parts = x.chunks_exact(band).zip(out.chunks_exact_mut(band)).zip(kept.chunks_exact_mut(across));
        for (i, ((x, out), kept)) in parts.enumerate() {
            let first = first.wrapping_add((i * band) as u32);
            let non_finite = sweep_amax(x, *cols, *tile_cols, &mut scales.amax);
            scales.fill(rule, kept);
            match kept {
                [divisor] if !rule.folds() => {
                    sweep_one_scale(x, *divisor, out, grid, *rounding, first);
                }
                _ => sweep_scaled(x, *tile_cols, [kept, &scales.folds], out, grid, *rounding, first),
            }
            let amax = scales.amax.iter().copied().fold(0, i32::max);
            extent = extent.merge(Extent { amax, non_finite });
        }
        extent
    }
}
