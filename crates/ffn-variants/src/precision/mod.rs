//! Precision recipes: which tensor is rounded to which number format, when, and with which scale.
//!
//! A [`PrecisionSection`] is what a user may write: a [`PrecisionPreset`] and changes to it. It resolves to a [`Recipe`], in
//! which every question is answered. [`Precision`] is a recipe at work, with the state that some recipes need between
//! steps. [`Linear`](crate::Linear) is where a recipe acts on weight products; between operations it acts through
//! [`Precision::round`].
//!
//! Low precision is *emulated*: tensors stay f32 in memory and hold only values that the format has. What is computed from
//! them is computed in f32. Real hardware differs in the order of sums, in the width of its accumulators within a block of
//! products, and in the last bit of elementary functions.

mod operand;
mod preset;
mod recipe;
mod section;
mod state;

pub use operand::{OperandSection, ScalingName};
pub use preset::{PrecisionPreset, UnknownPrecision};
pub use recipe::{LinearFormats, LinearRole, Recipe, RecipeError, Sizes};
pub use section::{ActivationType, Component, LossScaling, PrecisionSection, StoredType};
pub use state::{Precision, TensorHealth};
