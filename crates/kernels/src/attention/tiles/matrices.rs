//! Heads whose queries, keys and values are views of f32.

use super::{Backward, Forward, Of, Scratch, backward, forward};
use crate::attention::blocks::Saved;
use crate::bf16_matmul::{BLOCK, Side, Sums, TileUnit, whole_row};
use crate::matmul::{Mat, MatMut};

/// One head forward, if bf16 holds it; returns the log of the softmax's denominator of every row.
pub(in crate::attention) fn forward_head(
    unit: impl TileUnit,
    [q, k, v]: [Mat<'_>; 3],
    scale: f32,
    scratch: &mut Scratch,
    out: &mut MatMut<'_>,
) -> Option<Vec<f32>> {
    let Scratch { queries, keys, values_t, between, .. } = scratch;
    if !(queries.pack(Side::Left, q) && keys.pack(Side::Right, k) && values_t.pack(Side::Right, v.t())) {
        return None;
    }
    let head = Forward { queries: queries.lines(), keys: keys.lines(), values_t: values_t.lines() };
    Some(forward(unit, head, q.rows, scale, between, |place, sums| {
        write(sums, &mut out.window(place.map(|blocks| blocks * BLOCK), [BLOCK; 2]));
    }))
}

/// One head backward, whether bf16 holds it.
pub(in crate::attention) fn backward_head(
    unit: impl TileUnit,
    saved: &Saved<'_>,
    scale: f32,
    scratch: &mut Scratch,
    [dq, dk, dv]: &mut [MatMut<'_>; 3],
) -> bool {
    let Saved { q, k, v, log_sum_exp, grad } = *saved;
    let Scratch { queries, keys, values, grads, queries_t, keys_t, grads_t, between, .. } = scratch;
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
    let head = Backward {
        queries: queries.lines(),
        keys: keys.lines(),
        values: values.lines(),
        grads: grads.lines(),
        queries_t: queries_t.lines(),
        keys_t: keys_t.lines(),
        grads_t: grads_t.lines(),
    };
    backward(unit, head, log_sum_exp, scale, between, |of, block, all| {
        let gradient = match of {
            Of::Queries => &mut *dq,
            Of::Keys => &mut *dk,
            Of::Values => &mut *dv,
        };
        for (features, sums) in all.iter().enumerate() {
            write(sums, &mut gradient.window([block * BLOCK, features * BLOCK], [BLOCK; 2]));
        }
    });
    true
}

crate::multiversion! {
    /// Writes a block, as far as c goes.
    fn write(sums: &Sums, c: &mut MatMut<'_>) {
        for row in 0..c.shape()[0] {
            let (sums, c) = (sums.row(row), c.row(row));
            match whole_row(c) {
                Some(c) => *c = sums,
                None => c.copy_from_slice(&sums.as_flattened()[..c.len()]),
            }
        }
    }
}
