//! An operand that the tasks which make it pack: a matrix whose rows a product sums over, some rows at a time, or the blocks of any
//! other.

use super::pack::{LINES, Parts, Rounding, STEPS, Side, Tile, pack, stream};
use super::{BLOCK, Strips, over_lines};
use crate::matmul::Mat;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Room for the tiles of a matrix \[rows, cols\], of which columns are lines and rows are steps: of what a product sums over.
pub(crate) struct OverRows {
    tiles: Vec<Tile>,
    /// Where they are.
    place: *mut Tile,
    side: Side,
    parts: Parts,
    rows: usize,
    cols: usize,
}

// SAFETY: the place is the vector's, and `pack` is unsafe and asks for disjoint use.
unsafe impl Send for OverRows {}
// SAFETY: as above.
unsafe impl Sync for OverRows {}

impl OverRows {
    /// Room for all rows.
    pub(crate) fn new(side: Side, parts: Parts, rows: usize, cols: usize) -> Self {
        let mut all = Self { tiles: vec![], place: std::ptr::null_mut(), side, parts, rows, cols };
        let (strips, len, pitch) = (all.strips(), all.len(), all.pitch());
        all.tiles.reserve_exact(strips * pitch);
        for strip in all.tiles.spare_capacity_mut().chunks_mut(pitch).take(strips) {
            strip[len..].fill(MaybeUninit::new(Tile::ZERO));
        }
        all.place = all.tiles.as_mut_ptr();
        all
    }

    /// Columns of the matrix.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Packs rows. What their parts do not hold loses the lower half of its last part, and infinity in two parts counts as NaN.
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
            let first = self.place.wrapping_add(strip * self.pitch() + self.parts.tiles(rows.start));
            // SAFETY: there is room for the steps of every strip, and by the contract nobody else has those of these rows.
            let tiles = unsafe { std::slice::from_raw_parts_mut(first.cast(), self.parts.tiles(rows.len())) };
            let view = view.window([strip * LINES, 0], [LINES, rows.len()]);
            pack(tiles, self.side, self.parts, Rounding::Done, view);
        }
    }

    /// Writes the tiles of a step for the two strips of a panel. Elements have one part.
    ///
    /// # Safety
    /// No other task writes any of them, and each calls [`streamed`](super::streamed) after its last ones.
    pub(crate) unsafe fn put(&self, panel: usize, step: usize, tiles: &[Tile; 2]) {
        assert!(2 * panel < self.strips() && step < self.len() && self.parts == Parts::One);
        for (strip, tile) in tiles.iter().enumerate() {
            // SAFETY: there is room for the steps of every strip, and by the contract nobody else has those of these rows.
            let place = unsafe { &mut *self.place.add((2 * panel + strip) * self.pitch() + step).cast() };
            stream(tile, place);
        }
    }

    /// Writes a block of 32 rows, of which this is the number, from its strips as left operand.
    ///
    /// # Safety
    /// As for [`OverRows::put`].
    pub(crate) unsafe fn put_rows(&self, step: usize, [early, late]: [&[Tile]; 2]) {
        let mut turned = [Tile::ZERO; 2];
        for (panel, tiles) in early.iter().zip(late).enumerate() {
            over_lines(tiles.into(), self.side, turned.each_mut());
            // SAFETY: the caller's promise.
            unsafe { self.put(panel, step, &turned) };
        }
    }

    /// Which operand it is.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// The operand.
    ///
    /// # Safety
    /// All rows have been packed.
    pub(crate) unsafe fn packed(mut self) -> Strips {
        let (strips, len, pitch) = (self.strips(), self.len(), self.pitch());
        // SAFETY: there is room for them, and with all rows all have been written; those between strips were at first.
        unsafe { self.tiles.set_len(strips * pitch) };
        Strips { tiles: self.tiles, cols: self.cols, parts: self.parts, len, pitch }
    }

    /// An even number.
    fn strips(&self) -> usize {
        self.cols.div_ceil(BLOCK) * 2
    }

    /// Tiles from strip to strip: a task writes all of them at one step, and if they were a power of two apart they would share
    /// few places in a cache.
    fn pitch(&self) -> usize {
        self.len() + 1
    }

    /// Tiles in a strip.
    fn len(&self) -> usize {
        self.parts.tiles(self.rows)
    }
}
