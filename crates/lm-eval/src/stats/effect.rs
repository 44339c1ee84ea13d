//! A mean or a difference of means with its standard error: what Student's t needs, however the runs were made.

use serde::Serialize;

use super::distributions::{t_quantile, t_sf};
use super::refusal::{Refusal, finite, share};
use super::{Estimate, Interval};

/// An estimate whose distance from the truth, divided by its standard error, follows Student's t.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// The mean, or the difference arm - baseline.
    pub estimate: f64,
    /// Its standard error; above zero.
    pub standard_error: f64,
    /// Degrees of freedom; not whole for two independent samples.
    pub df: f64,
}

/// A two-sided t test that the effect is zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TTest {
    /// Estimate over standard error.
    pub t: f64,
    /// Degrees of freedom.
    pub df: f64,
    /// 2 P(T > |t|).
    pub p_value: f64,
}

impl Effect {
    /// The mean of `values`; of differences within a seed, the paired effect (Student 1908, "The Probable Error of a
    /// Mean"). It takes them to be independent and about normal.
    ///
    /// # Errors
    /// Fewer than two values, values without spread, values that are not finite.
    pub fn of_mean(values: &[f64]) -> Result<Self, Refusal> {
        finite(values)?;
        let estimate = Estimate::of(values).ok_or(Refusal::Empty)?;
        estimate.sd.ok_or(Refusal::OneValue)?;
        estimate.effect().ok_or(Refusal::NoSpread)
    }

    /// The difference of the means of two independent samples whose spreads may differ, with the degrees of freedom of
    /// Welch 1947, "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved".
    ///
    /// # Errors
    /// As [`Effect::of_mean`], for either sample.
    pub fn of_difference(baseline: &[f64], arm: &[f64]) -> Result<Self, Refusal> {
        let samples = [Self::of_mean(baseline)?, Self::of_mean(arm)?];
        let [of_baseline, of_arm] = samples.map(|sample| sample.standard_error.powi(2));
        let variance = of_baseline + of_arm;
        let [baseline, arm] = samples;
        Ok(Self {
            estimate: arm.estimate - baseline.estimate,
            standard_error: variance.sqrt(),
            df: variance.powi(2) / (of_baseline.powi(2) / baseline.df + of_arm.powi(2) / arm.df),
        })
    }

    /// Interval: estimate +- t * standard error (NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.5.2).
    ///
    /// # Errors
    /// A level that is not between 0 and 1.
    pub fn interval(&self, level: f64) -> Result<Interval, Refusal> {
        share("the level", level)?;
        let half = t_quantile(0.5 + level / 2.0, self.df) * self.standard_error;
        Ok(Interval { low: self.estimate - half, high: self.estimate + half, level })
    }

    /// The two-sided test that the effect is zero.
    pub fn t_test(&self) -> TTest {
        let t = self.estimate / self.standard_error;
        TTest { t, df: self.df, p_value: (2.0 * t_sf(t.abs(), self.df)).min(1.0) }
    }
}

/// Mean of `values` with Student's interval at any level.
///
/// # Errors
/// As [`Effect::of_mean`] and [`Effect::interval`].
pub fn t_interval(values: &[f64], level: f64) -> Result<Interval, Refusal> {
    Effect::of_mean(values)?.interval(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_said_is_refused() {
        assert_eq!(Effect::of_mean(&[]), Err(Refusal::Empty));
        assert_eq!(Effect::of_mean(&[1.0]), Err(Refusal::OneValue));
        assert_eq!(Effect::of_mean(&[1.0; 3]), Err(Refusal::NoSpread));
        assert_eq!(Effect::of_mean(&[1.0, f64::NAN]), Err(Refusal::NotFinite));
        assert_eq!(Effect::of_difference(&[1.0, 2.0], &[1.0; 3]), Err(Refusal::NoSpread));
        assert_eq!(t_interval(&[1.0, 2.0], 1.0), Err(Refusal::OutOfRange("the level")));
    }

    #[test]
    fn equal_spreads_and_sizes_make_welch_students_two_sample_test() {
        let effect = Effect::of_difference(&[1.0, 2.0, 3.0], &[2.0, 3.0, 4.0]).unwrap();
        assert!((effect.estimate - 1.0).abs() < 1e-12 && (effect.df - 4.0).abs() < 1e-12, "{effect:?}");
        assert!((effect.standard_error - (2.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_higher_level_is_a_wider_interval_around_the_same_middle() {
        let values = [1.0, 2.0, 4.0, 8.0];
        let (narrow, wide) = (t_interval(&values, 0.9).unwrap(), t_interval(&values, 0.99).unwrap());
        assert!(wide.half_width() > 2.0 * narrow.half_width());
        assert!(((wide.low + wide.high) / 2.0 - 3.75).abs() < 1e-12 && wide.contains(narrow.low));
    }
}
