//! Loss scaling for fp16: gradients are multiplied up so that they do not vanish below the format's smallest number.
//!
//! Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2, with the constants of PyTorch's `GradScaler` but for the growth
//! interval, which fits shorter runs.

use ffn_variants::precision::LossScaling;
use serde::{Deserialize, Serialize};

/// Factor at the start.
const START: f64 = 65_536.0;
/// Steps without overflow after which the factor doubles.
const GROWTH_INTERVAL: u64 = 200;
/// Below this factor an overflow is not the scale's fault.
const LEAST: f64 = 1.0 / 65_536.0;

/// The factor on the loss, and how it moves.
#[derive(Clone, Debug)]
pub struct LossScale {
    kind: LossScaling,
    state: LossScaleState,
}

/// What has to be kept between two sittings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScaleState {
    /// Factor on the loss of the next step, a power of two.
    pub factor: f64,
    /// Steps since the last overflow or growth.
    pub good_steps: u64,
    /// Steps left out so far.
    pub skipped: u64,
}

impl LossScale {
    /// The scale at the start of a run.
    pub fn new(kind: LossScaling) -> Self {
        let factor = match kind {
            LossScaling::None => 1.0,
            LossScaling::Dynamic => START,
        };
        Self { kind, state: LossScaleState { factor, good_steps: 0, skipped: 0 } }
    }

    /// Factor on the loss.
    pub fn factor(&self) -> f64 {
        self.state.factor
    }

    /// To be called after every step with whether its gradient was finite. Returns whether the step counts as left out,
    /// rather than as the end of the run.
    pub fn update(&mut self, finite: bool) -> bool {
        match self.kind {
            LossScaling::None => false,
            LossScaling::Dynamic => {
                let state = &mut self.state;
                if finite {
                    state.good_steps += 1;
                    if state.good_steps == GROWTH_INTERVAL {
                        (state.factor, state.good_steps) = (state.factor * 2.0, 0);
                    }
                    return false;
                }
                if state.factor <= LEAST {
                    return false;
                }
                (state.factor, state.good_steps) = (state.factor / 2.0, 0);
                state.skipped += 1;
                true
            }
        }
    }

    /// The state, for a checkpoint; `None` without loss scaling.
    pub fn state(&self) -> Option<LossScaleState> {
        match self.kind {
            LossScaling::None => None,
            LossScaling::Dynamic => Some(self.state),
        }
    }

    /// Puts back what [`LossScale::state`] gave.
    pub fn restore(&mut self, state: LossScaleState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_halves_and_patience_doubles() {
        let mut scale = LossScale::new(LossScaling::Dynamic);
        assert!(scale.update(false));
        assert_eq!(scale.factor(), START / 2.0);
        for _ in 0..GROWTH_INTERVAL {
            assert_eq!(scale.factor(), START / 2.0);
            assert!(!scale.update(true));
        }
        assert_eq!(scale.factor(), START);
        assert_eq!(scale.state().map(|state| state.skipped), Some(1));
    }

    #[test]
    fn a_gradient_that_overflows_at_every_scale_ends_the_run() {
        let mut scale = LossScale::new(LossScaling::Dynamic);
        let skipped = (0..100).take_while(|_| scale.update(false)).count();
        assert_eq!(skipped, 32, "from 2^16 down to 2^-16");
        let mut none = LossScale::new(LossScaling::None);
        assert!(!none.update(false) && none.factor() == 1.0 && none.state().is_none());
    }
}
