//! Reductions for loops that are compiled for several instruction sets.
//!
//! [`multiversion!`](crate::multiversion) and [`Isa`] come from `numerics`. Sums have a fixed number of partial
//! sums, so all versions give the same bits.

use crate::math::exp_or_zero;

pub use numerics::simd::{Isa, isa};

// Reductions and what goes with them, to be called inside `multiversion!`. They keep `LANES` partial results,
// so that there is something to vectorise, and pad the last block with a neutral element, since a scalar tail
// would take as long as many blocks.

/// Partial results: two AVX2 registers, one of AVX-512.
pub(crate) const LANES: usize = 16;

/// Up to `LANES` floats, filled up with `neutral`.
#[inline(always)]
pub(crate) fn padded(rest: &[f32], neutral: f32) -> [f32; LANES] {
    if let Some(block) = rest.first_chunk() {
        return *block;
    }
    let mut block = [neutral; LANES];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// Combines the partial results, halving; the order is part of the result.
#[inline(always)]
pub(crate) fn combine(mut lanes: [f32; LANES], with: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = with(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ a b, in `f32`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    let mut add = |a: &[f32; LANES], b: &[f32; LANES]| {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    };
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        add(a, b);
    }
    add(&padded(a_rest, 0.0), &padded(b_rest, 0.0));
    combine(lanes, |a, b| a + b)
}

/// The largest element; NaN elements are passed over, and an empty slice gives -infinity.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = padded(rest, f32::NEG_INFINITY);
    for x in blocks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], x[i]);
        }
    }
    combine(lanes, larger)
}

/// Σ exp(x - shift), in `f32`, for a shift that is about the largest x; see [`exp_or_zero`].
#[inline(always)]
pub(crate) fn sum_exp_minus(x: &[f32], shift: f32) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    let mut add = |x: &[f32; LANES]| {
        for i in 0..LANES {
            lanes[i] += exp_or_zero(x[i] - shift);
        }
    };
    blocks.iter().for_each(&mut add);
    if !rest.is_empty() {
        add(&padded(rest, f32::NEG_INFINITY));
    }
    combine(lanes, |a, b| a + b)
}

/// x ← exp(x - shift), returning the sum of the new x; as [`sum_exp_minus`].
#[inline(always)]
pub(crate) fn exp_minus_in_place(x: &mut [f32], shift: f32) -> f32 {
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    let mut lanes = [0.0; LANES];
    let mut step = |x: &mut [f32; LANES]| {
        for i in 0..LANES {
            x[i] = exp_or_zero(x[i] - shift);
            lanes[i] += x[i];
        }
    };
    blocks.iter_mut().for_each(&mut step);
    if !rest.is_empty() {
        let mut last = padded(rest, f32::NEG_INFINITY);
        step(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
    combine(lanes, |a, b| a + b)
}

/// x ← exp(x - shift), returning Σ y x of the new x; as [`sum_exp_minus`], for whole blocks of `LANES`.
#[inline(always)]
pub(crate) fn exp_minus_in_place_dot(x: &mut [f32], shift: f32, y: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    debug_assert!(rest.is_empty());
    for (x, y) in blocks.iter_mut().zip(y.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            x[i] = exp_or_zero(x[i] - shift);
            lanes[i] += x[i] * y[i];
        }
    }
    combine(lanes, |a, b| a + b)
}

crate::multiversion! {
    /// sum ← sum + x, on the calling thread.
    pub(crate) fn add(sum: &mut [f32], x: &[f32]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += x;
        }
    }
}

/// The side of squares that are turned round in registers.
pub(crate) const SIDE: usize = 4;

/// The transpose. (Of the plain loop the compiler makes one move a float.)
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn turned(square: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 CPU has SSE, and loads and stores are of four floats each.
    unsafe {
        let [mut a, mut b, mut c, mut d] = square.map(|row| _mm_loadu_ps(row.as_ptr()));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        [a, b, c, d].map(|row| {
            let mut column = [0.0; SIDE];
            _mm_storeu_ps(column.as_mut_ptr(), row);
            column
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn turned(square: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
    std::array::from_fn(|i| std::array::from_fn(|j| square[j][i]))
}

/// The transpose of a square of what has as many bits as a float: they are moved, whatever number they would be.
#[inline(always)]
pub(crate) fn transposed<T: Copy>(
    from: &[[T; LANES]; LANES],
    to_float: impl Fn(T) -> f32,
    from_float: impl Fn(f32) -> T,
) -> [[T; LANES]; LANES] {
    let mut result = *from;
    for row in (0..LANES).step_by(SIDE) {
        for col in (0..LANES).step_by(SIDE) {
            let square =
                turned(std::array::from_fn(|i| std::array::from_fn(|j| to_float(from[row + i][col + j]))));
            for (i, square) in square.iter().enumerate() {
                for (j, x) in square.iter().enumerate() {
                    result[col + i][row + j] = from_float(*x);
                }
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::multiversion! {
        fn all(x: &mut [f32], y: &[f32]) -> [f32; 4] {
            let sums = [dot(x, y), max(x), sum_exp_minus(x, 0.5)];
            [sums[0], sums[1], sums[2], exp_minus_in_place(x, 0.5)]
        }
    }

    #[test]
    fn reductions_of_any_length() {
        for n in [1, 15, 16, 17, 32, 100] {
            let x: Vec<f32> = (0..n).map(|i| (i * 37 % 100) as f32 / 50.0 - 1.5).collect();
            let y: Vec<f32> = (0..n).map(|i| (i * 53 % 100) as f32 / 50.0 - 1.0).collect();
            let mut exps = x.clone();
            let [dot, max, sum, sum_in_place] = all(&mut exps, &y);
            let exact = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                x.iter().zip(&y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).sum()
            };
            let exact_sum = exact(&|x, _| (x - 0.5).exp());
            assert!((f64::from(dot) - exact(&|x, y| x * y)).abs() < 1e-5);
            assert!((f64::from(sum) - exact_sum).abs() < 1e-6 * exact_sum);
            assert_eq!(sum, sum_in_place);
            assert_eq!(max, x.iter().copied().fold(f32::MIN, f32::max));
            assert!(exps.iter().zip(&x).all(|(e, x)| *e == exp_or_zero(x - 0.5)));
        }
        assert_eq!(all(&mut [], &[]), [0.0, f32::NEG_INFINITY, 0.0, 0.0]);
    }

    #[test]
    fn nan_is_passed_over_by_max_but_not_by_sums() {
        let [dot, max, sum, _] = all(&mut [1.0, f32::NAN, 2.0], &[1.0; 3]);
        assert!(dot.is_nan() && max == 2.0 && sum.is_nan());
    }
}
