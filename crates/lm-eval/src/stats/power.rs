//! What a number of seeds can resolve: the power of the two-sided t test.
//!
//! At a true difference D the t statistic is noncentral t with delta = D / standard error (Cohen 1988, "Statistical Power
//! Analysis for the Behavioral Sciences", chapter 2; Lehmann & Romano 2005, "Testing Statistical Hypotheses", section 5.3).
//! The spread is taken as known although it was estimated, from few seeds badly: a figure from here is a guide, not a
//! promise. Power "observed" at the measured difference is not offered: it says nothing that p has not said (Hoenig & Heisey
//! 2001, "The Abuse of Power").

use serde::Serialize;

use super::Effect;
use super::distributions::t_quantile;
use super::noncentral_t::noncentral_t_cdf;
use super::refusal::{Refusal, share};

/// Seeds beyond which nobody will go.
pub const MOST_SEEDS: usize = 10_000;

/// The usual power asked for: four true differences in five are found.
pub const USUAL_POWER: f64 = 0.8;

/// How the arms are compared, and how they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// One difference per seed.
    Paired {
        /// Standard deviation of the differences.
        sd: f64,
    },
    /// Independent seeds, as many in each arm, by Welch's test.
    Unpaired {
        /// Standard deviation of the baseline.
        baseline_sd: f64,
        /// Standard deviation of the arm.
        arm_sd: f64,
    },
}

/// The smallest difference that is found with a given power.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Detectable {
    /// The difference, in the unit of the values.
    pub difference: f64,
    /// Probability of finding it, if it is the true one.
    pub power: f64,
    /// Level of the two-sided test.
    pub alpha: f64,
}

/// The number of seeds that resolves a difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeedsNeeded {
    /// Seeds per arm; `None` beyond [`MOST_SEEDS`].
    pub seeds: Option<usize>,
    /// The difference to be found.
    pub difference: f64,
    /// Probability asked for.
    pub power: f64,
    /// Level of the two-sided test.
    pub alpha: f64,
}

impl Design {
    /// The effect of a true difference at `seeds` > 1 seeds per arm.
    fn at(&self, difference: f64, seeds: usize) -> Effect {
        let n = seeds as f64;
        match *self {
            Self::Paired { sd } => {
                Effect { estimate: difference, standard_error: sd / n.sqrt(), df: n - 1.0 }
            }
            Self::Unpaired { baseline_sd, arm_sd } => {
                let [b, a] = [baseline_sd, arm_sd].map(|sd| sd.powi(2));
                let df = (n - 1.0) * (a + b).powi(2) / (a * a + b * b);
                Effect { estimate: difference, standard_error: ((a + b) / n).sqrt(), df }
            }
        }
    }

    /// Probability that the two-sided t test at `alpha` finds a true `difference` with `seeds` seeds per arm.
    ///
    /// # Errors
    /// Fewer than two seeds, no spread, an alpha that is not between 0 and 1.
    pub fn power(&self, difference: f64, seeds: usize, alpha: f64) -> Result<f64, Refusal> {
        share("alpha", alpha)?;
        if seeds < 2 {
            return Err(Refusal::OneValue);
        }
        let effect = self.at(difference, seeds);
        if !(effect.standard_error > 0.0 && effect.standard_error.is_finite()) {
            return Err(Refusal::NoSpread);
        }
        Ok(t_power(difference / effect.standard_error, effect.df, alpha))
    }

    /// The fewest seeds per arm that find a true `difference` with probability `power`.
    ///
    /// # Errors
    /// No spread, a difference of zero, shares that are not between 0 and 1.
    pub fn seeds_needed(&self, difference: f64, power: f64, alpha: f64) -> Result<SeedsNeeded, Refusal> {
        share("the power", power)?;
        if !(difference.is_finite() && difference != 0.0) {
            return Err(Refusal::OutOfRange("the difference"));
        }
        let enough = |seeds: usize| self.power(difference, seeds, alpha).map(|reached| reached >= power);
        let found = |seeds| SeedsNeeded { seeds, difference, power, alpha };
        if !enough(MOST_SEEDS)? {
            return Ok(found(None));
        }
        let (mut too_few, mut high) = (1, MOST_SEEDS);
        while high - too_few > 1 {
            let middle = too_few.midpoint(high);
            if enough(middle)? {
                high = middle;
            } else {
                too_few = middle;
            }
        }
        Ok(found(Some(high)))
    }
}

/// Power of the two-sided t test at noncentrality `delta`.
pub fn t_power(delta: f64, df: f64, alpha: f64) -> f64 {
    let critical = t_quantile(1.0 - alpha / 2.0, df);
    1.0 - noncentral_t_cdf(critical, df, delta) + noncentral_t_cdf(-critical, df, delta)
}

/// The smallest difference that a t test with the standard error of `effect` finds with probability `power`.
///
/// # Errors
/// Shares that are not between 0 and 1, or a power below alpha.
pub fn detectable(effect: &Effect, power: f64, alpha: f64) -> Result<Detectable, Refusal> {
    share("alpha", alpha)?;
    share("the power", power)?;
    if power <= alpha {
        return Err(Refusal::OutOfRange("the power"));
    }
    let reached = |delta: f64| t_power(delta, effect.df, alpha) >= power;
    let (mut low, mut high) = (0.0, 1.0);
    while !reached(high) {
        (low, high) = (high, 2.0 * high);
    }
    while high - low > 1e-10 * high {
        let middle = f64::midpoint(low, high);
        (low, high) = if reached(middle) { (low, middle) } else { (middle, high) };
    }
    Ok(Detectable { difference: high * effect.standard_error, power, alpha })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_at_no_difference_is_alpha() {
        for (seeds, alpha) in [(2, 0.05), (5, 0.01), (50, 0.2)] {
            let power = Design::Paired { sd: 0.3 }.power(0.0, seeds, alpha).unwrap();
            assert!((power - alpha).abs() < 1e-9, "{seeds} seeds: {power}");
        }
    }

    #[test]
    fn the_three_questions_agree() {
        let design = Design::Paired { sd: 0.004 };
        let needed = design.seeds_needed(0.003, 0.8, 0.05).unwrap().seeds.unwrap();
        assert!(design.power(0.003, needed, 0.05).unwrap() >= 0.8);
        assert!(design.power(0.003, needed - 1, 0.05).unwrap() < 0.8);
        let found = detectable(&design.at(0.0, needed), 0.8, 0.05).unwrap();
        assert!(found.difference <= 0.003, "{found:?}");
        assert!((design.power(found.difference, needed, 0.05).unwrap() - 0.8).abs() < 1e-8);
    }

    #[test]
    fn an_unpaired_design_of_equal_spreads_has_all_degrees_of_freedom() {
        let effect = Design::Unpaired { baseline_sd: 0.1, arm_sd: 0.1 }.at(1.0, 6);
        assert!(
            (effect.df - 10.0).abs() < 1e-12 && (effect.standard_error - 0.1 / 3f64.sqrt()).abs() < 1e-15
        );
    }

    #[test]
    fn questions_without_an_answer() {
        let design = Design::Paired { sd: 1.0 };
        assert_eq!(design.seeds_needed(1e-6, 0.8, 0.05).unwrap().seeds, None);
        assert_eq!(design.seeds_needed(0.0, 0.8, 0.05), Err(Refusal::OutOfRange("the difference")));
        assert_eq!(design.power(1.0, 1, 0.05), Err(Refusal::OneValue));
        assert_eq!(Design::Paired { sd: 0.0 }.power(1.0, 5, 0.05), Err(Refusal::NoSpread));
        let effect = design.at(0.0, 5);
        assert_eq!(detectable(&effect, 0.04, 0.05), Err(Refusal::OutOfRange("the power")));
    }

    #[test]
    fn two_seeds_and_a_strict_level_still_have_an_answer() {
        let found = detectable(&Design::Paired { sd: 1.0 }.at(0.0, 2), 0.8, 1e-6).unwrap();
        assert!(found.difference > 1e5 && found.difference.is_finite(), "{found:?}");
    }
}
