//! Where an activation's derivative has (nearly) vanished, so that no gradient passes.

use ffn_variants::{Activation, BranchName};
use serde::{Deserialize, Serialize};

/// A derivative of less than this size counts as vanished. Exactly zero for ReLU-like functions, but for the
/// 5e-4 before the kink of a squared ReLU; a sigmoid comes below it at |x| = 6.9, the slope of a leaky ReLU does not.
pub const SATURATED_BELOW: f64 = 1e-3;

/// How often the derivative of one branch has vanished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saturation {
    /// The branch.
    pub branch: BranchName,
    /// Its activation.
    pub activation: String,
    /// Share of pre-activations x with |f'(x)| below [`SATURATED_BELOW`].
    pub share: f64,
}

/// Counts over pre-activations.
#[derive(Clone, Debug)]
pub struct SaturationCount {
    branch: BranchName,
    activation: Activation,
    saturated: u64,
    seen: u64,
}

impl SaturationCount {
    /// Nothing seen of a branch.
    pub fn new(branch: BranchName, activation: Activation) -> Self {
        Self { branch, activation, saturated: 0, seen: 0 }
    }

    /// The function whose derivatives are counted.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Adds pre-activations.
    pub fn add(&mut self, preactivations: &[f32]) {
        let vanished = |&&x: &&f32| self.activation.derivative_f64(f64::from(x)).abs() < SATURATED_BELOW;
        self.saturated += preactivations.iter().filter(vanished).count() as u64;
        self.seen += preactivations.len() as u64;
    }

    /// The share.
    pub fn share(&self) -> Saturation {
        Saturation {
            branch: self.branch,
            activation: self.activation.to_string(),
            share: self.saturated as f64 / self.seen.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        let xs = [-8.0, -1.0, 0.0, 2e-4, 1.0, 8.0];
        let share = |activation| {
            let mut count = SaturationCount::new(BranchName::Up, activation);
            count.add(&xs[..3]);
            count.add(&xs[3..]);
            count.share().share * 6.0
        };
        let expected = [
            (Activation::Identity, 0.0),
            (Activation::Relu, 3.0),
            (Activation::Relu6, 4.0),
            (Activation::LeakyRelu, 0.0),
            (Activation::ReluSquared, 4.0),
            (Activation::Sigmoid, 2.0),
            (Activation::Hardswish, 1.0),
            // f'(-8) = -2.3e-3.
            (Activation::Silu, 0.0),
            (Activation::GeluErf, 1.0),
        ];
        for (activation, saturated) in expected {
            assert!((share(activation) - saturated).abs() < 1e-12, "{activation}: {}", share(activation));
        }
    }
}
