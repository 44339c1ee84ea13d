//! Operands that are packed once and multiplied by many tasks.

use super::BLOCK;
use super::pack::{Parts, Rounding, Side, Tile, pack_strips, pack_strips_rounded};
use crate::matmul::Mat;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// An operand, packed in strips of columns, or of rows if it is a left one.
pub(crate) struct Strips {
    /// An even number of strips, one after another.
    pub(super) tiles: Vec<Tile>,
    /// Columns, or rows.
    pub(super) cols: usize,
    /// Of every element.
    pub(super) parts: Parts,
    /// Tiles in a strip.
    pub(super) len: usize,
    /// Tiles from strip to strip.
    pub(super) pitch: usize,
}

impl Strips {
    /// Packs b on all threads, if so many parts hold it.
    pub(crate) fn pack(b: Mat<'_>, parts: Parts) -> Option<Self> {
        // Two strips share the cache lines of rows of b; zeros lie beyond the last column.
        Self::pack_panels(b, parts, |panel, tiles| pack_strips(tiles, Side::Right, parts, panel))
    }

    /// Packs b rounded to bf16 on all threads, if it then holds it: NaN may have more bits.
    pub(crate) fn pack_in_bf16(b: Mat<'_>) -> Option<Self> {
        let parts = Parts::One;
        Self::pack_panels(b, parts, |panel, tiles| {
            pack_strips_rounded(tiles, Side::Right, parts, Rounding::ToBf16, panel)
        })
    }

    /// Packs what `round` makes of b on all threads, if so many parts hold that.
    pub(crate) fn pack_rounded(b: Mat<'_>, parts: Parts, round: impl Fn(&mut [f32]) + Sync) -> Option<Self> {
        Self::pack_panels(b, parts, |panel, tiles| {
            let by_row = panel.rows_are_contiguous();
            let from = if by_row { panel } else { panel.t() };
            let mut values = from.contiguous_rows();
            round(&mut values);
            let rounded = Mat::row_major(&values, from.rows, from.cols);
            pack_strips(tiles, Side::Right, parts, if by_row { rounded } else { rounded.t() })
        })
    }

    /// Has `pack` pack two strips of columns at a time, given as lines by steps. It returns whether the parts hold them.
    fn pack_panels(
        b: Mat<'_>,
        parts: Parts,
        pack: impl Fn(Mat<'_>, &mut [MaybeUninit<Tile>]) -> bool + Sync,
    ) -> Option<Self> {
        let len = parts.tiles(b.rows);
        let count = b.cols.div_ceil(BLOCK) * 2 * len;
        let mut tiles = Vec::<Tile>::with_capacity(count);
        let panels = tiles.spare_capacity_mut()[..count].par_chunks_exact_mut(2 * len.max(1));
        let exact = panels
            .enumerate()
            .all(|(panel, tiles)| pack(b.t().window([panel * BLOCK, 0], [BLOCK, b.rows]), tiles));
        if exact {
            // SAFETY: all panels have been written.
            unsafe { tiles.set_len(count) };
        }
        exact.then_some(Self { tiles, cols: b.cols, parts, len, pitch: len })
    }

    /// Blocks of lines, of which it has two strips each.
    pub(crate) fn lines(&self, blocks: Range<usize>) -> Lines<'_> {
        let Self { tiles, len, pitch, .. } = self;
        Lines { tiles: &tiles[2 * blocks.start * pitch..2 * blocks.end * pitch], len: *len, pitch: *pitch }
    }

    /// The two strips of a block of lines.
    pub(crate) fn block(&self, block: usize) -> [&[Tile]; 2] {
        self.lines(block..block + 1).block(0)
    }
}

/// Blocks of lines of an operand, each of two strips of tiles, or some steps of all of them.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    /// From the first tile on.
    tiles: &'a [Tile],
    /// Tiles of a strip.
    len: usize,
    /// Tiles from strip to strip.
    pitch: usize,
}

impl<'a> Lines<'a> {
    /// Strips of so many tiles, one behind the other.
    pub(crate) fn new(tiles: &'a [Tile], len: usize) -> Self {
        Self { tiles, len, pitch: len }
    }

    /// Tiles of a strip.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// How many blocks there are.
    pub(crate) fn blocks(self) -> usize {
        self.tiles.len().div_ceil(2 * self.pitch.max(1))
    }

    /// The two strips of a block.
    pub(crate) fn block(self, block: usize) -> [&'a [Tile]; 2] {
        [0, 1].map(|strip| &self.tiles[(2 * block + strip) * self.pitch..][..self.len])
    }

    /// Some tiles of every strip.
    pub(crate) fn steps(self, steps: Range<usize>) -> Self {
        let tiles = self.tiles.get(steps.start..).unwrap_or(&[]);
        Self { tiles, len: steps.len(), ..self }
    }
}
