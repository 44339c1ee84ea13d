//! Planting what [`StressConfig`] describes: aligned gate and up weights, and a batch of one token.

use anyhow::{Context, Result, bail};
use candle_core::Tensor;

use crate::config::StressConfig;
use crate::data::Batch;
use crate::model::{NamedVar, ParamStore};

/// Writes the planted weights over the first `channels` rows of every block's projections.
///
/// # Errors
/// More channels than a block has, or a token outside the vocabulary.
pub fn plant(stress: &StressConfig, params: &ParamStore) -> Result<()> {
    if stress.channels == 0 {
        return Ok(());
    }
    let vars = params.vars();
    let embed_tokens = find(&vars, "model.embed_tokens.weight")?;
    let mut embedding = rows(&embed_tokens)?;
    let vocab_size = embedding.len();
    let Some(row) = embedding.get_mut(stress.token as usize) else {
        bail!("stress.token = {} is outside the vocabulary of {vocab_size}", stress.token);
    };
    let direction = row.clone();
    let unit = norm(&direction).max(f64::MIN_POSITIVE);
    row.iter_mut().for_each(|x| *x = (f64::from(*x) * stress.token_gain) as f32);
    set(&embed_tokens, embedding)?;
    for up in vars.iter().filter(|param| param.name.ends_with("mlp.up_proj.weight")) {
        let mut up_rows = rows(up)?;
        if stress.channels > up_rows.len() {
            bail!("stress.channels = {} exceeds the hidden width of {}", stress.channels, up_rows.len());
        }
        let gate = find(&vars, &up.name.replace("up_proj", "gate_proj")).ok();
        let mut gate_rows = gate.as_ref().map(rows).transpose()?;
        for channel in 0..stress.channels {
            let boost = if gate_rows.is_some() { 1.0 } else { stress.gain.sqrt() };
            let length = norm(&up_rows[channel]) * stress.strength * boost;
            up_rows[channel] = direction.iter().map(|x| (f64::from(*x) / unit * length) as f32).collect();
            if let Some(gate_rows) = &mut gate_rows {
                let sign = if channel % 2 == 0 { stress.gain } else { -stress.gain };
                gate_rows[channel] = up_rows[channel].iter().map(|x| (f64::from(*x) * sign) as f32).collect();
            }
        }
        set(up, up_rows)?;
        if let (Some(gate), Some(gate_rows)) = (gate, gate_rows) {
            set(&gate, gate_rows)?;
        }
    }
    Ok(())
}

/// A batch of the shape of `batch` that holds nothing but the token.
pub fn outlier_batch(stress: &StressConfig, batch: &Batch) -> Batch {
    let tokens = vec![stress.token; batch.inputs.len()];
    Batch { inputs: tokens.clone(), targets: tokens, batch_size: batch.batch_size, seq_len: batch.seq_len }
}

fn find(vars: &[NamedVar], name: &str) -> Result<NamedVar> {
    vars.iter().find(|param| param.name == name).cloned().with_context(|| format!("the model has no {name}"))
}

fn rows(param: &NamedVar) -> Result<Vec<Vec<f32>>> {
    Ok(param.var.to_vec2()?)
}

fn norm(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn set(param: &NamedVar, rows: Vec<Vec<f32>>) -> Result<()> {
    let values: Vec<f32> = rows.concat();
    Ok(param.var.set(&Tensor::from_vec(values, param.var.shape(), param.var.device())?)?)
}
