//! Holm's correction for testing several hypotheses.
//!
//! Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure". It bounds the probability of any false rejection in
//! the family by alpha, whatever the dependence between the tests, and is never weaker than Bonferroni's.

use serde::Serialize;

use super::refusal::Refusal;

/// Adjusted p-values, and of how many.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Holm {
    /// Number of hypotheses tested together.
    pub family: usize,
    /// Adjusted p-values, in the order given: reject where they are below alpha.
    pub adjusted: Vec<f64>,
}

/// Adjusts the p-values of one family. A hypothesis that could not be tested still belongs to it: give it p = 1.
///
/// # Errors
/// A p-value that is not between 0 and 1.
pub fn holm(p_values: &[f64]) -> Result<Holm, Refusal> {
    if !p_values.iter().all(|p| (0.0..=1.0).contains(p)) {
        return Err(Refusal::OutOfRange("a p-value"));
    }
    let family = p_values.len();
    let mut order: Vec<usize> = (0..family).collect();
    order.sort_by(|&i, &j| p_values[i].total_cmp(&p_values[j]));
    let mut adjusted = vec![0.0; family];
    let mut least = 0.0_f64;
    for (rank, i) in order.into_iter().enumerate() {
        least = least.max((family - rank) as f64 * p_values[i]).min(1.0);
        adjusted[i] = least;
    }
    Ok(Holm { family, adjusted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let found = holm(&[0.01, 0.04, 0.03, 0.005]).unwrap();
        assert_eq!(found.family, 4);
        for (ours, expected) in found.adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((ours - expected).abs() < 1e-15, "{found:?}");
        }
    }

    #[test]
    fn edges() {
        assert_eq!(holm(&[]).unwrap(), Holm { family: 0, adjusted: vec![] });
        assert_eq!(holm(&[0.2]).unwrap().adjusted, [0.2]);
        assert_eq!(holm(&[0.9, 0.8]).unwrap().adjusted, [1.0, 1.0]);
        assert_eq!(holm(&[0.1, f64::NAN]), Err(Refusal::OutOfRange("a p-value")));
    }
}
