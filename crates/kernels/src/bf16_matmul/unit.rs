//! What multiplies tiles.

use super::pack::Tile;

/// Sums of a 2 x 2 block of tiles: \[tile row\]\[tile column\]\[row\]\[column\].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [[[[f32; 16]; 16]; 2]; 2]);

impl Sums {
    pub(crate) const ZERO: Self = Self([[[[0.0; 16]; 16]; 2]; 2]);

    /// Both halves of a row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> [[f32; 16]; 2] {
        let tiles = &self.0[row / 16];
        [tiles[0][row % 16], tiles[1][row % 16]]
    }
}

/// Something that multiplies tiles of bf16 and sums in f32.
///
/// How it sums is fixed by TDPBF16PS (Intel SDM, volume 2B). Within a tile of 32 steps the earlier and the later steps of pairs have a
/// sum each, of products that are added with one rounding (fused); then the two sums are added, and the result to what
/// earlier tiles came to. Rounding is to nearest even; subnormal operands count as zero and subnormal results become
/// zero, so that a product loses less than 2^-126 times its other factor for each operand below 2^-126, and less than
/// 2^-126 for every addition. NaN stays NaN; 0 times infinity is one, also for a subnormal that counts as 0.
pub(crate) trait TileUnit: Copy + Sync {
    /// The unit as the calling thread has it.
    type Tiles: Tiles;

    /// Makes the unit ready on the calling thread, until the result is dropped.
    fn configure(self) -> Self::Tiles;
}

/// What is added to first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Zero.
    Zero,
    /// The sums that are there.
    Sums,
}

/// A unit that is ready.
pub(crate) trait Tiles {
    /// sums\[i\]\[j\] ← start + Σ a\[i\]\[step\] b\[j\]\[step\], over tiles of packed left and right operands.
    ///
    /// Zeroing, loading, multiplying and storing are one call, since nothing promises that tile registers keep
    /// their contents between two pieces of assembly.
    ///
    /// # Panics
    /// When there are no tiles, or not the same number in each.
    fn multiply(&mut self, sums: &mut Sums, start: Start, a: [&[Tile]; 2], b: [&[Tile]; 2]);

    /// The same for elements of two parts: each step has a tile of both, and four products: of a's larger part and b's smaller
    /// one, of both smaller ones, of a's smaller and b's larger, of both larger ones.
    ///
    /// # Panics
    /// When there are no tiles, or not the same number in each, or an odd one.
    fn multiply_split(&mut self, sums: &mut Sums, start: Start, a: [&[Tile]; 2], b: [&[Tile]; 2]);
}

/// The products of a step of two parts, as the numbers of a's part and of b's. From one to the next only one of them changes.
#[cfg(test)]
const OF_TWO_PARTS: [[usize; 2]; 4] = [[0, 1], [1, 1], [1, 0], [0, 0]];

/// The number of tiles in each operand of [`Tiles::multiply`].
pub(crate) fn common_length(a: [&[Tile]; 2], b: [&[Tile]; 2]) -> usize {
    let length = a[0].len();
    assert!(length > 0 && [a[1], b[0], b[1]].iter().all(|tiles| tiles.len() == length));
    length
}

/// The number of steps in each operand of [`Tiles::multiply_split`].
pub(crate) fn common_steps(a: [&[Tile]; 2], b: [&[Tile]; 2]) -> usize {
    let length = common_length(a, b);
    assert!(length.is_multiple_of(2));
    length / 2
}

/// The reference: the sums of TDPBF16PS in plain Rust.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct Plain;

#[cfg(test)]
impl TileUnit for Plain {
    type Tiles = Self;

    fn configure(self) -> Self {
        self
    }
}

#[cfg(test)]
impl Tiles for Plain {
    fn multiply(&mut self, sums: &mut Sums, start: Start, a: [&[Tile]; 2], b: [&[Tile]; 2]) {
        common_length(a, b);
        for (sums, a) in sums.0.iter_mut().zip(a) {
            for (sums, b) in sums.iter_mut().zip(b) {
                if start == Start::Zero {
                    *sums = [[0.0; 16]; 16];
                }
                a.iter().zip(b).for_each(|(a, b)| add_product(sums, a, b));
            }
        }
    }

    fn multiply_split(&mut self, sums: &mut Sums, mut start: Start, a: [&[Tile]; 2], b: [&[Tile]; 2]) {
        for step in 0..common_steps(a, b) {
            for [of_a, of_b] in OF_TWO_PARTS {
                let a = a.map(|tiles| &tiles[2 * step + of_a..][..1]);
                let b = b.map(|tiles| &tiles[2 * step + of_b..][..1]);
                self.multiply(sums, start, a, b);
                start = Start::Sums;
            }
        }
    }
}

#[cfg(test)]
fn add_product(sums: &mut [[f32; 16]; 16], a: &Tile, b: &Tile) {
    let early = |pair: u32| flushed(f32::from_bits(pair << 16));
    let late = |pair: u32| flushed(f32::from_bits(pair & 0xffff_0000));
    for (sums, a) in sums.iter_mut().zip(&a.0) {
        for (column, sum) in sums.iter_mut().enumerate() {
            let [mut of_early, mut of_late] = [0f32; 2];
            for (&a, b) in a.iter().zip(&b.0) {
                of_early = flushed(early(a).mul_add(early(b[column]), of_early));
                of_late = flushed(late(a).mul_add(late(b[column]), of_late));
            }
            *sum = flushed(*sum + flushed(of_early + of_late));
        }
    }
}

/// Zero in place of a subnormal number. (Hardware also flushes what rounds up to 2^-126 only by being subnormal: half a
/// step below it the two may differ.)
#[cfg(test)]
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}
