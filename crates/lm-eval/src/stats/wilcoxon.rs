//! Wilcoxon's signed-rank test of paired differences.
//!
//! Wilcoxon 1945, "Individual Comparisons by Ranking Methods". Absolute differences are ranked, zeros with the others, and
//! the zeros' ranks are then dropped (Pratt 1959, "Remarks on Zeros and Ties in the Wilcoxon Signed Rank Procedures").
//! Ties share the mean of their ranks. The distribution is that of the sign patterns on the ranks at hand, ties and all, so
//! it is exact with ties too; it is summed by dynamic programming.

use super::distributions::normal_cdf;
use super::randomisation::{Distribution, RandomisationTest};
use super::ranks::{doubled_midranks, smallest_two_sided, two_sided};
use super::refusal::{Refusal, finite};
use super::sign_flip::smallest;

/// Up to so many differences the distribution is exact; beyond, it is normal for all purposes.
const MOST_EXACT: usize = 200;

/// Two-sided signed-rank test; the statistic is the sum of the ranks of positive differences.
///
/// # Errors
/// No differences, or one that is not finite. Differences that are all zero have the p-value 1.
pub fn wilcoxon_signed_rank(differences: &[f64]) -> Result<RandomisationTest, Refusal> {
    finite(differences)?;
    if differences.is_empty() {
        return Err(Refusal::Empty);
    }
    let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
    let all = doubled_midranks(&sizes).into_iter().zip(differences);
    let (positive, negative): (Vec<_>, Vec<_>) =
        all.filter(|(_, d)| **d != 0.0).partition(|(_, d)| **d > 0.0);
    let above: usize = positive.iter().map(|(rank, _)| rank).sum();
    let ranks: Vec<usize> = positive.iter().chain(&negative).map(|(rank, _)| *rank).collect();
    let statistic = above as f64 / 2.0;
    Ok(if ranks.len() <= MOST_EXACT {
        let weights = weights_of_sums(&ranks);
        RandomisationTest {
            statistic,
            p_value: two_sided(&weights, above),
            smallest_p: smallest_two_sided(&weights),
            distribution: Distribution::Exact,
        }
    } else {
        // Each rank counts with probability 1/2. The correction is half a rank.
        let sum = |power| ranks.iter().map(|&rank| (rank as f64 / 2.0).powi(power)).sum::<f64>();
        let (centre, sd) = (sum(1) / 2.0, sum(2).sqrt() / 2.0);
        let far = ((statistic - centre).abs() - 0.5).max(0.0) / sd;
        RandomisationTest {
            statistic,
            p_value: 2.0 * normal_cdf(-far),
            smallest_p: smallest(ranks.len()),
            distribution: Distribution::Normal,
        }
    })
}

/// Probability of every sum of ranks, each of which counts or not with probability 1/2.
fn weights_of_sums(ranks: &[usize]) -> Vec<f64> {
    let mut weights = vec![0.0; ranks.iter().sum::<usize>() + 1];
    weights[0] = 1.0;
    let mut largest = 0;
    for &rank in ranks {
        largest += rank;
        for sum in (0..=largest).rev() {
            let without = if sum >= rank { weights[sum - rank] } else { 0.0 };
            weights[sum] = (weights[sum] + without) / 2.0;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(differences: &[f64]) -> RandomisationTest {
        wilcoxon_signed_rank(differences).unwrap()
    }

    #[test]
    fn by_hand() {
        // Sums of subsets of {1, 2, 3}: 0, 1, 2, 3 (twice), 4, 5, 6.
        let found = test(&[1.0, 2.0, 3.0]);
        assert_eq!((found.statistic, found.p_value, found.smallest_p), (6.0, 0.25, 0.25));
        assert_eq!(test(&[-1.0, 2.0, 3.0]).p_value, 0.5);
        assert_eq!(test(&[1.0, 2.0, -3.0]).p_value, 1.0);
    }

    #[test]
    fn five_pairs_cannot_go_below_a_sixteenth() {
        let found = test(&[0.3, 0.1, 0.2, 0.7, 0.4]);
        assert_eq!((found.p_value, found.smallest_p), (0.0625, 0.0625));
    }

    #[test]
    fn zeros_are_ranked_and_dropped() {
        // Ranks 1 (zero), 2, 3, 4: the subsets of {2, 3, 4} reach 7 and more with {3, 4} and {2, 3, 4}.
        let found = test(&[0.0, -1.0, 2.0, 3.0]);
        assert_eq!((found.statistic, found.p_value), (7.0, 0.5));
        assert_eq!((test(&[0.0; 3]).p_value, test(&[0.0; 3]).smallest_p), (1.0, 1.0));
    }

    #[test]
    fn ties_all_alike_make_the_sign_test() {
        // Ten equal sizes, nine of one sign: 2 (1 + 10) / 1024.
        let mut differences = [1.0; 10];
        differences[3] = -1.0;
        assert!((test(&differences).p_value - 22.0 / 1024.0).abs() < 1e-15);
    }

    #[test]
    fn the_approximation_takes_over_smoothly() {
        let mut values: Vec<f64> = (0..200).map(|i| (f64::from(i) * 1.3).sin() + 0.07).collect();
        let exact = test(&values);
        values.push(1e-9); // the smallest of all, which moves every rank by one
        let normal = test(&values);
        assert_eq!((exact.distribution, normal.distribution), (Distribution::Exact, Distribution::Normal));
        assert!((exact.p_value / normal.p_value - 1.0).abs() < 0.05, "{exact:?} {normal:?}");
    }
}
