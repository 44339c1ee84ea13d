//! Gradients of any number of weights through one edge of Candle's graph.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Storage, Tensor};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    /// Variables and their gradients, while [`backward`] runs on this thread.
    static GATHERED: RefCell<Option<Vec<(Tensor, Tensor)>>> = const { RefCell::new(None) };
}

/// The gradients of a scalar, as [`Tensor::backward`] gives them, with fewer passes over memory.
///
/// Candle makes zeros for every gradient and adds to them, in threads of its own that go on spinning for a while on cores
/// where others are about to work. Weights of fused blocks that are variables are spared that here.
///
/// # Errors
/// When the backward pass fails.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    /// Puts back what was gathered before, whatever happens.
    struct Before(Option<Vec<(Tensor, Tensor)>>);

    impl Drop for Before {
        fn drop(&mut self) {
            GATHERED.set(self.0.take());
        }
    }

    let before = Before(GATHERED.replace(Some(vec![])));
    let mut gradients = loss.backward()?;
    let gathered = GATHERED.take().unwrap_or_default();
    drop(before);
    for (weight, gradient) in gathered {
        let sum = match gradients.remove(&weight) {
            Some(earlier) => (earlier + gradient)?,
            None => gradient,
        };
        gradients.insert(&weight, sum);
    }
    Ok(gradients)
}

/// Leaves a variable's gradient to a running [`backward`], or gives it back.
fn gather(weight: &Tensor, gradient: Tensor) -> Option<Tensor> {
    GATHERED.with_borrow_mut(|gathered| match gathered {
        Some(gathered) if weight.is_variable() => {
            gathered.push((weight.clone(), gradient));
            None
        }
        Some(_) | None => Some(gradient),
    })
}

/// Where a block leaves the gradient of one weight.
type Cell = Arc<Mutex<Option<Vec<f32>>>>;

/// A scalar that depends on all weights of a block, by a chain of links with one weight each. The block takes it
/// as an argument. In the backward pass the block comes first: it leaves its weights' gradients in the cells, and
/// each link hands one of them to [`backward`], or to Candle, which adds it to what else the weight gets.
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
        let gradient = Tensor::from_vec(gradient, weight.shape(), weight.device())?;
        Ok((gather(weight, gradient), earlier.track_op().then(|| grad.clone())))
    }
}
