//! The decoder-only transformer: Llama's layout with the feed-forward block left open.

mod attention;
mod dropout;
mod params;
mod transformer;

pub use dropout::Dropout;
pub use params::{NamedVar, ParamStore};
pub use transformer::{BlockProbe, Transformer, count_params, flops_per_token};
