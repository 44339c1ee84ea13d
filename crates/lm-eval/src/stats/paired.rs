//! Paired differences: two arms compared seed by seed.
//!
//! Runs of one seed share the order of the data and every weight that both variants have, so most of what a seed adds
//! to a loss is common to both and cancels in the difference. The differences, one per seed, are then treated as one
//! sample (Student 1908; NIST/SEMATECH e-Handbook, section 7.3.1, "paired observations").

use std::collections::BTreeMap;

use serde::Serialize;

use super::Estimate;

/// An arm minus its baseline, over the seeds that both have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairedDifference {
    /// Mean, spread and interval of arm - baseline; `estimate.n` is the number of pairs.
    pub estimate: Estimate,
    /// p-value of the two-sided paired t-test that there is no difference; `None` where there is no interval.
    pub p_value: Option<f64>,
    /// Seeds in which the arm's value is below the baseline's.
    pub wins: usize,
    /// Seeds that both have, ascending.
    pub seeds_used: Vec<u64>,
    /// Seeds that only one of the two has, ascending.
    pub seeds_missing: Vec<u64>,
}

/// Compares `arm` with `baseline`, both (seed, value) with each seed at most once; `None` when no seed is in both.
pub fn paired_differences(baseline: &[(u64, f64)], arm: &[(u64, f64)]) -> Option<PairedDifference> {
    let (baseline, arm): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (baseline.iter().copied().collect(), arm.iter().copied().collect());
    let (seeds_used, differences): (Vec<u64>, Vec<f64>) =
        arm.iter().filter_map(|(&seed, value)| Some((seed, value - baseline.get(&seed)?))).unzip();
    let estimate = Estimate::of(&differences)?;
    let mut seeds_missing: Vec<u64> = arm.keys().filter(|s| !baseline.contains_key(s)).copied().collect();
    seeds_missing.extend(baseline.keys().filter(|s| !arm.contains_key(s)));
    seeds_missing.sort_unstable();
    Some(PairedDifference {
        estimate,
        p_value: estimate.p_value(),
        wins: differences.iter().filter(|d| **d < 0.0).count(),
        seeds_used,
        seeds_missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_by_seed_whatever_the_order() {
        let baseline = [(3, 2.0), (1, 2.25), (2, 2.5), (9, 7.0)];
        let arm = [(1, 2.0), (2, 2.5), (3, 1.5), (4, 9.0)];
        let paired = paired_differences(&baseline, &arm).unwrap();
        assert_eq!(paired.seeds_used, [1, 2, 3]);
        assert_eq!(paired.seeds_missing, [4, 9]);
        assert_eq!(paired.estimate.mean, -0.25);
        assert_eq!(paired.wins, 2, "a tie is no win");
    }

    #[test]
    fn one_pair_gives_a_difference_without_interval() {
        let paired = paired_differences(&[(0, 1.0)], &[(0, 0.5), (1, 0.25)]).unwrap();
        assert_eq!((paired.estimate.mean, paired.estimate.sd), (-0.5, None));
        assert_eq!((paired.estimate.ci95, paired.p_value), (None, None));
    }

    #[test]
    fn no_common_seed_is_no_comparison() {
        assert_eq!(paired_differences(&[(0, 1.0)], &[(1, 1.0)]), None);
        assert_eq!(paired_differences(&[], &[(1, 1.0)]), None);
    }

    #[test]
    fn a_shared_seed_effect_cancels() {
        // The seeds spread by 0.1, the arms differ by 0.01: unpaired this is noise, paired it is plain.
        let baseline: Vec<_> = (0..5).map(|s| (s, 3.0 + 0.1 * s as f64)).collect();
        let arm: Vec<_> = baseline.iter().map(|&(s, x)| (s, x - 0.01 - 1e-4 * (s % 2) as f64)).collect();
        let paired = paired_differences(&baseline, &arm).unwrap();
        assert!(paired.p_value.unwrap() < 1e-6, "{paired:?}");
        assert!(
            Estimate::of(&baseline.iter().map(|b| b.1).collect::<Vec<_>>()).unwrap().half_width().unwrap()
                > 0.1
        );
    }
}
