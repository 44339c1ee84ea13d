//! The step budgets of successive halving.

use serde::Serialize;

/// One rung: how long its runs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rung {
    /// Optimizer steps of a run.
    pub steps: u64,
    /// Warm-up steps, the same share of the run as in the full one.
    pub warmup_steps: u64,
}

/// At most `count` rungs up to `total` steps, each `eta` times as long as the one before; the last has exactly the full
/// budget and warm-up. Rungs that would be equally long are one.
pub fn rungs(total: u64, warmup: u64, eta: u64, count: usize) -> Vec<Rung> {
    let mut rungs: Vec<Rung> = Vec::with_capacity(count);
    for below_top in (0..count.max(1) as u32).rev() {
        let divisor = eta.max(2).saturating_pow(below_top);
        let steps = (total as f64 / divisor as f64).round().max(1.0) as u64;
        let share = (warmup as f64 * steps as f64 / total.max(1) as f64).round() as u64;
        // A warm-up, however short, is another thing than none.
        let rung = match below_top {
            0 => Rung { steps: total, warmup_steps: warmup },
            1.. => Rung { steps, warmup_steps: share.max(u64::from(warmup > 0)) },
        };
        if rungs.last().is_some_and(|last| last.steps >= rung.steps) {
            rungs.pop();
        }
        rungs.push(rung);
    }
    rungs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn budgets_by_hand() {
        let of = |total, warmup, eta, count| {
            let rungs = rungs(total, warmup, eta, count);
            rungs.iter().map(|rung| (rung.steps, rung.warmup_steps)).collect::<Vec<_>>()
        };
        assert_eq!(of(800, 50, 3, 3), [(89, 6), (267, 17), (800, 50)]);
        assert_eq!(of(800, 50, 4, 1), [(800, 50)]);
        assert_eq!(of(24, 0, 3, 3), [(3, 0), (8, 0), (24, 0)]);
        assert_eq!(of(3, 1, 3, 3), [(1, 1), (3, 1)], "the two shortest are one");
        assert_eq!(of(1, 100, 3, 3), [(1, 100)]);
    }

    proptest! {
        #[test]
        fn rungs_grow_to_the_full_budget(
            total in 1u64..1_000_000, warmup in 0u64..10_000, eta in 2u64..10, count in 1usize..6
        ) {
            let rungs = rungs(total, warmup, eta, count);
            prop_assert_eq!(rungs[rungs.len() - 1], Rung { steps: total, warmup_steps: warmup });
            prop_assert!(rungs.len() <= count && rungs[0].steps >= 1);
            prop_assert!(rungs.windows(2).all(|pair| pair[0].steps < pair[1].steps));
            prop_assert!(rungs.iter().all(|rung| (rung.warmup_steps == 0) == (warmup == 0)));
        }
    }
}
