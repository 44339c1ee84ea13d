//! Rounding to a format in plain `f32` and integer operations, without branches, so that loops over it
//! vectorise.

use crate::format::{Layout, NumericFormat, Specials};
use crate::rounding::{Overflow, RandomBits, RoundingMode};

const SIGN: u32 = 0x8000_0000;
const INFINITY_BITS: i32 = 0x7f80_0000;

/// The representable numbers of a format, in the form that its rounding needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Grid {
    /// A format with the exponents of `f32`: dropping low bits of the mantissa is all there is to it.
    Short(Short),
    /// A narrower range, with its own subnormal numbers and limits. Integers too.
    Narrow(Narrow),
    /// E8M0, which is no element format and goes through the encoder.
    Encoder(NumericFormat, Overflow),
}

/// Formats with eight exponent bits and a shorter mantissa.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Short {
    /// Mantissa bits that are dropped.
    shift: u32,
    /// The dropped bits.
    mask: i32,
    /// The lowest bit that is kept, or 0 if none is dropped.
    odd: i32,
    /// Magnitudes are brought down to this before rounding: the largest finite number, or infinity.
    limit: i32,
}

/// Formats with fewer exponents than `f32`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrow {
    /// Exponent field of the smallest normal number: steps do not get finer below it.
    min_exponent: i32,
    /// 23 - mantissa bits, as an exponent field: from a number's exponent to that of 2^23 steps.
    to_magic: i32,
    max: f32,
    /// Magnitudes are brought down to this before rounding: `max`, or the power of two above it where what
    /// rounds beyond `max` becomes special.
    limit: f32,
    /// What infinities, and what rounds beyond `max`, become.
    beyond: f32,
    /// Added last: -0, which changes nothing, or +0, which takes the sign off -0.
    zero: f32,
}

impl Grid {
    pub(crate) fn new(format: NumericFormat, mode: RoundingMode, overflow: Overflow) -> Self {
        let spec = format.spec();
        if spec.layout == Layout::Exponent {
            return Self::Encoder(format, overflow);
        }
        if spec.min_exponent == -126 {
            let shift = 23 - spec.mantissa_bits;
            let limit = match overflow {
                Overflow::Saturate => spec.max_finite.to_bits() as i32,
                Overflow::Propagate => INFINITY_BITS,
            };
            let kept = 1 << shift;
            return Self::Short(Short { shift, mask: kept - 1, odd: i32::from(shift > 0), limit });
        }
        Self::Narrow(Narrow::new(format, mode, overflow))
    }
}

/// Rounds one number of either kind of grid; `x` is what the number was before it was divided by its scale.
pub(crate) trait Round: Copy {
    fn nearest(self, x: f32, quotient: f32) -> f32;
    fn toward_zero(self, x: f32, quotient: f32) -> f32;
    fn stochastic(self, x: f32, quotient: f32, bits: RandomBits, index: u32) -> f32;
}

impl Short {
    /// Adds `add(magnitude)` to the magnitude, which carries into the kept bits, and drops the others.
    #[inline(always)]
    fn add_and_drop(self, x: f32, add: impl Fn(i32) -> i32) -> f32 {
        let bits = x.to_bits();
        let given = (bits & !SIGN) as i32;
        let magnitude = given.min(self.limit);
        let rounded = magnitude.wrapping_add(add(magnitude)) & !self.mask;
        // NaN is above infinity; its bits were clamped, so it is put back.
        let kept = if given > INFINITY_BITS { given } else { rounded };
        f32::from_bits(kept as u32 | (bits & SIGN))
    }
}

impl Round for Short {
    #[inline(always)]
    fn nearest(self, _: f32, quotient: f32) -> f32 {
        // Half a step less one, and one more if the kept part is odd: a tie then carries only from odd to
        // even.
        self.add_and_drop(quotient, |magnitude| (self.mask >> 1) + ((magnitude >> self.shift) & self.odd))
    }

    #[inline(always)]
    fn toward_zero(self, _: f32, quotient: f32) -> f32 {
        self.add_and_drop(quotient, |_| 0)
    }

    #[inline(always)]
    fn stochastic(self, _: f32, quotient: f32, bits: RandomBits, index: u32) -> f32 {
        // Carries if the dropped bits exceed the highest `shift` of the 24 random bits: dropped / 2^shift is
        // at least (random + 1) / 2^24 exactly then.
        let random = (bits.at(index) >> (24 - self.shift)) as i32;
        self.add_and_drop(quotient, |_| self.mask ^ random)
    }
}

impl Narrow {
    /// For formats whose smallest normal number is above that of `f32`, and integers.
    pub(crate) fn new(format: NumericFormat, mode: RoundingMode, overflow: Overflow) -> Self {
        let spec = format.spec();
        let beyond = match (overflow, spec.specials) {
            (Overflow::Saturate, _) => spec.max_finite,
            (Overflow::Propagate, Specials::Ieee) => f32::INFINITY,
            (Overflow::Propagate, Specials::NanOnly | Specials::None) => f32::NAN,
        };
        // Finite numbers go beyond the largest only where there is something beyond it to become.
        let can_exceed = match mode {
            RoundingMode::NearestEven | RoundingMode::Stochastic => {
                overflow == Overflow::Propagate && format.has_nan()
            }
            RoundingMode::TowardZero => false,
        };
        let above = f32::from_bits(((format.max_exponent() + 1 + 127) as u32) << 23);
        Self {
            min_exponent: (spec.min_exponent + 127) << 23,
            to_magic: (23 - spec.mantissa_bits as i32) << 23,
            max: spec.max_finite,
            limit: if can_exceed { above } else { spec.max_finite },
            beyond,
            zero: if format.has_negative_zero() { -0.0 } else { 0.0 },
        }
    }

    /// Clamps, rounds by `to_step(magnitude, 2^23 steps)`, and restores sign and special values.
    #[inline(always)]
    fn around(self, x: f32, quotient: f32, to_step: impl Fn(f32, f32) -> f32) -> f32 {
        let bits = quotient.to_bits();
        let given = f32::from_bits(bits & !SIGN);
        // Written so that NaN stays.
        let magnitude = if given > self.limit { self.limit } else { given };
        let exponent = ((magnitude.to_bits() as i32) & INFINITY_BITS).max(self.min_exponent);
        let magic = f32::from_bits(exponent.wrapping_add(self.to_magic) as u32);
        let rounded = to_step(magnitude, magic);
        let beyond = (rounded > self.max) | (x.abs() == f32::INFINITY);
        let rounded = if beyond { self.beyond } else { rounded };
        f32::from_bits(rounded.to_bits() | (bits & SIGN)) + self.zero
    }
}

/// The step of which `magic` is 2^23 times.
#[inline(always)]
fn step(magic: f32) -> f32 {
    f32::from_bits(magic.to_bits().wrapping_sub(23 << 23))
}

/// The multiple of the step nearest to `magnitude`: at 2^23 steps an `f32` has no room for fractions of a
/// step, so the addition rounds to a multiple, half to even, and the subtraction is exact.
#[inline(always)]
fn nearest(magnitude: f32, magic: f32) -> f32 {
    (magnitude + magic) - magic
}

/// The multiple of the step at or below `magnitude`.
#[inline(always)]
fn lower(magnitude: f32, magic: f32) -> f32 {
    let rounded = nearest(magnitude, magic);
    if rounded > magnitude { rounded - step(magic) } else { rounded }
}

impl Round for Narrow {
    #[inline(always)]
    fn nearest(self, x: f32, quotient: f32) -> f32 {
        self.around(x, quotient, nearest)
    }

    #[inline(always)]
    fn toward_zero(self, x: f32, quotient: f32) -> f32 {
        self.around(x, quotient, lower)
    }

    #[inline(always)]
    fn stochastic(self, x: f32, quotient: f32, bits: RandomBits, index: u32) -> f32 {
        self.around(x, quotient, |magnitude, magic| {
            let (lower, step) = (lower(magnitude, magic), step(magic));
            // Both sides are exact: a difference of neighbours' distance, and a product with a power of two.
            let away = magnitude - lower >= bits.threshold(index) * step;
            if away { lower + step } else { lower }
        })
    }
}

/// Runs `body` with `round` bound to the rounding of this grid, (number, quotient, index) -> element.
///
/// The mode and the kind of grid are decided here once, outside of the loop that `body` is expected to be;
/// each arm compiles a loop of its own.
macro_rules! with_rounding {
    ($grid:expr, $rounding:expr, |$round:ident| $body:expr) => {{
        use $crate::grid::{Grid, Round};
        let rounding: $crate::Rounding = $rounding;
        let bits = $crate::rounding::RandomBits::new(rounding.key);
        match ($grid, rounding.mode) {
            (Grid::Short(grid), $crate::RoundingMode::NearestEven) => {
                let $round = |x: f32, quotient: f32, _: u32| grid.nearest(x, quotient);
                $body
            }
            (Grid::Short(grid), $crate::RoundingMode::TowardZero) => {
                let $round = |x: f32, quotient: f32, _: u32| grid.toward_zero(x, quotient);
                $body
            }
            (Grid::Short(grid), $crate::RoundingMode::Stochastic) => {
                let $round = |x: f32, quotient: f32, index: u32| grid.stochastic(x, quotient, bits, index);
                $body
            }
            (Grid::Narrow(grid), $crate::RoundingMode::NearestEven) => {
                let $round = |x: f32, quotient: f32, _: u32| grid.nearest(x, quotient);
                $body
            }
            (Grid::Narrow(grid), $crate::RoundingMode::TowardZero) => {
                let $round = |x: f32, quotient: f32, _: u32| grid.toward_zero(x, quotient);
                $body
            }
            (Grid::Narrow(grid), $crate::RoundingMode::Stochastic) => {
                let $round = |x: f32, quotient: f32, index: u32| grid.stochastic(x, quotient, bits, index);
                $body
            }
            (Grid::Encoder(format, overflow), _) => {
                let $round = |_: f32, quotient: f32, index: u32| {
                    format.encode_at(quotient, rounding, u64::from(index), overflow).value
                };
                $body
            }
        }
    }};
}
pub(crate) use with_rounding;
