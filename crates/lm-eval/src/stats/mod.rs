//! Statistics over seeds: what a handful of runs says about a variant, and how sure that is.
//!
//! Pure f64 arithmetic on plain slices; nothing here knows models, files or tables. Where the data cannot carry a
//! spread, an interval or a p-value (one seed, no spread at all), the answer is `None`, never a made-up number.

pub mod estimate;
pub mod paired;

pub use estimate::{Estimate, mean, sample_sd};
pub use paired::{PairedDifference, paired_differences};

/// Below this many values a spread and an interval are formally right and practically weak: with n values the sample
/// standard deviation is itself uncertain by about 1 / sqrt(2 (n - 1)), 50 % at n = 3 (Ahn & Fessler 2003).
pub const FEW: usize = 5;
