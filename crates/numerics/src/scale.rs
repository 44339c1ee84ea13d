//! From the largest magnitude to the scale: one rule per scaling.
//!
//! All of it is `f32` arithmetic with one rounding per operation. [`ScaleRule::scale`] takes one tile and
//! goes through codes, for the reference; [`tile_scales`] takes many.

use crate::encode::Encoded;
use crate::format::NumericFormat;
use crate::grid::{Narrow, Round};
use crate::multiversion;
use crate::rounding::{Overflow, Rounding, RoundingMode};
use crate::scaling::{QuantSpec, ScaleKind, Scaling};

/// 2^-100: fp32 scales are at least this. The product of such a scale with any element of any scaled format,
/// or with any E4M3 block scale, is then a normal `f32`, so nothing loses bits to subnormal numbers; tensors
/// whose values are all below about 2^-92 do not use the whole range of their format.
pub(crate) const MIN_SCALE: f32 = f32::from_bits((127 - 100) << 23);

/// Largest magnitude of an E4M3 block scale times an E2M1 element.
const NVFP4_MAX: f32 = 6.0 * 448.0;

/// The divisor of a block whose scale is 0: so large that all codes become 0 too.
pub(crate) const VANISHING: f32 = f32::MAX;

/// A scale as it is stored, and as it is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    /// What elements are divided by. Never zero.
    pub divisor: f32,
    /// The part of the scale that is multiplied back into the element at once, because it keeps products
    /// exact.
    pub fold: f32,
    /// The stored form: the code of an E8M0 or E4M3 scale, the bits of an `f32` one.
    pub code: u32,
}

/// How a tile's scale follows from its largest magnitude.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ScaleRule {
    /// There is no scale.
    Unit,
    /// The same scale whatever the tile holds.
    Given(f32),
    /// amax / max.
    Amax { max: f32, kind: ScaleKind },
    /// E8M0: 2^(floor(log2 amax) - max_exponent), with elements that count units of 2^-fraction_bits.
    Mx { max_exponent: i32, fraction_bits: i32 },
    /// E4M3 over an fp32 scale of the tensor.
    Nvfp4 { tensor_scale: f32 },
}

impl ScaleRule {
    /// The rule for `spec`. `tensor` is the fp32 scale of the whole tensor where the rule builds on one.
    pub(crate) fn new(spec: &QuantSpec, tensor: f32) -> Self {
        let max = spec.format.max_finite();
        match spec.scaling {
            Scaling::None => Self::Unit,
            Scaling::Delayed { .. } | Scaling::Absmean | Scaling::Absmedian => Self::Given(tensor),
            Scaling::Tensor | Scaling::Row | Scaling::Block { .. } | Scaling::Block2d { .. } => {
                Self::Amax { max, kind: spec.scale }
            }
            // MXINT8 elements are two's complement with six fractional bits (MX v1.0, section 5.3.4): the
            // largest exponent is 0, and what counts in units of 1 here counts in units of 2^-6 there.
            Scaling::Mx if spec.format == NumericFormat::Int8 => {
                Self::Mx { max_exponent: 0, fraction_bits: 6 }
            }
            Scaling::Mx => Self::Mx { max_exponent: spec.format.max_exponent(), fraction_bits: 0 },
            Scaling::Nvfp4 | Scaling::Nvfp4Weight => Self::Nvfp4 { tensor_scale: tensor },
        }
    }

    /// Whether a part of the scale is multiplied back into the elements.
    pub(crate) const fn folds(&self) -> bool {
        match self {
            Self::Unit | Self::Given(_) | Self::Amax { .. } => false,
            Self::Mx { .. } | Self::Nvfp4 { .. } => true,
        }
    }

    /// The scale of a tile with this largest finite magnitude.
    pub(crate) fn scale(&self, amax: f32) -> Scale {
        match *self {
            Self::Unit => Scale { divisor: 1.0, fold: 1.0, code: 1.0f32.to_bits() },
            Self::Given(scale) => Scale { divisor: scale, fold: 1.0, code: scale.to_bits() },
            Self::Amax { max, kind } => {
                let scale = amax_scale(amax, max, kind);
                Scale { divisor: scale, fold: 1.0, code: scale.to_bits() }
            }
            Self::Mx { max_exponent, fraction_bits } => {
                // The exponent field of a subnormal amax, or of 0, is 0: it counts as 2^-127, which is where
                // the scale is clamped in any case. The largest field, 254, gives the largest code.
                let code = ((amax.to_bits() >> 23) as i32 - max_exponent).max(0) as u32;
                let unit = f32::from_bits((127 - fraction_bits as u32) << 23);
                let scale = NumericFormat::E8m0.decode(code) * unit;
                Scale { divisor: scale, fold: scale, code }
            }
            Self::Nvfp4 { tensor_scale } => {
                let e4m3 = NumericFormat::E4m3;
                let scaled = amax / NumericFormat::E2m1.max_finite() / tensor_scale;
                let Encoded { code, value } = e4m3.encode(scaled, Rounding::NEAREST_EVEN, Overflow::Saturate);
                // A block of at most 6 x 2^-10 tensor scales has scale 0 and vanishes.
                let divisor = if value == 0.0 { VANISHING } else { value * tensor_scale };
                Scale { divisor, fold: value, code }
            }
        }
    }
}

multiversion! {
    /// [`ScaleRule::scale`] of many tiles, whose largest magnitudes are given as bits: the divisors and
    /// folds.
    pub(crate) fn tile_scales(rule: &ScaleRule, amax: &[i32], divisors: &mut [f32], folds: &mut [f32]) {
        let amax = amax.iter().map(|&bits| f32::from_bits(bits as u32));
        match *rule {
            ScaleRule::Unit => divisors.fill(1.0),
            ScaleRule::Given(scale) => divisors.fill(scale),
            ScaleRule::Amax { max, kind } => {
                for (amax, divisor) in amax.zip(divisors) {
                    *divisor = amax_scale(amax, max, kind);
                }
            }
            ScaleRule::Mx { max_exponent, fraction_bits } => {
                for ((amax, divisor), fold) in amax.zip(divisors).zip(folds) {
                    let scale = mx_scale(amax.to_bits() as i32, max_exponent, fraction_bits);
                    *divisor = scale;
                    *fold = scale;
                }
            }
            ScaleRule::Nvfp4 { tensor_scale } => {
                let e4m3 = Narrow::new(NumericFormat::E4m3, RoundingMode::NearestEven, Overflow::Saturate);
                for ((amax, divisor), fold) in amax.zip(divisors).zip(folds) {
                    let scaled = amax / NumericFormat::E2m1.max_finite() / tensor_scale;
                    let value = e4m3.nearest(scaled, scaled);
                    *fold = value;
                    *divisor = if value == 0.0 { VANISHING } else { value * tensor_scale };
                }
            }
        }
    }
}

/// The scale of a block of MX, as [`ScaleRule::scale`] finds it, from the bits of its largest magnitude.
#[inline(always)]
pub(crate) fn mx_scale(amax: i32, max_exponent: i32, fraction_bits: i32) -> f32 {
    let unit = f32::from_bits((127 - fraction_bits as u32) << 23);
    let code = ((amax >> 23) - max_exponent).max(0) as u32;
    // 2^-127 is subnormal.
    f32::from_bits(if code == 0 { 1 << 22 } else { code << 23 }) * unit
}

/// NVFP4's fp32 scale of the tensor.
pub(crate) fn nvfp4_tensor_scale(amax: f32, kind: ScaleKind) -> f32 {
    amax_scale(amax, NVFP4_MAX, kind)
}

/// The least scale at which `amax` does not exceed `max`, but for its bounds.
///
/// amax / max is rounded to nearest; where that falls short, so that amax / scale would exceed max by an ulp,
/// the next larger number is taken. Otherwise stochastic rounding could, if rarely, carry the largest element
/// over.
#[inline(always)]
fn amax_scale(amax: f32, max: f32, kind: ScaleKind) -> f32 {
    let quotient = amax / max;
    let next_up = f32::from_bits(quotient.to_bits() + 1);
    let scale = if amax / quotient > max { next_up } else { quotient };
    let scale = kind.round_up(if scale > MIN_SCALE { scale } else { MIN_SCALE });
    if amax == 0.0 { 1.0 } else { scale }
}

impl ScaleKind {
    /// The scale itself, or the power of two at or above it (at most 2^127).
    #[inline(always)]
    pub(crate) fn round_up(self, scale: f32) -> f32 {
        match self {
            Self::Float => scale,
            Self::PowerOfTwo => {
                let exponent = (scale.to_bits() + 0x007f_ffff) & 0x7f80_0000;
                f32::from_bits(exponent.min(0x7f00_0000))
            }
        }
    }
}
