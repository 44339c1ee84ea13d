//! One Rust loop, compiled for several instruction sets, chosen at run time.
//!
//! Rust compiles for the oldest x86-64, four floats at a time. [`multiversion!`](crate::multiversion)
//! compiles a function's body again for AVX2 (eight floats) and AVX-512 (sixteen). The loops are written so
//! that the compiler can vectorise them, and nothing else differs: sums have a fixed number of partial sums, and a
//! multiplication is fused with an addition in all versions or in none, so all give the same bits. (The oldest x86-64 has no
//! instruction for that: there [`f32::mul_add`] is a call of the C library, which is slow.)
//!
//! AMX adds no loop: it multiplies matrices of bf16. The loops run their AVX-512 version beside it, and the
//! `kernels` crate gives it the products of operands below f32, each as one or two numbers of bf16.
//!
//! [`ISA_VARIABLE`] pins the version, and with anything but `amx` turns those products off. It also chooses the
//! kernels of f32 products, which give the same bits too; `baseline` leaves those of AVX2, since others do not fuse additions.

use std::env;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::error::UnknownName;

/// The environment variable that pins the instruction set of [`isa`], for tests and for comparisons.
pub const ISA_VARIABLE: &str = "FFNLAB_ISA";

/// Instruction sets that [`multiversion!`](crate::multiversion) compiles for; a later one includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the compilation target guarantees: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with the AVX-512 subsets F, VL, DQ and BW.
    Avx512,
    /// The same with AMX's tiles and products of bf16, which Linux has given this process leave to use.
    Amx,
}

impl Isa {
    /// Every instruction set, the narrowest first.
    pub const ALL: [Self; 4] = [Self::Baseline, Self::Avx2, Self::Avx512, Self::Amx];

    /// The name in [`ISA_VARIABLE`]; [`FromStr`] reads it back.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let known = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| UnknownName::new("instruction set", name, known).into())
    }
}

/// An instruction set that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// A name that is none of [`Isa::ALL`].
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// The CPU is not able to run it.
    #[error("this CPU has no {wanted}, its widest instruction set here is {widest}")]
    Absent {
        /// What was asked for.
        wanted: Isa,
        /// What there is.
        widest: Isa,
    },
}

/// The instruction set that runs: the one pinned by [`ISA_VARIABLE`], else the widest of this CPU. Looked up once.
///
/// A pin that cannot be had counts as none here, since there is nobody to tell; a program asks [`pinned`] first.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| pinned().ok().flatten().unwrap_or_else(widest))
}

/// The instruction set that [`ISA_VARIABLE`] asks for; none, if it is unset or empty.
///
/// # Errors
/// An unknown name; an instruction set that this CPU lacks.
pub fn pinned() -> Result<Option<Isa>, IsaError> {
    match env::var_os(ISA_VARIABLE) {
        Some(name) if !name.is_empty() => choose(&name.to_string_lossy(), widest()).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// The instruction set of this name, on a CPU with this widest one.
fn choose(name: &str, widest: Isa) -> Result<Isa, IsaError> {
    let wanted: Isa = name.parse()?;
    if wanted > widest { Err(IsaError::Absent { wanted, widest }) } else { Ok(wanted) }
}

/// The widest instruction set of this CPU.
#[cfg(target_arch = "x86_64")]
pub fn widest() -> Isa {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    match (avx2, avx512) {
        (true, true) if amx() => Isa::Amx,
        (true, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        (false, _) => Isa::Baseline,
    }
}

/// Whether tiles of bf16 can be multiplied. Tiles are large (8 KiB a thread, saved at every change of context),
/// so that Linux has a process ask for them; it asks once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    // CPUID leaf 7, EDX: AMX-BF16 and AMX-TILE (Intel SDM, volume 2A, CPUID).
    const AMX: u32 = 1 << 22 | 1 << 24;
    // Linux, Documentation/arch/x86/xstate.rst: the request, and the number of the tiles' data among the states.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;

    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let able = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & AMX == AMX;
        // SAFETY: the request takes two numbers and touches no memory of this process.
        able && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    })
}

/// Whether tiles of bf16 can be multiplied: elsewhere nobody has written down how to ask for them.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx() -> bool {
    false
}

/// The widest instruction set of this CPU.
#[cfg(not(target_arch = "x86_64"))]
pub fn widest() -> Isa {
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
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::simd::isa() {
                    $crate::simd::Isa::Baseline => {}
                    // SAFETY: `isa` is never wider than what this CPU has.
                    $crate::simd::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Isa::Avx512 | $crate::simd::Isa::Amx => {
                        return unsafe { avx512($($arg),*) };
                    }
                }
            }
            body($($arg),*)
        }
    )+};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_wider_than_the_cpu_is_chosen() {
        for widest in Isa::ALL {
            for wanted in Isa::ALL {
                let chosen = choose(&wanted.to_string(), widest);
                let expected =
                    if wanted <= widest { Ok(wanted) } else { Err(IsaError::Absent { wanted, widest }) };
                assert_eq!(chosen, expected);
            }
        }
        let error = choose("sse9", Isa::Avx512).unwrap_err().to_string();
        assert_eq!(error, "unknown instruction set \"sse9\"; known: baseline, avx2, avx512, amx");
        let error = choose("avx512", Isa::Avx2).unwrap_err().to_string();
        assert_eq!(error, "this CPU has no avx512, its widest instruction set here is avx2");
        let error = choose("amx", Isa::Avx512).unwrap_err().to_string();
        assert_eq!(error, "this CPU has no amx, its widest instruction set here is avx512");
    }

    /// Under a pin, all tests of this process run what was asked for; one that cannot be had fails here.
    #[test]
    fn the_pin_holds() {
        let pinned = pinned().unwrap();
        assert_eq!(isa(), pinned.unwrap_or_else(widest));
    }
}
