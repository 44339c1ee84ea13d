//! Plots of what hidden units do, by arm.

use super::figures::Figure;
use super::inside::{Inside, Values};
use super::logs::Logs;
use crate::compare::Comparison;
use crate::plots::{Octaves, SignedOctaves, Svg, histogram, signed_histogram, sparsity};

/// Whatever the runs of each arm have seen.
pub(super) fn all(comparison: &Comparison, logs: &Logs<'_>) -> Vec<Figure> {
    let looked = |(i, arm)| Some((i, Inside::of(logs, arm)?));
    let all: Vec<(usize, Inside<'_>)> = comparison.arms.iter().enumerate().filter_map(looked).collect();
    let octaves = Octaves::of(all.iter().flat_map(|(_, inside)| inside.signed()));
    all.iter().flat_map(|(i, inside)| of_arm(*i, inside, octaves)).collect()
}

impl Inside<'_> {
    fn signed(&self) -> &[SignedOctaves] {
        match &self.values {
            Values::Signed(layers) => layers,
            Values::Sizes(_) => &[],
        }
    }
}

fn of_arm(index: usize, inside: &Inside<'_>, octaves: Option<Octaves>) -> Vec<Figure> {
    let figure = |name: &str, what: &str, caption: &str, draw: &dyn Fn(&str, &str) -> Option<Svg>| {
        let (id, title) = (format!("{name}-{index}"), format!("{}: {what}", inside.of));
        let svg = draw(&id, &format!("{title}. {caption}"))?;
        Some(Figure { id, title, caption: caption.to_owned(), svg })
    };
    let sparse = figure(
        "sparsity",
        "hidden units at zero",
        "Share of hidden activations that are exactly zero on the same held-out tokens, by layer; mean over seeds",
        &|id, alt| sparsity(id, alt, &inside.zeros),
    );
    let values = match &inside.values {
        Values::Signed(layers) => figure(
            "activations",
            "hidden activations",
            "Hidden activations at the last look by sign and size, by layer, all seeds together: negative to the left, positive \
             to the right, exact zeros as bars in the middle; the bars beside them hold all that is smaller. The horizontal axis is \
             that of all arms",
            &|id, alt| signed_histogram(id, alt, octaves?, layers),
        ),
        Values::Sizes(sizes) => figure(
            "activations",
            "sizes of hidden activations",
            "Sizes of the hidden activations at the last look, by layer, all seeds together; zeros are left out, and signs \
             were not counted by the version of ffnlab that trained these runs",
            &|id, alt| histogram(id, alt, "log2 of |activation|", sizes),
        ),
    };
    sparse.into_iter().chain(values).collect()
}
