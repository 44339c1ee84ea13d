//! A claim is code: what a paper says, the arms that test it, and the rule by which runs decide it, in one file that is
//! fixed before anything runs.
//!
//! | step | here |
//! |---|---|
//! | file -> claim | [`Claim::parse`], the shipped ones in [`shipped()`] |
//! | claim -> configs to train | [`Claim::plan`] |
//! | runs -> arms, by resolved config keys | `evidence` |
//! | arms -> differences paired by seed -> verdict | [`assess()`] |
//! | activation functions -> ratios of times within rounds | `timing` |
//! | was the rule there before the runs? | [`Ledger`] |
//!
//! A verdict is one of four, and what they mean does not depend on the rule:
//!
//! - *confirmed*: the whole interval of every comparison lies where the claim says, beyond the threshold if there is one;
//! - *refuted*: an interval excludes the claimed effect: it lies on the other side, or holds nothing but effects smaller
//!   than the smallest of interest;
//! - *underpowered*: neither; with the number of seeds that would decide it;
//! - *not reached at this scale*: a precondition that the file states did not occur in the runs (a mechanism that the claim
//!   is about, or enough training for the loss to mean anything), whatever the differences are.
//!
//! Several comparisons of one claim share its alpha by Holm's correction, in both directions.

mod claim;
mod metric;
mod rule;
mod shipped;

mod plan;

mod evidence;
mod ledger;

mod comparison;
mod contrast;
mod judge;
mod timing;
mod verdict;
mod words;

pub mod exact;

mod list;
mod report;

pub use claim::{Arm, Claim};
pub use comparison::{Comparison, Outcome, Quantity};
pub use exact::{Check, Computation};
pub use ledger::{LEDGER, Ledger, Registration};
pub use list::list;
pub use metric::Metric;
pub use plan::{Planned, Scale};
pub(crate) use report::difference_in_words;
pub use report::{describe, report};
pub use rule::{
    AtMost, DecidedBy, Direction, Equivalent, Interaction, Missing, Monotone, Over, Point, Precondition,
    Rule, Shares, Sides, Trend, Value,
};
pub use shipped::{find, shipped};
pub use timing::ActivationCost;
pub use verdict::{Assessment, Checked, Decision, Setting, State, Verdict, assess, assess_untimed};

#[cfg(test)]
mod tests;
