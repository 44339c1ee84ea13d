//! RMSNorm (Zhang & Sennrich 2019, eq. 4) over the last dimension.

use crate::Kernels;
use crate::buffers::{elements, fill, fill_one, rows_per_task, with_elements};
use crate::profile::{Part, Work, span};
use crate::simd::{add, dot};
use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// y = w x / √(mean x² + eps) over the last dimension: x \[.., d\], weight \[d\].
///
/// # Errors
/// When the shapes do not fit.
pub fn rms_norm(kernels: Kernels, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if x.rank() == 0 || weight.dims() != [x.dim(D::Minus1)?] || weight.elem_count() == 0 {
        candle_core::bail!("rms_norm: weight {:?} does not fit x {:?}", weight.dims(), x.dims());
    }
    match kernels.for_tensors(&[x, weight]) {
        Kernels::Reference => reference(x, weight, eps),
        Kernels::Portable => {
            let op = RmsNorm { eps: eps as f32, rstd: OnceLock::new() };
            let work = Work::floats(2 * x.elem_count());
            span(Part::Norm, work, || x.contiguous()?.apply_op2(&weight.contiguous()?, op))
        }
    }
}

/// Half-precision input is widened: the sum of squares would lose digits in it.
fn reference(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let x_wide = x.to_dtype(wide)?;
    let mean_square = x_wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = x_wide.broadcast_div(&(mean_square + eps)?.sqrt()?)?;
    normed.broadcast_mul(&weight.to_dtype(wide)?)?.to_dtype(x.dtype())
}

/// Rows over which dw is summed at a time.
pub(crate) const ROWS_PER_SUM: usize = 8;

struct RmsNorm {
    eps: f32,
    /// 1 / √(mean x² + eps) of every row, kept by the forward pass.
    rstd: OnceLock<Vec<f32>>,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (y, rstd) = forward(elements(x, x_layout)?, elements(w, w_layout)?, self.eps, |_| {});
        self.rstd.get_or_init(|| rstd);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(rstd) = self.rstd.get() else { candle_core::bail!("rms_norm: backward before forward") };
        let work = Work::floats(3 * x.elem_count());
        let (dx, dw) = span(Part::Norm, work, || {
            with_elements([x, w, &dy.contiguous()?], |[x, w, dy]| Ok(backward(x, w, rstd, dy, None)))
        })?;
        let of_x = Tensor::from_vec(dx, x.shape(), x.device())?;
        let of_w = Tensor::from_vec(dw, w.shape(), w.device())?;
        Ok((Some(of_x), Some(of_w)))
    }
}

/// y, rounded by `round`, and 1 / √(mean x² + eps) of every row.
pub(crate) fn forward(
    x: &[f32],
    w: &[f32],
    eps: f32,
    round: impl Fn(&mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let block = rows_per_task(w.len()) * w.len();
    let ([y], rstd) = fill(x.len(), block, |task, [y]| {
        let rstd = forward_rows(&x[task * block..][..y.len()], w, eps, y);
        round(y);
        rstd
    });
    (y, rstd.concat())
}

/// [`forward`] on the calling thread, without rounding.
pub(crate) fn forward_rows(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> Vec<f32> {
    let rows = x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len()));
    rows.map(|(x, y)| normalise(x, w, eps, y)).collect()
}

/// The y of [`forward`] again, bit for bit, from what it returned besides.
pub(crate) fn again(x: &[f32], w: &[f32], rstd: &[f32], round: impl Fn(&mut [f32]) + Sync) -> Vec<f32> {
    let rows = rows_per_task(w.len());
    fill_one(x.len(), rows * w.len(), |task, y| {
        again_rows(&x[task * rows * w.len()..], w, &rstd[task * rows..], y);
        round(y);
    })
}

/// [`again`] on the calling thread, without rounding.
pub(crate) fn again_rows(x: &[f32], w: &[f32], rstd: &[f32], y: &mut [f32]) {
    for ((x, y), &rstd) in x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len())).zip(rstd) {
        scale_row(x, w, rstd, y);
    }
}

/// dx and dw. With n = x rstd: dn = dy w, dx = rstd (dn - n mean(dn n)) + `residual`, dw = Σ dy n over rows.
///
/// Tasks are cut by shape, and their sums for dw are added in order.
pub(crate) fn backward(
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    dy: &[f32],
    residual: Option<&[f32]>,
) -> (Vec<f32>, Vec<f32>) {
    let (d, rows) = (w.len(), ROWS_PER_SUM);
    let ([dx], partial_dw) = fill(x.len(), rows * d, |task, [dx]| {
        let start = task * rows * d;
        let residual = residual.map(|residual| &residual[start..]);
        backward_rows(&x[start..], w, &rstd[task * rows..], &dy[start..], residual, dx)
    });
    (dx, sum_partial_dw(d, partial_dw))
}

/// As many rows of dx as there is room for, on the calling thread, and dw summed over every [`ROWS_PER_SUM`] rows, one after
/// another.
pub(crate) fn backward_rows(
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    dy: &[f32],
    residual: Option<&[f32]>,
    dx: &mut [f32],
) -> Vec<f32> {
    let (d, rows) = (w.len(), dx.len() / w.len());
    let mut partial_dw = vec![0.0; rows.div_ceil(ROWS_PER_SUM) * d];
    let data = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
    for (row, (((x, dy), dx), &rstd)) in data.zip(rstd).enumerate() {
        backward_row(x, w, dy, rstd, dx, &mut partial_dw[row / ROWS_PER_SUM * d..][..d]);
    }
    if let Some(residual) = residual {
        add(dx, residual);
    }
    partial_dw
}

/// dw of the weight's length d, from its sums over rows in order.
pub(crate) fn sum_partial_dw(d: usize, partial: Vec<Vec<f32>>) -> Vec<f32> {
    let mut dw = vec![0.0; d];
    for partial in partial.iter().flat_map(|partial| partial.chunks_exact(d)) {
        dw.iter_mut().zip(partial).for_each(|(dw, partial)| *dw += partial);
    }
    dw
}

crate::multiversion! {
    /// y ← w x rstd for one row.
    fn scale_row(x: &[f32], w: &[f32], rstd: f32, y: &mut [f32]) {
        for ((&x, &w), y) in x.iter().zip(w).zip(y) {
            *y = x * rstd * w;
        }
    }

    /// y ← w x rstd for one row; returns rstd.
    fn normalise(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
        let mean_square = dot(x, x) / x.len() as f32;
        let rstd = 1.0 / (mean_square + eps).sqrt();
        for ((&x, &w), y) in x.iter().zip(w).zip(y) {
            *y = x * rstd * w;
        }
        rstd
    }

    fn backward_row(x: &[f32], w: &[f32], dy: &[f32], rstd: f32, dx: &mut [f32], dw: &mut [f32]) {
        let d = w.len();
        let (x, dy) = (&x[..d], &dy[..d]);
        let (dx, dw) = (&mut dx[..d], &mut dw[..d]);
        for i in 0..d {
            dx[i] = dy[i] * w[i]; // dn, for now
            dw[i] += dy[i] * (x[i] * rstd);
        }
        // n mean(dn n) = x times this; both factors of rstd are taken out of the sum.
        let slope = rstd * rstd * dot(dx, x) / d as f32;
        for i in 0..d {
            dx[i] = rstd * (dx[i] - x[i] * slope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::Device;
    use proptest::prelude::*;

    fn op(kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        rms_norm(kernels, &inputs[0], &inputs[1], 1e-5)
    }

    proptest! {
        #![proptest_config(cases(24))]

        #[test]
        fn agrees(leading in prop::collection::vec(1usize..6, 0..4), d in 1usize..100) {
            let x = random(1, [&leading[..], &[d]].concat())?;
            check(op, &[x, random(2, d)?], 3e-6)?;
        }
    }

    #[test]
    fn agrees_over_many_tasks() -> Result<()> {
        let inputs = [random(1, (900, 67))?, random(2, 67)?];
        check(op, &inputs, 3e-6)?;
        check_finite_differences(op, &[random(1, (5, 7))?, random(2, 7)?])
    }

    #[test]
    fn takes_strided_gradients() -> Result<()> {
        let op = RmsNorm { eps: 1e-5, rstd: OnceLock::new() };
        check_strided_gradient2(&op, &random(1, (3, 4, 33))?, &random(2, 33)?)
    }

    #[test]
    fn extremes_stay_finite() -> Result<()> {
        let w = Tensor::ones(3, DType::F32, &Device::Cpu)?;
        let x = Tensor::new(&[[0f32, 0., 0.], [1e15, -1e15, 1e15], [1e-20, 0., 0.]], &Device::Cpu)?;
        let exact = Tensor::new(&[[0f32, 0., 0.], [1., -1., 1.], [3.162_277_7e-18, 0., 0.]], &Device::Cpu)?;
        for kernels in Kernels::ALL {
            let got = value_and_gradients(|x| op(kernels, x), &[x.clone(), w.clone()])?;
            assert_close(&got[0], &exact, 1e-6)?;
            for gradient in &got[1..] {
                assert!(gradient.flatten_all()?.to_vec1::<f32>()?.iter().all(|g| g.is_finite()));
            }
        }
        Ok(())
    }

    #[test]
    fn shapes_must_fit() -> Result<()> {
        for kernels in Kernels::ALL {
            assert!(op(kernels, &[random(1, (2, 3))?, random(2, 4)?]).is_err());
            assert!(op(kernels, &[random(1, ())?, random(2, 1)?]).is_err());
        }
        Ok(())
    }
}
