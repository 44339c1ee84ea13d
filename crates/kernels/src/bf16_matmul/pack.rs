//! From strided views of f32 to tiles of bf16, and whether bf16 holds all that was packed.

use crate::matmul::Mat;
use crate::simd::{SIDE, turned};
use numerics::multiversion;

/// Lines of a view (rows of a, columns of b) that a tile takes.
pub(crate) const LINES: usize = 16;

/// Elements of a line, which a product sums over, that a tile takes.
pub(crate) const STEPS: usize = 2 * PAIRS;

/// A tile's unit is the pair of neighbouring steps.
const PAIRS: usize = 16;

/// 16 lines by 32 steps of bf16, as pairs of steps: the even step in the lower half.
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

multiversion! {
    /// Packs a view of up to 16 lines into as many tiles as its steps take. Returns whether every value is a bf16
    /// number; if not, the tiles are of no use.
    ///
    /// The values are asked, not their format, since what counts as a value may hold a folded scale, or be a
    /// gradient rounded to some other type: whatever the recipe, f32 numbers whose lower halves are zero are bf16.
    /// fp16 and tf32 have too many bits, and so do most NaN with a payload.
    fn pack(tiles: &mut [Tile], side: Side, view: Mat<'_>) -> bool {
        let mut bits = 0;
        for (index, tile) in tiles.iter_mut().enumerate() {
            let part = view.window([0, index * STEPS], [LINES, STEPS]);
            // Read along memory, whichever way it runs; turn round what comes out the wrong way.
            let by_line = part.rows_are_contiguous();
            let pairs = if by_line { lines_by_pairs(part, &mut bits) } else { pairs_by_lines(part, &mut bits) };
            tile.0 = if by_line == (side == Side::Left) { pairs } else { transposed(&pairs) };
        }
        bits & 0xffff == 0
    }
}

/// The pair of an even step and the next. All their bits are collected in `seen`.
#[inline(always)]
fn pair(even: f32, odd: f32, seen: &mut u32) -> u32 {
    let (even, odd) = (even.to_bits(), odd.to_bits());
    *seen |= even | odd;
    even >> 16 | odd & 0xffff_0000
}

#[inline(always)]
fn lines_by_pairs(part: Mat<'_>, seen: &mut u32) -> [[u32; PAIRS]; LINES] {
    let mut pairs = [[0; PAIRS]; LINES];
    for (line, pairs) in pairs.iter_mut().enumerate() {
        let steps: [f32; STEPS] = part.padded_row(line);
        for (index, to) in pairs.iter_mut().enumerate() {
            *to = pair(steps[2 * index], steps[2 * index + 1], seen);
        }
    }
    pairs
}

#[inline(always)]
fn pairs_by_lines(part: Mat<'_>, seen: &mut u32) -> [[u32; LINES]; PAIRS] {
    let mut pairs = [[0; LINES]; PAIRS];
    for (index, pairs) in pairs.iter_mut().enumerate() {
        let even: [f32; LINES] = part.t().padded_row(2 * index);
        let odd: [f32; LINES] = part.t().padded_row(2 * index + 1);
        for (line, to) in pairs.iter_mut().enumerate() {
            *to = pair(even[line], odd[line], seen);
        }
    }
    pairs
}

#[inline(always)]
fn transposed(pairs: &[[u32; 16]; 16]) -> [[u32; 16]; 16] {
    let mut result = [[0; 16]; 16];
    for row in (0..16).step_by(SIDE) {
        for col in (0..16).step_by(SIDE) {
            // Bits that are moved, whatever number they would be.
            let square = turned(std::array::from_fn(|i| {
                std::array::from_fn(|j| f32::from_bits(pairs[row + i][col + j]))
            }));
            for (result, square) in result[col..].iter_mut().zip(square) {
                result[row..][..SIDE].copy_from_slice(&square.map(f32::to_bits));
            }
        }
    }
    result
}
