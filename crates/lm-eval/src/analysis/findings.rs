//! What an analysis shows and what it does not, in plain sentences without a full stop at the end.

use super::report::{number, percent, plural};
use super::{Against, Analysis, Missing, Pairing, Samples};
use crate::stats::bca::COVERAGE_OF_95;
use crate::stats::{FEW, sd_factors};

/// What the tests show.
pub(super) fn shown(analysis: &Analysis) -> Vec<String> {
    [differ(analysis), alike(analysis)].into_iter().flatten().collect()
}

/// What cannot be concluded, the gravest first.
pub(super) fn not_shown(analysis: &Analysis, missing: &[Missing], samples: &Samples) -> Vec<String> {
    let sentences = [
        undecided(analysis),
        not_alike(analysis),
        powerless(analysis),
        few_seeds(analysis),
        narrow_bca(analysis),
        pairing_that_hurts(analysis),
        could_be_paired(analysis, samples),
    ];
    sentences.into_iter().flatten().chain(absent(missing, analysis.variants.len())).collect()
}

/// `paired t, Holm over 8 comparisons, α = 0.05`.
fn by(analysis: &Analysis, test: &str) -> String {
    let holm = match analysis.family {
        0 | 1 => String::new(),
        family => format!(", Holm over {family} comparisons"),
    };
    format!("{test}{holm}, α = {}", analysis.alpha)
}

/// The t test's name.
pub(super) fn t_name(pairing: Pairing) -> &'static str {
    match pairing {
        Pairing::BySeed => "paired t",
        Pairing::Independent => "Welch's t",
    }
}

/// The names of the permutation test and the rank test.
pub(super) fn exact_names(pairing: Pairing) -> [&'static str; 2] {
    match pairing {
        Pairing::BySeed => ["sign-flip", "Wilcoxon"],
        Pairing::Independent => ["permutation", "rank-sum"],
    }
}

/// The variants for which `holds`.
fn names(analysis: &Analysis, holds: impl Fn(&Against) -> bool) -> Option<String> {
    let names = analysis.comparisons.iter().filter(|against| holds(against));
    let names: Vec<&str> = names.map(|against| against.variant.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Whether the t test tells a variant from the baseline.
fn is_told_apart(analysis: &Analysis, against: &Against) -> bool {
    against.t.is_some_and(|t| t.holm < analysis.alpha)
}

fn differ(analysis: &Analysis) -> Option<String> {
    let baseline = analysis.baseline.as_deref()?;
    let side = |word: &str, sign: f64| {
        let beyond = |against: &Against| is_told_apart(analysis, against) && against.difference * sign > 0.0;
        names(analysis, beyond).map(|names| format!("{word} than {baseline}: {names}"))
    };
    let sides: Vec<String> = [side("lower", -1.0), side("higher", 1.0)].into_iter().flatten().collect();
    (!sides.is_empty())
        .then(|| format!("{} ({})", capital(&sides.join("; ")), by(analysis, t_name(analysis.pairing))))
}

fn alike(analysis: &Analysis) -> Option<String> {
    let (baseline, margin) = (analysis.baseline.as_deref()?, analysis.margin?);
    let within = |against: &Against| against.equivalence.is_some_and(|judged| judged.holm < analysis.alpha);
    let names = names(analysis, within)?;
    Some(format!("Within ±{margin} of {baseline}: {names} ({})", by(analysis, "two one-sided tests")))
}

fn undecided(analysis: &Analysis) -> Option<String> {
    let baseline = analysis.baseline.as_deref()?;
    let names = names(analysis, |against| against.t.is_some() && !is_told_apart(analysis, against))?;
    Some(format!(
        "Not told apart from {baseline}: {names} ({}). This does not show that they are alike: a true difference has to \
         reach the figure under \"resolves\" to be found {} of the time",
        by(analysis, t_name(analysis.pairing)),
        percent(analysis.power)
    ))
}

fn not_alike(analysis: &Analysis) -> Option<String> {
    let (baseline, margin) = (analysis.baseline.as_deref()?, analysis.margin?);
    let open = |against: &Against| {
        against.equivalence.is_some_and(|judged| judged.holm >= analysis.alpha)
            && against.difference.abs() < margin
    };
    let names = names(analysis, open)?;
    Some(format!(
        "Not shown to lie within ±{margin} of {baseline}, though the mean difference does: {names} ({})",
        by(analysis, "two one-sided tests")
    ))
}

/// Exact tests that cannot reach alpha, whatever the data.
fn powerless(analysis: &Analysis) -> Option<String> {
    let smallest = |against: &Against| against.permutation.test.smallest_p.max(against.rank.test.smallest_p);
    // Holm multiplies the smallest p-value of a family by its size, and no other ends up below that one.
    let least = analysis.comparisons.iter().map(smallest).fold(f64::INFINITY, f64::min);
    let adjusted = (least * analysis.family as f64).min(1.0);
    if analysis.comparisons.is_empty() || adjusted < analysis.alpha {
        return None;
    }
    let [first, second] = exact_names(analysis.pairing);
    let seeds = seeds(analysis, analysis.comparisons.iter().map(|against| against.n));
    let after = if adjusted > least {
        format!(", after Holm over {} comparisons {}", analysis.family, number(adjusted, 4))
    } else {
        String::new()
    };
    Some(format!(
        "With {seeds} the smallest p that {first} and {second} can give is {}{after}: at α = {} they cannot tell anything \
         apart. The t test can, by taking values to be normal, which so few cannot confirm",
        number(least, 4),
        analysis.alpha
    ))
}

fn few_seeds(analysis: &Analysis) -> Option<String> {
    let fewest = analysis.variants.iter().map(|summary| summary.n).min()?;
    let factors = sd_factors(fewest, 0.95).ok().filter(|_| fewest < FEW)?;
    Some(format!(
        "Few seeds: with {fewest}, the true standard deviation may be {} to {} times the one measured (95 %, for normal \
         values); intervals and what they resolve are as rough",
        number(factors.low, 2),
        number(factors.high, 1)
    ))
}

fn narrow_bca(analysis: &Analysis) -> Option<String> {
    let counts = analysis.variants.iter().filter(|summary| summary.bca.is_some()).map(|summary| summary.n);
    let (largest_known, _) = COVERAGE_OF_95[COVERAGE_OF_95.len() - 1];
    counts.min().filter(|fewest| *fewest < largest_known)?;
    let measured = COVERAGE_OF_95.map(|(n, coverage)| format!("{} at {n} seeds", percent(coverage)));
    let [first, middle, last] = measured;
    Some(format!(
        "BCa intervals of few values are too narrow: on normal data, 95 % intervals cover {first}, {middle} and {last}"
    ))
}

fn pairing_that_hurts(analysis: &Analysis) -> Option<String> {
    let names = names(analysis, |against| against.pairing_gain.is_some_and(|gain| gain.removed < 0.0))?;
    Some(format!(
        "Pairing adds variance instead of removing it: {names}; seeds do not seem to mean the same in both variants, or \
         are too few to tell"
    ))
}

fn could_be_paired(analysis: &Analysis, samples: &Samples) -> Option<String> {
    (analysis.pairing == Pairing::Independent && analysis.family > 0 && samples.all_paired()).then(|| {
        "All variants have the same seeds. If runs of one seed share more than the number (order of data, initial weights), \
         --paired compares within seeds. Let that decide, not which p is smaller"
            .to_owned()
    })
}

/// Figures that tables cannot show, those of one kind and reason together.
fn absent(missing: &[Missing], variants: usize) -> Vec<String> {
    let mut kinds: Vec<(&Missing, Vec<&str>)> = Vec::new();
    for entry in missing {
        let same = |kind: &&mut (&Missing, Vec<&str>)| kind.0.what == entry.what && kind.0.why == entry.why;
        match kinds.iter_mut().find(same) {
            Some((_, names)) => names.push(&entry.of),
            None => kinds.push((entry, vec![&entry.of])),
        }
    }
    let sentence = |(kind, names): &(&Missing, Vec<&str>)| {
        let names = if names.len() == variants && variants > 1 { "any variant" } else { &names.join(", ") };
        format!("No {} for {names}: {}", kind.what, kind.why)
    };
    kinds.iter().map(sentence).collect()
}

/// `5 pairs`, `3 to 5 seeds per variant`.
fn seeds(analysis: &Analysis, counts: impl Iterator<Item = usize> + Clone) -> String {
    let (least, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
    let range = if least == most {
        plural(least, unit(analysis))
    } else {
        format!("{least} to {most} {}s", unit(analysis))
    };
    match analysis.pairing {
        Pairing::BySeed => range,
        Pairing::Independent => range + " per variant",
    }
}

fn unit(analysis: &Analysis) -> &'static str {
    match analysis.pairing {
        Pairing::BySeed => "pair",
        Pairing::Independent => "seed",
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
