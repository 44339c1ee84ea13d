//! A matrix whose rows a product sums over, packed some rows at a time by the tasks that make them.

use super::pack::{LINES, STEPS, Side, Tile, pack};
use super::{BLOCK, Strips};
use crate::matmul::Mat;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Room for the tiles of a matrix \[rows, cols\], of which columns are lines and rows are steps.
pub(crate) struct OverRows {
    tiles: Vec<Tile>,
    /// Where they are.
    place: *mut Tile,
    side: Side,
    rows: usize,
    cols: usize,
}

// SAFETY: the place is the vector's, and `pack` is unsafe and asks for disjoint use.
unsafe impl Send for OverRows {}
// SAFETY: as above.
unsafe impl Sync for OverRows {}

impl OverRows {
    /// Room for all rows.
    pub(crate) fn new(side: Side, rows: usize, cols: usize) -> Self {
        let mut all = Self { tiles: vec![], place: std::ptr::null_mut(), side, rows, cols };
        let (strips, steps, pitch) = (all.strips(), all.steps(), all.pitch());
        all.tiles.reserve_exact(strips * pitch);
        for strip in all.tiles.spare_capacity_mut().chunks_mut(pitch).take(strips) {
            strip[steps..].fill(MaybeUninit::new(Tile::ZERO));
        }
        all.place = all.tiles.as_mut_ptr();
        all
    }

    /// Columns of the matrix.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Packs rows of bf16 numbers. Whatever else they hold loses its lower half.
    ///
    /// # Safety
    /// No other task packs any of these rows.
    ///
    /// # Panics
    /// When rows of a tile are cut.
    pub(crate) unsafe fn pack(&self, rows: Range<usize>, values: &[f32]) {
        assert!(rows.start.is_multiple_of(STEPS) && rows.end <= self.rows);
        assert!(rows.len().is_multiple_of(STEPS) || rows.end == self.rows);
        let view = Mat::row_major(values, rows.len(), self.cols).t();
        for strip in 0..self.strips() {
            let first = self.place.wrapping_add(strip * self.pitch() + rows.start / STEPS);
            // SAFETY: there is room for the steps of every strip, and by the contract nobody else has those of these rows.
            let tiles = unsafe { std::slice::from_raw_parts_mut(first, rows.len().div_ceil(STEPS)) };
            pack(tiles, self.side, view.window([strip * LINES, 0], [LINES, rows.len()]));
        }
    }

    /// The operand.
    ///
    /// # Safety
    /// All rows have been packed.
    pub(crate) unsafe fn packed(mut self) -> Strips {
        let (strips, steps, pitch) = (self.strips(), self.steps(), self.pitch());
        // SAFETY: there is room for them, and with all rows all have been written; those between strips were at first.
        unsafe { self.tiles.set_len(strips * pitch) };
        Strips { tiles: self.tiles, cols: self.cols, steps, pitch }
    }

    /// An even number.
    fn strips(&self) -> usize {
        self.cols.div_ceil(BLOCK) * 2
    }

    /// Tiles from strip to strip: a task writes all of them at one step, and if they were a power of two apart they would share
    /// few places in a cache.
    fn pitch(&self) -> usize {
        self.steps() + 1
    }

    /// Tiles in a strip.
    fn steps(&self) -> usize {
        self.rows.div_ceil(STEPS)
    }
}
