//! Causal attention of a head on tiles of bf16, for queries, keys, values and gradients that bf16 holds.
//!
//! As in [`blocks`](super::blocks), but what scores become between two products stays in the blocks in which tiles leave it, and
//! becomes an operand lane by lane: dVᵀ = Gᵀ P and dKᵀ = Qᵀ dS have it on the right, where nothing is to be transposed
//! but the results.
//!
//! Probabilities and the gradients of scores are rounded to bf16 where they are multiplied, and there alone.

use super::blocks::Saved;
use crate::bf16_matmul::{
    BLOCK, LINES, Parts, STEPS, Side, Start, Sums, Tile, TileUnit, Tiles, pack_strips, pair_of, to_write,
    whole_row,
};
use crate::math::exp_or_zero;
use crate::matmul::{Mat, MatMut};
use crate::round::to_bf16;
use crate::simd::{combine, transposed};
use std::ops::Range;

const _: () = assert!(BLOCK == STEPS, "a block of queries is a tile of steps");

/// Numbers of neighbouring columns.
type Lanes = [f32; LINES];

/// An operand in strips, an even number of them.
#[derive(Default)]
struct Operand {
    tiles: Vec<Tile>,
    /// Tiles in a strip.
    steps: usize,
}

impl Operand {
    /// Of a view, as lines by steps, whether bf16 holds it.
    fn pack(&mut self, side: Side, view: Mat<'_>) -> bool {
        // SAFETY: the packers write tiles.
        let tiles = unsafe { to_write(self.reserve([view.rows, view.cols])) };
        pack_strips(tiles, side, Parts::One, view)
    }

    /// Room for so many lines and steps.
    fn reserve(&mut self, [lines, steps]: [usize; 2]) -> &mut [Tile] {
        self.steps = steps.div_ceil(STEPS);
        let count = lines.div_ceil(BLOCK) * 2 * self.steps;
        if self.tiles.len() < count {
            self.tiles.resize(count, Tile::ZERO);
        }
        &mut self.tiles[..count]
    }

    /// Some tiles of the two strips of a block.
    fn part(&self, block: usize, steps: Range<usize>) -> [&[Tile]; 2] {
        [0, 1].map(|strip| &self.tiles[(2 * block + strip) * self.steps..][steps.clone()])
    }

    /// The two strips of a block.
    fn block(&self, block: usize) -> [&[Tile]; 2] {
        self.part(block, 0..self.steps)
    }
}

/// Memory that heads take in turn.
#[derive(Default)]
pub(super) struct Scratch {
    /// Over features.
    queries: Operand,
    keys: Operand,
    values: Operand,
    grads: Operand,
    /// Over positions.
    queries_t: Operand,
    keys_t: Operand,
    values_t: Operand,
    grads_t: Operand,
    /// Of a block of queries: over keys.
    probs: Operand,
    d_scores: Operand,
    /// Of a block of queries and each of keys: over queries.
    probs_t: Operand,
    d_scores_t: Operand,
    scores: Vec<Sums>,
    d_probs: Vec<Sums>,
    /// Of keys and values: features by positions, each in blocks.
    gradients: [Vec<Sums>; 2],
}

/// One head forward, if bf16 holds it; returns the log of the softmax's denominator of every row.
pub(super) fn forward_head(
    unit: impl TileUnit,
    [q, k, v]: [Mat<'_>; 3],
    scale: f32,
    scratch: &mut Scratch,
    out: &mut MatMut<'_>,
) -> Option<Vec<f32>> {
    let Scratch { queries, keys, values_t, probs, scores, .. } = scratch;
    if !(queries.pack(Side::Left, q) && keys.pack(Side::Right, k) && values_t.pack(Side::Right, v.t())) {
        return None;
    }
    let [t, d] = [q.rows, q.cols];
    let blocks = t.div_ceil(BLOCK);
    scores.resize(blocks, Sums::ZERO);
    let mut unit = unit.configure();
    let mut log_sum_exp = Vec::with_capacity(blocks * BLOCK);
    let mut sums = Sums::ZERO;
    for block in 0..blocks {
        let scores = &mut scores[..=block];
        for (of_keys, scores) in scores.iter_mut().enumerate() {
            unit.multiply(scores, Start::Zero, queries.block(block), keys.block(of_keys));
        }
        let seen = 0..scores.len();
        let mut denominators = [0.0; BLOCK];
        let tiles = probs.reserve([BLOCK, seen.len() * STEPS]);
        exp_rows(scores, scale, tiles, &mut denominators, &mut log_sum_exp);
        for features in 0..d.div_ceil(BLOCK) {
            unit.multiply(&mut sums, Start::Zero, probs.block(0), values_t.part(features, seen.clone()));
            let mut out = out.window([block * BLOCK, features * BLOCK], [BLOCK; 2]);
            write(&sums, &denominators.map(|sum| 1.0 / sum), &mut out);
        }
    }
    log_sum_exp.truncate(t);
    Some(log_sum_exp)
}

/// One head backward, whether bf16 holds it. The formulas are those of [`blocks`](super::blocks).
pub(super) fn backward_head(
    unit: impl TileUnit,
    saved: &Saved<'_>,
    scale: f32,
    scratch: &mut Scratch,
    [dq, dk, dv]: &mut [MatMut<'_>; 3],
) -> bool {
    let Saved { q, k, v, log_sum_exp, grad } = *saved;
    let Scratch { queries, keys, values, grads, queries_t, keys_t, grads_t, .. } = scratch;
    let exact = queries.pack(Side::Left, q)
        && keys.pack(Side::Right, k)
        && values.pack(Side::Right, v)
        && grads.pack(Side::Left, grad)
        && queries_t.pack(Side::Left, q.t())
        && keys_t.pack(Side::Right, k.t())
        && grads_t.pack(Side::Left, grad.t());
    if !exact {
        return false;
    }
    let Scratch { d_scores, probs_t, d_scores_t, scores, d_probs, gradients, .. } = scratch;
    let [t, d] = [q.rows, q.cols];
    let [blocks, of_features] = [t, d].map(|len| len.div_ceil(BLOCK));
    scores.resize(blocks, Sums::ZERO);
    d_probs.resize(blocks, Sums::ZERO);
    gradients.iter_mut().for_each(|sums| sums.resize(blocks * of_features, Sums::ZERO));
    let mut unit = unit.configure();
    let mut sums = Sums::ZERO;
    for block in 0..blocks {
        let seen = 0..block + 1;
        for of_keys in seen.clone() {
            unit.multiply(&mut scores[of_keys], Start::Zero, queries.block(block), keys.block(of_keys));
            unit.multiply(&mut d_probs[of_keys], Start::Zero, grads.block(block), values.block(of_keys));
        }
        let start = block * BLOCK;
        let mut shifts = [0.0; BLOCK];
        let rows = BLOCK.min(t - start);
        shifts[..rows].copy_from_slice(&log_sum_exp[start..][..rows]);
        let rows = d_scores.reserve([BLOCK, seen.len() * STEPS]);
        let columns = [&mut *probs_t, &mut *d_scores_t].map(|x| x.reserve([seen.len() * BLOCK, STEPS]));
        let [of_probs, of_scores] = columns;
        let deltas = probabilities(&mut scores[seen.clone()], &d_probs[seen.clone()], scale, &shifts);
        for of_keys in seen.clone() {
            let rows = tiles_of(rows, of_keys, seen.len());
            let columns = [&mut *of_probs, &mut *of_scores].map(|tiles| tiles_of(tiles, 2 * of_keys, 1));
            operands(&scores[of_keys], &d_probs[of_keys], &deltas, rows, columns);
        }
        for features in 0..of_features {
            unit.multiply(&mut sums, Start::Zero, d_scores.block(0), keys_t.part(features, seen.clone()));
            let mut dq = dq.window([start, features * BLOCK], [BLOCK; 2]);
            write(&sums, &[scale; BLOCK], &mut dq);
            let step = block..block + 1;
            for of_keys in seen.clone() {
                let start = if of_keys == block { Start::Zero } else { Start::Sums };
                let left = [&*queries_t, &*grads_t].map(|left| left.part(features, step.clone()));
                for ((sums, left), right) in gradients.iter_mut().zip(left).zip([&*d_scores_t, &*probs_t]) {
                    let sums = &mut sums[features * blocks + of_keys];
                    unit.multiply(sums, start, left, right.block(of_keys));
                }
            }
        }
    }
    for ((gradient, sums), factor) in [dk, dv].into_iter().zip(gradients).zip([scale, 1.0]) {
        for (index, sums) in sums.iter().enumerate() {
            let place = [index % blocks * BLOCK, index / blocks * BLOCK];
            write(&turned(sums), &[factor; BLOCK], &mut gradient.window(place, [BLOCK; 2]));
        }
    }
    true
}

/// A tile and the one so many further on.
fn tiles_of(tiles: &mut [Tile], first: usize, distance: usize) -> [&mut Tile; 2] {
    let (before, from) = tiles.split_at_mut(first + distance);
    [&mut before[first], &mut from[0]]
}

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
    fn exp_rows(
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
    fn probabilities(scores: &mut [Sums], d_probs: &[Sums], scale: f32, shifts: &[f32; BLOCK]) -> [f32; BLOCK] {
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
    fn operands(
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

    /// Writes a block, its rows multiplied by factors, as far as c goes.
    fn write(sums: &Sums, factors: &[f32; BLOCK], c: &mut MatMut<'_>) {
        for (row, factor) in factors.iter().enumerate().take(c.shape()[0]) {
            let (mut sums, c) = (sums.row(row), c.row(row));
            for x in sums.as_flattened_mut() {
                *x *= factor;
            }
            match whole_row(c) {
                Some(c) => *c = sums,
                None => c.copy_from_slice(&sums.as_flattened()[..c.len()]),
            }
        }
    }

    /// The transpose.
    fn turned(sums: &Sums) -> Sums {
        let [[a, b], [c, d]] = &sums.0;
        let same = |x| x;
        Sums([
            [transposed(a, same, same), transposed(c, same, same)],
            [transposed(b, same, same), transposed(d, same, same)],
        ])
    }
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;
