//! The memory of delayed scaling.

use serde::{Deserialize, Serialize};

use crate::format::{NumericFormat, pow2};
use crate::scale::MIN_SCALE;

/// The largest magnitudes of the last tensors in one place of a model, and the scale that follows from them.
///
/// Transformer Engine's rule (its "max" algorithm): scale = max(history) 2^margin / largest value of the
/// format. A new history has no scale: push the first tensor's own amax before its first use. It is part of a
/// checkpoint.
///
/// ```
/// use numerics::{DelayedScale, NumericFormat};
/// let mut delayed = DelayedScale::new(2, 0);
/// assert_eq!(delayed.scale(NumericFormat::E4m3), None);
/// delayed.push(448.0);
/// delayed.push(56.0);
/// assert_eq!(delayed.scale(NumericFormat::E4m3), Some(1.0));
/// delayed.push(28.0); // 448 is forgotten
/// assert_eq!(delayed.scale(NumericFormat::E4m3), Some(0.125));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelayedScale {
    /// Newest last; at most `length`.
    history: Vec<f32>,
    length: usize,
    margin: i32,
}

impl DelayedScale {
    /// An empty history of up to `history` tensors (at least one).
    pub fn new(history: usize, margin: i32) -> Self {
        Self { history: Vec::new(), length: history.max(1), margin }
    }

    /// Remembers a tensor's largest finite magnitude, and forgets the oldest. NaN and infinity are not
    /// remembered: a broken step must not spoil the scale of the next thousand.
    pub fn push(&mut self, amax: f32) {
        if !amax.is_finite() {
            return;
        }
        if self.history.len() >= self.length {
            self.history.remove(0);
        }
        self.history.push(amax);
    }

    /// The scale for the next tensor, within the bounds that all fp32 scales have; `None` before the first
    /// [`push`](Self::push). A history of zeros gives 1.
    pub fn scale(&self, format: NumericFormat) -> Option<f32> {
        let amax = self.history.iter().copied().reduce(f32::max)?;
        if amax == 0.0 {
            return Some(1.0);
        }
        let scale = f64::from(amax) * pow2(self.margin.clamp(-300, 300)) / f64::from(format.max_finite());
        Some((scale as f32).clamp(MIN_SCALE, f32::MAX))
    }

    /// The largest magnitudes that are remembered, oldest first.
    pub fn history(&self) -> &[f32] {
        &self.history
    }
}
