//! Blocks of sums that become operands of the next product where they are, without a detour through rows in memory.

use super::Sums;
use super::pack::{LINES, Side, Tile, pair_of, transpose_in_place};
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

    /// Writes a number to columns from this one on.
    pub(crate) fn fill_columns(&mut self, first: usize, number: f32) {
        for [early, late] in &mut self.0 {
            for line in 0..LINES {
                early[line][first.min(LINES)..].fill(number);
                late[line][first.saturating_sub(LINES)..].fill(number);
            }
        }
    }
}

/// The largest magnitude of a block, as bits.
pub(crate) struct Largest(i32);

impl Largest {
    /// How many numbers of the block are not finite.
    pub(crate) fn non_finite(&self, block: &Sums) -> u64 {
        match self.0 < f32::INFINITY.to_bits() as i32 {
            true => 0,
            false => numerics::count_non_finite(block.numbers()),
        }
    }

    /// How many are not once they are rounded to bf16.
    pub(crate) fn non_finite_rounded(&self, block: &Sums) -> u64 {
        // Rounding keeps the order of numbers.
        if to_bf16(f32::from_bits(self.0 as u32)).is_finite() {
            return 0;
        }
        let mut block = *block;
        round_block(&mut block);
        numerics::count_non_finite(block.numbers())
    }
}

/// A magnitude as bits (signed: the comparison that SIMD has).
#[inline(always)]
fn magnitude(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff) as i32
}

// Loops over all of a tile at a time: of loops over rows of 16 the compiler would make gathers.
multiversion! {
    /// Rounds a block to bf16.
    pub(crate) fn round_block(block: &mut Sums) {
        for x in block.numbers_mut() {
            *x = to_bf16(*x);
        }
    }

    /// A block rounded to bf16 as left operand: a tile of a step for each of two strips of lines. (Of a NaN that arithmetic made the
    /// upper half is one still.)
    pub(crate) fn left_tiles(block: &Sums, tiles: [&mut Tile; 2]) {
        for (tile, [early, late]) in tiles.into_iter().zip(&block.0) {
            let numbers = early.as_flattened().iter().zip(late.as_flattened());
            for (pair, (early, late)) in tile.0.as_flattened_mut().iter_mut().zip(numbers) {
                *pair = pair_of(to_bf16(*early), to_bf16(*late));
            }
        }
    }

    /// The same, with a look at the block before it was rounded.
    pub(crate) fn left_tiles_of(block: &Sums, tiles: [&mut Tile; 2]) -> Largest {
        let mut largest = 0;
        for (tile, [early, late]) in tiles.into_iter().zip(&block.0) {
            let numbers = early.as_flattened().iter().zip(late.as_flattened());
            for (pair, (early, late)) in tile.0.as_flattened_mut().iter_mut().zip(numbers) {
                largest = largest.max(magnitude(*early)).max(magnitude(*late));
                *pair = pair_of(to_bf16(*early), to_bf16(*late));
            }
        }
        Largest(largest)
    }

    /// The same where the block is rounded too.
    pub(crate) fn round_to_tiles(block: &mut Sums, tiles: [&mut Tile; 2]) {
        for (tile, [early, late]) in tiles.into_iter().zip(&mut block.0) {
            let numbers = early.as_flattened_mut().iter_mut().zip(late.as_flattened_mut());
            for (pair, (early, late)) in tile.0.as_flattened_mut().iter_mut().zip(numbers) {
                (*early, *late) = (to_bf16(*early), to_bf16(*late));
                *pair = pair_of(*early, *late);
            }
        }
    }

    /// The block that was made to these tiles.
    pub(crate) fn block_of(tiles: &[Tile; 2], block: &mut Sums) {
        for (tile, [early, late]) in tiles.iter().zip(&mut block.0) {
            let numbers = early.as_flattened_mut().iter_mut().zip(late.as_flattened_mut());
            for (pair, (early, late)) in tile.0.as_flattened().iter().zip(numbers) {
                *early = f32::from_bits(pair << 16);
                *late = f32::from_bits(pair & 0xffff_0000);
            }
        }
    }

    /// The same block where its lines are what is summed over: right tiles of a step for each of two strips of its columns.
    fn right_over_lines(left: [&Tile; 2], right: [&mut Tile; 2]) {
        let [first, second] = right;
        let left = left[0].0.as_flattened().iter().zip(left[1].0.as_flattened());
        let right = first.0.as_flattened_mut().iter_mut().zip(second.0.as_flattened_mut());
        for ((early, late), (first, second)) in left.zip(right) {
            *first = early & 0xffff | late << 16;
            *second = early >> 16 | late & 0xffff_0000;
        }
    }
}

/// The same block where its lines are what is summed over, as tiles of a step for each of two strips of its columns.
pub(crate) fn over_lines(left: [&Tile; 2], side: Side, [first, second]: [&mut Tile; 2]) {
    right_over_lines(left, [&mut *first, &mut *second]);
    if side == Side::Left {
        transpose_in_place(first);
        transpose_in_place(second);
    }
}
