//! The feed-forward section of a run's configuration: what may be written, and what it means.
//!
//! A block is either a preset or spelled out; its width is either exact or matched in parameters to
//! an ungated block. What is left out has one meaning, contradictions are errors, and nothing is
//! silently ignored.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Activation, FfnConfig, FfnError, FfnKind, FfnPreset};

/// The largest width accepted, for `d_model` and `d_ff` alike: with it no count overflows.
pub(crate) const MAX_WIDTH: usize = 1 << 24;

/// The feed-forward block, by preset or spelled out. Left empty it is SwiGLU with the parameters
/// of an ungated block four times as wide as the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FfnSection {
    /// A published block by name, such as "swiglu" (the default), "geglu" or "relu_squared".
    /// Leave it out to spell the block out with `kind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<FfnPreset>,
    /// "ungated": activation(x W_up) W_down. "gated": (gate(x W_gate) * up(x W_up)) W_down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<FfnKindName>,
    /// The activation of an ungated block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// The activation of a gated block's gate branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Activation>,
    /// The activation of a gated block's up branch. "identity" if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<Activation>,
    /// The hidden width d_ff, exact or matched. { param_matched = 4.0 } if left out.
    pub width: FfnWidth,
}

/// The kind of a block that is spelled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FfnKindName {
    /// Two matrices and one activation.
    Ungated,
    /// Three matrices; the product of two activated branches.
    Gated,
}

impl FfnKindName {
    /// The name used in configuration files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ungated => "ungated",
            Self::Gated => "gated",
        }
    }
}

impl fmt::Display for FfnKindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The hidden width: `{ exact = 512 }`, or `{ param_matched = 4.0, multiple_of = 16 }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { exact = 512 } or { param_matched = 4.0, multiple_of = 16 }"
)]
pub struct FfnWidth {
    /// d_ff itself, whatever the kind of block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<usize>,
    /// Give the block as many parameters as an ungated one with d_ff = param_matched * d_model.
    /// A gated block has three matrices instead of two and gets 2/3 of that width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param_matched: Option<f64>,
    /// Round a matched width to the nearest multiple of this. 1 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiple_of: Option<usize>,
}

/// Matched to an ungated block four times as wide as the model.
impl Default for FfnWidth {
    fn default() -> Self {
        Self { exact: None, param_matched: Some(4.0), multiple_of: None }
    }
}

impl FfnSection {
    /// The block this section describes in a model of width `d_model`.
    ///
    /// # Errors
    ///
    /// If keys contradict each other, one is missing or a number is out of range.
    pub fn resolve(&self, d_model: usize) -> Result<FfnConfig, FfnError> {
        let kind = self.resolve_kind()?;
        if d_model == 0 {
            return Err(FfnError::Zero { key: "d_model" });
        }
        if d_model > MAX_WIDTH {
            return Err(FfnError::TooWide { key: "d_model" });
        }
        let d_ff = self.width.resolve(&kind, d_model)?;
        Ok(FfnConfig { kind, d_model, d_ff })
    }

    fn resolve_kind(&self) -> Result<FfnKind, FfnError> {
        for (key, _, activation) in self.written_activations() {
            if let Activation::Swish { beta } = activation
                && !(-Activation::MAX_BETA..=Activation::MAX_BETA).contains(&beta)
            {
                return Err(FfnError::Beta { key, beta });
            }
        }
        match (self.preset, self.kind) {
            (Some(preset), kind) => {
                let activation = self.written_activations().next().map(|(key, ..)| key);
                match kind.map(|_| "kind").or(activation) {
                    Some(key) => Err(FfnError::PresetAndSpelledOut { preset, key }),
                    None => Ok(preset.kind()),
                }
            }
            (None, None) => match self.written_activations().next() {
                Some((key, kind, _)) => Err(FfnError::KindMissing { key, kind }),
                None => Ok(FfnPreset::Swiglu.kind()),
            },
            (None, Some(kind)) => self.spelled_out(kind),
        }
    }

    fn spelled_out(&self, kind: FfnKindName) -> Result<FfnKind, FfnError> {
        let mut written = self.written_activations();
        if let Some((key, other, _)) = written.find(|(_, reader, _)| *reader != kind) {
            return Err(FfnError::ActivationOfOtherKind { kind, key, other });
        }
        let missing = |key| FfnError::ActivationMissing { kind, key };
        Ok(match kind {
            FfnKindName::Ungated => {
                FfnKind::Ungated { activation: self.activation.ok_or(missing("activation"))? }
            }
            FfnKindName::Gated => FfnKind::Gated {
                gate: self.gate.ok_or(missing("gate"))?,
                up: self.up.unwrap_or(Activation::Identity),
            },
        })
    }

    /// The activations that are written down: the key, the kind that reads it, the value.
    fn written_activations(&self) -> impl Iterator<Item = (&'static str, FfnKindName, Activation)> {
        [
            ("activation", FfnKindName::Ungated, self.activation),
            ("gate", FfnKindName::Gated, self.gate),
            ("up", FfnKindName::Gated, self.up),
        ]
        .into_iter()
        .filter_map(|(key, kind, activation)| Some((key, kind, activation?)))
    }
}

impl FfnWidth {
    fn resolve(&self, kind: &FfnKind, d_model: usize) -> Result<usize, FfnError> {
        match (self.exact, self.param_matched) {
            (Some(_), Some(_)) => Err(FfnError::WidthTwice),
            (None, None) => Err(FfnError::WidthMissing),
            (Some(exact), None) => {
                if self.multiple_of.is_some() {
                    return Err(FfnError::RoundedExact);
                }
                within_range("width.exact", exact)
            }
            (None, Some(ratio)) => {
                if !(ratio.is_finite() && ratio > 0.0) {
                    return Err(FfnError::Ratio { ratio });
                }
                let multiple = within_range("width.multiple_of", self.multiple_of.unwrap_or(1))?;
                let d_ff = matched_width(kind, d_model, ratio, multiple);
                within_range("width.param_matched", d_ff)
            }
        }
    }
}

/// The multiple of `multiple_of` (at least one) nearest to the width at which a block has the
/// parameters of an ungated one with `d_ff = ratio * d_model`; ties go up.
///
/// Equal parameters mean `num_matrices * d_model * d_ff = 2 * d_model * (ratio * d_model)`.
fn matched_width(kind: &FfnKind, d_model: usize, ratio: f64, multiple_of: usize) -> usize {
    let exact = 2.0 * ratio * d_model as f64 / kind.num_matrices() as f64;
    let multiples = (exact / multiple_of as f64 + 0.5).floor().max(1.0);
    // The conversion saturates; what is too wide is refused by the caller.
    (multiples as usize).saturating_mul(multiple_of)
}

fn within_range(key: &'static str, width: usize) -> Result<usize, FfnError> {
    match width {
        0 => Err(FfnError::Zero { key }),
        1..=MAX_WIDTH => Ok(width),
        _ => Err(FfnError::TooWide { key }),
    }
}
