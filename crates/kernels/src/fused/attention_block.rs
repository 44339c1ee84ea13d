//! Causal self-attention with its norm, rotary positions and residual connection.

use super::attention_rows::AttentionRows;
use super::attention_tiles::KeptTiles;
use super::projection::{Backward, Projection, State, weight_gradients};
use super::residual_blocks::{Gradients, Link, OnSlices, ResidualBlock, residual_blocks};
#[cfg(target_arch = "x86_64")]
use super::row_projections::other_kind;
use super::{Formats, Norm, Saving, norm_again, norm_backward, round_in_place, rounded};
use crate::attention::{self, Precision};
use crate::buffers::with_elements;
use crate::heads::{HeadShape, Heads};
use crate::profile::{Part, Work, span};
use crate::rope::rotate_in_place;
use candle_core::{Result, Tensor};

/// x + o(sub_norm(attention(rope(q(n)), rope(k(n)), v(n)))), n = norm(x).
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    /// Norm in front.
    pub norm: Norm,
    /// Projections to queries, keys and values, each \[d_model, d_model\].
    pub qkv: [Projection; 3],
    /// Norm before the output projection.
    pub sub_norm: Option<Norm>,
    /// Output projection, \[d_model, d_model\].
    pub o: Projection,
    /// Cosines and sines of the rotary angles, each \[t, d_head / 2\].
    pub rotary: [Tensor; 2],
    /// Heads that share d_model.
    pub n_head: usize,
    /// Factor on the scores.
    pub scale: f64,
    /// Types between the operations.
    pub formats: Formats,
}

impl AttentionBlock {
    /// The block on x \[b, t, d_model\], f32 on the CPU.
    ///
    /// # Errors
    /// When shapes do not fit, a tensor is of another kind, or a product below f32 would have to be made again.
    pub fn forward(&self, x: &Tensor, saving: Saving) -> Result<Tensor> {
        residual_blocks(x, [ResidualBlock::Attention(self.clone())], saving)
    }

    /// The block for inputs of the shape of x.
    pub(super) fn link(self, x: &Tensor) -> Result<Link> {
        let (b, t, d) = x.dims3()?;
        let (h, half) = (self.n_head, d / self.n_head / 2);
        if d != 2 * half * h || self.rotary.iter().any(|table| table.dims() != [t, half]) {
            candle_core::bail!("attention block: {h} heads and the rotary table do not fit x {:?}", x.dims());
        }
        let mut weights = vec![self.norm.weight.clone()];
        weights.extend(self.qkv.iter().map(|projection| projection.weight.clone()));
        weights.extend(self.sub_norm.iter().map(|norm| norm.weight.clone()));
        weights.push(self.o.weight.clone());
        let shape = HeadShape { b, t, h, d: 2 * half };
        let [cos, sin] = self.rotary.each_ref().map(Tensor::contiguous);
        let low = self.is_low();
        let block = Self { rotary: [cos?, sin?], ..self };
        Ok(Link::new(Shaped { block, shape }, weights, low))
    }

    /// Whether any product is below f32.
    pub(super) fn is_low(&self) -> bool {
        self.qkv.iter().chain([&self.o]).any(|product| product.low.is_some())
    }
}

/// The block for inputs of one shape.
pub(super) struct Shaped {
    pub(super) block: AttentionBlock,
    pub(super) shape: HeadShape,
}

/// Values of the forward pass.
#[derive(Default)]
pub(super) struct Kept {
    /// \[b, t\], of the norm.
    pub(super) rstd: Vec<f32>,
    /// Each \[b, t, h, d\]; queries and keys rotated.
    pub(super) qkv: [Vec<f32>; 3],
    /// \[b, t, h, d\].
    pub(super) out: Vec<f32>,
    /// In place of these, where they never lay in memory as rows.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no tiles"))]
    pub(super) tiles: Option<KeptTiles>,
    /// \[b, h, t\].
    pub(super) log_sum_exp: Vec<f32>,
    /// \[b, t\], of the norm before the output projection.
    pub(super) sub_rstd: Vec<f32>,
    /// One each.
    pub(super) qkv_states: Vec<State>,
    pub(super) o_state: State,
    /// Whether tasks took rows through the block.
    pub(super) by_rows: bool,
}

/// The weights of a block by name.
pub(super) struct Weights<'a> {
    pub(super) norm: &'a [f32],
    pub(super) qkv: [&'a [f32]; 3],
    pub(super) sub_norm: &'a [f32],
    pub(super) o: &'a [f32],
}

impl OnSlices for Shaped {
    type Kept = Kept;

    fn run(&self, x: &[f32], weights: &[&[f32]], keep: bool) -> Result<(Vec<f32>, Kept)> {
        let w = self.weights(weights);
        let AttentionBlock { norm, qkv, sub_norm, o, formats, scale, .. } = &self.block;
        let rows = AttentionRows::new(self, x, &w).filter(|rows| !rows.is_looked_at());
        #[cfg(target_arch = "x86_64")]
        if let Some(block) = rows.as_ref().and_then(AttentionRows::on_tiles)
            && let Some(result) = block.run()?
        {
            return Ok(result);
        }
        let (qkv, rstd, qkv_states) = match &rows {
            Some(rows) => rows.before_heads(keep)?,
            None => {
                let (n, rstd) = norm.forward(x, w.norm, formats.compute);
                let mut all = Projection::forward_each(&qkv.each_ref(), &n, &w.qkv, keep)?.into_iter();
                drop(n);
                let [(mut queries, q_state), (mut keys, k_state), (values, v_state)] =
                    std::array::from_fn(|_| all.next().unwrap_or_default());
                self.rotate([&mut queries, &mut keys], 1.0)?;
                round_in_place(&mut queries, formats.compute);
                round_in_place(&mut keys, formats.compute);
                ([queries, keys, values], rstd, vec![q_state, k_state, v_state])
            }
        };
        let (mut out, log_sum_exp) = span(Part::Attention, self.attention_work(2.0, 4), || {
            let precision = Precision::of(formats.compute);
            attention::forward(self.heads(&qkv), self.shape, *scale as f32, precision)
        });
        if let Some(rows) = rows {
            let (y, sub_rstd, o_state) = rows.after_heads(&mut out, keep)?;
            let kept = Kept {
                rstd,
                qkv,
                out,
                tiles: None,
                log_sum_exp,
                sub_rstd,
                qkv_states,
                o_state,
                by_rows: true,
            };
            return Ok((y, kept));
        }
        round_in_place(&mut out, formats.compute);
        let (mut y, sub_rstd, o_state);
        if let Some(norm) = sub_norm {
            let (normed, rstd) = norm.forward(&out, w.sub_norm, formats.compute);
            sub_rstd = rstd;
            (y, o_state) = o.forward_onto(x, &normed, w.o, keep)?;
        } else {
            sub_rstd = vec![];
            (y, o_state) = o.forward_onto(x, &out, w.o, keep)?;
        }
        round_in_place(&mut y, formats.residual);
        let kept =
            Kept { rstd, qkv, out, tiles: None, log_sum_exp, sub_rstd, qkv_states, o_state, by_rows: false };
        Ok((y, kept))
    }

    fn back(&self, x: &[f32], weights: &[&[f32]], kept: &Kept, grad: &[f32]) -> Result<Gradients> {
        let w = self.weights(weights);
        let AttentionBlock { qkv, sub_norm, o, formats, .. } = &self.block;
        if let (true, Some(rows)) = (kept.by_rows, AttentionRows::new(self, x, &w)) {
            #[cfg(target_arch = "x86_64")]
            if let Some(tiles) = &kept.tiles {
                let block = rows.on_tiles().ok_or_else(other_kind)?;
                return block.back(kept, tiles, grad)?.ok_or_else(other_kind);
            }
            let (of_out, of_sub_norm, of_output) = rows.back_to_heads(kept, grad)?;
            let of_qkv = self.back_through_heads(kept, &of_out);
            drop(of_out);
            return rows.back(kept, grad, (of_sub_norm, &of_output), of_qkv);
        }
        let grad = rounded(grad, formats.residual);
        let mut outward = Backward::new(&[o], &[&kept.o_state], &[w.o], &[&grad])?;
        let (mut of_out, mut of_sub_norm, mut normed) = (outward.input_gradient()?, None, vec![]);
        if sub_norm.is_some() {
            if outward.reads_input() {
                normed = norm_again(&kept.out, w.sub_norm, &kept.sub_rstd, formats.compute);
            }
            let parts = [&kept.out[..], w.sub_norm, &kept.sub_rstd];
            let of_norm;
            (of_out, of_norm) = norm_backward(parts, of_out, None, formats.compute);
            of_sub_norm = Some(of_norm);
        }
        round_in_place(&mut of_out, formats.compute);
        let [mut of_q, mut of_k, of_v] = self.back_through_heads(kept, &of_out);
        round_in_place(&mut of_q, formats.compute);
        round_in_place(&mut of_k, formats.compute);
        self.rotate([&mut of_q, &mut of_k], -1.0)?;
        let dys = [&of_q[..], &of_k, &of_v];
        let states: Vec<_> = kept.qkv_states.iter().collect();
        let mut inward = Backward::new(&qkv.each_ref(), &states, &w.qkv, &dys)?;
        let of_n = inward.input_gradient()?;
        let mut n = vec![];
        if inward.reads_input() {
            n = norm_again(x, w.norm, &kept.rstd, formats.compute);
        }
        let x_of_o = if sub_norm.is_some() { &normed } else { &kept.out };
        let mut of_products = weight_gradients(&[(&inward, &n), (&outward, x_of_o)])?;
        let parts = [x, w.norm, &kept.rstd];
        let (of_x, of_norm) = norm_backward(parts, of_n, Some(&grad), formats.compute);
        let of_o = of_products.pop();
        let mut of_weights = vec![of_norm];
        of_weights.extend(of_products);
        of_weights.extend(of_sub_norm);
        of_weights.extend(of_o);
        Ok(Gradients { of_x, of_weights })
    }
}

impl Shaped {
    /// Takes apart what [`AttentionBlock::forward`] put together.
    fn weights<'a>(&self, all: &[&'a [f32]]) -> Weights<'a> {
        Weights {
            norm: all[0],
            qkv: [all[1], all[2], all[3]],
            sub_norm: if self.block.sub_norm.is_some() { all[4] } else { &[] },
            o: all[all.len() - 1],
        }
    }

    fn heads<'a>(&self, qkv: &'a [Vec<f32>; 3]) -> [Heads<'a>; 3] {
        qkv.each_ref().map(|x| Heads::contiguous(x, self.shape))
    }

    /// Gradients of queries, keys and values from that of what the heads gave.
    fn back_through_heads(&self, kept: &Kept, of_out: &[f32]) -> [Vec<f32>; 3] {
        span(Part::Attention, self.attention_work(4.0, 7), || {
            let of_out = Heads::contiguous(of_out, self.shape);
            let scale = self.block.scale as f32;
            let precision = Precision::of(self.block.formats.compute);
            attention::backward(
                self.heads(&kept.qkv),
                &kept.log_sum_exp,
                of_out,
                self.shape,
                scale,
                precision,
            )
        })
    }

    fn rotate(&self, tensors: [&mut Vec<f32>; 2], direction: f32) -> Result<()> {
        let HeadShape { t, h, .. } = self.shape;
        let [cos, sin] = &self.block.rotary;
        with_elements([cos, sin], |[cos, sin]| {
            for x in tensors {
                span(Part::Rope, Work::floats(2 * x.len()), || {
                    rotate_in_place(x, cos, sin, [t, h], direction)
                });
            }
            Ok(())
        })
    }

    /// So many products per head, of the half of the scores that is visible, and tensors read or written.
    pub(super) fn attention_work(&self, products: f64, tensors: usize) -> Work {
        let HeadShape { b, t, h, d } = self.shape;
        let visible = (b * h * t * (t + 1) / 2) as f64;
        Work { flops: products * 2.0 * visible * d as f64, bytes: 4.0 * (tensors * self.shape.len()) as f64 }
    }
}
