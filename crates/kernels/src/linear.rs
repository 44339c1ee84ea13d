//! The linear map y = x wᵀ, and both of its gradients without a transposing copy.
//!
//! Candle's backward of `x.matmul(&w.t())` gives dw as a transposed view, which the following addition walks
//! across the grain, and copies. Here each of the three products writes its result row-major.

use crate::Kernels;
use crate::buffers::{from_first, with_cpu};
use crate::matmul::{Mat, matmul};
use crate::profile::{Part, matmul_span};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// y = x wᵀ for x \[.., d_in\] and w \[d_out, d_in\]; y is \[.., d_out\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(kernels: Kernels, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (d_out, d_in) = w.dims2()?;
    let Some((&last, leading)) = x.dims().split_last() else {
        candle_core::bail!("linear: x is a scalar");
    };
    if last != d_in {
        candle_core::bail!("linear: x {:?} does not fit w {:?}", x.dims(), w.dims());
    }
    let shape_y = [leading, &[d_out]].concat();
    let n: usize = leading.iter().product();
    let x_nd = x.reshape((n, d_in))?;
    let y_nd = match kernels.for_tensors(&[x, w]) {
        Kernels::Reference => x_nd.matmul(&w.t()?)?,
        Kernels::Portable => x_nd.apply_op2(w, Linear)?,
    };
    y_nd.reshape(shape_y)
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (matrix(x, x_layout)?, matrix(w, w_layout)?);
        let y = matmul_span(Part::MatmulForward, [x.rows, x.cols, w.rows], || matmul(x, w.t()));
        Ok((CpuStorage::F32(y), Shape::from((x.rows, w.rows))))
    }

    /// dx = dy w, dw = dyᵀ x.
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_x = x.track_op().then(|| multiply(Part::MatmulInput, dy, w)).transpose()?;
        let of_w = w.track_op().then(|| multiply(Part::MatmulWeight, &dy.t()?, x)).transpose()?;
        Ok((of_x, of_w))
    }
}

fn matrix<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Mat<'a>> {
    let (rows, cols) = layout.shape().dims2()?;
    Ok(Mat::new(from_first(storage, layout)?, [rows, cols], [layout.stride()[0], layout.stride()[1]]))
}

/// a b, without a graph.
fn multiply(part: Part, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let product = with_cpu([a, b], |[(a, a_layout), (b, b_layout)]| {
        let (a, b) = (matrix(a, a_layout)?, matrix(b, b_layout)?);
        Ok(matmul_span(part, [a.rows, a.cols, b.cols], || matmul(a, b)))
    })?;
    Tensor::from_vec(product, (a.dim(0)?, b.dim(1)?), a.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::Var;
    use proptest::prelude::*;

    fn op(kernels: Kernels, inputs: &[Tensor]) -> Result<Tensor> {
        linear(kernels, &inputs[0], &inputs[1])
    }

    proptest! {
        #![proptest_config(cases(24))]

        #[test]
        fn agrees(leading in prop::collection::vec(1usize..5, 0..4), d_in in 1usize..70, d_out in 1usize..70) {
            let x = random(1, [&leading[..], &[d_in]].concat())?;
            check(op, &[x, random(2, (d_out, d_in))?], 1e-5)?;
        }
    }

    #[test]
    fn small_numbers() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &candle_core::Device::Cpu)?;
        let w = Tensor::new(&[[1f32, 10.]], &candle_core::Device::Cpu)?;
        for kernels in Kernels::ALL {
            assert_eq!(linear(kernels, &x, &w)?.to_vec2::<f32>()?, [[21.], [43.], [65.]]);
        }
        Ok(())
    }

    #[test]
    fn agrees_when_threads_share_the_product() -> Result<()> {
        let inputs = [random(1, (3, 67, 130))?, random(2, (200, 130))?];
        check(op, &inputs, 1e-5)?;
        check_finite_differences(op, &inputs)
    }

    #[test]
    fn takes_strided_gradients_and_skips_constants() -> Result<()> {
        let (x, w) = (random(1, (17, 9))?, random(2, (5, 9))?);
        let (x_var, w_var) = (Var::from_tensor(&x)?, Var::from_tensor(&w)?);
        check_strided_gradient2(&Linear, &x_var, &w_var)?;
        let y = random(3, (17, 5))?;
        let (of_x, of_w) = Linear.bwd(&x, &w_var, &y, &y)?;
        assert!(of_x.is_none() && of_w.is_some());
        Ok(())
    }

    #[test]
    fn transposed_operands_are_read_in_place() -> Result<()> {
        let (x, w) = (random(1, (7, 13))?.t()?, random(2, (7, 11))?.t()?);
        let got = linear(Kernels::Portable, &x, &w)?;
        assert_close(&got, &linear(Kernels::Reference, &x, &w)?, 1e-6)
    }

    #[test]
    fn shapes_must_fit() -> Result<()> {
        let (x, w) = (random(1, (2, 3))?, random(2, (4, 5))?);
        for kernels in Kernels::ALL {
            assert!(linear(kernels, &x, &w).is_err());
            assert!(linear(kernels, &x.get(0)?.get(0)?, &w).is_err());
        }
        Ok(())
    }
}
