//! Causal self-attention without the T x T matrices of all heads at once.
//!
//! [`blocks`] goes through a head in blocks of rows. The forward pass keeps one number per row, the log of the softmax's
//! denominator; the backward pass recomputes the probabilities from it.

mod blocks;
mod tiles;

pub(crate) use blocks::{Precision, backward, forward};
pub(crate) use tiles::{Head, Of, PackedHeads, backward_heads, forward_heads};

use crate::Kernels;
use crate::buffers::with_cpu;
use crate::heads::{HeadShape, Heads};
use crate::profile::{Part, Work, span};
use crate::round;
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use numerics::NumericFormat;
use std::sync::OnceLock;

/// out_i = Σ_{j <= i} softmax_j(scale q_i · k_j) v_j for every head: q, k, v and out are \[b, t, h, d\]. Where q, k and v are
/// numbers of a `format` that bf16 holds, and the CPU has AMX, its tiles multiply. Probabilities, and in the backward pass the
/// gradients of scores, are rounded to the format where they are multiplied with values, keys and queries, as FlashAttention and
/// PyTorch do (Dao et al. 2022, arXiv 2205.14135); the softmax is taken in f32.
///
/// # Errors
/// When the shapes differ.
pub fn causal_attention(
    kernels: Kernels,
    q_bthd: &Tensor,
    k_bthd: &Tensor,
    v_bthd: &Tensor,
    scale: f64,
    format: NumericFormat,
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
        Kernels::Reference => reference(q_bthd, k_bthd, v_bthd, scale, format),
        Kernels::Portable => {
            let precision = Precision::of(format);
            let op = CausalAttention { scale: scale as f32, precision, log_sum_exp: OnceLock::new() };
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
fn reference(
    q_bthd: &Tensor,
    k_bthd: &Tensor,
    v_bthd: &Tensor,
    scale: f64,
    format: NumericFormat,
) -> Result<Tensor> {
    let heads = |x: &Tensor| x.transpose(1, 2)?.contiguous();
    let (q_bhtd, k_bhtd, v_bhtd) = (heads(q_bthd)?, heads(k_bthd)?, heads(v_bthd)?);
    let wide = if q_bthd.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let scores = (q_bhtd.matmul(&k_bhtd.transpose(2, 3)?)?.to_dtype(wide)? * scale)?;
    let t = q_bthd.dim(1)?;
    let visible = Tensor::tril2(t, DType::U8, q_bthd.device())?.broadcast_as(scores.shape())?;
    let hidden = Tensor::new(f32::NEG_INFINITY, q_bthd.device())?.to_dtype(wide)?;
    let scores = visible.where_cond(&scores, &hidden.broadcast_as(scores.shape())?)?;
    let probs = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v_bthd.dtype())?;
    // Tensors of another type have been rounded to it.
    let probs = if probs.dtype() == DType::F32 { round(Kernels::Reference, &probs, format)? } else { probs };
    probs.matmul(&v_bhtd)?.transpose(1, 2)?.contiguous()
}

struct CausalAttention {
    scale: f32,
    precision: Precision,
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
        let (out, log_sum_exp) = forward([q, k, v], shape, self.scale, self.precision);
        self.log_sum_exp.get_or_init(|| log_sum_exp);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sum_exp) = self.log_sum_exp.get() else {
            candle_core::bail!("causal_attention: backward before forward")
        };
        let passes_back = |views: [(&CpuStorage, &Layout); 4]| {
            let shape = HeadShape::of(views[0].1)?;
            let [q, k, v, grad] = views.map(|(storage, layout)| Heads::new(storage, layout, shape));
            Ok(backward([q?, k?, v?], log_sum_exp, grad?, shape, self.scale, self.precision))
        };
        // Four products besides that of q and k, which only recomputes the scores.
        let gradients =
            span(Part::Attention, work(q, 4, 7)?, || with_cpu([q, k, v, &grad.contiguous()?], passes_back))?;
        let [dq, dk, dv] = gradients.map(|gradient| Tensor::from_vec(gradient, q.shape(), q.device()));
        Ok((Some(dq?), Some(dk?), Some(dv?)))
    }
}

#[cfg(test)]
mod tests {
    use super::blocks::{BACKWARD_BLOCK, BLOCK};
    use super::*;
    use crate::testing::*;
    use proptest::prelude::*;

    fn op(kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        causal_attention(kernels, &inputs[0], &inputs[1], &inputs[2], 0.7, NumericFormat::Fp32)
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
        for t in [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 5, BACKWARD_BLOCK + 1] {
            check(op, &qkv([1, t, 2, 5])?, 1e-5)?;
        }
        check_finite_differences(op, &qkv([2, 4, 3, 3])?)
    }

    #[test]
    fn takes_strided_gradients() -> Result<()> {
        let precision = Precision::of(NumericFormat::Fp32);
        let op = CausalAttention { scale: 0.7, precision, log_sum_exp: OnceLock::new() };
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
