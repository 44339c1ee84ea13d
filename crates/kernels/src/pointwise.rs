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
        Ok((CpuStorage::F32(value(&*self.0, x)), layout.shape().clone()))
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
        let y = product([gate, up], [&*self.gate_fn, &*self.up_fn]);
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

/// f(x).
pub(crate) fn value(f: &dyn Pointwise, x: &[f32]) -> Vec<f32> {
    fill_one(x.len(), BLOCK, |task, y| f.value(block(x, task), y))
}

/// f(x) and dy f'(x), which takes the place of dy.
pub(crate) fn value_and_gradient(f: &dyn Pointwise, x: &[f32], mut dy: Vec<f32>) -> [Vec<f32>; 2] {
    let [y] = fill_beside(&mut dy, BLOCK, |task, dy, [y]| {
        let mut slope = [0.0; BLOCK];
        let slope = &mut slope[..dy.len()];
        f.value_and_derivative(block(x, task), y, slope);
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

/// gate_fn(gate) * up_fn(up).
pub(crate) fn product([gate, up]: [&[f32]; 2], functions: [&dyn Pointwise; 2]) -> Vec<f32> {
    fill_one(gate.len(), BLOCK, |task, y| product_into([gate, up].map(|x| block(x, task)), functions, y))
}

/// y ← gate_fn(gate) * up_fn(up), on the calling thread.
pub(crate) fn product_into([gate, up]: [&[f32]; 2], [gate_fn, up_fn]: [&dyn Pointwise; 2], y: &mut [f32]) {
    let mut scratch = [0.0; BLOCK];
    for ((gate, up), y) in gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(y.chunks_mut(BLOCK)) {
        gate_fn.value(gate, y);
        if up_fn.is_identity() {
            multiply(y, up);
        } else {
            let up_value = &mut scratch[..y.len()];
            up_fn.value(up, up_value);
            multiply(y, up_value);
        }
    }
}

/// The product, and the gradients of gate and up, of which the latter takes the place of dy.
pub(crate) fn product_and_gradients(
    [gate, up]: [&[f32]; 2],
    functions: [&dyn Pointwise; 2],
    mut dy: Vec<f32>,
) -> [Vec<f32>; 3] {
    let [product, of_gate] = fill_beside(&mut dy, BLOCK, |task, of_up, [y, of_gate]| {
        let mut dy = [0.0; BLOCK];
        let dy = &mut dy[..y.len()];
        dy.copy_from_slice(of_up);
        let inputs = [block(gate, task), block(up, task), dy];
        product_and_gradients_into(inputs, functions, [y, of_gate, of_up]);
    });
    [product, of_gate, dy]
}

/// The product, and the gradients of gate and up, on the calling thread.
pub(crate) fn product_and_gradients_into(
    [gate, up, dy]: [&[f32]; 3],
    functions: [&dyn Pointwise; 2],
    [y, of_gate, of_up]: [&mut [f32]; 3],
) {
    let mut scratch = [0.0; BLOCK];
    let inputs = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(dy.chunks(BLOCK));
    let results = y.chunks_mut(BLOCK).zip(of_gate.chunks_mut(BLOCK)).zip(of_up.chunks_mut(BLOCK));
    for (((gate, up), dy), ((y, of_gate), of_up)) in inputs.zip(results) {
        let up_value = &mut scratch[..y.len()];
        gated_block([gate, up, dy], functions, [&mut *y, &mut *up_value], [of_gate, of_up]);
        multiply(y, if functions[1].is_identity() { up } else { up_value });
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
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::{DType, Device, Var};

    /// Functions that are easily written in `f64`.
    #[derive(Clone, Copy, Debug)]
    enum Example {
        Cube,
        Logistic,
        Relu,
    }

    impl Example {
        const ALL: [Self; 3] = [Self::Cube, Self::Logistic, Self::Relu];

        fn f64(self, x: f64) -> f64 {
            match self {
                Self::Cube => x * x * x,
                Self::Logistic => 1.0 / (1.0 + (-x).exp()),
                Self::Relu => x.max(0.0),
            }
        }

        fn derivative_f64(self, x: f64) -> f64 {
            const STEP: f64 = 1e-6;
            (self.f64(x + STEP) - self.f64(x - STEP)) / (2.0 * STEP)
        }

        fn dual(self, x: f32) -> (f32, f32) {
            match self {
                Self::Cube => (x * x * x, 3.0 * x * x),
                Self::Logistic => {
                    let y = crate::math::sigmoid(x);
                    (y, y * (1.0 - y))
                }
                Self::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            }
        }
    }

    impl Pointwise for Example {
        fn value(&self, x: &[f32], y: &mut [f32]) {
            assert_eq!(x.len(), y.len());
            x.iter().zip(y).for_each(|(&x, y)| *y = self.dual(x).0);
        }

        fn value_and_derivative(&self, x: &[f32], y: &mut [f32], dydx: &mut [f32]) {
            assert!(x.len() == y.len() && x.len() == dydx.len());
            x.iter().zip(y).zip(dydx).for_each(|((&x, y), dydx)| (*y, *dydx) = self.dual(x));
        }
    }

    const LENGTHS: [usize; 6] = [0, 1, 77, BLOCK, BLOCK + 1, 9 * BLOCK + 3];

    /// f(x1, x2, ...) element by element in `f64`.
    fn exactly<const N: usize>(inputs: [&Tensor; N], f: impl Fn([f64; N]) -> f64) -> Result<Tensor> {
        let mut columns = [(); N].map(|()| vec![]);
        for (column, x) in columns.iter_mut().zip(inputs) {
            *column = x.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        }
        let n = columns[0].len();
        let values: Vec<f64> = (0..n).map(|i| f(std::array::from_fn(|k| columns[k][i]))).collect();
        Tensor::from_vec(values, n, &Device::Cpu)
    }

    #[test]
    fn ungated_is_the_function_and_its_derivative() -> Result<()> {
        for f in Example::ALL {
            let op = |x: &[Tensor]| ungated(Kernels::Portable, &x[0], Arc::new(f));
            for n in LENGTHS {
                let (x, form) = ((random(1, n)? * 3.0)?, random(99, n)?);
                let got = value_and_gradients(op, std::slice::from_ref(&x))?;
                assert_close(&got[0], &exactly([&x], |[x]| f.f64(x))?, 1e-6)?;
                let slope = exactly([&x, &form], |[x, form]| form * f.derivative_f64(x))?;
                assert_close(&got[1], &slope, 1e-6)?;
                let spread = value_and_gradients(|x| op(&[strided(&x[0])?]), std::slice::from_ref(&x))?;
                assert_close(&spread[1], &got[1], 0.0)?;
                same_bits_in_every_pool(|| value_and_gradients(op, std::slice::from_ref(&x)))?;
            }
        }
        Ok(())
    }

    #[test]
    fn gated_is_the_product_and_its_derivatives() -> Result<()> {
        for (gate_fn, up_fn) in Example::ALL.into_iter().flat_map(|g| Example::ALL.map(|u| (g, u))) {
            let op =
                |x: &[Tensor]| gated(Kernels::Portable, &x[0], &x[1], Arc::new(gate_fn), Arc::new(up_fn));
            for n in LENGTHS {
                let inputs = [(random(1, n)? * 2.0)?, (random(2, n)? * 2.0)?];
                let [gate, up] = &inputs;
                let form = random(99, n)?;
                let got = value_and_gradients(op, &inputs)?;
                let value = exactly([gate, up], |[g, u]| gate_fn.f64(g) * up_fn.f64(u))?;
                let of_gate =
                    exactly([gate, up, &form], |[g, u, y]| y * gate_fn.derivative_f64(g) * up_fn.f64(u))?;
                let of_up =
                    exactly([gate, up, &form], |[g, u, y]| y * gate_fn.f64(g) * up_fn.derivative_f64(u))?;
                for (got, exact) in got.iter().zip([value, of_gate, of_up]) {
                    assert_close(got, &exact, 1e-6)?;
                }
                let spread = value_and_gradients(|x| op(&[strided(&x[0])?, strided(&x[1])?]), &inputs)?;
                for (spread, got) in spread.iter().zip(&got) {
                    assert_close(spread, got, 0.0)?;
                }
                same_bits_in_every_pool(|| value_and_gradients(op, &inputs))?;
            }
        }
        Ok(())
    }

    #[test]
    fn takes_strided_gradients() -> Result<()> {
        let op = Gated { gate_fn: Arc::new(Example::Logistic), up_fn: Arc::new(Example::Cube) };
        check_strided_gradient2(&op, &random(1, (3, 50))?, &random(2, (3, 50))?)?;
        let (op, x, dy) = (Ungated(Arc::new(Example::Cube)), random(1, (3, 50))?, random(2, (3, 50))?);
        let packed = op.bwd(&x, &x, &dy)?.expect("x has a gradient");
        let spread = op.bwd(&x, &x, &strided(&dy)?)?.expect("x has a gradient");
        assert_close(&packed, &spread, 0.0)
    }

    #[test]
    fn one_tensor_may_be_gate_and_up() -> Result<()> {
        let x = Var::from_tensor(&random(1, 9)?)?;
        let relu: Arc<dyn Pointwise> = Arc::new(Example::Relu);
        let y = gated(Kernels::Portable, &x, &x, relu.clone(), relu)?;
        let gradient = y.sum_all()?.backward()?.remove(&x).expect("x has a gradient");
        assert_close(&gradient, &exactly([&x], |[x]| 2.0 * x.max(0.0))?, 1e-6)
    }

    #[test]
    fn what_cannot_run_is_an_error() -> Result<()> {
        let (x, f) = (random(1, 4)?, Arc::new(Example::Cube));
        assert!(ungated(Kernels::Reference, &x, f.clone()).is_err());
        assert!(ungated(Kernels::Portable, &x.to_dtype(DType::F64)?, f.clone()).is_err());
        assert!(gated(Kernels::Portable, &x, &random(2, (2, 2))?, f.clone(), f).is_err());
        Ok(())
    }
}
