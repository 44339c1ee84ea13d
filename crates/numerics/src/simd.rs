//! One Rust loop, compiled for several instruction sets, chosen at run time.
//!
//! Rust compiles for the oldest x86-64, four floats at a time. [`multiversion!`](crate::multiversion)
//! compiles a function's body again for AVX2 (eight floats) and AVX-512 (sixteen). The loops are written so
//! that the compiler can vectorise them, and nothing else differs: sums have a fixed number of partial sums
//! and fused multiply-add is not asked for, so all versions give the same bits.

use std::sync::OnceLock;

/// Instruction sets that [`multiversion!`](crate::multiversion) compiles for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What the compilation target guarantees: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with the AVX-512 subsets F, VL, DQ and BW.
    Avx512,
}

/// The widest instruction set of this CPU; looked up once.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    if avx512 {
        Isa::Avx512
    } else if is_x86_feature_detected!("avx2") {
        Isa::Avx2
    } else {
        Isa::Baseline
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Baseline
}

/// Defines a function whose body is compiled for every [`Isa`](crate::simd::Isa) and dispatched at run time.
///
/// What the body calls must be `#[inline(always)]` to be compiled along with it.
///
/// ```
/// numerics::multiversion! {
///     /// y = max(x, 0).
///     pub fn relu(x: &[f32], y: &mut [f32]) {
///         for (x, y) in x.iter().zip(y) {
///             *y = x.max(0.0);
///         }
///     }
/// }
/// let mut y = [0.0; 2];
/// relu(&[-1.0, 2.0], &mut y);
/// assert_eq!(y, [0.0, 2.0]);
/// ```
#[macro_export]
macro_rules! multiversion {
    ($($(#[$attribute:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$attribute])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::simd::isa() {
                    $crate::simd::Isa::Baseline => {}
                    // SAFETY: `isa` has seen that this CPU has the features.
                    $crate::simd::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                }
            }
            body($($arg),*)
        }
    )+};
}
