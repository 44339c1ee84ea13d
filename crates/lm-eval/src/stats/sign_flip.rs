//! The sign-flip test: a permutation test of paired differences.
//!
//! If the two arms are exchangeable within a seed, every difference could as well have had the other sign (Fisher 1935,
//! "The Design of Experiments", section 21). The p-value is the share of all 2^n sign patterns whose sum is at least as
//! far from zero. It assumes no distribution, only exchangeability, which implies differences symmetric about zero.

use lm_train::rng::Key;
use rand::RngCore;

use super::randomisation::{DRAWS, Distribution, MOST_ARRANGEMENTS, RandomisationTest, TIE};
use super::refusal::{Refusal, finite};

/// Two-sided sign-flip test of the mean of `differences`; `key` matters only where signs are drawn.
///
/// # Errors
/// No differences, or one that is not finite. Differences that are all zero have the p-value 1.
pub fn sign_flip(differences: &[f64], key: &Key) -> Result<RandomisationTest, Refusal> {
    finite(differences)?;
    if differences.is_empty() {
        return Err(Refusal::Empty);
    }
    // Zeros change no sum: they neither help nor count.
    let moved: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let sum: f64 = moved.iter().sum();
    let reached = sum.abs() - TIE * moved.iter().map(|d| d.abs()).sum::<f64>();
    let statistic = sum / differences.len() as f64;
    let arrangements = 1_u64.checked_shl(moved.len() as u32).filter(|&all| all <= MOST_ARRANGEMENTS);
    Ok(if let Some(all) = arrangements {
        let hits = sums_of_all_signs(&moved).iter().filter(|sum| sum.abs() >= reached).count();
        RandomisationTest {
            statistic,
            p_value: hits as f64 / all as f64,
            smallest_p: smallest(moved.len()),
            distribution: Distribution::Exact,
        }
    } else {
        let mut rng = key.rng();
        let mut drawn = || {
            let pairs = moved.chunks(64).map(|chunk| (rng.next_u64(), chunk));
            pairs.map(|(bits, chunk)| signed_sum(bits, chunk)).sum::<f64>()
        };
        let hits = (0..DRAWS).filter(|_| drawn().abs() >= reached).count();
        RandomisationTest {
            statistic,
            p_value: (1 + hits) as f64 / (1 + DRAWS) as f64,
            smallest_p: smallest(moved.len()).max(1.0 / (1 + DRAWS) as f64),
            distribution: Distribution::MonteCarlo { draws: DRAWS },
        }
    })
}

/// 2 / 2^n: the pattern seen, all of one sign, and its mirror image.
pub(super) fn smallest(moved: usize) -> f64 {
    (2.0 * 0.5_f64.powi(moved.min(i32::MAX as usize) as i32)).min(1.0)
}

/// The sums of `values` with every pattern of signs.
fn sums_of_all_signs(values: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0];
    for value in values {
        sums = sums.iter().flat_map(|sum| [sum + value, sum - value]).collect();
    }
    sums
}

/// Sum of at most 64 values, each negative where its bit is set.
fn signed_sum(bits: u64, values: &[f64]) -> f64 {
    values.iter().enumerate().map(|(i, value)| if bits >> i & 1 == 0 { *value } else { -value }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lm_train::rng::Purpose;

    fn test(differences: &[f64]) -> RandomisationTest {
        sign_flip(differences, &Key::new(5, Purpose::Resampling)).unwrap()
    }

    #[test]
    fn by_hand() {
        // |+-1 +-2 +-4| is 7, 5, 3, 1 with two patterns each.
        assert_eq!(test(&[1.0, 2.0, 4.0]).p_value, 0.25);
        assert_eq!(test(&[-1.0, 2.0, 4.0]).p_value, 0.5);
        assert_eq!(test(&[1.0, 2.0, -4.0]).p_value, 1.0);
        assert_eq!(test(&[1.0]).p_value, 1.0);
    }

    #[test]
    fn five_pairs_cannot_go_below_a_sixteenth() {
        let found = test(&[0.1, 0.2, 0.3, 0.4, 0.5]);
        assert_eq!((found.p_value, found.smallest_p), (0.0625, 0.0625));
    }

    #[test]
    fn zeros_say_nothing() {
        assert_eq!((test(&[0.0, 0.0]).p_value, test(&[0.0, 0.0]).smallest_p), (1.0, 1.0));
        let (with, without) = (test(&[0.0, 1.0, 2.0, 4.0]), test(&[1.0, 2.0, 4.0]));
        assert_eq!((with.p_value, with.smallest_p), (without.p_value, without.smallest_p));
    }

    #[test]
    fn sums_that_tie_up_to_rounding_tie() {
        // 0.3 - 0.1 - 0.2 is not zero in binary; the pattern seen and its mirror image must count as equal.
        let found = test(&[0.1, 0.2, -0.3]);
        assert_eq!(found.p_value, 1.0);
        assert_eq!(test(&[2.1 - 2.0, 2.2 - 2.1, 2.3 - 2.2]).p_value, 0.25);
    }

    #[test]
    fn drawn_signs_agree_with_enumerated_ones() {
        let differences: Vec<f64> = (0..16).map(|i| 0.03 + (f64::from(i) * 1.7).sin() * 0.1).collect();
        let exact = test(&differences);
        assert_eq!(exact.distribution, Distribution::Exact);
        // Three differences that hardly count force drawing and leave the p-value where it was.
        let more: Vec<f64> = differences.iter().copied().chain([1e-9; 3]).collect();
        let drawn = test(&more);
        assert_eq!(drawn.distribution, Distribution::MonteCarlo { draws: DRAWS });
        let error = (exact.p_value * (1.0 - exact.p_value) / DRAWS as f64).sqrt();
        assert!((drawn.p_value - exact.p_value).abs() < 4.0 * error, "{exact:?} {drawn:?}");
    }

    #[test]
    fn a_drawn_p_value_is_never_zero() {
        let found = test(&[1.0; 100]);
        assert_eq!((found.p_value, found.smallest_p), (1e-5, 1e-5));
    }
}
