//! Midranks, and the exact distribution of a sum of them.

use super::randomisation::TIE;

/// Twice the rank of each of `values` from below; values that tie share the mean of their ranks, which doubled is whole.
pub(super) fn doubled_midranks(values: &[f64]) -> Vec<usize> {
    let scale = values.iter().fold(0.0_f64, |scale, x| scale.max(x.abs()));
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let limit = values[order[first]] + TIE * scale;
        let tied = order[first..].iter().take_while(|&&i| values[i] <= limit).count();
        for &i in &order[first..first + tied] {
            ranks[i] = 2 * first + tied + 1; // ranks first + 1 to first + tied
        }
        first += tied;
    }
    ranks
}

/// Two-sided p-value of `at` under the weights of a distribution on 0, 1, ...: twice the smaller tail, at most 1.
pub(super) fn two_sided(weights: &[f64], at: usize) -> f64 {
    let all: f64 = weights.iter().sum();
    let (below, above): (f64, f64) = (weights[..=at].iter().sum(), weights[at..].iter().sum());
    (2.0 * below.min(above) / all).min(1.0)
}

/// The smallest p-value that such a distribution can give.
pub(super) fn smallest_two_sided(weights: &[f64]) -> f64 {
    let possible = |at: &usize| weights[*at] > 0.0;
    let lowest = (0..weights.len()).find(possible);
    let highest = (0..weights.len()).rev().find(possible);
    [lowest, highest].into_iter().flatten().map(|at| two_sided(weights, at)).fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mean_of_their_ranks() {
        assert_eq!(doubled_midranks(&[3.0, 1.0, 2.0]), [6, 2, 4]);
        assert_eq!(doubled_midranks(&[1.0, 2.0, 1.0, 2.0, 2.0]), [3, 8, 3, 8, 8]);
        assert_eq!(doubled_midranks(&[]), [0; 0]);
    }

    #[test]
    fn rounding_does_not_break_ties() {
        assert_eq!(doubled_midranks(&[2.1 - 2.0, 2.2 - 2.1, 0.5]), [3, 3, 6]);
    }

    #[test]
    fn tails_by_hand() {
        let weights = [1.0, 1.0, 2.0, 1.0, 1.0];
        assert_eq!(two_sided(&weights, 0), 2.0 / 6.0);
        assert_eq!(two_sided(&weights, 1), 4.0 / 6.0);
        assert_eq!(two_sided(&weights, 2), 1.0);
        assert_eq!(smallest_two_sided(&weights), 2.0 / 6.0);
    }
}
