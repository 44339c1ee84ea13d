//! The one encoder: scalar, in `f64`, the oracle of every fast path.

use crate::format::{Layout, NumericFormat, Specials, pow2};
use crate::rounding::{Overflow, RandomBits, Rounding, RoundingMode};

/// An encoded number.
#[derive(Debug, Clone, Copy)]
pub struct Encoded {
    /// The code, in the lowest [`bits`](NumericFormat::bits) bits.
    pub code: u32,
    /// What stands for the number in further arithmetic: the code's value, except that NaN stays NaN in
    /// formats without a code for it (whose code is then 0).
    pub value: f32,
}

/// A magnitude after rounding.
enum Magnitude {
    /// A finite number's magnitude code.
    Finite(u32),
    /// Beyond the largest finite number.
    Beyond,
}

impl NumericFormat {
    /// Rounds `x` to this format, as element 0 of its stream of random bits (see
    /// [`encode_at`](Self::encode_at)).
    ///
    /// ```
    /// use numerics::{NumericFormat, Overflow, Rounding};
    /// let encoded = NumericFormat::E4m3.encode(17.0f32, Rounding::NEAREST_EVEN, Overflow::Saturate);
    /// assert_eq!((encoded.code, encoded.value), (0x58, 16.0)); // half-way between 16 and 18: even mantissa
    /// ```
    pub fn encode(self, x: impl Into<f64>, rounding: Rounding, overflow: Overflow) -> Encoded {
        self.encode_at(x, rounding, 0, overflow)
    }

    /// Rounds `x`, whose random bits (in stochastic rounding) are those of `(rounding.key, index)`.
    ///
    /// E8M0 has neither sign nor zero: negative numbers become NaN, and zero and what lies below 2^-127
    /// become 2^-127. Rounding acts on the value: 1.5 2^e is half-way, and as no significand of one bit is
    /// even, the larger neighbour is taken (IEEE 754-2019, 4.3.1).
    pub fn encode_at(self, x: impl Into<f64>, rounding: Rounding, index: u64, overflow: Overflow) -> Encoded {
        let x: f64 = x.into();
        let spec = self.spec();
        if x.is_nan() || (spec.layout == Layout::Exponent && x < 0.0) {
            return self.nan();
        }
        let magnitude =
            if x.is_infinite() { Magnitude::Beyond } else { self.round_magnitude(x.abs(), rounding, index) };
        let magnitude = match magnitude {
            Magnitude::Finite(magnitude) => magnitude,
            // Rounding toward zero carries finite numbers no further than the largest (IEEE 754, 7.4).
            Magnitude::Beyond if x.is_finite() && rounding.mode == RoundingMode::TowardZero => {
                self.max_magnitude()
            }
            Magnitude::Beyond => match (overflow, spec.specials) {
                (Overflow::Saturate, Specials::Ieee | Specials::NanOnly | Specials::None) => {
                    self.max_magnitude()
                }
                (Overflow::Propagate, Specials::Ieee) => self.max_magnitude() + 1,
                (Overflow::Propagate, Specials::NanOnly) => return self.nan(),
                (Overflow::Propagate, Specials::None) if x.is_finite() => self.max_magnitude(),
                (Overflow::Propagate, Specials::None) => return self.nan(),
            },
        };
        let code = match spec.layout {
            Layout::SignMagnitude => magnitude | (u32::from(x.is_sign_negative()) << (spec.bits - 1)),
            Layout::Exponent => magnitude,
            Layout::TwosComplement if x < 0.0 => magnitude.wrapping_neg() & ((1 << spec.bits) - 1),
            Layout::TwosComplement => magnitude,
        };
        Encoded { code, value: self.decode(code) }
    }

    /// NaN: the quiet code with an empty payload, or code 0 where there is none.
    fn nan(self) -> Encoded {
        let spec = self.spec();
        let code = match spec.specials {
            Specials::Ieee => self.max_magnitude() + 1 + (1 << (spec.mantissa_bits - 1)),
            Specials::NanOnly => self.max_magnitude() + 1,
            Specials::None => 0,
        };
        Encoded { code, value: f32::NAN }
    }

    /// Rounds a finite `a >= 0`. All arithmetic is exact: scaling by powers of two, and splitting off an
    /// integer.
    fn round_magnitude(self, a: f64, rounding: Rounding, index: u64) -> Magnitude {
        let spec = self.spec();
        // Numbers below the smallest normal `f64` count as 2^-1023, which is below every `min_exponent`.
        let exponent = (((a.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(spec.min_exponent);
        if exponent > self.max_exponent() + 1 {
            return Magnitude::Beyond;
        }
        if spec.layout == Layout::Exponent && a < pow2(exponent) {
            return Magnitude::Finite(0); // below the smallest power of two
        }
        let mantissa_bits = spec.mantissa_bits as i32;
        let steps = a * pow2(mantissa_bits - exponent);
        let lower = steps.floor();
        // Codes of consecutive magnitudes are consecutive: each binade above the lowest adds 2^mantissa_bits,
        // and the implicit one in `lower` accounts for the first. E8M0 has no zero, so its first code is one
        // less.
        let binades = ((exponent - spec.min_exponent) as u32) << spec.mantissa_bits;
        let no_zero = u32::from(spec.layout == Layout::Exponent);
        let code = binades + lower as u32 - no_zero;
        let code = code + u32::from(away_from_zero(steps - lower, lower % 2.0 == 1.0, rounding, index));
        if code > self.max_magnitude() { Magnitude::Beyond } else { Magnitude::Finite(code) }
    }
}

/// Whether a magnitude at `fraction` of the way from its lower neighbour to the next is rounded up. `odd`:
/// whether the lower neighbour's significand is.
fn away_from_zero(fraction: f64, odd: bool, rounding: Rounding, index: u64) -> bool {
    match rounding.mode {
        RoundingMode::NearestEven => fraction > 0.5 || (fraction == 0.5 && odd),
        RoundingMode::TowardZero => false,
        RoundingMode::Stochastic => {
            fraction >= f64::from(RandomBits::new(rounding.key).threshold(index as u32))
        }
    }
}
