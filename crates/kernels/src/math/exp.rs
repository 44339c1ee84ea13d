//! Exponential and logistic function.

use super::{polynomial, slice_form};
use std::f32::consts::LOG2_E;

/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
pub(super) const LN_2_HIGH: f32 = 0.693_359_4;
pub(super) const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x within 1.0 ulp, subnormal results included; 0 below about -104, infinity above 88.72.
///
/// With n = round(x / ln 2) and r = x - n ln 2, e^x = 2^n e^r; e^r = 1 + r + r² p(r) for |r| <= ln(2)/2,
/// where p is that of Moshier's Cephes library (`expf.c`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons that are false for NaN, which so stays NaN.
    let x = if x < -105.0 { -105.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(LOG2_E, ROUND);
    let e_r = exp_of_rest(x, shifted - ROUND);
    // n runs from -151 to 128: in two halves each factor is a normal number, and only the last product
    // rounds.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    e_r * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// As [`exp`], bit for bit, but 0 where e^x is subnormal, and for x up to 88 only: for softmaxes, to which such
/// probabilities are nothing, in four fifths of the time.
#[inline(always)]
pub(crate) fn exp_or_zero(x: f32) -> f32 {
    // With the exponent's bias on top, the low bits are the exponent as a float has it.
    const ROUND_BIASED: f32 = ROUND + 127.0;
    // Here the biased exponent is 0, and with it the factor.
    let x = if x < -88.0 { -88.0 } else { x };
    let shifted = x.mul_add(LOG2_E, ROUND_BIASED);
    exp_of_rest(x, shifted - ROUND_BIASED) * f32::from_bits(shifted.to_bits() << 23)
}

/// Added to a number, 1.5 * 2^23 leaves no bits for a fraction: the sum is rounded to an integer, which its low bits hold.
const ROUND: f32 = 12_582_912.0;

/// e^(x - n ln 2) for the integer n that is nearest to x / ln 2.
#[inline(always)]
fn exp_of_rest(x: f32, n: f32) -> f32 {
    const P: [f32; 6] = [0.5, 0.166_666_65, 0.041_665_796, 0.008_333_452, 0.001_398_2, 0.000_198_756_91];
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    (r * r).mul_add(polynomial(r, P), r) + 1.0
}

/// 2^n for -126 <= n <= 127, from its bits.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// 1 / (1 + e^-x) within 2.5 ulp, subnormal results included.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    // The exponential of a negative number only, so that it cannot overflow.
    let e = exp(-x.abs());
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

slice_form! {
    /// y = e^x; see [`exp`].
    exp_into, exp
}
slice_form! {
    /// y = 1 / (1 + e^-x); see [`sigmoid`].
    sigmoid_into, sigmoid
}
