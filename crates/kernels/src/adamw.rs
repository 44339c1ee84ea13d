//! AdamW (Loshchilov & Hutter 2019, algorithm 2) in place, one step of all tensors.

use crate::Kernels;
use crate::buffers::{elements, elements_mut};
use crate::profile::{Part, Work, span};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub eps: f64,
    /// Decoupled decay: the parameter shrinks by lr weight_decay.
    pub weight_decay: f64,
    /// 1 - beta1^t in step t = 1, 2, ...
    pub bias_correction1: f64,
    /// 1 - beta2^t.
    pub bias_correction2: f64,
    /// Factor on the gradient, for clipping.
    pub grad_scale: f64,
}

/// A tensor to be updated.
#[derive(Clone, Copy, Debug)]
pub struct AdamWTensor<'a> {
    /// The parameter.
    pub theta: &'a Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// \[2, ..shape of theta\] in f32: m, then v.
    pub moments: &'a Tensor,
    /// The numbers of its step.
    pub step: AdamWStep,
}

/// Updates tensors and their moments from their gradients:
///
/// g = grad_scale grad, m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², θ ← θ (1 - lr weight_decay) - lr (m /
/// bias_correction1) / (√(v / bias_correction2) + eps), as PyTorch's AdamW does.
///
/// # Errors
/// When shapes do not fit, or `theta` or `moments` is not contiguous; then nothing has been updated.
pub fn adamw_step(kernels: Kernels, tensors: &[AdamWTensor<'_>]) -> Result<()> {
    tensors.iter().try_for_each(AdamWTensor::check)?;
    let all: Vec<_> = tensors.iter().flat_map(|tensor| [tensor.theta, tensor.grad, tensor.moments]).collect();
    match kernels.for_tensors(&all) {
        Kernels::Reference => tensors.iter().try_for_each(AdamWTensor::reference),
        // The gradient is read; theta, m and v are read and written.
        Kernels::Portable => {
            let floats: usize = tensors.iter().map(|tensor| 7 * tensor.theta.elem_count()).sum();
            let portable = || tensors.par_iter().try_for_each(AdamWTensor::portable);
            span(Part::Optimizer, Work::floats(floats), portable)
        }
    }
}

impl AdamWTensor<'_> {
    fn check(&self) -> Result<()> {
        let Self { theta, grad, moments, .. } = self;
        let fits = theta.dims() == grad.dims() && moments.dims() == [&[2], theta.dims()].concat();
        if !fits || moments.dtype() != DType::F32 || !theta.is_contiguous() || !moments.is_contiguous() {
            candle_core::bail!(
                "adamw: theta {:?}, gradient {:?} and {:?} moments {:?} do not fit, or are not contiguous",
                theta.dims(),
                grad.dims(),
                moments.dtype(),
                moments.dims()
            );
        }
        Ok(())
    }

    fn portable(&self) -> Result<()> {
        self.moments.inplace_op2(&self.grad.contiguous()?, &UpdateMoments(self.step))?;
        self.theta.inplace_op2(self.moments, &UpdateTheta(self.step))
    }

    /// In `f32`, whatever the type of `theta`.
    fn reference(&self) -> Result<()> {
        let Self { theta, grad, moments, step } = self;
        let grad = (grad.detach().to_dtype(DType::F32)? * step.grad_scale)?;
        let (m, v) = (moments.get(0)?, moments.get(1)?);
        let m = ((m * step.beta1)? + (&grad * (1.0 - step.beta1))?)?;
        let v = ((v * step.beta2)? + (grad.sqr()? * (1.0 - step.beta2))?)?;
        let direction =
            ((&m / step.bias_correction1)? / ((&v / step.bias_correction2)?.sqrt()? + step.eps)?)?;
        let kept = (theta.detach().to_dtype(DType::F32)? * (1.0 - step.lr * step.weight_decay))?;
        let updated = (kept - (direction * step.lr)?)?.to_dtype(theta.dtype())?;
        moments.slice_set(&Tensor::stack(&[m, v], 0)?, 0, 0)?;
        // A contiguous tensor and its flat form share their storage; scalars have no dimension to set along.
        theta.detach().flatten_all()?.slice_set(&updated.flatten_all()?, 0, 0)
    }
}

/// Floats per parallel task.
const TASK: usize = 16 * 1024;

/// moments ← decayed moments + gradient.
struct UpdateMoments(AdamWStep);

impl InplaceOp2 for UpdateMoments {
    fn name(&self) -> &'static str {
        "adamw-moments"
    }

    fn cpu_fwd(
        &self,
        moments: &mut CpuStorage,
        moments_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let grad = elements(grad, grad_layout)?;
        let (m, v) = elements_mut(moments, moments_layout)?.split_at_mut(grad.len());
        let step = self.0;
        let [decay1, decay2] = [step.beta1, step.beta2].map(|beta| beta as f32);
        let scale = step.grad_scale as f32;
        let [gain1, gain2] = [step.beta1, step.beta2].map(|beta| (1.0 - beta) as f32);
        let tasks = m.par_chunks_mut(TASK).zip(v.par_chunks_mut(TASK)).zip(grad.par_chunks(TASK));
        tasks.for_each(|((m, v), grad)| {
            update_moments(m, v, grad, scale, [decay1, gain1], [decay2, gain2]);
        });
        Ok(())
    }
}

/// theta ← theta - step along the corrected moments.
struct UpdateTheta(AdamWStep);

impl InplaceOp2 for UpdateTheta {
    fn name(&self) -> &'static str {
        "adamw-theta"
    }

    fn cpu_fwd(
        &self,
        theta: &mut CpuStorage,
        theta_layout: &Layout,
        moments: &CpuStorage,
        moments_layout: &Layout,
    ) -> Result<()> {
        let theta = elements_mut(theta, theta_layout)?;
        let (m, v) = elements(moments, moments_layout)?.split_at(theta.len());
        let step = self.0;
        let keep = (1.0 - step.lr * step.weight_decay) as f32;
        let rate = (step.lr / step.bias_correction1) as f32;
        let correction2 = step.bias_correction2.recip() as f32;
        let eps = step.eps as f32;
        let tasks = theta.par_chunks_mut(TASK).zip(m.par_chunks(TASK)).zip(v.par_chunks(TASK));
        tasks.for_each(|((theta, m), v)| update_theta(theta, m, v, keep, rate, correction2, eps));
        Ok(())
    }
}

crate::multiversion! {
    /// Each moment has its decay and the gain of what is added.
    fn update_moments(m: &mut [f32], v: &mut [f32], grad: &[f32], scale: f32, of_m: [f32; 2], of_v: [f32; 2]) {
        for ((m, v), grad) in m.iter_mut().zip(v).zip(grad) {
            let grad = scale * grad;
            *m = of_m[0] * *m + of_m[1] * grad;
            *v = of_v[0] * *v + of_v[1] * (grad * grad);
        }
    }

    fn update_theta(theta: &mut [f32], m: &[f32], v: &[f32], keep: f32, rate: f32, correction2: f32, eps: f32) {
        for ((theta, m), v) in theta.iter_mut().zip(m).zip(v) {
            *theta = keep * *theta - rate * m / ((v * correction2).sqrt() + eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::{Device, Var};
    use proptest::prelude::*;

    fn numbers(t: i32) -> AdamWStep {
        AdamWStep {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            bias_correction1: 1.0 - 0.9f64.powi(t),
            bias_correction2: 1.0 - 0.95f64.powi(t),
            grad_scale: 0.5,
        }
    }

    /// Parameters and moments after `steps` steps, with the strided gradient or not.
    fn run(kernels: Kernels, shape: &[usize], steps: i32, spread: bool) -> Result<[Tensor; 2]> {
        let theta = Var::from_tensor(&random(1, shape)?)?;
        let moments = Tensor::zeros([&[2], shape].concat(), DType::F32, &Device::Cpu)?;
        for t in 1..=steps {
            let grad = random(10 + t as u64, shape)?;
            let grad = if spread { strided(&grad)? } else { grad };
            let tensor = AdamWTensor { theta: &theta, grad: &grad, moments: &moments, step: numbers(t) };
            adamw_step(kernels, &[tensor])?;
        }
        Ok([theta.as_detached_tensor(), moments])
    }

    /// The same in `f64`, one parameter at a time.
    fn exactly(shape: &[usize], steps: i32) -> Result<[Tensor; 2]> {
        let mut theta: Vec<f64> = random(1, shape)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let (mut m, mut v) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
        for t in 1..=steps {
            let s = numbers(t);
            let grad: Vec<f64> =
                random(10 + t as u64, shape)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            for i in 0..theta.len() {
                let g = s.grad_scale * grad[i];
                theta[i] -= s.lr * s.weight_decay * theta[i];
                m[i] += (1.0 - s.beta1) * (g - m[i]);
                v[i] += (1.0 - s.beta2) * (g * g - v[i]);
                let (m, v) = (m[i] / s.bias_correction1, v[i] / s.bias_correction2);
                theta[i] -= s.lr * m / (v.sqrt() + s.eps);
            }
        }
        let moments = Tensor::from_vec([m, v].concat(), [&[2], shape].concat(), &Device::Cpu)?;
        Ok([Tensor::from_vec(theta, shape, &Device::Cpu)?, moments])
    }

    proptest! {
        #![proptest_config(cases(16))]

        #[test]
        fn agrees(shape in prop::collection::vec(1usize..30, 0..4), steps in 1..6) {
            let exact = exactly(&shape, steps)?;
            for (kernels, spread) in Kernels::ALL.into_iter().flat_map(|k| [(k, false), (k, true)]) {
                let got = run(kernels, &shape, steps, spread)?;
                for (got, exact) in got.iter().zip(&exact) {
                    assert_close(got, exact, 1e-6)?;
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() -> Result<()> {
        same_bits_in_every_pool(|| Ok(run(Kernels::Portable, &[3, 2 * TASK / 3 + 7], 2, false)?.to_vec()))
    }

    /// Half-precision parameters keep `f32` moments.
    #[test]
    fn other_types_take_the_reference() -> Result<()> {
        let theta = Var::from_tensor(&random(1, 5)?.to_dtype(DType::BF16)?)?;
        let moments = Tensor::zeros((2, 5), DType::F32, &Device::Cpu)?;
        let grad = random(11, 5)?;
        let tensor = AdamWTensor { theta: &theta, grad: &grad, moments: &moments, step: numbers(1) };
        adamw_step(Kernels::Portable, &[tensor])?;
        let [exact, exact_moments] = exactly(&[5], 1)?;
        assert_close(&theta, &exact, 1e-2)?;
        assert_close(&moments, &exact_moments, 1e-6)
    }

    #[test]
    fn shapes_must_fit() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        for kernels in Kernels::ALL {
            let step = |theta: &Tensor, grad: &Tensor, moments: &Tensor| {
                adamw_step(kernels, &[AdamWTensor { theta, grad, moments, step: numbers(1) }])
            };
            assert!(step(&zeros(&[3])?, &zeros(&[4])?, &zeros(&[2, 3])?).is_err());
            assert!(step(&zeros(&[3])?, &zeros(&[3])?, &zeros(&[3])?).is_err());
            assert!(step(&zeros(&[3, 2])?.t()?, &zeros(&[2, 3])?, &zeros(&[2, 2, 3])?).is_err());
        }
        Ok(())
    }
}
