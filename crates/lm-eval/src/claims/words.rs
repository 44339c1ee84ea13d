//! Why a verdict is what it is, and what weakens it, in sentences.

use std::collections::BTreeSet;

use super::claim::Claim;
use super::comparison::{Comparison, Outcome, Quantity};
use super::evidence::Evidence;
use super::exact::Check;
use super::judge::overall;
use super::ledger::Registration;
use super::verdict::{Checked, Decision};
use crate::stats::FEW;

/// What the comparisons, the checks and the preconditions come to, and why.
pub(super) fn decide(
    comparisons: &[Comparison],
    checks: &[Check],
    preconditions: &[Checked],
    diverged: &BTreeSet<&str>,
) -> (Decision, String) {
    if let Some(unmet) = preconditions.iter().find(|condition| !condition.met) {
        let found = match unmet.found {
            Some(found) => format!("{} is {} in {}", unmet.metric.name(), short(found), unmet.arm),
            None => format!("no run of {} has the {}", unmet.arm, unmet.metric.name()),
        };
        let reason =
            format!("{found}, the rule asks for at least {}: {}", short(unmet.at_least), unmet.because);
        return (Decision::NotReached, reason);
    }
    let failed: Vec<&str> =
        checks.iter().filter(|check| !check.holds).map(|check| check.what.as_str()).collect();
    if !failed.is_empty() {
        return (Decision::Refuted, format!("computed: this does not hold: {}", failed.join("; ")));
    }
    if comparisons.is_empty() && !checks.is_empty() {
        return (Decision::Confirmed, "computed: every check holds".to_owned());
    }
    let count = comparisons.len();
    // Where values are all equal, a test without an interval stands in.
    let with_intervals = comparisons.iter().all(|comparison| comparison.interval.is_some());
    let of = |outcome| comparisons.iter().filter(|comparison| comparison.outcome == outcome).count();
    match overall(comparisons) {
        Outcome::Confirmed if count == 1 => {
            let what = if with_intervals { "the whole interval" } else { "every value" };
            (Decision::Confirmed, format!("{what} lies where the claim says"))
        }
        Outcome::Confirmed => {
            let all = if count == 2 { "both".to_owned() } else { format!("all {count}") };
            let what = if with_intervals { "intervals" } else { "comparisons" };
            (Decision::Confirmed, format!("{all} {what} lie where the claim says (Holm)"))
        }
        Outcome::Refuted => {
            let refuted = comparisons.iter().filter(|comparison| comparison.outcome == Outcome::Refuted);
            let labels: Vec<&str> = refuted.map(|comparison| comparison.label.as_str()).collect();
            let of_all =
                if count == 1 { String::new() } else { format!(" ({} of {count}, Holm)", labels.len()) };
            let labels = labels.join(", ");
            let reason = if with_intervals {
                format!("the interval excludes the claimed effect for {labels}{of_all}")
            } else {
                format!("the claimed effect is excluded for {labels}{of_all}")
            };
            (Decision::Refuted, reason)
        }
        Outcome::Undecided => {
            (Decision::Underpowered, undecided(comparisons, of(Outcome::Confirmed), diverged))
        }
    }
}

fn undecided(comparisons: &[Comparison], confirmed: usize, diverged: &BTreeSet<&str>) -> String {
    let open = || comparisons.iter().filter(|comparison| comparison.outcome == Outcome::Undecided);
    let which = match (comparisons.len(), open().count()) {
        (1, _) => "the interval holds both the claimed effect and its absence".to_owned(),
        (all, open) => format!("{open} of {all} comparisons are open, {confirmed} confirmed"),
    };
    if let Some(refusal) = open().find_map(|comparison| comparison.refusal) {
        return format!("there is no interval: {refusal}");
    }
    if !diverged.is_empty() {
        let arms: Vec<&str> = diverged.iter().copied().collect();
        return format!("runs of {} diverged, and the others alone would flatter it", arms.join(", "));
    }
    let most = |repeats: &str| {
        let open = open().filter(|comparison| comparison.quantity.repeats() == repeats);
        let needed = open.filter_map(|comparison| comparison.seeds_needed).map(|needed| needed.seeds);
        needed.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)))
    };
    match (most("seeds"), most("rounds")) {
        (Some(None), _) => format!("{which}; no number of seeds that anybody will run would decide it"),
        (_, Some(None)) => format!("{which}; no number of rounds that anybody will run would decide it"),
        (Some(Some(seeds)), None) => {
            format!("{which}; at this spread about {seeds} seeds per arm would decide it")
        }
        (None, Some(Some(rounds))) => {
            format!("{which}; at this spread about {rounds} rounds would decide it")
        }
        (Some(Some(seeds)), Some(Some(rounds))) => {
            format!("{which}; at this spread about {seeds} seeds per arm and {rounds} rounds would decide it")
        }
        (None, None) => which,
    }
}

/// What weakens a verdict by times.
pub(super) fn notes_on_timing(comparisons: &[Comparison]) -> Vec<String> {
    let timed = comparisons.iter().any(|comparison| comparison.quantity == Quantity::Ratio);
    let note = "times were taken for this verdict, on one thread of this machine: they want it idle, and hold for its \
                processor";
    timed.then(|| note.to_owned()).into_iter().collect()
}

/// What weakens a verdict.
pub(super) fn notes(
    claim: &Claim,
    group: &Evidence<'_>,
    comparisons: &[Comparison],
    diverged: &BTreeSet<&str>,
    registration: Registration,
) -> Vec<String> {
    let by_runs = || comparisons.iter().filter(|comparison| comparison.quantity != Quantity::Ratio);
    let fewest = by_runs().map(|comparison| comparison.n).min().unwrap_or(0);
    let mut notes = Vec::new();
    if !group.rates.is_empty() {
        let rates: Vec<String> = group.rates.iter().map(|(arm, rate)| format!("{arm} {rate}")).collect();
        notes.push(format!(
            "each arm has its own learning rate, which is fair if all were searched for in the same way, as by `ffnlab tune`: {}",
            rates.join(", ")
        ));
    }
    match registration {
        Registration::Before => {}
        Registration::Changed(runs) => notes.push(format!(
            "THE RULE WAS CHANGED after {runs} of these runs had begun; this verdict is not one of a rule fixed beforehand"
        )),
        Registration::Unregistered(runs) => notes.push(format!(
            "{runs} of these runs were made without `ffnlab claims run`, so nothing shows that the rule was fixed before \
             them"
        )),
    }
    if (fewest as u64) < claim.seeds {
        notes.push(format!("{fewest} seeds per comparison; the rule asks for {}", claim.seeds));
    }
    if fewest < FEW {
        notes.push(format!("few seeds: below {FEW}, spreads and intervals are rough"));
    }
    let missing: BTreeSet<u64> =
        comparisons.iter().flat_map(|comparison| comparison.seeds_missing.iter().copied()).collect();
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(u64::to_string).collect();
        notes.push(format!("not every arm has finished seed {}, which is left out", list.join(", ")));
    }
    if !diverged.is_empty() {
        let arms: Vec<&str> = diverged.iter().copied().collect();
        notes.push(format!("runs of {} diverged and have no loss", arms.join(", ")));
    }
    for comparison in by_runs().filter(|comparison| comparison.by_sign_test) {
        notes.push(format!(
            "{}: the {} is {} in all {} seeds, so there is no interval; the sign test stands in for it",
            comparison.label,
            comparison.quantity.name(),
            short(comparison.difference),
            comparison.n
        ));
    }
    notes.extend(notes_on_timing(comparisons));
    if group.repeated > 0 {
        notes.push(format!("{} runs repeat a seed of the same arm and are left out", group.repeated));
    }
    let versions: BTreeSet<&str> = group.runs().map(|run| run.summary.ffnlab.as_str()).collect();
    if versions.len() > 1 {
        notes.push(format!(
            "runs were made by ffnlab {}",
            versions.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    notes
}

/// A number with about three digits.
pub(super) fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{x:.0}"),
        size if size >= 9.995 => format!("{x:.1}"),
        size if size >= 0.9995 => format!("{x:.2}"),
        size if size >= 0.0009 => format!("{x:.4}"),
        _ => format!("{x:.1e}"),
    }
}
