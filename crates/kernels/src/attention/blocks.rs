//! Causal attention of a head by blocks of rows.
//!
//! Each head of each sequence is one task. What its products multiply with (keys, values, and in the backward pass queries
//! and gradients) is packed once. Then the scores of a block of rows against the keys up to its last row, their softmax, and
//! the product with the values all happen in a buffer of that many rows. Keys after the block are never touched, so
//! half of the work of the plain form is skipped. (Dao et al. 2022, section 3.1 and appendix B; here a block spans all of
//! its keys, so no running rescaling is needed.)
//!
//! Below f32 probabilities and the gradients of scores are rounded where they are multiplied, and there alone: the softmax and its
//! backward pass are in f32.

use super::tiles;
use crate::f32_matmul::{Buffer, Kernel, Skip};
use crate::heads::{HeadShape, Heads, HeadsMut};
use crate::matmul::{Before, Mat, MatMut, Update};
use crate::round::round_rows;
use crate::row_tasks::Operands;
use crate::simd::{LANES, exp_minus_in_place, exp_minus_in_place_dot, max};
use numerics::NumericFormat;
use rayon::prelude::*;

/// Rows of scores that are alive at a time in the forward pass: whole tiles, and little of the future.
pub(super) const BLOCK: usize = 24;

/// The same in the backward pass, where the gradients of keys and values are sums over the rows of a block: longer sums
/// are quicker.
pub(super) const BACKWARD_BLOCK: usize = 48;

/// What products are of.
#[derive(Clone, Copy)]
pub(crate) struct Precision {
    /// Operands are rounded to it.
    pub(super) format: NumericFormat,
    /// Which decide on tiles.
    pub(super) operands: Operands,
}

impl Precision {
    /// That of a format.
    pub(crate) fn of(format: NumericFormat) -> Self {
        Self { format, operands: Operands::of(format) }
    }
}

/// The output and the log of the softmax's denominator of every row, \[b, h, t\]. On tiles where there are any for the operands.
pub(crate) fn forward(
    [q, k, v]: [Heads<'_>; 3],
    shape: HeadShape,
    scale: f32,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let mut out = Vec::with_capacity(shape.len());
    // SAFETY: every row of every head is written before it is read, see `forward_head`.
    let out_heads = unsafe { HeadsMut::uninit(&mut out, shape) };
    #[cfg(target_arch = "x86_64")]
    let unit = precision.operands.as_tiles();
    let log_sum_exp: Vec<Vec<f32>> = (0..shape.b * shape.h)
        .into_par_iter()
        .map_init(
            || (None, Default::default(), tiles::Scratch::default()),
            |(scores, buffers, on_tiles), head| {
                // SAFETY: every head is one task.
                let mut out = unsafe { out_heads.get(head) };
                let inputs = [q, k, v].map(|heads| heads.get(head));
                #[cfg(target_arch = "x86_64")]
                if let Some(unit) = unit
                    && let Some(done) = tiles::forward_head(unit, inputs, scale, on_tiles, &mut out)
                {
                    return done;
                }
                let scores = scores.get_or_insert_with(|| Rows::new(BLOCK, shape.t));
                forward_head(inputs, (scale, precision.format), scores, buffers, out)
            },
        )
        .collect();
    // SAFETY: all heads have been written.
    unsafe { out.set_len(shape.len()) };
    (out, log_sum_exp.concat())
}

/// Gradients of q, k and v, from what [`forward`] was given and gave.
pub(crate) fn backward(
    [q, k, v]: [Heads<'_>; 3],
    log_sum_exp: &[f32],
    grad: Heads<'_>,
    shape: HeadShape,
    scale: f32,
    precision: Precision,
) -> [Vec<f32>; 3] {
    let mut gradients = [(); 3].map(|()| Vec::with_capacity(shape.len()));
    // SAFETY: every row of every head is overwritten before it is read, see `backward_head`.
    let heads_mut = gradients.each_mut().map(|gradient| unsafe { HeadsMut::uninit(gradient, shape) });
    #[cfg(target_arch = "x86_64")]
    let unit = precision.operands.as_tiles();
    (0..shape.b * shape.h).into_par_iter().for_each_init(
        || (None, tiles::Scratch::default()),
        |(scratch, on_tiles), head| {
            let saved = Saved {
                q: q.get(head),
                k: k.get(head),
                v: v.get(head),
                log_sum_exp: &log_sum_exp[head * shape.t..][..shape.t],
                grad: grad.get(head),
            };
            // SAFETY: every head is one task.
            let mut gradients = heads_mut.each_ref().map(|heads| unsafe { heads.get(head) });
            #[cfg(target_arch = "x86_64")]
            if let Some(unit) = unit
                && tiles::backward_head(unit, &saved, scale, on_tiles, &mut gradients)
            {
                return;
            }
            let scratch = scratch.get_or_insert_with(|| Scratch::new(shape));
            backward_head(&saved, (scale, precision.format), scratch, gradients);
        },
    );
    for gradient in &mut gradients {
        // SAFETY: all heads have been written.
        unsafe { gradient.set_len(shape.len()) };
    }
    gradients
}

/// Rows of scores. They are further apart than the longest of them: columns of rows whose distance is a power of two would
/// share few places in a cache, and a tile may read beyond the last score.
struct Rows {
    floats: Vec<f32>,
    stride: usize,
}

impl Rows {
    fn new(rows: usize, t: usize) -> Self {
        let stride = Kernel::new().whole_strips(t) + LANES;
        Self { floats: vec![0.0; rows * stride], stride }
    }

    fn view(&self, rows: usize, cols: usize) -> Mat<'_> {
        Mat::new(&self.floats, [rows, cols], [self.stride, 1])
    }

    fn round(&mut self, rows: usize, cols: usize, format: NumericFormat) {
        let rows = self.floats.chunks_exact_mut(self.stride).take(rows);
        rows.for_each(|row| round_rows(&mut row[..cols], format));
    }

    fn view_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_> {
        MatMut::strided(&mut self.floats, [rows, cols], self.stride)
    }
}

/// One head forward; returns the log of the softmax's denominator of every row.
fn forward_head(
    [q, k, v]: [Mat<'_>; 3],
    (scale, format): (f32, NumericFormat),
    scores: &mut Rows,
    [keys, values, spare]: &mut [Buffer; 3],
    mut out: MatMut<'_>,
) -> Vec<f32> {
    let kernel = Kernel::new();
    let (keys, values) = (kernel.pack_right(k.t(), keys), kernel.pack_right(v, values));
    let t = q.rows;
    let mut log_sum_exp = vec![0.0; t];
    let mut denominators = [0.0; BLOCK];
    for start in (0..t).step_by(BLOCK) {
        let rows = BLOCK.min(t - start);
        let seen = start + rows;
        let scaled = Update { factor: scale, ..Update::OVERWRITE };
        let (wanted, zero) = (Skip::ResultAbove(start.cast_signed()), Skip::LeftAbove(start.cast_signed()));
        let mut block = scores.view_mut(rows, kernel.whole_strips(seen));
        kernel.multiply_packed(&mut block, scaled, q.rows(start, rows), keys, wanted, spare);
        exp_rows(scores, start, &mut denominators[..rows], &mut log_sum_exp[start..seen]);
        scores.round(rows, seen, format);
        kernel.multiply(
            &mut out.rows(start, rows),
            Update::OVERWRITE,
            scores.view(rows, seen),
            values,
            zero,
            spare,
        );
        for (row, denominator) in denominators[..rows].iter().enumerate() {
            divide(out.row(start + row), *denominator);
        }
    }
    log_sum_exp
}

/// What backward reads of one head: what the forward pass read and gave, and the gradient of the output.
pub(super) struct Saved<'a> {
    pub(super) q: Mat<'a>,
    pub(super) k: Mat<'a>,
    pub(super) v: Mat<'a>,
    pub(super) log_sum_exp: &'a [f32],
    pub(super) grad: Mat<'a>,
}

/// Memory that the backward passes of heads take in turn.
struct Scratch {
    probs: Rows,
    d_scores: Rows,
    /// Of keys and values, \[t, d\], which lie together here and apart in a head.
    gradients: [Vec<f32>; 2],
    packed: [Buffer; 5],
    spare: Buffer,
}

impl Scratch {
    fn new(shape: HeadShape) -> Self {
        let rows = || Rows::new(BACKWARD_BLOCK, shape.t);
        Self {
            probs: rows(),
            d_scores: rows(),
            gradients: [(); 2].map(|()| vec![0.0; shape.t * shape.d]),
            packed: Default::default(),
            spare: Buffer::new(),
        }
    }
}

/// One head backward. With probabilities P, S = scale q kᵀ and G the gradient of the output: dV = Pᵀ G, dP =
/// G Vᵀ, dS = P (dP - δ) with δ_i = Σ_j P_ij dP_ij, dQ = scale dS K, dK = scale dSᵀ Q.
fn backward_head(
    saved: &Saved<'_>,
    (scale, format): (f32, NumericFormat),
    scratch: &mut Scratch,
    [mut dq, mut dk, mut dv]: [MatMut<'_>; 3],
) {
    let Saved { q, k, v, log_sum_exp, grad } = *saved;
    let Scratch { probs, d_scores, gradients, packed, spare } = scratch;
    let kernel = Kernel::new();
    let [queries, keys, keys_t, values_t, grads] = packed;
    let (queries, keys, grads) =
        (kernel.pack_right(q, queries), kernel.pack_right(k, keys), kernel.pack_right(grad, grads));
    let (keys_t, values_t) = (kernel.pack_right(k.t(), keys_t), kernel.pack_right(v.t(), values_t));
    let [t, d] = [q.rows, q.cols];
    let [mut dk_sum, mut dv_sum] = gradients.each_mut().map(|sum| MatMut::row_major(sum, t, d));
    // From the last block, which reaches all keys and so initialises the sums, to the first.
    for start in (0..t).step_by(BACKWARD_BLOCK).rev() {
        let rows = BACKWARD_BLOCK.min(t - start);
        let seen = start + rows;
        let (q, grad) = (q.rows(start, rows), grad.rows(start, rows));
        let scaled = Update { factor: scale, ..Update::OVERWRITE };
        let diagonal = start.cast_signed();
        let wanted = Skip::ResultAbove(diagonal);
        let [mut scores, mut d_probs] =
            [&mut *probs, &mut *d_scores].map(|block| block.view_mut(rows, kernel.whole_strips(seen)));
        kernel.multiply_packed(&mut scores, scaled, q, keys_t, wanted, spare);
        kernel.multiply_packed(&mut d_probs, Update::OVERWRITE, grad, values_t, wanted, spare);
        softmax_backward_rows(probs, d_scores, start, &log_sum_exp[start..seen]);
        probs.round(rows, seen, format);
        d_scores.round(rows, seen, format);
        let (probs, d_scores) = (probs.view(rows, seen), d_scores.view(rows, seen));
        let before = if seen < t { Before::There } else { Before::Nothing };
        kernel.multiply(&mut dq.rows(start, rows), scaled, d_scores, keys, Skip::LeftAbove(diagonal), spare);
        let [mut dk, mut dv] = [&mut dk_sum, &mut dv_sum].map(|sum| sum.rows(0, seen));
        let (update, zero) = (Update { before, ..Update::OVERWRITE }, Skip::LeftBelow(diagonal));
        kernel.multiply(&mut dv, update, probs.t(), grads.from(start), zero, spare);
        kernel.multiply(&mut dk, Update { before, ..scaled }, d_scores.t(), queries.from(start), zero, spare);
    }
    for row in 0..t {
        dk.row(row).copy_from_slice(dk_sum.row(row));
        dv.row(row).copy_from_slice(dv_sum.row(row));
    }
}

crate::multiversion! {
    /// From scores of the rows from `start` on to e^(score - the row's largest), zero for the future; also gives their
    /// sums, and the logs of the sums of e^score.
    fn exp_rows(scores: &mut Rows, start: usize, sums: &mut [f32], log_sum_exp: &mut [f32]) {
        let seen = start + sums.len();
        let rows = scores.floats.chunks_exact_mut(scores.stride).zip(sums).zip(log_sum_exp);
        for (row, ((scores, sum), log_sum_exp)) in rows.enumerate() {
            let visible = start + row + 1;
            let whole = visible.next_multiple_of(LANES);
            scores[visible..whole].fill(f32::NEG_INFINITY);
            let largest = max(&scores[..whole]);
            *sum = exp_minus_in_place(&mut scores[..whole], largest);
            *log_sum_exp = largest + sum.ln();
            zero(scores, whole, seen);
        }
    }

    /// From scores of the rows from `start` on to probabilities p = e^(score - log_sum_exp), and from dp to p (dp - Σ p dp): both
    /// zero for the future. (The sum is also the product of a row's gradient and result, but those lie in memory and these in
    /// the cache.)
    fn softmax_backward_rows(scores: &mut Rows, grads: &mut Rows, start: usize, log_sum_exp: &[f32]) {
        let seen = start + log_sum_exp.len();
        let rows = scores.floats.chunks_exact_mut(scores.stride).zip(grads.floats.chunks_exact_mut(grads.stride));
        for (row, ((scores, grads), log_sum_exp)) in rows.zip(log_sum_exp).enumerate() {
            let visible = start + row + 1;
            let whole = visible.next_multiple_of(LANES);
            scores[visible..whole].fill(f32::NEG_INFINITY);
            grads[visible..whole].fill(0.0);
            let delta = exp_minus_in_place_dot(&mut scores[..whole], *log_sum_exp, &grads[..whole]);
            for (grad, prob) in grads[..whole].iter_mut().zip(&scores[..whole]) {
                *grad = prob * (*grad - delta);
            }
            zero(scores, whole, seen);
            zero(grads, whole, seen);
        }
    }

    fn divide(x: &mut [f32], divisor: f32) {
        let factor = 1.0 / divisor;
        for x in x {
            *x *= factor;
        }
    }
}

/// Zeros from one place to another, if that is further.
#[inline(always)]
fn zero(x: &mut [f32], from: usize, to: usize) {
    if from < to {
        x[from..to].fill(0.0);
    }
}
