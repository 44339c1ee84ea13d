//! Feed-forward variants: activations, gated and ungated blocks, and the linear layer they share.
//!
//! From the configuration file to the tensors: an [`FfnSection`] is what a user may write; with the
//! model's width it resolves to an [`FfnConfig`], whose [`FfnKind`] and widths are settled and which
//! counts its own parameters and operations; an [`Ffn`] is that block as a module, made of
//! [`Linear`] layers and [`Activation`]s.
//!
//! Every activation exists three times, each compared with the first: the `f64` oracle
//! ([`Activation::value_f64`], [`Activation::derivative_f64`]), the Candle reference
//! ([`Activation::forward`]) and the fused `f32` loops (its [`kernels::Pointwise`]).
//! [`Kernels::Reference`](kernels::Kernels) computes a block with Candle operations only.

mod activation;
mod deserialize;
mod normal;
mod oracle;
mod pointwise;
mod reference;

mod kind;

mod config;
mod error;
mod section;

pub mod precision;

mod ffn;
mod inside;
mod linear;
mod norm;

pub use activation::Activation;
pub use config::{FfnConfig, FfnFlops};
pub use error::FfnError;
pub use ffn::{Ffn, FfnInit};
pub use inside::{Branch, BranchName, FfnInside};
pub use kind::{FfnKind, FfnPreset};
pub use linear::Linear;
pub use norm::RmsNorm;
pub use precision::{Precision, PrecisionPreset, PrecisionSection, Recipe};
pub use section::{FfnKindName, FfnSection, FfnWidth};
