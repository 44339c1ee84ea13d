//! Asking the models of two runs: their weights, what they predict, their gradients.

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use kernels::Kernels;
use lm_train::data::{Batch, EvalWindow, EvalWindows, TokenBatches, TokenStream};
use lm_train::loaded::LoadedRun;
use lm_train::model::{Dropout, NamedVar, Transformer};

use super::outputs::{OutputGap, OutputSums};
use super::tensors::Flat;

/// Tokens in one forward pass of each model at most (but for one window), so that the logits of both stay
/// small.
const TOKENS_PER_PASS: usize = 1024;

/// The weights of a run, in the order of its model.
pub(super) fn weights(run: &LoadedRun) -> Result<Vec<Flat>> {
    run.params.vars().iter().map(|param| flat(param, &param.var.as_detached_tensor())).collect()
}

/// The batch that a run would have trained on next.
pub(super) fn next_batch(run: &LoadedRun, train: TokenStream) -> Result<Batch> {
    let config = &run.config;
    let batches = TokenBatches::new(train, config.model.seq_len, config.train.batch_size, config.seed)?;
    Ok(batches.batch(run.step))
}

/// The run's model with gradients: the tensors of `run.params`, which `run.model` sees without.
fn differentiable(run: &LoadedRun, kernels: Kernels) -> Result<Transformer> {
    Ok(Transformer::new(&run.config.model, run.vocab_size, run.params.builder(), kernels, &run.precision)?)
}

/// Gradient of the mean loss of a batch, without dropout, in the order of the model. Parts of the batch are
/// as the run takes them; they add up in f64.
pub(super) fn gradient(run: &LoadedRun, batch: &Batch, kernels: Kernels) -> Result<Vec<Flat>> {
    let model = differentiable(run, kernels)?;
    let parts = run.config.train.micro_batches;
    let rows = batch.batch_size / parts;
    let mut total: Vec<Flat> = Vec::new();
    for part in 0..parts {
        let range = part * rows * batch.seq_len..(part + 1) * rows * batch.seq_len;
        let ids = Tensor::from_slice(&batch.inputs[range.clone()], (rows, batch.seq_len), &run.device)?;
        let targets = Tensor::from_slice(&batch.targets[range], rows * batch.seq_len, &run.device)?;
        let loss = (model.loss(&ids, &targets, &Dropout::OFF)? / parts as f64)?;
        let grads = kernels::backward(&loss)?;
        let one = |param: &NamedVar| {
            let grad = grads.get(&param.var).with_context(|| format!("{} got no gradient", param.name))?;
            flat(param, grad)
        };
        let fresh = run.params.vars().iter().map(one).collect::<Result<Vec<_>>>()?;
        if total.is_empty() {
            total = fresh;
            continue;
        }
        for (sum, grad) in total.iter_mut().zip(fresh) {
            sum.values.iter_mut().zip(grad.values).for_each(|(sum, x)| *sum += x);
        }
    }
    Ok(total)
}

/// Values that belong to a parameter.
fn flat(param: &NamedVar, values: &Tensor) -> Result<Flat> {
    Ok(Flat { name: param.name.clone(), dims: param.var.dims().to_vec(), values: wide(values)? })
}

/// Elements in f64.
fn wide(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Predicts every token of `text` but the first with both models, with windows of the context length side by
/// side. `None` when there is nothing to predict.
pub(super) fn outputs(
    a: &LoadedRun,
    b: &LoadedRun,
    text: &TokenStream,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<OutputGap>> {
    let seq_len = a.model.seq_len();
    let windows: Vec<EvalWindow> = EvalWindows::new(text.len(), seq_len, seq_len)?.collect();
    let per_pass = (TOKENS_PER_PASS / seq_len).max(1);
    let mut sums = OutputSums::default();
    // Only the last window can be shorter than the others.
    for group in windows.chunk_by(|x, y| x.len == y.len).flat_map(|equal| equal.chunks(per_pass)) {
        let len = group[0].len;
        let inputs: Vec<u32> = group.iter().flat_map(|w| text.iter(w.start..w.start + len)).collect();
        let targets = group.iter().flat_map(|w| text.iter(w.start + 1..w.start + len + 1));
        let logits = |run: &LoadedRun| -> Result<Vec<f64>> {
            let ids = Tensor::from_slice(&inputs, (group.len(), len), &run.device)?;
            wide(&run.model.forward(&ids, &Dropout::OFF)?)
        };
        let (logits_a, logits_b) = (logits(a)?, logits(b)?);
        let rows = logits_a.chunks(a.vocab_size).zip(logits_b.chunks(b.vocab_size));
        for ((row_a, row_b), target) in rows.zip(targets) {
            sums.add(row_a, row_b, target as usize);
        }
        progress(sums.tokens(), text.len() as u64 - 1);
    }
    Ok(sums.means())
}
