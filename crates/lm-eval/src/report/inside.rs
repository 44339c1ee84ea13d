//! What probes saw inside the feed-forward blocks of an arm while it was trained (`train.probe_every`).

use std::collections::BTreeMap;

use lm_train::probe::FfnFigures;

use super::logs::Logs;
use crate::compare::Arm;
use crate::plots::{Bins, LayerSparsity, SignedOctaves};

/// What was seen, over all seeds that looked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Inside<'a> {
    /// Label of the arm.
    pub of: &'a str,
    /// Shares of zeros over steps, by layer; none where there never was a zero.
    pub zeros: Vec<LayerSparsity>,
    /// The activations at the last look, in powers of two.
    pub values: Values,
}

/// Hidden activations, by layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    /// With their signs.
    Signed(Vec<SignedOctaves>),
    /// Sizes alone: what versions of ffnlab that did not count signs have left.
    Sizes(Vec<Bins>),
}

/// By layer, then by step: the figures of every seed.
type Looks<'a> = BTreeMap<(usize, String), BTreeMap<u64, Vec<&'a FfnFigures>>>;

impl<'a> Inside<'a> {
    /// What the runs of an arm saw; `None` where none of them looked.
    pub fn of(logs: &Logs<'_>, arm: &'a Arm) -> Option<Self> {
        let mut looks = Looks::new();
        for (step, ffn) in logs.of(&arm.label).flat_map(|(_, log)| &log.probes) {
            looks.entry(layer(&ffn.layer)).or_default().entry(*step).or_default().push(ffn);
        }
        if looks.is_empty() {
            return None;
        }
        let mut zeros: Vec<LayerSparsity> =
            looks.iter().map(|((_, name), steps)| zero_shares(name, steps)).collect();
        if zeros.iter().flat_map(|layer| &layer.shares).all(|(_, share)| *share == 0.0) {
            zeros.clear();
        }
        let last = || looks.iter().filter_map(|((_, name), steps)| Some((name, steps.values().next_back()?)));
        let signed: Option<Vec<SignedOctaves>> = last().map(|(name, seen)| signed(name, seen)).collect();
        let values = match signed {
            Some(signed) => Values::Signed(signed),
            None => Values::Sizes(last().filter_map(|(name, seen)| sizes(name, seen)).collect()),
        };
        Some(Self { of: &arm.label, zeros, values })
    }
}

/// (0, `layer 0`) for `model.layers.0.mlp`: what to sort by, and what to call it.
fn layer(name: &str) -> (usize, String) {
    let number = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
    match number.and_then(|number| number.parse().ok()) {
        Some(number) => (number, format!("layer {number}")),
        None => (usize::MAX, name.to_owned()),
    }
}

/// Means over seeds.
fn zero_shares(name: &str, steps: &BTreeMap<u64, Vec<&FfnFigures>>) -> LayerSparsity {
    let mean = |(&step, seen): (&u64, &Vec<&FfnFigures>)| (step, mean_zero_share(seen));
    LayerSparsity { layer: name.to_owned(), shares: steps.iter().map(mean).collect() }
}

/// Counts of all seeds together, by sign; `None` if one of them does not know signs.
fn signed(name: &str, seen: &[&FfnFigures]) -> Option<SignedOctaves> {
    let known: Option<Vec<_>> = seen.iter().map(|ffn| ffn.negative_octaves.as_ref()).collect();
    let (mut negative, mut positive) = (Counts::new(), counts(seen));
    for &(octave, count) in known?.into_iter().flatten() {
        *negative.entry(octave).or_default() += count;
        let all = positive.entry(octave).or_default();
        *all = all.saturating_sub(count);
    }
    let occupied = |counts: Counts| counts.into_iter().filter(|(_, count)| *count > 0).collect();
    Some(SignedOctaves {
        label: name.to_owned(),
        zero_share: mean_zero_share(seen),
        negative: occupied(negative),
        positive: occupied(positive),
    })
}

/// Counts of all seeds together; `None` for a block that was zero throughout.
fn sizes(name: &str, seen: &[&FfnFigures]) -> Option<Bins> {
    let counts = counts(seen);
    let (&first, &last) = (counts.keys().next()?, counts.keys().next_back()?);
    Some(Bins {
        label: name.to_owned(),
        edges: (first..=last + 1).map(f64::from).collect(),
        counts: (first..=last).map(|octave| counts.get(&octave).copied().unwrap_or(0)).collect(),
    })
}

/// Activations by octave.
type Counts = BTreeMap<i32, u64>;

fn counts(seen: &[&FfnFigures]) -> Counts {
    let mut counts = Counts::new();
    for &(octave, count) in seen.iter().flat_map(|ffn| &ffn.octaves) {
        *counts.entry(octave).or_default() += count;
    }
    counts
}

/// Every seed looks at the same number of tokens, so shares have one weight.
fn mean_zero_share(seen: &[&FfnFigures]) -> f64 {
    seen.iter().map(|ffn| ffn.zero_share).sum::<f64>() / seen.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::figures;
    use super::*;

    #[test]
    fn seeds_are_added_up_by_sign() {
        let figures = |negative| FfnFigures { negative_octaves: Some(negative), ..figures(0, 0.5) };
        // Each has 5 activations in octave -3, 40 in -1 and 20 in 0.
        let (one, other) = (figures(vec![(-3, 5), (-1, 10)]), figures(vec![(-3, 5)]));
        let found = signed("layer 0", &[&one, &other]).unwrap();
        assert_eq!((found.negative, found.positive), (vec![(-3, 10), (-1, 10)], vec![(-1, 70), (0, 40)]));
        assert_eq!(found.zero_share, 0.5);
    }

    #[test]
    fn one_seed_without_signs_leaves_sizes_alone() {
        let (with, without) = (figures(0, 0.5), FfnFigures { negative_octaves: None, ..figures(0, 0.5) });
        assert_eq!(signed("layer 0", &[&with, &without]), None);
        assert_eq!(sizes("layer 0", &[&with, &without]).unwrap().counts, [10, 0, 80, 40]);
    }
}
