//! A mean with its spread and its interval.

use serde::Serialize;

use super::distributions::{chi_square_quantile, t_quantile};
use super::refusal::{Refusal, share};
use super::{Effect, FEW, Interval};

/// Arithmetic mean; `None` for no values.
///
/// Two passes: the mean of what rounding left over is added back (Chan, Golub & LeVeque 1983, "Algorithms for
/// Computing the Sample Variance", section 1), so that differences in the fifth digit of a loss survive.
pub fn mean(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let first = values.iter().sum::<f64>() / n;
    let rest = values.iter().map(|x| x - first).sum::<f64>() / n;
    (!values.is_empty()).then_some(first + rest)
}

/// Sample standard deviation with Bessel's correction (divisor n - 1); `None` for fewer than two values.
///
/// NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.5.6, "Measures of Scale".
pub fn sample_sd(values: &[f64]) -> Option<f64> {
    let centre = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Mean, spread and interval of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation; `None` for one value.
    pub sd: Option<f64>,
    /// Number of values.
    pub n: usize,
    /// Two-sided 95 % confidence interval of the mean by Student's t; `None` for one value, and for values without any
    /// spread: t is not defined there, and equal values mean copies rather than certainty.
    pub ci95: Option<(f64, f64)>,
}

impl Estimate {
    /// Estimates the mean behind `values`; `None` for no values.
    ///
    /// Interval: mean +- t(0.975, n - 1) * sd / sqrt(n) (Student 1908, "The Probable Error of a Mean"; NIST/SEMATECH
    /// e-Handbook, section 1.3.5.2). It takes the values to be independent and about normal.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mean = mean(values)?;
        let sd = sample_sd(values);
        let ci95 = sd.filter(|&sd| sd > 0.0).map(|sd| {
            let half = t_quantile(0.975, (values.len() - 1) as f64) * sd / (values.len() as f64).sqrt();
            (mean - half, mean + half)
        });
        Some(Self { mean, sd, n: values.len(), ci95 })
    }

    /// Half the width of the interval.
    pub fn half_width(&self) -> Option<f64> {
        self.ci95.map(|(low, high)| (high - low) / 2.0)
    }

    /// Whether the sample is smaller than [`FEW`].
    pub fn is_few(&self) -> bool {
        self.n < FEW
    }

    /// The mean as an effect with its standard error; `None` where there is no interval.
    pub fn effect(&self) -> Option<Effect> {
        let sd = self.sd.filter(|&sd| sd > 0.0)?;
        let n = self.n as f64;
        Some(Effect { estimate: self.mean, standard_error: sd / n.sqrt(), df: n - 1.0 })
    }

    /// p-value of the two-sided one-sample t-test that the true mean is zero: 2 P(T > |mean| sqrt(n) / sd). `None`
    /// where there is no interval.
    pub fn p_value(&self) -> Option<f64> {
        Some(self.effect()?.t_test().p_value)
    }
}

/// Interval of the true standard deviation, relative to that of a normal sample of `n` values: the ends are factors.
///
/// sqrt((n - 1) / chi2(1 - alpha / 2, n - 1)) to sqrt((n - 1) / chi2(alpha / 2, n - 1)) (NIST/SEMATECH e-Handbook of
/// Statistical Methods, section 7.2.3.1, "Confidence interval approach").
///
/// # Errors
/// Fewer than two values, and a level that is not between 0 and 1.
pub fn sd_factors(n: usize, level: f64) -> Result<Interval, Refusal> {
    share("the level", level)?;
    let df = match n {
        0 => return Err(Refusal::Empty),
        1 => return Err(Refusal::OneValue),
        2.. => (n - 1) as f64,
    };
    let factor = |p: f64| (df / chi_square_quantile(p, df)).sqrt();
    let tail = (1.0 - level) / 2.0;
    Ok(Interval { low: factor(1.0 - tail), high: factor(tail), level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_invented_for_small_samples() {
        assert_eq!(Estimate::of(&[]), None);
        let one = Estimate::of(&[2.5]).unwrap();
        assert_eq!(one, Estimate { mean: 2.5, sd: None, n: 1, ci95: None });
        assert_eq!((one.half_width(), one.p_value()), (None, None));
        let copies = Estimate::of(&[2.5; 4]).unwrap();
        assert_eq!((copies.sd, copies.ci95, copies.p_value()), (Some(0.0), None, None));
    }

    #[test]
    fn few_means_fewer_than_five() {
        assert!(Estimate::of(&[1.0, 2.0, 3.0, 4.0]).unwrap().is_few());
        assert!(!Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap().is_few());
    }

    #[test]
    fn two_values_have_a_known_interval() {
        // One degree of freedom is the Cauchy distribution, whose quantile is tan(pi (p - 1/2)).
        let estimate = Estimate::of(&[0.0, 2.0]).unwrap();
        let half = (std::f64::consts::PI * 0.475).tan();
        assert!((estimate.half_width().unwrap() / half - 1.0).abs() < 1e-9, "{estimate:?}");
    }

    proptest! {
        #[test]
        fn shifting_moves_the_mean_and_nothing_else(
            values in prop::collection::vec(-1.0..1.0f64, 2..12), shift in -100.0..100.0f64,
        ) {
            let moved: Vec<f64> = values.iter().map(|x| x + shift).collect();
            let (a, b) = (Estimate::of(&values).unwrap(), Estimate::of(&moved).unwrap());
            prop_assert!((b.mean - a.mean - shift).abs() < 1e-12);
            prop_assert!((b.sd.unwrap() - a.sd.unwrap()).abs() < 1e-12);
        }

        #[test]
        fn the_p_value_and_the_interval_agree_about_zero(values in prop::collection::vec(-1.0..1.5f64, 2..12)) {
            let estimate = Estimate::of(&values).unwrap();
            if let (Some((low, high)), Some(p)) = (estimate.ci95, estimate.p_value()) {
                prop_assert!((p - 0.05).abs() < 1e-9 || (p < 0.05) == (low > 0.0 || high < 0.0), "{estimate:?} {p}");
            }
        }
    }
}
