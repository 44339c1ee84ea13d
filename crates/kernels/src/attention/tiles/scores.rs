//! From scores to operands, block by block.
//!
//! What belongs to a row stands once for each of its lanes, so that loops go over all of a tile at a time: of loops over rows of 16
//! the compiler would make gathers, or four lanes at a time.

use crate::bf16_matmul::{BLOCK, LINES, Sums, Tile, pair_of};
use crate::math::exp_or_zero;
use crate::round::to_bf16;
use crate::simd::combine;

/// A number for each lane of each row of a block.
pub(super) type Rows = [[f32; LINES]; BLOCK];

/// Ones in place of the bits of what the rows of a block on the diagonal see, as [`Sums`] have them.
static SEEN: [[[[u32; LINES]; LINES]; 2]; 2] = {
    let mut seen = [[[[0; LINES]; LINES]; 2]; 2];
    let mut place = 0;
    while place < BLOCK * BLOCK {
        let (row, col) = (place / BLOCK, place % BLOCK);
        if col <= row {
            seen[row / LINES][col / LINES][row % LINES][col % LINES] = !0;
        }
        place += 1;
    }
    seen
};

/// Numbers of rows for each of their lanes.
pub(super) fn spread(rows: &[f32; BLOCK]) -> Rows {
    rows.map(|row| [row; LINES])
}

/// x, or what is hidden. (A mask: of a choice the compiler makes a branch a lane.)
#[inline(always)]
fn visible(x: f32, seen: u32, hidden: f32) -> f32 {
    f32::from_bits(x.to_bits() & seen | hidden.to_bits() & !seen)
}

/// A pair of numbers rounded to bf16.
#[inline(always)]
fn rounded_pair(early: f32, late: f32) -> u32 {
    pair_of(to_bf16(early), to_bf16(late))
}

/// From scores of a block of rows against all keys up to its last row to operands e^(scale score - the row's largest), zero
/// for the future; also gives their sums, and adds the logs of the sums of e^(scale score).
pub(super) fn exp_rows(
    scores: &[Sums],
    scale: f32,
    tiles: &mut [Tile],
    sums: &mut [f32; BLOCK],
    log_sum_exp: &mut Vec<f32>,
) {
    let last = scores.len() - 1;
    let mut largest = [[f32::NEG_INFINITY; LINES]; BLOCK];
    for (block, scores) in scores.iter().enumerate() {
        match block == last {
            true => look_at_diagonal(scores, scale, &mut largest),
            false => look_at(scores, scale, &mut largest),
        }
    }
    let largest = largest.map(|lanes| combine(lanes, |a, b| if b > a { b } else { a }));
    let shifts = spread(&largest);
    let mut lanes = [[0.0; LINES]; BLOCK];
    for (block, scores) in scores.iter().enumerate() {
        let operands = super::tiles_of(tiles, block, last + 1);
        match block == last {
            true => exp_diagonal(scores, scale, &shifts, operands, &mut lanes),
            false => exp_block(scores, scale, &shifts, operands, &mut lanes),
        }
    }
    *sums = lanes.map(|lanes| combine(lanes, |a, b| a + b));
    log_sum_exp.extend(largest.iter().zip(sums).map(|(largest, sum)| largest + sum.ln()));
}

/// From scores of a block of rows to probabilities p = e^(scale score - shift), zero for the future. Returns Σ p dp of the rows.
pub(super) fn probabilities(
    scores: &mut [Sums],
    d_probs: &[Sums],
    scale: f32,
    shifts: &[f32; BLOCK],
) -> [f32; BLOCK] {
    let last = scores.len() - 1;
    let shifts = spread(shifts);
    let mut deltas = [[0.0; LINES]; BLOCK];
    for (block, (scores, d_probs)) in scores.iter_mut().zip(d_probs).enumerate() {
        match block == last {
            true => exp_diagonal_again(scores, d_probs, scale, &shifts, &mut deltas),
            false => exp_again(scores, d_probs, scale, &shifts, &mut deltas),
        }
    }
    deltas.map(|lanes| combine(lanes, |a, b| a + b))
}

/// From probabilities p and dp to operands p and ds = p (dp - delta): with keys as lines, or with queries.
pub(super) fn operands(
    probs: &Sums,
    d_probs: &Sums,
    deltas: &[f32; BLOCK],
    d_scores: [&mut Tile; 2],
    columns: [[&mut Tile; 2]; 2],
) {
    let mut gradients = Sums::ZERO;
    score_gradients(probs, d_probs, &spread(deltas), &mut gradients);
    let [probs_t, d_scores_t] = columns;
    for (strip, tile) in d_scores.into_iter().enumerate() {
        let [early, late] = &gradients.0[strip];
        round_pairs(early, late, tile);
    }
    for (values, tiles) in [(probs, probs_t), (&gradients, d_scores_t)] {
        for (half, tile) in tiles.into_iter().enumerate() {
            // Queries that are a pair where they are steps.
            round_pairs(&values.0[0][half], &values.0[1][half], tile);
        }
    }
}

/// The rows of a strip.
#[inline(always)]
fn of_strip(rows: &Rows, strip: usize) -> &[f32] {
    rows[strip * LINES..][..LINES].as_flattened()
}

/// As [`of_strip`], to be changed.
#[inline(always)]
fn of_strip_mut(rows: &mut Rows, strip: usize) -> &mut [f32] {
    rows[strip * LINES..][..LINES].as_flattened_mut()
}

crate::multiversion! {
    /// Remembers the largest scores of rows.
    fn look_at(scores: &Sums, scale: f32, largest: &mut Rows) {
        for (strip, halves) in scores.0.iter().enumerate() {
            let [early, late] = halves;
            let scores = early.as_flattened().iter().zip(late.as_flattened());
            for ((early, late), largest) in scores.zip(of_strip_mut(largest, strip)) {
                let [early, late] = [early * scale, late * scale];
                let larger = if early > *largest { early } else { *largest };
                *largest = if late > larger { late } else { larger };
            }
        }
    }

    /// The same of what a block on the diagonal sees.
    fn look_at_diagonal(scores: &Sums, scale: f32, largest: &mut Rows) {
        for ((strip, halves), seen) in scores.0.iter().enumerate().zip(&SEEN) {
            for (scores, seen) in halves.iter().zip(seen) {
                let seen = scores.as_flattened().iter().zip(seen.as_flattened());
                for ((score, seen), largest) in seen.zip(of_strip_mut(largest, strip)) {
                    let score = visible(score * scale, *seen, f32::NEG_INFINITY);
                    *largest = if score > *largest { score } else { *largest };
                }
            }
        }
    }

    /// Exponentials as operands, and their sums.
    fn exp_block(scores: &Sums, scale: f32, shifts: &Rows, tiles: [&mut Tile; 2], sums: &mut Rows) {
        for ((strip, halves), tile) in scores.0.iter().enumerate().zip(tiles) {
            let scores = halves[0].as_flattened().iter().zip(halves[1].as_flattened());
            let of_rows = of_strip(shifts, strip).iter().zip(of_strip_mut(sums, strip));
            let pairs = tile.0.as_flattened_mut();
            for (((early, late), (shift, sum)), pair) in scores.zip(of_rows).zip(pairs) {
                let early = exp_or_zero(early * scale - shift);
                let late = exp_or_zero(late * scale - shift);
                *sum += early + late;
                *pair = rounded_pair(early, late);
            }
        }
    }

    /// The same of what a block on the diagonal sees.
    fn exp_diagonal(scores: &Sums, scale: f32, shifts: &Rows, tiles: [&mut Tile; 2], sums: &mut Rows) {
        for (((strip, halves), seen), tile) in scores.0.iter().enumerate().zip(&SEEN).zip(tiles) {
            let scores = halves[0].as_flattened().iter().zip(halves[1].as_flattened());
            let seen = seen[0].as_flattened().iter().zip(seen[1].as_flattened());
            let of_rows = of_strip(shifts, strip).iter().zip(of_strip_mut(sums, strip));
            let pairs = tile.0.as_flattened_mut();
            for ((((early, late), seen), (shift, sum)), pair) in scores.zip(seen).zip(of_rows).zip(pairs) {
                let early = exp_or_zero(visible(early * scale, *seen.0, f32::NEG_INFINITY) - shift);
                let late = exp_or_zero(visible(late * scale, *seen.1, f32::NEG_INFINITY) - shift);
                *sum += early + late;
                *pair = rounded_pair(early, late);
            }
        }
    }

    /// Probabilities p in place of scores; deltas ← deltas + p dp.
    fn exp_again(scores: &mut Sums, d_probs: &Sums, scale: f32, shifts: &Rows, deltas: &mut Rows) {
        for ((strip, halves), d_probs) in scores.0.iter_mut().enumerate().zip(&d_probs.0) {
            let [early, late] = halves;
            let probs = early.as_flattened_mut().iter_mut().zip(late.as_flattened_mut());
            let d_probs = d_probs[0].as_flattened().iter().zip(d_probs[1].as_flattened());
            let of_rows = of_strip(shifts, strip).iter().zip(of_strip_mut(deltas, strip));
            for (((early, late), d_probs), (shift, delta)) in probs.zip(d_probs).zip(of_rows) {
                *early = exp_or_zero(*early * scale - shift);
                *late = exp_or_zero(*late * scale - shift);
                *delta += *early * d_probs.0 + *late * d_probs.1;
            }
        }
    }

    /// The same of what a block on the diagonal sees; zeros for the rest.
    fn exp_diagonal_again(scores: &mut Sums, d_probs: &Sums, scale: f32, shifts: &Rows, deltas: &mut Rows) {
        for (((strip, halves), seen), d_probs) in scores.0.iter_mut().enumerate().zip(&SEEN).zip(&d_probs.0) {
            let [early, late] = halves;
            let probs = early.as_flattened_mut().iter_mut().zip(late.as_flattened_mut());
            let seen = seen[0].as_flattened().iter().zip(seen[1].as_flattened());
            let d_probs = d_probs[0].as_flattened().iter().zip(d_probs[1].as_flattened());
            let of_rows = of_strip(shifts, strip).iter().zip(of_strip_mut(deltas, strip));
            for ((((early, late), seen), d_probs), (shift, delta)) in probs.zip(seen).zip(d_probs).zip(of_rows) {
                *early = visible(exp_or_zero(*early * scale - shift), *seen.0, 0.0);
                *late = visible(exp_or_zero(*late * scale - shift), *seen.1, 0.0);
                *delta += *early * d_probs.0 + *late * d_probs.1;
            }
        }
    }

    /// ds = p (dp - delta).
    fn score_gradients(probs: &Sums, d_probs: &Sums, deltas: &Rows, gradients: &mut Sums) {
        for (strip, gradients) in gradients.0.iter_mut().enumerate() {
            for (half, gradients) in gradients.iter_mut().enumerate() {
                let inputs = probs.0[strip][half].as_flattened().iter().zip(d_probs.0[strip][half].as_flattened());
                let gradients = gradients.as_flattened_mut().iter_mut();
                for (((prob, d_prob), delta), gradient) in inputs.zip(of_strip(deltas, strip)).zip(gradients) {
                    *gradient = prob * (d_prob - delta);
                }
            }
        }
    }

    /// A tile of pairs, rounded to bf16.
    fn round_pairs(early: &[[f32; LINES]; LINES], late: &[[f32; LINES]; LINES], tile: &mut Tile) {
        let numbers = early.as_flattened().iter().zip(late.as_flattened());
        for ((early, late), pair) in numbers.zip(tile.0.as_flattened_mut()) {
            *pair = rounded_pair(*early, *late);
        }
    }
}
