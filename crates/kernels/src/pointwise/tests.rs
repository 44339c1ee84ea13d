//! Fused activations against f64.

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
        let op = |x: &[Tensor]| gated(Kernels::Portable, &x[0], &x[1], Arc::new(gate_fn), Arc::new(up_fn));
        for n in LENGTHS {
            let inputs = [(random(1, n)? * 2.0)?, (random(2, n)? * 2.0)?];
            let [gate, up] = &inputs;
            let form = random(99, n)?;
            let got = value_and_gradients(op, &inputs)?;
            let value = exactly([gate, up], |[g, u]| gate_fn.f64(g) * up_fn.f64(u))?;
            let of_gate =
                exactly([gate, up, &form], |[g, u, y]| y * gate_fn.derivative_f64(g) * up_fn.f64(u))?;
            let of_up = exactly([gate, up, &form], |[g, u, y]| y * gate_fn.f64(g) * up_fn.derivative_f64(u))?;
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
