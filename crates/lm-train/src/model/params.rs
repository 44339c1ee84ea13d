//! The trainable tensors of a run: drawn by name, listed in the order of the model.
//!
//! A tensor's initial value depends on the seed, its name and its shape alone, so two variants of one seed start from
//! the same value in every tensor that both have.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::{SimpleBackend, VarBuilder};

use crate::rng::{Key, Purpose};

/// A named trainable tensor.
#[derive(Clone, Debug)]
pub struct NamedVar {
    /// Hugging Face name, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// The tensor.
    pub var: Var,
}

/// All trainable tensors of one model.
#[derive(Clone)]
pub struct ParamStore {
    key: Key,
    dtype: DType,
    device: Device,
    vars: Arc<Mutex<Vec<NamedVar>>>,
}

/// Whether the tensors a builder hands out take part in differentiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tracking {
    Variables,
    Detached,
}

struct Backend {
    store: ParamStore,
    tracking: Tracking,
}

impl ParamStore {
    /// An empty store whose draws are keyed by `seed`. Values are drawn in f32 whatever `dtype` holds them, so that a
    /// check in f64 starts from the weights of the f32 run.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self { key: Key::new(seed, Purpose::Init), dtype, device: device.clone(), vars: Arc::default() }
    }

    /// Builder for a model that is trained: missing tensors are drawn, gradients reach them.
    pub fn builder(&self) -> VarBuilder<'static> {
        self.builder_with(Tracking::Variables)
    }

    /// Builder for a second view of the same tensors without gradients, for evaluation: no graph is recorded, and
    /// updates of the variables are seen.
    pub fn detached_builder(&self) -> VarBuilder<'static> {
        self.builder_with(Tracking::Detached)
    }

    fn builder_with(&self, tracking: Tracking) -> VarBuilder<'static> {
        let backend: Box<dyn SimpleBackend> = Box::new(Backend { store: self.clone(), tracking });
        VarBuilder::from_backend(backend, self.dtype, self.device.clone())
    }

    /// The tensors in the order in which the model asked for them.
    pub fn vars(&self) -> Vec<NamedVar> {
        self.lock().clone()
    }

    /// Device of all tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<NamedVar>> {
        // A panic while the list was held leaves it whole: entries are only ever pushed.
        self.vars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, shape: &Shape, name: &str, init: candle_nn::Init) -> Result<Tensor> {
        let values = match init {
            candle_nn::Init::Const(value) => Tensor::full(value as f32, shape, &self.device),
            candle_nn::Init::Randn { mean, stdev } => {
                let mut values = self.key.named(name).normal_f32(shape.elem_count(), stdev);
                values.iter_mut().for_each(|v| *v += mean as f32);
                Tensor::from_vec(values, shape, &self.device)
            }
            candle_nn::Init::Uniform { .. } | candle_nn::Init::Kaiming { .. } => {
                candle_core::bail!("{name}: only constant and normal initialisation are keyed")
            }
        }?;
        values.to_dtype(self.dtype)
    }
}

impl SimpleBackend for Backend {
    fn get(&self, shape: Shape, name: &str, init: candle_nn::Init, _: DType, _: &Device) -> Result<Tensor> {
        let mut vars = self.store.lock();
        let var = match vars.iter().find(|entry| entry.name == name) {
            Some(entry) => entry.var.clone(),
            None => {
                let var = Var::from_tensor(&self.store.draw(&shape, name, init)?)?;
                vars.push(NamedVar { name: name.to_owned(), var: var.clone() });
                var
            }
        };
        if var.shape() != &shape {
            candle_core::bail!("{name} has shape {:?}, the model wants {shape:?}", var.shape());
        }
        Ok(match self.tracking {
            Tracking::Variables => var.as_tensor().clone(),
            Tracking::Detached => var.as_detached_tensor(),
        })
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match self.store.lock().iter().find(|entry| entry.name == name) {
            Some(entry) => Ok(entry.var.as_tensor().clone()),
            None => candle_core::bail!("no tensor named {name}"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.store.lock().iter().any(|entry| entry.name == name)
    }
}
