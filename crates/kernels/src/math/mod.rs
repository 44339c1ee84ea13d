//! `f32` exp, tanh, sigmoid, erf, ln(1 + x) and softplus in forms that the compiler vectorises.
//!
//! The standard library calls the C library, one number at a time. Here each function is a branch-free
//! polynomial: a loop over it, inside [`multiversion!`](crate::multiversion), becomes vector code. Each comes
//! as a scalar function and, with the suffix `_into`, as a function over slices of equal length (elements
//! beyond the shorter slice are left alone).
//!
//! All functions propagate NaN, take infinities to their limits and keep the sign of zero where the true
//! function does. The error bounds, in units in the last place (ulp) of the exact result, are tested against
//! `f64`. Multiplications and additions are fused where that spares an instruction; where the CPU cannot do that, the C
//! library does, slowly and with the same bits.

mod erf;
mod exp;
mod ln_1p;
mod tanh;

#[cfg(test)]
mod oracle;

pub use erf::{erf, erf_into};
pub(crate) use exp::exp_or_zero;
pub use exp::{exp, exp_into, sigmoid, sigmoid_into};
pub use ln_1p::{ln_1p, ln_1p_into, softplus, softplus_into};
pub use tanh::{tanh, tanh_into};

/// c\[0\] + c\[1\] x + c\[2\] x² + ..., by Horner's rule.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = sum.mul_add(x, c[i]);
    }
    sum
}

/// Defines the slice form of a scalar function.
macro_rules! slice_form {
    ($(#[$attribute:meta])* $name:ident, $scalar:path) => {
        $crate::multiversion! {
            $(#[$attribute])*
            pub fn $name(x: &[f32], y: &mut [f32]) {
                for (&x, y) in x.iter().zip(y) {
                    *y = $scalar(x);
                }
            }
        }
    };
}
use slice_form;
