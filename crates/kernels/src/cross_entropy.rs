//! Cross-entropy of a softmax over logits, in nats.

mod tiles;

pub(crate) use tiles::{OfStrip, Strip, look_at};

use crate::Kernels;
use crate::buffers::{elements, fill_one, rows_per_task, with_elements};
use crate::profile::{Part, Work, span};
use crate::simd::{exp_minus_in_place, max, sum_exp_minus};
use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Mean over n of -ln softmax(logits_n)\[target_n\], a scalar: logits \[n, v\], targets \[n\] of u32.
///
/// The loss of a token is found in `f32`, the mean of tokens in `f64`, in order.
///
/// # Errors
/// When the shapes do not fit, n is 0, or a target is not below v.
pub fn cross_entropy(kernels: Kernels, logits_nv: &Tensor, targets_n: &Tensor) -> Result<Tensor> {
    check_shapes(logits_nv, targets_n)?;
    match kernels.for_tensors(&[logits_nv]) {
        Kernels::Reference => reference(logits_nv, targets_n)?.mean_all(),
        Kernels::Portable => {
            let op = CrossEntropy { log_sum_exp: OnceLock::new() };
            span(Part::Loss, Work::floats(logits_nv.elem_count()), || {
                logits_nv.contiguous()?.apply_op2(&targets_n.contiguous()?, op)
            })
        }
    }
}

/// -ln softmax(logits_n)\[target_n\] of every token, without gradient: for evaluation.
///
/// # Errors
/// When the shapes do not fit or a target is not below v.
pub fn token_losses(logits_nv: &Tensor, targets_n: &Tensor) -> Result<Vec<f32>> {
    check_shapes(logits_nv, targets_n)?;
    if targets_n.elem_count() == 0 {
        return Ok(vec![]);
    }
    match Kernels::Portable.for_tensors(&[logits_nv]) {
        Kernels::Reference => reference(logits_nv, targets_n)?.to_dtype(DType::F32)?.to_vec1(),
        Kernels::Portable => with_elements([&logits_nv.contiguous()?], |[logits]| {
            with_elements([&targets_n.contiguous()?], |[targets]| Ok(losses(logits, targets)?.0))
        }),
    }
}

fn check_shapes(logits_nv: &Tensor, targets_n: &Tensor) -> Result<()> {
    let (n, _) = logits_nv.dims2()?;
    if targets_n.dims() != [n] || targets_n.dtype() != DType::U32 {
        candle_core::bail!(
            "cross-entropy: {:?} targets {:?} do not fit logits {:?}",
            targets_n.dtype(),
            targets_n.dims(),
            logits_nv.dims()
        );
    }
    Ok(())
}

/// Losses per token, in `f32` for half-precision logits.
fn reference(logits_nv: &Tensor, targets_n: &Tensor) -> Result<Tensor> {
    check_ids(&[targets_n.max_all()?.to_scalar()?], logits_nv.dim(1)?)?;
    let wide = if logits_nv.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let log_probs = candle_nn::ops::log_softmax(&logits_nv.to_dtype(wide)?, D::Minus1)?;
    log_probs.gather(&targets_n.contiguous()?.unsqueeze(1)?, 1)?.squeeze(1)?.neg()
}

struct CrossEntropy {
    /// ln Σ exp(logits) of every row, kept by the forward pass.
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (losses, log_sum_exp) =
            losses(elements(logits, logits_layout)?, elements(targets, targets_layout)?)?;
        if losses.is_empty() {
            candle_core::bail!("cross_entropy: no tokens to average over");
        }
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        self.log_sum_exp.get_or_init(|| log_sum_exp);
        Ok((CpuStorage::F32(vec![(sum / losses.len() as f64) as f32]), Shape::from(())))
    }

    /// dy (softmax(logits) - onehot(target)) / n.
    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _loss: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(log_sum_exp) = self.log_sum_exp.get() else {
            candle_core::bail!("cross_entropy: backward before forward")
        };
        let (n, v) = logits.dims2()?;
        let factor = dy.to_scalar::<f32>()? / n as f32;
        let backward = |[logits]: [&[f32]; 1]| {
            with_elements([targets], |[targets]: [&[u32]; 1]| {
                let rows = rows_per_task(v);
                Ok(fill_one(logits.len(), rows * v, |task, gradient| {
                    let logits = logits[task * rows * v..].chunks_exact(v);
                    for (row, (logits, gradient)) in
                        (task * rows..).zip(logits.zip(gradient.chunks_exact_mut(v)))
                    {
                        scaled_softmax(logits, log_sum_exp[row], factor, gradient);
                        gradient[targets[row] as usize] -= factor;
                    }
                }))
            })
        };
        let gradient = span(Part::Loss, Work::floats(2 * n * v), || with_elements([logits], backward))?;
        Ok((Some(Tensor::from_vec(gradient, (n, v), logits.device())?), None))
    }
}

/// Losses and log-sum-exps of all rows.
fn losses(logits: &[f32], targets: &[u32]) -> Result<(Vec<f32>, Vec<f32>)> {
    let v = logits.len() / targets.len().max(1);
    check_ids(targets, v)?;
    let rows = rows_per_task(v);
    let pairs = targets.par_iter().enumerate().with_min_len(rows);
    Ok(pairs
        .map(|(row, &target)| {
            let logits = &logits[row * v..][..v];
            let log_sum_exp = log_sum_exp(logits);
            (log_sum_exp - logits[target as usize], log_sum_exp)
        })
        .unzip())
}

/// The loss of every row, and logits ← `factor` (softmax(logits) - onehot(target)); without a factor the logits are left
/// alone.
pub(crate) fn losses_and_gradient(logits: &mut [f32], targets: &[u32], factor: Option<f32>) -> Vec<f32> {
    let v = logits.len() / targets.len().max(1);
    let rows = logits.par_chunks_mut(v.max(1)).zip(targets).with_min_len(rows_per_task(v));
    rows.map(|(logits, &target)| loss_and_gradient(logits, target, factor)).collect()
}

/// [`losses_and_gradient`] of one row.
pub(crate) fn loss_and_gradient(logits: &mut [f32], target: u32, factor: Option<f32>) -> f32 {
    let of_target = logits[target as usize];
    let Some(factor) = factor else { return log_sum_exp(logits) - of_target };
    let log_sum_exp = softmax_in_place(logits, factor);
    logits[target as usize] -= factor;
    log_sum_exp - of_target
}

/// The error of an id that is not below `bound`, if there is one.
pub(crate) fn check_ids(ids: &[u32], bound: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= bound) {
        Some(id) => candle_core::bail!("id {id} is out of range: there are {bound}"),
        None => Ok(()),
    }
}

crate::multiversion! {
    /// ln Σ exp(x), taken relative to the largest element.
    fn log_sum_exp(x: &[f32]) -> f32 {
        let largest = max(x);
        largest + sum_exp_minus(x, largest).ln()
    }

    /// x ← factor softmax(x); returns ln Σ exp(x).
    fn softmax_in_place(x: &mut [f32], factor: f32) -> f32 {
        let largest = max(x);
        let sum = exp_minus_in_place(x, largest);
        let factor = factor / sum;
        for x in x {
            *x *= factor;
        }
        largest + sum.ln()
    }

    /// y = factor exp(x - log_sum_exp).
    fn scaled_softmax(x: &[f32], log_sum_exp: f32, factor: f32, y: &mut [f32]) {
        for (&x, y) in x.iter().zip(y) {
            *y = factor * crate::math::exp_or_zero(x - log_sum_exp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::{Device, Var};
    use proptest::prelude::*;

    fn op(kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        let (n, v) = inputs[0].dims2()?;
        cross_entropy(kernels, &inputs[0], &random_ids(4, n, v)?)
    }

    proptest! {
        #![proptest_config(cases(24))]

        #[test]
        fn agrees(n in 1usize..40, v in 1usize..200, size in 0.1..30.0) {
            check(op, &[(random(1, (n, v))? * size)?], 1e-6)?;
        }
    }

    #[test]
    fn agrees_over_many_tasks() -> Result<()> {
        check(op, &[random(1, (700, 99))?], 1e-6)?;
        check_finite_differences(op, &[random(1, (7, 11))?])
    }

    /// ln 4 for equal logits; ln(1 + 1/3) where the odds are 3 to 1.
    #[test]
    fn small_numbers() -> Result<()> {
        let odds = 3f32.ln();
        let logits = Tensor::new(&[[7f32, 7., 7., 7.], [odds, 0., -1e30, -1e30]], &Device::Cpu)?;
        let targets = Tensor::new(&[2u32, 0], &Device::Cpu)?;
        let exact = [4f64.ln(), (4f64 / 3.0).ln()];
        for (loss, exact) in token_losses(&logits, &targets)?.iter().zip(exact) {
            assert!((f64::from(*loss) - exact).abs() < 1e-6);
        }
        for kernels in Kernels::ALL {
            let loss: f32 = cross_entropy(kernels, &logits, &targets)?.to_scalar()?;
            assert!((f64::from(loss) - (exact[0] + exact[1]) / 2.0).abs() < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn large_logits() -> Result<()> {
        check(op, &[(random(1, (9, 33))? * 1e4)?], 1e-6)?;
        check(op, &[Tensor::zeros((9, 33), DType::F32, &Device::Cpu)?], 1e-6)
    }

    #[test]
    fn token_losses_average_to_the_loss() -> Result<()> {
        let (logits, targets) = ((random(1, (50, 31))? * 5.0)?, random_ids(2, 50, 31)?);
        let losses = token_losses(&logits, &targets)?;
        let exact = token_losses(&logits.to_dtype(DType::F64)?, &targets)?;
        assert_eq!(losses.len(), 50);
        assert!(losses.iter().zip(&exact).all(|(loss, exact)| (loss - exact).abs() < 1e-5));
        assert_eq!(losses, token_losses(&strided(&logits)?, &targets)?);
        let mean = (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / 50.0) as f32;
        assert_eq!(mean, cross_entropy(Kernels::Portable, &logits, &targets)?.to_scalar::<f32>()?);
        Ok(())
    }

    #[test]
    fn targets_may_be_strided() -> Result<()> {
        let (logits, targets) = (random(1, (20, 7))?, random_ids(2, 20, 7)?);
        for kernels in Kernels::ALL {
            let spread = cross_entropy(kernels, &logits, &strided(&targets)?)?;
            assert_close(&spread, &cross_entropy(kernels, &logits, &targets)?, 0.0)?;
        }
        Ok(())
    }

    #[test]
    fn the_gradient_is_scaled_by_that_of_the_loss() -> Result<()> {
        let logits = Var::from_tensor(&random(1, (3, 5))?)?;
        let gradient = |kernels| {
            let loss = (op(kernels, &[logits.as_tensor().clone()])? * -2.5)?;
            Ok::<_, candle_core::Error>(loss.backward()?.remove(&logits).expect("logits have a gradient"))
        };
        assert_close(&gradient(Kernels::Portable)?, &gradient(Kernels::Reference)?, 1e-6)
    }

    #[test]
    fn bad_targets_are_errors() -> Result<()> {
        let logits = random(1, (2, 3))?;
        let targets = |targets: &[u32]| Tensor::new(targets, &Device::Cpu);
        for kernels in Kernels::ALL {
            assert!(cross_entropy(kernels, &logits, &targets(&[0, 3])?).is_err());
            assert!(cross_entropy(kernels, &logits, &targets(&[0])?).is_err());
            assert!(cross_entropy(kernels, &logits, &targets(&[0, 1])?.to_dtype(DType::I64)?).is_err());
        }
        for logits in [logits.clone(), logits.to_dtype(DType::F64)?] {
            assert!(token_losses(&logits, &targets(&[3, 0])?).is_err());
            let none = Tensor::zeros(0, DType::U32, &Device::Cpu)?;
            assert!(token_losses(&logits.narrow(0, 0, 0)?, &none)?.is_empty());
        }
        Ok(())
    }
}
