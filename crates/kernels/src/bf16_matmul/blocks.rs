//! Blocks of sums that become operands of the next product where they are, without a detour through rows in memory.

use super::pack::{LINES, Side, Tile, pair_of, transpose};
use super::{Strips, Sums};
use crate::round::to_bf16;
use numerics::multiversion;

impl Sums {
    /// All numbers, in the order in which blocks have them.
    pub(crate) fn numbers(&self) -> &[f32] {
        self.0.as_flattened().as_flattened().as_flattened()
    }

    /// As [`Sums::numbers`], to be changed.
    pub(crate) fn numbers_mut(&mut self) -> &mut [f32] {
        self.0.as_flattened_mut().as_flattened_mut().as_flattened_mut()
    }

    /// Makes columns from this one on zero.
    pub(crate) fn clear_columns(&mut self, first: usize) {
        for [early, late] in &mut self.0 {
            for line in 0..LINES {
                early[line][first.min(LINES)..].fill(0.0);
                late[line][first.saturating_sub(LINES)..].fill(0.0);
            }
        }
    }
}

impl Strips {
    /// The two strips of a panel.
    pub(crate) fn panel(&self, panel: usize) -> [&[Tile]; 2] {
        [0, 1].map(|strip| &self.tiles[(2 * panel + strip) * self.pitch..][..self.len])
    }
}

#[inline(always)]
fn is_non_finite(x: f32) -> bool {
    x.to_bits() & 0x7fff_ffff >= f32::INFINITY.to_bits()
}

multiversion! {
    /// Rounds numbers to bf16. Returns how many were not finite before, and how many are not now.
    pub(crate) fn round_block(numbers: &mut [f32]) -> [u32; 2] {
        let [mut before, mut after] = [0; 2];
        for x in numbers {
            before += u32::from(is_non_finite(*x));
            *x = to_bf16(*x);
            after += u32::from(is_non_finite(*x));
        }
        [before, after]
    }

    /// A block of numbers of bf16 as left operand, a tile of a step for each of two strips of lines. (Of a NaN that arithmetic made
    /// the upper half is one still.)
    pub(crate) fn left_tiles(block: &Sums, tiles: &mut [Tile; 2]) {
        for (tile, [early, late]) in tiles.iter_mut().zip(&block.0) {
            for line in 0..LINES {
                for lane in 0..LINES {
                    tile.0[line][lane] = pair_of(early[line][lane], late[line][lane]);
                }
            }
        }
    }

    /// The block that was made to these tiles.
    pub(crate) fn block_of(tiles: &[Tile; 2], block: &mut Sums) {
        for (tile, [early, late]) in tiles.iter().zip(&mut block.0) {
            for line in 0..LINES {
                for lane in 0..LINES {
                    early[line][lane] = f32::from_bits(tile.0[line][lane] << 16);
                    late[line][lane] = f32::from_bits(tile.0[line][lane] & 0xffff_0000);
                }
            }
        }
    }

    /// The same block where its lines are what is summed over: right tiles of a step for each of two strips of its columns.
    fn right_over_lines(left: &[Tile; 2], right: &mut [Tile; 2]) {
        for line in 0..LINES {
            for lane in 0..LINES {
                let [early, late] = [left[0].0[line][lane], left[1].0[line][lane]];
                right[0].0[line][lane] = early & 0xffff | late << 16;
                right[1].0[line][lane] = early >> 16 | late & 0xffff_0000;
            }
        }
    }
}

/// The same block where its lines are what is summed over, as tiles of a step for each of two strips of its columns.
pub(crate) fn over_lines(left: &[Tile; 2], side: Side, tiles: &mut [Tile; 2]) {
    right_over_lines(left, tiles);
    if side == Side::Left {
        tiles.iter_mut().for_each(transpose);
    }
}
