//! Causal multi-head self-attention with rotary positions (Su et al. 2021), no biases.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use ffn_variants::precision::LinearRole;
use ffn_variants::{Linear, Precision, RmsNorm};
use kernels::{AttentionBlock, Kernels};

use crate::config::ModelConfig;

/// cos and sin of the rotary angles, each [seq_len, d_head / 2], f32.
#[derive(Clone, Debug)]
pub struct RotaryTable {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryTable {
    /// Angles position * theta^(-2i / d_head), i = 0 .. d_head/2, computed in f64.
    ///
    /// # Errors
    /// When the device refuses the tensors.
    pub fn new(config: &ModelConfig, device: &Device) -> Result<Self> {
        let (d_head, half) = (config.d_head(), config.d_head() / 2);
        let angle = |n: usize| {
            let (position, i) = ((n / half) as f64, (n % half) as f64);
            position * config.rope_theta.powf(-2.0 * i / d_head as f64)
        };
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..config.seq_len * half).map(|n| f(angle(n)) as f32).collect();
            Tensor::from_vec(values, (config.seq_len, half), device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// The first `t` positions.
    fn narrow(&self, t: usize, dtype: DType) -> Result<(Tensor, Tensor)> {
        Ok((self.cos.narrow(0, 0, t)?.to_dtype(dtype)?, self.sin.narrow(0, 0, t)?.to_dtype(dtype)?))
    }
}

/// One attention block.
#[derive(Clone, Debug)]
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    sub_norm: Option<RmsNorm>,
    n_head: usize,
    kernels: Kernels,
    precision: Precision,
}

impl Attention {
    /// Takes `q_proj`, `k_proj`, `v_proj`, `o_proj` (each [d_model, d_model]) from `vb`, and `attn_sub_norm` where the
    /// recipe has a norm before the output projection.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(
        config: &ModelConfig,
        vb: VarBuilder,
        kernels: Kernels,
        residual_std: f64,
        precision: &Precision,
    ) -> Result<Self> {
        let d = config.d_model;
        let linear = |name: &str, stdev: f64| {
            let init = Init::Randn { mean: 0.0, stdev };
            Linear::new([d, d], vb.pp(name), init, kernels, precision, LinearRole::Attention)
        };
        let norm = || RmsNorm::new(d, config.norm_eps, vb.pp("attn_sub_norm"), kernels, precision);
        Ok(Self {
            q_proj: linear("q_proj", config.init_std)?,
            k_proj: linear("k_proj", config.init_std)?,
            v_proj: linear("v_proj", config.init_std)?,
            o_proj: linear("o_proj", residual_std)?,
            sub_norm: precision.recipe().sub_norm.then(norm).transpose()?,
            n_head: config.n_head,
            kernels,
            precision: precision.clone(),
        })
    }

    /// x + attention(norm(x)) over the first `t` positions as one operation.
    ///
    /// # Errors
    /// When t is longer than the rotary table.
    pub fn block(&self, norm: &RmsNorm, rotary: &RotaryTable, t: usize) -> Result<AttentionBlock> {
        let (cos, sin) = rotary.narrow(t, DType::F32)?;
        let d_head = self.q_proj.weight().dim(0)? / self.n_head;
        Ok(AttentionBlock {
            norm: norm.part(),
            qkv: [&self.q_proj, &self.k_proj, &self.v_proj].map(Linear::projection),
            sub_norm: self.sub_norm.as_ref().map(RmsNorm::part),
            o: self.o_proj.projection(),
            rotary: [cos, sin],
            n_head: self.n_head,
            scale: 1.0 / (d_head as f64).sqrt(),
            formats: self.precision.formats(),
        })
    }

    /// x_btd -> x_btd. Position t sees positions 0..=t.
    ///
    /// # Errors
    /// When x is longer than the rotary table.
    pub fn forward(&self, x_btd: &Tensor, rotary: &RotaryTable) -> Result<Tensor> {
        let (b, t, d) = x_btd.dims3()?;
        let d_head = d / self.n_head;
        let (cos, sin) = rotary.narrow(t, x_btd.dtype())?;
        let heads = |proj: &Linear| proj.forward(x_btd)?.reshape((b, t, self.n_head, d_head));
        let round = |x: &Tensor| self.precision.round(self.kernels, x);
        let q_bthd = round(&kernels::rope(self.kernels, &heads(&self.q_proj)?, &cos, &sin)?)?;
        let k_bthd = round(&kernels::rope(self.kernels, &heads(&self.k_proj)?, &cos, &sin)?)?;
        let v_bthd = heads(&self.v_proj)?;
        let scale = 1.0 / (d_head as f64).sqrt();
        let format = self.precision.formats().compute;
        let y_bthd =
            round(&kernels::causal_attention(self.kernels, &q_bthd, &k_bthd, &v_bthd, scale, format)?)?;
        let y_btd = y_bthd.reshape((b, t, d))?;
        match &self.sub_norm {
            Some(norm) => self.o_proj.forward(&norm.forward(&y_btd)?),
            None => self.o_proj.forward(&y_btd),
        }
    }
}
