//! A model being trained: tensors, optimizer and step. Knows no files; the trainer and the benchmark both drive it.

use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use kernels::Kernels;

use crate::config::RunConfig;
use crate::data::Batch;
use crate::model::{Dropout, ParamStore, Transformer, count_params};
use crate::optim::AdamW;
use crate::record::{Checkpoint, ParamCounts};
use crate::rng::{Key, Purpose};
use crate::schedule::learning_rate;

/// What one optimizer step saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// Mean loss of the batch before the update, nats per token.
    pub loss: f64,
    /// Global gradient norm before clipping; NaN when the loss was not finite and no gradient was taken.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
}

impl StepStats {
    /// Whether training can go on.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// A model, its evaluation view, and its optimizer.
pub struct Session {
    config: RunConfig,
    device: Device,
    params: ParamStore,
    model: Transformer,
    eval_model: Transformer,
    optimizer: AdamW,
}

impl Session {
    /// Draws the initial weights.
    ///
    /// # Errors
    /// When the device refuses a tensor.
    pub fn new(config: &RunConfig, vocab_size: usize, device: &Device, kernels: Kernels) -> Result<Self> {
        let params = ParamStore::new(config.seed, DType::F32, device);
        let model = Transformer::new(&config.model, vocab_size, params.builder(), kernels)?;
        let eval_model = Transformer::new(&config.model, vocab_size, params.detached_builder(), kernels)?;
        let optimizer = AdamW::new(&config.optim, &params, kernels)?;
        Ok(Self { config: config.clone(), device: device.clone(), params, model, eval_model, optimizer })
    }

    /// One optimizer step, the one with index `step` (from 0), on one batch. A loss or gradient that is not finite
    /// leaves the weights as they were.
    ///
    /// # Errors
    /// When an operation fails: out of memory, or a tensor without gradient.
    pub fn step(&mut self, step: u64, batch: &Batch) -> Result<StepStats> {
        let lr = learning_rate(&self.config.optim, &self.config.schedule, step, self.config.total_steps());
        let parts = self.config.train.micro_batches;
        let rows = batch.batch_size / parts;
        let dropout_key = Key::new(self.config.seed, Purpose::Dropout).index(step);
        let mut total = GradTotal::default();
        let mut loss = 0.0;
        for part in 0..parts {
            let range = part * rows * batch.seq_len..(part + 1) * rows * batch.seq_len;
            let ids = Tensor::from_slice(&batch.inputs[range.clone()], (rows, batch.seq_len), &self.device)?;
            let targets = Tensor::from_slice(&batch.targets[range], rows * batch.seq_len, &self.device)?;
            let dropout = if self.config.model.dropout > 0.0 {
                Dropout::new(self.config.model.dropout, dropout_key.index(part as u64))
            } else {
                Dropout::OFF
            };
            let part_loss = self.model.loss(&ids, &targets, &dropout)?;
            let part_loss = if parts == 1 { part_loss } else { (part_loss / parts as f64)? };
            loss += f64::from(part_loss.to_scalar::<f32>()?);
            if !loss.is_finite() {
                return Ok(StepStats { loss, grad_norm: f64::NAN, lr });
            }
            total.add(part_loss.backward()?, &self.params)?;
        }
        let grads = total.0.context("a step needs at least one batch")?;
        let stats = self.optimizer.step(&grads, lr)?;
        Ok(StepStats { loss, grad_norm: stats.grad_norm, lr })
    }

    /// View of the model for evaluation: sees every update, records no graph.
    pub fn eval_model(&self) -> &Transformer {
        &self.eval_model
    }

    /// The tensors.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Device of all tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Weights by name, in the order of the model.
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        self.params.vars().into_iter().map(|p| (p.name, p.var.as_detached_tensor())).collect()
    }

    /// Puts back weights and optimizer.
    ///
    /// # Errors
    /// When the checkpoint's tensors are not those of this model.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        load_weights(&self.params, checkpoint)?;
        let moments = checkpoint.moments(&self.device)?;
        self.optimizer
            .restore(&moments, checkpoint.state.updates)
            .with_context(|| format!("checkpoint {} does not fit this model", checkpoint.path.display()))
    }

    /// Parameters counted on the real tensors, checked against what the config promises.
    ///
    /// # Errors
    /// When the two differ, which is a defect of ffnlab.
    pub fn param_counts(&self, vocab_size: usize) -> Result<ParamCounts> {
        let model = &self.config.model;
        let ffn = model.ffn.resolve(model.d_model)?;
        let promised = count_params(model, &ffn, vocab_size);
        let real: usize = self.params.vars().iter().map(|p| p.var.elem_count()).sum();
        if real != promised.total {
            bail!("internal error: the model has {real} parameters, its config promises {}", promised.total);
        }
        Ok(promised)
    }
}

/// Sets every tensor of `params` from a checkpoint.
///
/// # Errors
/// When a tensor is missing, unknown, or has another shape.
pub fn load_weights(params: &ParamStore, checkpoint: &Checkpoint) -> Result<()> {
    let place = || format!("checkpoint {} does not fit this model", checkpoint.path.display());
    let mut tensors = checkpoint.model(params.device())?;
    for param in params.vars() {
        let tensor =
            tensors.remove(&param.name).with_context(|| format!("{}: no {}", place(), param.name))?;
        param.var.set(&tensor).with_context(|| format!("{}: {}", place(), param.name))?;
    }
    match tensors.keys().next() {
        Some(name) => bail!("{}: the model has no tensor {name}", place()),
        None => Ok(()),
    }
}

/// Sum of the gradients of the micro-batches, in their order.
#[derive(Default)]
struct GradTotal(Option<GradStore>);

impl GradTotal {
    fn add(&mut self, grads: GradStore, params: &ParamStore) -> candle_core::Result<()> {
        let Some(total) = &mut self.0 else {
            self.0 = Some(grads);
            return Ok(());
        };
        for param in params.vars() {
            if let (Some(sum), Some(grad)) = (total.get(&param.var), grads.get(&param.var)) {
                let sum = (sum + grad)?;
                total.insert(&param.var, sum);
            }
        }
        Ok(())
    }
}
