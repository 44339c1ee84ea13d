//! Left operands of a task's rows on tiles.

use crate::bf16_matmul::{BLOCK, Lines, Parts, Side, Tile, pack_strips, to_write};
use crate::matmul::Mat;

/// Blocks of rows, in memory that a thread keeps from task to task.
pub(super) struct LeftBlocks<'t> {
    /// Strips, one behind the other.
    tiles: &'t mut [Tile],
    /// Tiles of a strip.
    steps: usize,
}

impl<'t> LeftBlocks<'t> {
    /// So many blocks, of whatever is in the memory.
    pub(super) fn new(memory: &'t mut Vec<Tile>, blocks: usize, steps: usize) -> Self {
        let count = 2 * blocks * steps;
        if memory.len() < count {
            memory.resize(count, Tile::ZERO);
        }
        Self { tiles: &mut memory[..count], steps }
    }

    /// Blocks of row-major bf16.
    pub(super) fn packed(memory: &'t mut Vec<Tile>, rows: &[f32], cols: usize) -> Self {
        let view = Mat::row_major(rows, rows.len() / cols, cols);
        let all = Self::new(memory, view.rows.div_ceil(BLOCK), Parts::One.tiles(cols));
        // SAFETY: the packers write tiles.
        let tiles = unsafe { to_write(all.tiles) };
        pack_strips(tiles, Side::Left, Parts::One, view);
        all
    }

    /// The tiles of a step of a block.
    pub(super) fn at(&mut self, block: usize, step: usize) -> [&mut Tile; 2] {
        let first = 2 * block * self.steps + step;
        let (before, from) = self.tiles.split_at_mut(first + self.steps);
        [&mut before[first], &mut from[0]]
    }

    /// A strip of a block.
    pub(super) fn strip(&mut self, block: usize, strip: usize) -> &mut [Tile] {
        &mut self.tiles[(2 * block + strip) * self.steps..][..self.steps]
    }

    /// As an operand.
    pub(super) fn lines(&self) -> Lines<'_> {
        Lines::new(self.tiles, self.steps)
    }

    /// The strips of a block.
    pub(super) fn block(&self, block: usize) -> [&[Tile]; 2] {
        self.lines().block(block)
    }
}
