//! Statistics over seeds: what a handful of runs says about a variant, and how sure that is.
//!
//! Pure f64 arithmetic on plain slices; nothing here knows models, files or tables. Where the data cannot carry a
//! spread, an interval or a p-value (one seed, no spread at all), the answer is `None` or a [`Refusal`] that says why,
//! never a made-up number. What is drawn at random is drawn by a key that the caller gives.
//!
//! | question | answer |
//! |---|---|
//! | how large is it, how sure | [`Estimate`], [`t_interval`], [`bca_mean`]; over documents [`document_loss`] |
//! | do two variants differ, runs paired by seed | [`paired_differences`], [`Effect::of_mean`], [`sign_flip()`], [`wilcoxon_signed_rank`] |
//! | the same, independent runs | [`Effect::of_difference`], [`label_permutation()`], [`wilcoxon_rank_sum`] |
//! | are they alike | [`two_one_sided_tests`] |
//! | several comparisons at once | [`holm()`] |
//! | what could so many seeds have shown | [`detectable`], [`Design`], [`pairing_gain`] |
//! | where does the variance come from | [`decompose`] |

pub mod estimate;
pub mod interval;
pub mod refusal;

pub mod bca;
pub mod documents;
pub mod resampling;

pub mod effect;
pub mod equivalence;
pub mod paired;
pub mod pairing;

pub mod label_permutation;
pub mod randomisation;
pub mod rank_sum;
pub mod sign_flip;
pub mod wilcoxon;

pub mod holm;
pub mod noncentral_t;
pub mod power;

pub mod decomposition;

mod distributions;
mod ranks;

pub use bca::{Bca, bca, bca_mean};
pub use decomposition::{Decomposition, Factor, Source, Term, decompose};
pub use documents::{Document, DocumentInterval, document_difference, document_loss};
pub use effect::{Effect, TTest, t_interval};
pub use equivalence::{Equivalence, two_one_sided_tests};
pub use estimate::{Estimate, mean, sample_sd, sd_factors};
pub use holm::{Holm, holm};
pub use interval::Interval;
pub use label_permutation::label_permutation;
pub use paired::{PairedDifference, paired_differences};
pub use pairing::{PairingGain, pairing_gain};
pub use power::{Design, Detectable, SeedsNeeded, detectable};
pub use randomisation::{Distribution, RandomisationTest};
pub use rank_sum::wilcoxon_rank_sum;
pub use refusal::Refusal;
pub use resampling::Resampling;
pub use sign_flip::sign_flip;
pub use wilcoxon::wilcoxon_signed_rank;

/// Below this many values a spread and an interval are formally right and practically weak: with n values the sample
/// standard deviation is itself uncertain by about 1 / sqrt(2 (n - 1)), 50 % at n = 3 (Ahn & Fessler 2003).
pub const FEW: usize = 5;
