//! What feed-forward blocks do inside: figures cheap enough to be taken during training. The full probe of a trained
//! run, in `lm-eval`, is built on the same sums.
//!
//! Everything is summed in f64 over a single pass of the data; no activation is kept.

pub mod cett;
pub mod prune;

mod active;
mod alignment;
mod bins;
mod figures;
mod moments;
mod sampled;
mod saturation;
mod stats;

pub use active::{ActiveRatio, active_ratio};
pub use alignment::alignment;
pub use bins::Bins;
pub use cett::Sparsity;
pub use figures::{FfnFigures, FfnSums, NonFinite, Threshold, elements, layer_name, sample};
pub use moments::Moments;
pub use prune::{PPL_RISE, PplSparsity, PrunableBlock};
pub use sampled::sampled;
pub use saturation::{SATURATED_BELOW, Saturation, SaturationCount};
pub use stats::TensorStats;
