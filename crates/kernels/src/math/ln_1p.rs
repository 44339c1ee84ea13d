//! ln(1 + x) and softplus.

use super::exp::{LN_2_HIGH, LN_2_LOW};
use super::{exp, polynomial, slice_form};

/// ln(1 + x) within 2.5 ulp, also for tiny x; -infinity at -1, NaN below.
///
/// With 1 + x = 2^k (1 + f) and 1 + f between √½ and √2, it is k ln 2 + ln(1 + f); the polynomial for the
/// latter is that of Moshier's Cephes library (`logf.c`).
#[inline(always)]
pub fn ln_1p(x: f32) -> f32 {
    const P: [f32; 9] = [
        0.333_333_3,
        -0.249_999_94,
        0.200_007_15,
        -0.166_680_57,
        0.142_493_23,
        -0.124_201_41,
        0.116_769_984,
        -0.115_146_1,
        0.070_376_836,
    ];
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    let u = 1.0 + x;
    let k = (u.to_bits().wrapping_sub(SQRT_HALF_BITS) as i32) >> 23;
    let mantissa = f32::from_bits(u.to_bits().wrapping_sub((k << 23) as u32));
    // Without a shift of the exponent f is x itself, with all its digits; with one, 1 + x is far enough from 1
    // for its rounding not to matter.
    let f = if k == 0 { x } else { mantissa - 1.0 };
    let square = f * f;
    let k_float = k as f32;
    let low = f * square * polynomial(f, P) + k_float * LN_2_LOW - 0.5 * square;
    let ln = f + low;
    let ln = if k == 0 { ln } else { ln + k_float * LN_2_HIGH };
    let ln = if x < f32::INFINITY { ln } else { x };
    if x > -1.0 {
        ln
    } else if x == -1.0 {
        f32::NEG_INFINITY
    } else {
        f32::NAN
    }
}

/// softplus x = ln(1 + e^x) within 3.0 ulp, subnormal results included.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let positive_part = if x > 0.0 { x } else { 0.0 };
    positive_part + ln_1p(exp(-x.abs()))
}

slice_form! {
    /// y = ln(1 + x); see [`ln_1p`].
    ln_1p_into, ln_1p
}
slice_form! {
    /// y = ln(1 + e^x); see [`softplus`].
    softplus_into, softplus
}
