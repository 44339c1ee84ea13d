//! One comparison: where the claim says that a difference lies, and what its interval has to say to that.

use serde::Serialize;

use super::comparison::{Comparison, Contrast, Outcome, Quantity};
use super::rule::Direction;
use crate::stats::power::USUAL_POWER;
use crate::stats::{Design, Effect, Refusal, SeedsNeeded, holm, two_one_sided_tests};

/// Where a claim says that a true difference lies. `confirm` and `refute` are differences; between them nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Claimed {
    /// Below `confirm`; shown to be above `refute`, it is refuted.
    Below {
        /// The whole interval below it confirms.
        confirm: f64,
        /// The whole interval above it refutes.
        refute: f64,
    },
    /// Above `confirm`; shown to be below `refute`, it is refuted.
    Above {
        /// The whole interval above it confirms.
        confirm: f64,
        /// The whole interval below it refutes.
        refute: f64,
    },
    /// Nearer to zero than `margin`.
    Within {
        /// Differences smaller than this are taken not to matter.
        margin: f64,
    },
}

impl Claimed {
    /// On one side of zero, by more than `threshold`; refuted by what is all smaller than `smallest`.
    pub fn beyond(direction: Direction, threshold: f64, smallest: f64) -> Self {
        match direction {
            Direction::Falls => Self::Below { confirm: -threshold, refute: -smallest },
            Direction::Rises => Self::Above { confirm: threshold, refute: smallest },
        }
    }

    /// p-value against "the claim is not true of this difference".
    fn p_for(&self, effect: &Effect, alpha: f64) -> Result<f64, Refusal> {
        match *self {
            Self::Below { confirm, .. } => Ok(p_below(effect, confirm)),
            Self::Above { confirm, .. } => Ok(p_above(effect, confirm)),
            Self::Within { margin } => Ok(two_one_sided_tests(effect, margin, alpha)?.p_value),
        }
    }

    /// p-value against "the claim is true of this difference, by as much as is of interest".
    fn p_against(&self, effect: &Effect) -> f64 {
        match *self {
            Self::Below { refute, .. } => p_above(effect, refute),
            Self::Above { refute, .. } => p_below(effect, refute),
            Self::Within { margin } => p_above(effect, margin).min(p_below(effect, -margin)),
        }
    }

    /// p-values for and against the claim by the sign test (Dixon & Mood 1946), of `n` values that are all `value`: were
    /// both sides of a bound as likely, all would lie on one of them with a probability of 2 / 2^n.
    fn p_of_constant(&self, value: f64, n: usize) -> (f64, f64) {
        let all_on_one_side = 2.0 * 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
        let p = |shown: bool| if shown { all_on_one_side.min(1.0) } else { 1.0 };
        match *self {
            Self::Below { confirm, refute } => (p(value < confirm), p(value > refute)),
            Self::Above { confirm, refute } => (p(value > confirm), p(value < refute)),
            Self::Within { margin } => (p(value.abs() < margin), p(value.abs() > margin)),
        }
    }

    /// Seeds that decide it with the usual power: where the smallest effect of interest is the true one, or, for an
    /// equivalence or a bound, where there is no difference.
    fn seeds(&self, sd: f64, alpha: f64) -> Result<SeedsNeeded, Refusal> {
        let design = Design::Paired { sd };
        match *self {
            Self::Below { confirm, refute } | Self::Above { confirm, refute } => {
                let apart = (confirm - refute).abs();
                let difference = if apart > 0.0 { apart } else { confirm.abs() };
                design.seeds_needed(difference, USUAL_POWER, alpha)
            }
            // Both one-sided tests at alpha have to reject: each with half of what may be missed.
            Self::Within { margin } => {
                design.seeds_needed(margin, 1.0 - (1.0 - USUAL_POWER) / 2.0, 2.0 * alpha)
            }
        }
    }
}

/// Two-sided p-value that the effect is `bound`, where the estimate lies below it; 1 where it does not. Below alpha exactly
/// where the whole interval at level 1 - alpha lies below `bound`.
fn p_below(effect: &Effect, bound: f64) -> f64 {
    let moved = Effect { estimate: effect.estimate - bound, ..*effect };
    if moved.estimate < 0.0 { moved.t_test().p_value } else { 1.0 }
}

fn p_above(effect: &Effect, bound: f64) -> f64 {
    p_below(&Effect { estimate: -effect.estimate, ..*effect }, -bound)
}

/// Judges the comparisons of one claim together.
///
/// # Errors
/// An alpha out of range.
pub(super) fn judge(contrasts: &[Contrast], alpha: f64) -> Result<Vec<Comparison>, Refusal> {
    let effects: Vec<Option<Effect>> = contrasts.iter().map(Contrast::effect).collect();
    let mut p_claim = Vec::new();
    let mut p_against = Vec::new();
    for (contrast, effect) in contrasts.iter().zip(&effects) {
        let Contrast { claimed, paired, .. } = contrast;
        let (p_for, against) = match effect {
            Some(effect) => (claimed.p_for(effect, alpha)?, claimed.p_against(effect)),
            None if contrast.is_constant() => claimed.p_of_constant(paired.estimate.mean, paired.estimate.n),
            // A comparison without spread still belongs to the family.
            None => (1.0, 1.0),
        };
        p_claim.push(p_for);
        p_against.push(against);
    }
    let (p_claim, p_against) = (holm(&p_claim)?.adjusted, holm(&p_against)?.adjusted);
    let family_alpha = alpha / contrasts.len().max(1) as f64;
    contrasts
        .iter()
        .zip(effects)
        .zip(p_claim.into_iter().zip(p_against))
        .map(|((contrast, effect), (p_claim, p_against))| {
            // A real effect that is all smaller than the smallest of interest satisfies both tests: it is refuted.
            let outcome = if !contrast.diverged.is_empty() {
                Outcome::Undecided
            } else if p_against < alpha {
                Outcome::Refuted
            } else if p_claim < alpha {
                Outcome::Confirmed
            } else {
                Outcome::Undecided
            };
            let estimate = &contrast.paired.estimate;
            let sd = estimate.sd.filter(|_| effect.is_some());
            let needed = sd.filter(|_| outcome == Outcome::Undecided);
            Ok(Comparison {
                label: contrast.label.clone(),
                measured: contrast.measured.clone(),
                quantity: contrast.quantity,
                unit: contrast.unit.clone(),
                n: estimate.n,
                difference: estimate.mean,
                sd: estimate.sd,
                interval: effect.map(|effect| effect.interval(1.0 - alpha)).transpose()?,
                p_claim,
                p_against,
                outcome,
                below_zero: contrast.paired.wins,
                seeds: match contrast.quantity {
                    Quantity::Difference | Quantity::Value => contrast.paired.seeds_used.clone(),
                    Quantity::Ratio => Vec::new(),
                },
                seeds_missing: contrast.paired.seeds_missing.clone(),
                refusal: match (estimate.sd, sd) {
                    (None, _) => Some(Refusal::OneValue),
                    (Some(_), None) => Some(Refusal::NoSpread),
                    (Some(_), Some(_)) => None,
                },
                by_sign_test: contrast.is_constant(),
                seeds_needed: needed.map(|sd| contrast.claimed.seeds(sd, family_alpha)).transpose()?,
            })
        })
        .collect()
}

/// A claim holds if all of its comparisons do, and fails with one.
pub(super) fn overall(comparisons: &[Comparison]) -> Outcome {
    let any = |outcome| comparisons.iter().any(|comparison| comparison.outcome == outcome);
    if any(Outcome::Refuted) {
        Outcome::Refuted
    } else if comparisons.is_empty() || any(Outcome::Undecided) {
        Outcome::Undecided
    } else {
        Outcome::Confirmed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stats::{Interval, paired_differences};

    /// A contrast whose differences have exactly this mean and this standard deviation, from `n` seeds.
    fn contrast(claimed: Claimed, mean: f64, sd: f64, n: u64) -> Contrast {
        let raw: Vec<f64> = (0..n).map(|seed| if seed % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let centre = raw.iter().sum::<f64>() / n as f64;
        let spread = (raw.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt();
        let arm: Vec<(u64, f64)> =
            (0..n).zip(&raw).map(|(seed, x)| (seed, mean + sd * (x - centre) / spread)).collect();
        let baseline: Vec<(u64, f64)> = (0..n).map(|seed| (seed, 0.0)).collect();
        let paired = paired_differences(&baseline, &arm).unwrap();
        Contrast {
            label: "a - b".to_owned(),
            measured: "held-out loss".to_owned(),
            quantity: Quantity::Difference,
            unit: "nats".to_owned(),
            counted: false,
            claimed,
            paired,
            diverged: Vec::new(),
        }
    }

    fn outcome(claimed: Claimed, mean: f64, sd: f64, n: u64) -> Outcome {
        judge(&[contrast(claimed, mean, sd, n)], 0.05).unwrap()[0].outcome
    }

    const LESS: Claimed = Claimed::Below { confirm: 0.0, refute: -0.01 };
    const AT_MOST: Claimed = Claimed::Below { confirm: 0.01, refute: 0.01 };
    const SAME: Claimed = Claimed::Within { margin: 0.01 };

    #[test]
    fn less_is_confirmed_refuted_or_undecided() {
        assert_eq!(outcome(LESS, -0.05, 0.01, 5), Outcome::Confirmed);
        assert_eq!(outcome(LESS, 0.05, 0.01, 5), Outcome::Refuted, "the other side");
        assert_eq!(outcome(LESS, 0.0, 0.001, 5), Outcome::Refuted, "nothing but effects too small");
        assert_eq!(outcome(LESS, -0.004, 0.001, 9), Outcome::Refuted, "real, but too small");
        assert_eq!(outcome(LESS, -0.02, 0.05, 5), Outcome::Undecided);
    }

    #[test]
    fn a_threshold_has_to_be_passed_by_the_whole_interval() {
        let beyond = Claimed::beyond(Direction::Falls, 0.01, 0.02);
        assert_eq!(beyond, Claimed::Below { confirm: -0.01, refute: -0.02 });
        assert_eq!(outcome(beyond, -0.05, 0.01, 5), Outcome::Confirmed);
        assert_eq!(
            outcome(beyond, -0.022, 0.01, 5),
            Outcome::Undecided,
            "below zero, not below the threshold"
        );
        let above = Claimed::beyond(Direction::Rises, 0.01, 0.02);
        assert_eq!(outcome(above, 0.05, 0.01, 5), Outcome::Confirmed);
        assert_eq!(outcome(above, -0.05, 0.01, 5), Outcome::Refuted);
    }

    #[test]
    fn bounds_and_equivalence() {
        assert_eq!(outcome(AT_MOST, 0.002, 0.002, 5), Outcome::Confirmed);
        assert_eq!(outcome(AT_MOST, 0.03, 0.002, 5), Outcome::Refuted);
        assert_eq!(outcome(AT_MOST, 0.01, 0.002, 5), Outcome::Undecided);
        assert_eq!(outcome(SAME, 0.002, 0.002, 5), Outcome::Confirmed);
        assert_eq!(outcome(SAME, -0.03, 0.002, 5), Outcome::Refuted);
        assert_eq!(
            outcome(SAME, 0.0, 0.02, 5),
            Outcome::Undecided,
            "no difference found is not sameness shown"
        );
    }

    #[test]
    fn holm_makes_a_family_stricter() {
        let close = contrast(LESS, -0.013, 0.01, 5);
        assert_eq!(judge(std::slice::from_ref(&close), 0.05).unwrap()[0].outcome, Outcome::Confirmed);
        let family = vec![close; 6];
        let judged = judge(&family, 0.05).unwrap();
        assert!(judged.iter().all(|comparison| comparison.outcome == Outcome::Undecided), "{judged:?}");
        assert!(judged[0].p_claim > 0.05);
    }

    #[test]
    fn one_seed_equal_differences_and_diverged_runs_decide_nothing() {
        let one = paired_differences(&[(0, 1.0)], &[(0, 0.5)]).unwrap();
        let one = Contrast { paired: one, ..contrast(LESS, -1.0, 0.1, 2) };
        let copies = paired_differences(&[(0, 1.0), (1, 1.0)], &[(0, 0.5), (1, 0.5)]).unwrap();
        let copies = Contrast { paired: copies, ..contrast(LESS, -1.0, 0.1, 2) };
        let diverged = Contrast { diverged: vec!["a".to_owned()], ..contrast(LESS, -1.0, 0.1, 5) };
        let judged = judge(&[one, copies, diverged], 0.05).unwrap();
        assert!(judged.iter().all(|comparison| comparison.outcome == Outcome::Undecided));
        let refusals: Vec<_> = judged.iter().map(|comparison| comparison.refusal).collect();
        assert_eq!(refusals, [Some(Refusal::OneValue), Some(Refusal::NoSpread), None]);
        assert_eq!((judged[0].interval, judged[1].seeds_needed), (None, None));
    }

    #[test]
    fn equal_counts_are_judged_by_their_number() {
        let constant = |claimed, value: f64, n: u64| {
            let (zeros, values) =
                (0..n).map(|seed| ((seed, 0.0), (seed, value))).unzip::<_, _, Vec<_>, Vec<_>>();
            let paired = paired_differences(&zeros, &values).unwrap();
            let contrast = Contrast { counted: true, paired, ..contrast(claimed, 0.0, 0.1, 2) };
            judge(&[contrast], 0.05).unwrap().remove(0)
        };
        let rare = Claimed::Below { confirm: 0.05, refute: 0.05 };
        let found = constant(rare, 0.0, 8);
        assert_eq!((found.outcome, found.p_claim, found.interval), (Outcome::Confirmed, 2.0 / 256.0, None));
        assert_eq!(found.refusal, Some(Refusal::NoSpread));
        assert_eq!(constant(rare, 0.1, 8).outcome, Outcome::Refuted, "rounding of a mean is no spread");
        assert_eq!(constant(rare, 0.0, 5).outcome, Outcome::Undecided, "2 / 2^5 is too much");
        assert_eq!(constant(rare, 0.0, 1).refusal, Some(Refusal::OneValue));
        let more = Claimed::Above { confirm: 0.0, refute: 0.01 };
        assert_eq!(constant(more, 0.02, 8).outcome, Outcome::Confirmed);
        assert_eq!(constant(more, 0.005, 8).outcome, Outcome::Refuted, "real, but too small");
    }

    #[test]
    fn the_seeds_that_are_asked_for_are_enough() {
        let judged = judge(&[contrast(LESS, -0.01, 0.02, 5)], 0.05).unwrap();
        let needed = judged[0].seeds_needed.unwrap();
        let design = Design::Paired { sd: 0.02 };
        assert!(design.power(0.01, needed.seeds.unwrap(), 0.05).unwrap() >= 0.8, "{needed:?}");
        let same = judge(&[contrast(SAME, 0.0, 0.02, 5)], 0.05).unwrap()[0].seeds_needed.unwrap();
        assert_eq!((same.difference, same.power, same.alpha), (0.01, 0.9, 0.1));
    }

    fn claimed() -> impl Strategy<Value = Claimed> {
        let sides = (0.0..0.02f64, 0.001..0.03f64, any::<bool>()).prop_map(|(threshold, more, down)| {
            let direction = if down { Direction::Falls } else { Direction::Rises };
            Claimed::beyond(direction, threshold, threshold + more)
        });
        prop_oneof![
            sides,
            (0.001..0.05f64).prop_map(|bound| Claimed::Below { confirm: bound, refute: bound }),
            (0.001..0.05f64).prop_map(|margin| Claimed::Within { margin }),
        ]
    }

    proptest! {
        #[test]
        fn the_outcome_is_what_the_interval_says(
            claimed in claimed(), mean in -0.1..0.1f64, sd in 0.001..0.1f64, n in 2..30u64,
        ) {
            let judged = judge(&[contrast(claimed, mean, sd, n)], 0.05).unwrap().remove(0);
            let Interval { low, high, .. } = judged.interval.unwrap();
            let near = |bound: f64| [low, high].iter().any(|end| (end - bound).abs() < 1e-7);
            let (confirmed, refuted, edge) = match claimed {
                Claimed::Below { confirm, refute } => (high < confirm, low > refute, near(confirm) || near(refute)),
                Claimed::Above { confirm, refute } => (low > confirm, high < refute, near(confirm) || near(refute)),
                // The interval of two one-sided tests has the level 1 - 2 alpha and is the narrower one.
                Claimed::Within { margin } => {
                    let narrow = judged.outcome == Outcome::Confirmed;
                    (narrow || (low > -margin && high < margin), low > margin || high < -margin, near(margin) || near(-margin))
                }
            };
            let expected = if refuted { Outcome::Refuted } else if confirmed { Outcome::Confirmed } else { Outcome::Undecided };
            prop_assert!(edge || judged.outcome == expected, "{judged:?}");
        }

        #[test]
        fn more_seeds_of_the_same_effect_never_take_a_verdict_back(
            claimed in claimed(), mean in -0.1..0.1f64, sd in 0.001..0.1f64, half in 1..15u64, more in 1..15u64,
        ) {
            // Even numbers of seeds, so that the differences are the same two values, as often each.
            let few = judge(&[contrast(claimed, mean, sd, 2 * half)], 0.05).unwrap().remove(0).outcome;
            let many = judge(&[contrast(claimed, mean, sd, 2 * (half + more))], 0.05).unwrap().remove(0).outcome;
            match few {
                // A real effect may turn out to be smaller than of interest.
                Outcome::Confirmed => prop_assert_ne!(many, Outcome::Undecided),
                Outcome::Refuted => prop_assert_eq!(many, Outcome::Refuted),
                Outcome::Undecided => {}
            }
        }
    }
}
