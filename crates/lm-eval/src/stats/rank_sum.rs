//! Wilcoxon's rank-sum test of two independent samples (Mann & Whitney's U).
//!
//! Wilcoxon 1945; Mann & Whitney 1947, "On a Test of Whether One of Two Random Variables is Stochastically Larger than the
//! Other". Ties share the mean of their ranks; the distribution is that of all divisions of the ranks at hand, so it is
//! exact with ties too.

use super::distributions::normal_cdf;
use super::randomisation::{Distribution, RandomisationTest};
use super::ranks::{doubled_midranks, smallest_two_sided, two_sided};
use super::refusal::{Refusal, finite};

/// Up to so many values in both samples the distribution is exact; beyond, it is normal for all purposes.
const MOST_EXACT: usize = 100;

/// Two-sided rank-sum test; the statistic is the sum of the arm's ranks.
///
/// # Errors
/// An empty sample, or a value that is not finite.
pub fn wilcoxon_rank_sum(baseline: &[f64], arm: &[f64]) -> Result<RandomisationTest, Refusal> {
    finite(baseline).and(finite(arm))?;
    if baseline.is_empty() || arm.is_empty() {
        return Err(Refusal::Empty);
    }
    let ranks = doubled_midranks(&[arm, baseline].concat());
    let sum: usize = ranks[..arm.len()].iter().sum();
    let statistic = sum as f64 / 2.0;
    Ok(if ranks.len() <= MOST_EXACT {
        let weights = weights_of_sums(&ranks, arm.len());
        RandomisationTest {
            statistic,
            p_value: two_sided(&weights, sum),
            smallest_p: smallest_two_sided(&weights),
            distribution: Distribution::Exact,
        }
    } else {
        let (n, m, all) = (arm.len() as f64, baseline.len() as f64, ranks.len() as f64);
        let centre = n * (all + 1.0) / 2.0;
        // Variance of a sum drawn without replacement from the ranks at hand.
        let squares: f64 = ranks.iter().map(|&rank| (rank as f64 / 2.0 - (all + 1.0) / 2.0).powi(2)).sum();
        let sd = (n * m * squares / (all * (all - 1.0))).sqrt();
        let p_of = |distance: f64| {
            let far = (distance - 0.5).max(0.0);
            if far > 0.0 { 2.0 * normal_cdf(-far / sd) } else { 1.0 }
        };
        RandomisationTest {
            statistic,
            p_value: p_of((statistic - centre).abs()),
            smallest_p: p_of(n * m / 2.0),
            distribution: Distribution::Normal,
        }
    })
}

/// Number of ways in which `chosen` of the ranks have each sum.
fn weights_of_sums(ranks: &[usize], chosen: usize) -> Vec<f64> {
    let largest = ranks.iter().sum::<usize>();
    let mut ways = vec![vec![0.0; largest + 1]; chosen + 1];
    ways[0][0] = 1.0;
    for &rank in ranks {
        for count in (1..=chosen).rev() {
            let (fewer, these) = ways.split_at_mut(count);
            let (fewer, these) = (&fewer[count - 1], &mut these[0]);
            for sum in rank..=largest {
                these[sum] += fewer[sum - rank];
            }
        }
    }
    ways.swap_remove(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(baseline: &[f64], arm: &[f64]) -> RandomisationTest {
        wilcoxon_rank_sum(baseline, arm).unwrap()
    }

    #[test]
    fn by_hand() {
        // Pairs of {1, 2, 3, 4}: sums 3, 4, 5 (twice), 6, 7.
        let found = test(&[0.1, 0.2], &[0.3, 0.4]);
        assert!((found.p_value - 1.0 / 3.0).abs() < 1e-15 && found.smallest_p == found.p_value, "{found:?}");
        assert_eq!(found.statistic, 7.0);
        assert_eq!(test(&[0.1, 0.4], &[0.2, 0.3]).p_value, 1.0);
    }

    #[test]
    fn three_against_three_cannot_go_below_a_tenth() {
        assert!((test(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]).smallest_p - 0.1).abs() < 1e-15);
    }

    #[test]
    fn swapping_the_samples_changes_nothing() {
        let (a, b) = ([0.3, 0.1, 0.1, 0.8], [0.2, 0.1, 0.9, 0.9, 1.0]);
        assert!((test(&a, &b).p_value - test(&b, &a).p_value).abs() < 1e-14);
    }

    #[test]
    fn all_equal_is_no_difference() {
        assert_eq!(test(&[1.0; 4], &[1.0; 3]).p_value, 1.0);
        assert_eq!(test(&[1.0; 60], &[1.0; 60]).p_value, 1.0);
    }

    #[test]
    fn the_approximation_takes_over_smoothly() {
        let sample =
            |n: usize, shift: f64| -> Vec<f64> { (0..n).map(|i| (i as f64 * 1.3).sin() + shift).collect() };
        let (baseline, mut arm) = (sample(50, 0.0), sample(50, 0.2));
        let exact = test(&baseline, &arm);
        arm.push(0.1); // in the middle of both, which hardly moves the statistic
        let normal = test(&baseline, &arm);
        assert_eq!((exact.distribution, normal.distribution), (Distribution::Exact, Distribution::Normal));
        assert!((exact.p_value / normal.p_value - 1.0).abs() < 0.1, "{exact:?} {normal:?}");
    }
}
