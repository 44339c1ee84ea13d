//! What quantisation did to a tensor, in numbers.

use rayon::prelude::*;
use serde::Serialize;

use crate::operand::{Operand, OuterScale};
use crate::scale::{ScaleRule, VANISHING};
use crate::scaling::{Contraction, QuantSpec};
use crate::sweep::sweep_amax;

/// Counts and sums over the elements of one or more quantised tensors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Health {
    /// Elements.
    pub count: u64,
    /// The largest finite magnitude before quantisation.
    pub amax: f32,
    /// Elements that were NaN or infinite before quantisation.
    pub non_finite: u64,
    /// Finite elements whose magnitude, divided by the scale, exceeds the format's largest.
    pub saturated: u64,
    /// Finite elements other than 0 that became 0.
    pub flushed: u64,
    /// Sum of squares of the elements that are finite before and after.
    pub signal_sq: f64,
    /// Sum of squares of their errors.
    pub noise_sq: f64,
    /// The smallest scale (block scale times tensor scale); infinity over no tensor.
    pub scale_min: f32,
    /// The largest scale; 0 over no tensor.
    pub scale_max: f32,
}

impl Default for Health {
    /// That of no tensor.
    fn default() -> Self {
        Self {
            count: 0,
            amax: 0.0,
            non_finite: 0,
            saturated: 0,
            flushed: 0,
            signal_sq: 0.0,
            noise_sq: 0.0,
            scale_min: f32::INFINITY,
            scale_max: 0.0,
        }
    }
}

impl Health {
    /// Signal to quantisation noise, 10 log10(signal / noise), in decibels. Infinite without noise, NaN
    /// without signal and noise.
    pub fn sqnr_db(&self) -> f64 {
        10.0 * (self.signal_sq / self.noise_sq).log10()
    }

    /// The share of elements that saturated, in [0, 1]; 0 of nothing.
    pub fn saturated_share(&self) -> f64 {
        self.share(self.saturated)
    }

    /// The share of elements that became 0, in [0, 1]; 0 of nothing.
    pub fn flushed_share(&self) -> f64 {
        self.share(self.flushed)
    }

    /// The share of elements that were NaN or infinite, in [0, 1]; 0 of nothing.
    pub fn non_finite_share(&self) -> f64 {
        self.share(self.non_finite)
    }

    fn share(&self, part: u64) -> f64 {
        if self.count == 0 { 0.0 } else { part as f64 / self.count as f64 }
    }

    /// Both together.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            amax: self.amax.max(other.amax),
            non_finite: self.non_finite + other.non_finite,
            saturated: self.saturated + other.saturated,
            flushed: self.flushed + other.flushed,
            signal_sq: self.signal_sq + other.signal_sq,
            noise_sq: self.noise_sq + other.noise_sq,
            scale_min: self.scale_min.min(other.scale_min),
            scale_max: self.scale_max.max(other.scale_max),
        }
    }
}

/// Compares a tensor with its [`Operand`]; the arguments are those that the operand was made with. Does not
/// depend on the number of threads.
///
/// # Panics
///
/// If `x` and the operand do not have `rows * cols` elements.
pub fn health(
    x: &[f32],
    rows: usize,
    cols: usize,
    contraction: Contraction,
    spec: &QuantSpec,
    operand: &Operand,
) -> Health {
    assert!(x.len() == rows * cols && operand.values.len() == x.len(), "operand and tensor differ in shape");
    let (tile_rows, tile_cols) = spec.scaling.tile(rows, cols, contraction);
    let measure_band = |(band, (x, values)): (usize, (&[f32], &[f32]))| {
        let folds = FoldedScales::of_band(x, cols, tile_cols, spec, operand);
        let row_of = |r: usize, x: &[f32], values: &[f32]| {
            let position = |c| (band * tile_rows + r, c);
            measure_row(spec, x, values, |c| {
                let outer = operand.outer.of_element(position(c), (rows, cols), contraction);
                (outer, folds.divisor(c, outer))
            })
        };
        let of_rows = x.par_chunks(cols).zip(values.par_chunks(cols)).enumerate();
        // Collected, then added in order: sums of floats depend on it.
        let of_rows: Vec<Health> = of_rows.map(|(r, (x, values))| row_of(r, x, values)).collect();
        of_rows.iter().fold(Health::default(), |sum, row| sum.merge(row))
    };
    let bands = x.par_chunks(tile_rows * cols).zip(operand.values.par_chunks(tile_rows * cols)).enumerate();
    let bands: Vec<Health> = bands.map(measure_band).collect();
    let sum = bands.iter().fold(Health::default(), |sum, band| sum.merge(band));
    Health { amax: operand.amax, non_finite: operand.non_finite, ..sum }
}

/// The scales of a band of tiles that are folded into values, where there are any: found again as they were.
struct FoldedScales {
    divisors: Option<Vec<f32>>,
    tile_cols: usize,
}

impl FoldedScales {
    fn of_band(x: &[f32], cols: usize, tile_cols: usize, spec: &QuantSpec, operand: &Operand) -> Self {
        let none = Self { divisors: None, tile_cols };
        let OuterScale::Uniform(tensor_scale) = operand.outer else { return none };
        let rule = ScaleRule::new(spec, tensor_scale);
        if !rule.folds() {
            return none;
        }
        let mut amax = vec![0; cols / tile_cols];
        sweep_amax(x, cols, tile_cols, &mut amax);
        let divisors = amax.iter().map(|&amax| rule.scale(f32::from_bits(amax as u32)).divisor).collect();
        Self { divisors: Some(divisors), tile_cols }
    }

    /// What the elements of a column were divided by.
    fn divisor(&self, col: usize, outer: f32) -> f32 {
        self.divisors.as_ref().map_or(outer, |divisors| divisors[col / self.tile_cols])
    }
}

/// `scales` gives the outer scale of a column, and its divisor.
fn measure_row(spec: &QuantSpec, x: &[f32], values: &[f32], scales: impl Fn(usize) -> (f32, f32)) -> Health {
    let max = spec.format.max_finite();
    let mut health = Health { count: x.len() as u64, ..Health::default() };
    for (c, (&x, &value)) in x.iter().zip(values).enumerate() {
        let (outer, divisor) = scales(c);
        let scale = if divisor == VANISHING { 0.0 } else { divisor };
        health.scale_min = health.scale_min.min(scale);
        health.scale_max = health.scale_max.max(scale);
        if !x.is_finite() {
            continue;
        }
        health.saturated += u64::from((x / divisor).abs() > max);
        health.flushed += u64::from(x != 0.0 && value == 0.0);
        let result = value * outer;
        if result.is_finite() {
            let error = f64::from(x) - f64::from(result);
            health.signal_sq += f64::from(x) * f64::from(x);
            health.noise_sq += error * error;
        }
    }
    health
}
