//! What trained runs came to: perplexity, statistics over seeds, comparisons between variants, divergence of two runs,
//! published figures.

pub mod stats;

pub mod compare;
pub mod diverge;
pub mod perplexity;
pub mod sample;
pub mod shazeer;
