//! Quantisation at the speed of memory: parallel over rows, vectorised over columns, equal to the reference.

use rayon::prelude::*;

use crate::averages::{MIN_AVERAGE, mean_abs, median_abs};
use crate::check::QuantError;
use crate::format::NumericFormat;
use crate::grid::Grid;
use crate::operand::{Operand, OuterScale};
use crate::rounding::{Overflow, Rounding};
use crate::scale::{MIN_SCALE, ScaleRule, nvfp4_tensor_scale};
use crate::scaling::{Contraction, QuantSpec, Scaling};
use crate::sweep::{sweep_amax, sweep_in_place, sweep_scaled, sweep_unscaled};

/// Elements that a task handles: 64 KiB, which stay in the cache between the search for the largest magnitude and
/// the rounding.
const TASK: usize = 1 << 14;

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
/// `key` names the random bits of stochastic rounding; the element at `row * cols + col` takes the bits of that
/// index, whatever the contraction. `given_scale` is the scale of [`Scaling::Delayed`], from
/// [`DelayedScale::scale`](crate::DelayedScale::scale); other scalings take none.
///
/// # Errors
///
/// What [`QuantSpec::check`] refuses, a slice of the wrong length, and a scale that is missing, superfluous or no
/// scale.
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

/// Rounds each value to a format, without a scale, in place and in parallel. Element i takes the random bits of
/// (`rounding.key`, i).
pub fn round_slice(values: &mut [f32], format: NumericFormat, rounding: Rounding, overflow: Overflow) {
    let grid = Grid::new(format, rounding.mode, overflow);
    let tasks = values.par_chunks_mut(TASK).enumerate();
    tasks.for_each(|(task, values)| sweep_in_place(values, &grid, rounding, (task * TASK) as u32));
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

/// The largest finite magnitude, as bits, and the number of elements that are not finite.
#[derive(Clone, Copy, Default)]
struct Extent {
    amax: i32,
    non_finite: u64,
}

impl Extent {
    fn merge(self, other: Self) -> Self {
        Self { amax: self.amax.max(other.amax), non_finite: self.non_finite + other.non_finite }
    }
}

/// The scale of each column of a band, and the storage of what it is made from.
struct BandScales {
    /// Per column.
    divisors: Vec<f32>,
    /// Per column.
    folds: Vec<f32>,
}

impl BandScales {
    fn new(cols: usize) -> Self {
        Self { divisors: vec![1.0; cols], folds: vec![1.0; cols] }
    }

    /// Finds the scales of the tiles, keeps their divisors in `kept`, and spreads them over the columns.
    fn fill(&mut self, rule: &ScaleRule, amax: &[i32], tile_cols: usize, kept: &mut [f32]) {
        let runs = self.divisors.chunks_exact_mut(tile_cols).zip(self.folds.chunks_exact_mut(tile_cols));
        for ((amax, kept), (divisors, folds)) in amax.iter().zip(kept).zip(runs) {
            let scale = rule.scale(f32::from_bits(*amax as u32));
            *kept = scale.divisor;
            divisors.fill(scale.divisor);
            folds.fill(scale.fold);
        }
    }
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
        out: &'a mut [f32],
        task: usize,
        first: usize,
    ) -> impl IndexedParallelIterator<Item = (&'a [f32], &'a mut [f32], u32)> {
        let chunks = x.par_chunks(task).zip(out.par_chunks_mut(task)).enumerate();
        chunks.map(move |(i, (x, out))| (x, out, (first + i * task) as u32))
    }

    fn unscaled(&self) -> Operand {
        let (grid, mut values) = (self.grid(), vec![0.0; self.x.len()]);
        let tasks = Self::tasks(self.x, &mut values, TASK, 0);
        let round = |(x, out, first): (&[f32], &mut [f32], u32)| {
            let mut amax = [0];
            let non_finite = sweep_amax(x, x.len(), x.len(), &mut amax);
            sweep_unscaled(x, out, &grid, self.rounding, first);
            Extent { amax: amax[0], non_finite }
        };
        let extent = tasks.map(round).reduce(Extent::default, Extent::merge);
        self.operand(values, OuterScale::Uniform(1.0), extent)
    }

    /// One scale, known beforehand.
    fn one_scale(&self, scale: f32) -> Operand {
        let (grid, mut values) = (self.grid(), vec![0.0; self.x.len()]);
        let scales = BandScales { divisors: vec![scale; self.cols], folds: vec![1.0; self.cols] };
        let tasks = Self::tasks(self.x, &mut values, self.cols * self.task_rows(), 0);
        let round = |(x, out, first): (&[f32], &mut [f32], u32)| {
            let mut amax = [0];
            let non_finite = sweep_amax(x, self.cols, self.cols, &mut amax);
            sweep_scaled(x, &scales.divisors, &scales.folds, out, &grid, self.rounding, first);
            Extent { amax: amax[0], non_finite }
        };
        let extent = tasks.map(round).reduce(Extent::default, Extent::merge);
        self.operand(values, OuterScale::Uniform(scale), extent)
    }

    /// A scale per tile, from the tile's largest magnitude.
    fn tiled(&self, tensor_scale: f32) -> Operand {
        let Self { rows, cols, contraction, spec, .. } = *self;
        let (tile_rows, tile_cols) = spec.scaling.tile(rows, cols, contraction);
        let rule = ScaleRule::new(spec, tensor_scale);
        let mut values = vec![0.0; self.x.len()];
        let mut divisors = vec![0.0; (rows / tile_rows) * (cols / tile_cols)];
        let extent = if tile_rows * cols <= MAX_BAND {
            self.low_bands(&rule, (tile_rows, tile_cols), &mut values, &mut divisors)
        } else {
            self.tall_bands(&rule, (tile_rows, tile_cols), &mut values, &mut divisors)
        };
        let outer = OuterScale::from_tiles(spec, (rows, cols), contraction, divisors, tensor_scale);
        self.operand(values, outer, extent)
    }

    /// Bands of tiles that fit a task: both loops while the rows are in the cache.
    fn low_bands(
        &self,
        rule: &ScaleRule,
        (tile_rows, tile_cols): (usize, usize),
        values: &mut [f32],
        divisors: &mut [f32],
    ) -> Extent {
        let (grid, cols) = (self.grid(), self.cols);
        let (band, across) = (tile_rows * cols, cols / tile_cols);
        let bands = (TASK / band).max(1);
        let quantize_bands = |(scales, amax): &mut (BandScales, Vec<i32>),
                              ((x, out, first), kept): Task<'_>| {
            let mut extent = Extent::default();
            let parts =
                x.chunks_exact(band).zip(out.chunks_exact_mut(band)).zip(kept.chunks_exact_mut(across));
            for (i, ((x, out), kept)) in parts.enumerate() {
                amax.fill(0);
                let non_finite = sweep_amax(x, cols, tile_cols, amax);
                scales.fill(rule, amax, tile_cols, kept);
                let first = first.wrapping_add((i * band) as u32);
                sweep_scaled(x, &scales.divisors, &scales.folds, out, &grid, self.rounding, first);
                let largest = amax.iter().copied().fold(0, i32::max);
                extent = extent.merge(Extent { amax: largest, non_finite });
            }
            extent
        };
        Self::tasks(self.x, values, bands * band, 0)
            .zip(divisors.par_chunks_mut(bands * across))
            .map_init(|| (BandScales::new(cols), vec![0; across]), quantize_bands)
            .reduce(Extent::default, Extent::merge)
    }

    /// Bands of tiles too large for a task: one after another, each in parallel.
    fn tall_bands(
        &self,
        rule: &ScaleRule,
        (tile_rows, tile_cols): (usize, usize),
        values: &mut [f32],
        divisors: &mut [f32],
    ) -> Extent {
        let (grid, cols) = (self.grid(), self.cols);
        let (band, across) = (tile_rows * cols, cols / tile_cols);
        let mut scales = BandScales::new(cols);
        let mut extent = Extent::default();
        let parts = self.x.chunks_exact(band).zip(values.chunks_exact_mut(band));
        for (i, ((x, out), kept)) in parts.zip(divisors.chunks_exact_mut(across)).enumerate() {
            let mut amax = vec![0; across];
            let non_finite = self.tall_amax(i * tile_rows..(i + 1) * tile_rows, tile_cols, &mut amax);
            scales.fill(rule, &amax, tile_cols, kept);
            let tasks = Self::tasks(x, out, cols * self.task_rows(), i * band);
            tasks.for_each(|(x, out, first)| {
                sweep_scaled(x, &scales.divisors, &scales.folds, out, &grid, self.rounding, first);
            });
            extent = extent.merge(Extent { amax: amax.into_iter().fold(0, i32::max), non_finite });
        }
        extent
    }

    /// The largest magnitudes of runs of `tile_cols` columns over many rows.
    fn tall_amax(&self, rows: std::ops::Range<usize>, tile_cols: usize, amax: &mut [i32]) -> u64 {
        let x = &self.x[rows.start * self.cols..rows.end * self.cols];
        let empty = || (vec![0; amax.len()], 0);
        let sweep = |(mut amax, non_finite): (Vec<i32>, u64), x: &[f32]| {
            let more = sweep_amax(x, self.cols, tile_cols, &mut amax);
            (amax, non_finite + more)
        };
        let merge = |(mut a, a_count): (Vec<i32>, u64), (b, b_count): (Vec<i32>, u64)| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = (*a).max(b));
            (a, a_count + b_count)
        };
        let tasks = x.par_chunks(self.cols * self.task_rows());
        let (found, non_finite) = tasks.fold(empty, sweep).reduce(empty, merge);
        amax.copy_from_slice(&found);
        non_finite
    }

    fn task_rows(&self) -> usize {
        (TASK / self.cols).max(1)
    }
}

/// The rows, output and first index of a task, and where the scales of its tiles are kept.
type Task<'a> = ((&'a [f32], &'a mut [f32], u32), &'a mut [f32]);
