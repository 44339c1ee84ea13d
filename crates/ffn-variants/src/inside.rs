//! What a feed-forward block holds between its projections, for probes.

use std::fmt;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::Activation;

/// The inside of one forward pass of a block, from [`Ffn::inside`](crate::Ffn::inside).
#[derive(Debug, Clone)]
pub struct FfnInside {
    /// What the activations were applied to, gate first.
    pub branches: Vec<Branch>,
    /// What enters the down projection, `[.., d_ff]`: the product of the activated branches, rounded to the type
    /// between operations and normed where a recipe has a norm there. A recipe that quantises the operand of the down
    /// projection does so behind this point.
    pub hidden: Tensor,
}

/// One branch before its activation.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Which one.
    pub name: BranchName,
    /// The function it goes through.
    pub activation: Activation,
    /// The result of its projection, `[.., d_ff]`.
    pub preactivation: Tensor,
}

/// A branch of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchName {
    /// The gate projection of a gated block.
    Gate,
    /// The up projection: of a gated block, or the only one.
    Up,
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gate => "gate",
            Self::Up => "up",
        })
    }
}
