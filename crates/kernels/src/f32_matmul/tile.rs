//! The innermost loop: a tile of sums that stays in registers while a and b stream past.
//!
//! It is written once, over vectors of any length, and compiled for several instruction sets. What differs is how many
//! vectors a tile has.

use super::pack::{QUAD, pack, pack_rows};
use crate::matmul::Mat;
#[cfg(target_arch = "x86_64")]
use numerics::simd::{Isa, isa, widest};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// What tiles are made of that lie below one another and share a strip of b.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// How many tiles there are.
    pub(super) tiles: usize,
    /// Terms of each sum.
    pub(super) terms: usize,
    /// The first element of a.
    pub(super) a: *const f32,
    /// From there to that of the next tile.
    pub(super) a_step: usize,
    /// Distance of the rows of a, or of its columns, whichever are not neighbours.
    pub(super) a_stride: usize,
    /// A strip of b: for every term a row of as many columns as the tile has.
    pub(super) b: *const f32,
    /// The first tile's first element.
    pub(super) c: *mut f32,
    /// Distance of its rows.
    pub(super) c_stride: usize,
    /// What the products are multiplied by.
    pub(super) factor: f32,
    /// The first element of what they are added to, which may be c; null if it is nothing.
    pub(super) before: *const f32,
    /// Distance of its rows.
    pub(super) before_stride: usize,
}

/// Computes tiles.
///
/// # Safety
/// The CPU has the instructions; a and b hold all terms of whole tiles, c and what is before whole tiles, and nobody else
/// uses c.
pub(super) type Multiply = unsafe fn(&Operands);

/// Packs a matrix in strips, see [`pack`] and [`pack_rows`].
///
/// # Safety
/// The CPU has the instructions.
pub(super) type Pack = unsafe fn(Mat<'_>, &mut [f32]);

/// The kernels of an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of a tile.
    pub(super) rows: usize,
    /// Columns of a tile.
    pub(super) cols: usize,
    /// Elements of a row of a are neighbours.
    pub(super) by_row: Multiply,
    /// Elements of a column of a are neighbours.
    pub(super) by_column: Multiply,
    /// a is packed in strips: for every term a column of as many rows as the tile has.
    pub(super) packed: Multiply,
    /// a is packed in strips: for every quad of terms that of each of the tile's rows.
    pub(super) packed_rows: Multiply,
    /// Packs rows of aᵀ.
    pub(super) pack_a: Pack,
    /// Packs a, whose rows are contiguous.
    pub(super) pack_a_rows: Pack,
    /// Packs rows of b.
    pub(super) pack_b: Pack,
}

/// The most elements that a tile of any kernel has.
pub(super) const LARGEST_TILE: usize = 12 * 32;

impl Kernel {
    /// The kernels of the instruction set that runs, or of the oldest CPU that the compiler's target allows.
    pub(crate) fn new() -> Self {
        Self::fast().unwrap_or(BASELINE)
    }

    /// The kernels of the instruction set that runs, if it fuses additions. They all give the same bits; that a pin to the
    /// oldest instructions does too, it gets those of AVX2.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn fast() -> Option<Self> {
        if !is_x86_feature_detected!("fma") {
            return None;
        }
        match isa().max(widest().min(Isa::Avx2)) {
            Isa::Baseline => None,
            Isa::Avx2 => Some(AVX2),
            Isa::Avx512 | Isa::Amx => Some(AVX512),
        }
    }

    /// For other CPUs there are none.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn fast() -> Option<Self> {
        None
    }
}

macro_rules! kernels {
    ($name:ident, [$rows:expr, $vectors:expr] of $vector:ty $(, #[$feature:meta])?) => {
        const $name: Kernel = {
            const ROWS: usize = $rows;
            const VECTORS: usize = $vectors;
            const COLS: usize = VECTORS * <$vector>::LANES;
            const { assert!(ROWS * COLS <= LARGEST_TILE) };

            // SAFETY, here and below: the caller's promise is passed on.
            $(#[$feature])?
            unsafe fn by_row(operands: &Operands) {
                unsafe { multiply::<$vector, ROWS, VECTORS>(operands, operands.a_stride, 1, QUAD) }
            }
            $(#[$feature])?
            unsafe fn by_column(operands: &Operands) {
                unsafe { multiply::<$vector, ROWS, VECTORS>(operands, 1, operands.a_stride, QUAD * operands.a_stride) }
            }
            $(#[$feature])?
            unsafe fn packed(operands: &Operands) {
                unsafe { multiply::<$vector, ROWS, VECTORS>(operands, 1, ROWS, QUAD * ROWS) }
            }
            $(#[$feature])?
            unsafe fn packed_rows(operands: &Operands) {
                unsafe { multiply::<$vector, ROWS, VECTORS>(operands, QUAD, 1, QUAD * ROWS) }
            }
            $(#[$feature])?
            unsafe fn pack_a(from: Mat<'_>, to: &mut [f32]) {
                pack::<ROWS>(from, to);
            }
            $(#[$feature])?
            unsafe fn pack_a_rows(from: Mat<'_>, to: &mut [f32]) {
                pack_rows::<ROWS>(from, to);
            }
            $(#[$feature])?
            unsafe fn pack_b(from: Mat<'_>, to: &mut [f32]) {
                pack::<COLS>(from, to);
            }

            Kernel { rows: ROWS, cols: COLS, by_row, by_column, packed, packed_rows, pack_a, pack_a_rows, pack_b }
        };
    };
}

// NEON has 32 registers of four floats.
kernels!(BASELINE, [6, 4] of [f32; 4]);
// Twelve of the sixteen registers of AVX2 hold sums, two hold b and one a. (Two fused additions a cycle with a latency of
// four cycles need eight at least.)
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, [6, 2] of __m256, #[target_feature(enable = "avx2,fma")]);
// AVX-512 has 32 registers.
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, [12, 2] of __m512, #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma")]);

// The shape of AVX-512 on any CPU.
#[cfg(test)]
kernels!(WIDE, [12, 2] of [f32; 16]);

#[cfg(test)]
impl Kernel {
    /// Every kernel that this CPU can run.
    pub(super) fn all() -> Vec<Self> {
        [Self::plain(), Self::fused()].concat()
    }

    /// Those of the compiler's target.
    pub(super) fn plain() -> Vec<Self> {
        vec![BASELINE, WIDE]
    }

    /// Those that fuse additions.
    pub(super) fn fused() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("fma") {
            let of_avx = [(Isa::Avx2, AVX2), (Isa::Avx512, AVX512)];
            return of_avx
                .into_iter()
                .filter(|(isa, _)| *isa <= widest())
                .map(|(_, kernel)| kernel)
                .collect();
        }
        vec![]
    }
}

/// Tiles, of whose a rows, terms of a quad, and quads are so far apart. Constants spare the loop their arithmetic.
///
/// # Safety
/// See [`Multiply`].
#[inline(always)]
unsafe fn multiply<V: Vector, const ROWS: usize, const VECTORS: usize>(
    operands: &Operands,
    row: usize,
    term: usize,
    quad: usize,
) {
    let mut tile = *operands;
    for _ in 0..operands.tiles {
        // SAFETY: the caller's promise.
        unsafe { multiply_one::<V, ROWS, VECTORS>(&tile, row, term, quad) };
        tile.a = tile.a.wrapping_add(tile.a_step);
        tile.c = tile.c.wrapping_add(ROWS * tile.c_stride);
        if !tile.before.is_null() {
            tile.before = tile.before.wrapping_add(ROWS * tile.before_stride);
        }
    }
}

/// The first of these tiles.
///
/// # Safety
/// See [`Multiply`].
#[inline(always)]
unsafe fn multiply_one<V: Vector, const ROWS: usize, const VECTORS: usize>(
    operands: &Operands,
    row: usize,
    term: usize,
    quad: usize,
) {
    let Operands { terms, mut a, mut b, c, c_stride, factor, before, before_stride, .. } = *operands;
    let cols = VECTORS * V::LANES;
    // SAFETY: by the contract, a and b are read within their terms, and c and what is before within a tile.
    unsafe {
        // The sums take long enough to fetch what they are written to from memory. A row may begin anywhere in a line.
        for i in 0..ROWS {
            prefetch(c.add(i * c_stride));
            prefetch(c.add(i * c_stride + cols - 1));
            if !before.is_null() && before != c {
                prefetch(before.wrapping_add(i * before_stride));
                prefetch(before.wrapping_add(i * before_stride + cols - 1));
            }
        }
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        for _ in 0..terms / QUAD {
            for k in 0..QUAD {
                add_products(&mut sums, a.add(k * term), row, b.add(k * cols));
            }
            a = a.add(quad);
            b = b.add(QUAD * cols);
        }
        for _ in 0..terms % QUAD {
            add_products(&mut sums, a, row, b);
            a = a.add(term);
            b = b.add(cols);
        }
        let factor = V::splat(factor);
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                let start = match before.is_null() {
                    true => V::splat(0.0),
                    false => V::load(before.add(i * before_stride + j * V::LANES)),
                };
                factor.times_plus(sum, start).store(c.add(i * c_stride + j * V::LANES));
            }
        }
    }
}

/// Adds the products of one term.
///
/// # Safety
/// a can be read at the distance of each row, b for a row of the tile.
#[inline(always)]
unsafe fn add_products<V: Vector, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[V; VECTORS]; ROWS],
    a: *const f32,
    row: usize,
    b: *const f32,
) {
    // SAFETY: the caller's promise.
    let b: [V; VECTORS] = std::array::from_fn(|j| unsafe { V::load(b.add(j * V::LANES)) });
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let a = V::splat(unsafe { *a.add(i * row) });
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum = a.times_plus(b, *sum);
        }
    }
}

/// Asks for the cache line of an address.
#[inline(always)]
pub(super) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it is a hint, and faults nowhere.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// A register of floats. The compiler would find most of this in plain loops, but not reliably.
///
/// # Safety
/// Where values of this type exist, the CPU has the instructions for them: they come from nowhere but the functions that
/// are compiled with these instructions.
unsafe trait Vector: Copy {
    const LANES: usize;

    fn splat(x: f32) -> Self;

    /// # Safety
    /// There are as many floats to read.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// There are as many floats to write.
    unsafe fn store(self, to: *mut f32);

    /// self x + y.
    fn times_plus(self, x: Self, y: Self) -> Self;
}

// SAFETY: plain Rust.
unsafe impl<const N: usize> Vector for [f32; N] {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; N]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { *to.cast() = self }
    }

    #[inline(always)]
    fn times_plus(self, x: Self, y: Self) -> Self {
        // Where the target has no instruction for it, a fused addition would be a call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        std::array::from_fn(|i| if fused { self[i].mul_add(x[i], y[i]) } else { self[i] * x[i] + y[i] })
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_vector {
    ($vector:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $times_plus:ident) => {
        // SAFETY: the intrinsics need what the trait's contract promises.
        unsafe impl Vector for $vector {
            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(x: f32) -> Self {
                unsafe { $splat(x) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            fn times_plus(self, x: Self, y: Self) -> Self {
                unsafe { $times_plus(self, x, y) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_vector!(__m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps);
#[cfg(target_arch = "x86_64")]
x86_vector!(__m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps);
