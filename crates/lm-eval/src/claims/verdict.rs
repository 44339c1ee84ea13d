//! Runs and a claim make a verdict.

use std::collections::{BTreeMap, BTreeSet};

use lm_train::record::RunStatus;
use serde::Serialize;

use super::claim::Claim;
use super::comparison::{Comparison, Contrast};
use super::contrast::contrasts;
use super::evidence::{Evidence, apart, differences, gather};
use super::exact::Check;
use super::judge::judge;
use super::ledger::{Registration, registration};
use super::metric::Metric;
use super::rule::{Precondition, Rule};
use super::words::{decide, notes, notes_on_timing};
use crate::compare::{Collection, PARAMS_TOLERANCE};
use crate::stats::mean;

/// What a claim comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Every comparison lies where the claim says.
    Confirmed,
    /// One of them excludes the claimed effect.
    Refuted,
    /// Neither; more seeds would decide it.
    Underpowered,
    /// A precondition did not occur in the runs.
    NotReached,
}

impl Decision {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Refuted => "refuted",
            Self::Underpowered => "underpowered",
            Self::NotReached => "not reached at this scale",
        }
    }
}

/// A precondition as the runs have it.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// What was looked at.
    pub metric: Metric,
    /// The arm with the lowest mean.
    pub arm: String,
    /// That mean over seeds; `None` where no run has the metric.
    pub found: Option<f64>,
    /// What had to be reached.
    pub at_least: f64,
    /// Whether it was.
    pub met: bool,
    /// Why the claim says nothing below it.
    pub because: String,
}

/// Where a claim was decided: what all runs had in common.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Hash of the data.
    pub data_fingerprint: String,
    /// Optimizer steps of the longest run.
    pub steps: u64,
    /// Training tokens of the longest run.
    pub tokens: u64,
    /// Fewest and most parameters of an arm.
    pub params: (usize, usize),
    /// Number of runs.
    pub runs: usize,
    /// Keys in which it differs from other settings that have all arms, with its own values: `train.steps = 800`.
    pub differs: Vec<String>,
    /// Learning rates by arm, where each has its own; empty where all share one.
    pub rates: BTreeMap<String, String>,
}

/// A claim decided in one setting, or by computation.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What it comes to.
    pub decision: Decision,
    /// Why, in a sentence.
    pub reason: String,
    /// Where; `None` for a computation.
    pub setting: Option<Setting>,
    /// Level of the tests.
    pub alpha: f64,
    /// The comparisons behind it.
    pub comparisons: Vec<Comparison>,
    /// What was computed.
    pub checks: Vec<Check>,
    /// What the runs had to reach.
    pub preconditions: Vec<Checked>,
    /// Whether the rule was there before the runs; `None` for a computation.
    pub registration: Option<Registration>,
    /// What weakens it, in sentences.
    pub notes: Vec<String>,
}

/// Where a claim stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Decided, once per setting, the largest budget first. Never empty.
    Judged(Vec<Verdict>),
    /// Some of its runs are there, but they do not make a comparison.
    Incomplete {
        /// Runs that belong to it.
        runs: usize,
        /// Why they do not decide it, in sentences.
        reasons: Vec<String>,
    },
    /// None of its runs is there.
    NoRuns,
    /// Its runs are there; what is left is to time something, which is not done for a list.
    Untimed {
        /// Runs that belong to it.
        runs: usize,
    },
    /// ffnlab cannot test it yet.
    NotYetTestable {
        /// What is missing.
        missing: String,
    },
}

/// A claim and where it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Assessment {
    /// The claim.
    pub claim: Claim,
    /// Where it stands.
    pub state: State,
}

/// Decides `claim` by the runs of `collection`, of which those with a seed in `seeds` count (all, if `None`), by
/// computation and by timing, whatever its rule asks for.
///
/// # Errors
/// A claim whose configs do not resolve; files of a run that cannot be read; a computation that fails.
pub fn assess(
    claim: &Claim,
    collection: &Collection,
    seeds: Option<&BTreeSet<u64>>,
) -> anyhow::Result<Assessment> {
    Ok(Assessment { claim: claim.clone(), state: state(claim, collection, seeds, Timings::Take)? })
}

/// The same without timing anything, for lists and reports: a claim whose rule asks for that is [`State::Untimed`].
///
/// # Errors
/// As [`assess`].
pub fn assess_untimed(
    claim: &Claim,
    collection: &Collection,
    seeds: Option<&BTreeSet<u64>>,
) -> anyhow::Result<Assessment> {
    Ok(Assessment { claim: claim.clone(), state: state(claim, collection, seeds, Timings::LeaveOut)? })
}

/// Whether times are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timings {
    Take,
    LeaveOut,
}

fn state(
    claim: &Claim,
    collection: &Collection,
    seeds: Option<&BTreeSet<u64>>,
    timings: Timings,
) -> anyhow::Result<State> {
    if let Some(missing) = claim.rule.missing() {
        return Ok(State::NotYetTestable { missing: missing.to_owned() });
    }
    if claim.rule.decided_by_runs() {
        return by_runs(claim, collection, seeds, timings);
    }
    Ok(match Found::of(&claim.rule, timings)? {
        Some(found) => State::Judged(vec![without_runs(claim, found)?]),
        None => State::Untimed { runs: 0 },
    })
}

/// What the parts of a rule found that need no runs.
#[derive(Clone, Debug, Default)]
struct Found {
    checks: Vec<Check>,
    contrasts: Vec<Contrast>,
}

impl Found {
    /// Computes and times; `None` if times are asked for and not taken.
    fn of(rule: &Rule, timings: Timings) -> anyhow::Result<Option<Self>> {
        let mut found = Self::default();
        for part in rule.parts() {
            match part {
                Rule::Exact(computation) => found.checks.extend(computation.run()?),
                Rule::ActivationCost(_) if timings == Timings::LeaveOut => return Ok(None),
                Rule::ActivationCost(cost) => found.contrasts.extend(cost.measure()),
                Rule::Less(_)
                | Rule::Greater(_)
                | Rule::AtMost(_)
                | Rule::Equivalent(_)
                | Rule::Monotone(_)
                | Rule::Interaction(_)
                | Rule::Decomposition(_)
                | Rule::Trend(_)
                | Rule::Value(_)
                | Rule::All(_)
                | Rule::NotYetTestable(_) => {}
            }
        }
        Ok(Some(found))
    }
}

fn without_runs(claim: &Claim, found: Found) -> anyhow::Result<Verdict> {
    let comparisons = judge(&found.contrasts, claim.alpha)?;
    let (decision, reason) = decide(&comparisons, &found.checks, &[], &BTreeSet::new());
    let notes = notes_on_timing(&comparisons);
    Ok(Verdict {
        decision,
        reason,
        setting: None,
        alpha: claim.alpha,
        comparisons,
        checks: found.checks,
        preconditions: Vec::new(),
        registration: None,
        notes,
    })
}

fn by_runs(
    claim: &Claim,
    collection: &Collection,
    seeds: Option<&BTreeSet<u64>>,
    timings: Timings,
) -> anyhow::Result<State> {
    let mut groups = gather(claim, collection)?;
    if let Some(seeds) = seeds {
        for group in &mut groups {
            group.arms.values_mut().for_each(|runs| runs.retain(|run| seeds.contains(&run.summary.seed)));
            group.arms.retain(|_, runs| !runs.is_empty());
        }
        groups.retain(|group| !group.arms.is_empty());
    }
    if groups.is_empty() {
        return Ok(State::NoRuns);
    }
    let mut verdicts = Vec::new();
    let mut reasons = Vec::new();
    let complete: Vec<&Evidence<'_>> =
        groups.iter().filter(|group| group.missing(claim).is_empty()).collect();
    let found = if complete.is_empty() {
        Found::default()
    } else if let Some(found) = Found::of(&claim.rule, timings)? {
        found
    } else {
        return Ok(State::Untimed { runs: complete.iter().flat_map(|group| group.runs()).count() });
    };
    for group in &complete {
        match in_setting(claim, group, &complete, &found)? {
            Ok(verdict) => verdicts.push(verdict),
            Err(reason) => reasons.push(reason),
        }
    }
    if let Some(first) = verdicts.first_mut() {
        first.notes.extend(reasons.iter().map(|reason| format!("another setting decides nothing: {reason}")));
        return Ok(State::Judged(verdicts));
    }
    let partial: Vec<&Evidence<'_>> =
        groups.iter().filter(|group| !group.missing(claim).is_empty()).collect();
    let together: BTreeSet<&String> = partial.iter().flat_map(|group| group.arms.keys()).collect();
    if partial.len() > 1 && together.len() == claim.arms.len() {
        reasons.push(format!(
            "all arms are there, but not in one setting, so their losses cannot be compared: they differ in {}",
            differences(partial.iter().map(|group| &group.shared)).join(", ")
        ));
    } else if let Some(most) = partial.iter().max_by_key(|group| group.arms.len()) {
        reasons.push(format!("no run that ended for {}", most.missing(claim).join(", ")));
    }
    Ok(State::Incomplete { runs: groups.iter().flat_map(Evidence::runs).count(), reasons })
}

/// The claim in one setting that has all arms, or why it decides nothing there.
fn in_setting(
    claim: &Claim,
    group: &Evidence<'_>,
    all: &[&Evidence<'_>],
    found: &Found,
) -> anyhow::Result<Result<Verdict, String>> {
    if let Some(reason) = unequal_parameters(claim, group) {
        return Ok(Err(reason));
    }
    let diverged: BTreeSet<&str> = group
        .arms
        .iter()
        .filter(|(_, runs)| runs.iter().any(|run| run.summary.status == RunStatus::Diverged))
        .map(|(arm, _)| arm.as_str())
        .collect();
    let mut all_contrasts = found.contrasts.clone();
    for part in claim.rule.parts() {
        let Some(metric) = part.metric() else { continue };
        match contrasts(part, &group.values(metric)?, &diverged) {
            Ok(of_part) => all_contrasts.extend(of_part),
            Err(reason) => return Ok(Err(format!("{reason} ({}{})", metric.name(), logged_by(metric)))),
        }
    }
    let comparisons = judge(&all_contrasts, claim.alpha)?;
    let preconditions = preconditions(claim, group)?;
    let (decision, reason) = decide(&comparisons, &found.checks, &preconditions, &diverged);
    let runs: Vec<_> = group.runs().collect();
    let params = || runs.iter().map(|run| run.summary.params.total);
    let registration = registration(claim, runs.iter().copied())?;
    let setting = Setting {
        data_fingerprint: runs[0].summary.data_fingerprint.clone(),
        steps: runs.iter().map(|run| run.summary.steps).max().unwrap_or(0),
        tokens: group.budget(),
        params: (params().min().unwrap_or(0), params().max().unwrap_or(0)),
        runs: runs.len(),
        differs: apart(&group.shared, all.iter().map(|group| &group.shared)),
        rates: group.rates.clone(),
    };
    let notes = notes(claim, group, &comparisons, &diverged, registration);
    Ok(Ok(Verdict {
        decision,
        reason,
        setting: Some(setting),
        alpha: claim.alpha,
        comparisons,
        checks: found.checks.clone(),
        preconditions,
        registration: Some(registration),
        notes,
    }))
}

/// `; runs log it with train.probe_every`.
fn logged_by(metric: Metric) -> String {
    metric.logged_by().map_or_else(String::new, |key| format!("; runs log it with {key}"))
}

fn unequal_parameters(claim: &Claim, group: &Evidence<'_>) -> Option<String> {
    let mut totals: Vec<(usize, &str)> = group
        .arms
        .iter()
        .filter_map(|(arm, runs)| Some((runs.first()?.summary.params.total, arm.as_str())))
        .collect();
    totals.sort_unstable();
    let ((least, small), (most, large)) = (totals.first()?, totals.last()?);
    let excess = *most as f64 / *least as f64 - 1.0;
    (claim.equal_parameters && excess > PARAMS_TOLERANCE).then(|| {
        format!(
            "the claim is about equal parameters, but {large} has {most} and {small} {least} (+{:.1}%)",
            100.0 * excess
        )
    })
}

fn preconditions(claim: &Claim, group: &Evidence<'_>) -> anyhow::Result<Vec<Checked>> {
    let check = |condition: &Precondition| -> anyhow::Result<Checked> {
        let values = group.values(condition.metric)?;
        let looked_at = |arm: &&String| condition.arms.is_empty() || condition.arms.contains(arm);
        let means = values.iter().filter(|(arm, _)| looked_at(arm)).map(|(arm, values)| {
            let values: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
            (arm, mean(&values))
        });
        // An arm without any value is the lowest of all.
        let low = means
            .min_by(|a, b| a.1.unwrap_or(f64::NEG_INFINITY).total_cmp(&b.1.unwrap_or(f64::NEG_INFINITY)));
        let (arm, found) = low.map_or((String::new(), None), |(arm, found)| (arm.clone(), found));
        Ok(Checked {
            metric: condition.metric,
            arm,
            found,
            at_least: condition.at_least,
            met: found.is_some_and(|found| found >= condition.at_least),
            because: condition.because.clone(),
        })
    };
    claim.preconditions.iter().map(check).collect()
}
