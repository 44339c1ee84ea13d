//! From blocks of sums to matrices.

use super::pack::LINES;
use super::{BLOCK, LineScales, Sums};
use crate::matmul::{Before, MatMut, Update};
use crate::round::to_bf16;
use crate::simd::padded;
use numerics::multiversion;

multiversion! {
    /// Updates a block of c by a block of sums, as far as c goes.
    pub(super) fn take(
        sums: &Sums,
        update: Update<'_>,
        scales: Option<LineScales<'_>>,
        rounded: bool,
        c: &mut MatMut<'_>,
    ) {
        let of_cols = scales.map(|scales| {
            [0, 1].map(|half| padded(scales.cols.get(half * LINES..).unwrap_or(&[]), 0.0))
        });
        for row in 0..c.shape()[0] {
            let (mut sums, c) = (sums.row(row), c.row(row));
            match (scales, &of_cols) {
                (Some(scales), Some(of_cols)) => multiply_by_lines(&mut sums, scales.rows[row], of_cols),
                _ => multiply(&mut sums, update.factor),
            }
            let update = update.window([row, 0], [1, BLOCK]);
            match whole_row(c) {
                Some(c) => take_row(sums, update, rounded, c),
                None => {
                    let mut whole = [[0.0; LINES]; 2];
                    whole.as_flattened_mut()[..c.len()].copy_from_slice(c);
                    take_row(sums, update, rounded, &mut whole);
                    c.copy_from_slice(&whole.as_flattened()[..c.len()]);
                }
            }
        }
    }
}

/// Both halves of a row of a block, if it has all of them.
#[inline(always)]
pub(crate) fn whole_row(row: &mut [f32]) -> Option<&mut [[f32; LINES]; 2]> {
    row.as_chunks_mut().0.first_chunk_mut()
}

#[inline(always)]
fn multiply(sums: &mut [[f32; LINES]; 2], factor: f32) {
    for x in sums.as_flattened_mut() {
        *x *= factor;
    }
}

#[inline(always)]
fn multiply_by_lines(sums: &mut [[f32; LINES]; 2], of_row: f32, of_cols: &[[f32; LINES]; 2]) {
    for (x, of_col) in sums.as_flattened_mut().iter_mut().zip(of_cols.as_flattened()) {
        *x *= of_row * of_col;
    }
}

/// [`take`] for a row that has been scaled. (A function, since closures would be compiled for the oldest CPU.)
#[inline(always)]
fn take_row(sums: [[f32; LINES]; 2], update: Update<'_>, rounded: bool, c: &mut [[f32; LINES]; 2]) {
    let other = match update.before {
        Before::Other(other) => other.row(0),
        Before::Nothing | Before::There => &[],
    };
    for (half, (mut taken, c)) in sums.into_iter().zip(c).enumerate() {
        if rounded {
            for x in &mut taken {
                *x = to_bf16(*x);
            }
        }
        match update.before {
            Before::Nothing => {}
            Before::There => add(&mut taken, c),
            Before::Other(_) => add(&mut taken, &padded(other.get(half * LINES..).unwrap_or(&[]), 0.0)),
        }
        *c = taken;
    }
}

#[inline(always)]
fn add(sum: &mut [f32; LINES], x: &[f32; LINES]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}
