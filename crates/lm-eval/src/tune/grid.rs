//! The learning rates of a search, by number, so that neighbours are known before anybody has asked for them.

use anyhow::ensure;

/// Learning rates in geometric steps, or given ones, and how far they may be continued in both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct RateGrid {
    rates: Vec<f64>,
    factor: f64,
    growth: usize,
    highest: f64,
}

/// Digits that a rate keeps, so that a config shows 0.0013 and not 0.0012599210498948732.
const DIGITS: usize = 4;

impl RateGrid {
    /// `points` rates around `centre`, each `factor` times the one before; one more above it than below where `points` is
    /// even. Rates above `highest` are left out. The grid may grow by `growth` rates at either end, by the same factor.
    ///
    /// # Errors
    /// When there is no such grid: a centre of 0, no points, a factor too close to 1.
    pub fn around(
        centre: f64,
        factor: f64,
        points: usize,
        growth: usize,
        highest: f64,
    ) -> anyhow::Result<Self> {
        ensure!(centre > 0.0, "there is no geometric grid around a learning rate of {centre}");
        ensure!(points > 0, "a grid needs at least one rate");
        let below = (points - 1) / 2;
        let rates = (0..points).map(|i| rounded(centre * factor.powi(i as i32 - below as i32)));
        Self::of(rates.filter(|rate| *rate <= highest).collect(), factor, growth, highest)
    }

    /// The given rates, in any order, which may grow by `growth` rates at either end by `factor`.
    ///
    /// # Errors
    /// When there is none, or one is not above 0.
    pub fn of(mut rates: Vec<f64>, factor: f64, growth: usize, highest: f64) -> anyhow::Result<Self> {
        ensure!(
            factor >= 1.01 && factor.is_finite(),
            "a factor of {factor} gives no grid; it must be above 1"
        );
        ensure!(!rates.is_empty(), "a grid needs at least one rate");
        if let Some(bad) = rates.iter().find(|rate| !(**rate > 0.0 && **rate <= highest)) {
            anyhow::bail!(
                "a learning rate of {bad} cannot be searched around; it must be above 0 and at most {highest}"
            );
        }
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        Ok(Self { rates, factor, growth, highest })
    }

    /// Number of rates before any growth; they are numbered from 0.
    pub fn len(&self) -> i32 {
        i32::try_from(self.rates.len()).unwrap_or(i32::MAX)
    }

    /// Never: a grid has at least one rate.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }

    /// Factor by which the grid grows.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The rate with this number, inside the grid or beyond its ends.
    pub fn rate(&self, number: i32) -> f64 {
        let last = self.len() - 1;
        let inside = self.rates[number.clamp(0, last) as usize];
        let beyond = number - number.clamp(0, last);
        if beyond == 0 { inside } else { rounded(inside * self.factor.powi(beyond)) }
    }

    /// Whether the search may use this number: within reach of the grid's ends, and no rate that is too high.
    pub fn reaches(&self, number: i32) -> bool {
        self.within_growth(number) && self.rate(number) > 0.0 && self.rate(number) <= self.highest
    }

    /// Whether this number lies inside the grid or no further beyond its ends than it may grow.
    pub fn within_growth(&self, number: i32) -> bool {
        (number - number.clamp(0, self.len() - 1)).unsigned_abs() as usize <= self.growth
    }
}

fn rounded(rate: f64) -> f64 {
    format!("{rate:.*e}", DIGITS - 1).parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_geometric_readable_and_go_on_beyond_the_ends() {
        let grid = RateGrid::around(4e-3, 2.0, 5, 2, 10.0).unwrap();
        let rates: Vec<f64> = (-2..7).map(|i| grid.rate(i)).collect();
        assert_eq!(rates, [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2]);
        assert_eq!((-3..8).filter(|&i| grid.reaches(i)).collect::<Vec<_>>(), (-2..7).collect::<Vec<_>>());
        let cubic = RateGrid::around(1e-3, 2f64.cbrt(), 3, 0, 10.0).unwrap();
        assert_eq!((0..3).map(|i| cubic.rate(i)).collect::<Vec<_>>(), [7.937e-4, 1e-3, 1.26e-3]);
        let even = RateGrid::around(1e-3, 2.0, 4, 0, 10.0).unwrap();
        assert_eq!((0..4).map(|i| even.rate(i)).collect::<Vec<_>>(), [5e-4, 1e-3, 2e-3, 4e-3]);
    }

    #[test]
    fn nothing_goes_beyond_the_highest_rate() {
        let grid = RateGrid::around(4.0, 2.0, 5, 3, 10.0).unwrap();
        assert_eq!((0..grid.len()).map(|i| grid.rate(i)).collect::<Vec<_>>(), [1.0, 2.0, 4.0, 8.0]);
        assert!(!grid.reaches(4) && grid.reaches(-3) && !grid.reaches(-4));
    }

    #[test]
    fn given_rates_are_sorted_and_taken_once() {
        let grid = RateGrid::of(vec![3e-3, 1e-3, 3e-3], 3.0, 1, 10.0).unwrap();
        let rates: Vec<f64> = (-1..3).map(|i| grid.rate(i)).collect();
        assert_eq!((grid.len(), &rates[1..]), (2, &[1e-3, 3e-3, 9e-3][..]));
        assert_eq!(rates[0], 3.333e-4);
    }

    #[test]
    fn impossible_grids_are_refused() {
        let around = |centre, factor, points| RateGrid::around(centre, factor, points, 1, 10.0).is_err();
        assert!(around(0.0, 2.0, 5) && around(f64::NAN, 2.0, 5) && around(1e-3, 2.0, 0));
        assert!(around(1e-3, 1.0, 5) && around(1e-3, 0.5, 5) && around(1e-3, f64::INFINITY, 5));
        for rates in [vec![], vec![0.0, 1e-3], vec![-1.0], vec![f64::NAN], vec![11.0]] {
            assert!(RateGrid::of(rates.clone(), 2.0, 1, 10.0).is_err(), "{rates:?}");
        }
    }
}
