//! Norms of the gradient, tensor by tensor.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use kernels::Kernels;
use lm_train::data::{EvalWindows, TokenStream};
use lm_train::evaluate::Pass;
use lm_train::loaded::LoadedRun;
use lm_train::model::{Dropout, Transformer};
use serde::Serialize;

/// The gradient of the mean loss over some tokens, in norms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientNorms {
    /// Tokens whose mean loss was differentiated.
    pub tokens: u64,
    /// Norm over all tensors.
    pub norm: f64,
    /// Norms of the tensors, in the order of the model.
    pub tensors: Vec<TensorNorm>,
}

/// Norm of one tensor's gradient.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorNorm {
    /// Name in checkpoints.
    pub name: String,
    /// Euclidean norm.
    pub norm: f64,
}

/// One backward pass without dropout and clipping over the first windows of `stream`: as many as a training batch has, in
/// the same micro-batches, or all full ones of a shorter text. The loss is scaled as the recipe has it, and the gradient
/// scaled back.
///
/// # Errors
/// A stream of fewer than two tokens; a tensor without gradient; fewer tokens than a block of the recipe's scales has.
pub fn gradient_norms(run: &LoadedRun, stream: &TokenStream, kernels: Kernels) -> Result<GradientNorms> {
    let (seq_len, train) = (run.config.model.seq_len, &run.config.train);
    let targets = stream.len().saturating_sub(1);
    let (len, rows) = match targets / seq_len {
        0 => (targets, 1),
        windows => (seq_len, windows.min(train.batch_size)),
    };
    let per_pass = if rows == train.batch_size { rows / train.micro_batches } else { rows };
    let windows = EvalWindows::new(stream.len(), len, len)?.take(rows).collect::<Vec<_>>();
    let tokens = rows * len;
    let model =
        Transformer::new(&run.config.model, run.vocab_size, run.params.builder(), kernels, &run.precision)?;
    let params = run.params.vars();
    let mut sums: Vec<Option<Tensor>> = vec![None; params.len()];
    for windows in windows.chunks(per_pass) {
        let pass = Pass::new(stream, windows.to_vec(), &run.device)?;
        let share = pass.targets_n.elem_count() as f64 / tokens as f64;
        let loss = model.loss(&pass.ids_bt, &pass.targets_n, &Dropout::OFF)?;
        let grads = kernels::backward(&(loss * (share * run.loss_scale))?)
            .with_context(|| format!("gradients on {} tokens at a time", pass.targets_n.elem_count()))?;
        for (sum, param) in sums.iter_mut().zip(&params) {
            let grad = grads.get(&param.var).with_context(|| format!("{} got no gradient", param.name))?;
            let grad = grad.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            *sum = Some(match sum.take() {
                Some(sum) => (sum + grad)?,
                None => grad,
            });
        }
    }
    let mut tensors = Vec::with_capacity(params.len());
    for (param, sum) in params.into_iter().zip(sums) {
        let sum = sum.with_context(|| format!("{} got no gradient", param.name))?;
        let norm = sum.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt() / run.loss_scale;
        tensors.push(TensorNorm { name: param.name, norm });
    }
    let norm = tensors.iter().map(|tensor| tensor.norm * tensor.norm).sum::<f64>().sqrt();
    Ok(GradientNorms { tokens: tokens as u64, norm, tensors })
}
