//! Mean and central moments of a stream of numbers, in parts that can be merged.

/// Count, mean, and sums of the second to fourth power of the distance to the mean.
///
/// Parts are summed around their own mean and merged by the formulas of Chan et al. 1983 and Pébay 2008 (Sandia report
/// SAND2008-6212), which lose no digits when the mean is large.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    n: f64,
    mean: f64,
    m2: f64,
    m3: f64,
    m4: f64,
}

impl Moments {
    /// Of the finite numbers among these.
    pub fn of(values: &[f32]) -> Self {
        let finite = || values.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x));
        let n = finite().count() as f64;
        if n == 0.0 {
            return Self::default();
        }
        let mean = finite().sum::<f64>() / n;
        let (mut m2, mut m3, mut m4) = (0.0, 0.0, 0.0);
        for x in finite() {
            let d = x - mean;
            let d2 = d * d;
            (m2, m3, m4) = (m2 + d2, m3 + d2 * d, m4 + d2 * d2);
        }
        Self { n, mean, m2, m3, m4 }
    }

    /// Of both parts together.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let (a, b) = (self, other);
        let n = a.n + b.n;
        if n == 0.0 {
            return Self::default();
        }
        let d = b.mean - a.mean;
        let (wa, wb) = (a.n / n, b.n / n);
        let d2 = d * d;
        Self {
            n,
            mean: a.mean + d * wb,
            m2: a.m2 + b.m2 + d2 * a.n * wb,
            m3: a.m3 + b.m3 + d2 * d * a.n * wb * (wa - wb) + 3.0 * d * (wa * b.m2 - wb * a.m2),
            m4: a.m4
                + b.m4
                + d2 * d2 * a.n * wb * (wa * wa - wa * wb + wb * wb)
                + 6.0 * d2 * (wa * wa * b.m2 + wb * wb * a.m2)
                + 4.0 * d * (wa * b.m3 - wb * a.m3),
        }
    }

    /// Numbers seen.
    pub fn count(&self) -> u64 {
        self.n as u64
    }

    /// Root of the mean square; 0 when nothing was seen.
    pub fn rms(&self) -> f64 {
        (self.mean * self.mean + self.m2 / self.n.max(1.0)).sqrt()
    }

    /// Fourth standardised moment, 3 for a normal distribution; `None` for a constant.
    pub fn kurtosis(&self) -> Option<f64> {
        (self.m2 > 0.0).then(|| self.n * self.m4 / (self.m2 * self.m2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn by_hand() {
        // Mean 2, distances -2, 0, 0, 2: m2 = 8, m4 = 32.
        let moments = Moments::of(&[0.0, 2.0, 2.0, 4.0, f32::NAN, f32::INFINITY]);
        assert_eq!(moments.count(), 4);
        assert!((moments.rms() - 6f64.sqrt()).abs() < 1e-15);
        assert_eq!(moments.kurtosis(), Some(4.0 * 32.0 / 64.0));
        assert_eq!(Moments::of(&[3.0; 5]).kurtosis(), None);
        assert_eq!((Moments::default().rms(), Moments::default().kurtosis()), (0.0, None));
    }

    proptest! {
        #[test]
        fn parts_merge_to_the_whole(
            values in prop::collection::vec(-5.0..5.0f32, 2..200), cut in 0.0..1.0f64, far in -1e3..1e3f32,
        ) {
            let values: Vec<f32> = values.into_iter().map(|x| x + far).collect();
            let (left, right) = values.split_at((cut * values.len() as f64) as usize);
            let (parts, whole) = (Moments::of(left).merge(&Moments::of(right)), Moments::of(&values));
            prop_assert_eq!(parts.count(), whole.count());
            prop_assert!((parts.rms() / whole.rms() - 1.0).abs() < 1e-12);
            for (part, all) in [(parts.m2, whole.m2), (parts.m3, whole.m3), (parts.m4, whole.m4)] {
                prop_assert!((part - all).abs() <= 1e-9 * (1.0 + all.abs()), "{} {}", part, all);
            }
        }
    }
}
