//! Heads whose queries, keys and values are packed, and of whose results blocks are handed on, so that none of them ever lies in
//! memory as f32.

use super::{Backward, Forward, Of, Operand, Scratch, backward, forward, tiles_of};
use crate::bf16_matmul::{BLOCK, Lines, Side, Strips, Sums, TileUnit, over_lines, streamed, transpose};
use crate::heads::HeadShape;
use rayon::prelude::*;
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Queries, keys and values \[b t, h d\] as left operands. Positions of a sequence, and features of a head, are multiples of
/// [`BLOCK`].
pub(crate) struct PackedHeads<'a> {
    pub(crate) qkv: [&'a Strips; 3],
    pub(crate) shape: HeadShape,
    /// Factor on the scores.
    pub(crate) scale: f32,
}

/// A head of a sequence.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// Blocks of positions before it.
    first: usize,
    /// Blocks of features before it.
    panel: usize,
}

impl Head {
    /// The numbers of a block of its positions and of one of its features, among all.
    pub(crate) fn place(self, block: usize, features: usize) -> [usize; 2] {
        [self.first + block, self.panel + features]
    }
}

impl PackedHeads<'_> {
    /// All heads, sequence by sequence, each with its number.
    fn heads(&self) -> impl IndexedParallelIterator<Item = (usize, Head)> {
        let HeadShape { b, t, h, d } = self.shape;
        let head = move |head| Head { first: head / h * (t / BLOCK), panel: head % h * (d / BLOCK) };
        (0..b * h).into_par_iter().map(move |number| (number, head(number)))
    }

    /// Of one head.
    fn of<'o>(&self, head: Head, operand: &'o Strips) -> Lines<'o> {
        let HeadShape { t, d, .. } = self.shape;
        operand.lines(head.first..head.first + t / BLOCK).steps(head.panel..head.panel + d / BLOCK)
    }
}

/// All heads forward: returns the logs of the softmaxes' denominators, \[b, h, t\]. `put` is given blocks of results, and where
/// they belong, and may stream them.
pub(crate) fn forward_heads(
    unit: impl TileUnit,
    all: &PackedHeads<'_>,
    put: impl Fn([usize; 2], &Sums) + Sync,
) -> Vec<f32> {
    let one = |Scratch { keys, values_t, between, .. }: &mut Scratch, head: Head| {
        let [queries, k, v] = all.qkv.map(|operand| all.of(head, operand));
        keys.turn(k);
        values_t.go_over_lines(Side::Right, v);
        let operands = Forward { queries, keys: keys.lines(), values_t: values_t.lines() };
        let log_sum_exp =
            forward(unit, operands, all.shape.t, all.scale, between, |[block, features], sums| {
                put(head.place(block, features), sums);
            });
        streamed();
        log_sum_exp
    };
    let logs = all.heads().map(|(_, head)| SCRATCH.with_borrow_mut(|scratch| one(scratch, head)));
    logs.collect::<Vec<_>>().concat()
}

/// All heads backward, from their gradients as left operand and the logs of the softmaxes' denominators. `put` is given all
/// features of a block of positions of a head, with its number, and may stream them.
pub(crate) fn backward_heads(
    unit: impl TileUnit,
    all: &PackedHeads<'_>,
    (grads, log_sum_exp): (&Strips, &[f32]),
    put: impl Fn(Of, Head, usize, &mut [Sums]) + Sync,
) {
    let t = all.shape.t;
    let one = |scratch: &mut Scratch, number: usize, head: Head| {
        let Scratch { keys, values, queries_t, keys_t, grads_t, between, .. } = scratch;
        let [queries, k, v] = all.qkv.map(|operand| all.of(head, operand));
        let grads = all.of(head, grads);
        keys.turn(k);
        values.turn(v);
        queries_t.go_over_lines(Side::Left, queries);
        keys_t.go_over_lines(Side::Right, k);
        grads_t.go_over_lines(Side::Left, grads);
        let operands = Backward {
            queries,
            keys: keys.lines(),
            values: values.lines(),
            grads,
            queries_t: queries_t.lines(),
            keys_t: keys_t.lines(),
            grads_t: grads_t.lines(),
        };
        let log_sum_exp = &log_sum_exp[number * t..][..t];
        backward(unit, operands, log_sum_exp, all.scale, between, |of, block, sums| {
            put(of, head, block, sums);
        });
        streamed();
    };
    all.heads().for_each(|(number, head)| SCRATCH.with_borrow_mut(|scratch| one(scratch, number, head)));
}

impl Operand {
    /// A left operand as a right one.
    fn turn(&mut self, left: Lines<'_>) {
        let tiles = self.reserve([left.blocks() * BLOCK, left.len() * BLOCK]);
        let strips = (0..left.blocks()).flat_map(|block| left.block(block));
        for (tiles, left) in tiles.chunks_exact_mut(left.len()).zip(strips) {
            for (tile, left) in tiles.iter_mut().zip(left) {
                transpose(left, tile);
            }
        }
    }

    /// A left operand where its lines are what is summed over.
    fn go_over_lines(&mut self, side: Side, left: Lines<'_>) {
        let (steps, panels) = (left.blocks(), left.len());
        let tiles = self.reserve([panels * BLOCK, steps * BLOCK]);
        for step in 0..steps {
            let [early, late] = left.block(step);
            for (panel, left) in early.iter().zip(late).enumerate() {
                over_lines(left.into(), side, tiles_of(tiles, 2 * panel * steps + step, steps));
            }
        }
    }
}
