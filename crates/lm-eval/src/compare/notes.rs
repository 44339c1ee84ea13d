//! What a reader of a comparison has to know: why it may not be valid, what weakens it, and how to read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::arms::ArmRuns;
use super::collect::{Problem, ProblemKind};
use super::comparison::{Arm, Comparison, Standing, data, evaluated};
use super::keys::{DATA, Keys, LR, differing};
use super::precision::SECTION;
use crate::shazeer;
use crate::stats::FEW;

/// How grave a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The arms cannot be compared at all.
    Invalid,
    /// The comparison is weaker than it looks.
    Warning,
    /// How to read it.
    Info,
}

/// One line under a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How grave.
    pub level: Level,
    /// One sentence or two, without a full stop at the end.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loud = match self.level {
            Level::Invalid => "NOT COMPARABLE: ",
            Level::Warning => "Warning: ",
            Level::Info => "",
        };
        write!(f, "{loud}{}", self.text)
    }
}

/// Share by which parameters may differ from the baseline's before it is said.
pub(crate) const PARAMS_TOLERANCE: f64 = 0.01;

/// All notes, the gravest first.
pub(super) fn notes(
    comparison: &Comparison,
    groups: &[ArmRuns<'_>],
    duplicates: &[String],
    problems: &[Problem],
) -> Vec<Note> {
    let invalid = [mixed_data(groups)].into_iter().flatten();
    let warnings = [
        mixed_budgets(groups),
        mixed_protocols(groups),
        confounded(comparison, groups),
        hidden_precisions(groups),
        parameters(comparison),
        diverged(comparison),
        missing_pairs(comparison),
        missing_gap_pairs(comparison, groups),
        few_seeds(comparison),
        unfinished(problems),
    ];
    let unusable =
        problems.iter().filter(|p| p.kind != ProblemKind::Unfinished).map(|p| format!("left out: {p}"));
    let warnings = warnings.into_iter().flatten().chain(duplicates.iter().cloned()).chain(unusable);
    let infos = [
        meaning(comparison, groups),
        own_rates(comparison),
        without_full_precision(comparison, groups),
        standing(comparison),
        not_joint(comparison),
        versions(groups),
        published(comparison),
    ];
    let note = |level| move |text| Note { level, text };
    invalid
        .map(note(Level::Invalid))
        .chain(warnings.map(note(Level::Warning)))
        .chain(infos.into_iter().flatten().map(note(Level::Info)))
        .collect()
}

/// "value (arm, arm); value (arm)": which arms have which value; `None` when all have the same.
fn split<'a, T: Ord>(
    groups: &[ArmRuns<'a>],
    value: impl Fn(&ArmRuns<'a>) -> Option<T>,
    show: impl Fn(&T) -> String,
) -> Option<String> {
    let mut arms_by_value: BTreeMap<T, Vec<&str>> = BTreeMap::new();
    for group in groups {
        if let Some(value) = value(group) {
            arms_by_value.entry(value).or_default().push(&group.label);
        }
    }
    let parts: Vec<String> =
        arms_by_value.iter().map(|(value, arms)| format!("{} ({})", show(value), arms.join(", "))).collect();
    (parts.len() > 1).then(|| parts.join("; "))
}

fn mixed_data(groups: &[ArmRuns<'_>]) -> Option<String> {
    let shown = |(fingerprint, vocab): &(&str, usize)| {
        format!("{} with a vocabulary of {vocab}", fingerprint.chars().take(8).collect::<String>())
    };
    split(groups, |group| Some(data(group)), shown).map(|data| {
        format!(
            "arms were trained and measured on different data, so their losses mean different things: {data}"
        )
    })
}

fn mixed_budgets(groups: &[ArmRuns<'_>]) -> Option<String> {
    let budget = |group: &ArmRuns<'_>| evaluated(group).first().map(|(run, _)| (run.steps, run.tokens));
    split(groups, budget, |(steps, tokens)| format!("{steps} steps, {tokens} tokens"))
        .map(|budgets| format!("arms had different training budgets: {budgets}"))
}

fn mixed_protocols(groups: &[ArmRuns<'_>]) -> Option<String> {
    let protocol = |group: &ArmRuns<'_>| {
        evaluated(group).first().map(|(_, eval)| (eval.seq_len, eval.stride, eval.tokens))
    };
    let shown = |(seq_len, stride, tokens): &(usize, usize, u64)| {
        format!("{tokens} tokens in windows of {seq_len}, stride {stride}")
    };
    split(groups, protocol, shown)
        .map(|protocols| format!("held-out losses were measured differently: {protocols}"))
}

/// Settings outside the FFN in which arms differ without their labels saying so.
fn confounded(comparison: &Comparison, groups: &[ArmRuns<'_>]) -> Option<String> {
    let is_variant = |key: &str| key.starts_with("model.ffn.") || key.starts_with(SECTION);
    let said = |key: &String| groups.iter().any(|group| group.shown.contains(key));
    let mut told_elsewhere = vec![DATA, "train.steps", "train.tokens"];
    told_elsewhere.extend(comparison.own_rates.then_some(LR));
    let keys: Vec<&Keys> = groups.iter().map(|group| &group.first().keys).collect();
    let keys: Vec<String> = differing(keys.iter().copied())
        .into_iter()
        .filter(|key| !is_variant(key) && !told_elsewhere.contains(&key.as_str()) && !said(key))
        .map(|key| {
            let values: BTreeSet<String> = keys.iter().map(|arm| arm.show(&key)).collect();
            format!("{key} ({})", values.into_iter().collect::<Vec<_>>().join(", "))
        })
        .collect();
    let variant = if comparison.has_precisions() { "the FFN and the precision" } else { "the FFN" };
    (!keys.is_empty()).then(|| format!("besides {variant}, arms differ in {}", keys.join(", ")))
}

/// Settings of the precision in which arms of one precision's name differ without their labels saying so.
fn hidden_precisions(groups: &[ArmRuns<'_>]) -> Option<String> {
    let names: BTreeSet<&str> = groups.iter().map(ArmRuns::precision).collect();
    let hidden: Vec<String> = names
        .into_iter()
        .filter_map(|name| {
            let arms = groups.iter().filter(|group| group.precision() == name);
            let said = |key: &String| arms.clone().any(|group| group.shown.contains(key));
            let mut keys = differing(arms.clone().map(ArmRuns::keys));
            keys.retain(|key| key.starts_with(SECTION) && !said(key));
            (!keys.is_empty()).then(|| format!("{name} ({})", keys.join(", ")))
        })
        .collect();
    (!hidden.is_empty())
        .then(|| format!("precisions of one name are not the same in all arms: {}", hidden.join("; ")))
}

fn parameters(comparison: &Comparison) -> Option<String> {
    let unequal: Vec<String> = comparison
        .arms
        .iter()
        .filter(|arm| arm.params_excess.abs() > PARAMS_TOLERANCE)
        .map(|arm| format!("{} {}", arm.label, percent(arm.params_excess)))
        .collect();
    (!unequal.is_empty()).then(|| {
        format!("parameters differ by more than 1% from {}: {}", comparison.baseline, unequal.join(", "))
    })
}

/// A relative difference as a signed percentage with two or three digits.
pub(super) fn percent(excess: f64) -> String {
    let percent = 100.0 * excess;
    if percent.abs() < 9.95 { format!("{percent:+.1}%") } else { format!("{percent:+.0}%") }
}

fn diverged(comparison: &Comparison) -> Option<String> {
    let with_steps = comparison.has_precisions(); // how long a precision holds is part of its result
    let diverged: Vec<String> = comparison
        .arms
        .iter()
        .filter(|arm| !arm.diverged.is_empty())
        .map(|arm| {
            let all = arm.diverged.len() + arm.seeds.len();
            let step = if arm.diverged.len() == 1 { "step" } else { "steps" };
            let at =
                if with_steps { format!(", at {step} {}", list(&arm.diverged_at)) } else { String::new() };
            format!("{} ({} of {all}{at})", arm.label, arm.diverged.len())
        })
        .collect();
    (!diverged.is_empty()).then(|| {
        format!(
            "runs diverged: {}; means are over the runs that did not, which flatters the arm",
            diverged.join(", ")
        )
    })
}

fn missing_pairs(comparison: &Comparison) -> Option<String> {
    let baseline = comparison.baseline();
    if baseline.loss.is_none() && comparison.arms.len() > 1 {
        return Some(format!(
            "no run of the baseline {} finished, so there are no differences",
            baseline.label
        ));
    }
    let unpaired = |arm: &Arm| match &arm.difference {
        Some(difference) if difference.seeds_missing.is_empty() => None,
        Some(difference) => Some(format!("{} ({})", arm.label, list(&difference.seeds_missing))),
        // The baseline itself, an arm that diverged, or one on other data: said elsewhere.
        None if arm.seeds.is_empty() || arm.seeds.iter().any(|seed| baseline.seeds.contains(seed)) => None,
        None => Some(format!("{} (no pair at all)", arm.label)),
    };
    let unpaired: Vec<String> = comparison.arms.iter().filter_map(unpaired).collect();
    (!unpaired.is_empty()).then(|| {
        format!(
            "Δ is over seeds that both the arm and {} finished; without a pair: {}",
            baseline.label,
            unpaired.join(", ")
        )
    })
}

fn missing_gap_pairs(comparison: &Comparison, groups: &[ArmRuns<'_>]) -> Option<String> {
    let unpaired = |(arm, group): (&Arm, &ArmRuns<'_>)| match &arm.gap_fp32 {
        Some(gap) if gap.seeds_missing.is_empty() => None,
        Some(gap) => Some(format!("{} ({})", arm.label, list(&gap.seeds_missing))),
        // An arm that diverged, in fp32, or without its like in fp32: said elsewhere.
        None if arm.seeds.is_empty() || group.in_full_precision(groups).is_none() => None,
        None => Some(format!("{} (no pair at all)", arm.label)),
    };
    let unpaired: Vec<String> = comparison.arms.iter().zip(groups).filter_map(unpaired).collect();
    (!unpaired.is_empty()).then(|| {
        format!(
            "Δ fp32 is over seeds that finished in both precisions; without a pair: {}",
            unpaired.join(", ")
        )
    })
}

/// Least and most seeds of an arm that finished at all.
fn seeds(comparison: &Comparison) -> Option<(usize, usize)> {
    let counts = comparison.arms.iter().filter(|arm| arm.loss.is_some()).map(|arm| arm.seeds.len());
    Some((counts.clone().min()?, counts.max()?))
}

fn few_seeds(comparison: &Comparison) -> Option<String> {
    match seeds(comparison)? {
        (_, 1) => Some("one seed per arm: no spread, no interval, and the order may be chance".to_owned()),
        (1, _) => {
            Some(format!("few seeds: one alone has no spread and no interval, below {FEW} both are rough"))
        }
        (2..FEW, _) => Some(format!("few seeds: below {FEW}, spreads and intervals are rough")),
        (0 | FEW.., _) => None,
    }
}

fn unfinished(problems: &[Problem]) -> Option<String> {
    const NAMED: usize = 5;
    let unfinished = problems.iter().filter(|problem| problem.kind == ProblemKind::Unfinished);
    let dirs: Vec<String> = unfinished.map(|problem| problem.dir.display().to_string()).collect();
    let rest = dirs.len().saturating_sub(NAMED);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    (!dirs.is_empty()).then(|| {
        let named = dirs.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        format!("left out {}: {named}{more}", count(dirs.len(), "unfinished run"))
    })
}

/// Rates that were tuned for their arms make a comparison fair, rates that differ for another reason spoil it; runs do not
/// know which it was.
fn own_rates(comparison: &Comparison) -> Option<String> {
    comparison.own_rates.then(|| {
        "Each arm has its own learning rate (lr), which is fair if all were tuned in the same way, as `ffnlab tune` does, \
         and on other seeds than these"
            .to_owned()
    })
}

fn meaning(comparison: &Comparison, groups: &[ArmRuns<'_>]) -> Option<String> {
    let over = match seeds(comparison)? {
        (_, 1) => "one seed".to_owned(),
        (least, most) if least == most => format!("mean over {most} seeds (standard deviation)"),
        (least, most) => format!("mean over {least} to {most} seeds (standard deviation)"),
    };
    let mut text = format!("Losses are held-out, nats per token: {over}");
    if comparison.arms.iter().any(|arm| arm.above_floor.is_some()) {
        text += "; the floor is the exact entropy of the text";
    }
    let differences = || comparison.arms.iter().filter_map(|arm| arm.difference.as_ref());
    if differences().next().is_some() {
        let interval = differences().any(|difference| difference.estimate.ci95.is_some());
        text += &format!(
            ". Δ is the mean difference from {} within a seed{}; wins counts the seeds with a lower loss",
            comparison.baseline,
            if interval { " ± half its 95% interval (Student's t)" } else { "" }
        );
    }
    let gaps = || comparison.arms.iter().filter_map(|arm| arm.gap_fp32.as_ref());
    if gaps().next().is_some() {
        let other_rate = |group: &ArmRuns<'_>| {
            group
                .in_full_precision(groups)
                .is_some_and(|full| full.keys().learning_rate() != group.keys().learning_rate())
        };
        text += ". Δ fp32 is the mean difference, within a seed too, from the arm in fp32 that equals this one in \
                 everything but the precision";
        text += if groups.iter().any(other_rate) { " and the learning rate" } else { "" };
    }
    Some(text)
}

/// Which arms have no Δ fp32, where others do.
fn without_full_precision(comparison: &Comparison, groups: &[ArmRuns<'_>]) -> Option<String> {
    let alone =
        |group: &&ArmRuns<'_>| !group.is_full_precision() && group.in_full_precision(groups).is_none();
    let labels: Vec<&str> = groups.iter().filter(alone).map(|group| group.label.as_str()).collect();
    (!labels.is_empty() && comparison.arms.iter().any(|arm| arm.gap_fp32.is_some()))
        .then(|| format!("No arm in fp32 equals {} in everything but the precision", labels.join(" or ")))
}

fn standing(comparison: &Comparison) -> Option<String> {
    let has = |standing| comparison.arms.iter().any(|arm| arm.standing == standing);
    has(Standing::Best).then(|| {
        let tied = "; ≈ not shown to be worse: its 95% interval against * includes zero, or needs more seeds";
        let tied = if has(Standing::Tied) { tied } else { "" };
        format!("* lowest loss over the seeds of {}{tied}", comparison.baseline)
    })
}

fn not_joint(comparison: &Comparison) -> Option<String> {
    let differences = comparison.arms.iter().flat_map(|arm| [&arm.difference, &arm.gap_fp32]);
    let intervals = differences.filter_map(|difference| difference.as_ref()?.estimate.ci95).count();
    (intervals > 1).then(|| {
        format!("Each of the {intervals} intervals holds at 95% by itself, not all of them together")
    })
}

fn versions(groups: &[ArmRuns<'_>]) -> Option<String> {
    let versions: BTreeSet<&str> =
        groups.iter().flat_map(|group| &group.runs).map(|run| run.summary.ffnlab.as_str()).collect();
    (versions.len() > 1)
        .then(|| format!("Runs were made by ffnlab {}", versions.into_iter().collect::<Vec<_>>().join(", ")))
}

fn published(comparison: &Comparison) -> Option<String> {
    comparison.arms.iter().any(|arm| arm.published.is_some()).then(|| {
        format!(
            "{}: held-out log-perplexity of T5-base on C4 after {} steps, four runs (standard deviation); another \
             model and other data, so compare signs and order",
            shazeer::SOURCE,
            shazeer::EARLY_STEPS
        )
    })
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn list(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
