//! Rounding modes, overflow, and the keyed random bits of stochastic rounding.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::UnknownName;

/// How a value between two neighbours of a format is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoundingMode {
    /// To the nearer neighbour; half-way, to the one with the even code (IEEE 754 roundTiesToEven).
    NearestEven,
    /// To the neighbour nearer to zero. Finite values never overflow (IEEE 754 roundTowardZero).
    TowardZero,
    /// Away from zero with a probability equal to the distance from the lower neighbour, in steps; unbiased.
    ///
    /// The probability has 24 bits and is rounded down to them. That is exact for every `f32` in the normal
    /// range of a format; below half of the smallest positive number it is low by less than 2^-24.
    Stochastic,
}

impl RoundingMode {
    /// Every mode, in the order of the enum.
    pub const ALL: [Self; 3] = [Self::NearestEven, Self::TowardZero, Self::Stochastic];

    /// The name used in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NearestEven => "nearest_even",
            Self::TowardZero => "toward_zero",
            Self::Stochastic => "stochastic",
        }
    }
}

/// A rounding mode with the key of its random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounding {
    /// The mode.
    pub mode: RoundingMode,
    /// Names the random bits of [`RoundingMode::Stochastic`]; the other modes ignore it.
    pub key: u64,
}

impl Rounding {
    /// To nearest, ties to even.
    pub const NEAREST_EVEN: Self = Self { mode: RoundingMode::NearestEven, key: 0 };

    /// Toward zero.
    pub const TOWARD_ZERO: Self = Self { mode: RoundingMode::TowardZero, key: 0 };

    /// Stochastic with this key.
    pub const fn stochastic(key: u64) -> Self {
        Self { mode: RoundingMode::Stochastic, key }
    }
}

/// What becomes of values beyond the largest finite one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// They, and infinities, become the largest finite value.
    Saturate,
    /// As IEEE 754 and the non-saturating mode of OCP FP8 have it: values that round beyond the largest
    /// finite one become infinity, or NaN where the format has no infinity. Formats with neither saturate
    /// finite values, and turn infinity into a NaN value.
    Propagate,
}

impl Overflow {
    /// Both, in the order of the enum.
    pub const ALL: [Self; 2] = [Self::Saturate, Self::Propagate];

    /// The name used in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Saturate => "saturate",
            Self::Propagate => "propagate",
        }
    }
}

/// The random bits of one key: a fixed integer hash of (key, index), so that nothing depends on threads, on
/// the width of vectors, or on what was drawn before.
///
/// The hash is lowbias32 (C. Wellons, "Prospecting for Hash Functions"), with half of the key added before it
/// and half in its middle, so that different keys do not give shifted copies of one sequence. It wants 32-bit
/// multiplications only, which vectorise. Indices count modulo 2^32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RandomBits {
    before: u32,
    middle: u32,
}

/// 2^-24: one step of the random numbers.
const STEP: f32 = 1.0 / (1 << 24) as f32;

impl RandomBits {
    pub(crate) fn new(key: u64) -> Self {
        // The finaliser of SplitMix64: keys that differ in a bit give unrelated halves.
        let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        Self { before: z as u32, middle: (z >> 32) as u32 }
    }

    /// 24 uniform bits.
    #[inline(always)]
    pub(crate) fn at(self, index: u32) -> u32 {
        let mut h = index.wrapping_mul(0x9e37_79b1) ^ self.before;
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d) ^ self.middle;
        h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
        (h ^ (h >> 16)) >> 8
    }

    /// A uniform multiple of 2^-24 in (0, 1]. A value is rounded away from zero if its distance from the
    /// lower neighbour, in steps, is at least this: never for distance 0.
    #[inline(always)]
    pub(crate) fn threshold(self, index: u32) -> f32 {
        // Through `i32`, whose conversion is one vector instruction.
        (self.at(index) as i32 + 1) as f32 * STEP
    }
}

impl fmt::Display for RoundingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RoundingMode {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| UnknownName::new("rounding mode", name, Self::ALL.map(Self::name)))
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Overflow {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|overflow| overflow.name() == name);
        found.ok_or_else(|| UnknownName::new("overflow rule", name, Self::ALL.map(Self::name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NumericFormat;

    /// The ends of the range of thresholds, on the indices that draw them: with the smallest, all goes up but
    /// what is less than 2^-24 of a step away; with the largest, nothing does.
    #[test]
    fn the_extreme_draws() {
        let key = 9;
        let bits = RandomBits::new(key);
        let index_of =
            |draw| (0..u32::MAX).find(|&index| bits.at(index) == draw).expect("a draw of 24 bits in 2^32");
        let (smallest, largest) = (index_of(0), index_of((1 << 24) - 1));
        assert_eq!([smallest, largest].map(|index| bits.threshold(index)), [STEP, 1.0]);
        let round = |x: f64, index: u32| {
            NumericFormat::Int8
                .encode_at(x, Rounding::stochastic(key), index.into(), Overflow::Saturate)
                .value
        };
        let step = f64::from(STEP);
        assert_eq!([3.0, 3.0 + step / 2.0, 3.0 + step].map(|x| round(x, smallest)), [3.0, 3.0, 4.0]);
        assert_eq!([4.0 - step, 4.0].map(|x| round(x, largest)), [3.0, 4.0]);
    }
}
