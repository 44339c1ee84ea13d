//! Rounding of tensors to a 16-bit type between operations, held in f32.

use crate::Kernels;
use crate::buffers::{elements, elements_mut, with_elements};
use crate::profile::{Part, Work, span};
use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor};
use numerics::{Contraction, NumericFormat, Overflow, QuantSpec, Rounding};

/// x in `format`, rounded to nearest even; overflow becomes infinity. The gradient is rounded likewise on its way back, as
/// it would be if it were stored in that type. [`NumericFormat::Fp32`] leaves x alone.
///
/// # Errors
/// When x is not f32 on the CPU.
pub fn round(kernels: Kernels, x: &Tensor, format: NumericFormat) -> Result<Tensor> {
    if format == NumericFormat::Fp32 {
        return Ok(x.clone());
    }
    x.contiguous()?.apply_op1(Round { kernels, format })
}

/// Rounds to nearest even; [`NumericFormat::Fp32`] leaves x alone.
pub(crate) fn round_in_place(x: &mut [f32], format: NumericFormat) {
    if format != NumericFormat::Fp32 {
        numerics::round_slice(x, format, Rounding::NEAREST_EVEN, Overflow::Propagate);
    }
}

/// [`round_in_place`] on the calling thread.
pub(crate) fn round_rows(x: &mut [f32], format: NumericFormat) {
    if format != NumericFormat::Fp32 {
        numerics::round_rows(x, format, Overflow::Propagate);
    }
}

/// A number in bf16 as [`round_rows`] rounds it, for loops of which it is a part.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    // Half a step less one, and one more if the kept part is odd.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    // NaN stays as it is. A mask: of a choice the compiler makes a branch a lane.
    let is_nan = ((f32::INFINITY.to_bits() as i32 - (bits & 0x7fff_ffff) as i32) >> 31) as u32;
    f32::from_bits(rounded & !is_nan | bits & is_nan)
}

struct Round {
    kernels: Kernels,
    format: NumericFormat,
}

impl Round {
    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        let round = match self.kernels {
            Kernels::Reference => numerics::reference::round_slice,
            Kernels::Portable => numerics::round_slice,
        };
        span(Part::Quantise, Work::floats(2 * values.len()), || {
            let mut values = values.to_vec();
            round(&mut values, self.format, Rounding::NEAREST_EVEN, Overflow::Propagate);
            values
        })
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
    span(Part::Quantise, Work::floats(2 * x.elem_count()), || {
        x.inplace_op1(&QuantizeInPlace { spec: *spec, key })
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use candle_core::{Device, Var};

    #[test]
    fn values_and_gradients_are_rounded_alike_by_both_kernels() -> Result<()> {
        let (x, form) = (random(1, (7, 130))?, random(2, (7, 130))?);
        for format in [NumericFormat::Bf16, NumericFormat::Fp16] {
            let mut found = Vec::new();
            for kernels in Kernels::ALL {
                let var = Var::from_tensor(&x)?;
                let y = round(kernels, &var, format)?;
                let gradients = (&y * &form)?.sum_all()?.backward()?;
                let dx = gradients.get(&var).expect("a gradient").clone();
                for (got, exact) in [(y.detach(), &x), (dx, &form)] {
                    for (got, exact) in got
                        .flatten_all()?
                        .to_vec1::<f32>()?
                        .iter()
                        .zip(exact.flatten_all()?.to_vec1::<f32>()?)
                    {
                        let expected =
                            format.encode(exact, Rounding::NEAREST_EVEN, Overflow::Propagate).value;
                        assert_eq!(got.to_bits(), expected.to_bits(), "{exact} in {format}");
                    }
                    found.push(bits(&got)?);
                }
            }
            assert_eq!(found[..2], found[2..]);
        }
        Ok(())
    }

    #[test]
    fn one_number_is_rounded_as_many_are() {
        // Every sign, exponent and kept mantissa, with dropped bits on both sides of a tie.
        for high in 0..=u16::MAX {
            let low = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
            let all = low.map(|low| f32::from_bits(u32::from(high) << 16 | low));
            let mut rounded = all;
            round_rows(&mut rounded, NumericFormat::Bf16);
            assert_eq!(all.map(to_bf16).map(f32::to_bits), rounded.map(f32::to_bits), "{all:?}");
        }
    }

    #[test]
    fn f32_is_left_alone_and_fp16_overflows_to_infinity() -> Result<()> {
        let x = Tensor::new(&[1e6f32, -1e-9, 65519.0, 65520.0], &Device::Cpu)?;
        assert_eq!(bits(&round(Kernels::Portable, &x, NumericFormat::Fp32)?)?, bits(&x)?);
        let half = round(Kernels::Portable, &x, NumericFormat::Fp16)?.to_vec1::<f32>()?;
        assert_eq!(half, [f32::INFINITY, -0.0, 65504.0, f32::INFINITY]);
        Ok(())
    }

    #[test]
    fn quantised_in_place_is_what_quantise_gives() -> Result<()> {
        let x = random(3, (4, 64))?;
        let spec = QuantSpec { overflow: Overflow::Saturate, ..QuantSpec::unscaled(NumericFormat::E4m3) };
        let spec = QuantSpec { scaling: numerics::Scaling::Row, ..spec };
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        let operand = numerics::quantize(&values, 4, 64, Contraction::Columns, &spec, 0, None);
        let expected = operand.map_err(candle_core::Error::wrap)?.dequantize(4, 64, Contraction::Columns);
        quantize_in_place(&x, &spec, 0)?;
        assert_eq!(x.flatten_all()?.to_vec1::<f32>()?, expected);
        assert!(quantize_in_place(&x.t()?, &spec, 0).is_err(), "a strided view has no place of its own");
        Ok(())
    }
}
