//! Activation functions by their f64 definitions: roots by bisection, minima by golden section, both from a grid fine enough
//! to find every bracket of functions as smooth as these.

use ffn_variants::Activation;

use super::{Bound, Check, Reach};

/// Points of a grid per unit of x.
const PER_UNIT: f64 = 1000.0;

/// x at which Swish's slope changes its sign, and how negative it gets.
pub(super) fn swish_slope(range: &Reach) -> Vec<Check> {
    let slope = |x: f64| Activation::Silu.derivative_f64(x);
    let grid = grid(range.reach);
    let mut checks = Vec::new();
    for pair in grid.windows(2).filter(|pair| (slope(pair[0]) < 0.0) != (slope(pair[1]) < 0.0)) {
        let (low, high) = bisect(slope, pair[0], pair[1]);
        checks.push(
            Check::shows("x at which the derivative changes its sign", f64::midpoint(low, high))
                .between(low, high, 1.0),
        );
    }
    let (x, least, low, high) = minimum(slope, &grid);
    checks.push(Check::shows("x at which the derivative is least", x).between(low, high, 1.0));
    checks.push(Check::asks("least derivative of Swish", least, "above 0".to_owned(), least > 0.0));
    let negative = grid.iter().filter(|&&x| slope(x) < 0.0).count() as f64 / grid.len() as f64;
    checks.push(Check::shows(format!("share of [-{0}, {0}] where it is negative", range.reach), negative));
    checks
}

/// The least value of Mish.
pub(super) fn mish_minimum(bound: &Bound) -> Vec<Check> {
    let mish = |x: f64| Activation::Mish.value_f64(x);
    let (x, least, low, high) = minimum(mish, &grid(bound.reach));
    let asked = format!("{} ± {}", bound.claimed, bound.tolerance);
    let holds = (least - bound.claimed).abs() <= bound.tolerance;
    vec![
        Check::asks("least value of Mish", least, asked, holds),
        Check::shows("x at which it is taken", x).between(low, high, 1.0),
    ]
}

fn grid(reach: f64) -> Vec<f64> {
    let half = (reach * PER_UNIT).round() as i64;
    (-half..=half).map(|i| i as f64 / PER_UNIT).collect()
}

/// Narrows [low, high], at whose ends `f` has different signs, to neighbouring numbers.
fn bisect(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> (f64, f64) {
    let below = f(low) < 0.0;
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return (low, high);
        }
        if (f(middle) < 0.0) == below { low = middle } else { high = middle }
    }
}

/// The least value of `f` on a grid, refined between its neighbours: x, f(x) and the bracket of x.
fn minimum(f: impl Fn(f64) -> f64, grid: &[f64]) -> (f64, f64, f64, f64) {
    let at = (0..grid.len()).min_by(|&a, &b| f(grid[a]).total_cmp(&f(grid[b]))).unwrap_or(0);
    let (mut low, mut high) = (grid[at.saturating_sub(1)], grid[(at + 1).min(grid.len() - 1)]);
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    // Near a minimum f is flat: x is known to about the root of f's rounding error.
    while high - low > 1e-8 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if f(a) < f(b) { high = b } else { low = a }
    }
    let x = f64::midpoint(low, high);
    (x, f(x), low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_and_minima_of_known_functions() {
        let (low, high) = bisect(|x| x * x - 2.0, 0.0, 2.0);
        assert!(low <= 2f64.sqrt() && 2f64.sqrt() <= high && high - low < 1e-15);
        let (low, _) = bisect(|x| -x, -1.0, 2.0);
        assert!(low.abs() < 1e-300 || low == 0.0 || low.abs() < 1e-15);
        let (x, least, low, high) = minimum(|x| (x - 0.3337).powi(2) - 5.0, &grid(2.0));
        assert!((x - 0.3337).abs() < 1e-7 && (least + 5.0).abs() < 1e-12 && low < high);
        let (x, ..) = minimum(|x| x, &grid(2.0));
        assert!((x + 2.0).abs() < 1e-6, "at the end of the range: {x}");
    }

    #[test]
    fn swish_falls_below_minus_1_278() {
        let checks = swish_slope(&Reach { reach: 20.0 });
        let root = checks[0].value;
        assert!((root + 1.278_464_5).abs() < 1e-6, "{checks:?}");
        let least = checks.iter().find(|check| !check.asked.is_empty()).unwrap();
        assert!(!least.holds && (least.value + 0.099_8).abs() < 1e-3, "{least:?}");
    }

    #[test]
    fn mish_has_its_known_minimum() {
        let checks = mish_minimum(&Bound { claimed: -0.31, tolerance: 0.005, reach: 40.0 });
        assert!(checks[0].holds && (checks[0].value + 0.308_8).abs() < 5e-5, "{checks:?}");
        assert!((checks[1].value + 1.192_5).abs() < 1e-3, "{checks:?}");
        assert!(!mish_minimum(&Bound { claimed: -0.5, tolerance: 0.005, reach: 40.0 })[0].holds);
    }
}
