//! Verdicts on claims, as a report shows them. What a claim is and how it is judged is not known here.

use serde::Serialize;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The data speak for it, by the rule fixed beforehand.
    Supported,
    /// The data speak against it.
    Refuted,
    /// The data do not decide.
    Undecided,
}

impl Outcome {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Refuted => "refuted",
            Self::Undecided => "undecided",
        }
    }
}

/// A claim and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The claim, a sentence without a full stop at the end.
    pub claim: String,
    /// The rule that decides, fixed before the runs.
    pub rule: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The figures behind the outcome, with their interval.
    pub evidence: String,
}
