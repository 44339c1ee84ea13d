//! Training of small language models that differ only in their feed-forward block or its precision.
//!
//! One training step reads: [`config::RunConfig`] -> [`data::TokenBatches`] -> [`model::Transformer`] ->
//! `ffn_variants::Ffn` -> `ffn_variants::Linear` -> loss -> [`optim::AdamW`] -> [`record`].

pub mod config;
pub mod cores;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod hf_export;
pub mod host;
pub mod loaded;
pub mod loss_scale;
pub mod memory;
pub mod model;
pub mod optim;
pub mod probe;
pub mod record;
pub mod rng;
pub mod schedule;
pub mod session;
pub mod stress;
pub mod tokenizer;
pub mod trainer;
