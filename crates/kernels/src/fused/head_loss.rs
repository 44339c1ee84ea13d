//! The last norm, the output head and the cross-entropy, a chunk of tokens at a time.

use super::projection::{Projection, add_weight_gradient};
use super::relay::Relay;
use super::{Formats, Norm, norm_backward, rows_of, will_go_back};
use crate::buffers::elements;
use crate::cross_entropy::{check_ids, loss_and_gradient, losses_and_gradient};
use crate::f32_matmul::{Products, RightOperands, RowTask};
use crate::matmul::{Mat, Update, written};
use crate::profile::{Clock, Part, Shared, Work, pass, product, span};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
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
        let relay = Relay::new([&self.norm.weight, &self.head.weight])?;
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

/// Fewest floats that are scaled by a task.
const SCALED_AT_ONCE: usize = 32 * 1024;

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
        let mut add = |right: Option<&RightOperands<'_>>| -> Result<()> {
            for (normed, targets) in normed.chunks(chunk * d).zip(targets.chunks(chunk)) {
                let factor = self.keep.then(|| 1.0 / n as f32);
                let Chunk { losses, of_logits, stride, of_rows } = match right {
                    Some(right) => self.chunk_by_rows(right, normed, targets, factor, [v, d]),
                    None => self.chunk(head, normed, targets, factor)?,
                };
                sum += losses.into_iter().map(f64::from).sum::<f64>();
                if self.keep {
                    of_normed.extend_from_slice(&of_rows);
                    let of_logits = Mat::new(&of_logits, [targets.len(), v], [stride, 1]);
                    of_head = Some(add_weight_gradient(of_head.take(), of_logits, normed));
                }
            }
            Ok(())
        };
        let head = Mat::row_major(head, v, d);
        let right = [head.t(), head];
        match Products::of_rows(n, &right).filter(|_| *formats == Formats::FULL) {
            Some(products) => products.with_packed(&right, |right| add(Some(right))),
            None => add(None),
        }?;
        let loss = (sum / n as f64) as f32;
        let Some(of_head) = of_head else { return Ok((loss, None)) };
        let (of_x, of_norm) = norm_backward([x, norm, &rstd], of_normed, None, formats.compute);
        Ok((loss, Some(Kept { x: of_x, norm: of_norm, head: of_head })))
    }

    /// A chunk, one operation after another.
    fn chunk(&self, head: &[f32], normed: &[f32], targets: &[u32], factor: Option<f32>) -> Result<Chunk> {
        let HeadLoss { head: head_op, formats, .. } = &self.block;
        let (mut logits, _) = head_op.forward(normed, head)?;
        super::round_in_place(&mut logits, formats.compute);
        let work = Work::floats(2 * logits.len());
        let losses = span(Part::Loss, work, || losses_and_gradient(&mut logits, targets, factor));
        let mut of_rows = vec![];
        if factor.is_some() {
            super::round_in_place(&mut logits, formats.compute);
            of_rows = head_op.input_gradient(head, &logits)?;
        }
        Ok(Chunk { losses, stride: logits.len() / targets.len(), of_logits: logits, of_rows })
    }

    /// The same in f32 by tasks that take some rows through all of it.
    fn chunk_by_rows(
        &self,
        right: &RightOperands<'_>,
        normed: &[f32],
        targets: &[u32],
        factor: Option<f32>,
        [v, d]: [usize; 2],
    ) -> Chunk {
        /// Floats between rows of logits: rows a power of two apart would share few places in a cache.
        const GAP: usize = 16;
        let (n, stride) = (targets.len(), v + GAP);
        let parts = Shared::new([
            product(Part::MatmulForward, [n, d, v]),
            pass(Part::Loss, 2 * n * v),
            product(Part::MatmulInput, [n, v, d]),
        ]);
        let task = |task: RowTask<'_, 2, 0>, [forward, loss, back]: &[Clock; 3]| {
            let RowTask { rows, results: [mut logits, mut of_normed], mut products, .. } = task;
            let normed = Mat::row_major(rows_of(normed, &rows, d), rows.len(), d);
            forward.time(|| {
                let mut logits = logits.window([0, 0], [rows.len(), v]);
                products.multiply(normed, &mut [(0, &mut logits, Update::OVERWRITE)]);
            });
            let logits = logits.elements();
            let losses: Vec<_> = loss.time(|| {
                let of_rows = logits.chunks_exact_mut(stride).zip(&targets[rows.clone()]);
                let of_row = |(row, target): (&mut [f32], &u32)| {
                    let (logits, gap) = row.split_at_mut(v);
                    gap.fill(0.0);
                    loss_and_gradient(logits, *target, factor)
                };
                of_rows.map(of_row).collect()
            });
            if factor.is_some() {
                let of_logits = Mat::new(logits, [rows.len(), v], [stride, 1]);
                back.time(|| products.multiply(of_logits, &mut [(1, &mut of_normed, Update::OVERWRITE)]));
            }
            losses
        };
        let width = if factor.is_some() { d } else { 0 };
        // SAFETY: tasks write products to all rows of the results, and zeros behind them.
        let ([of_logits, of_rows], losses) = unsafe {
            written(n, [stride, width], |results| {
                parts.run(|clocks| right.by_rows(results, [], |rows| task(rows, clocks)))
            })
        };
        Chunk { losses: losses.concat(), of_logits, stride, of_rows }
    }
}

/// What comes of a chunk of tokens.
struct Chunk {
    losses: Vec<f32>,
    /// Of the mean loss, \[n, v\].
    of_logits: Vec<f32>,
    /// From row to row of them.
    stride: usize,
    /// Of the mean loss, \[n, d\], if it is wanted.
    of_rows: Vec<f32>,
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
        let scaled = |gradient: &[f32]| -> Vec<f32> {
            gradient.par_iter().with_min_len(SCALED_AT_ONCE).map(|g| g * factor).collect()
        };
        self.relay.leave(vec![scaled(&kept.norm), scaled(&kept.head)]);
        Ok((
            Some(Tensor::from_vec(scaled(&kept.x), x.shape(), x.device())?),
            None,
            Some(scalar.zeros_like()?),
        ))
    }
}
