//! Spikes in a loss curve, by the score of OLMo 2 (Walsh et al. 2025, arXiv 2501.00656): the
//! share of values at least seven standard deviations away from a rolling average of the last 1,000.
//!
//! Only rises count here: a loss that falls fast is no sign of instability.

use serde::Serialize;

use crate::stats::{mean, sample_sd};

/// Standard deviations above the rolling mean that make a spike.
pub const SPIKE_SIGMAS: f64 = 7.0;

/// Fewest preceding values a step is judged by. With 20 values a standard deviation is itself uncertain by
/// about 16 % (1 / sqrt(2 (n - 1))), which seven of them can bear.
pub const MIN_HISTORY: usize = 20;

/// Spikes of one curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpikeScore {
    /// Spikes over steps judged.
    pub score: f64,
    /// Steps judged: those with [`MIN_HISTORY`] steps before them.
    pub judged: usize,
    /// The steps that are spikes, ascending.
    pub steps: Vec<u64>,
}

/// Scores (step, loss) with ascending steps. A step is judged by the up to `window` values before it, itself
/// excluded, spikes included as in the source; `None` when no step has [`MIN_HISTORY`] before it (or
/// `window`, where that is less). A rise out of values that are all equal is a spike, however small.
pub fn spike_score(losses: &[(u64, f64)], window: usize) -> Option<SpikeScore> {
    let least = MIN_HISTORY.min(window);
    let values: Vec<f64> = losses.iter().map(|(_, loss)| *loss).collect();
    let (mut judged, mut steps) = (0, Vec::new());
    for (i, &(step, loss)) in losses.iter().enumerate().skip(least) {
        let history = &values[i.saturating_sub(window)..i];
        let (Some(centre), Some(sd)) = (mean(history), sample_sd(history)) else { continue };
        judged += 1;
        if loss > centre && loss - centre >= SPIKE_SIGMAS * sd {
            steps.push(step);
        }
    }
    (judged > 0).then(|| SpikeScore { score: steps.len() as f64 / judged as f64, judged, steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses 2 +- 1 in turn at steps 1..=n: mean 2, sample standard deviation sqrt(n / (n - 1)) for even n.
    fn zigzag(n: u64) -> Vec<(u64, f64)> {
        (1..=n).map(|step| (step, if step % 2 == 0 { 3.0 } else { 1.0 })).collect()
    }

    fn with_last(last: f64) -> Vec<(u64, f64)> {
        let mut losses = zigzag(20);
        losses.push((21, last));
        losses
    }

    #[test]
    fn a_spike_is_seven_standard_deviations_up() {
        let edge = 2.0 + 7.0 * (20f64 / 19.0).sqrt();
        let found = spike_score(&with_last(edge + 1e-9), 1000).unwrap();
        assert_eq!(found, SpikeScore { score: 1.0, judged: 1, steps: vec![21] });
        let none = SpikeScore { score: 0.0, judged: 1, steps: vec![] };
        assert_eq!(spike_score(&with_last(edge - 1e-9), 1000).unwrap(), none);
        assert_eq!(spike_score(&with_last(-50.0), 1000).unwrap(), none, "a fall is no spike");
    }

    #[test]
    fn injected_spikes_are_found_and_widen_what_follows() {
        let mut losses = zigzag(200);
        losses[99].1 = 30.0;
        losses[149].1 = 30.0;
        // A window of 40 has forgotten the first spike when the second comes.
        let short = spike_score(&losses, 40).unwrap();
        assert_eq!((short.judged, short.steps), (180, vec![100, 150]));
        assert_eq!(short.score, 2.0 / 180.0);
        // With the first spike in its window, which makes the standard deviation 2.5, a rise to 12 is nothing
        // special.
        losses[149].1 = 12.0;
        assert_eq!(spike_score(&losses, 1000).unwrap().steps, [100]);
        assert_eq!(spike_score(&losses, 40).unwrap().steps, [100, 150]);
    }

    #[test]
    fn too_short_a_curve_has_no_score() {
        assert_eq!(spike_score(&zigzag(20), 1000), None);
        assert_eq!(spike_score(&zigzag(21), 1000).unwrap().judged, 1);
        assert_eq!(spike_score(&[], 1000), None);
    }

    #[test]
    fn a_flat_curve_has_no_spikes() {
        let flat: Vec<(u64, f64)> = (0..50).map(|step| (step, 2.5)).collect();
        assert_eq!(spike_score(&flat, 1000).unwrap().score, 0.0);
    }
}
