//! What trained runs came to: perplexity, statistics over seeds, comparisons between variants, published figures.

pub mod stats;

pub mod compare;
pub mod perplexity;
pub mod sample;
pub mod shazeer;
