//! A histogram of magnitudes with bins of nearly equal ratio, whose edges are exact.

/// Bins per factor of two: neighbouring edges differ by 0.8 to 1.6 %.
const PER_OCTAVE_BITS: u32 = 6;
/// Bits of an f64 that do not decide its bin.
const SHIFT: u32 = 52 - PER_OCTAVE_BITS;
/// Smallest magnitude with a bin of its own; below it, and zero, everything shares bin 0.
const LEAST: f64 = f64::from_bits((1023 - 100) << 52); // 2^-100
/// Every magnitude from here on shares the last bin.
const BEYOND: f64 = f64::from_bits((1023 + 100) << 52); // 2^100

/// Counts of magnitudes by bin.
///
/// A bin holds the magnitudes that share their exponent and first six fraction bits. So its lower edge is a number
/// written in these bits, and whether a magnitude lies below an edge can be read from the counts without error.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bins {
    counts: Vec<u64>,
    total: u64,
}

impl Bins {
    /// The bin of a magnitude, which is not NaN.
    pub fn of(magnitude: f64) -> usize {
        let bits = |x: f64| x.to_bits() >> SHIFT;
        if magnitude < LEAST { 0 } else { (bits(magnitude.min(BEYOND)) - bits(LEAST) + 1) as usize }
    }

    /// The lower edge of a bin: `x < edge(b)` if and only if `of(x) < b`, for every b but 0, whose edge is 0.
    pub fn edge(bin: usize) -> f64 {
        if bin == 0 { 0.0 } else { f64::from_bits(((LEAST.to_bits() >> SHIFT) + bin as u64 - 1) << SHIFT) }
    }

    /// The largest edge that is at most `x`.
    pub fn edge_below(x: f64) -> f64 {
        Self::edge(Self::of(x))
    }

    /// Counts `count` magnitudes of one bin.
    pub fn add(&mut self, bin: usize, count: u64) {
        if bin >= self.counts.len() {
            self.counts.resize(bin + 1, 0);
        }
        self.counts[bin] += count;
        self.total += count;
    }

    /// Counts by bin, up to the highest that holds anything.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// (k, number of magnitudes m with 2^k <= m < 2^(k + 1)), by ascending k, for every k that has any. The first and the
    /// last bin, which have no bounds, are left out.
    pub fn by_octave(&self) -> Vec<(i32, u64)> {
        let per_octave = 1 << PER_OCTAVE_BITS;
        let bounded = self.counts.get(1..).unwrap_or_default().iter().take(Self::of(BEYOND) - 1);
        let counts: Vec<u64> = bounded.copied().collect();
        let octave = |(i, counts): (usize, &[u64])| (i as i32 - 100, counts.iter().sum());
        counts.chunks(per_octave).enumerate().map(octave).filter(|(_, count)| *count > 0).collect()
    }

    /// Share of the magnitudes that lie in bins below this one: below its edge. 0 when nothing was counted.
    pub fn share_below(&self, bin: usize) -> f64 {
        let below: u64 = self.counts.iter().take(bin).sum();
        below as f64 / self.total.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extremes_have_bins() {
        for small in [0.0, f64::MIN_POSITIVE, 1e-31] {
            assert_eq!(Bins::of(small), 0, "{small}");
        }
        assert_eq!((Bins::of(LEAST), Bins::edge(1), Bins::edge(0)), (1, LEAST, 0.0));
        assert_eq!(Bins::of(f64::INFINITY), Bins::of(1e31));
        assert_eq!(Bins::edge_below(1.0), 1.0);
    }

    #[test]
    fn shares_are_exact() {
        let values = [0.0, 0.5, 0.75, 1.0, 1.0, 3.0];
        let mut bins = Bins::default();
        values.iter().for_each(|&x| bins.add(Bins::of(x), 1));
        for (threshold, below) in [(0.5, 1), (0.75, 2), (1.0, 3), (2.0, 5), (4.0, 6)] {
            assert_eq!(bins.share_below(Bins::of(threshold)), f64::from(below) / 6.0, "{threshold}");
        }
        assert_eq!(Bins::default().share_below(9), 0.0);
    }

    #[test]
    fn octaves_are_powers_of_two() {
        let mut bins = Bins::default();
        for magnitude in [0.0, 0.25, 0.3, 0.499, 1.0, 1.99, 2.0, f64::INFINITY] {
            bins.add(Bins::of(magnitude), 1);
        }
        assert_eq!(bins.by_octave(), [(-2, 3), (0, 2), (1, 1)]);
        assert_eq!(Bins::default().by_octave(), []);
    }

    proptest! {
        #[test]
        fn edges_separate(exponent in -90.0..90.0f64, other in -90.0..90.0f64) {
            let (x, y) = (exponent.exp2(), other.exp2());
            let bin = Bins::of(x);
            prop_assert!(Bins::edge(bin) <= x && x < Bins::edge(bin + 1));
            prop_assert!(Bins::edge(bin + 1) / Bins::edge(bin) < 1.016);
            prop_assert_eq!(y < Bins::edge(bin), Bins::of(y) < bin);
        }
    }
}
