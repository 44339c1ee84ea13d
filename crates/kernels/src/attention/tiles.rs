//! Causal attention of a head on tiles of bf16, for queries, keys, values and gradients that bf16 holds.
//!
//! As in [`blocks`](super::blocks), but what scores become between two products stays in the blocks in which tiles leave it, and
//! becomes an operand lane by lane: dVᵀ = Gᵀ P and dKᵀ = Qᵀ dS have it on the right, where nothing is to be transposed
//! but the results.
//!
//! Probabilities and the gradients of scores are rounded to bf16 where they are multiplied, and there alone.

mod matrices;
mod packed;
mod scores;

pub(super) use matrices::{backward_head, forward_head};
pub(crate) use packed::{Head, PackedHeads, backward_heads, forward_heads};

use crate::bf16_matmul::{BLOCK, LINES, Lines, Parts, STEPS, Side, Start, Sums, Tile, TileUnit, Tiles};
use crate::bf16_matmul::{pack_strips, to_write, transpose_numbers};
use crate::matmul::Mat;
use scores::{exp_rows, operands, probabilities, spread};

const _: () = assert!(BLOCK == STEPS, "a block of queries is a tile of steps");

/// An operand in strips, an even number of them.
#[derive(Default)]
struct Operand {
    tiles: Vec<Tile>,
    /// Strips.
    strips: usize,
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
        (self.strips, self.steps) = (lines.div_ceil(BLOCK) * 2, steps.div_ceil(STEPS));
        let count = self.strips * self.steps;
        if self.tiles.len() < count {
            self.tiles.resize(count, Tile::ZERO);
        }
        &mut self.tiles[..count]
    }

    fn lines(&self) -> Lines<'_> {
        Lines::new(&self.tiles[..self.strips * self.steps], self.steps)
    }
}

/// Memory that heads take in turn.
#[derive(Default)]
pub(crate) struct Scratch {
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
    between: Between,
}

/// What lies between the products of a head.
#[derive(Default)]
struct Between {
    /// Of a block of queries: over keys.
    probs: Operand,
    d_scores: Operand,
    /// Of a block of queries and each of keys: over queries.
    probs_t: Operand,
    d_scores_t: Operand,
    scores: Vec<Sums>,
    d_probs: Vec<Sums>,
    /// Of a block of positions: features in blocks.
    of_block: Vec<Sums>,
    /// Of keys and values: for each block of positions features by positions, in blocks.
    of_keys_and_values: [Vec<Sums>; 2],
}

/// What the forward pass of a head multiplies: queries, keys and values over positions.
struct Forward<'a> {
    queries: Lines<'a>,
    keys: Lines<'a>,
    values_t: Lines<'a>,
}

/// What the backward pass of a head multiplies, over features and over positions.
struct Backward<'a> {
    queries: Lines<'a>,
    keys: Lines<'a>,
    values: Lines<'a>,
    grads: Lines<'a>,
    queries_t: Lines<'a>,
    keys_t: Lines<'a>,
    grads_t: Lines<'a>,
}

/// What the products of a head are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Queries,
    Keys,
    Values,
}

impl Of {
    pub(crate) const ALL: [Self; 3] = [Self::Queries, Self::Keys, Self::Values];

    /// Whether it turns with its position.
    pub(crate) fn is_rotated(self) -> bool {
        match self {
            Self::Queries | Self::Keys => true,
            Self::Values => false,
        }
    }
}

/// A head of so many positions forward; returns the log of the softmax's denominator of every row. `put` is given blocks of the
/// result, by block of positions and of features.
fn forward(
    unit: impl TileUnit,
    Forward { queries, keys, values_t }: Forward<'_>,
    t: usize,
    scale: f32,
    Between { probs, scores, .. }: &mut Between,
    mut put: impl FnMut([usize; 2], &Sums),
) -> Vec<f32> {
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
        let factors = spread(&denominators.map(|sum| 1.0 / sum));
        for features in 0..values_t.blocks() {
            let values = values_t.steps(seen.clone()).block(features);
            unit.multiply(&mut sums, Start::Zero, probs.lines().block(0), values);
            multiply_rows(&mut sums, &factors);
            put([block, features], &sums);
        }
    }
    log_sum_exp.truncate(t);
    log_sum_exp
}

/// A head backward, with what its forward pass returned. The formulas are those of [`blocks`](super::blocks). `put` is given all
/// features of a block of positions of a gradient.
fn backward(
    unit: impl TileUnit,
    head: Backward<'_>,
    log_sum_exp: &[f32],
    scale: f32,
    between: &mut Between,
    mut put: impl FnMut(Of, usize, &mut [Sums]),
) {
    let Backward { queries, keys, values, grads, queries_t, keys_t, grads_t } = head;
    let Between { d_scores, probs_t, d_scores_t, scores, d_probs, of_block, of_keys_and_values, .. } =
        between;
    let t = log_sum_exp.len();
    let (blocks, of_features) = (t.div_ceil(BLOCK), keys_t.blocks());
    scores.resize(blocks, Sums::ZERO);
    d_probs.resize(blocks, Sums::ZERO);
    of_block.resize(of_features, Sums::ZERO);
    of_keys_and_values.iter_mut().for_each(|sums| sums.resize(blocks * of_features, Sums::ZERO));
    let mut unit = unit.configure();
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
        for (features, sums) in of_block.iter_mut().enumerate() {
            let keys = keys_t.steps(seen.clone()).block(features);
            unit.multiply(sums, Start::Zero, d_scores.lines().block(0), keys);
            multiply(sums, scale);
            let step = block..block + 1;
            let left = [queries_t, grads_t].map(|left| left.steps(step.clone()).block(features));
            for of_keys in seen.clone() {
                let start = if of_keys == block { Start::Zero } else { Start::Sums };
                let right = [&*d_scores_t, &*probs_t].map(|right| right.lines().block(of_keys));
                for ((all, left), right) in of_keys_and_values.iter_mut().zip(left).zip(right) {
                    unit.multiply(&mut all[of_keys * of_features + features], start, left, right);
                }
            }
        }
        put(Of::Queries, block, of_block);
    }
    for ((of, factor), all) in [(Of::Keys, scale), (Of::Values, 1.0)].into_iter().zip(of_keys_and_values) {
        for (block, all) in all.chunks_exact(of_features).enumerate() {
            for (sums, turned) in all.iter().zip(&mut *of_block) {
                turn(sums, turned);
                if factor != 1.0 {
                    multiply(turned, factor);
                }
            }
            put(of, block, of_block);
        }
    }
}

/// A tile and the one so many further on.
fn tiles_of(tiles: &mut [Tile], first: usize, distance: usize) -> [&mut Tile; 2] {
    let (before, from) = tiles.split_at_mut(first + distance);
    [&mut before[first], &mut from[0]]
}

/// The transpose of a block.
fn turn(sums: &Sums, turned: &mut Sums) {
    for row in 0..2 {
        for col in 0..2 {
            transpose_numbers(&sums.0[col][row], &mut turned.0[row][col]);
        }
    }
}

crate::multiversion! {
    /// Multiplies a block.
    fn multiply(sums: &mut Sums, factor: f32) {
        for x in sums.numbers_mut() {
            *x *= factor;
        }
    }

    /// Multiplies rows by factors, one for each lane of each row.
    fn multiply_rows(sums: &mut Sums, factors: &scores::Rows) {
        for (strip, halves) in sums.0.iter_mut().enumerate() {
            let factors = factors[strip * LINES..][..LINES].as_flattened();
            for half in halves {
                for (x, factor) in half.as_flattened_mut().iter_mut().zip(factors) {
                    *x *= factor;
                }
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;
