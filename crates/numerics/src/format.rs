//! The closed set of number formats.
//!
//! A format is a row of a table, [`FormatSpec`]: how many bits, how fine, how large, and which special codes.
//! One decoder (here) and one encoder (`encode`) read the row; no format has arithmetic of its own.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::UnknownName;

/// A format in which an element of a tensor, or a scale, is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NumericFormat {
    /// IEEE 754 binary32.
    Fp32,
    /// NVIDIA TensorFloat-32: binary32 with 10 mantissa bits (1 + 8 + 10 = 19 bits).
    Tf32,
    /// bfloat16: binary32 with 7 mantissa bits.
    Bf16,
    /// IEEE 754 binary16.
    Fp16,
    /// OCP FP8 E4M3 ("FN"): one NaN code of each sign, no infinity, largest 448.
    E4m3,
    /// OCP FP8 E5M2: IEEE-like, with infinities and NaN, largest 57344.
    E5m2,
    /// OCP FP6 E3M2: no special codes, largest 28.
    E3m2,
    /// OCP FP6 E2M3: no special codes, largest 7.5.
    E2m3,
    /// OCP FP4 E2M1: no special codes, largest 6.
    E2m1,
    /// OCP scale format E8M0: 2^(code - 127), code 255 is NaN; no sign and no zero.
    E8m0,
    /// Symmetric 8-bit integer, -127 to 127, in two's complement. Code 128 decodes to -128 and is never
    /// produced.
    Int8,
    /// Symmetric 4-bit integer, -7 to 7, in two's complement. Code 8 decodes to -8 and is never produced.
    Int4,
    /// -1, 0 and 1 in two bits of two's complement. Code 2 stands for nothing: it decodes to NaN.
    Ternary,
}

/// How a code is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A sign bit above a magnitude whose order is the order of the codes: all floating-point formats.
    SignMagnitude,
    /// The exponent alone: E8M0.
    Exponent,
    /// Two's complement integers.
    TwosComplement,
}

/// Which codes do not stand for a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// The largest exponent is infinity (mantissa 0) and NaN, as in IEEE 754.
    Ieee,
    /// Only the largest magnitude is taken, by NaN; there is no infinity.
    NanOnly,
    /// Every code is a finite number.
    None,
}

/// A row of the table of formats.
///
/// Finite magnitudes are multiples of 2^(e - `mantissa_bits`), where 2^e is the power of two at or below the
/// magnitude, but at least 2^`min_exponent`: below that the steps stay as they are (subnormal numbers).
/// Integers fit the same description: all of them are below 2^`min_exponent`, and their step is 1.
#[derive(Debug, PartialEq)]
pub struct FormatSpec {
    /// The name in configuration files.
    pub name: &'static str,
    /// Bits of a code.
    pub bits: u32,
    /// Fractional bits of a normal number.
    pub mantissa_bits: u32,
    /// Exponent of the smallest normal number.
    pub min_exponent: i32,
    /// The largest finite value.
    pub max_finite: f32,
    /// Layout of a code.
    pub layout: Layout,
    /// Codes that are not finite numbers.
    pub specials: Specials,
}

impl FormatSpec {
    const fn float(
        name: &'static str,
        bits: u32,
        mantissa_bits: u32,
        min_exponent: i32,
        max_finite: f32,
        specials: Specials,
    ) -> Self {
        Self { name, bits, mantissa_bits, min_exponent, max_finite, layout: Layout::SignMagnitude, specials }
    }

    const fn integer(name: &'static str, bits: u32) -> Self {
        Self {
            name,
            bits,
            mantissa_bits: bits - 1,
            min_exponent: bits as i32 - 1,
            max_finite: ((1 << (bits - 1)) - 1) as f32,
            layout: Layout::TwosComplement,
            specials: Specials::None,
        }
    }
}

/// The largest finite values of the two formats that share binary32's exponents: (2 - 2^-m) 2^127.
const MAX_TF32: f32 = f32::from_bits(0x7f7f_e000);
const MAX_BF16: f32 = f32::from_bits(0x7f7f_0000);

static FP32: FormatSpec = FormatSpec::float("fp32", 32, 23, -126, f32::MAX, Specials::Ieee);
static TF32: FormatSpec = FormatSpec::float("tf32", 19, 10, -126, MAX_TF32, Specials::Ieee);
static BF16: FormatSpec = FormatSpec::float("bf16", 16, 7, -126, MAX_BF16, Specials::Ieee);
static FP16: FormatSpec = FormatSpec::float("fp16", 16, 10, -14, 65504.0, Specials::Ieee);
static E4M3: FormatSpec = FormatSpec::float("e4m3", 8, 3, -6, 448.0, Specials::NanOnly);
static E5M2: FormatSpec = FormatSpec::float("e5m2", 8, 2, -14, 57344.0, Specials::Ieee);
static E3M2: FormatSpec = FormatSpec::float("e3m2", 6, 2, -2, 28.0, Specials::None);
static E2M3: FormatSpec = FormatSpec::float("e2m3", 6, 3, 0, 7.5, Specials::None);
static E2M1: FormatSpec = FormatSpec::float("e2m1", 4, 1, 0, 6.0, Specials::None);
static E8M0: FormatSpec = FormatSpec {
    name: "e8m0",
    bits: 8,
    mantissa_bits: 0,
    min_exponent: -127,
    max_finite: f32::from_bits(0x7f00_0000), // 2^127
    layout: Layout::Exponent,
    specials: Specials::NanOnly,
};
static INT8: FormatSpec = FormatSpec::integer("int8", 8);
static INT4: FormatSpec = FormatSpec::integer("int4", 4);
static TERNARY: FormatSpec = FormatSpec::integer("ternary", 2);

/// 2^k, exactly. Needs -1022 <= k <= 1023.
pub(crate) const fn pow2(k: i32) -> f64 {
    debug_assert!(-1022 <= k && k <= 1023);
    f64::from_bits(((k + 1023) as u64) << 52)
}

impl NumericFormat {
    /// Every format, in the order of the enum.
    pub const ALL: [Self; 13] = [
        Self::Fp32,
        Self::Tf32,
        Self::Bf16,
        Self::Fp16,
        Self::E4m3,
        Self::E5m2,
        Self::E3m2,
        Self::E2m3,
        Self::E2m1,
        Self::E8m0,
        Self::Int8,
        Self::Int4,
        Self::Ternary,
    ];

    /// The format's row of the table.
    pub const fn spec(self) -> &'static FormatSpec {
        match self {
            Self::Fp32 => &FP32,
            Self::Tf32 => &TF32,
            Self::Bf16 => &BF16,
            Self::Fp16 => &FP16,
            Self::E4m3 => &E4M3,
            Self::E5m2 => &E5M2,
            Self::E3m2 => &E3M2,
            Self::E2m3 => &E2M3,
            Self::E2m1 => &E2M1,
            Self::E8m0 => &E8M0,
            Self::Int8 => &INT8,
            Self::Int4 => &INT4,
            Self::Ternary => &TERNARY,
        }
    }

    /// The name used in configuration files.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        self.spec().bits
    }

    /// The largest finite value.
    pub const fn max_finite(self) -> f32 {
        self.spec().max_finite
    }

    /// Whether infinity has a code.
    pub const fn has_infinity(self) -> bool {
        matches!(self.spec().specials, Specials::Ieee)
    }

    /// Whether NaN has a code.
    pub const fn has_nan(self) -> bool {
        !matches!(self.spec().specials, Specials::None)
    }

    /// Whether -0 has a code of its own.
    pub const fn has_negative_zero(self) -> bool {
        matches!(self.spec().layout, Layout::SignMagnitude)
    }

    /// Exponent of the largest finite value: floor(log2(`max_finite`)).
    pub const fn max_exponent(self) -> i32 {
        (self.max_finite().to_bits() >> 23) as i32 - 127
    }

    /// The smallest positive normal number; of an integer format, 1.
    pub fn min_normal(self) -> f32 {
        match self.spec().layout {
            Layout::SignMagnitude | Layout::Exponent => pow2(self.spec().min_exponent) as f32,
            Layout::TwosComplement => 1.0,
        }
    }

    /// The smallest positive number: the step below [`min_normal`](Self::min_normal). E8M0 has no subnormal
    /// numbers.
    pub fn min_positive(self) -> f32 {
        pow2(self.spec().min_exponent - self.spec().mantissa_bits as i32) as f32
    }

    /// The number of codes, 2^bits.
    pub const fn code_count(self) -> u64 {
        1 << self.bits()
    }

    /// The largest magnitude code of a finite number. For E8M0, which has no zero, the code itself.
    pub(crate) const fn max_magnitude(self) -> u32 {
        let spec = self.spec();
        let all = match spec.layout {
            Layout::SignMagnitude | Layout::TwosComplement => ((1u64 << (spec.bits - 1)) - 1) as u32,
            Layout::Exponent => (1 << spec.bits) - 1,
        };
        match spec.specials {
            Specials::Ieee => all - (1 << spec.mantissa_bits),
            Specials::NanOnly => all - 1,
            Specials::None => all,
        }
    }

    /// The value of a code, exactly. Bits above [`bits`](Self::bits) are ignored; NaN payloads are not kept.
    pub fn decode(self, code: u32) -> f32 {
        let spec = self.spec();
        let code = code & ((1u64 << spec.bits) - 1) as u32;
        match spec.layout {
            Layout::SignMagnitude => {
                let sign_bit = 1 << (spec.bits - 1);
                let magnitude = self.decode_magnitude(code & (sign_bit - 1));
                if code & sign_bit == 0 { magnitude } else { -magnitude }
            }
            Layout::Exponent if code > self.max_magnitude() => f32::NAN,
            Layout::Exponent => pow2(code as i32 + spec.min_exponent) as f32,
            Layout::TwosComplement => {
                let unused = 32 - spec.bits;
                let value = ((code << unused) as i32 >> unused) as f32;
                if self == Self::Ternary && value == -2.0 { f32::NAN } else { value }
            }
        }
    }

    fn decode_magnitude(self, magnitude: u32) -> f32 {
        let spec = self.spec();
        let max = self.max_magnitude();
        if magnitude > max {
            return if self.has_infinity() && magnitude == max + 1 { f32::INFINITY } else { f32::NAN };
        }
        let one = 1 << spec.mantissa_bits;
        let (exponent, mantissa) = (magnitude >> spec.mantissa_bits, magnitude & (one - 1));
        // Exponent 0 is subnormal: no implicit one, and the step of exponent 1.
        let significand = if exponent == 0 { mantissa } else { one + mantissa };
        let step = spec.min_exponent + exponent.max(1) as i32 - 1 - spec.mantissa_bits as i32;
        (f64::from(significand) * pow2(step)) as f32
    }
}

impl fmt::Display for NumericFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for NumericFormat {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownName::new("number format", name, Self::ALL.map(Self::name)))
    }
}
