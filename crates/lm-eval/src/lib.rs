//! What trained runs came to: perplexity, statistics over seeds, comparisons between variants, divergence of two runs, plots,
//! reports, published figures, verdicts on published claims; tables for other tools; the search for learning rates; and the
//! same statistics for anybody's results.

pub mod stats;

pub mod analysis;
pub mod claims;
pub mod compare;
pub mod diverge;
pub mod frame;
pub mod perplexity;
pub mod plots;
pub mod probe;
pub mod report;
pub mod sample;
pub mod shazeer;
pub mod text_interval;
pub mod tune;

mod plain;
