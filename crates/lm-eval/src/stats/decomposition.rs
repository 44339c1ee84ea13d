//! How much of the variance of results lies in each factor: gate, activation, precision, seed.
//!
//! The model is fixed effects, fitted by least squares: value = constant + sum over the terms + error, where a term is a
//! factor's levels or, for an interaction, the combinations of several factors' levels. Errors are taken to be independent
//! and of one spread; levels are the ones at hand, not a sample of others (a seed's effect is "these seeds"). The last
//! source of variance is what the terms leave: with one run per cell, that is their interactions and chance together.
//!
//! Sums of squares are of type II (Yates 1934; Langsrud 2003, "ANOVA for Unbalanced Data: Use Type II Instead of Type III
//! Sums of Squares"): what a term adds to all others that do not contain it. In a balanced grid the order does not matter
//! and they add up to the total; in an unbalanced one they need not, and [`Decomposition::shared`] says by how much.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::distributions::f_sf;
use super::mean;
use super::refusal::{Refusal, finite};

/// A column of labels, one per value.
#[derive(Clone, Debug)]
pub struct Factor {
    name: String,
    levels: Vec<usize>,
}

impl Factor {
    /// A factor from the label of each value.
    pub fn new<L: Ord>(name: impl Into<String>, labels: &[L]) -> Self {
        let distinct: BTreeSet<&L> = labels.iter().collect();
        let number: BTreeMap<&L, usize> =
            distinct.into_iter().enumerate().map(|(i, label)| (label, i)).collect();
        Self { name: name.into(), levels: labels.iter().map(|label| number[label]).collect() }
    }
}

/// A term of the model: the factors whose combinations it distinguishes, by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term(BTreeSet<usize>);

impl Term {
    /// The effect of one factor by itself.
    pub fn main(factor: usize) -> Self {
        Self([factor].into())
    }

    /// The interaction of several factors.
    pub fn interaction(factors: impl IntoIterator<Item = usize>) -> Self {
        Self(factors.into_iter().collect())
    }

    /// `gate:activation`.
    fn name(&self, factors: &[Factor]) -> String {
        self.0.iter().map(|&i| factors[i].name.as_str()).collect::<Vec<_>>().join(":")
    }
}

/// What one term accounts for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// Its factors, joined by colons.
    pub term: String,
    /// Degrees of freedom.
    pub df: usize,
    /// Type II sum of squares.
    pub sum_sq: f64,
    /// Share of the total sum of squares (eta squared). It is above zero by chance alone.
    pub share: f64,
    /// The share corrected for chance (omega squared; Hays 1963, "Statistics for Psychologists"); may come out below zero.
    pub corrected_share: f64,
    /// Mean square over the residual's.
    pub f: f64,
    /// P(F > f): that the term accounts for nothing.
    pub p_value: f64,
}

/// The variance of results, by source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decomposition {
    /// The model, as `value ~ gate + activation`.
    pub model: String,
    /// Number of values.
    pub n: usize,
    /// Whether every combination of levels has as many values.
    pub balanced: bool,
    /// The terms, in the order given.
    pub sources: Vec<Source>,
    /// Degrees of freedom of what is left.
    pub residual_df: usize,
    /// Sum of squares of what is left.
    pub residual_sum_sq: f64,
    /// Its share of the total.
    pub residual_share: f64,
    /// Sum of squares around the mean.
    pub total_sum_sq: f64,
    /// Share that several terms could claim, and none is given: zero in a balanced grid, negative where terms hide each
    /// other.
    pub shared: f64,
}

/// Decomposes `values` by `terms`; every factor has one label per value.
///
/// # Errors
/// No values, one that is not finite, equal values, a factor of another length; a term that distinguishes nothing that the
/// others do not; a model that leaves no degrees of freedom, or that fits every value exactly.
///
/// # Panics
/// When a term names a factor that is not there.
pub fn decompose(values: &[f64], factors: &[Factor], terms: &[Term]) -> Result<Decomposition, Refusal> {
    finite(values)?;
    if factors.iter().any(|factor| factor.levels.len() != values.len()) {
        return Err(Refusal::UnequalLengths);
    }
    let centre = mean(values).ok_or(Refusal::Empty)?;
    let centred: Vec<f64> = values.iter().map(|x| x - centre).collect();
    let total_sum_sq = dot(&centred, &centred);
    if total_sum_sq == 0.0 {
        return Err(Refusal::NoSpread);
    }

    let fit = |included: &dyn Fn(&Term) -> bool| {
        let columns = terms.iter().filter(|term| included(term)).flat_map(|term| indicators(term, factors));
        Fit::of(&centred, columns)
    };
    let full = fit(&|_| true);
    let residual_df = (values.len() - 1).saturating_sub(full.rank);
    if residual_df == 0 || full.residual <= f64::EPSILON * total_sum_sq {
        return Err(Refusal::Saturated);
    }
    let residual_mean_sq = full.residual / residual_df as f64;

    let source = |term: &Term| {
        let without = fit(&|other| !term.0.is_subset(&other.0));
        let with = fit(&|other| other == term || !term.0.is_subset(&other.0));
        let df = with.rank - without.rank;
        if df == 0 {
            return Err(Refusal::Saturated);
        }
        let sum_sq = (without.residual - with.residual).max(0.0);
        let f = sum_sq / df as f64 / residual_mean_sq;
        Ok(Source {
            term: term.name(factors),
            df,
            sum_sq,
            share: sum_sq / total_sum_sq,
            corrected_share: (sum_sq - df as f64 * residual_mean_sq) / (total_sum_sq + residual_mean_sq),
            f,
            p_value: f_sf(f, df as f64, residual_df as f64),
        })
    };
    let sources = terms.iter().map(source).collect::<Result<Vec<Source>, Refusal>>()?;
    let claimed: f64 = sources.iter().map(|source| source.share).sum();
    let residual_share = full.residual / total_sum_sq;
    let names: Vec<String> = terms.iter().map(|term| term.name(factors)).collect();
    Ok(Decomposition {
        model: format!("value ~ {}", names.join(" + ")),
        n: values.len(),
        balanced: is_balanced(factors, values.len()),
        sources,
        residual_df,
        residual_sum_sq: full.residual,
        residual_share,
        total_sum_sq,
        shared: 1.0 - claimed - residual_share,
    })
}

/// One 0/1 column per combination of levels of a term.
fn indicators(term: &Term, factors: &[Factor]) -> Vec<Vec<f64>> {
    let cells = cells(term.0.iter().map(|&i| &factors[i]));
    let distinct: BTreeSet<&Vec<usize>> = cells.iter().collect();
    let column = |cell: &Vec<usize>| cells.iter().map(|other| f64::from(u8::from(other == cell))).collect();
    distinct.into_iter().map(column).collect()
}

/// The combination of levels behind every value.
fn cells<'a>(factors: impl Iterator<Item = &'a Factor> + Clone) -> Vec<Vec<usize>> {
    let n = factors.clone().next().map_or(0, |factor| factor.levels.len());
    (0..n).map(|row| factors.clone().map(|factor| factor.levels[row]).collect()).collect()
}

fn is_balanced(factors: &[Factor], n: usize) -> bool {
    let mut counts: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    for cell in cells(factors.iter()) {
        *counts.entry(cell).or_default() += 1;
    }
    let levels = |factor: &Factor| factor.levels.iter().collect::<BTreeSet<_>>().len();
    let possible: usize = factors.iter().map(levels).product();
    counts.values().all(|&count| count * possible == n)
}

/// A least-squares fit on columns that may depend on each other.
struct Fit {
    /// Number of independent columns, the constant not counted.
    rank: usize,
    /// Sum of squares that they leave.
    residual: f64,
}

impl Fit {
    /// Fits `centred`, whose mean is zero, by Gram-Schmidt with a second pass ("twice is enough": Giraud, Langou &
    /// Rozloznik 2005), which also tells dependent columns.
    fn of(centred: &[f64], columns: impl Iterator<Item = Vec<f64>>) -> Self {
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let mut rest = centred.to_vec();
        for mut column in columns {
            let share = mean(&column).unwrap_or(0.0);
            column.iter_mut().for_each(|x| *x -= share);
            let before = dot(&column, &column).sqrt();
            for direction in basis.iter().chain(&basis) {
                remove(&mut column, direction);
            }
            let after = dot(&column, &column).sqrt();
            if after > 1e-9 * before && after > 0.0 {
                column.iter_mut().for_each(|x| *x /= after);
                remove(&mut rest, &column);
                basis.push(column);
            }
        }
        Self { rank: basis.len(), residual: dot(&rest, &rest) }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Removes the part of `vector` along `direction`, which has length 1.
fn remove(vector: &mut [f64], direction: &[f64]) {
    let along = dot(vector, direction);
    vector.iter_mut().zip(direction).for_each(|(x, d)| *x -= along * d);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gate (2) x activation (3) x seed (2) with known effects and a little noise that no term explains.
    fn grid() -> (Vec<f64>, [Factor; 3]) {
        let (mut gates, mut activations, mut seeds, mut values) = (vec![], vec![], vec![], vec![]);
        for gate in 0..2 {
            for activation in 0..3 {
                for seed in 0..2 {
                    let noise = 0.001 * (f64::from(gate * 6 + activation * 2 + seed) * 1.9).sin();
                    values.push(
                        2.5 - 0.05 * f64::from(gate)
                            + 0.01 * f64::from(activation)
                            + 0.02 * f64::from(seed)
                            + noise,
                    );
                    gates.push(if gate == 0 { "no" } else { "yes" });
                    activations.push(activation);
                    seeds.push(seed);
                }
            }
        }
        let factors = [
            Factor::new("gate", &gates),
            Factor::new("activation", &activations),
            Factor::new("seed", &seeds),
        ];
        (values, factors)
    }

    #[test]
    fn a_balanced_grid_adds_up() {
        let (values, factors) = grid();
        let found = decompose(&values, &factors, &[0, 1, 2].map(Term::main)).unwrap();
        assert_eq!(found.model, "value ~ gate + activation + seed");
        assert!(found.balanced && found.shared.abs() < 1e-12, "{found:?}");
        assert_eq!(found.sources.iter().map(|source| source.df).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(found.residual_df, 7);
        assert!(found.sources[0].share > 0.75 && found.residual_share < 0.01, "{found:?}");
        assert!(found.sources[0].corrected_share < found.sources[0].share);
    }

    #[test]
    fn an_interaction_is_what_main_effects_leave() {
        let (values, factors) = grid();
        let mains = [0, 1, 2].map(Term::main);
        let terms: Vec<Term> = mains.iter().cloned().chain([Term::interaction([0, 1])]).collect();
        let (without, with) =
            (decompose(&values, &factors, &mains).unwrap(), decompose(&values, &factors, &terms).unwrap());
        let interaction = &with.sources[3];
        assert_eq!((interaction.term.as_str(), interaction.df, with.residual_df), ("gate:activation", 2, 5));
        let explained = without.residual_sum_sq - with.residual_sum_sq;
        assert!((interaction.sum_sq - explained).abs() < 1e-15);
        for (a, b) in without.sources.iter().zip(&with.sources) {
            assert!((a.sum_sq - b.sum_sq).abs() < 1e-14, "type II main effects ignore the interaction");
        }
    }

    #[test]
    fn a_hole_in_the_grid_makes_it_unbalanced() {
        let (mut values, mut factors) = grid();
        values.pop();
        factors.iter_mut().for_each(|factor| {
            factor.levels.pop();
        });
        let found = decompose(&values, &factors, &[0, 1, 2].map(Term::main)).unwrap();
        assert!(!found.balanced && found.shared.abs() > 1e-6, "{found:?}");
        assert_eq!(found.residual_df, 6);
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        let factor = Factor::new("variant", &["a", "a", "b", "b"]);
        let one = [Term::main(0)];
        let decompose =
            |values: &[f64], factor: &Factor| decompose(values, std::slice::from_ref(factor), &one);
        assert_eq!(decompose(&[], &Factor::new("variant", &[] as &[u8])), Err(Refusal::Empty));
        assert_eq!(decompose(&[1.0; 4], &factor), Err(Refusal::NoSpread));
        assert_eq!(decompose(&[1.0, 2.0], &factor), Err(Refusal::UnequalLengths));
        assert_eq!(decompose(&[1.0, 1.0, 2.0, 2.0], &factor), Err(Refusal::Saturated));
        let (values, all, same) = ([1.0, 2.0, 3.0, 5.0], [0, 1, 2, 3], ["x"; 4]);
        assert_eq!(decompose(&values, &Factor::new("run", &all)), Err(Refusal::Saturated));
        assert_eq!(decompose(&values, &Factor::new("constant", &same)), Err(Refusal::Saturated));
    }
}
