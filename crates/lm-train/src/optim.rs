//! AdamW with serialisable f32 moments (Loshchilov & Hutter 2019) and global-norm clipping.
//!
//! Candle's own AdamW hides its moments, so a run could not be resumed bit for bit.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor};
use kernels::{AdamWStep, AdamWTensor, Kernels};

use ffn_variants::Precision;
use numerics::NumericFormat;

use crate::config::OptimConfig;
use crate::model::{NamedVar, ParamStore};

/// What one update saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateStats {
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Factor applied to the gradient, 1 when nothing was clipped.
    pub clip_scale: f64,
}

/// One tensor with its moments: [2, ...shape], first moment then second, f32.
#[derive(Clone, Debug)]
struct Slot {
    param: NamedVar,
    moments: Tensor,
    decays: bool,
}

/// The optimizer.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: OptimConfig,
    slots: Vec<Slot>,
    updates: u64,
    kernels: Kernels,
    precision: Precision,
}

impl AdamW {
    /// Zero moments for every tensor of `params`. Decay applies to matrices only. Between steps, weights and moments are
    /// stored as the recipe of `precision` says; the update itself is computed in f32.
    ///
    /// # Errors
    /// When the device refuses the moments.
    pub fn new(
        config: &OptimConfig,
        params: &ParamStore,
        kernels: Kernels,
        precision: &Precision,
    ) -> Result<Self> {
        let slot = |param: NamedVar| {
            let mut shape = vec![2];
            shape.extend_from_slice(param.var.dims());
            let decays = param.var.rank() >= 2;
            Ok(Slot { moments: Tensor::zeros(shape, DType::F32, param.var.device())?, param, decays })
        };
        let slots = params.vars().into_iter().map(slot).collect::<Result<_>>()?;
        let precision = precision.clone();
        let this = Self { config: config.clone(), slots, updates: 0, kernels, precision };
        for slot in &this.slots {
            this.store_weight(slot)?;
        }
        Ok(this)
    }

    /// Clips the gradient to the configured norm and updates every tensor with rate `lr`. The gradient is that of
    /// `loss_scale` times the loss. When it is not finite nothing is changed; the caller sees it in the norm.
    ///
    /// # Errors
    /// When a tensor got no gradient, which means that the graph lost it.
    pub fn step(&mut self, grads: &GradStore, lr: f64, loss_scale: f64) -> Result<UpdateStats> {
        let grads = self.gradients(grads)?;
        let grad_norm = kernels::grad_sq_norm(&grads)?.sqrt() / loss_scale;
        let clip = self.config.grad_clip;
        let clip_scale = if clip > 0.0 && grad_norm > clip { clip / grad_norm } else { 1.0 };
        let stats = UpdateStats { grad_norm, clip_scale };
        if !grad_norm.is_finite() {
            return Ok(stats);
        }
        self.updates += 1;
        let power = i32::try_from(self.updates).unwrap_or(i32::MAX);
        let step = |decays: bool| AdamWStep {
            lr,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: if decays { self.config.weight_decay } else { 0.0 },
            bias_correction1: 1.0 - self.config.beta1.powi(power),
            bias_correction2: 1.0 - self.config.beta2.powi(power),
            grad_scale: clip_scale / loss_scale,
        };
        let mut tensors = vec![];
        for (Slot { param, moments, decays }, grad) in self.slots.iter().zip(&grads) {
            tensors.push(AdamWTensor { theta: &param.var, grad, moments, step: step(*decays) });
        }
        kernels::adamw_step(self.kernels, &tensors)?;
        for slot in &self.slots {
            self.store_moments(slot)?;
            self.store_weight(slot)?;
        }
        Ok(stats)
    }

    /// Rounds a weight to what the recipe stores.
    fn store_weight(&self, slot: &Slot) -> Result<()> {
        let master = &self.precision.recipe().master;
        if master.format == NumericFormat::Fp32 {
            return Ok(());
        }
        kernels::quantize_in_place(&slot.param.var, master, self.precision.storage_key(&slot.param.name))
    }

    /// Rounds the moments to what the recipe stores.
    fn store_moments(&self, slot: &Slot) -> Result<()> {
        let recipe = self.precision.recipe();
        for (index, spec) in [&recipe.first_moment, &recipe.second_moment].into_iter().enumerate() {
            if spec.format != NumericFormat::Fp32 {
                let name = format!("{}/moment{index}", slot.param.name);
                let moment = slot.moments.get(index)?;
                kernels::quantize_in_place(&moment, spec, self.precision.storage_key(&name))?;
            }
        }
        Ok(())
    }

    fn gradients(&self, grads: &GradStore) -> Result<Vec<Tensor>> {
        let find = |slot: &Slot| match grads.get(&slot.param.var) {
            Some(grad) => Ok(grad.clone()),
            None => candle_core::bail!("{} received no gradient", slot.param.name),
        };
        self.slots.iter().map(find).collect()
    }

    /// Number of updates made, the `t` of the bias correction.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Moments by tensor name, each [2, ...shape].
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        self.slots.iter().map(|slot| (slot.param.name.clone(), slot.moments.clone())).collect()
    }

    /// Puts back what [`AdamW::moments`] and [`AdamW::updates`] gave.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn restore(
        &mut self,
        moments: &std::collections::HashMap<String, Tensor>,
        updates: u64,
    ) -> Result<()> {
        for slot in &mut self.slots {
            let name = &slot.param.name;
            let Some(found) = moments.get(name) else { candle_core::bail!("no moments for {name}") };
            if found.shape() != slot.moments.shape() {
                candle_core::bail!(
                    "moments of {name}: {:?}, expected {:?}",
                    found.shape(),
                    slot.moments.shape()
                );
            }
            slot.moments = found.to_device(slot.param.var.device())?.contiguous()?;
        }
        self.updates = updates;
        Ok(())
    }
}
