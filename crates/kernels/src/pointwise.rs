//! Activations and gated products of activations, fused into one pass over memory.
//!
//! A gated feed-forward block forms gate_fn(gate) * up_fn(up). In Candle calls this is half a dozen passes
//! over tensors of d_ff features, and more in backward. Here blocks that fit the L1 cache are taken through
//! all of it at once. What the functions are is the caller's business: see [`Pointwise`].

use crate::Kernels;
use crate::buffers::{elements, fill, fill_beside, fill_one, with_elements};
use crate::profile::{Part, Work, span};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use std::{fmt::Debug, sync::Arc};

/// A function of one number, as loops over slices of equal length.
///
/// Write the loops with [`multiversion!`](crate::multiversion) to have them vectorised.
pub trait Pointwise: Debug + Send + Sync {
    /// y = f(x).
    fn value(&self, x: &[f32], y: &mut [f32]);

    /// y = f(x) and dydx = f'(x).
    fn value_and_derivative(&self, x: &[f32], y: &mut [f32], dydx: &mut [f32]);

    /// Whether f(x) is x, which spares passes over it.
    fn is_identity(&self) -> bool {
        false
    }
}

/// f(x), element by element; the gradient is dy f'(x).
///
/// # Errors
/// When the reference would have to run, which only the owner of `f` knows: ask [`Kernels::for_tensors`]
/// first.
pub fn ungated(kernels: Kernels, x: &Tensor, f: Arc<dyn Pointwise>) -> Result<Tensor> {
    match kernels.for_tensors(&[x]) {
        Kernels::Reference => no_reference(&*f),
        Kernels::Portable => {
            span(Part::Activation, Work::floats(2 * x.elem_count()), || x.contiguous()?.apply_op1(Ungated(f)))
        }
    }
}

/// gate_fn(gate) * up_fn(up), element by element, for tensors of one shape.
///
/// # Errors
/// When the shapes differ, and as [`ungated`].
pub fn gated(
    kernels: Kernels,
    gate: &Tensor,
    up: &Tensor,
    gate_fn: Arc<dyn Pointwise>,
    up_fn: Arc<dyn Pointwise>,
) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("gated: gate {:?} and up {:?} differ in shape", gate.dims(), up.dims());
    }
    match kernels.for_tensors(&[gate, up]) {
        Kernels::Reference => no_reference(&*gate_fn),
        Kernels::Portable => span(Part::Activation, Work::floats(3 * gate.elem_count()), || {
            gate.contiguous()?.apply_op2(&up.contiguous()?, Gated { gate_fn, up_fn })
        }),
    }
}

fn no_reference(f: &dyn Pointwise) -> Result<Tensor> {
    candle_core::bail!("{f:?}: slices of f32 on the CPU only; other tensors need its Candle reference")
}

/// Floats per task: the seven blocks that gated backward touches leave a little room in an L1 cache of 32
/// KiB.
const BLOCK: usize = 1024;

/// The part of `data` that belongs to a task.
fn block(data: &[f32], task: usize) -> &[f32] {
    &data[task * BLOCK..data.len().min((task + 1) * BLOCK)]
}

struct Ungated(Arc<dyn Pointwise>);

impl CustomOp1 for Ungated {
    fn name(&self) -> &'static str {
        "ungated"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(x, layout)?;
        Ok((CpuStorage::F32(value(&*self.0, x, |_| {})), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let backward = |[x, dy]: [&[f32]; 2]| {
            Ok(fill_one(x.len(), BLOCK, |task, dx| {
                let mut y = [0.0; BLOCK];
                self.0.value_and_derivative(block(x, task), &mut y[..dx.len()], dx);
                multiply(dx, block(dy, task));
            }))
        };
        let work = Work::floats(3 * x.elem_count());
        let dx = span(Part::Activation, work, || with_elements([x, &dy.contiguous()?], backward))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

struct Gated {
    gate_fn: Arc<dyn Pointwise>,
    up_fn: Arc<dyn Pointwise>,
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (elements(gate, gate_layout)?, elements(up, up_layout)?);
        let y = product([gate, up], [&*self.gate_fn, &*self.up_fn], |_| {});
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let backward = |[gate, up, dy]: [&[f32]; 3]| {
            let functions = [&*self.gate_fn, &*self.up_fn];
            let (gradients, _) = fill(gate.len(), BLOCK, |task, gradients| {
                let mut values = [[0.0; BLOCK]; 2];
                let values = values.each_mut().map(|value| &mut value[..gradients[0].len()]);
                gated_block([gate, up, dy].map(|x| block(x, task)), functions, values, gradients);
            });
            Ok(gradients)
        };
        let work = Work::floats(5 * gate.elem_count());
        let [of_gate, of_up] =
            span(Part::Activation, work, || with_elements([gate, up, &dy.contiguous()?], backward))?;
        let tensor = |gradient| Tensor::from_vec(gradient, gate.shape(), gate.device());
        Ok((Some(tensor(of_gate)?), Some(tensor(of_up)?)))
    }
}

/// f(x), rounded by `round`.
pub(crate) fn value(f: &dyn Pointwise, x: &[f32], round: impl Fn(&mut [f32]) + Sync) -> Vec<f32> {
    fill_one(x.len(), BLOCK, |task, y| {
        f.value(block(x, task), y);
        round(y);
    })
}

/// f(x) and dy f'(x), which takes the place of dy. f(x) and dy are rounded by `round`.
pub(crate) fn value_and_gradient(
    f: &dyn Pointwise,
    x: &[f32],
    mut dy: Vec<f32>,
    round: impl Fn(&mut [f32]) + Sync,
) -> [Vec<f32>; 2] {
    let [y] = fill_beside(&mut dy, BLOCK, |task, dy, [y]| {
        let mut slope = [0.0; BLOCK];
        let slope = &mut slope[..dy.len()];
        f.value_and_derivative(block(x, task), y, slope);
        round(y);
        round(dy);
        multiply(dy, slope);
    });
    [y, dy]
}

/// y ← f(x) and dx ← dy f'(x), on the calling thread.
pub(crate) fn value_and_gradient_into(f: &dyn Pointwise, [x, dy]: [&[f32]; 2], [y, dx]: [&mut [f32]; 2]) {
    let inputs = x.chunks(BLOCK).zip(dy.chunks(BLOCK));
    for ((x, dy), (y, dx)) in inputs.zip(y.chunks_mut(BLOCK).zip(dx.chunks_mut(BLOCK))) {
        f.value_and_derivative(x, y, dx);
        multiply(dx, dy);
    }
}

/// gate_fn(gate) * up_fn(up), rounded by `round`.
pub(crate) fn product(
    [gate, up]: [&[f32]; 2],
    functions: [&dyn Pointwise; 2],
    round: impl Fn(&mut [f32]) + Sync,
) -> Vec<f32> {
    fill_one(gate.len(), BLOCK, |task, y| {
        product_into([gate, up].map(|x| block(x, task)), functions, y);
        round(y);
    })
}

/// y ← gate_fn(gate) * up_fn(up), on the calling thread.
pub(crate) fn product_into([gate, up]: [&[f32]; 2], [gate_fn, up_fn]: [&dyn Pointwise; 2], y: &mut [f32]) {
    for ((gate, up), y) in gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(y.chunks_mut(BLOCK)) {
        gate_fn.value(gate, y);
        if up_fn.is_identity() {
            multiply(y, up);
        } else {
            let mut scratch = [0.0; BLOCK];
            let up_value = &mut scratch[..y.len()];
            up_fn.value(up, up_value);
            multiply(y, up_value);
        }
    }
}

/// The product, and the gradients of gate and up, of which the latter takes the place of dy. The product and dy are rounded by
/// `round`.
pub(crate) fn product_and_gradients(
    [gate, up]: [&[f32]; 2],
    functions: [&dyn Pointwise; 2],
    mut dy: Vec<f32>,
    round: impl Fn(&mut [f32]) + Sync,
) -> [Vec<f32>; 3] {
    let [product, of_gate] = fill_beside(&mut dy, BLOCK, |task, of_up, [y, of_gate]| {
        let mut dy = [0.0; BLOCK];
        let dy = &mut dy[..y.len()];
        dy.copy_from_slice(of_up);
        round(dy);
        let inputs = [block(gate, task), block(up, task), dy];
        product_and_gradients_into(inputs, functions, [&mut *y, of_gate, of_up]);
        round(y);
    });
    [product, of_gate, dy]
}

/// The product, and the gradients of gate and up, on the calling thread.
pub(crate) fn product_and_gradients_into(
    [gate, up, dy]: [&[f32]; 3],
    functions: [&dyn Pointwise; 2],
    [y, of_gate, of_up]: [&mut [f32]; 3],
) {
    let inputs = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(dy.chunks(BLOCK));
    let results = y.chunks_mut(BLOCK).zip(of_gate.chunks_mut(BLOCK)).zip(of_up.chunks_mut(BLOCK));
    for (((gate, up), dy), ((y, of_gate), of_up)) in inputs.zip(results) {
        if functions[1].is_identity() {
            gated_block([gate, up, dy], functions, [&mut *y, &mut []], [of_gate, of_up]);
            multiply(y, up);
        } else {
            let mut scratch = [0.0; BLOCK];
            let up_value = &mut scratch[..y.len()];
            gated_block([gate, up, dy], functions, [&mut *y, &mut *up_value], [of_gate, of_up]);
            multiply(y, up_value);
        }
    }
}

/// Values of both functions, and gradients of both arguments of their product, in one block. The value of an identity is
/// left out.
fn gated_block(
    [gate, up, dy]: [&[f32]; 3],
    [gate_fn, up_fn]: [&dyn Pointwise; 2],
    [gate_value, up_value]: [&mut [f32]; 2],
    [of_gate, of_up]: [&mut [f32]; 2],
) {
    gate_fn.value_and_derivative(gate, gate_value, of_gate);
    if up_fn.is_identity() {
        bilinear_rule(dy, gate_value, up, of_gate, of_up);
    } else {
        up_fn.value_and_derivative(up, up_value, of_up);
        product_rule(dy, gate_value, up_value, of_gate, of_up);
    }
}

crate::multiversion! {
    /// y ← y * factor.
    fn multiply(y: &mut [f32], factor: &[f32]) {
        for (y, factor) in y.iter_mut().zip(factor) {
            *y *= factor;
        }
    }

    /// From derivatives of the factors to gradients: of_gate ← dy up of_gate, of_up ← dy gate of_up.
    fn product_rule(dy: &[f32], gate: &[f32], up: &[f32], of_gate: &mut [f32], of_up: &mut [f32]) {
        let n = dy.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        let (of_gate, of_up) = (&mut of_gate[..n], &mut of_up[..n]);
        for i in 0..n {
            of_gate[i] *= dy[i] * up[i];
            of_up[i] *= dy[i] * gate[i];
        }
    }

    /// The same where up is not a function's value but its argument: of_up ← dy gate.
    fn bilinear_rule(dy: &[f32], gate: &[f32], up: &[f32], of_gate: &mut [f32], of_up: &mut [f32]) {
        let n = dy.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        let (of_gate, of_up) = (&mut of_gate[..n], &mut of_up[..n]);
        for i in 0..n {
            of_gate[i] *= dy[i] * up[i];
            of_up[i] = dy[i] * gate[i];
        }
    }
}

#[cfg(test)]
mod tests;
