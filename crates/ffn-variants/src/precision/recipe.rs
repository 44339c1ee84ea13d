//! A precision recipe with every question answered.

use numerics::{Contraction, NumericFormat, QuantError, QuantSpec, Scaling};
use serde::Serialize;

use super::section::{ActivationType, Component, LossScaling, StoredType};

/// What is computed in which format. [`PrecisionSection::resolve`](super::PrecisionSection::resolve) makes one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// The preset's name; with ` (changed)` behind it when a key differs from the preset.
    pub name: String,
    /// Weights, as operands.
    pub weight: QuantSpec,
    /// Inputs of weight products, as operands.
    pub input: QuantSpec,
    /// The input of the down projection, as operand.
    pub down_input: QuantSpec,
    /// Gradients of the results of weight products, as operands.
    pub grad: QuantSpec,
    /// Type between operations: results of products, norms, rotations, attention and activations, and their gradients.
    pub compute: StoredType,
    /// Type of the residual stream.
    pub residual: StoredType,
    /// Type inside the activation function.
    pub activation: ActivationType,
    /// Whose weight products keep operands of type `compute`.
    pub skip: Vec<Component>,
    /// Storage of the weights between steps.
    pub master: QuantSpec,
    /// Storage of AdamW's first moment.
    pub first_moment: QuantSpec,
    /// Storage of AdamW's second moment.
    pub second_moment: QuantSpec,
    /// Loss scaling.
    pub loss_scaling: LossScaling,
    /// A norm before the output projection of attention and before the down projection (BitNet's SubLN).
    pub sub_norm: bool,
    /// Smooth-SwiGLU: the input of the down projection is scaled channel by channel before it is quantised.
    pub smooth: bool,
}

/// Which weight product a linear layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearRole {
    /// A projection of attention.
    Attention,
    /// From the residual stream into the hidden state of a feed-forward block: gate and up.
    IntoHidden,
    /// The down projection of a feed-forward block.
    Down,
    /// The output head.
    Head,
}

impl LinearRole {
    /// The component that a recipe may leave out.
    fn component(self) -> Component {
        match self {
            Self::Attention => Component::Attention,
            Self::IntoHidden | Self::Down => Component::Ffn,
            Self::Head => Component::LmHead,
        }
    }
}

/// Formats of the operands of one linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearFormats {
    /// Format of its input.
    pub input: QuantSpec,
    /// Format of its weight.
    pub weight: QuantSpec,
    /// Format of the gradient of its result.
    pub grad: QuantSpec,
    /// Whether its input is smoothed.
    pub smooth: bool,
}

/// Sizes that blocks have to divide.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Hidden width of the feed-forward block.
    pub d_ff: usize,
    /// Size of the vocabulary, if it is known yet.
    pub vocab_size: Option<usize>,
    /// Tokens per forward pass in training; 0 when nothing is trained.
    pub tokens: usize,
}

/// Why a recipe cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct RecipeError {
    /// The key at fault, dotted from the section's root.
    pub key: &'static str,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl RecipeError {
    /// The same error with the key in front of the reason, for whoever shows no place.
    #[must_use]
    pub fn in_section(self) -> Self {
        Self { reason: format!("precision.{}: {}", self.key, self.reason), ..self }
    }
}

impl Recipe {
    /// Whether everything is computed and stored in f32.
    pub fn is_full(&self) -> bool {
        let formats = [&self.weight, &self.input, &self.down_input, &self.grad];
        let stored = [&self.master, &self.first_moment, &self.second_moment];
        formats.into_iter().chain(stored).all(|spec| spec.format == NumericFormat::Fp32)
            && self.compute == StoredType::Fp32
            && self.residual == StoredType::Fp32
            && self.loss_scaling == LossScaling::None
            && !self.sub_norm
    }

    /// Formats of the operands of a linear layer; `None` when it is computed in f32.
    pub fn linear(&self, role: LinearRole) -> Option<LinearFormats> {
        let formats = if self.skip.contains(&role.component()) {
            let plain = QuantSpec::unscaled(self.compute.format());
            LinearFormats { input: plain, weight: plain, grad: plain, smooth: false }
        } else {
            let (input, smooth) = match role {
                LinearRole::Attention | LinearRole::IntoHidden | LinearRole::Head => (self.input, false),
                LinearRole::Down => (self.down_input, self.smooth),
            };
            LinearFormats { input, weight: self.weight, grad: self.grad, smooth }
        };
        let full = [&formats.input, &formats.weight, &formats.grad]
            .into_iter()
            .all(|spec| spec.format == NumericFormat::Fp32);
        (!full || self.compute != StoredType::Fp32).then_some(formats)
    }

    /// Whether scales come from earlier steps, so that a model cannot be evaluated without having been trained with
    /// this recipe.
    pub fn needs_history(&self) -> bool {
        [&self.weight, &self.input, &self.down_input, &self.grad]
            .into_iter()
            .any(|spec| matches!(spec.scaling, Scaling::Delayed { .. }))
    }

    /// Checks that blocks divide the widths of every product of a model, forward and backward.
    ///
    /// # Errors
    /// The first operand that does not fit, with its key.
    pub fn check(&self, sizes: Sizes, gated: bool) -> Result<(), RecipeError> {
        let Sizes { d_model, d_ff, vocab_size, tokens } = sizes;
        let lines = tokens.max(1);
        if self.smooth && !gated {
            return Err(RecipeError {
                key: "smooth",
                reason: "Smooth-SwiGLU scales the product of a gated block, and this block has no gate; \
                         choose a gated block, or remove `smooth`"
                    .to_owned(),
            });
        }
        let layers = [
            (LinearRole::Attention, d_model, d_model),
            (LinearRole::IntoHidden, d_model, d_ff),
            (LinearRole::Down, d_ff, d_model),
        ];
        let head = vocab_size.map(|vocab_size| (LinearRole::Head, d_model, vocab_size));
        for (role, d_in, d_out) in layers.into_iter().chain(head) {
            let Some(formats) = self.linear(role) else { continue };
            let input_key = if role == LinearRole::Down { "down_input" } else { "input" };
            fits("weight", &formats.weight, d_out, d_in, Contraction::Columns)?;
            fits(input_key, &formats.input, lines, d_in, Contraction::Columns)?;
            if tokens == 0 {
                continue;
            }
            fits("grad", &formats.grad, tokens, d_out, Contraction::Columns)?;
            if formats.grad.scaling != Scaling::None {
                fits("weight", &formats.weight, d_out, d_in, Contraction::Rows)?;
                fits(input_key, &formats.input, tokens, d_in, Contraction::Rows)?;
                fits("grad", &formats.grad, tokens, d_out, Contraction::Rows)?;
            }
        }
        Ok(())
    }
}

fn fits(
    key: &'static str,
    spec: &QuantSpec,
    rows: usize,
    cols: usize,
    contraction: Contraction,
) -> Result<(), RecipeError> {
    spec.check(rows, cols, contraction)
        .map_err(|error: QuantError| RecipeError { key, reason: error.to_string() })
}
