//! Causal self-attention without the T x T matrices of all heads at once.
//!
//! Each head of each sequence is one task. It goes through its rows in blocks: the scores of a block against
//! the keys up to its last row, their softmax, and the product with the values all happen in a buffer of
//! `BLOCK` rows. Keys after the block are never touched, so half of the work of the plain form is skipped.
//! The forward pass keeps one number per row, the log of the softmax's denominator; the backward pass
//! recomputes the probabilities from it (Dao et al. 2022, section 3.1 and appendix B; here a block spans all
//! of its keys, so no running rescaling is needed).

use crate::Kernels;
use crate::buffers::with_cpu;
use crate::heads::{HeadShape, Heads, HeadsMut};
use crate::matmul::{Mat, MatMut, Mode, matmul_into};
use crate::profile::{Part, Work, span};
use crate::simd::{self, exp_minus_in_place, max};
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

/// out_i = Σ_{j <= i} softmax_j(scale q_i · k_j) v_j for every head: q, k, v and out are \[b, t, h, d\].
///
/// # Errors
/// When the shapes differ.
pub fn causal_attention(
    kernels: Kernels,
    q_bthd: &Tensor,
    k_bthd: &Tensor,
    v_bthd: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    q_bthd.dims4()?;
    if q_bthd.dims() != k_bthd.dims() || q_bthd.dims() != v_bthd.dims() {
        candle_core::bail!(
            "causal_attention: q {:?}, k {:?} and v {:?} differ in shape",
            q_bthd.dims(),
            k_bthd.dims(),
            v_bthd.dims()
        );
    }
    match kernels.for_tensors(&[q_bthd, k_bthd, v_bthd]) {
        Kernels::Reference => reference(q_bthd, k_bthd, v_bthd, scale),
        Kernels::Portable => {
            let op = CausalAttention { scale: scale as f32, log_sum_exp: OnceLock::new() };
            span(Part::Attention, work(q_bthd, 2, 4)?, || q_bthd.apply_op3(k_bthd, v_bthd, op))
        }
    }
}

/// So many products of causal scores with d features, and passes over tensors \[b, t, h, d\].
fn work(q_bthd: &Tensor, products: usize, passes: usize) -> Result<Work> {
    let t = q_bthd.dim(1)?;
    let len = q_bthd.elem_count();
    // A position sees (t + 1) / 2 keys on average, at two operations per feature of each.
    Ok(Work { flops: (products * len * (t + 1)) as f64, ..Work::floats(passes * len) })
}

/// The softmax of half-precision scores is taken in `f32`.
fn reference(q_bthd: &Tensor, k_bthd: &Tensor, v_bthd: &Tensor, scale: f64) -> Result<Tensor> {
    let heads = |x: &Tensor| x.transpose(1, 2)?.contiguous();
    let (q_bhtd, k_bhtd, v_bhtd) = (heads(q_bthd)?, heads(k_bthd)?, heads(v_bthd)?);
    let wide = if q_bthd.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let scores = (q_bhtd.matmul(&k_bhtd.transpose(2, 3)?)?.to_dtype(wide)? * scale)?;
    let t = q_bthd.dim(1)?;
    let visible = Tensor::tril2(t, DType::U8, q_bthd.device())?.broadcast_as(scores.shape())?;
    let hidden = Tensor::new(f32::NEG_INFINITY, q_bthd.device())?.to_dtype(wide)?;
    let scores = visible.where_cond(&scores, &hidden.broadcast_as(scores.shape())?)?;
    let probs = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v_bthd.dtype())?;
    probs.matmul(&v_bhtd)?.transpose(1, 2)?.contiguous()
}

/// Rows of scores that are alive at a time in one head.
const BLOCK: usize = 64;

struct CausalAttention {
    scale: f32,
    /// ln Σ_j exp(scale q_i · k_j) for every row i: \[b, h, t\], kept by the forward pass.
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl CustomOp3 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = HeadShape::of(q_layout)?;
        let q = Heads::new(q, q_layout, shape)?;
        let k = Heads::new(k, k_layout, shape)?;
        let v = Heads::new(v, v_layout, shape)?;
        let (out, log_sum_exp) = forward([q, k, v], shape, self.scale);
        self.log_sum_exp.get_or_init(|| log_sum_exp);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sum_exp) = self.log_sum_exp.get() else {
            candle_core::bail!("causal_attention: backward before forward")
        };
        let passes_back = |views: [(&CpuStorage, &Layout); 5]| {
            let shape = HeadShape::of(views[0].1)?;
            let [q, k, v, out, grad] = views.map(|(storage, layout)| Heads::new(storage, layout, shape));
            Ok(backward([q?, k?, v?, out?], log_sum_exp, grad?, shape, self.scale))
        };
        // Four products besides that of q and k, which only recomputes the scores.
        let gradients = span(Part::Attention, work(q, 4, 8)?, || {
            with_cpu([q, k, v, out, &grad.contiguous()?], passes_back)
        })?;
        let [dq, dk, dv] = gradients.map(|gradient| Tensor::from_vec(gradient, q.shape(), q.device()));
        Ok((Some(dq?), Some(dk?), Some(dv?)))
    }
}

/// The output and the log of the softmax's denominator of every row, \[b, h, t\].
pub(crate) fn forward([q, k, v]: [Heads<'_>; 3], shape: HeadShape, scale: f32) -> (Vec<f32>, Vec<f32>) {
    let mut out = Vec::with_capacity(shape.len());
    // SAFETY: every row of every head is written before it is read, see `forward_head`.
    let out_heads = unsafe { HeadsMut::uninit(&mut out, shape) };
    let log_sum_exp: Vec<Vec<f32>> = (0..shape.b * shape.h)
        .into_par_iter()
        .map_init(
            || vec![0.0; BLOCK.min(shape.t) * shape.t],
            |scores, head| {
                // SAFETY: every head is one task.
                let out = unsafe { out_heads.get(head) };
                forward_head(q.get(head), k.get(head), v.get(head), scale, scores, out)
            },
        )
        .collect();
    // SAFETY: all heads have been written.
    unsafe { out.set_len(shape.len()) };
    (out, log_sum_exp.concat())
}

/// Gradients of q, k and v, from what [`forward`] was given and gave.
pub(crate) fn backward(
    [q, k, v, out]: [Heads<'_>; 4],
    log_sum_exp: &[f32],
    grad: Heads<'_>,
    shape: HeadShape,
    scale: f32,
) -> [Vec<f32>; 3] {
    let mut gradients = [(); 3].map(|()| Vec::with_capacity(shape.len()));
    // SAFETY: every row of every head is overwritten before it is accumulated into, see `backward_head`.
    let heads_mut = gradients.each_mut().map(|gradient| unsafe { HeadsMut::uninit(gradient, shape) });
    (0..shape.b * shape.h).into_par_iter().for_each_init(
        || vec![0.0; 2 * BLOCK.min(shape.t) * shape.t],
        |scratch, head| {
            let saved = Saved {
                q: q.get(head),
                k: k.get(head),
                v: v.get(head),
                out: out.get(head),
                log_sum_exp: &log_sum_exp[head * shape.t..][..shape.t],
            };
            // SAFETY: every head is one task.
            let gradients = heads_mut.each_ref().map(|heads| unsafe { heads.get(head) });
            backward_head(&saved, grad.get(head), scale, scratch, gradients);
        },
    );
    for gradient in &mut gradients {
        // SAFETY: all heads have been written.
        unsafe { gradient.set_len(shape.len()) };
    }
    gradients
}

/// One head forward; returns the log of the softmax's denominator of every row.
fn forward_head(
    q: Mat<'_>,
    k: Mat<'_>,
    v: Mat<'_>,
    scale: f32,
    scores: &mut [f32],
    mut out: MatMut<'_>,
) -> Vec<f32> {
    let t = q.rows;
    let mut log_sum_exp = Vec::with_capacity(t);
    for start in (0..t).step_by(BLOCK) {
        let (rows, keys) = (BLOCK.min(t - start), t.min(start + BLOCK));
        let scores = &mut scores[..rows * keys];
        matmul_into(
            MatMut::row_major(scores, rows, keys),
            Mode::Overwrite,
            scale,
            q.rows(start, rows),
            k.rows(0, keys).t(),
        );
        let denominators: Vec<f32> = scores
            .chunks_exact_mut(keys)
            .enumerate()
            .map(|(row, scores)| {
                let (visible, hidden) = scores.split_at_mut(start + row + 1);
                let (largest, denominator) = exp_minus_largest(visible);
                hidden.fill(0.0);
                log_sum_exp.push(largest + denominator.ln());
                denominator
            })
            .collect();
        let probs = Mat::row_major(scores, rows, keys);
        matmul_into(out.rows(start, rows), Mode::Overwrite, 1.0, probs, v.rows(0, keys));
        for (row, denominator) in denominators.into_iter().enumerate() {
            divide(out.row(start + row), denominator);
        }
    }
    log_sum_exp
}

/// What backward reads of the forward pass of one head.
struct Saved<'a> {
    q: Mat<'a>,
    k: Mat<'a>,
    v: Mat<'a>,
    out: Mat<'a>,
    log_sum_exp: &'a [f32],
}

/// One head backward. With probabilities P, S = scale q kᵀ and G the gradient of the output: dV = Pᵀ G, dP =
/// G Vᵀ, dS = P (dP - δ) with δ_i = Σ_j P_ij dP_ij = G_i · out_i, dQ = scale dS K, dK = scale dSᵀ Q.
fn backward_head(
    saved: &Saved<'_>,
    grad: Mat<'_>,
    scale: f32,
    scratch: &mut [f32],
    [mut dq, mut dk, mut dv]: [MatMut<'_>; 3],
) {
    let Saved { q, k, v, out, log_sum_exp } = *saved;
    let t = q.rows;
    // From the last block, which reaches all keys and so initialises dk and dv, to the first.
    for start in (0..t).step_by(BLOCK).rev() {
        let (rows, keys) = (BLOCK.min(t - start), t.min(start + BLOCK));
        let mode = if keys == t { Mode::Overwrite } else { Mode::Accumulate };
        let (probs, rest) = scratch.split_at_mut(rows * keys);
        let d_scores = &mut rest[..rows * keys];
        let (q, grad, out) = (q.rows(start, rows), grad.rows(start, rows), out.rows(start, rows));
        let (k, v) = (k.rows(0, keys), v.rows(0, keys));

        matmul_into(MatMut::row_major(probs, rows, keys), Mode::Overwrite, scale, q, k.t());
        matmul_into(MatMut::row_major(d_scores, rows, keys), Mode::Overwrite, 1.0, grad, v.t());
        for (row, (probs, d_scores)) in
            probs.chunks_exact_mut(keys).zip(d_scores.chunks_exact_mut(keys)).enumerate()
        {
            let delta = dot(grad.row(row), out.row(row));
            let (visible, hidden) = probs.split_at_mut(start + row + 1);
            let (d_visible, d_hidden) = d_scores.split_at_mut(start + row + 1);
            softmax_backward(visible, d_visible, log_sum_exp[start + row], delta);
            hidden.fill(0.0);
            d_hidden.fill(0.0);
        }
        let probs = Mat::row_major(probs, rows, keys);
        let d_scores = Mat::row_major(d_scores, rows, keys);
        matmul_into(dv.rows(0, keys), mode, 1.0, probs.t(), grad);
        matmul_into(dq.rows(start, rows), Mode::Overwrite, scale, d_scores, k);
        matmul_into(dk.rows(0, keys), mode, scale, d_scores.t(), q);
    }
}

crate::multiversion! {
    /// x ← exp(x - max x); returns max x and the sum of the new x.
    fn exp_minus_largest(x: &mut [f32]) -> (f32, f32) {
        let largest = max(x);
        (largest, exp_minus_in_place(x, largest))
    }

    fn divide(x: &mut [f32], divisor: f32) {
        let factor = 1.0 / divisor;
        for x in x {
            *x *= factor;
        }
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        simd::dot(a, b)
    }

    /// From scores to probabilities p = exp(s - log_sum_exp), and from dp to ds = p (dp - delta).
    fn softmax_backward(scores: &mut [f32], grads: &mut [f32], log_sum_exp: f32, delta: f32) {
        for (score, grad) in scores.iter_mut().zip(grads) {
            let prob = crate::math::exp(*score - log_sum_exp);
            *score = prob;
            *grad = prob * (*grad - delta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use proptest::prelude::*;

    fn op(kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        causal_attention(kernels, &inputs[0], &inputs[1], &inputs[2], 0.7)
    }

    fn qkv(shape: [usize; 4]) -> Result<[Tensor; 3]> {
        Ok([random(1, &shape)?, random(2, &shape)?, random(3, &shape)?])
    }

    proptest! {
        #![proptest_config(cases(16))]

        #[test]
        fn agrees(b in 1usize..3, t in 1usize..80, h in 1usize..4, d in 1usize..20) {
            check(op, &qkv([b, t, h, d])?, 1e-5)?;
        }
    }

    #[test]
    fn agrees_around_the_block_size() -> Result<()> {
        for t in [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5] {
            check(op, &qkv([1, t, 2, 5])?, 1e-5)?;
        }
        check_finite_differences(op, &qkv([2, 4, 3, 3])?)
    }

    #[test]
    fn takes_strided_gradients() -> Result<()> {
        let op = CausalAttention { scale: 0.7, log_sum_exp: OnceLock::new() };
        let [q, k, v] = qkv([2, 70, 2, 3])?;
        check_strided_gradient3(&op, [&q, &k, &v])
    }

    #[test]
    fn views_of_a_packed_projection_are_read_in_place() -> Result<()> {
        let packed = |x: &[Tensor]| -> Result<[Tensor; 3]> {
            Ok([x[0].narrow(3, 0, 4)?, x[0].narrow(3, 4, 4)?, x[0].narrow(3, 8, 4)?])
        };
        check(|kernels, x| op(kernels, &packed(x)?), &[random(1, (2, 9, 3, 12))?], 1e-5)
    }

    #[test]
    fn the_future_is_not_seen() -> Result<()> {
        let [q, k, v] = qkv([1, 100, 2, 6])?;
        let changed = |x: &Tensor| Tensor::cat(&[x.narrow(1, 0, 71)?, random(9, (1, 29, 2, 6))?], 1);
        for kernels in Kernels::ALL {
            let before = op(kernels, &[q.clone(), k.clone(), v.clone()])?.narrow(1, 0, 71)?;
            let after = op(kernels, &[q.clone(), changed(&k)?, changed(&v)?])?.narrow(1, 0, 71)?;
            assert_eq!(bits(&before)?, bits(&after)?);
        }
        Ok(())
    }

    /// Without any preference a row is the mean of the values so far.
    #[test]
    fn equal_scores_average() -> Result<()> {
        let v = Tensor::arange(0f32, 70., &candle_core::Device::Cpu)?.reshape((1, 70, 1, 1))?;
        let zero = v.zeros_like()?;
        let means: Vec<f32> = (0..70).map(|i| i as f32 / 2.0).collect();
        for kernels in Kernels::ALL {
            let out = op(kernels, &[zero.clone(), v.clone(), v.clone()])?;
            assert_close(&out.flatten_all()?, &Tensor::new(&means[..], v.device())?, 1e-6)?;
        }
        Ok(())
    }

    /// Scores of ±1e4: the softmax picks one key, and nothing overflows.
    #[test]
    fn large_scores() -> Result<()> {
        let [q, k, v] = qkv([1, 70, 1, 4])?;
        let large = |x: &Tensor| x * 100.0;
        check(op, &[large(&q)?, large(&k)?, v.clone()], 1e-2)?;
        let zero = q.zeros_like()?;
        check(op, &[zero.clone(), zero, v], 1e-5)
    }

    #[test]
    fn shapes_must_fit() -> Result<()> {
        let [q, k, _] = qkv([1, 5, 2, 4])?;
        for kernels in Kernels::ALL {
            assert!(op(kernels, &[q.clone(), k.clone(), random(3, (1, 5, 2, 3))?]).is_err());
            assert!(op(kernels, &[q.get(0)?, k.get(0)?, k.get(0)?]).is_err());
        }
        Ok(())
    }
}
