//! The two loops of quantisation over consecutive rows: the largest magnitudes, and the rounding.
//!
//! Both walk memory in order, whatever the shape of the blocks. Columns that have scales of their own keep
//! them in a vector beside the row; a block that runs down a column is a row of that vector.

use std::mem::MaybeUninit;

use crate::grid::{Grid, with_rounding};
use crate::multiversion;
use crate::rounding::Rounding;

const INFINITY_BITS: i32 = 0x7f80_0000;

/// The magnitude's bits, which are ordered as the magnitudes are. (Signed: the comparison that SIMD has.)
#[inline(always)]
pub(crate) fn magnitude(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff) as i32
}

/// The bits of a finite magnitude; 0 for others.
#[inline(always)]
pub(crate) fn finite(bits: i32) -> i32 {
    if bits < INFINITY_BITS { bits } else { 0 }
}

/// The bits of a magnitude, or 0 if it is not finite; `ALL_FINITE` says that it is.
#[inline(always)]
fn finite_magnitude<const ALL_FINITE: bool>(x: f32) -> i32 {
    if ALL_FINITE { magnitude(x) } else { finite(magnitude(x)) }
}

/// The largest finite magnitude of a run, as bits.
#[inline(always)]
fn run_amax<const ALL_FINITE: bool>(run: &[f32]) -> i32 {
    run.iter().fold(0, |amax, x| amax.max(finite_magnitude::<ALL_FINITE>(*x)))
}

/// The same for the short runs of MX and NVFP4, sixteen at a time and halved by hand: the compiler would unroll the loop before it
/// saw vectors.
#[inline(always)]
pub(crate) fn short_run_amax<const ALL_FINITE: bool>(run: &[f32]) -> i32 {
    let mut lanes = [0; 16];
    for part in run.as_chunks::<16>().0 {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane = (*lane).max(finite_magnitude::<ALL_FINITE>(*x));
        }
    }
    let mut width = 8;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = lanes[lane].max(lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Raises the largest magnitudes of runs of `tile_cols` columns to those of a row.
#[inline(always)]
fn row_amax<const ALL_FINITE: bool>(row: &[f32], tile_cols: usize, amax: &mut [i32]) {
    match tile_cols {
        1 => {
            for (amax, x) in amax.iter_mut().zip(row) {
                *amax = (*amax).max(finite_magnitude::<ALL_FINITE>(*x));
            }
        }
        // The usual blocks, with a length that the compiler knows.
        16 => {
            for (amax, run) in amax.iter_mut().zip(row.as_chunks::<16>().0) {
                *amax = (*amax).max(short_run_amax::<ALL_FINITE>(run));
            }
        }
        32 => {
            for (amax, run) in amax.iter_mut().zip(row.as_chunks::<32>().0) {
                *amax = (*amax).max(short_run_amax::<ALL_FINITE>(run));
            }
        }
        _ => {
            for (amax, run) in amax.iter_mut().zip(row.chunks_exact(tile_cols)) {
                *amax = (*amax).max(run_amax::<ALL_FINITE>(run));
            }
        }
    }
}

/// How many elements are not finite.
#[inline(always)]
fn count_non_finite(row: &[f32]) -> u64 {
    let count = row.iter().fold(0u32, |count, &x| count + u32::from(magnitude(x) >= INFINITY_BITS));
    u64::from(count)
}

/// Whether bits are those of a finite magnitude.
#[inline(always)]
pub(crate) fn is_finite(bits: i32) -> bool {
    bits < INFINITY_BITS
}

multiversion! {
    /// The largest finite magnitudes (as bits) of runs of `tile_cols` columns of these rows. Returns the number of elements that are
    /// not finite.
    pub(crate) fn sweep_amax(rows: &[f32], cols: usize, tile_cols: usize, amax: &mut [i32]) -> u64 {
        amax.fill(0);
        for row in rows.chunks_exact(cols) {
            row_amax::<true>(row, tile_cols, amax);
        }
        // What is not finite is above all that is.
        if amax.iter().fold(0, |all, bits| all.max(*bits)) < INFINITY_BITS {
            return 0;
        }
        amax.fill(0);
        let mut non_finite = 0;
        for row in rows.chunks_exact(cols) {
            row_amax::<false>(row, tile_cols, amax);
            non_finite += count_non_finite(row);
        }
        non_finite
    }

    /// How many elements are not finite.
    pub(crate) fn sweep_non_finite(x: &[f32]) -> u64 {
        count_non_finite(x)
    }

    /// out = fold round(x / divisor), with divisors and factors that `tile_cols` columns each share. `first` is the index of the
    /// first element in the stream of random bits. Every element of `out` is written.
    pub(crate) fn sweep_scaled(
        rows: &[f32],
        tile_cols: usize,
        scales: [&[f32]; 2],
        out: &mut [MaybeUninit<f32>],
        grid: &Grid,
        rounding: Rounding,
        first: u32,
    ) {
        let [divisors, folds] = scales;
        let cols = tile_cols * divisors.len();
        with_rounding!(*grid, rounding, |round| {
            let mut first = first;
            for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
                let scales = divisors.iter().zip(folds);
                match tile_cols {
                    1 => {
                        for (i, ((x, out), (divisor, fold))) in row.iter().zip(out).zip(scales).enumerate() {
                            out.write(round(*x, x / divisor, first.wrapping_add(i as u32)) * fold);
                        }
                    }
                    // The usual blocks, with a length that the compiler knows.
                    16 => {
                        let tiles = row.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0);
                        for (tile, ((x, out), (&divisor, &fold))) in tiles.zip(scales).enumerate() {
                            let first = first.wrapping_add(16 * tile as u32);
                            for (i, (x, out)) in x.iter().zip(out).enumerate() {
                                out.write(round(*x, x / divisor, first.wrapping_add(i as u32)) * fold);
                            }
                        }
                    }
                    _ => {
                        let tiles = row.chunks_exact(tile_cols).zip(out.chunks_exact_mut(tile_cols));
                        for (tile, ((x, out), (&divisor, &fold))) in tiles.zip(scales).enumerate() {
                            let first = first.wrapping_add((tile_cols * tile) as u32);
                            for (i, (x, out)) in x.iter().zip(out).enumerate() {
                                out.write(round(*x, x / divisor, first.wrapping_add(i as u32)) * fold);
                            }
                        }
                    }
                }
                first = first.wrapping_add(cols as u32);
            }
        });
    }

    /// out = round(x / divisor). Every element of `out` is written. Returns the largest magnitude of x as bits, be it finite or not.
    pub(crate) fn sweep_one_scale(
        x: &[f32],
        divisor: f32,
        out: &mut [MaybeUninit<f32>],
        grid: &Grid,
        rounding: Rounding,
        first: u32,
    ) -> i32 {
        with_rounding!(*grid, rounding, |round| {
            let mut amax = 0;
            for (i, (x, out)) in x.iter().zip(out).enumerate() {
                out.write(round(*x, x / divisor, first.wrapping_add(i as u32)));
                amax = amax.max(magnitude(*x));
            }
            amax
        })
    }

    /// out = round(x), without scales, as [`sweep_one_scale`].
    pub(crate) fn sweep_unscaled(
        x: &[f32],
        out: &mut [MaybeUninit<f32>],
        grid: &Grid,
        rounding: Rounding,
        first: u32,
    ) -> i32 {
        with_rounding!(*grid, rounding, |round| {
            let mut amax = 0;
            for (i, (x, out)) in x.iter().zip(out).enumerate() {
                out.write(round(*x, *x, first.wrapping_add(i as u32)));
                amax = amax.max(magnitude(*x));
            }
            amax
        })
    }

    /// x = round(x), without scales.
    pub(crate) fn sweep_in_place(x: &mut [f32], grid: &Grid, rounding: Rounding, first: u32) {
        with_rounding!(*grid, rounding, |round| {
            for (i, x) in x.iter_mut().enumerate() {
                *x = round(*x, *x, first.wrapping_add(i as u32));
            }
        });
    }
}
