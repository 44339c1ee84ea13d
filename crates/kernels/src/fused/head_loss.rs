//! The last norm, the output head and the cross-entropy, a chunk of tokens at a time.

#[cfg(target_arch = "x86_64")]
use super::head_tiles::HeadTiles;
use super::projection::Projection;
use super::relay::Relay;
use super::row_products::RowFormats;
use super::{Formats, Norm, norm_backward, rows_of, will_go_back};
#[cfg(target_arch = "x86_64")]
use crate::bf16_matmul::Amx;
use crate::buffers::{elements, with_elements};
use crate::cross_entropy::{check_ids, loss_and_gradient, losses_and_gradient};
use crate::matmul::{Mat, Update, written};
use crate::profile::{Clock, Part, Shared, Work, matmul_span, pass, product, span};
use crate::quantized::Role;
use crate::round::round_in_place;
use crate::row_tasks::{RightOperands, RowTask, RowUnit};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use numerics::NumericFormat;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Mean over n of -ln softmax(head(norm(x_n)))\[target_n\].
///
/// The gradient is found together with the loss, while the logits of a chunk are still in the cache; the backward
/// pass only multiplies by the gradient of the loss. Below f32 it is rounded before that, which makes no difference where the
/// gradient of the loss is a power of two.
#[derive(Clone, Debug)]
pub struct HeadLoss {
    /// The model's last norm.
    pub norm: Norm,
    /// Output head \[v, d_model\], of a kind that [`HeadLoss::takes`].
    pub head: Projection,
    /// Types between the operations.
    pub formats: Formats,
}

impl HeadLoss {
    /// Whether the loss of such a head can be computed here: in f32, or in formats with its exponents that round every value on
    /// its own. Narrower ones want the gradient of the loss, which scales theirs, before they round.
    pub fn takes(head: &Projection) -> bool {
        RowFormats::new(&[head]).is_some_and(|formats| formats.have_exponents_of_f32())
    }

    /// A scalar, from x \[n, d_model\] and targets \[n\] of u32.
    ///
    /// # Errors
    /// When shapes do not fit, n is 0, a target is not below v, or the head is of another kind.
    pub fn forward(&self, x_nd: &Tensor, targets_n: &Tensor) -> Result<Tensor> {
        let (n, _) = x_nd.dims2()?;
        if n == 0 || targets_n.dims() != [n] {
            candle_core::bail!("head loss: targets {:?} do not fit x {:?}", targets_n.dims(), x_nd.dims());
        }
        if !Self::takes(&self.head) {
            candle_core::bail!("head loss: formats of the head need scales, or exponents that f32 has not");
        }
        let relay = Relay::new([&self.norm.weight, &self.head.weight])?;
        let (x, scalar) = (x_nd.contiguous()?, relay.scalar()?);
        let keep = will_go_back(&[&x, &scalar]);
        x.apply_op3(
            &targets_n.contiguous()?,
            &scalar,
            Op { block: self.clone(), relay, keep, kept: Mutex::default() },
        )
    }
}

struct Op {
    block: HeadLoss,
    relay: Relay,
    keep: bool,
    /// Handed out by the first backward pass; any other computes it again.
    kept: Mutex<Option<Kept>>,
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
const FEWEST: usize = 512;

/// Tokens in a chunk are a multiple of it: whole blocks of tiles.
const CHUNK_UNIT: usize = crate::bf16_matmul::BLOCK;

impl Op {
    fn run(&self, x: &[f32], targets: &[u32], norm: &[f32], head: &[f32]) -> Result<(f32, Option<Kept>)> {
        let HeadLoss { norm: norm_op, head: head_op, formats } = &self.block;
        let (v, d) = head_op.weight.dims2()?;
        check_ids(targets, v)?;
        let n = targets.len();
        let Some(head_formats) = RowFormats::new(&[head_op]) else {
            candle_core::bail!("internal error: a head was let through that is of another kind")
        };
        let operands = head_formats.operands();
        let (normed, rstd) = norm_op.forward(x, norm, formats.compute);
        let normed = head_formats.enter_whole(Role::Input, normed.into(), d)?;
        let (mut sum, mut of_head, mut of_normed) = (0.0, None, Vec::with_capacity(x.len()));
        let chunk = (LOGITS / v).max(FEWEST).next_multiple_of(CHUNK_UNIT);
        let mut take = |losses: &[f32], of_rows: &[f32]| {
            sum += losses.iter().copied().map(f64::from).sum::<f64>();
            of_normed.extend_from_slice(of_rows);
        };
        let mut add = |head: Head<'_>| -> Result<()> {
            for (normed, targets) in normed.chunks(chunk * d).zip(targets.chunks(chunk)) {
                let factor = self.keep.then(|| 1.0 / n as f32);
                let Chunk { losses, of_logits, stride, of_rows } = match (head, factor) {
                    #[cfg(target_arch = "x86_64")]
                    (Head::Tiles(head), Some(factor)) => {
                        let (losses, of_rows) = head.chunk(normed, targets, factor, &mut of_head);
                        take(&losses, &of_rows);
                        continue;
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Head::Tiles(_), None) => candle_core::bail!("internal error: tiles without a gradient"),
                    (Head::Packed(right), _) => {
                        self.chunk_by_rows(right, &head_formats, normed, targets, factor, [v, d])
                    }
                    (Head::Rounded(head), _) => self.chunk(head, &head_formats, normed, targets, factor)?,
                };
                take(&losses, &of_rows);
                if self.keep {
                    let of_logits = Mat::new(&of_logits, [targets.len(), v], [stride, 1]).t();
                    let normed = Mat::row_major(normed, targets.len(), d);
                    of_head = Some(matmul_span(Part::MatmulWeight, [v, normed.rows, d], || {
                        operands.add_product(of_head.take(), of_logits, normed)
                    }));
                }
            }
            Ok(())
        };
        let weight = head;
        let head = Mat::row_major(weight, v, d);
        let right = [head.t(), head];
        let unit = RowUnit::new(n, &right, operands).filter(|_| !head_formats.are_looked_at());
        #[cfg(target_arch = "x86_64")]
        let tiles = unit
            .filter(|_| self.keep && n.is_multiple_of(CHUNK_UNIT) && head_formats.are_bf16())
            .and_then(|rows| HeadTiles::new(rows.tiles_of_bf16()?, rows, &head_formats, head));
        #[cfg(target_arch = "x86_64")]
        let on_tiles = tiles.as_ref().map(Head::Tiles);
        #[cfg(not(target_arch = "x86_64"))]
        let on_tiles: Option<Head<'_>> = None;
        if let Some(head) = on_tiles {
            add(head)?;
        } else if let Some(unit) = unit {
            let round = |_, values: &mut [f32]| head_formats.round(Role::Weight, values);
            unit.with_packed(&right, round, |right| add(Head::Packed(right)))?;
        } else {
            let rounded = head_formats.enter_whole(Role::Weight, weight.into(), d)?;
            add(Head::Rounded(Mat::row_major(&rounded, v, d)))?;
        }
        if unit.is_some() {
            head_formats.count_weights(&[weight]);
            head_formats.tell(&[Role::Weight, Role::Grad]);
        }
        let loss = (sum / n as f64) as f32;
        let Some(of_head) = of_head else { return Ok((loss, None)) };
        let (of_x, of_norm) = norm_backward([x, norm, &rstd], of_normed, None, formats.compute);
        Ok((loss, Some(Kept { x: of_x, norm: of_norm, head: of_head })))
    }

    /// A chunk, one operation after another.
    fn chunk(
        &self,
        head: Mat<'_>,
        formats: &RowFormats<'_>,
        normed: &[f32],
        targets: &[u32],
        factor: Option<f32>,
    ) -> Result<Chunk> {
        let (n, operands) = (targets.len(), formats.operands());
        let normed = Mat::row_major(normed, n, head.cols);
        let mut logits = matmul_span(Part::MatmulForward, [n, head.cols, head.rows], || {
            let mut logits = operands.product(normed, head.t());
            round_in_place(&mut logits, formats.output());
            logits
        });
        let work = Work::floats(2 * logits.len());
        let losses = span(Part::Loss, work, || losses_and_gradient(&mut logits, targets, factor));
        let mut of_rows = vec![];
        if factor.is_some() {
            logits = formats.enter_whole(Role::Grad, logits.into(), head.rows)?.into_owned();
            of_rows = matmul_span(Part::MatmulInput, [n, head.rows, head.cols], || {
                let of_logits = Mat::row_major(&logits, n, head.rows);
                let mut of_rows = operands.product(of_logits, head);
                round_in_place(&mut of_rows, formats.output());
                of_rows
            });
        }
        Ok(Chunk { losses, stride: head.rows, of_logits: logits, of_rows })
    }

    /// The same by tasks that take some rows through all of it.
    fn chunk_by_rows(
        &self,
        right: &RightOperands<'_>,
        formats: &RowFormats<'_>,
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
                let mut results = [(0, &mut logits, Update::OVERWRITE)];
                products.multiply_rounded(normed, &mut results, formats.output(), &mut []);
            });
            let logits = logits.elements();
            let losses: Vec<_> = loss.time(|| {
                let of_rows = logits.chunks_exact_mut(stride).zip(&targets[rows.clone()]);
                let of_row = |(row, target): (&mut [f32], &u32)| {
                    let (logits, gap) = row.split_at_mut(v);
                    gap.fill(0.0);
                    let loss = loss_and_gradient(logits, *target, factor);
                    if factor.is_some() {
                        formats.enter(NumericFormat::Fp32, Role::Grad, logits);
                    }
                    loss
                };
                of_rows.map(of_row).collect()
            });
            if factor.is_some() {
                let of_logits = Mat::new(logits, [rows.len(), v], [stride, 1]);
                back.time(|| {
                    let mut results = [(1, &mut of_normed, Update::OVERWRITE)];
                    products.multiply_rounded(of_logits, &mut results, formats.output(), &mut []);
                });
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

/// The head as operand.
#[derive(Clone, Copy)]
enum Head<'a> {
    /// Packed, for tasks on tiles that find gradients too.
    #[cfg(target_arch = "x86_64")]
    Tiles(&'a HeadTiles<'a, Amx>),
    /// Packed, for tasks that take some rows through all of it; as values and as gradients are multiplied with it.
    Packed(&'a RightOperands<'a>),
    /// \[v, d_model\], for one operation after another.
    Rounded(Mat<'a>),
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
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        targets: &Tensor,
        scalar: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let first = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = match first {
            Some(kept) => Some(kept),
            None => with_elements([x], |[x]| {
                with_elements([targets], |[targets]| {
                    self.relay.with_weights(|w| Ok(self.run(x, targets, w[0], w[1])?.1))
                })
            })?,
        };
        let Some(mut kept) = kept else {
            candle_core::bail!("head loss: backward where no gradient was wanted")
        };
        let factor = grad.to_scalar::<f32>()?;
        if factor != 1.0 {
            for gradient in [&mut kept.x, &mut kept.norm, &mut kept.head] {
                gradient.par_iter_mut().with_min_len(SCALED_AT_ONCE).for_each(|g| *g *= factor);
            }
        }
        self.relay.leave(vec![kept.norm, kept.head]);
        let of_x = Tensor::from_vec(kept.x, x.shape(), x.device())?;
        Ok((Some(of_x), None, Some(scalar.zeros_like()?)))
    }
}
