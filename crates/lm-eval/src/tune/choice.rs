//! What a search came to: the rate, and how much it matters.

use std::collections::BTreeMap;

use serde::Serialize;

use super::grid::RateGrid;
use super::search::Score;

/// The rate of an arm: of all that were trained with the full budget, the one with the lowest loss.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Its number in the grid.
    #[serde(skip)]
    pub number: i32,
    /// Peak learning rate.
    pub rate: f64,
    /// Mean held-out loss over the tuning seeds, nats per token.
    pub loss: f64,
    /// The next lower rate; `None` at the lower end of the search.
    pub lower: Option<Step>,
    /// The next higher rate; `None` at the higher end of the search.
    pub higher: Option<Step>,
    /// Other rates that are not worse by more than the margin, ascending.
    pub tied: Vec<f64>,
    /// Where a parabola through the three puts the optimum.
    pub parabola: Option<Parabola>,
    /// The ends of the search at which the rate lies; the optimum may lie beyond. Empty for a rate inside.
    pub edges: Vec<Edge>,
}

/// A neighbour of the chosen rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Its learning rate.
    pub rate: f64,
    /// Its loss minus that of the chosen rate, nats per token; `None` when it diverged.
    pub excess: Option<f64>,
}

/// A parabola in the logarithm of the rate through a rate and its neighbours; a hint, never the choice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parabola {
    /// Rate at its lowest point.
    pub rate: f64,
    /// Its value there minus the loss of the chosen rate, nats per token; at most 0.
    pub excess: f64,
}

/// An end of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Which end.
    pub side: Side,
    /// Why it goes no further.
    pub limit: Limit,
}

/// A direction along the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Towards lower rates.
    Lower,
    /// Towards higher rates.
    Higher,
}

/// Why a grid grows no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// It has grown as often as it may.
    Growth,
    /// A config may not ask for a higher rate.
    Range,
}

impl Choice {
    /// `scores` are those of the last rung; `best` is among them and did not diverge.
    pub(super) fn new(grid: &RateGrid, margin: f64, best: i32, scores: BTreeMap<i32, Score>) -> Self {
        let loss = |number: i32| scores.get(&number).and_then(|score| score.loss());
        let lowest = loss(best).unwrap_or(f64::INFINITY);
        let step = |number: i32| {
            let excess = scores.get(&number)?.loss().map(|loss| loss - lowest);
            Some(Step { rate: grid.rate(number), excess })
        };
        let (lower, higher) = (step(best - 1), step(best + 1));
        let tied =
            |number: &i32| *number != best && loss(*number).is_some_and(|loss| loss <= lowest + margin);
        let sides = [(Side::Lower, best - 1, lower), (Side::Higher, best + 1, higher)];
        let edges = sides.into_iter().filter(|(_, _, step)| step.is_none()).map(|(side, beyond, _)| {
            let limit = if grid.within_growth(beyond) { Limit::Range } else { Limit::Growth };
            Edge { side, limit }
        });
        let rate = grid.rate(best);
        let parabola = Option::zip(lower, higher).and_then(|(lower, higher)| {
            Parabola::through([(lower.rate, lower.excess?), (rate, 0.0), (higher.rate, higher.excess?)])
        });
        Self {
            number: best,
            rate,
            loss: lowest,
            lower,
            higher,
            tied: scores.keys().filter(|number| tied(number)).map(|number| grid.rate(*number)).collect(),
            parabola,
            edges: edges.collect(),
        }
    }
}

impl Parabola {
    /// Through three (rate, loss) pairs with rising rates, the middle one the lowest; `None` where they lie on a line.
    fn through(points: [(f64, f64); 3]) -> Option<Self> {
        let [(x0, y0), (x1, y1), (x2, y2)] = points.map(|(rate, loss)| (rate.log2(), loss));
        // Newton's divided differences.
        let (first, second) = ((y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1));
        let curvature = (second - first) / (x2 - x0);
        if curvature <= 0.0 {
            return None;
        }
        let x = 0.5 * (x0 + x1) - first / (2.0 * curvature);
        let value = y0 + first * (x - x0) + curvature * (x - x0) * (x - x1);
        Some(Self { rate: x.exp2(), excess: value - y1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(losses: &[(i32, f64)], best: i32) -> Choice {
        let grid = RateGrid::around(1e-3, 2.0, 5, 1, 10.0).unwrap();
        let score = |loss: f64| if loss.is_finite() { Score::Loss(loss) } else { Score::Diverged };
        Choice::new(&grid, 0.01, best, losses.iter().map(|(n, loss)| (*n, score(*loss))).collect())
    }

    #[test]
    fn neighbours_by_hand() {
        let choice = choice(&[(0, 2.505), (1, 2.53), (2, 2.5), (3, 2.52), (4, f64::NAN)], 2);
        assert_eq!((choice.rate, choice.loss, &choice.edges[..]), (1e-3, 2.5, &[][..]));
        let (lower, higher) = (choice.lower.unwrap(), choice.higher.unwrap());
        assert_eq!((lower.rate, higher.rate), (5e-4, 2e-3));
        assert!(
            (lower.excess.unwrap() - 0.03).abs() < 1e-12 && (higher.excess.unwrap() - 0.02).abs() < 1e-12
        );
        assert_eq!(choice.tied, [2.5e-4]);
    }

    #[test]
    fn a_parabola_through_a_parabola_finds_its_bottom() {
        let bottom = 1.3e-3f64;
        let loss = |rate: f64| 2.0 + 0.2 * (rate.log2() - bottom.log2()).powi(2);
        let points = [5e-4, 1e-3, 3e-3].map(|rate| (rate, loss(rate)));
        let found = Parabola::through(points).unwrap();
        assert!((found.rate / bottom - 1.0).abs() < 1e-9, "{found:?}");
        assert!((found.excess - (2.0 - loss(1e-3))).abs() < 1e-9, "{found:?}");
        assert_eq!(Parabola::through([(1.0, 3.0), (2.0, 3.0), (4.0, 3.0)]), None);
    }

    #[test]
    fn no_parabola_without_both_losses() {
        assert_eq!(choice(&[(1, 2.6), (2, 2.5), (3, f64::NAN)], 2).parabola, None);
        assert_eq!(choice(&[(1, 2.6), (2, 2.5)], 2).parabola, None);
        assert!(choice(&[(1, 2.6), (2, 2.5), (3, 2.7)], 2).parabola.unwrap().excess <= 0.0);
    }
}
