//! Fast quantisation: parallel over rows, vectorised over columns, equal to the reference.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::averages::{MIN_AVERAGE, mean_abs, median_abs};
use crate::bands::{BandScales, Bands, Extent};
use crate::check::QuantError;
use crate::format::NumericFormat;
use crate::grid::Grid;
use crate::operand::{Operand, OuterScale};
use crate::rounding::{Overflow, Rounding};
use crate::scale::{MIN_SCALE, ScaleRule, nvfp4_tensor_scale};
use crate::scaling::{Contraction, QuantSpec, Scaling};
use crate::sweep::{
    sweep_amax, sweep_in_place, sweep_non_finite, sweep_one_scale, sweep_scaled, sweep_unscaled,
};

/// Elements that a task handles: 64 KiB, which stay in the cache between the search for the largest magnitude
/// and the rounding.
pub(crate) const TASK: usize = 1 << 14;

/// Bands of blocks up to this many elements are one task, both loops together; larger ones are cut.
const MAX_BAND: usize = 1 << 17;

impl QuantSpec {
    /// [`check`](Self::check), and whether slice and scale fit.
    pub(crate) fn check_input(
        &self,
        len: usize,
        rows: usize,
        cols: usize,
        contraction: Contraction,
        given_scale: Option<f32>,
    ) -> Result<(), QuantError> {
        if rows.checked_mul(cols) != Some(len) {
            return Err(QuantError::Length { rows, cols, len });
        }
        self.check(rows, cols, contraction)?;
        match (self.scaling, given_scale) {
            (Scaling::Delayed { .. }, None) => Err(QuantError::MissingScale),
            (Scaling::Delayed { .. }, Some(scale)) if (MIN_SCALE..f32::INFINITY).contains(&scale) => Ok(()),
            (Scaling::Delayed { .. }, Some(found)) => Err(QuantError::BadScale { found }),
            (scaling, Some(_)) => Err(QuantError::UnexpectedScale { scaling: scaling.name() }),
            (_, None) => Ok(()),
        }
    }
}

/// Quantises a row-major `[rows, cols]` matrix that a product sums over `contraction`.
///
/// `key` names the random bits of stochastic rounding; the element at `row * cols + col` takes the bits of
/// that index, whatever the contraction. `given_scale` is the scale of [`Scaling::Delayed`], from
/// [`DelayedScale::scale`](crate::DelayedScale::scale); other scalings take none.
///
/// # Errors
///
/// What [`QuantSpec::check`] refuses, a slice of the wrong length, and a scale that is missing, superfluous
/// or no scale.
pub fn quantize(
    x: &[f32],
    rows: usize,
    cols: usize,
    contraction: Contraction,
    spec: &QuantSpec,
    key: u64,
    given_scale: Option<f32>,
) -> Result<Operand, QuantError> {
    spec.check_input(x.len(), rows, cols, contraction, given_scale)?;
    let scaled = Scaled { x, rows, cols, contraction, spec, rounding: Rounding { mode: spec.rounding, key } };
    Ok(scaled.quantize(given_scale))
}

/// Rounds each value to a format, without a scale, in place and in parallel. Element i takes the random bits
/// of (`rounding.key`, i).
pub fn round_slice(values: &mut [f32], format: NumericFormat, rounding: Rounding, overflow: Overflow) {
    let grid = Grid::new(format, rounding.mode, overflow);
    let tasks = values.par_chunks_mut(TASK).enumerate();
    tasks.for_each(|(task, values)| sweep_in_place(values, &grid, rounding, (task * TASK) as u32));
}

/// [`round_slice`] to nearest even, on the calling thread.
pub fn round_rows(values: &mut [f32], format: NumericFormat, overflow: Overflow) {
    let rounding = Rounding::NEAREST_EVEN;
    sweep_in_place(values, &Grid::new(format, rounding.mode, overflow), rounding, 0);
}

/// How many values are NaN or infinite; on the calling thread.
pub fn count_non_finite(values: &[f32]) -> u64 {
    // The sweep counts in 32 bits.
    values.chunks(TASK).map(sweep_non_finite).sum()
}

/// The largest finite magnitude, and the number of values that are not finite, on all threads.
pub fn extent(values: &[f32]) -> Extent {
    values.par_chunks(TASK).map(Extent::of).reduce(Extent::default, Extent::merge)
}

/// A checked request.
struct Scaled<'a> {
    x: &'a [f32],
    rows: usize,
    cols: usize,
    contraction: Contraction,
    spec: &'a QuantSpec,
    rounding: Rounding,
}

/// A vector of `len` values that `write` has written, every one of them.
///
/// Filling it with zeros first would take as long as the rounding itself.
fn written<R>(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>]) -> R) -> (Vec<f32>, R) {
    let mut values = Vec::with_capacity(len);
    let result = write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the callers in this module cut the whole slice into tasks, and the sweeps write all of their
    // output.
    unsafe { values.set_len(len) };
    (values, result)
}

impl Scaled<'_> {
    fn quantize(&self, given_scale: Option<f32>) -> Operand {
        let (x, kind) = (self.x, self.spec.scale);
        let fixed = |scale: f32| self.one_scale(kind.round_up(scale));
        match self.spec.scaling {
            Scaling::None => self.unscaled(),
            Scaling::Delayed { .. } => fixed(given_scale.expect("checked: delayed scaling has a scale")),
            Scaling::Absmean => fixed(mean_abs(x).max(MIN_AVERAGE)),
            Scaling::Absmedian => fixed(median_abs(x).max(MIN_AVERAGE)),
            Scaling::Nvfp4 | Scaling::Nvfp4Weight => {
                let mut amax = [0];
                self.tall_amax(0..self.rows, self.cols, &mut amax);
                self.tiled(nvfp4_tensor_scale(f32::from_bits(amax[0] as u32), kind))
            }
            Scaling::Tensor
            | Scaling::Row
            | Scaling::Mx
            | Scaling::Block { .. }
            | Scaling::Block2d { .. } => self.tiled(1.0),
        }
    }

    fn grid(&self) -> Grid {
        Grid::new(self.spec.format, self.rounding.mode, self.spec.overflow)
    }

    fn operand(&self, values: Vec<f32>, outer: OuterScale, extent: Extent) -> Operand {
        let amax = f32::from_bits(extent.amax as u32);
        Operand { values, outer, amax, non_finite: extent.non_finite }
    }

    /// Each task's rows, output and first index.
    fn tasks<'a>(
        x: &'a [f32],
        out: &'a mut [MaybeUninit<f32>],
        task: usize,
        first: usize,
    ) -> impl IndexedParallelIterator<Item = (&'a [f32], &'a mut [MaybeUninit<f32>], u32)> {
        let chunks = x.par_chunks(task).zip(out.par_chunks_mut(task)).enumerate();
        chunks.map(move |(i, (x, out))| (x, out, (first + i * task) as u32))
    }

    fn unscaled(&self) -> Operand {
        let grid = self.grid();
        let round = |(x, out, first): (&[f32], &mut [MaybeUninit<f32>], u32)| {
            Extent::with_amax(sweep_unscaled(x, out, &grid, self.rounding, first), x)
        };
        let (values, extent) = written(self.x.len(), |values| {
            let tasks = Self::tasks(self.x, values, TASK, 0);
            tasks.map(round).reduce(Extent::default, Extent::merge)
        });
        self.operand(values, OuterScale::Uniform(1.0), extent)
    }

    /// One scale, known beforehand.
    fn one_scale(&self, scale: f32) -> Operand {
        let grid = self.grid();
        let round = |(x, out, first): (&[f32], &mut [MaybeUninit<f32>], u32)| {
            Extent::with_amax(sweep_one_scale(x, scale, out, &grid, self.rounding, first), x)
        };
        let (values, extent) = written(self.x.len(), |values| {
            let tasks = Self::tasks(self.x, values, self.cols * self.task_rows(), 0);
            tasks.map(round).reduce(Extent::default, Extent::merge)
        });
        self.operand(values, OuterScale::Uniform(scale), extent)
    }

    /// A scale per tile, from the tile's largest magnitude.
    fn tiled(&self, tensor_scale: f32) -> Operand {
        let Self { rows, cols, contraction, spec, .. } = *self;
        let (tile_rows, tile_cols) = spec.scaling.tile(rows, cols, contraction);
        let rule = ScaleRule::new(spec, tensor_scale);
        let mut divisors = vec![0.0; (rows / tile_rows) * (cols / tile_cols)];
        let (values, extent) = written(self.x.len(), |values| {
            if tile_rows * cols <= MAX_BAND {
                self.low_bands(&rule, (tile_rows, tile_cols), values, &mut divisors)
            } else {
                self.tall_bands(&rule, (tile_rows, tile_cols), values, &mut divisors)
            }
        });
        let outer = OuterScale::from_tiles(spec, (rows, cols), contraction, divisors, tensor_scale);
        self.operand(values, outer, extent)
    }

    /// Bands of tiles that fit a task: both loops while the rows are in the cache.
    fn low_bands(
        &self,
        rule: &ScaleRule,
        (tile_rows, tile_cols): (usize, usize),
        values: &mut [MaybeUninit<f32>],
        divisors: &mut [f32],
    ) -> Extent {
        let (grid, rounding, cols) = (self.grid(), self.rounding, self.cols);
        let bands = Bands { rule: *rule, grid, rounding, cols, tile_rows, tile_cols };
        let (band, across) = (tile_rows * cols, cols / tile_cols);
        let together = (TASK / band).max(1);
        let quantize = |scales: &mut BandScales, ((x, out, first), kept): Task<'_>| {
            bands.quantize(scales, x, out, first, kept)
        };
        Self::tasks(self.x, values, together * band, 0)
            .zip(divisors.par_chunks_mut(together * across))
            .map_init(|| bands.scales(), quantize)
            .reduce(Extent::default, Extent::merge)
    }

    /// Bands of tiles too large for a task: one after another, each in parallel.
    fn tall_bands(
        &self,
        rule: &ScaleRule,
        (tile_rows, tile_cols): (usize, usize),
        values: &mut [MaybeUninit<f32>],
        divisors: &mut [f32],
    ) -> Extent {
        let (grid, cols) = (self.grid(), self.cols);
        let (band, across) = (tile_rows * cols, cols / tile_cols);
        let mut scales = BandScales::new(across);
        let mut extent = Extent::default();
        let parts = self.x.chunks_exact(band).zip(values.chunks_exact_mut(band));
        for (i, ((x, out), kept)) in parts.zip(divisors.chunks_exact_mut(across)).enumerate() {
            let non_finite = self.tall_amax(i * tile_rows..(i + 1) * tile_rows, tile_cols, &mut scales.amax);
            scales.fill(rule, kept);
            let tasks = Self::tasks(x, out, cols * self.task_rows(), i * band);
            tasks.for_each(|(x, out, first)| {
                sweep_scaled(x, tile_cols, [kept, &scales.folds], out, &grid, self.rounding, first);
            });
            let amax = scales.amax.iter().copied().fold(0, i32::max);
            extent = extent.merge(Extent { amax, non_finite });
        }
        extent
    }

    /// The largest magnitudes of runs of `tile_cols` columns over many rows.
    fn tall_amax(&self, rows: std::ops::Range<usize>, tile_cols: usize, amax: &mut [i32]) -> u64 {
        let x = &self.x[rows.start * self.cols..rows.end * self.cols];
        let empty = || (vec![0; amax.len()], 0);
        let sweep = |x: &[f32]| {
            let mut amax = vec![0; amax.len()];
            let non_finite = sweep_amax(x, self.cols, tile_cols, &mut amax);
            (amax, non_finite)
        };
        let merge = |(mut a, a_count): (Vec<i32>, u64), (b, b_count): (Vec<i32>, u64)| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = (*a).max(b));
            (a, a_count + b_count)
        };
        let tasks = x.par_chunks(self.cols * self.task_rows());
        let (found, non_finite) = tasks.map(sweep).reduce(empty, merge);
        amax.copy_from_slice(&found);
        non_finite
    }

    fn task_rows(&self) -> usize {
        (TASK / self.cols).max(1)
    }
}

/// The rows, output and first index of a task, and where the scales of its tiles are kept.
type Task<'a> = ((&'a [f32], &'a mut [MaybeUninit<f32>], u32), &'a mut [f32]);
