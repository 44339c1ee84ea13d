//! Decoder-only transformer: pre-RMSNorm, RoPE, causal attention, one of the feed-forward variants, no biases.
//!
//! The layout and the tensor names are Llama's, so that a checkpoint opens as a stock Hugging Face class.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use ffn_variants::precision::LinearRole;
use ffn_variants::{Ffn, FfnConfig, FfnInit, Linear, Precision, RmsNorm};
use kernels::{HeadLoss, Kernels, ResidualBlock, Saving};

use super::attention::{Attention, RotaryTable};
use super::dropout::Dropout;
use crate::config::ModelConfig;
use crate::record::ParamCounts;

mod probed;

pub use probed::BlockProbe;

#[derive(Clone, Debug)]
struct Block {
    input_norm: RmsNorm,
    attention: Attention,
    ffn_norm: RmsNorm,
    ffn: Ffn,
    kernels: Kernels,
    precision: Precision,
}

impl Block {
    /// By single operations.
    fn forward(&self, x: &Tensor, rotary: &RotaryTable, dropout: &Dropout, layer: usize) -> Result<Tensor> {
        let y = self.attention.forward(&self.input_norm.forward(x)?, rotary)?;
        let x = self.add(x, &dropout.apply(&y, &format!("layers.{layer}.attention"))?)?;
        let y = self.ffn.forward(&self.ffn_norm.forward(&x)?)?;
        self.add(&x, &dropout.apply(&y, &format!("layers.{layer}.ffn"))?)
    }

    /// Both halves for [`kernels::residual_blocks`], where both can be.
    fn fused(
        &self,
        x: &Tensor,
        rotary: &RotaryTable,
        dropout: &Dropout,
    ) -> Result<Option<[ResidualBlock; 2]>> {
        if self.kernels.for_tensors(&[x]) == Kernels::Reference || !dropout.is_off() {
            return Ok(None);
        }
        let Some(ffn) = self.ffn.block(&self.ffn_norm) else { return Ok(None) };
        let attention = self.attention.block(&self.input_norm, rotary, x.dim(1)?)?;
        Ok(Some([ResidualBlock::Attention(attention), ResidualBlock::Ffn(ffn)]))
    }

    /// x + y, in the type of the residual stream.
    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.precision.round_residual(self.kernels, &(x + y)?)
    }
}

/// The language model.
#[derive(Clone, Debug)]
pub struct Transformer {
    embed_tokens: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    lm_head: Linear,
    rotary: RotaryTable,
    seq_len: usize,
    saving: Saving,
    kernels: Kernels,
    precision: Precision,
}

impl Transformer {
    /// Builds the model from `vb`, which draws or finds its tensors, to be computed in `precision`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or the feed-forward config does not resolve.
    pub fn new(
        config: &ModelConfig,
        vocab_size: usize,
        vb: VarBuilder,
        kernels: Kernels,
        precision: &Precision,
    ) -> Result<Self> {
        let ffn_config = config.ffn.resolve(config.d_model).map_err(candle_core::Error::wrap)?;
        let residual_std = config.init_std / (2.0 * config.n_layer as f64).sqrt();
        let ffn_init = FfnInit { std: config.init_std, down_std: residual_std, norm_eps: config.norm_eps };
        let normal = Init::Randn { mean: 0.0, stdev: config.init_std };
        let norm = |vb: VarBuilder| RmsNorm::new(config.d_model, config.norm_eps, vb, kernels, precision);
        let model = vb.pp("model");
        let embed_tokens =
            model.pp("embed_tokens").get_with_hints((vocab_size, config.d_model), "weight", normal)?;
        let mut blocks = Vec::with_capacity(config.n_layer);
        for layer in 0..config.n_layer {
            let vb = model.pp("layers").pp(layer);
            blocks.push(Block {
                input_norm: norm(vb.pp("input_layernorm"))?,
                attention: Attention::new(config, vb.pp("self_attn"), kernels, residual_std, precision)?,
                ffn_norm: norm(vb.pp("post_attention_layernorm"))?,
                ffn: Ffn::new(&ffn_config, vb.pp("mlp"), kernels, ffn_init, precision)?,
                kernels,
                precision: precision.clone(),
            });
        }
        let lm_head = if config.tie_embeddings {
            Linear::from_weight(embed_tokens.clone(), "lm_head", kernels, precision, LinearRole::Head)
        } else {
            let widths = [config.d_model, vocab_size];
            Linear::new(widths, vb.pp("lm_head"), normal, kernels, precision, LinearRole::Head)?
        };
        Ok(Self {
            embed_tokens,
            blocks,
            norm: norm(model.pp("norm"))?,
            lm_head,
            rotary: RotaryTable::new(config, vb.device())?,
            seq_len: config.seq_len,
            saving: Saving::Keep,
            kernels,
            precision: precision.clone(),
        })
    }

    /// The same model, whose blocks keep for the backward pass what `saving` says.
    #[must_use]
    pub fn saving(mut self, saving: Saving) -> Self {
        self.saving = saving;
        self
    }

    /// Token ids (u32) [b, t] -> logits [b * t, vocab_size].
    ///
    /// # Errors
    /// When t exceeds the context length or an id the vocabulary.
    pub fn forward(&self, ids_bt: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        self.lm_head.forward(&self.norm.forward(&self.residual(ids_bt, dropout)?)?)
    }

    /// Token ids (u32) [b, t] -> the residual stream before the first block, [b, t, d_model].
    fn embedded(&self, ids_bt: &Tensor) -> Result<Tensor> {
        let (b, t) = ids_bt.dims2()?;
        if t > self.seq_len {
            candle_core::bail!("{t} tokens do not fit into the model's context of {}", self.seq_len);
        }
        let x_nd = kernels::embedding(self.kernels, &self.embed_tokens, &ids_bt.flatten_all()?)?;
        let x_nd = self.precision.round_residual(self.kernels, &x_nd)?;
        x_nd.reshape((b, t, self.embed_tokens.dim(1)?))
    }

    /// Token ids (u32) [b, t] -> the residual stream after all blocks, [b * t, d_model].
    fn residual(&self, ids_bt: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        let mut x_btd = self.embedded(ids_bt)?;
        let fused = self.blocks.iter().map(|block| block.fused(&x_btd, &self.rotary, dropout));
        if let Some(halves) = fused.collect::<Result<Option<Vec<_>>>>()? {
            return kernels::residual_blocks(&x_btd, halves.into_iter().flatten(), self.saving)?
                .flatten(0, 1);
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            x_btd = block.forward(&x_btd, &self.rotary, dropout, layer)?;
        }
        x_btd.flatten(0, 1)
    }

    /// Mean cross-entropy, nats per token, of targets [b * t] (u32) after ids [b, t].
    ///
    /// # Errors
    /// As [`Transformer::forward`]; a target outside the vocabulary.
    pub fn loss(&self, ids_bt: &Tensor, targets_n: &Tensor, dropout: &Dropout) -> Result<Tensor> {
        let x_nd = self.residual(ids_bt, dropout)?;
        let head = self.lm_head.projection();
        match self.kernels.for_tensors(&[&x_nd]) {
            Kernels::Portable if HeadLoss::takes(&head) => {
                let loss = HeadLoss { norm: self.norm.part(), head, formats: self.precision.formats() };
                loss.forward(&x_nd, targets_n)
            }
            Kernels::Portable | Kernels::Reference => {
                let logits = self.lm_head.forward(&self.norm.forward(&x_nd)?)?;
                kernels::cross_entropy(self.kernels, &logits, targets_n)
            }
        }
    }

    /// Nats of every target, without gradient; call it on a detached model.
    ///
    /// # Errors
    /// As [`Transformer::loss`].
    pub fn token_losses(&self, ids_bt: &Tensor, targets_n: &Tensor) -> Result<Vec<f32>> {
        kernels::token_losses(&self.forward(ids_bt, &Dropout::OFF)?, targets_n)
    }

    /// Longest context, tokens.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }
}

/// Parameters by part, from the config alone; a test holds them against the tensors. `sub_norm`: with the norms that
/// BitNet adds before the output projection of attention and before the down projection.
pub fn count_params(config: &ModelConfig, ffn: &FfnConfig, vocab_size: usize, sub_norm: bool) -> ParamCounts {
    let d = config.d_model;
    let embedding = vocab_size * d * if config.tie_embeddings { 1 } else { 2 };
    let attention = config.n_layer * 4 * d * d;
    let sub_norms = if sub_norm { config.n_layer * (d + ffn.d_ff) } else { 0 };
    let norm = (2 * config.n_layer + 1) * d + sub_norms;
    let ffn = config.n_layer * ffn.num_params();
    ParamCounts { total: embedding + attention + ffn + norm, embedding, attention, ffn, norm }
}

/// Forward FLOPs per token at full context: two per weight of every matrix product, the head included, plus
/// attention scores and values (causal: (seq_len + 1) / 2 positions on average) plus the elementwise work of the
/// feed-forward blocks. Norms, rotary rotation, softmax and embedding look-up are left out. A training step costs
/// about three times as much.
pub fn flops_per_token(config: &ModelConfig, ffn: &FfnConfig, vocab_size: usize) -> u64 {
    let d = config.d_model as u64;
    let projections = 2 * 4 * d * d;
    let scores_and_values = 2 * 2 * d * (config.seq_len as u64 + 1) / 2;
    let head = 2 * d * vocab_size as u64;
    config.n_layer as u64 * (projections + scores_and_values + ffn.flops_per_token().total()) + head
}
