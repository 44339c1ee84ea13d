//! The squared norm of a gradient, for clipping.

use crate::Kernels;
use crate::buffers::with_elements;
use crate::profile::{Part, Work, span};
use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

/// Floats per partial sum; the partial sums are added in order, so the result does not depend on the number
/// of threads.
const CHUNK: usize = 16 * 1024;

/// Σ x² over all tensors, in `f64`.
///
/// # Errors
/// When the device refuses a copy or a sum.
pub fn grad_sq_norm(grads: &[Tensor]) -> Result<f64> {
    match Kernels::Portable.for_tensors(&grads.iter().collect::<Vec<_>>()) {
        Kernels::Reference => grads.iter().map(reference).sum(),
        Kernels::Portable => {
            let floats = grads.iter().map(Tensor::elem_count).sum();
            span(Part::GradNorm, Work::floats(floats), || {
                let squares = grads.par_iter().map(portable).collect::<Result<Vec<_>>>()?;
                Ok(squares.into_iter().sum())
            })
        }
    }
}

fn reference(grad: &Tensor) -> Result<f64> {
    grad.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}

fn portable(grad: &Tensor) -> Result<f64> {
    with_elements([&grad.contiguous()?], |[grad]| {
        let partial: Vec<f64> = grad.par_chunks(CHUNK).map(sum_of_squares).collect();
        Ok(partial.into_iter().sum())
    })
}

crate::multiversion! {
    fn sum_of_squares(x: &[f32]) -> f64 {
        const LANES: usize = 16;
        let mut lanes = [0.0; LANES];
        let blocks = x.chunks_exact(LANES);
        let rest: f64 = blocks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for x in blocks {
            for i in 0..LANES {
                lanes[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        lanes.iter().sum::<f64>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn agrees_with_a_plain_sum() -> Result<()> {
        for n in [0, 1, 15, 16, 33, CHUNK, 3 * CHUNK + 5] {
            let x = (random(1, n)? * 1e3)?;
            let exact: f64 = x.to_vec1::<f32>()?.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            for x in [x.clone(), strided(&x)?, x.to_dtype(DType::F64)?] {
                assert!((grad_sq_norm(&[x])? - exact).abs() <= 1e-12 * exact);
            }
            same_bits_in_every_pool(|| {
                let norm = grad_sq_norm(&[x.clone(), x.clone()])?;
                let halves = [norm.to_bits() as u32, (norm.to_bits() >> 32) as u32].map(f32::from_bits);
                Ok(vec![Tensor::new(&halves, x.device())?])
            })?;
        }
        Ok(())
    }

    #[test]
    fn squares_beyond_f32_are_kept() -> Result<()> {
        let x = Tensor::new(&[1e30f32, 1e-30], &candle_core::Device::Cpu)?;
        assert!((grad_sq_norm(&[x])? / 1e60 - 1.0).abs() < 1e-6);
        Ok(())
    }
}
