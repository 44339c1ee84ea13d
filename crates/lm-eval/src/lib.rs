//! What trained runs came to: perplexity, statistics over seeds, comparisons between variants, divergence of two runs,
//! published figures; tables for other tools; the search for learning rates; and the same statistics for anybody's results.

pub mod stats;

pub mod analysis;
pub mod compare;
pub mod diverge;
pub mod frame;
pub mod perplexity;
pub mod sample;
pub mod shazeer;
pub mod tune;

mod plain;
