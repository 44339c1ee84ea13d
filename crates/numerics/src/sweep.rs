//! The two loops of quantisation over consecutive rows: the largest magnitudes, and the rounding.
//!
//! Both walk memory in order, whatever the shape of the blocks. Columns that have scales of their own keep them
//! in a vector beside the row; a block that runs down a column is a row of that vector.

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

/// The largest finite magnitude of a run, as bits, and how many elements are not finite.
#[inline(always)]
fn run_amax(run: &[f32]) -> (i32, u32) {
    let (mut amax, mut non_finite) = (0, 0);
    for &x in run {
        let bits = magnitude(x);
        amax = amax.max(finite(bits));
        non_finite += u32::from(bits >= INFINITY_BITS);
    }
    (amax, non_finite)
}

multiversion! {
    /// Raises `amax`, which has an entry for each run of `tile_cols` columns, to the largest finite magnitudes (as
    /// bits) of these rows. Returns the number of elements that are not finite.
    pub(crate) fn sweep_amax(rows: &[f32], cols: usize, tile_cols: usize, amax: &mut [i32]) -> u64 {
        let mut non_finite = 0;
        for row in rows.chunks_exact(cols) {
            if tile_cols == 1 {
                let mut count = 0u32;
                for (amax, &x) in amax.iter_mut().zip(row) {
                    let bits = magnitude(x);
                    *amax = (*amax).max(finite(bits));
                    count += u32::from(bits >= INFINITY_BITS);
                }
                non_finite += u64::from(count);
            } else {
                for (amax, run) in amax.iter_mut().zip(row.chunks_exact(tile_cols)) {
                    // The usual blocks have a length that the compiler knows.
                    let (largest, count) = match tile_cols {
                        16 => run_amax(&run[..16]),
                        32 => run_amax(&run[..32]),
                        _ => run_amax(run),
                    };
                    *amax = (*amax).max(largest);
                    non_finite += u64::from(count);
                }
            }
        }
        non_finite
    }

    /// Spreads the numbers of tiles over their `out.len() / tiles.len()` columns each.
    pub(crate) fn spread(tiles: &[f32], out: &mut [f32]) {
        let tile_cols = out.len() / tiles.len();
        match tile_cols {
            // The usual blocks, with a length that the compiler knows.
            16 => out.as_chunks_mut::<16>().0.iter_mut().zip(tiles).for_each(|(out, tile)| *out = [*tile; 16]),
            32 => out.as_chunks_mut::<32>().0.iter_mut().zip(tiles).for_each(|(out, tile)| *out = [*tile; 32]),
            _ => out.chunks_exact_mut(tile_cols).zip(tiles).for_each(|(out, tile)| out.fill(*tile)),
        }
    }

    /// out = fold round(x / divisor), with one divisor and one factor per column. `first` is the index of the first
    /// element in the stream of random bits. Every element of `out` is written.
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
