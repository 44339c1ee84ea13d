//! Mean and median of |x| over the finite elements: the same bits on any number of threads.

use rayon::prelude::*;

use crate::multiversion;

/// Elements summed by one task. Part of the result: it fixes the order of additions.
pub(crate) const CHUNK: usize = 4096;

/// Partial sums within a chunk: element i goes to sum i mod `LANES`. Part of the result.
pub(crate) const LANES: usize = 16;

/// Smallest scale of absmean and absmedian scaling (the `clamp_(min=1e-5)` of BitNet b1.58's published code).
pub(crate) const MIN_AVERAGE: f32 = 1e-5;

multiversion! {
    /// Σ |x| and the number of finite elements of a chunk.
    fn sum_abs(x: &[f32]) -> (f64, u64) {
        let (mut sums, mut counts) = ([0.0f64; LANES], [0u32; LANES]);
        let mut add = |x: &[f32; LANES]| {
            for lane in 0..LANES {
                let a = x[lane].abs();
                sums[lane] += f64::from(if a < f32::INFINITY { a } else { 0.0 });
            }
            for lane in 0..LANES {
                counts[lane] += u32::from(x[lane].abs() < f32::INFINITY);
            }
        };
        let (blocks, rest) = x.as_chunks::<LANES>();
        blocks.iter().for_each(&mut add);
        // NaN is passed over, so it fills the last block up.
        let mut last = [f32::NAN; LANES];
        last[..rest.len()].copy_from_slice(rest);
        add(&last);
        (sums.iter().sum(), counts.into_iter().map(u64::from).sum())
    }
}

/// The mean of |x| in `f64`, rounded once; 0 if nothing is finite.
pub(crate) fn mean_abs(x: &[f32]) -> f32 {
    let chunks: Vec<(f64, u64)> = x.par_chunks(CHUNK).map(sum_abs).collect();
    let sum: f64 = chunks.iter().map(|&(sum, _)| sum).sum();
    let finite: u64 = chunks.iter().map(|&(_, finite)| finite).sum();
    if finite == 0 { 0.0 } else { (sum / finite as f64) as f32 }
}

/// The median of |x|, the lower of the middle two; 0 if nothing is finite.
///
/// The bits of non-negative floats are ordered as their values are, so the median is found digit by digit:
/// count the highest 11 bits, keep the ones that hold the middle, count the next 10 among them, and so on.
pub(crate) fn median_abs(x: &[f32]) -> f32 {
    const DIGITS: [(u32, u32); 3] = [(20, 11), (10, 10), (0, 10)];
    let mut prefix = 0; // the digits found so far, in place
    let mut prefix_mask = 0;
    let mut rank = None; // among the elements that share the prefix
    for (shift, width) in DIGITS {
        let counts = digit_counts(x, prefix, prefix_mask, shift, width);
        let total: u64 = counts.iter().sum();
        let Some(last) = total.checked_sub(1) else { return 0.0 };
        let mut remaining = rank.unwrap_or(last / 2);
        let mut digit = 0;
        while remaining >= counts[digit] {
            remaining -= counts[digit];
            digit += 1;
        }
        rank = Some(remaining);
        prefix |= (digit as u32) << shift;
        prefix_mask |= ((1 << width) - 1) << shift;
    }
    f32::from_bits(prefix)
}

/// How often each value of the `width` bits above `shift` occurs, among finite elements with this prefix.
fn digit_counts(x: &[f32], prefix: u32, prefix_mask: u32, shift: u32, width: u32) -> Vec<u64> {
    let count = |mut counts: Vec<u64>, chunk: &[f32]| {
        for x in chunk {
            let bits = x.to_bits() & 0x7fff_ffff;
            if bits < 0x7f80_0000 && bits & prefix_mask == prefix {
                counts[((bits >> shift) & ((1 << width) - 1)) as usize] += 1;
            }
        }
        counts
    };
    let zeros = || vec![0; 1 << width];
    let add = |mut a: Vec<u64>, b: Vec<u64>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    x.par_chunks(16 * CHUNK).fold(zeros, count).reduce(zeros, add)
}
