//! From strided views of f32 to tiles of bf16, and whether bf16 holds all that was packed.

use crate::matmul::Mat;
use crate::simd::transposed;
use numerics::multiversion;
#[cfg(target_arch = "x86_64")]
use numerics::simd::{Isa, isa};

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

/// Which operand a tile belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Rows are lines.
    Left,
    /// Rows are pairs of steps.
    Right,
}

/// Packs strips of 16 lines of a view, each into as many tiles as the view's steps take. Returns whether every value is a
/// bf16 number; if not, the tiles are of no use.
pub(crate) fn pack_strips(tiles: &mut [Tile], side: Side, view: Mat<'_>) -> bool {
    let steps = view.cols.div_ceil(STEPS);
    if view.rows_are_contiguous() {
        let strip = |(strip, tiles): (usize, &mut [Tile])| {
            pack(tiles, side, view.window([strip * LINES, 0], [LINES, view.cols]))
        };
        return tiles.chunks_exact_mut(steps).enumerate().all(strip);
    }
    // Lines are neighbours: a step of several strips shares a cache line, and a page.
    (0..steps).all(|step| {
        tiles.iter_mut().skip(step).step_by(steps).enumerate().all(|(strip, tile)| {
            let part = view.window([strip * LINES, step * STEPS], [LINES, STEPS]);
            pack(std::slice::from_mut(tile), side, part)
        })
    })
}

/// Packs a view of up to 16 lines into as many tiles as its steps take. Returns whether every value is a bf16
/// number; if not, the tiles are of no use.
///
/// The values are asked, not their format, since what counts as a value may hold a folded scale, or be a
/// gradient rounded to some other type: whatever the recipe, f32 numbers whose lower halves are zero are bf16.
/// fp16 and tf32 have too many bits, and so do most NaN with a payload.
pub(super) fn pack(tiles: &mut [Tile], side: Side, view: Mat<'_>) -> bool {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx512 && (view.rows_are_contiguous() || view.t().rows_are_contiguous()) {
        // SAFETY: `isa` is never wider than what this CPU has.
        return unsafe { avx512::pack(tiles, side, view) };
    }
    pack_portably(tiles, side, view)
}

multiversion! {
    /// [`pack`] without instructions of its own.
    fn pack_portably(tiles: &mut [Tile], side: Side, view: Mat<'_>) -> bool {
        let mut bits = 0;
        for (index, tile) in tiles.iter_mut().enumerate() {
            let part = view.window([0, index * STEPS], [LINES, STEPS]);
            // Read along memory, whichever way it runs; turn round what comes out the wrong way.
            let by_line = part.rows_are_contiguous();
            let pairs = if by_line { lines_by_pairs(part, &mut bits) } else { pairs_by_lines(part, &mut bits) };
            tile.0 = if by_line == (side == Side::Left) { pairs } else { transposed(&pairs, f32::from_bits, f32::to_bits) };
        }
        bits & 0xffff == 0
    }
}

/// A pair of steps that are bf16 numbers. All their bits are collected in `seen`.
#[inline(always)]
fn pair(early: f32, late: f32, seen: &mut u32) -> u32 {
    *seen |= early.to_bits() | late.to_bits();
    pair_of(early, late)
}

/// The upper halves of two numbers: in bf16, if they hold such numbers.
#[inline(always)]
pub(crate) fn pair_of(early: f32, late: f32) -> u32 {
    early.to_bits() >> 16 | late.to_bits() & 0xffff_0000
}

#[inline(always)]
fn lines_by_pairs(part: Mat<'_>, seen: &mut u32) -> [[u32; PAIRS]; LINES] {
    let mut pairs = [[0; PAIRS]; LINES];
    for (line, pairs) in pairs.iter_mut().enumerate() {
        let steps: [f32; STEPS] = part.padded_row(line);
        for (index, to) in pairs.iter_mut().enumerate() {
            *to = pair(steps[index], steps[index + PAIRS], seen);
        }
    }
    pairs
}

#[inline(always)]
fn pairs_by_lines(part: Mat<'_>, seen: &mut u32) -> [[u32; LINES]; PAIRS] {
    let mut pairs = [[0; LINES]; PAIRS];
    for (index, pairs) in pairs.iter_mut().enumerate() {
        let early: [f32; LINES] = part.t().padded_row(index);
        let late: [f32; LINES] = part.t().padded_row(index + PAIRS);
        for (line, to) in pairs.iter_mut().enumerate() {
            *to = pair(early[line], late[line], seen);
        }
    }
    pairs
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
