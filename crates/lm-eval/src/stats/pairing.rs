//! How much variance pairing by seed removes.

use serde::Serialize;

use super::refusal::{Refusal, finite};
use super::{mean, sample_sd};

/// The spread of differences within a seed beside that of differences between independent runs.
///
/// Var(a - b) = Var(a) + Var(b) - 2 Cov(a, b): common random numbers pay where the covariance is positive (Law 2015,
/// "Simulation Modeling and Analysis", section 11.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairingGain {
    /// Standard deviation of the differences within a seed.
    pub sd_paired: f64,
    /// Standard deviation that the difference of two runs of unrelated seeds would have.
    pub sd_unpaired: f64,
    /// Share of the variance that pairing removes; negative where it adds some.
    pub removed: f64,
    /// Correlation of the arms over seeds; `None` if an arm has no spread.
    pub correlation: Option<f64>,
}

/// Compares paired with unpaired differences of two arms, seed by seed in the same order.
///
/// # Errors
/// Fewer than two pairs, arms of different lengths, values that are not finite, no spread in either arm.
pub fn pairing_gain(baseline: &[f64], arm: &[f64]) -> Result<PairingGain, Refusal> {
    finite(baseline).and(finite(arm))?;
    if baseline.len() != arm.len() {
        return Err(Refusal::UnequalLengths);
    }
    let (mean_b, mean_a) = (mean(baseline).ok_or(Refusal::Empty)?, mean(arm).ok_or(Refusal::Empty)?);
    let (sd_b, sd_a) =
        (sample_sd(baseline).ok_or(Refusal::OneValue)?, sample_sd(arm).ok_or(Refusal::OneValue)?);
    let products = baseline.iter().zip(arm).map(|(b, a)| (b - mean_b) * (a - mean_a));
    let covariance = products.sum::<f64>() / (arm.len() - 1) as f64;
    let differences: Vec<f64> = baseline.iter().zip(arm).map(|(b, a)| a - b).collect();
    let sd_paired = sample_sd(&differences).ok_or(Refusal::OneValue)?;
    let unpaired = sd_b.powi(2) + sd_a.powi(2);
    if unpaired == 0.0 {
        return Err(Refusal::NoSpread);
    }
    Ok(PairingGain {
        sd_paired,
        sd_unpaired: unpaired.sqrt(),
        removed: 1.0 - sd_paired.powi(2) / unpaired,
        correlation: (sd_b > 0.0 && sd_a > 0.0).then(|| (covariance / (sd_b * sd_a)).clamp(-1.0, 1.0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_seed_effect_is_removed() {
        let gain = pairing_gain(&[1.0, 2.0, 3.0], &[1.5, 2.5, 3.5]).unwrap();
        assert!(gain.sd_paired < 1e-12 && (gain.sd_unpaired - 2f64.sqrt()).abs() < 1e-12, "{gain:?}");
        assert!((gain.removed - 1.0).abs() < 1e-12 && (gain.correlation.unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn opposite_arms_get_worse() {
        let gain = pairing_gain(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]).unwrap();
        assert!((gain.removed + 1.0).abs() < 1e-12 && gain.correlation == Some(-1.0), "{gain:?}");
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        assert_eq!(pairing_gain(&[], &[]), Err(Refusal::Empty));
        assert_eq!(pairing_gain(&[1.0], &[1.0]), Err(Refusal::OneValue));
        assert_eq!(pairing_gain(&[1.0, 2.0], &[1.0]), Err(Refusal::UnequalLengths));
        assert_eq!(pairing_gain(&[1.0; 3], &[2.0; 3]), Err(Refusal::NoSpread));
        assert_eq!(pairing_gain(&[1.0; 3], &[2.0, 3.0, 4.0]).unwrap().correlation, None);
    }
}
