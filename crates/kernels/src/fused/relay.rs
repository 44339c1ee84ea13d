//! Gradients of any number of weights through one edge of Candle's graph.

use crate::gathered::{Gradient, gather};
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Storage, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a block leaves the gradient of one weight.
type Cell = Arc<Mutex<Option<Vec<f32>>>>;

/// A scalar that depends on all weights of a block, by a chain of links with one weight each. The block takes it
/// as an argument. In the backward pass the block comes first: it leaves its weights' gradients in the cells, and
/// each link hands one of them to [`backward`](crate::backward), or to Candle, which adds it to what else the weight gets.
pub(super) struct Relay {
    weights: Vec<Tensor>,
    cells: Vec<Cell>,
}

impl Relay {
    /// For f32 weights on the CPU, whose gradients come in this order.
    pub(super) fn new<'a>(weights: impl IntoIterator<Item = &'a Tensor>) -> Result<Self> {
        let weights = weights.into_iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
        let cells = weights.iter().map(|_| Cell::default()).collect();
        Ok(Self { weights, cells })
    }

    /// The scalar.
    pub(super) fn scalar(&self) -> Result<Tensor> {
        let mut scalar = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
        for (weight, cell) in self.weights.iter().zip(&self.cells) {
            scalar = weight.apply_op2(&scalar, Link(cell.clone()))?;
        }
        Ok(scalar)
    }

    /// Calls `f` with the values of all weights.
    pub(super) fn with_weights<R>(&self, f: impl FnOnce(&[&[f32]]) -> Result<R>) -> Result<R> {
        let locked: Vec<_> = self.weights.iter().map(Tensor::storage_and_layout).collect();
        let mut values = Vec::with_capacity(locked.len());
        for (storage, layout) in &locked {
            match &**storage {
                Storage::Cpu(storage) => values.push(crate::buffers::elements(storage, layout)?),
                Storage::Cuda(_) | Storage::Metal(_) => {
                    candle_core::bail!("fused blocks run on the CPU only")
                }
            }
        }
        f(&values)
    }

    /// Leaves the gradients, one per weight.
    pub(super) fn leave(&self, gradients: Vec<Vec<f32>>) {
        debug_assert_eq!(gradients.len(), self.cells.len());
        for (cell, gradient) in self.cells.iter().zip(gradients) {
            *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
        }
    }
}

struct Link(Cell);

impl CustomOp2 for Link {
    fn name(&self) -> &'static str {
        "weight-relay"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(
        &self,
        weight: &Tensor,
        earlier: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(gradient) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            candle_core::bail!("a fused block left no gradient for a weight of shape {:?}", weight.dims())
        };
        let gradient = gather(weight, Gradient::Dense(gradient))?;
        Ok((gradient, earlier.track_op().then(|| grad.clone())))
    }
}
