//! From strided views of f32 to tiles of bf16, and whether bf16, or two of it, hold all that was packed.

use crate::matmul::Mat;
use crate::round::to_bf16;
use crate::simd::transposed;
use numerics::multiversion;
#[cfg(target_arch = "x86_64")]
use numerics::simd::{Isa, isa};
use std::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Lines of a view (rows of a, columns of b) that a tile takes.
pub(crate) const LINES: usize = 16;

/// Elements of a line, which a product sums over, that a tile takes.
pub(crate) const STEPS: usize = 2 * PAIRS;

/// A tile's unit is a pair of steps. Any two would do that are a pair in both operands; these are so far apart, so that two
/// registers of neighbouring steps make one of pairs without a shuffle.
const PAIRS: usize = 16;

/// 16 lines by 32 steps of bf16, as pairs of steps: the earlier step in the lower half.
///
/// A left operand has lines as rows and pairs as columns, a right one the reverse (Intel calls that the VNNI
/// layout). Lines and steps beyond the matrix are zeros, which add nothing to a sum.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile(pub(crate) [[u32; 16]; 16]);

impl Tile {
    pub(crate) const ZERO: Self = Self([[0; 16]; 16]);
}

/// Tiles to be written over.
///
/// # Safety
/// Nothing but tiles is written.
pub(crate) unsafe fn to_write(tiles: &mut [Tile]) -> &mut [MaybeUninit<Tile>] {
    // SAFETY: MaybeUninit<Tile> has the layout of Tile, and by the contract they stay tiles.
    unsafe { &mut *(std::ptr::from_mut(tiles) as *mut [MaybeUninit<Tile>]) }
}

/// How many bf16 numbers an element is the sum of. Its parts are in so many tiles, one after another, the larger first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// It is one, with 8 significant bits.
    One,
    /// It has up to 16 significant bits.
    Two,
}

impl Parts {
    pub(crate) const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Tiles that so many steps of a line take.
    pub(crate) const fn tiles(self, steps: usize) -> usize {
        steps.div_ceil(STEPS) * self.count()
    }
}

/// What is done to values before they are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// Nothing.
    Done,
    /// They are rounded to bf16, if they are to have one part.
    ToBf16,
}

/// Which operand a tile belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Rows are lines.
    Left,
    /// Rows are pairs of steps.
    Right,
}

/// Packs strips of 16 lines of a view, each into as many tiles as the view's steps take. Returns whether the parts of every
/// value are bf16 numbers; if so, all tiles have been written, if not, they are of no use.
pub(crate) fn pack_strips(tiles: &mut [MaybeUninit<Tile>], side: Side, parts: Parts, view: Mat<'_>) -> bool {
    pack_strips_rounded(tiles, side, parts, Rounding::Done, view)
}

/// The same of values that may have to be rounded first.
pub(super) fn pack_strips_rounded(
    tiles: &mut [MaybeUninit<Tile>],
    side: Side,
    parts: Parts,
    rounding: Rounding,
    view: Mat<'_>,
) -> bool {
    let of_strip = parts.tiles(view.cols);
    if view.rows_are_contiguous() {
        let strip = |(strip, tiles): (usize, &mut [MaybeUninit<Tile>])| {
            pack(tiles, side, parts, rounding, view.window([strip * LINES, 0], [LINES, view.cols]))
        };
        return tiles.chunks_exact_mut(of_strip).enumerate().all(strip);
    }
    // Lines are neighbours: a step of several strips shares a cache line, and a page.
    (0..of_strip / parts.count()).all(|step| {
        tiles.chunks_exact_mut(of_strip).enumerate().all(|(strip, tiles)| {
            let part = view.window([strip * LINES, step * STEPS], [LINES, STEPS]);
            pack(&mut tiles[step * parts.count()..][..parts.count()], side, parts, rounding, part)
        })
    })
}

/// Packs a view of up to 16 lines into as many tiles as its steps take, all of which it writes. Returns whether the parts of every
/// value are bf16 numbers; if not, the tiles are of no use.
///
/// The values are asked, not their format, since what counts as a value may hold a folded scale, or be a
/// gradient rounded to some other type: whatever the recipe, f32 numbers whose lower halves are zero are bf16.
/// fp16 and tf32 have too many bits for one part, but not for two, and so do most NaN with a payload. Two parts do not hold
/// infinity and NaN, nor what rounds to infinity: infinity times the parts of a number need not be infinity.
pub(super) fn pack(
    tiles: &mut [MaybeUninit<Tile>],
    side: Side,
    parts: Parts,
    rounding: Rounding,
    view: Mat<'_>,
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx512 && (view.rows_are_contiguous() || view.t().rows_are_contiguous()) {
        // SAFETY: `isa` is never wider than what this CPU has.
        return unsafe { avx512::pack(tiles, side, parts, rounding, view) };
    }
    match parts {
        Parts::One => pack_one(tiles, side, rounding, view),
        Parts::Two => pack_two(tiles, side, view),
    }
}

/// The transpose of a tile's pairs: of a left operand's tile that of a right one, and the reverse.
pub(crate) fn transpose(from: &Tile, to: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx512 {
        // SAFETY: `isa` is never wider than what this CPU has.
        return unsafe { avx512::transpose(from, to) };
    }
    to.0 = transposed(&from.0, f32::from_bits, f32::to_bits);
}

/// Transposes the pairs of a tile.
pub(super) fn transpose_in_place(tile: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx512 {
        // SAFETY: as above.
        return unsafe { avx512::transpose_in_place(tile) };
    }
    tile.0 = transposed(&tile.0, f32::from_bits, f32::to_bits);
}

/// The transpose of a square of numbers.
pub(crate) fn transpose_numbers(from: &[[f32; LINES]; LINES], to: &mut [[f32; LINES]; LINES]) {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx512 {
        // SAFETY: as above.
        return unsafe { avx512::transpose_numbers(from, to) };
    }
    *to = transposed(from, |x| x, |x| x);
}

/// Writes a tile that will not be read soon. What is written past the caches has to be waited for before other threads may read it:
/// see [`streamed`].
pub(crate) fn stream(tile: &Tile, to: &mut MaybeUninit<Tile>) {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx512 {
        // SAFETY: `isa` is never wider than what this CPU has.
        return unsafe { avx512::stream(tile, to) };
    }
    to.write(*tile);
}

/// Waits until what this thread has written by [`stream`] is there for all of them.
pub(crate) fn streamed() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

multiversion! {
    /// [`pack`] without instructions of its own.
    fn pack_one(tiles: &mut [MaybeUninit<Tile>], side: Side, rounding: Rounding, view: Mat<'_>) -> bool {
        let mut bits = 0;
        for (index, tile) in tiles.iter_mut().enumerate() {
            let mut squares = squares(view.window([0, index * STEPS], [LINES, STEPS]));
            if rounding == Rounding::ToBf16 {
                for x in squares.halves.as_flattened_mut().as_flattened_mut() {
                    *x = to_bf16(*x);
                }
            }
            for half in &squares.halves {
                for x in half.as_flattened() {
                    bits |= x.to_bits();
                }
            }
            tile.write(Tile(squares.pairs(side)));
        }
        bits & 0xffff == 0
    }

    /// The same for two parts.
    fn pack_two(tiles: &mut [MaybeUninit<Tile>], side: Side, view: Mat<'_>) -> bool {
        let mut bits = 0;
        for (index, tiles) in tiles.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut high = squares(view.window([0, index * STEPS], [LINES, STEPS]));
            let mut low = high;
            for half in 0..2 {
                for row in 0..16 {
                    for col in 0..16 {
                        let parts = split(high.halves[half][row][col]);
                        [high.halves[half][row][col], low.halves[half][row][col]] = parts;
                        bits |= if parts[1].is_finite() { parts[1].to_bits() } else { 1 };
                    }
                }
            }
            tiles[0].write(Tile(high.pairs(side)));
            tiles[1].write(Tile(low.pairs(side)));
        }
        bits & 0xffff == 0
    }
}

/// A number as the sum of one of bf16, rounded to nearest but away from zero between two, and what is missing.
#[inline(always)]
fn split(x: f32) -> [f32; 2] {
    let high = f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xffff_0000);
    [high, x - high]
}

/// The upper halves of two numbers: in bf16, if they hold such numbers.
#[inline(always)]
pub(crate) fn pair_of(early: f32, late: f32) -> u32 {
    early.to_bits() >> 16 | late.to_bits() & 0xffff_0000
}

/// The earlier and the later steps of pairs, as they lie in memory.
#[derive(Clone, Copy)]
struct Squares {
    halves: [[[f32; 16]; 16]; 2],
    /// Whether rows are lines, not pairs.
    by_line: bool,
}

impl Squares {
    /// A tile of the upper halves.
    #[inline(always)]
    fn pairs(&self, side: Side) -> [[u32; 16]; 16] {
        let mut pairs = [[0; 16]; 16];
        for (row, pairs) in pairs.iter_mut().enumerate() {
            for (col, pair) in pairs.iter_mut().enumerate() {
                *pair = pair_of(self.halves[0][row][col], self.halves[1][row][col]);
            }
        }
        match self.by_line == (side == Side::Left) {
            true => pairs,
            false => transposed(&pairs, f32::from_bits, f32::to_bits),
        }
    }
}

/// Reads along memory, whichever way it runs.
#[inline(always)]
fn squares(part: Mat<'_>) -> Squares {
    let by_line = part.rows_are_contiguous();
    let mut halves = [[[0.0; 16]; 16]; 2];
    let [early, late] = &mut halves;
    for (row, (early, late)) in early.iter_mut().zip(late).enumerate() {
        if by_line {
            let steps: [f32; STEPS] = part.padded_row(row);
            early.copy_from_slice(&steps[..PAIRS]);
            late.copy_from_slice(&steps[PAIRS..]);
        } else {
            *early = part.t().padded_row(row);
            *late = part.t().padded_row(row + PAIRS);
        }
    }
    Squares { halves, by_line }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
