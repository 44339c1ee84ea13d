//! Cross-entropy of logits that are tiles of bf16, 16 rows in a strip, and never lie in memory as rows.
//!
//! The numbers are those of [`loss_and_gradient`](super::loss_and_gradient), bit for bit. Loops go over all of a tile at a time, so
//! what belongs to a row stands once for each of its lanes.

// Only x86-64 has a unit for tiles.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

use crate::bf16_matmul::{LINES, Sums, Tile, pair_of};
use crate::math::exp_or_zero;
use crate::round::to_bf16;
use crate::simd::combine;

/// A number for each lane of each row of a strip.
pub(crate) type OfStrip = [[f32; LINES]; LINES];

/// A strip of logits of all classes, what is beyond the last one infinitely small.
pub(crate) struct Strip<'a> {
    /// As left operand.
    pub(crate) tiles: &'a mut [Tile],
    /// Of every row, in lanes of classes.
    pub(crate) largest: &'a OfStrip,
    /// The class of each row.
    pub(crate) targets: &'a [u32],
}

impl Strip<'_> {
    /// The losses of the rows, and logits ← `factor` (softmax(logits) - onehot(target)), rounded to bf16. Also how many of these
    /// are not finite.
    pub(crate) fn losses_and_gradient(self, factor: f32) -> ([f32; LINES], u64) {
        let Self { tiles, largest, targets } = self;
        let largest = largest.map(|lanes| combine(lanes, |a, b| if b > a { b } else { a }));
        let shifts = spread(&largest);
        let mut sums = [[0.0; LINES]; LINES];
        for tile in &*tiles {
            add_exponentials(tile, shifts.as_flattened(), sums.as_flattened_mut());
        }
        let sums = sums.map(|lanes| combine(lanes, |a, b| a + b));
        let factors = sums.map(|sum| factor / sum);
        let of_targets: [f32; LINES] = std::array::from_fn(|row| of_class(tiles, row, targets[row]));
        let spread_factors = spread(&factors);
        let mut is_finite = true;
        for tile in &mut *tiles {
            is_finite &= gradient(tile, shifts.as_flattened(), spread_factors.as_flattened());
        }
        let gradients = of_softmax(&of_targets, &largest, &factors);
        let mut losses = [0.0; LINES];
        for (row, loss) in losses.iter_mut().enumerate() {
            set_class(tiles, row, targets[row], to_bf16(gradients[row] - factor));
            *loss = largest[row] + sums[row].ln() - of_targets[row];
        }
        // What is finite in f32 is so in bf16: it is no larger than the factor.
        let pairs = tiles.iter().flat_map(|tile| tile.0.as_flattened()).filter(|_| !is_finite);
        let strange = |number: u32| u64::from(!f32::from_bits(number).is_finite());
        (losses, pairs.map(|pair| strange(pair << 16) + strange(pair & 0xffff_0000)).sum())
    }
}

/// The number of a class of a row.
fn of_class(tiles: &[Tile], row: usize, class: u32) -> f32 {
    let (tile, col) = place(class);
    let pair = tiles[tile].0[row][col % LINES];
    f32::from_bits(if col < LINES { pair << 16 } else { pair & 0xffff_0000 })
}

/// Writes that number.
fn set_class(tiles: &mut [Tile], row: usize, class: u32, number: f32) {
    let (tile, col) = place(class);
    let pair = &mut tiles[tile].0[row][col % LINES];
    *pair = match col < LINES {
        true => *pair & 0xffff_0000 | number.to_bits() >> 16,
        false => *pair & 0xffff | number.to_bits() & 0xffff_0000,
    };
}

/// The tile of a class, and its column there.
fn place(class: u32) -> (usize, usize) {
    let class = class as usize;
    (class / (2 * LINES), class % (2 * LINES))
}

fn spread(rows: &[f32; LINES]) -> OfStrip {
    rows.map(|row| [row; LINES])
}

crate::multiversion! {
    /// Remembers the largest numbers of the rows of a block.
    pub(crate) fn look_at(block: &Sums, largest: &mut [OfStrip; 2]) {
        for (halves, largest) in block.0.iter().zip(largest) {
            let numbers = halves[0].as_flattened().iter().zip(halves[1].as_flattened());
            for ((early, late), largest) in numbers.zip(largest.as_flattened_mut()) {
                let larger = if *early > *largest { *early } else { *largest };
                *largest = if *late > larger { *late } else { larger };
            }
        }
    }

    /// sums ← sums + e^(x - shift).
    fn add_exponentials(tile: &Tile, shifts: &[f32], sums: &mut [f32]) {
        for ((pair, shift), sum) in tile.0.as_flattened().iter().zip(shifts).zip(sums) {
            let with_early = *sum + exp_or_zero(f32::from_bits(pair << 16) - shift);
            *sum = with_early + exp_or_zero(f32::from_bits(pair & 0xffff_0000) - shift);
        }
    }

    /// x ← factor e^(x - shift), rounded to bf16. Whether all of it is finite.
    fn gradient(tile: &mut Tile, shifts: &[f32], factors: &[f32]) -> bool {
        let mut largest = 0;
        for ((pair, shift), factor) in tile.0.as_flattened_mut().iter_mut().zip(shifts).zip(factors) {
            let early = exp_or_zero(f32::from_bits(*pair << 16) - shift) * factor;
            let late = exp_or_zero(f32::from_bits(*pair & 0xffff_0000) - shift) * factor;
            *pair = pair_of(to_bf16(early), to_bf16(late));
            largest = largest.max((early.to_bits() & 0x7fff_ffff) as i32).max((late.to_bits() & 0x7fff_ffff) as i32);
        }
        largest < f32::INFINITY.to_bits() as i32
    }

    /// factor e^(x - shift), one of each row.
    fn of_softmax(x: &[f32; LINES], shifts: &[f32; LINES], factors: &[f32; LINES]) -> [f32; LINES] {
        let mut y = *x;
        for ((y, shift), factor) in y.iter_mut().zip(shifts).zip(factors) {
            *y = exp_or_zero(*y - shift) * factor;
        }
        y
    }
}
