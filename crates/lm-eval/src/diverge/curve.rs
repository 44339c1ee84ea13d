//! The gap between two loss curves: step by step, smoothed, at the end, and from where on it stays.

use serde::Serialize;

use crate::stats::mean;

/// Training losses of both runs at a step that both have, nats per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GapPoint {
    /// Steps taken, this one included.
    pub step: u64,
    /// Loss of run A.
    pub loss_a: f64,
    /// Loss of run B.
    pub loss_b: f64,
    /// loss_b - loss_a.
    pub gap: f64,
    /// The gap up to here, smoothed by [`smoothed`].
    pub smoothed: f64,
}

/// The gap at every step that both have; `a` and `b` are (step, loss) with ascending steps.
pub fn gap_curve(a: &[(u64, f64)], b: &[(u64, f64)], half_life: f64) -> Vec<GapPoint> {
    let mut rest = b.iter().peekable();
    let mut pairs = Vec::with_capacity(a.len().min(b.len()));
    for &(step, loss_a) in a {
        while rest.next_if(|(other, _)| *other < step).is_some() {}
        if let Some(&(_, loss_b)) = rest.next_if(|(other, _)| *other == step) {
            pairs.push((step, loss_a, loss_b));
        }
    }
    let gaps: Vec<(u64, f64)> = pairs.iter().map(|&(step, a, b)| (step, b - a)).collect();
    let point = |((step, loss_a, loss_b), smoothed)| GapPoint {
        step,
        loss_a,
        loss_b,
        gap: loss_b - loss_a,
        smoothed,
    };
    pairs.into_iter().zip(smoothed(&gaps, half_life)).map(point).collect()
}

/// Exponential moving average of (step, value) with bias correction.
///
/// At step t every earlier value has weight 2^(-(t - its step) / half_life), and the weights are divided by
/// their sum. So the first smoothed value is the first value rather than something pulled towards zero (the
/// correction of Adam, Kingma & Ba 2015, section 3), and a step that is missing ages what came before without
/// counting as zero.
pub fn smoothed(values: &[(u64, f64)], half_life: f64) -> Vec<f64> {
    let (mut sum, mut weight, mut last) = (0.0, 0.0, None);
    let mut average = |&(step, value): &(u64, f64)| {
        let age = last.map_or(0, |last| step - last) as f64;
        let keep = (-age / half_life).exp2();
        (sum, weight, last) = (sum * keep + value, weight * keep + 1.0, Some(step));
        sum / weight
    };
    values.iter().map(&mut average).collect()
}

/// Mean losses over the end of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tail {
    /// Steps averaged over.
    pub steps: usize,
    /// Mean loss of run A, nats per token.
    pub loss_a: f64,
    /// Mean loss of run B.
    pub loss_b: f64,
    /// Mean of the gaps, B - A.
    pub gap: f64,
}

/// Means over the last tenth of the steps, rounded up; `None` for an empty curve.
pub fn tail(curve: &[GapPoint]) -> Option<Tail> {
    let last = &curve[curve.len() - curve.len().div_ceil(10)..];
    let mean_of = |value: fn(&GapPoint) -> f64| mean(&last.iter().map(value).collect::<Vec<_>>());
    Some(Tail {
        steps: last.len(),
        loss_a: mean_of(|p| p.loss_a)?,
        loss_b: mean_of(|p| p.loss_b)?,
        gap: mean_of(|p| p.gap)?,
    })
}

/// The first step from which the smoothed gap stays more than `threshold` away from zero, on one side, until
/// the end; `None` when it ends within the threshold. An excursion that comes back is no divergence.
pub fn onset(curve: &[GapPoint], threshold: f64) -> Option<u64> {
    let side = curve.last()?.smoothed.signum();
    curve.iter().rev().take_while(|point| point.smoothed * side > threshold).last().map(|point| point.step)
}

/// The point whose smoothed gap is farthest from zero, the first of equals.
pub fn widest(curve: &[GapPoint]) -> Option<GapPoint> {
    let wider = |best: GapPoint, point: GapPoint| {
        if point.smoothed.abs() > best.smoothed.abs() { point } else { best }
    };
    curve.iter().copied().reduce(wider)
}

/// The curve as CSV (RFC 4180, with line feeds): step, loss_a, loss_b, gap, smoothed, at full precision.
pub fn csv(curve: &[GapPoint]) -> String {
    let mut text = "step,loss_a,loss_b,gap,smoothed\n".to_owned();
    for GapPoint { step, loss_a, loss_b, gap, smoothed } in curve {
        text += &format!("{step},{loss_a},{loss_b},{gap},{smoothed}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A curve of given smoothed gaps at steps 1, 2, ...
    fn curve(smoothed: &[f64]) -> Vec<GapPoint> {
        let point = |(i, &smoothed): (usize, &f64)| GapPoint {
            step: i as u64 + 1,
            loss_a: 2.0,
            loss_b: 2.0 + i as f64,
            gap: i as f64,
            smoothed,
        };
        smoothed.iter().enumerate().map(point).collect()
    }

    #[test]
    fn gaps_are_taken_at_the_steps_that_both_have() {
        let a = [(1, 3.0), (2, 2.5), (4, 2.0), (5, 1.75)];
        let b = [(2, 2.75), (3, 9.0), (4, 2.0), (6, 9.0)];
        let curve = gap_curve(&a, &b, 2.0);
        let found: Vec<_> = curve.iter().map(|p| (p.step, p.loss_a, p.loss_b, p.gap)).collect();
        assert_eq!(found, [(2, 2.5, 2.75, 0.25), (4, 2.0, 2.0, 0.0)]);
        // Two steps are one half-life: (0.25 / 2 + 0) / (1 / 2 + 1).
        assert!((curve[1].smoothed - 0.125 / 1.5).abs() < 1e-15);
        assert!(gap_curve(&a, &[(9, 1.0)], 2.0).is_empty());
    }

    #[test]
    fn smoothing_by_hand() {
        // Half-life 1: weights 1, 1/2, 1/4 of the steps 0, 1, 2 back.
        let smooth = smoothed(&[(1, 1.0), (2, 0.0), (3, 0.0)], 1.0);
        for (found, expected) in smooth.iter().zip([1.0, 0.5 / 1.5, 0.25 / 1.75]) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        // A missing step ages what came before it.
        assert!((smoothed(&[(1, 1.0), (3, 0.0)], 1.0)[1] - 0.25 / 1.25).abs() < 1e-15);
    }

    #[test]
    fn the_tail_is_a_tenth_rounded_up() {
        let eleven = tail(&curve(&[0.0; 11])).unwrap();
        assert_eq!(eleven, Tail { steps: 2, loss_a: 2.0, loss_b: 11.5, gap: 9.5 });
        assert_eq!(tail(&curve(&[0.0])).unwrap().steps, 1);
        assert_eq!(tail(&[]), None);
    }

    #[test]
    fn divergence_begins_where_the_gap_stays() {
        let cases: [(&[f64], Option<u64>); 8] = [
            (&[0.0, 0.1, 0.0, 0.1, 0.2], Some(4)),
            (&[0.0, 0.1, 0.2, 0.05], None),
            (&[0.1, 0.1], Some(1)),
            (&[0.1, -0.1, -0.1], Some(2)),
            (&[0.0, -0.051], Some(2)),
            (&[0.0, 0.05], None),
            (&[0.0, 0.0], None),
            (&[], None),
        ];
        for (gaps, step) in cases {
            assert_eq!(onset(&curve(gaps), 0.05), step, "{gaps:?}");
        }
    }

    #[test]
    fn the_widest_gap_may_be_negative() {
        assert_eq!(widest(&curve(&[0.1, -0.3, 0.3])).unwrap().step, 2);
        assert_eq!(widest(&[]), None);
    }

    #[test]
    fn csv_holds_every_digit() {
        let text = csv(&gap_curve(&[(7, 0.1)], &[(7, 0.3)], 5.0));
        assert_eq!(
            text,
            "step,loss_a,loss_b,gap,smoothed\n7,0.1,0.3,0.19999999999999998,0.19999999999999998\n"
        );
    }

    proptest! {
        #[test]
        fn smoothing_stays_between_the_extremes_and_keeps_a_constant(
            values in prop::collection::vec(-10.0..10.0f64, 1..60), half_life in 0.5..100.0f64,
        ) {
            let steps: Vec<(u64, f64)> = values.iter().enumerate().map(|(i, v)| (3 * i as u64, *v)).collect();
            let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            for value in smoothed(&steps, half_life) {
                prop_assert!((low - 1e-12..=high + 1e-12).contains(&value), "{value} outside {low}..{high}");
            }
            let constant: Vec<(u64, f64)> = steps.iter().map(|(step, _)| (*step, values[0])).collect();
            for value in smoothed(&constant, half_life) {
                prop_assert!((value - values[0]).abs() < 1e-12);
            }
        }
    }
}
