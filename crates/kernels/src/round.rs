//! Rounding of tensors to a 16-bit type between operations, held in f32.

use crate::Kernels;
use crate::buffers::{elements, elements_mut, with_elements};
use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor};
use numerics::{Contraction, NumericFormat, Overflow, QuantSpec, Rounding};

/// x in `format`, rounded to nearest even; overflow becomes infinity. The gradient is rounded likewise on its way back, as
/// it would be if it were stored in that type. [`NumericFormat::Fp32`] leaves x alone.
///
/// # Errors
/// When x is not f32 on the CPU.
pub fn round(kernels: Kernels, x: &Tensor, format: NumericFormat) -> Result<Tensor> {
    match format {
        NumericFormat::Fp32 => Ok(x.clone()),
        NumericFormat::Tf32
        | NumericFormat::Bf16
        | NumericFormat::Fp16
        | NumericFormat::E4m3
        | NumericFormat::E5m2
        | NumericFormat::E3m2
        | NumericFormat::E2m3
        | NumericFormat::E2m1
        | NumericFormat::E8m0
        | NumericFormat::Int8
        | NumericFormat::Int4
        | NumericFormat::Ternary => x.contiguous()?.apply_op1(Round { kernels, format }),
    }
}

struct Round {
    kernels: Kernels,
    format: NumericFormat,
}

impl Round {
    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        let round = match self.kernels {
            Kernels::Reference => numerics::reference::round_slice,
            Kernels::Portable => numerics::round_slice,
        };
        round(&mut values, self.format, Rounding::NEAREST_EVEN, Overflow::Propagate);
        values
    }
}

impl CustomOp1 for Round {
    fn name(&self) -> &'static str {
        "round"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.rounded(elements(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_elements([&dy.contiguous()?], |[dy]| Ok(self.rounded(dy)))?;
        Tensor::from_vec(dx, dy.shape(), dy.device()).map(Some)
    }
}

/// Replaces a contiguous f32 tensor by what it is in low precision: the weights and moments of a run that does not keep
/// them in f32. The last dimension is the columns of the matrix that `spec` scales.
///
/// # Errors
/// When the tensor is not contiguous f32 on the CPU, or `spec` does not fit its shape.
pub fn quantize_in_place(x: &Tensor, spec: &QuantSpec, key: u64) -> Result<()> {
    x.inplace_op1(&QuantizeInPlace { spec: *spec, key })
}

struct QuantizeInPlace {
    spec: QuantSpec,
    key: u64,
}

impl InplaceOp1 for QuantizeInPlace {
    fn name(&self) -> &'static str {
        "quantize-in-place"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let values = elements_mut(x, layout)?;
        let cols = layout.dims().last().copied().unwrap_or(1).max(1);
        let rows = values.len() / cols;
        let operand =
            numerics::quantize(values, rows, cols, Contraction::Columns, &self.spec, self.key, None)
                .map_err(candle_core::Error::wrap)?;
        values.copy_from_slice(&operand.dequantize(rows, cols, Contraction::Columns));
        Ok(())
    }
}
