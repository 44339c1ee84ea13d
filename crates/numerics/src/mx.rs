//! Blocks of MX, from their largest magnitudes to rounded values while they are in registers or in the L1 cache.
//!
//! A scale is a power of two, so that a product with its reciprocal is the quotient: both are exact, or rounded once.

use std::mem::MaybeUninit;

use crate::grid::{Grid, with_rounding};
use crate::multiversion;
use crate::rounding::Rounding;
use crate::scale::mx_scale;
use crate::sweep::{finite, is_finite, magnitude, short_run_amax};

/// Elements of a block.
pub(crate) const BLOCK: usize = 32;

/// Columns whose blocks are quantised together: with 32 rows 8 KiB.
const STRIP: usize = 64;

/// What quantises blocks.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    pub(crate) max_exponent: i32,
    pub(crate) fraction_bits: i32,
    pub(crate) grid: Grid,
    pub(crate) rounding: Rounding,
}

/// A scale that divides by the product with its reciprocal: 2^-127 / 2^6, of int8 alone, has none.
#[inline(always)]
fn has_reciprocal(scale: f32) -> bool {
    1.0 / scale < f32::INFINITY
}

multiversion! {
    /// out = scale round(x / scale) in blocks of neighbours, all of which are whole. `first` is the index of the first element in
    /// the stream of random bits. Returns the largest magnitude of x as bits, be it finite or not.
    pub(crate) fn sweep_runs(x: &[f32], out: &mut [MaybeUninit<f32>], how: &Blocks, first: u32) -> i32 {
        let Blocks { max_exponent, fraction_bits, grid, rounding } = *how;
        with_rounding!(grid, rounding, |round| {
            let (mut all, mut index) = (0, first);
            for (x, out) in x.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
                let mut amax = short_run_amax::<true>(x);
                all = all.max(amax);
                if !is_finite(amax) {
                    amax = short_run_amax::<false>(x);
                }
                let scale = mx_scale(amax, max_exponent, fraction_bits);
                let by = 1.0 / scale;
                if has_reciprocal(scale) {
                    for (i, (x, out)) in x.iter().zip(out).enumerate() {
                        out.write(round(*x, x * by, index.wrapping_add(i as u32)) * scale);
                    }
                } else {
                    for (i, (x, out)) in x.iter().zip(out).enumerate() {
                        out.write(round(*x, x / scale, index.wrapping_add(i as u32)) * scale);
                    }
                }
                index = index.wrapping_add(BLOCK as u32);
            }
            all
        })
    }

    /// The same in blocks that run down the columns of as many rows.
    pub(crate) fn sweep_columns(x: &[f32], out: &mut [MaybeUninit<f32>], how: &Blocks, first: u32) -> i32 {
        let Blocks { max_exponent, fraction_bits, grid, rounding } = *how;
        let cols = x.len() / BLOCK;
        with_rounding!(grid, rounding, |round| {
            let mut all = 0;
            for start in (0..cols).step_by(STRIP) {
                let width = STRIP.min(cols - start);
                let mut amax = [0; STRIP];
                let amax = &mut amax[..width];
                for x in x.chunks_exact(cols) {
                    for (amax, x) in amax.iter_mut().zip(&x[start..][..width]) {
                        *amax = (*amax).max(magnitude(*x));
                    }
                }
                let largest = amax.iter().fold(0, |all, bits| all.max(*bits));
                all = all.max(largest);
                if !is_finite(largest) {
                    amax.fill(0);
                    for x in x.chunks_exact(cols) {
                        for (amax, x) in amax.iter_mut().zip(&x[start..][..width]) {
                            *amax = (*amax).max(finite(magnitude(*x)));
                        }
                    }
                }
                let [mut scales, mut by] = [[1.0; STRIP]; 2];
                let (scales, by) = (&mut scales[..width], &mut by[..width]);
                let mut all_have_reciprocals = true;
                for ((amax, scale), by) in amax.iter().zip(&mut *scales).zip(&mut *by) {
                    *scale = mx_scale(*amax, max_exponent, fraction_bits);
                    *by = 1.0 / *scale;
                    all_have_reciprocals &= has_reciprocal(*scale);
                }
                let rows = x.chunks_exact(cols).zip(out.chunks_exact_mut(cols));
                for (row, (x, out)) in rows.enumerate() {
                    let (x, out) = (&x[start..][..width], &mut out[start..][..width]);
                    let first = first.wrapping_add((row * cols + start) as u32);
                    let elements = x.iter().zip(out).zip(scales.iter().zip(&*by)).enumerate();
                    if all_have_reciprocals {
                        for (i, ((x, out), (scale, by))) in elements {
                            out.write(round(*x, x * by, first.wrapping_add(i as u32)) * scale);
                        }
                    } else {
                        for (i, ((x, out), (scale, _))) in elements {
                            out.write(round(*x, x / scale, first.wrapping_add(i as u32)) * scale);
                        }
                    }
                }
            }
            all
        })
    }
}
