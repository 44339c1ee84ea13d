//! One operand of weight products in a configuration: its format and how it is scaled.

use numerics::{NumericFormat, Overflow, QuantSpec, RoundingMode, ScaleKind, Scaling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RecipeError;

/// How the scales of a format are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScalingName {
    /// No scale.
    None,
    /// One scale per tensor, from its own maximum.
    Tensor,
    /// One scale per tensor, from the maxima of earlier steps (`history`, `margin`).
    Delayed,
    /// One scale per row: per token of an input, per output of a weight.
    Row,
    /// One scale per run of `block` values along the sum.
    Block,
    /// One scale per square of `block` x `block` values.
    Block2d,
    /// OCP microscaling: a power of two per 32 values along the sum.
    Mx,
    /// NVFP4: an E4M3 scale per 16 values along the sum and an f32 scale per tensor.
    Nvfp4,
    /// NVFP4 for weights: the E4M3 scale is shared by 16 x 16 values.
    Nvfp4Weight,
    /// The mean magnitude of the tensor (BitNet b1.58).
    Absmean,
    /// The median magnitude of the tensor.
    Absmedian,
}

/// One operand: a format and how it is scaled. Keys left out are the preset's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OperandSection {
    /// "fp32", "tf32", "bf16", "fp16", "e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "int8", "int4" or "ternary".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<NumericFormat>,
    /// How scales are chosen. Without it a `format` of 16 bits or more is not scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingName>,
    /// Values per block, for "block" and "block2d". 128 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// Steps whose maxima count, for "delayed". 1024 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<usize>,
    /// Powers of two of head-room, for "delayed". 0 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<i32>,
    /// "float" or "power_of_two".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleKind>,
    /// "nearest_even", "stochastic" or "toward_zero".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<RoundingMode>,
    /// Values beyond the format's range: "saturate", or "propagate" as infinity (NaN where the format has none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
}

/// Values per block when nothing else is said (DeepSeek-V3, arXiv 2412.19437).
const BLOCK: usize = 128;
/// Length of the history when nothing else is said (Transformer Engine).
const HISTORY: usize = 1024;

impl OperandSection {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The operand that the section describes on its own.
    ///
    /// # Errors
    /// Keys that have no effect.
    pub fn resolve(&self) -> Result<QuantSpec, RecipeError> {
        let format = self.format.unwrap_or(NumericFormat::Fp32);
        self.over("format", QuantSpec::unscaled(format))
    }

    /// `base` with what the section changes.
    pub(super) fn over(&self, key: &'static str, base: QuantSpec) -> Result<QuantSpec, RecipeError> {
        let format = self.format.unwrap_or(base.format);
        let scaling = match self.scaling {
            Some(name) => self.scaling_of(name),
            // Another format of 16 bits or more needs no scale; another small one keeps the preset's.
            None if self.format.is_some() && format.bits() >= 16 => Scaling::None,
            None => self.adjusted(base.scaling),
        };
        let unused = |name: &str, reader: &str| RecipeError {
            key,
            reason: format!("`{name}` is only read with scaling = {reader}; remove it, or set that"),
        };
        if self.block.is_some() && block_of(&scaling).is_none() {
            return Err(unused("block", "\"block\" or \"block2d\""));
        }
        let delayed = matches!(scaling, Scaling::Delayed { .. });
        for (name, given) in [("history", self.history.is_some()), ("margin", self.margin.is_some())] {
            if given && !delayed {
                return Err(unused(name, "\"delayed\""));
            }
        }
        Ok(QuantSpec {
            format,
            scaling,
            scale: self.scale.unwrap_or(base.scale),
            rounding: self.rounding.unwrap_or(base.rounding),
            overflow: self.overflow.unwrap_or(if format == base.format {
                base.overflow
            } else {
                QuantSpec::unscaled(format).overflow
            }),
        })
    }

    fn scaling_of(&self, name: ScalingName) -> Scaling {
        let block = self.block.unwrap_or(BLOCK);
        match name {
            ScalingName::None => Scaling::None,
            ScalingName::Tensor => Scaling::Tensor,
            ScalingName::Delayed => Scaling::Delayed {
                history: self.history.unwrap_or(HISTORY),
                margin: self.margin.unwrap_or(0),
            },
            ScalingName::Row => Scaling::Row,
            ScalingName::Block => Scaling::Block { size: block },
            ScalingName::Block2d => Scaling::Block2d { rows: block, cols: block },
            ScalingName::Mx => Scaling::Mx,
            ScalingName::Nvfp4 => Scaling::Nvfp4,
            ScalingName::Nvfp4Weight => Scaling::Nvfp4Weight,
            ScalingName::Absmean => Scaling::Absmean,
            ScalingName::Absmedian => Scaling::Absmedian,
        }
    }

    /// The preset's scaling with its parameters changed.
    fn adjusted(&self, base: Scaling) -> Scaling {
        match base {
            Scaling::Delayed { history, margin } => Scaling::Delayed {
                history: self.history.unwrap_or(history),
                margin: self.margin.unwrap_or(margin),
            },
            Scaling::Block { size } => Scaling::Block { size: self.block.unwrap_or(size) },
            Scaling::Block2d { rows, cols } => {
                Scaling::Block2d { rows: self.block.unwrap_or(rows), cols: self.block.unwrap_or(cols) }
            }
            Scaling::None
            | Scaling::Tensor
            | Scaling::Row
            | Scaling::Mx
            | Scaling::Nvfp4
            | Scaling::Nvfp4Weight
            | Scaling::Absmean
            | Scaling::Absmedian => base,
        }
    }
}

impl From<&QuantSpec> for OperandSection {
    fn from(spec: &QuantSpec) -> Self {
        let mut section = Self {
            format: Some(spec.format),
            scaling: None,
            block: None,
            history: None,
            margin: None,
            scale: None,
            rounding: Some(spec.rounding),
            overflow: Some(spec.overflow),
        };
        let (name, has_f32_scale) = match spec.scaling {
            Scaling::None => (ScalingName::None, false),
            Scaling::Tensor => (ScalingName::Tensor, true),
            Scaling::Delayed { history, margin } => {
                (section.history, section.margin) = (Some(history), Some(margin));
                (ScalingName::Delayed, true)
            }
            Scaling::Row => (ScalingName::Row, true),
            Scaling::Block { size } => {
                section.block = Some(size);
                (ScalingName::Block, true)
            }
            Scaling::Block2d { cols, .. } => {
                section.block = Some(cols);
                (ScalingName::Block2d, true)
            }
            Scaling::Mx => (ScalingName::Mx, false),
            Scaling::Nvfp4 => (ScalingName::Nvfp4, false),
            Scaling::Nvfp4Weight => (ScalingName::Nvfp4Weight, false),
            Scaling::Absmean => (ScalingName::Absmean, false),
            Scaling::Absmedian => (ScalingName::Absmedian, false),
        };
        section.scaling = Some(name);
        section.scale = has_f32_scale.then_some(spec.scale);
        section
    }
}

/// Length along the sum of blocks whose scales are applied to sums.
pub(super) fn block_of(scaling: &Scaling) -> Option<usize> {
    match scaling {
        Scaling::Block { size } => Some(*size),
        Scaling::Block2d { cols, .. } => Some(*cols),
        Scaling::None
        | Scaling::Tensor
        | Scaling::Delayed { .. }
        | Scaling::Row
        | Scaling::Mx
        | Scaling::Nvfp4
        | Scaling::Nvfp4Weight
        | Scaling::Absmean
        | Scaling::Absmedian => None,
    }
}
