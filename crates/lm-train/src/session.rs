//! A model being trained: tensors, optimizer and step. Knows no files; the trainer and the benchmark both drive it.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use ffn_variants::precision::{Sizes, TensorHealth};
use ffn_variants::{FfnKind, Precision, Recipe};
use kernels::{Kernels, Saving};

use crate::config::RunConfig;
use crate::data::Batch;
use crate::device;
use crate::loss_scale::LossScale;
use crate::model::{Dropout, ParamStore, Transformer, count_params};
use crate::optim::AdamW;
use crate::record::{Checkpoint, ParamCounts};
use crate::rng::{Key, Purpose};
use crate::schedule::{due, learning_rate};
use crate::stress;

/// What one optimizer step saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// Mean loss of the batch before the update, nats per token.
    pub loss: f64,
    /// Global gradient norm before clipping; NaN when the loss was not finite and no gradient was taken.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// What the loss was multiplied with before the backward pass; 1 without loss scaling.
    pub loss_scale: f64,
    /// Whether the update was left out because the scaled gradient overflowed.
    pub skipped: bool,
    /// NaN and infinities among the operands of the step's weight products.
    pub non_finite: u64,
}

impl StepStats {
    /// Whether training can go on.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && (self.grad_norm.is_finite() || self.skipped)
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
    precision: Precision,
    loss_scale: LossScale,
}

impl Session {
    /// Draws the initial weights.
    ///
    /// # Errors
    /// When the device refuses a tensor.
    pub fn new(config: &RunConfig, vocab_size: usize, device: &Device, kernels: Kernels) -> Result<Self> {
        let params = ParamStore::new(config.seed, DType::F32, device);
        let recipe = config.precision.resolve()?;
        device::check_recipe(device, &recipe)?;
        check_head(config, &recipe, vocab_size)?;
        let loss_scale = LossScale::new(recipe.loss_scaling);
        let precision = Precision::new(recipe, Key::new(config.seed, Purpose::Rounding).u64());
        let model = Transformer::new(&config.model, vocab_size, params.builder(), kernels, &precision)?;
        let eval_precision = precision.for_evaluation();
        let eval_model =
            Transformer::new(&config.model, vocab_size, params.detached_builder(), kernels, &eval_precision)?;
        stress::plant(&config.stress, &params)?;
        let optimizer = AdamW::new(&config.optim, &params, kernels, &precision)?;
        Ok(Self {
            config: config.clone(),
            device: device.clone(),
            params,
            model,
            eval_model,
            optimizer,
            precision,
            loss_scale,
        })
    }

    /// Keeps for the backward pass what `saving` says; results do not depend on it.
    ///
    /// # Errors
    /// When blocks shall be computed again that cannot be: those of a recipe below f32, or not fused.
    pub fn set_saving(&mut self, saving: Saving, kernels: Kernels) -> Result<()> {
        let fused = kernels == Kernels::Portable && self.device.is_cpu() && self.config.model.dropout == 0.0;
        if saving == Saving::Recompute && !(fused && self.precision.recipe().is_full()) {
            bail!(
                "only blocks in fp32 on the CPU, with the portable kernels and without dropout, can be computed again \
                 (--recompute); leave it out, and raise train.micro_batches to save memory"
            );
        }
        self.model = self.model.clone().saving(saving);
        Ok(())
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
        let loss_scale = self.loss_scale.factor();
        let mut stats =
            StepStats { loss, grad_norm: f64::NAN, lr, loss_scale, skipped: false, non_finite: 0 };
        // The step that meets an outlier is looked at whatever its number.
        let looked_at = due(step + 1, self.config.precision.health_every());
        self.precision.begin_step(step, looked_at || self.config.stress.is_outlier(step + 1));
        for part in 0..parts {
            if part > 0 {
                self.precision.next_pass();
            }
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
            stats.loss = loss;
            if !loss.is_finite() {
                stats.non_finite = self.precision.non_finite();
                return Ok(stats);
            }
            let scaled = if loss_scale == 1.0 { part_loss } else { (part_loss * loss_scale)? };
            total.add(kernels::backward(&scaled)?, &self.params)?;
        }
        let grads = total.0.context("a step needs at least one batch")?;
        stats.grad_norm = self.optimizer.step(&grads, lr, loss_scale)?.grad_norm;
        stats.skipped = self.loss_scale.update(stats.grad_norm.is_finite());
        stats.non_finite = self.precision.non_finite();
        Ok(stats)
    }

    /// How the quantised tensors fared in the last step that was looked at; empty otherwise.
    pub fn take_health(&self) -> Vec<TensorHealth> {
        self.precision.take_health()
    }

    /// The recipe and its state.
    pub fn precision(&self) -> &Precision {
        &self.precision
    }

    /// The loss scale and its state.
    pub fn loss_scale(&self) -> &LossScale {
        &self.loss_scale
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
        let mut moments = checkpoint.moments(&self.device)?;
        self.precision.restore(take_histories(&mut moments)?);
        if let Some(state) = checkpoint.state.loss_scale {
            self.loss_scale.restore(state);
        }
        self.optimizer
            .restore(&moments, checkpoint.state.updates)
            .with_context(|| format!("checkpoint {} does not fit this model", checkpoint.path.display()))
    }

    /// What [`Session::restore`] needs besides the weights: moments by tensor name, and what delayed scaling remembers.
    ///
    /// # Errors
    /// When the device refuses a tensor.
    pub fn state_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = self.optimizer.moments();
        for (operand, amaxes) in self.precision.histories() {
            let len = amaxes.len();
            tensors.push((format!("{HISTORY}{operand}"), Tensor::from_vec(amaxes, len, &Device::Cpu)?));
        }
        Ok(tensors)
    }

    /// Parameters counted on the real tensors, checked against what the config promises.
    ///
    /// # Errors
    /// When the two differ, which is a defect of ffnlab.
    pub fn param_counts(&self, vocab_size: usize) -> Result<ParamCounts> {
        let model = &self.config.model;
        let ffn = model.ffn.resolve(model.d_model)?;
        let promised = count_params(model, &ffn, vocab_size, self.precision.recipe().sub_norm);
        let real: usize = self.params.vars().iter().map(|p| p.var.elem_count()).sum();
        if real != promised.total {
            bail!("internal error: the model has {real} parameters, its config promises {}", promised.total);
        }
        Ok(promised)
    }
}

/// Whether the recipe fits the output head, whose width the config alone does not tell.
fn check_head(config: &RunConfig, recipe: &Recipe, vocab_size: usize) -> Result<()> {
    let ffn = config.model.ffn.resolve(config.model.d_model)?;
    let tokens = config.train.batch_size / config.train.micro_batches * config.model.seq_len;
    let sizes = Sizes { d_model: ffn.d_model, d_ff: ffn.d_ff, vocab_size: Some(vocab_size), tokens };
    recipe.check(sizes, matches!(ffn.kind, FfnKind::Gated { .. })).with_context(|| {
        format!("precision {} does not fit a vocabulary of {vocab_size} tokens; add \"lm_head\" to precision.skip", recipe.name)
    })
}

/// What the names of delayed scaling's tensors start with in a checkpoint.
const HISTORY: &str = "amax_history/";

/// Takes what delayed scaling remembers out of a checkpoint's tensors.
///
/// # Errors
/// When a tensor is not a list of f32.
pub fn take_histories(tensors: &mut HashMap<String, Tensor>) -> Result<Vec<(String, Vec<f32>)>> {
    let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(HISTORY)).cloned().collect();
    let mut histories = Vec::with_capacity(names.len());
    for name in names {
        if let Some(tensor) = tensors.remove(&name) {
            let amaxes = tensor.to_vec1().with_context(|| format!("{name} in the checkpoint"))?;
            histories.push((name[HISTORY.len()..].to_owned(), amaxes));
        }
    }
    Ok(histories)
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
