//! Keyed resampling with replacement.

use lm_train::rng::{Key, below};

/// Which resamples are drawn, and how many. The same key always draws the same ones.
#[derive(Clone, Copy, Debug)]
pub struct Resampling {
    /// Names the stream of random numbers.
    pub key: Key,
    /// Number of resamples.
    pub resamples: usize,
}

impl Resampling {
    /// Enough that the end of a 95 % interval moves by about 2 % of its width between keys.
    pub const RESAMPLES: usize = 9_999;

    /// [`Self::RESAMPLES`] resamples of one key.
    pub fn new(key: Key) -> Self {
        Self { key, resamples: Self::RESAMPLES }
    }

    /// `statistic` of every resample of `n` > 0 things. It is given how often each was drawn, not the order, so that
    /// equal resamples give equal bits.
    pub(super) fn statistics(&self, n: usize, statistic: impl Fn(&[u32]) -> f64) -> Vec<f64> {
        let mut rng = self.key.rng();
        let mut counts = vec![0; n];
        let mut resample = || {
            counts.fill(0);
            for _ in 0..n {
                counts[below(&mut rng, n as u64) as usize] += 1;
            }
            statistic(&counts)
        };
        (0..self.resamples).map(|_| resample()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lm_train::rng::Purpose;

    #[test]
    fn a_key_always_draws_the_same_and_each_resample_is_complete() {
        let draw = |seed| {
            let plan = Resampling { key: Key::new(seed, Purpose::Resampling), resamples: 50 };
            plan.statistics(7, |counts| {
                assert_eq!(counts.iter().sum::<u32>(), 7);
                counts.iter().fold(0.0, |code, &count| code * 8.0 + f64::from(count))
            })
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
