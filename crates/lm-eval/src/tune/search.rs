//! The search of one arm: what to train next, given all that is known.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::choice::Choice;
use super::grid::RateGrid;

/// What a rate came to on a rung.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Mean held-out loss over the tuning seeds, nats per token; finite.
    Loss(f64),
    /// A run of at least one seed diverged: infinitely bad.
    Diverged,
}

impl Score {
    /// The mean of the losses of all seeds; one that is missing or not finite is a run that diverged.
    pub fn of(losses: &[Option<f64>]) -> Self {
        let finite: Option<Vec<f64>> =
            losses.iter().map(|loss| loss.filter(|loss| loss.is_finite())).collect();
        match finite.and_then(|losses| crate::stats::mean(&losses)) {
            Some(mean) => Self::Loss(mean),
            None => Self::Diverged,
        }
    }

    /// The loss, unless it diverged.
    pub fn loss(self) -> Option<f64> {
        match self {
            Self::Loss(loss) => Some(loss),
            Self::Diverged => None,
        }
    }
}

/// How to search.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// The rates.
    pub grid: RateGrid,
    /// Number of rungs, the last with the full budget; at least 1.
    pub rungs: usize,
    /// One in so many rates goes on to the next rung.
    pub eta: usize,
    /// Rates whose loss is no more than this above that of the last one kept, nats per token, go on too.
    pub margin: f64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Train these rates, given by number, on this rung, counted from 0.
    Train {
        /// The rung.
        rung: usize,
        /// The rates, ascending.
        rates: Vec<i32>,
    },
    /// The search has ended.
    Chosen(Choice),
    /// Every rate diverged, down to the lowest that the search may use.
    NoRate {
        /// The rung.
        rung: usize,
        /// The rates, ascending.
        rates: Vec<i32>,
    },
}

/// Replays a search from what is known about rates on rungs.
pub fn advance(search: &Search, known: impl Fn(usize, i32) -> Option<Score>) -> Next {
    let mut wanted: BTreeSet<i32> = (0..search.grid.len()).collect();
    let last = search.rungs.saturating_sub(1);
    let mut rung = 0;
    loop {
        let (scores, best) = loop {
            let missing: Vec<i32> =
                wanted.iter().copied().filter(|&rate| known(rung, rate).is_none()).collect();
            if !missing.is_empty() {
                return Next::Train { rung, rates: missing };
            }
            let scores: BTreeMap<i32, Score> =
                wanted.iter().filter_map(|&rate| Some((rate, known(rung, rate)?))).collect();
            let best = ranked(&scores).first().map(|(rate, _)| *rate);
            let bracket = match best {
                Some(best) => vec![best - 1, best + 1],
                None => wanted.first().map(|lowest| lowest - 1).into_iter().collect(),
            };
            let before = wanted.len();
            wanted.extend(bracket.into_iter().filter(|&rate| search.grid.reaches(rate)));
            if wanted.len() == before {
                break (scores, best);
            }
        };
        let Some(best) = best else { return Next::NoRate { rung, rates: wanted.into_iter().collect() } };
        if rung == last {
            return Next::Chosen(Choice::new(&search.grid, search.margin, best, scores));
        }
        wanted = survivors(search, &scores);
        rung += 1;
    }
}

/// The rates that did not diverge with their losses, the best first; of equal ones the lower rate, which is the safer.
fn ranked(scores: &BTreeMap<i32, Score>) -> Vec<(i32, f64)> {
    let mut finite: Vec<(i32, f64)> =
        scores.iter().filter_map(|(rate, score)| Some((*rate, score.loss()?))).collect();
    finite.sort_by(|a, b| a.1.total_cmp(&b.1));
    finite
}

/// One in `eta` rates, and those that are as good but for the margin.
fn survivors(search: &Search, scores: &BTreeMap<i32, Score>) -> BTreeSet<i32> {
    let ranked = ranked(scores);
    let kept = scores.len().div_ceil(search.eta.max(2)).min(ranked.len());
    let worst = ranked[..kept].last().map_or(f64::NEG_INFINITY, |(_, loss)| loss + search.margin);
    ranked.into_iter().filter(|(_, loss)| *loss <= worst).map(|(rate, _)| rate).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::super::choice::{Edge, Limit, Side};
    use super::*;

    const HIGHEST: f64 = 10.0;

    fn search(points: usize, growth: usize, rungs: usize) -> Search {
        let grid = RateGrid::around(1e-3, 2.0, points, growth, HIGHEST).unwrap();
        Search { grid, rungs, eta: 3, margin: 0.0 }
    }

    /// Plays a search to its end against a loss that depends on rung and number; also returns all that was trained.
    fn play(search: &Search, loss: impl Fn(usize, i32) -> Option<f64>) -> (Next, Vec<(usize, Vec<i32>)>) {
        let known: RefCell<BTreeMap<(usize, i32), Score>> = RefCell::default();
        let mut trained = Vec::new();
        loop {
            match advance(search, |rung, rate| known.borrow().get(&(rung, rate)).copied()) {
                Next::Train { rung, rates } => {
                    assert!(trained.len() < 1000, "it does not end: {trained:?}");
                    for &rate in &rates {
                        let score = Score::of(&[loss(rung, rate)]);
                        assert_eq!(known.borrow_mut().insert((rung, rate), score), None, "trained twice");
                    }
                    trained.push((rung, rates));
                }
                end @ (Next::Chosen(_) | Next::NoRate { .. }) => return (end, trained),
            }
        }
    }

    fn chosen(next: Next) -> Choice {
        match next {
            Next::Chosen(choice) => choice,
            other => panic!("{other:?}"),
        }
    }

    fn valley(bottom: f64) -> impl Fn(usize, i32) -> Option<f64> {
        move |_, rate| Some(2.0 + 0.1 * (f64::from(rate) - bottom).powi(2))
    }

    #[test]
    fn an_optimum_inside_needs_no_growth_and_few_full_runs() {
        let (end, trained) = play(&search(7, 3, 3), valley(3.1));
        assert_eq!(trained, [(0, (0..7).collect()), (1, vec![2, 3, 4]), (2, vec![3]), (2, vec![2, 4])]);
        let choice = chosen(end);
        assert_eq!((choice.number, choice.rate, &choice.edges[..]), (3, 1e-3, &[][..]));
    }

    #[test]
    fn an_optimum_beyond_the_end_makes_the_grid_grow_towards_it() {
        let (end, trained) = play(&search(3, 4, 1), valley(5.0));
        assert_eq!(trained[0], (0, vec![0, 1, 2]));
        assert_eq!(trained[1..], [3, 4, 5, 6].map(|rate| (0, vec![rate])));
        assert_eq!((chosen(end.clone()).number, chosen(end).edges), (5, vec![]));
        assert_eq!(chosen(play(&search(3, 4, 1), valley(-2.0)).0).number, -2);
    }

    #[test]
    fn growth_is_bounded_and_said() {
        let choice = chosen(play(&search(3, 2, 1), |_, rate| Some(-f64::from(rate))).0);
        assert_eq!(choice.number, 4);
        assert_eq!(choice.edges, [Edge { side: Side::Higher, limit: Limit::Growth }]);
        let choice = chosen(play(&search(3, 2, 1), |_, rate| Some(f64::from(rate))).0);
        assert_eq!(choice.edges, [Edge { side: Side::Lower, limit: Limit::Growth }]);
        let grid = RateGrid::around(4.0, 2.0, 3, 9, HIGHEST).unwrap();
        let choice = chosen(play(&Search { grid, ..search(3, 9, 1) }, |_, rate| Some(-f64::from(rate))).0);
        assert_eq!(
            (choice.rate, choice.edges),
            (8.0, vec![Edge { side: Side::Higher, limit: Limit::Range }])
        );
        let alone = chosen(play(&search(1, 0, 1), |_, _| Some(2.0)).0);
        assert_eq!(alone.edges.len(), 2, "a single rate has no neighbours at all");
    }

    #[test]
    fn short_runs_that_mislead_are_overruled_by_the_full_ones() {
        // The best rate falls with the length of a run, as it does in training.
        let loss = |rung: usize, rate: i32| valley([6.0, 4.0, 1.0][rung])(rung, rate);
        let (end, trained) = play(&search(7, 3, 3), loss);
        assert_eq!((chosen(end.clone()).number, chosen(end).edges), (1, vec![]));
        let full: BTreeSet<i32> =
            trained.iter().filter(|(rung, _)| *rung == 2).flat_map(|t| t.1.clone()).collect();
        assert!(full.is_superset(&BTreeSet::from([0, 1, 2])), "{full:?}");
    }

    #[test]
    fn ties_go_on_and_do_not_decide() {
        let flat = |_: usize, rate: i32| {
            Some(if (2..5).contains(&rate) { 2.0 + 0.001 * f64::from(rate) } else { 3.0 })
        };
        let wide = Search { eta: 9, margin: 0.01, ..search(7, 0, 2) };
        let (end, trained) = play(&wide, flat);
        assert_eq!(trained[1], (1, vec![2, 3, 4]), "one of seven, and two that are as good");
        let choice = chosen(end);
        assert_eq!((choice.number, choice.tied), (2, vec![1e-3, 2e-3]));
        let strict = Search { margin: 0.0, ..wide };
        assert_eq!(play(&strict, flat).1[1], (1, vec![2]));
        let equal = chosen(play(&search(3, 0, 1), |_, _| Some(2.0)).0);
        assert_eq!(equal.number, 0, "of equal ones the lower");
    }

    #[test]
    fn diverged_runs_are_infinitely_bad() {
        assert_eq!(Score::of(&[Some(2.0), None]), Score::Diverged);
        assert_eq!(Score::of(&[Some(2.0), Some(f64::NAN)]), Score::Diverged);
        assert_eq!(Score::of(&[Some(2.0), Some(3.0)]), Score::Loss(2.5));
        assert_eq!(Score::of(&[]), Score::Diverged);
        // Better and better until it breaks.
        let cliff = |_: usize, rate: i32| (rate < 4).then(|| 3.0 - 0.1 * f64::from(rate));
        let choice = chosen(play(&search(7, 2, 3), cliff).0);
        assert_eq!((choice.number, &choice.edges[..]), (3, &[][..]), "bracketed by a rate that diverged");
        assert_eq!(choice.higher.unwrap().excess, None);
    }

    #[test]
    fn where_every_rate_diverges_lower_ones_are_tried() {
        let late = |rung: usize, rate: i32| (rung == 0 || rate < -1).then_some(2.0);
        assert_eq!(chosen(play(&search(5, 3, 2), late).0).number, -3, "only longer runs diverge");
        let (end, _) = play(&search(5, 3, 2), |_, _| None);
        assert_eq!(end, Next::NoRate { rung: 0, rates: (-3..5).collect() });
    }

    proptest! {
        #[test]
        fn every_search_ends_at_a_rate_below_its_neighbours(
            noise in prop::collection::vec(prop::option::weighted(0.8, 0.0..1.0), 3 * 20),
            points in 1usize..8, growth in 0usize..4, rungs in 1usize..4, margin in 0.0..0.3,
        ) {
            let search = Search { margin, ..search(points, growth, rungs) };
            let loss = |rung: usize, rate: i32| noise[20 * rung + (rate + 5) as usize];
            let (end, trained) = play(&search, loss);
            let last = rungs - 1;
            match end {
                Next::Chosen(choice) => {
                    let best = loss(last, choice.number).expect("what is chosen has a loss");
                    for neighbour in [choice.number - 1, choice.number + 1] {
                        if search.grid.reaches(neighbour) {
                            prop_assert!(loss(last, neighbour).is_none_or(|loss| best <= loss));
                            prop_assert!(trained.iter().any(|(rung, t)| *rung == last && t.contains(&neighbour)));
                        } else {
                            prop_assert!(!choice.edges.is_empty());
                        }
                    }
                }
                Next::NoRate { rung, rates } => {
                    prop_assert!(rates.iter().all(|&rate| loss(rung, rate).is_none()));
                    prop_assert!(!search.grid.reaches(rates[0] - 1));
                }
                Next::Train { .. } => unreachable!(),
            }
        }

        #[test]
        fn one_valley_is_found_wherever_it_can_be_reached(
            bottom in -3i32..10, points in 1usize..8, rungs in 1usize..4, shift in 0i32..3,
        ) {
            // Short runs see the valley at higher rates.
            let search = search(points, 4, rungs);
            let loss = |rung: usize, rate: i32| {
                valley(f64::from(bottom) + f64::from(shift) * (rungs - 1 - rung) as f64)(rung, rate)
            };
            let choice = chosen(play(&search, loss).0);
            let reachable = bottom.clamp(-4, search.grid.len() + 3);
            prop_assert_eq!(choice.number, reachable);
            prop_assert_eq!(choice.edges.is_empty(), search.grid.reaches(bottom - 1) && search.grid.reaches(bottom + 1));
        }

        #[test]
        fn what_is_known_beforehand_does_not_change_the_end(
            noise in prop::collection::vec(prop::option::weighted(0.9, 0.0..1.0), 3 * 20), known in 0u64..u64::MAX,
        ) {
            let search = search(5, 3, 3);
            let loss = |rung: usize, rate: i32| noise[20 * rung + (rate + 5) as usize];
            let (whole, _) = play(&search, loss);
            let scores: RefCell<BTreeMap<(usize, i32), Score>> = RefCell::default();
            for bit in (0..60).filter(|bit| known >> bit & 1 == 1) {
                let (rung, rate) = (bit / 20, (bit % 20) as i32 - 5);
                scores.borrow_mut().insert((rung, rate), Score::of(&[loss(rung, rate)]));
            }
            let again = loop {
                match advance(&search, |rung, rate| scores.borrow().get(&(rung, rate)).copied()) {
                    Next::Train { rung, rates } => for rate in rates {
                        scores.borrow_mut().insert((rung, rate), Score::of(&[loss(rung, rate)]));
                    },
                    end => break end,
                }
            };
            prop_assert_eq!(whole, again);
        }
    }
}
