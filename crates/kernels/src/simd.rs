//! One Rust loop, compiled for several instruction sets, chosen at run time.
//!
//! Rust compiles for the oldest x86-64, four floats at a time. [`multiversion!`](crate::multiversion) compiles a function's
//! body again for AVX2 (eight floats) and AVX-512 (sixteen). The loops are written so that the compiler can vectorise them,
//! and nothing else differs: fused multiply-add is not asked for and sums have a fixed number of partial sums, so all
//! versions give the same bits. (Where multiplier and adder are separate units the fused form gains little, and the loops
//! here mostly wait for memory.)

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
/// What the body calls must be `#[inline(always)]` to be compiled along with it, as all scalar functions of
/// [`math`](crate::math) are.
///
/// ```
/// kernels::multiversion! {
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

/// Partial sums kept by the reductions: enough for the adders of every [`Isa`] to stay busy.
const LANES: usize = 32;

/// Adds the partial sums, halving; the order is part of the result.
#[inline(always)]
fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ term(a, b) over the pairs, in `f32` with 32 partial sums. To be called inside [`multiversion!`](crate::multiversion).
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
    for (lane, (&a, &b)) in lanes.iter_mut().zip(rest) {
        *lane = term(a, b);
    }
    for (a, b) in a_blocks.zip(b_blocks) {
        for i in 0..LANES {
            lanes[i] += term(a[i], b[i]);
        }
    }
    add_lanes(lanes)
}

/// The largest element; NaN elements are passed over, and an empty slice gives -infinity.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let blocks = x.chunks_exact(LANES);
    let rest = blocks.remainder();
    for x in blocks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], x[i]);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// x ← exp(x - shift), returning Σ exp(x - shift) in `f32` with 32 partial sums.
#[inline(always)]
pub(crate) fn exp_minus_in_place(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut blocks = x.chunks_exact_mut(LANES);
    for x in &mut blocks {
        for i in 0..LANES {
            x[i] = crate::math::exp(x[i] - shift);
            lanes[i] += x[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(blocks.into_remainder()) {
        *x = crate::math::exp(*x - shift);
        *lane += *x;
    }
    add_lanes(lanes)
}
