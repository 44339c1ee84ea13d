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
fn magnitude(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff) as i32
}

/// The bits of a finite magnitude; 0 for others.
#[inline(always)]
fn finite(bits: i32) -> i32 {
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
fn short_run_amax<const ALL_FINITE: bool>(run: &[f32]) -> i32 {
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

/// How many elements are not finite. A loop of its own: two sums in one loop over a short run would cost
/// more.
#[inline(always)]
fn count_non_finite(row: &[f32]) -> u64 {
    let count = row.iter().fold(0u32, |count, &x| count + u32::from(magnitude(x) >= INFINITY_BITS));
    u64::from(count)
}

multiversion! {
    /// Raises `amax`, which has an entry for each run of `tile_cols` columns, to the largest finite
    /// magnitudes (as bits) of these rows. Returns the number of elements that are not finite.
    pub(crate) fn sweep_amax(rows: &[f32], cols: usize, tile_cols: usize, amax: &mut [i32]) -> u64 {
        let mut non_finite = 0;
        for row in rows.chunks_exact(cols) {
            match count_non_finite(row) {
                0 => row_amax::<true>(row, tile_cols, amax),
                count => {
                    non_finite += count;
                    row_amax::<false>(row, tile_cols, amax);
                }
            }
        }
        non_finite
    }

    /// How many elements are not finite.
    pub(crate) fn sweep_non_finite(x: &[f32]) -> u64 {
        count_non_finite(x)
    }

    /// Spreads the numbers of tiles over their `out.len() / tiles.len()` columns each.
    pub(crate) fn spread(tiles: &[f32], out: &mut [f32]) {
        let tile_cols = out.len() / tiles.len();
        match tile_cols {
            1 => out.copy_from_slice(tiles),
            // The usual blocks, with a length that the compiler knows.
            16 => out.as_chunks_mut::<16>().0.iter_mut().zip(tiles).for_each(|(out, tile)| *out = [*tile; 16]),
            32 => out.as_chunks_mut::<32>().0.iter_mut().zip(tiles).for_each(|(out, tile)| *out = [*tile; 32]),
            _ => out.chunks_exact_mut(tile_cols).zip(tiles).for_each(|(out, tile)| out.fill(*tile)),
        }
    }

    /// out = fold round(x / divisor), with one divisor and one factor per column. `first` is the index of the
    /// first element in the stream of random bits. Every element of `out` is written.
    pub(crate) fn sweep_scaled(
        rows: &[f32],
        divisors: &[f32],
        folds: &[f32],
        out: &mut [MaybeUninit<f32>],
        grid: &Grid,
        rounding: Rounding,
        first: u32,
    ) {
        let cols = divisors.len();
        with_rounding!(*grid, rounding, |round| {
            let mut first = first;
            for (row, out) in rows.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
                let scales = divisors.iter().zip(folds);
                for (i, ((x, out), (divisor, fold))) in row.iter().zip(out).zip(scales).enumerate() {
                    out.write(round(*x, x / divisor, first.wrapping_add(i as u32)) * fold);
                }
                first = first.wrapping_add(cols as u32);
            }
        });
    }

    /// out = round(x), without scales. Every element of `out` is written.
    pub(crate) fn sweep_unscaled(x: &[f32], out: &mut [MaybeUninit<f32>], grid: &Grid, rounding: Rounding, first: u32) {
        with_rounding!(*grid, rounding, |round| {
            for (i, (x, out)) in x.iter().zip(out).enumerate() {
                out.write(round(*x, *x, first.wrapping_add(i as u32)));
            }
        });
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
