//! Zeros, moments and maxima of a tensor that arrives in parts.

use super::bins::Bins;
use super::moments::Moments;

/// Sums over the rows of [n, width], one column per channel (or hidden unit).
#[derive(Clone, Debug)]
pub struct TensorStats {
    rows: u64,
    elements: u64,
    zeros: u64,
    non_finite: u64,
    moments: Moments,
    magnitudes: Bins,
    negatives: Bins,
    channel_max: Vec<f64>,
}

impl TensorStats {
    /// Nothing seen of `width` channels.
    pub fn new(width: usize) -> Self {
        Self {
            rows: 0,
            elements: 0,
            zeros: 0,
            non_finite: 0,
            moments: Moments::default(),
            magnitudes: Bins::default(),
            negatives: Bins::default(),
            channel_max: vec![0.0; width],
        }
    }

    /// Adds rows: a whole number of them, one after the other.
    pub fn add(&mut self, values: &[f32]) {
        let width = self.channel_max.len();
        debug_assert!(values.len().is_multiple_of(width));
        self.rows += (values.len() / width) as u64;
        self.elements += values.len() as u64;
        self.moments = self.moments.merge(&Moments::of(values));
        for row in values.chunks_exact(width) {
            for (largest, &x) in self.channel_max.iter_mut().zip(row) {
                let magnitude = f64::from(x.abs());
                if !magnitude.is_finite() {
                    self.non_finite += 1;
                    continue;
                }
                self.zeros += u64::from(magnitude == 0.0);
                let bin = Bins::of(magnitude);
                self.magnitudes.add(bin, 1);
                if x < 0.0 {
                    self.negatives.add(bin, 1);
                }
                *largest = largest.max(magnitude);
            }
        }
    }

    /// Rows seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// NaN and infinities, which no other figure counts.
    pub fn non_finite(&self) -> u64 {
        self.non_finite
    }

    /// Share of elements that are exactly zero.
    pub fn zero_share(&self) -> f64 {
        self.zeros as f64 / self.elements.max(1) as f64
    }

    /// Moments of the elements.
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Histogram of the magnitudes.
    pub fn magnitudes(&self) -> &Bins {
        &self.magnitudes
    }

    /// Histogram of the magnitudes of what is below zero.
    pub fn negatives(&self) -> &Bins {
        &self.negatives
    }

    /// Largest magnitude of every channel.
    pub fn channel_max(&self) -> &[f64] {
        &self.channel_max
    }

    /// Largest magnitude of all.
    pub fn max_abs(&self) -> f64 {
        self.channel_max.iter().copied().fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let mut stats = TensorStats::new(3);
        stats.add(&[0.0, -2.0, 1.0]);
        stats.add(&[-0.0, 1.0, f32::NAN, 0.0, 0.5, -4.0]);
        assert_eq!((stats.rows(), stats.non_finite(), stats.moments().count()), (3, 1, 8));
        assert_eq!(stats.zero_share(), 3.0 / 9.0, "minus zero is zero");
        assert_eq!(stats.channel_max(), [0.0, 2.0, 4.0]);
        assert_eq!(stats.max_abs(), 4.0);
        assert_eq!(stats.magnitudes().by_octave(), [(-1, 1), (0, 2), (1, 1), (2, 1)]);
        assert_eq!(stats.negatives().by_octave(), [(1, 1), (2, 1)], "minus zero is not below zero");
        assert!((stats.moments().rms() - (22.25f64 / 8.0).sqrt()).abs() < 1e-15);
    }
}
