//! The last norm, the output head and the cross-entropy, a chunk of tokens at a time.

use super::projection::Projection;
use super::relay::Relay;
use super::{Formats, Norm, norm_backward, will_go_back};
use crate::buffers::elements;
use crate::cross_entropy::{check_ids, losses_and_gradient};
use crate::profile::{Part, Work, span};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// Mean over n of -ln softmax(head(norm(x_n)))\[target_n\].
///
/// The gradient is found together with the loss, while the logits of a chunk are still in the cache; the backward
/// pass only multiplies by the gradient of the loss.
#[derive(Clone, Debug)]
pub struct HeadLoss {
    /// The model's last norm.
    pub norm: Norm,
    /// Output head \[v, d_model\], in f32.
    pub head: Projection,
    /// Types between the operations.
    pub formats: Formats,
}

impl HeadLoss {
    /// A scalar, from x \[n, d_model\] and targets \[n\] of u32.
    ///
    /// # Errors
    /// When shapes do not fit, n is 0, a target is not below v, or the head is not computed in f32.
    pub fn forward(&self, x_nd: &Tensor, targets_n: &Tensor) -> Result<Tensor> {
        let (n, _) = x_nd.dims2()?;
        if n == 0 || targets_n.dims() != [n] {
            candle_core::bail!("head loss: targets {:?} do not fit x {:?}", targets_n.dims(), x_nd.dims());
        }
        if self.head.low.is_some() {
            candle_core::bail!("head loss: the head is computed in f32 here");
        }
        let relay = Relay::new(&[&self.norm.weight, &self.head.weight])?;
        let (x, scalar) = (x_nd.contiguous()?, relay.scalar()?);
        let keep = will_go_back(&[&x, &scalar]);
        x.apply_op3(
            &targets_n.contiguous()?,
            &scalar,
            Op { block: self.clone(), relay, keep, kept: OnceLock::new() },
        )
    }
}

struct Op {
    block: HeadLoss,
    relay: Relay,
    keep: bool,
    kept: OnceLock<Kept>,
}

/// Gradients of the mean loss.
struct Kept {
    x: Vec<f32>,
    norm: Vec<f32>,
    head: Vec<f32>,
}

/// Logits that are alive at a time: 8 MiB of them fit a last-level cache.
const LOGITS: usize = 2 << 20;

/// Fewest tokens in a chunk, so that the products stay large.
const FEWEST: usize = 256;

impl Op {
    fn run(&self, x: &[f32], targets: &[u32], norm: &[f32], head: &[f32]) -> Result<(f32, Option<Kept>)> {
        let HeadLoss { norm: norm_op, head: head_op, formats } = &self.block;
        let (v, d) = head_op.weight.dims2()?;
        check_ids(targets, v)?;
        let n = targets.len();
        let (normed, rstd) = norm_op.forward(x, norm, formats.compute);
        let (mut sum, mut of_head, mut of_normed) = (0.0, None, Vec::with_capacity(x.len()));
        let chunk = (LOGITS / v).max(FEWEST);
        for (normed, targets) in normed.chunks(chunk * d).zip(targets.chunks(chunk)) {
            let (mut logits, _) = head_op.forward(normed, head)?;
            super::round_in_place(&mut logits, formats.compute);
            let work = Work::floats(2 * logits.len());
            let factor = self.keep.then(|| 1.0 / n as f32);
            let losses = span(Part::Loss, work, || losses_and_gradient(&mut logits, targets, factor));
            sum += losses.into_iter().map(f64::from).sum::<f64>();
            if self.keep {
                super::round_in_place(&mut logits, formats.compute);
                of_normed.extend_from_slice(&head_op.input_gradient(head, &logits)?);
                of_head = Some(head_op.add_weight_gradient(of_head, normed, &logits)?);
            }
        }
        let loss = (sum / n as f64) as f32;
        let Some(of_head) = of_head else { return Ok((loss, None)) };
        let (of_x, of_norm) = norm_backward([x, norm, &rstd], of_normed, None, formats.compute);
        Ok((loss, Some(Kept { x: of_x, norm: of_norm, head: of_head })))
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, targets) = (elements(x, x_layout)?, elements(targets, targets_layout)?);
        let (loss, kept) = self.relay.with_weights(|w| self.run(x, targets, w[0], w[1]))?;
        if let Some(kept) = kept {
            self.kept.get_or_init(|| kept);
        }
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _targets: &Tensor,
        scalar: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(kept) = self.kept.get() else { candle_core::bail!("head loss: backward before forward") };
        let factor = grad.to_scalar::<f32>()?;
        let scaled = |gradient: &[f32]| gradient.iter().map(|g| g * factor).collect::<Vec<_>>();
        self.relay.leave(vec![scaled(&kept.norm), scaled(&kept.head)]);
        Ok((
            Some(Tensor::from_vec(scaled(&kept.x), x.shape(), x.device())?),
            None,
            Some(scalar.zeros_like()?),
        ))
    }
}
