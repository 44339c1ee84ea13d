//! The precision section of a run's configuration: a preset, changed key by key.

use candle_core::DType;
use numerics::{NumericFormat, Scaling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operand::{OperandSection, block_of};
use super::{PrecisionPreset, Recipe, RecipeError};

/// `[precision]`: the formats in which a model is trained and evaluated. Left empty, everything is f32.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrecisionSection {
    /// The recipe to start from; every other key changes one thing in it. "fp32" if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<PrecisionPreset>,
    /// Type between operations (results of products, norms, attention, activations): "fp32", "bf16" or "fp16".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<StoredType>,
    /// Type of the residual stream: "fp32", "bf16" or "fp16".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual: Option<StoredType>,
    /// Type inside the activation function: "fp32" (widen, evaluate, round once) or "compute" (every operation inside it
    /// is rounded to the type between operations).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationType>,
    /// Whose weight products keep operands of the type between operations: any of "attention", "ffn", "lm_head".
    /// Embedding and norms are not products and are never quantised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip: Option<Vec<Component>>,
    /// Loss scaling: "none" or "dynamic".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scaling: Option<LossScaling>,
    /// A norm before the output projection of attention and before the down projection (BitNet's SubLN).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_norm: Option<bool>,
    /// Smooth-SwiGLU (Fishman et al. 2024): scale every channel of a gated block's product before it is quantised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smooth: Option<bool>,
    /// Steps between two looks at the health of the quantised tensors; 0 turns them off. 100 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_every: Option<u64>,
    /// Weights, as operands of products.
    #[serde(skip_serializing_if = "OperandSection::is_empty")]
    pub weight: OperandSection,
    /// Inputs of weight products.
    #[serde(skip_serializing_if = "OperandSection::is_empty")]
    pub input: OperandSection,
    /// The input of the down projection, where it differs from `input`.
    #[serde(skip_serializing_if = "OperandSection::is_empty")]
    pub down_input: OperandSection,
    /// Gradients of the results of weight products.
    #[serde(skip_serializing_if = "OperandSection::is_empty")]
    pub grad: OperandSection,
    /// How the weights are stored between steps: "fp32" (master weights), "bf16" or "fp16".
    #[serde(skip_serializing_if = "OperandSection::is_empty")]
    pub master: OperandSection,
    /// How AdamW's first moment is stored: "fp32", "bf16" or an FP8 format.
    #[serde(skip_serializing_if = "OperandSection::is_empty")]
    pub first_moment: OperandSection,
    /// How AdamW's second moment is stored: "fp32", "bf16" or an FP8 format.
    #[serde(skip_serializing_if = "OperandSection::is_empty")]
    pub second_moment: OperandSection,
}

/// A type in which tensors are stored between operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoredType {
    /// f32.
    Fp32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
}

impl StoredType {
    /// The format that values are rounded to.
    pub const fn format(self) -> NumericFormat {
        match self {
            Self::Fp32 => NumericFormat::Fp32,
            Self::Bf16 => NumericFormat::Bf16,
            Self::Fp16 => NumericFormat::Fp16,
        }
    }

    /// The same as Candle's type.
    pub const fn dtype(self) -> DType {
        match self {
            Self::Fp32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Fp16 => DType::F16,
        }
    }
}

/// Type inside the activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationType {
    /// Widened to f32, evaluated, rounded once.
    Fp32,
    /// Every operation inside is rounded to the type between operations.
    Compute,
}

/// A part of the model whose products a recipe may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// The projections of attention.
    Attention,
    /// The projections of the feed-forward block.
    Ffn,
    /// The output head.
    LmHead,
}

/// Scaling of the loss, against gradients too small for their format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossScaling {
    /// None.
    None,
    /// Starts at 2^16, halves when a gradient overflows (that step is skipped), doubles after 200 steps without
    /// (Micikevicius et al. 2018, arXiv 1710.03740).
    Dynamic,
}

impl PrecisionSection {
    /// Whether the section says nothing, so that it need not be written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same section without a preset that changes nothing, so that asking for f32 by name is the same as not asking.
    #[must_use]
    pub fn normalised(self) -> Self {
        let preset = self.preset.filter(|preset| *preset != PrecisionPreset::Fp32);
        Self { preset, ..self }
    }

    /// Steps between two looks at the health of quantised tensors; 0: never.
    pub fn health_every(&self) -> u64 {
        self.health_every.unwrap_or(100)
    }

    /// The recipe: the preset with what the section changes.
    ///
    /// # Errors
    /// Keys that contradict each other or have no effect.
    pub fn resolve(&self) -> Result<Recipe, RecipeError> {
        let preset = self.preset.unwrap_or(PrecisionPreset::Fp32);
        let base = preset.recipe();
        let mut recipe = Recipe {
            name: String::new(),
            weight: self.weight.over("weight", base.weight)?,
            input: self.input.over("input", base.input)?,
            down_input: self.down_input.over("down_input", self.input.over("input", base.down_input)?)?,
            grad: self.grad.over("grad", base.grad)?,
            compute: self.compute.unwrap_or(base.compute),
            residual: self.residual.unwrap_or(base.residual),
            activation: self.activation.unwrap_or(base.activation),
            skip: self.skip.clone().unwrap_or_else(|| base.skip.clone()),
            master: self.master.over("master", base.master)?,
            first_moment: self.first_moment.over("first_moment", base.first_moment)?,
            second_moment: self.second_moment.over("second_moment", base.second_moment)?,
            loss_scaling: self.loss_scaling.unwrap_or(base.loss_scaling),
            sub_norm: self.sub_norm.unwrap_or(base.sub_norm),
            smooth: self.smooth.unwrap_or(base.smooth),
        };
        recipe.name = base.name.clone();
        if recipe != base {
            recipe.name += " (changed)";
        }
        check(&recipe)?;
        Ok(recipe)
    }
}

/// What can be said of a recipe without knowing the model.
fn check(recipe: &Recipe) -> Result<(), RecipeError> {
    let error = |key, reason: String| Err(RecipeError { key, reason });
    if recipe.activation == ActivationType::Compute && recipe.compute == StoredType::Fp32 {
        let reason = "the type between operations is fp32 already; set `compute` to bf16 or fp16, or remove `activation`";
        return error("activation", reason.to_owned());
    }
    let storable = [StoredType::Fp32, StoredType::Bf16, StoredType::Fp16].map(StoredType::format);
    if !storable.contains(&recipe.master.format) || recipe.master.scaling != Scaling::None {
        let reason = format!(
            "weights can be stored as fp32, bf16 or fp16 without a scale, not as {}",
            recipe.master.format
        );
        return error("master", reason);
    }
    for (key, moment) in [("first_moment", &recipe.first_moment), ("second_moment", &recipe.second_moment)] {
        if matches!(moment.scaling, Scaling::Delayed { .. }) {
            return error(
                key,
                "moments are stored, not predicted: use scaling = \"tensor\" or \"row\"".to_owned(),
            );
        }
    }
    for (key, operand) in [
        ("weight", &recipe.weight),
        ("input", &recipe.input),
        ("down_input", &recipe.down_input),
        ("grad", &recipe.grad),
        ("master", &recipe.master),
        ("first_moment", &recipe.first_moment),
        ("second_moment", &recipe.second_moment),
    ] {
        if let Err(reason) = operand.validate() {
            return error(key, reason.to_string());
        }
    }
    if recipe.smooth && recipe.down_input.scaling == Scaling::None {
        let reason = "without a scaled `down_input` there is nothing to smooth; choose an FP8 preset, or remove `smooth`";
        return error("smooth", reason.to_owned());
    }
    let scaled =
        [recipe.weight, recipe.input, recipe.down_input, recipe.grad].map(|spec| block_of(&spec.scaling));
    let mut sizes = scaled.into_iter().flatten();
    if let Some(first) = sizes.next()
        && let Some(other) = sizes.find(|size| *size != first)
    {
        let reason = format!(
            "blocks of {first} and of {other} meet in one product; give all operands the same `block`"
        );
        return error("weight.block", reason);
    }
    Ok(())
}

impl From<&Recipe> for PrecisionSection {
    /// Every key spelled out, without a preset: what a user would write to get this recipe from nothing.
    fn from(recipe: &Recipe) -> Self {
        let down_input = if recipe.down_input == recipe.input {
            OperandSection::default()
        } else {
            OperandSection::from(&recipe.down_input)
        };
        Self {
            preset: None,
            compute: Some(recipe.compute),
            residual: Some(recipe.residual),
            activation: Some(recipe.activation),
            skip: Some(recipe.skip.clone()),
            loss_scaling: Some(recipe.loss_scaling),
            sub_norm: Some(recipe.sub_norm),
            smooth: Some(recipe.smooth),
            health_every: None,
            weight: OperandSection::from(&recipe.weight),
            input: OperandSection::from(&recipe.input),
            down_input,
            grad: OperandSection::from(&recipe.grad),
            master: OperandSection::from(&recipe.master),
            first_moment: OperandSection::from(&recipe.first_moment),
            second_moment: OperandSection::from(&recipe.second_moment),
        }
    }
}
