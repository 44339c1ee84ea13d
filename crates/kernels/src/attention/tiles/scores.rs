//! From scores to operands, block by block.

use crate::bf16_matmul::{BLOCK, LINES, Sums, Tile, pair_of};
use crate::math::exp_or_zero;
use crate::round::to_bf16;
use crate::simd::combine;

/// Numbers of neighbouring columns.
type Lanes = [f32; LINES];

/// Both halves of a row of a block, but something else for what is hidden from that row in the last block.
#[inline(always)]
fn visible(mut halves: [Lanes; 2], row: usize, is_last: bool, hidden: f32) -> [Lanes; 2] {
    if is_last {
        for (col, x) in halves.as_flattened_mut().iter_mut().enumerate() {
            // A mask: of a choice the compiler makes a branch a lane.
            let is_hidden = ((row as i32 - col as i32) >> 31) as u32;
            *x = f32::from_bits(x.to_bits() & !is_hidden | hidden.to_bits() & is_hidden);
        }
    }
    halves
}

/// Pairs of numbers rounded to bf16.
#[inline(always)]
fn rounded_pairs(early: &Lanes, late: &Lanes) -> [u32; LINES] {
    let mut halves = [*early, *late];
    for x in halves.as_flattened_mut() {
        *x = to_bf16(*x);
    }
    pairs(&halves)
}

#[inline(always)]
fn pairs([early, late]: &[Lanes; 2]) -> [u32; LINES] {
    let mut pairs = [0; LINES];
    for lane in 0..LINES {
        pairs[lane] = pair_of(early[lane], late[lane]);
    }
    pairs
}

crate::multiversion! {
    /// From scores of a block of rows against all keys up to its last row to operands e^(scale score - the row's largest), zero
    /// for the future; also gives their sums, and adds the logs of the sums of e^(scale score).
    pub(super) fn exp_rows(
        scores: &mut [Sums],
        scale: f32,
        tiles: &mut [Tile],
        sums: &mut [f32; BLOCK],
        log_sum_exp: &mut Vec<f32>,
    ) {
        let last = scores.len() - 1;
        for (row, of_row) in sums.iter_mut().enumerate() {
            let (strip, line) = (row / LINES, row % LINES);
            let mut largest = [f32::NEG_INFINITY; LINES];
            for (block, scores) in scores.iter_mut().enumerate() {
                let mut scaled = scores.row(row);
                for x in scaled.as_flattened_mut() {
                    *x *= scale;
                }
                let seen = visible(scaled, row, block == last, f32::NEG_INFINITY);
                for (half, lanes) in seen.into_iter().enumerate() {
                    for lane in 0..LINES {
                        largest[lane] = if lanes[lane] > largest[lane] { lanes[lane] } else { largest[lane] };
                    }
                    scores.0[strip][half][line] = lanes;
                }
            }
            let largest = combine(largest, |a, b| if b > a { b } else { a });
            let mut sum = [0.0; LINES];
            for (block, scores) in scores.iter().enumerate() {
                let mut probs = scores.row(row);
                for x in probs.as_flattened_mut() {
                    *x = exp_or_zero(*x - largest);
                }
                for lane in 0..LINES {
                    sum[lane] += probs[0][lane] + probs[1][lane];
                }
                tiles[strip * (last + 1) + block].0[line] = rounded_pairs(&probs[0], &probs[1]);
            }
            *of_row = combine(sum, |a, b| a + b);
            log_sum_exp.push(largest + of_row.ln());
        }
    }

    /// From scores of a block of rows to probabilities p = e^(scale score - shift), zero for the future. Returns Σ p dp of the rows.
    pub(super) fn probabilities(scores: &mut [Sums], d_probs: &[Sums], scale: f32, shifts: &[f32; BLOCK]) -> [f32; BLOCK] {
        let last = scores.len() - 1;
        let mut deltas = [0.0; BLOCK];
        for row in 0..BLOCK {
            let mut delta = [0.0; LINES];
            for (block, (scores, d_probs)) in scores.iter_mut().zip(d_probs).enumerate() {
                let mut probs = scores.row(row);
                for x in probs.as_flattened_mut() {
                    *x = exp_or_zero(*x * scale - shifts[row]);
                }
                let probs = visible(probs, row, block == last, 0.0);
                let d_probs = d_probs.row(row);
                for lane in 0..LINES {
                    delta[lane] += probs[0][lane] * d_probs[0][lane] + probs[1][lane] * d_probs[1][lane];
                }
                scores.0[row / LINES][0][row % LINES] = probs[0];
                scores.0[row / LINES][1][row % LINES] = probs[1];
            }
            deltas[row] = combine(delta, |a, b| a + b);
        }
        deltas
    }

    /// From probabilities p and dp to operands p and ds = p (dp - delta): with keys as lines, or with queries.
    pub(super) fn operands(
        probs: &Sums,
        d_probs: &Sums,
        deltas: &[f32; BLOCK],
        d_scores: [&mut Tile; 2],
        columns: [[&mut Tile; 2]; 2],
    ) {
        let [probs_t, d_scores_t] = columns;
        for line in 0..LINES {
            // Queries that are a pair where they are steps.
            let rows = [line, line + LINES];
            let probs = [probs.row(rows[0]), probs.row(rows[1])];
            let mut of_scores = [d_probs.row(rows[0]), d_probs.row(rows[1])];
            for (strip, of_scores) in of_scores.iter_mut().enumerate() {
                for (half, of_scores) in of_scores.iter_mut().enumerate() {
                    for lane in 0..LINES {
                        of_scores[lane] = probs[strip][half][lane] * (of_scores[lane] - deltas[rows[strip]]);
                    }
                }
            }
            for half in 0..2 {
                probs_t[half].0[line] = rounded_pairs(&probs[0][half], &probs[1][half]);
                d_scores_t[half].0[line] = rounded_pairs(&of_scores[0][half], &of_scores[1][half]);
                d_scores[half].0[line] = rounded_pairs(&of_scores[half][0], &of_scores[half][1]);
            }
        }
    }
}
