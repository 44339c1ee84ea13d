//! Outliers of a tensor: its largest value, the weight of its tails, and channels that stand out.

use lm_train::probe::TensorStats;
use serde::Serialize;

/// Channels listed.
const LISTED: usize = 3;

/// How far the largest values of a tensor stand out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outliers {
    /// Largest magnitude.
    pub max_abs: f64,
    /// Fourth standardised moment over all elements, 3 for a normal distribution; null for a constant.
    pub kurtosis: Option<f64>,
    /// Median over channels of the channel's largest magnitude.
    pub median_channel_max: f64,
    /// The channels with the largest maxima, largest first.
    pub channels: Vec<ChannelMax>,
}

/// The largest magnitude of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ChannelMax {
    /// The channel, from 0.
    pub channel: usize,
    /// Its largest magnitude.
    pub max_abs: f64,
    /// That over the median channel's; null when most channels are zero.
    pub over_median: Option<f64>,
}

impl Outliers {
    /// Of what was seen of a tensor.
    pub fn of(stats: &TensorStats) -> Self {
        let maxima = stats.channel_max();
        let mut order: Vec<usize> = (0..maxima.len()).collect();
        order.sort_by(|&a, &b| maxima[b].total_cmp(&maxima[a]));
        let median_channel_max = middle(&order, maxima);
        let channel = |&channel: &usize| ChannelMax {
            channel,
            max_abs: maxima[channel],
            over_median: (median_channel_max > 0.0).then(|| maxima[channel] / median_channel_max),
        };
        Self {
            max_abs: stats.max_abs(),
            kurtosis: stats.moments().kurtosis(),
            median_channel_max,
            channels: order.iter().take(LISTED).map(channel).collect(),
        }
    }
}

/// The median of values in a given order; 0 of none.
fn middle(order: &[usize], values: &[f64]) -> f64 {
    let n = order.len();
    if n == 0 { 0.0 } else { (values[order[(n - 1) / 2]] + values[order[n / 2]]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_channels_come_first() {
        let mut stats = TensorStats::new(4);
        stats.add(&[1.0, -8.0, 2.0, 0.5, -1.0, 0.0, 4.0, 0.25]);
        let found = Outliers::of(&stats);
        assert_eq!((found.max_abs, found.median_channel_max), (8.0, 2.5));
        let channels: Vec<_> = found.channels.iter().map(|c| (c.channel, c.max_abs, c.over_median)).collect();
        assert_eq!(channels, [(1, 8.0, Some(3.2)), (2, 4.0, Some(1.6)), (0, 1.0, Some(0.4))]);
        let mut dead = TensorStats::new(3);
        dead.add(&[0.0, 0.0, 5.0]);
        assert_eq!(Outliers::of(&dead).channels[0].over_median, None);
    }
}
