//! The distributions that the tests need, by `statrs`.

use std::f64::consts::SQRT_2;

use statrs::distribution::{ChiSquared, ContinuousCDF, FisherSnedecor, Normal, StudentsT};
use statrs::function::erf::erfc;

/// P(Z <= x) of the standard normal distribution.
pub(super) fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x / SQRT_2)
}

/// Quantile of the standard normal distribution.
pub(super) fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

fn student_t(df: f64) -> StudentsT {
    StudentsT::new(0.0, 1.0, df).expect("at least one degree of freedom")
}

/// P(T > t) of Student's distribution.
pub(super) fn t_sf(t: f64, df: f64) -> f64 {
    student_t(df).sf(t)
}

/// Quantile of Student's distribution.
pub(super) fn t_quantile(p: f64, df: f64) -> f64 {
    student_t(df).inverse_cdf(p)
}

/// Quantile of the chi-square distribution.
pub(super) fn chi_square_quantile(p: f64, df: f64) -> f64 {
    ChiSquared::new(df).expect("at least one degree of freedom").inverse_cdf(p)
}

/// P(F > f) of Fisher's distribution.
pub(super) fn f_sf(f: f64, df: f64, residual_df: f64) -> f64 {
    FisherSnedecor::new(df, residual_df).expect("at least one degree of freedom").sf(f)
}
