//! All claims in one table: what each costs and where it stands.

use comfy_table::ContentArrangement;

use super::claim::Claim;
use super::plan::Scale;
use super::report::{aligned, difference_in_words, value};
use super::rule::DecidedBy;
use super::verdict::{Assessment, State, Verdict};
use crate::plain::table;

/// A row per claim. `width`: columns of the terminal, none for a file.
pub fn list(assessments: &[Assessment], scale: Scale, width: Option<usize>) -> String {
    let cost = format!("runs x steps ({})", scale.name());
    let mut shown = table(&["", "claim", "kind", &cost, "state", "effect"]);
    shown.set_content_arrangement(ContentArrangement::Dynamic);
    shown.set_width(u16::try_from(width.unwrap_or(150)).unwrap_or(u16::MAX));
    for assessment in assessments {
        let claim = &assessment.claim;
        let (state, effect) = state(assessment);
        let (number, kind) = (claim.number.to_string(), claim.rule.kinds());
        let row = [number, claim.title.clone(), kind, cost_of(claim, scale), state, effect];
        shown.add_row(aligned(row, &[0, 3]));
    }
    shown.trim_fmt()
}

/// `35 x 800`, or why there is none.
fn cost_of(claim: &Claim, scale: Scale) -> String {
    let by = claim.rule.decided_by();
    if claim.rule.missing().is_some() {
        "-".to_owned()
    } else if by.contains(&DecidedBy::Runs) {
        let steps = claim.steps(scale).map_or_else(|_| "?".to_owned(), |steps| steps.to_string());
        let also = if by.contains(&DecidedBy::Timing) { ", timing" } else { "" };
        format!("{} x {steps}{also}", claim.arms.len() as u64 * claim.seeds)
    } else {
        "seconds".to_owned()
    }
}

/// Where it stands, and the effect behind that.
fn state(assessment: &Assessment) -> (String, String) {
    match &assessment.state {
        State::Judged(verdicts) => {
            let first = &verdicts[0];
            let others = verdicts.len() - 1;
            let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            (format!("{}{more}", first.decision.name()), effect(first))
        }
        State::Incomplete { runs, reasons } => (format!("incomplete, {runs} runs"), reasons.join("; ")),
        State::NoRuns => ("no runs".to_owned(), String::new()),
        State::Untimed { .. } => {
            let verdict = format!("`ffnlab claims verdict {}` times it", assessment.claim.number);
            ("to be timed".to_owned(), verdict)
        }
        State::NotYetTestable { .. } => ("not yet testable".to_owned(), String::new()),
    }
}

/// The first comparison or check that decides, with its interval; and how many more there are.
fn effect(verdict: &Verdict) -> String {
    let deciding: Vec<_> = verdict.checks.iter().filter(|check| !check.asked.is_empty()).collect();
    let all = verdict.comparisons.len() + deciding.len();
    let first = match (verdict.comparisons.first(), deciding.first()) {
        (Some(first), _) => difference_in_words(first, ""),
        (None, Some(first)) => value(deciding.iter().find(|check| !check.holds).unwrap_or(first)),
        (None, None) => return String::new(),
    };
    if all > 1 { format!("{first} (1 of {all})") } else { first }
}
