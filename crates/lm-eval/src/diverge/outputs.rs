//! How far apart the predictions of two models are, token by token.

use serde::Serialize;

/// Means over the tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OutputGap {
    /// Tokens predicted.
    pub tokens: u64,
    /// Mean loss of run A, nats per token.
    pub loss_a: f64,
    /// Mean loss of run B.
    pub loss_b: f64,
    /// loss_b - loss_a.
    pub loss_gap: f64,
    /// Mean over tokens of KL(A || B) = sum p_a ln(p_a / p_b), nats per token.
    pub kl_ab: f64,
    /// Mean over tokens of KL(B || A).
    pub kl_ba: f64,
    /// Share of tokens for which both models hold the same token most probable.
    pub top1_agreement: f64,
}

/// Sums over tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputSums {
    tokens: u64,
    loss_a: f64,
    loss_b: f64,
    kl_ab: f64,
    kl_ba: f64,
    agreed: u64,
}

impl OutputSums {
    /// Adds one token: the logits of both models for it, of equal length, and the token that came.
    pub fn add(&mut self, logits_a: &[f64], logits_b: &[f64], target: usize) {
        let (a, b) = (Softmax::of(logits_a), Softmax::of(logits_b));
        self.tokens += 1;
        self.loss_a -= a.ln_p(target);
        self.loss_b -= b.ln_p(target);
        self.kl_ab += kl(&a, &b);
        self.kl_ba += kl(&b, &a);
        self.agreed += u64::from(argmax(logits_a) == argmax(logits_b));
    }

    /// Tokens added so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Means over all tokens; `None` when there were none.
    pub fn means(&self) -> Option<OutputGap> {
        let mean = |sum: f64| sum / self.tokens as f64;
        (self.tokens > 0).then(|| OutputGap {
            tokens: self.tokens,
            loss_a: mean(self.loss_a),
            loss_b: mean(self.loss_b),
            loss_gap: mean(self.loss_b) - mean(self.loss_a),
            kl_ab: mean(self.kl_ab),
            kl_ba: mean(self.kl_ba),
            top1_agreement: mean(self.agreed as f64),
        })
    }
}

/// The softmax of logits.
struct Softmax<'a> {
    logits: &'a [f64],
    log_sum_exp: f64,
    probabilities: Vec<f64>,
}

impl<'a> Softmax<'a> {
    fn of(logits: &'a [f64]) -> Self {
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut probabilities: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
        let sum: f64 = probabilities.iter().sum();
        probabilities.iter_mut().for_each(|p| *p /= sum);
        Self { logits, log_sum_exp: top + sum.ln(), probabilities }
    }

    fn ln_p(&self, token: usize) -> f64 {
        self.logits[token] - self.log_sum_exp
    }
}

/// Kullback-Leibler divergence, nats. Rounding can leave a sum of equal terms just below zero, where no
/// divergence lies.
fn kl(p: &Softmax<'_>, q: &Softmax<'_>) -> f64 {
    let term = |(token, &mass): (usize, &f64)| {
        // 0 ln 0 = 0, whatever q says.
        if mass == 0.0 { 0.0 } else { mass * (p.ln_p(token) - q.ln_p(token)) }
    };
    let sum: f64 = p.probabilities.iter().enumerate().map(term).sum();
    if sum < 0.0 { 0.0 } else { sum }
}

/// Place of the largest value, the first of equals.
fn argmax(values: &[f64]) -> usize {
    let larger = |best: usize, i: usize| if values[i] > values[best] { i } else { best };
    (0..values.len()).fold(0, larger)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gap(tokens: &[(&[f64], &[f64], usize)]) -> OutputGap {
        let mut sums = OutputSums::default();
        tokens.iter().for_each(|(a, b, target)| sums.add(a, b, *target));
        sums.means().unwrap()
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-14, "{a} is not {b}");
    }

    #[test]
    fn one_token_by_hand() {
        // A: 1/2, 1/2. B: 3/4, 1/4, its logits shifted.
        let found = gap(&[(&[0.0, 0.0], &[3f64.ln() + 100.0, 100.0], 1)]);
        close(found.loss_a, 2f64.ln());
        assert!((found.loss_b - 4f64.ln()).abs() < 1e-13);
        assert!((found.kl_ab - (0.5 * (2f64 / 3.0).ln() + 0.5 * 2f64.ln())).abs() < 1e-13);
        assert!((found.kl_ba - (0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln())).abs() < 1e-13);
        assert_eq!((found.tokens, found.top1_agreement), (1, 1.0), "of equals the first is the top");
    }

    #[test]
    fn means_are_over_tokens() {
        let (low, high): (&[f64], &[f64]) = (&[0.0, 1.0], &[1.0, 0.0]);
        let found = gap(&[(low, high, 0), (low, low, 0), (high, high, 0), (high, high, 1)]);
        assert_eq!((found.tokens, found.top1_agreement), (4, 0.75));
        // The two differ on the first token alone: p = e / (1 + e) against 1 / (1 + e), so KL = p - (1 - p).
        let p = 1f64.exp() / (1.0 + 1f64.exp());
        close(found.kl_ab, (2.0 * p - 1.0) / 4.0);
        close(found.loss_gap, -0.25);
        assert_eq!(OutputSums::default().means(), None);
    }

    #[test]
    fn extremes_stay_numbers() {
        let found = gap(&[(&[1e30, 0.0], &[1e30, 0.0], 0), (&[0.0, f64::NEG_INFINITY], &[0.0, 0.0], 0)]);
        close(found.kl_ab, 2f64.ln() / 2.0);
        assert_eq!(found.kl_ba, f64::INFINITY, "B gives weight to what A holds impossible");
        assert!(gap(&[(&[f64::NAN, 0.0], &[0.0, 0.0], 0)]).kl_ab.is_nan(), "NaN is not taken for agreement");
    }

    proptest! {
        #[test]
        fn divergences_are_positive_and_zero_for_equal_logits(
            pairs in prop::collection::vec((-30.0..30.0f64, -30.0..30.0f64), 2..40),
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let found = gap(&[(&a, &b, 0)]);
            prop_assert!(found.kl_ab >= 0.0 && found.kl_ba >= 0.0);
            let mirrored = gap(&[(&b, &a, 0)]);
            prop_assert_eq!((found.kl_ab, found.kl_ba), (mirrored.kl_ba, mirrored.kl_ab));
            let same = gap(&[(&a, &a, 0)]);
            prop_assert_eq!((same.kl_ab, same.kl_ba, same.top1_agreement, same.loss_gap), (0.0, 0.0, 1.0, 0.0));
        }
    }
}
