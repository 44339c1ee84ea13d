//! Copies of parts of a and b in the order in which a kernel reads them.

use super::tile::prefetch;
use crate::matmul::Mat;
use crate::simd::{SIDE, turned};

/// 16 floats at the start of a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A buffer that grows and is never given back, since fresh memory costs more than the copies.
#[derive(Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Its first `len` floats, whatever they are, beginning at a cache line.
    pub(crate) fn floats(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: a line is 16 floats without padding, and there are enough of them.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// From the start of a strip of so many rows to that of the next, in rows. They lie apart, since the same rows of all strips
/// are packed one after another, and strips whose distance is a power of two would share few places in a cache.
pub(super) const fn pitch(rows: usize, width: usize) -> usize {
    const GAP: usize = 8 * 16; // floats, some cache lines
    rows.next_multiple_of(QUAD) + GAP.div_ceil(width)
}

/// Terms of a row that lie together where rows are packed: what 16 bytes hold, which are copied at once.
pub(super) const QUAD: usize = 4;

/// Packs a view, whose rows are contiguous, in strips of `HEIGHT` rows: for every quad of terms that of each row. Whatever
/// was there stays where rows of the last strip are missing, and behind the last term.
#[inline(always)]
pub(super) fn pack_rows<const HEIGHT: usize>(from: Mat<'_>, to: &mut [f32]) {
    let pitch = pitch(from.cols, HEIGHT) * HEIGHT;
    let (to, _) = to.as_chunks_mut::<QUAD>();
    for (strip, first) in to.chunks_mut(pitch / QUAD).zip((0..from.rows).step_by(HEIGHT)) {
        for (i, row) in (first..from.rows).take(HEIGHT).enumerate() {
            let (row, last) = from.row(row).as_chunks::<QUAD>();
            let mut places = strip[i..].iter_mut().step_by(HEIGHT);
            for (from, to) in row.iter().zip(&mut places) {
                *to = *from;
            }
            if let Some(to) = places.next() {
                to[..last.len()].copy_from_slice(last);
            }
        }
    }
}

/// Rows that are asked for ahead: short rows far apart, as those of a head, are not foreseen by the CPU.
const AHEAD: usize = 32;

/// Packs a view in strips of `WIDTH` columns: for every row its part of the strip, zeros beyond the last column.
#[inline(always)]
pub(super) fn pack<const WIDTH: usize>(from: Mat<'_>, to: &mut [f32]) {
    let (to, _) = to.as_chunks_mut::<WIDTH>();
    let pitch = pitch(from.rows, WIDTH);
    let strips = (0..from.cols).step_by(WIDTH).enumerate();
    if from.rows_are_contiguous() {
        // A row of all strips at a time, which is read in order; of narrow strips a few, so that whole cache lines are
        // written.
        let together = if WIDTH < 16 { 4 } else { 1 };
        for row in (0..from.rows).step_by(together) {
            let count = together.min(from.rows - row);
            for (strip, col) in strips.clone() {
                prefetch(from.place(row + AHEAD, col));
                let to = &mut to[strip * pitch + row..][..count];
                if col + WIDTH <= from.cols {
                    for (i, to) in to.iter_mut().enumerate() {
                        *to = from.neighbours(row + i, col);
                    }
                } else {
                    one_by_one(from.window([row, col], [count, WIDTH]), to);
                }
            }
        }
    } else {
        for (strip, col) in strips {
            transpose(from.window([0, col], [from.rows, WIDTH]), &mut to[strip * pitch..][..from.rows]);
        }
    }
}

#[inline(always)]
fn one_by_one<const WIDTH: usize>(from: Mat<'_>, to: &mut [[f32; WIDTH]]) {
    for (row, to) in to.iter_mut().enumerate() {
        for (col, to) in to.iter_mut().enumerate() {
            *to = if col < from.cols { from.get(row, col) } else { 0.0 };
        }
    }
}

/// Packs a strip whose columns are contiguous, if anything is.
#[inline(always)]
fn transpose<const WIDTH: usize>(from: Mat<'_>, to: &mut [[f32; WIDTH]]) {
    let from_t = from.t();
    let squares = from_t.rows_are_contiguous() && from.cols == WIDTH && WIDTH.is_multiple_of(SIDE);
    let whole = if squares { from.rows - from.rows % SIDE } else { 0 };
    let (quick, rest) = to.split_at_mut(whole);
    for (index, to) in quick.chunks_exact_mut(SIDE).enumerate() {
        for col in (0..WIDTH).step_by(SIDE) {
            let rows = turned(std::array::from_fn(|i| from_t.neighbours(col + i, index * SIDE)));
            for (to, row) in to.iter_mut().zip(rows) {
                to[col..][..SIDE].copy_from_slice(&row);
            }
        }
    }
    one_by_one(from.window([whole, 0], [rest.len(), WIDTH]), rest);
}
