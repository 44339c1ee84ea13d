//! From a rule to its comparisons: which arms are set against which, with which weights, and where the claim says that the
//! difference lies. Every rule but the decomposition is a set of weighted sums over arms, taken within a seed.

use std::collections::{BTreeMap, BTreeSet};

use super::comparison::{Contrast, Quantity};
use super::evidence::Values;
use super::judge::Claimed;
use super::metric::Metric;
use super::rule::{Direction, Over, Rule, Shares, Sides};
use crate::stats::{Factor, PairedDifference, Refusal, Term, decompose, mean, paired_differences};

/// A weighted sum over arms.
struct Sum {
    label: String,
    claimed: Claimed,
    weights: Vec<(String, f64)>,
}

/// What a rule measures, of which arms.
struct Measured<'a> {
    metric: Metric,
    unit: String,
    values: &'a Values,
    diverged: &'a BTreeSet<&'a str>,
}

/// The comparisons of one rule in `values` of its metric; `diverged` names arms with runs that did. Empty for rules that no
/// runs decide, and for several rules: ask for those of each part.
///
/// # Errors
/// A comparison whose arms have no seed in common: its label.
pub(super) fn contrasts(
    rule: &Rule,
    values: &Values,
    diverged: &BTreeSet<&str>,
) -> Result<Vec<Contrast>, String> {
    let Some(metric) = rule.metric() else { return Ok(Vec::new()) };
    let measured = Measured { metric, unit: rule.unit(), values, diverged };
    let sums = match rule {
        Rule::Less(sides) => of_sides(sides, Direction::Falls),
        Rule::Greater(sides) => of_sides(sides, Direction::Rises),
        Rule::AtMost(rule) => {
            let claimed = Claimed::Below { confirm: rule.bound, refute: rule.bound };
            each(&rule.arms, &rule.than, claimed)
        }
        Rule::Equivalent(rule) => each(&rule.arms, &rule.than, Claimed::Within { margin: rule.margin }),
        Rule::Monotone(rule) => {
            let claimed = Claimed::beyond(rule.direction, 0.0, rule.smallest_effect);
            let steps = rule.order.iter().zip(&rule.order[1..]);
            steps.map(|(from, to)| difference(to, from, claimed)).collect()
        }
        Rule::Interaction(rule) => {
            let claimed = Claimed::beyond(Direction::Rises, 0.0, rule.smallest_effect);
            let [c, d] = &rule.against;
            let sum = |[a, b]: &[String; 2]| Sum {
                label: format!("({a} - {b}) - ({c} - {d})"),
                claimed,
                weights: [(a, 1.0), (b, -1.0), (c, -1.0), (d, 1.0)].map(|(arm, w)| (arm.clone(), w)).into(),
            };
            rule.pairs.iter().map(sum).collect()
        }
        Rule::Trend(rule) => {
            let xs: Vec<f64> = rule.points.iter().map(|point| point.x).collect();
            let centre = mean(&xs).unwrap_or(0.0);
            let spread: f64 = xs.iter().map(|x| (x - centre).powi(2)).sum();
            let weights = rule.points.iter().flat_map(|point| {
                let weight = (point.x - centre) / spread;
                let minus = point.minus.iter().map(move |arm| (arm.clone(), -weight));
                [(point.arm.clone(), weight)].into_iter().chain(minus)
            });
            vec![Sum {
                label: format!("slope over {}", rule.along),
                claimed: Claimed::beyond(rule.direction, 0.0, rule.smallest_effect),
                weights: weights.collect(),
            }]
        }
        Rule::Value(rule) => {
            let side = if rule.below.is_some() { "below" } else { "above" };
            let bound = rule.below.or(rule.above).unwrap_or_default();
            let label = format!("{} {side} {bound}", rule.arm);
            let weights = vec![(rule.arm.clone(), 1.0)];
            rule.claimed().map(|claimed| Sum { label, claimed, weights }).into_iter().collect()
        }
        Rule::Decomposition(rule) => return Ok(vec![of_shares(rule, &measured)?]),
        Rule::Exact(_) | Rule::ActivationCost(_) | Rule::All(_) | Rule::NotYetTestable(_) => Vec::new(),
    };
    sums.into_iter().map(|sum| sum.take(&measured)).collect()
}

fn of_sides(sides: &Sides, direction: Direction) -> Vec<Sum> {
    let claimed = Claimed::beyond(direction, sides.threshold, sides.smallest_effect);
    match sides.over {
        Over::Each => each(&sides.arms, &sides.than, claimed),
        Over::Mean => {
            let share = |arms: &[String], sign: f64| -> Vec<(String, f64)> {
                arms.iter().map(|arm| (arm.clone(), sign / arms.len() as f64)).collect()
            };
            let label = format!("mean of {} - mean of {}", sides.arms.join(", "), sides.than.join(", "));
            vec![Sum {
                label,
                claimed,
                weights: [share(&sides.arms, 1.0), share(&sides.than, -1.0)].concat(),
            }]
        }
    }
}

fn each(arms: &[String], than: &[String], claimed: Claimed) -> Vec<Sum> {
    arms.iter().flat_map(|arm| than.iter().map(move |other| difference(arm, other, claimed))).collect()
}

fn difference(arm: &str, other: &str, claimed: Claimed) -> Sum {
    let weights = vec![(arm.to_owned(), 1.0), (other.to_owned(), -1.0)];
    Sum { label: format!("{arm} - {other}"), claimed, weights }
}

impl Sum {
    fn take(self, measured: &Measured<'_>) -> Result<Contrast, String> {
        let side = |sign: f64| {
            let arms = self.weights.iter().filter(|(_, weight)| weight * sign > 0.0);
            let mut sums: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
            let mut count = 0;
            for (arm, weight) in arms {
                count += 1;
                for (seed, value) in measured.values.get(arm).into_iter().flatten() {
                    let (sum, seen) = sums.entry(*seed).or_default();
                    *sum += weight.abs() * value;
                    *seen += 1;
                }
            }
            let whole = sums.iter().filter(|(_, (_, seen))| *seen == count);
            whole.map(|(seed, (sum, _))| (*seed, *sum)).collect::<Vec<_>>()
        };
        let (mut minus, plus) = (side(-1.0), side(1.0));
        let difference = self.weights.iter().any(|(_, weight)| *weight < 0.0);
        if !difference {
            minus = plus.iter().map(|(seed, _)| (*seed, 0.0)).collect();
        }
        let paired = paired_differences(&minus, &plus).ok_or_else(|| {
            if difference { no_common_seed(&self.label) } else { format!("{}: no run has it", self.label) }
        })?;
        let names = self.weights.iter().filter(|(_, weight)| *weight != 0.0).map(|(arm, _)| arm.as_str());
        let diverged = names.filter(|arm| measured.diverged.contains(arm)).map(str::to_owned).collect();
        let quantity = if difference { Quantity::Difference } else { Quantity::Value };
        Ok(measured.contrast(self.label, quantity, self.claimed, paired, diverged))
    }
}

impl Measured<'_> {
    fn contrast(
        &self,
        label: String,
        quantity: Quantity,
        claimed: Claimed,
        paired: PairedDifference,
        diverged: Vec<String>,
    ) -> Contrast {
        let (measured, unit) = (self.metric.name().to_owned(), self.unit.clone());
        let counted = self.metric.is_counted();
        Contrast { label, measured, quantity, unit, counted, claimed, paired, diverged }
    }
}

fn no_common_seed(label: &str) -> String {
    format!("{label}: its arms have no finished seed in common")
}

/// Share of the variance of one factor minus that of the other, within each seed's grid.
fn of_shares(rule: &Shares, measured: &Measured<'_>) -> Result<Contrast, String> {
    let values = measured.values;
    let label = format!("share of {} - share of {}", rule.larger, rule.smaller);
    let seeds: BTreeSet<u64> =
        rule.levels.keys().filter_map(|arm| values.get(arm)).flatten().map(|(seed, _)| *seed).collect();
    let mut shares = Vec::new();
    let mut refused = None;
    for seed in seeds {
        let grid: Vec<(&String, f64)> =
            rule.levels.keys().filter_map(|arm| Some((arm, at(values, arm, seed)?))).collect();
        if grid.len() < rule.levels.len() {
            continue;
        }
        match of_grid(rule, &grid) {
            Ok([larger, smaller]) => shares.push((seed, larger, smaller)),
            Err(refusal) => refused = Some(refusal),
        }
    }
    if let Some(refusal) = refused {
        return Err(format!("{label}: {refusal}"));
    }
    let column = |of: fn(&(u64, f64, f64)) -> f64| -> Vec<(u64, f64)> {
        shares.iter().map(|row| (row.0, of(row))).collect()
    };
    let paired: Option<PairedDifference> = paired_differences(&column(|row| row.2), &column(|row| row.1));
    let paired = paired.ok_or_else(|| no_common_seed(&label))?;
    let claimed = Claimed::beyond(Direction::Rises, 0.0, rule.smallest_effect);
    let diverged = rule.levels.keys().filter(|arm| measured.diverged.contains(arm.as_str())).cloned();
    Ok(measured.contrast(label, Quantity::Difference, claimed, paired, diverged.collect()))
}

/// Shares of both factors in one grid.
fn of_grid(rule: &Shares, grid: &[(&String, f64)]) -> Result<[f64; 2], Refusal> {
    let values: Vec<f64> = grid.iter().map(|(_, value)| *value).collect();
    let factor = |name: &str| {
        let levels: Vec<&str> = grid.iter().map(|(arm, _)| rule.levels[*arm][name].as_str()).collect();
        Factor::new(name, &levels)
    };
    let factors = [factor(&rule.larger), factor(&rule.smaller)];
    let found = decompose(&values, &factors, &[Term::main(0), Term::main(1)])?;
    Ok([found.sources[0].share, found.sources[1].share])
}

fn at(values: &Values, arm: &str, seed: u64) -> Option<f64> {
    values.get(arm)?.iter().find(|(s, _)| *s == seed).map(|(_, value)| *value)
}
