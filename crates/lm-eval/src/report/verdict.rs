//! What the runs of a report say about the shipped claims.

use serde::Serialize;

use crate::claims::{self, Claim, Decision, Registration, State, difference_in_words};
use crate::compare::Collection;

/// A claim and what the runs make of it, in one setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Number of the claim.
    pub number: u32,
    /// The claim, a sentence without a full stop at the end.
    pub claim: String,
    /// What it comes to.
    pub decision: Decision,
    /// The same in words.
    pub outcome: &'static str,
    /// Why, a sentence without a full stop at the end.
    pub reason: String,
    /// Each comparison: its name, the difference and its interval.
    pub evidence: Vec<String>,
    /// The rule that decides, in sentences.
    pub rule: String,
    /// Whether the rule was written down before the runs.
    pub registered: bool,
    /// Keys in which this setting differs from others that have the same arms.
    pub setting: Vec<String>,
    /// What weakens it, in sentences.
    pub notes: Vec<String>,
}

/// Verdicts on every shipped claim that these runs decide alone; computations and timings say nothing about runs. The
/// second list says which claims could not be looked at, and why.
pub(super) fn verdicts(collection: &Collection) -> anyhow::Result<(Vec<Verdict>, Vec<String>)> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for claim in claims::shipped()?.iter().filter(|claim| claim.rule.decided_by_runs()) {
        match claims::assess_untimed(claim, collection, None) {
            Ok(assessment) => {
                if let State::Judged(verdicts) = &assessment.state {
                    found.extend(verdicts.iter().map(|verdict| Verdict::new(claim, verdict)));
                }
            }
            Err(error) => problems.push(format!("claim {} was not judged: {error:#}", claim.number)),
        }
    }
    Ok((found, problems))
}

impl Verdict {
    fn new(claim: &Claim, verdict: &claims::Verdict) -> Self {
        let comparison = |c: &claims::Comparison| format!("{}: {}", c.label, difference_in_words(c, &c.unit));
        Self {
            number: claim.number,
            claim: claim.title.clone(),
            decision: verdict.decision,
            outcome: verdict.decision.name(),
            reason: verdict.reason.clone(),
            evidence: verdict.comparisons.iter().map(comparison).collect(),
            rule: claim.rule_in_words.clone(),
            registered: verdict.registration == Some(Registration::Before),
            setting: verdict.setting.as_ref().map(|setting| setting.differs.clone()).unwrap_or_default(),
            notes: verdict.notes.clone(),
        }
    }
}
