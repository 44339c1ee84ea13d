//! What can be wrong with a feed-forward section of a configuration.

use thiserror::Error;

use crate::section::MAX_WIDTH;
use crate::{Activation, FfnKindName, FfnPreset};

/// Why an [`FfnSection`](crate::FfnSection) describes no block. Each message says what to do;
/// [`key`](FfnError::key) says where.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum FfnError {
    /// A preset together with a key that spells a block out.
    #[error(
        "`preset = \"{preset}\"` already fixes `{key}`: remove `{key}`, or remove `preset` and spell the block out"
    )]
    PresetAndSpelledOut {
        /// The preset.
        preset: FfnPreset,
        /// The key that clashes with it.
        key: &'static str,
    },
    /// An activation without a kind.
    #[error("`{key}` has no effect without `kind`: add kind = \"{kind}\"")]
    KindMissing {
        /// The activation's key.
        key: &'static str,
        /// The kind that reads this key.
        kind: FfnKindName,
    },
    /// A kind without one of its activations.
    #[error("kind = \"{kind}\" needs `{key}`, for example {key} = \"silu\"")]
    ActivationMissing {
        /// The kind.
        kind: FfnKindName,
        /// The missing key.
        key: &'static str,
    },
    /// An activation that belongs to the other kind.
    #[error("kind = \"{kind}\" has no `{key}`: remove it, or set kind = \"{other}\"")]
    ActivationOfOtherKind {
        /// The kind.
        kind: FfnKindName,
        /// The key that is too many.
        key: &'static str,
        /// The kind that reads this key.
        other: FfnKindName,
    },
    /// Swish with an unusable parameter.
    #[error("`{key}`: swish needs a finite beta between -{max} and {max}, not {beta}", max = Activation::MAX_BETA)]
    Beta {
        /// The activation's key.
        key: &'static str,
        /// The parameter as given.
        beta: f64,
    },
    /// A width given twice.
    #[error("`width` has both `exact` and `param_matched`: keep one of them")]
    WidthTwice,
    /// No width at all.
    #[error("`width` needs `exact` or `param_matched`, for example width = {{ param_matched = 4.0 }}")]
    WidthMissing,
    /// An exact width together with a rounding rule.
    #[error("`multiple_of` rounds a matched width and has no effect on `exact`: remove one of them")]
    RoundedExact,
    /// A width or multiple that must be positive.
    #[error("`{key}` must be at least 1")]
    Zero {
        /// The key.
        key: &'static str,
    },
    /// A ratio that is no ratio.
    #[error(
        "`param_matched` must be a positive, finite ratio of d_ff to d_model (4.0 is usual), not {ratio}"
    )]
    Ratio {
        /// The ratio as given.
        ratio: f64,
    },
    /// A width that nothing could be built with.
    #[error("`{key}` gives a width above {MAX_WIDTH}, the largest supported: make it smaller")]
    TooWide {
        /// The key.
        key: &'static str,
    },
}

impl FfnError {
    /// The offending key as written in the file, dotted from the section's root. Where a key is
    /// missing it is the one that asks for it. `d_model` is the caller's own.
    pub fn key(&self) -> &'static str {
        match self {
            Self::PresetAndSpelledOut { .. } => "preset",
            Self::ActivationMissing { .. } => "kind",
            Self::KindMissing { key, .. }
            | Self::ActivationOfOtherKind { key, .. }
            | Self::Beta { key, .. }
            | Self::Zero { key }
            | Self::TooWide { key } => key,
            Self::WidthTwice | Self::WidthMissing => "width",
            Self::RoundedExact => "width.multiple_of",
            Self::Ratio { .. } => "width.param_matched",
        }
    }
}
