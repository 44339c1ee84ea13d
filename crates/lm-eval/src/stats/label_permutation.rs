//! The permutation test of two independent samples.
//!
//! If the arms are alike, every division of all values into samples of these sizes was as likely (Fisher 1935; Pitman 1937,
//! "Significance Tests Which May Be Applied to Samples from Any Populations"). The p-value is the share of divisions whose
//! means are at least as far apart.

use lm_train::rng::{Key, below};

use super::mean;
use super::randomisation::{DRAWS, Distribution, MOST_ARRANGEMENTS, RandomisationTest, TIE};
use super::refusal::{Refusal, finite};

/// Two-sided test of the difference of means, arm - baseline; `key` matters only where divisions are drawn.
///
/// # Errors
/// An empty sample, or a value that is not finite.
pub fn label_permutation(baseline: &[f64], arm: &[f64], key: &Key) -> Result<RandomisationTest, Refusal> {
    finite(baseline).and(finite(arm))?;
    let all = [arm, baseline].concat();
    let (Some(centre), Some(of_arm), Some(of_baseline)) = (mean(&all), mean(arm), mean(baseline)) else {
        return Err(Refusal::Empty);
    };
    // The means are as far apart as the arm's sum is from its share of everything.
    let distances: Vec<f64> = all.iter().map(|x| x - centre).collect();
    let tie = TIE * distances.iter().map(|x| x.abs()).sum::<f64>();
    let reached = distances[..arm.len()].iter().sum::<f64>().abs() - tie;
    let statistic = of_arm - of_baseline;
    Ok(if binomial(all.len(), arm.len()) <= MOST_ARRANGEMENTS as f64 {
        let mut sums = Vec::new();
        each_choice(all.len(), arm.len(), |chosen| {
            sums.push(chosen.iter().map(|&i| distances[i]).sum::<f64>().abs());
        });
        let widest = sums.iter().copied().fold(0.0, f64::max);
        let share = |least: f64| sums.iter().filter(|sum| **sum >= least).count() as f64 / sums.len() as f64;
        RandomisationTest {
            statistic,
            p_value: share(reached),
            smallest_p: share(widest - tie),
            distribution: Distribution::Exact,
        }
    } else {
        let mut rng = key.rng();
        let mut cards = distances;
        let mut drawn = || {
            // The first cards of a shuffle (Fisher & Yates); an already shuffled deck is as good as a new one.
            for i in 0..arm.len() {
                let j = i + below(&mut rng, (cards.len() - i) as u64) as usize;
                cards.swap(i, j);
            }
            cards[..arm.len()].iter().sum::<f64>()
        };
        let hits = (0..DRAWS).filter(|_| drawn().abs() >= reached).count();
        RandomisationTest {
            statistic,
            p_value: (1 + hits) as f64 / (1 + DRAWS) as f64,
            smallest_p: 1.0 / (1 + DRAWS) as f64,
            distribution: Distribution::MonteCarlo { draws: DRAWS },
        }
    })
}

/// Number of choices of `k` among `n`; infinite where there are too many for a float.
fn binomial(n: usize, k: usize) -> f64 {
    (0..k.min(n - k)).fold(1.0, |product, i| product * (n - i) as f64 / (i + 1) as f64)
}

/// Calls `visit` with every ascending choice of `k` > 0 numbers below `n`.
fn each_choice(n: usize, k: usize, mut visit: impl FnMut(&[usize])) {
    let mut chosen: Vec<usize> = (0..k).collect();
    loop {
        visit(&chosen);
        // The last number that can still grow does, and those after it follow closely.
        let Some(i) = (0..k).rev().find(|&i| chosen[i] < n - k + i) else { return };
        let next = chosen[i] + 1;
        for (offset, number) in chosen[i..].iter_mut().enumerate() {
            *number = next + offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lm_train::rng::Purpose;

    fn test(baseline: &[f64], arm: &[f64]) -> RandomisationTest {
        label_permutation(baseline, arm, &Key::new(5, Purpose::Resampling)).unwrap()
    }

    #[test]
    fn by_hand() {
        // Of the 6 divisions of {1, 2, 3, 4} into pairs, {1, 2} and {3, 4} are the widest.
        let found = test(&[1.0, 2.0], &[3.0, 4.0]);
        assert!((found.p_value - 1.0 / 3.0).abs() < 1e-15 && found.smallest_p == found.p_value, "{found:?}");
        assert_eq!(found.statistic, 2.0);
        assert_eq!(test(&[1.0, 4.0], &[2.0, 3.0]).p_value, 1.0);
    }

    #[test]
    fn all_equal_is_no_difference() {
        let found = test(&[0.1; 3], &[0.1; 4]);
        assert_eq!((found.p_value, found.smallest_p), (1.0, 1.0));
    }

    #[test]
    fn every_choice_is_visited_once() {
        let mut seen = std::collections::BTreeSet::new();
        each_choice(7, 3, |chosen| assert!(seen.insert(chosen.to_vec())));
        assert_eq!((seen.len() as f64, binomial(7, 3)), (35.0, 35.0));
        assert_eq!(binomial(18, 9), 48_620.0);
    }

    #[test]
    fn drawn_divisions_agree_with_a_t_test_on_normal_looking_data() {
        let sample = |shift: f64| -> Vec<f64> {
            (0..30).map(|i| (f64::from(i) * 2.1 + shift).sin() + shift * 0.3).collect()
        };
        let (baseline, arm) = (sample(0.0), sample(1.0));
        let found = test(&baseline, &arm);
        assert_eq!(found.distribution, Distribution::MonteCarlo { draws: DRAWS });
        let t = super::super::Effect::of_difference(&baseline, &arm).unwrap().t_test();
        assert!((found.p_value / t.p_value - 1.0).abs() < 0.1, "{found:?} {t:?}");
    }
}
