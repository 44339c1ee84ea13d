//! What probes saw inside the feed-forward blocks of an arm while it was trained (`train.probe_every`).

use std::collections::BTreeMap;

use lm_train::probe::FfnFigures;

use super::logs::Logs;
use crate::compare::Arm;
use crate::plots::{Bins, LayerSparsity};

/// What was seen, over all seeds that looked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Inside<'a> {
    /// Label of the arm.
    pub of: &'a str,
    /// Shares of zeros over steps, by layer; none where there never was a zero.
    pub zeros: Vec<LayerSparsity>,
    /// Sizes of the activations at the last look, in powers of two, by layer.
    pub sizes: Vec<Bins>,
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
        let sizes =
            looks.iter().filter_map(|((_, name), steps)| sizes(name, steps.values().next_back()?)).collect();
        Some(Self { of: &arm.label, zeros, sizes })
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
    let mean = |(&step, seen): (&u64, &Vec<&FfnFigures>)| {
        (step, seen.iter().map(|ffn| ffn.zero_share).sum::<f64>() / seen.len() as f64)
    };
    LayerSparsity { layer: name.to_owned(), shares: steps.iter().map(mean).collect() }
}

/// Counts of all seeds together; `None` for a block that was zero throughout.
fn sizes(name: &str, seen: &[&FfnFigures]) -> Option<Bins> {
    let mut counts: BTreeMap<i32, u64> = BTreeMap::new();
    for &(octave, count) in seen.iter().flat_map(|ffn| &ffn.octaves) {
        *counts.entry(octave).or_default() += count;
    }
    let (&first, &last) = (counts.keys().next()?, counts.keys().next_back()?);
    Some(Bins {
        label: name.to_owned(),
        edges: (first..=last + 1).map(f64::from).collect(),
        counts: (first..=last).map(|octave| counts.get(&octave).copied().unwrap_or(0)).collect(),
    })
}
