//! The bootstrap over documents: how much a held-out loss depends on which documents were held out.
//!
//! Tokens of one document are not independent, so whole documents are drawn (the cluster bootstrap: Davison & Hinkley 1997,
//! "Bootstrap Methods and their Application", section 3.8; Field & Welsh 2007, "Bootstrapping Clustered Data"). The loss
//! per token is a ratio of two sums over documents, and both are drawn together.
//!
//! This interval is about the text, with the trained models held fixed. It says nothing about other seeds, and intervals
//! over seeds say nothing about other text: the two are reported apart and never added up.

use serde::Serialize;

use super::refusal::{Refusal, finite};
use super::{Bca, Resampling, bca};

/// What a model lost on one document.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Document {
    /// Sum over its tokens of the negative log-likelihood, nats.
    pub loss_sum: f64,
    /// Number of tokens scored.
    pub tokens: u64,
}

/// A loss, or a difference of losses, with its interval over documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DocumentInterval {
    /// Nats per token over all documents, and the interval.
    pub bca: Bca,
    /// Number of documents; as many independent pieces as there are.
    pub documents: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Share of the tokens in the longest document: near 1, the others hardly count.
    pub largest_share: f64,
}

/// Interval of the loss per token of one model.
///
/// # Errors
/// A document without tokens, one document alone, and where [`bca()`] refuses.
pub fn document_loss(
    documents: &[Document],
    level: f64,
    plan: &Resampling,
) -> Result<DocumentInterval, Refusal> {
    let losses: Vec<f64> = documents.iter().map(|document| document.loss_sum).collect();
    ratio(&losses, &tokens(documents), level, plan)
}

/// Interval of the difference arm - baseline of the losses per token of two models on the same documents: one draw serves
/// both, so what makes a document hard for both cancels.
///
/// # Errors
/// As [`document_loss`]; and lists of documents that do not agree in length and tokens. Models with other tokenizers are
/// compared per byte: give both the documents' bytes instead of tokens.
pub fn document_difference(
    baseline: &[Document],
    arm: &[Document],
    level: f64,
    plan: &Resampling,
) -> Result<DocumentInterval, Refusal> {
    if baseline.len() != arm.len() {
        return Err(Refusal::UnequalLengths);
    }
    if tokens(baseline) != tokens(arm) {
        return Err(Refusal::Tokens);
    }
    let losses: Vec<f64> = baseline.iter().zip(arm).map(|(b, a)| a.loss_sum - b.loss_sum).collect();
    ratio(&losses, &tokens(arm), level, plan)
}

fn tokens(documents: &[Document]) -> Vec<u64> {
    documents.iter().map(|document| document.tokens).collect()
}

/// Interval of sum of losses / sum of tokens.
fn ratio(losses: &[f64], tokens: &[u64], level: f64, plan: &Resampling) -> Result<DocumentInterval, Refusal> {
    finite(losses)?;
    match losses.len() {
        0 => return Err(Refusal::Empty),
        1 => return Err(Refusal::OneValue),
        2.. => {}
    }
    if tokens.contains(&0) {
        return Err(Refusal::Tokens);
    }
    let all: u64 = tokens.iter().sum();
    let longest = tokens.iter().copied().max().unwrap_or(0);
    let loss: f64 = losses.iter().sum();
    let resampled = plan.statistics(losses.len(), |counts| {
        let (mut loss, mut drawn) = (0.0, 0);
        for ((&count, x), t) in counts.iter().zip(losses).zip(tokens) {
            loss += f64::from(count) * x;
            drawn += u64::from(count) * t;
        }
        loss / drawn as f64
    });
    let without = |(x, t): (&f64, &u64)| (loss - x) / (all - t) as f64;
    let jackknife: Vec<f64> = losses.iter().zip(tokens).map(without).collect();
    let bca = bca(loss / all as f64, resampled, &jackknife, level)?;
    Ok(DocumentInterval {
        bca,
        documents: losses.len(),
        tokens: all,
        largest_share: longest as f64 / all as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::super::bca_mean;
    use super::*;
    use lm_train::rng::{Key, Purpose};

    fn plan() -> Resampling {
        Resampling::new(Key::new(3, Purpose::Resampling))
    }

    fn documents(losses: &[f64], tokens: &[u64]) -> Vec<Document> {
        losses.iter().zip(tokens).map(|(&loss_sum, &tokens)| Document { loss_sum, tokens }).collect()
    }

    #[test]
    fn documents_of_one_length_are_a_sample_of_their_losses() {
        let losses = [2.0, 2.5, 3.0, 2.25, 2.75, 4.0];
        let sums: Vec<f64> = losses.iter().map(|loss| loss * 10.0).collect();
        let found = document_loss(&documents(&sums, &[10; 6]), 0.95, &plan()).unwrap();
        let mean = bca_mean(&losses, 0.95, &plan()).unwrap();
        assert!((found.bca.estimate - mean.estimate).abs() < 1e-12);
        assert!((found.bca.interval.low - mean.interval.low).abs() < 1e-9, "{found:?} {mean:?}");
        assert!((found.bca.interval.high - mean.interval.high).abs() < 1e-9);
        assert_eq!((found.documents, found.tokens), (6, 60));
    }

    #[test]
    fn what_is_hard_for_both_cancels() {
        let tokens: Vec<u64> = (0..40).map(|i| 50 + 13 * (i % 7)).collect();
        let hard = |i: usize| 2.0 + (i as f64 * 0.7).sin();
        let sums = |shift: f64| -> Vec<f64> {
            tokens
                .iter()
                .enumerate()
                .map(|(i, &t)| t as f64 * (hard(i) + shift * (1.0 + 0.1 * (i % 3) as f64)))
                .collect()
        };
        let (baseline, arm) = (documents(&sums(0.0), &tokens), documents(&sums(-0.01), &tokens));
        let alone = document_loss(&arm, 0.95, &plan()).unwrap();
        let difference = document_difference(&baseline, &arm, 0.95, &plan()).unwrap();
        assert!(alone.bca.interval.half_width() > 0.1);
        assert!(difference.bca.interval.half_width() < 0.001 && difference.bca.interval.high < 0.0);
    }

    #[test]
    fn documents_that_do_not_fit_are_refused() {
        let two = documents(&[2.0, 3.0], &[1, 1]);
        assert_eq!(document_loss(&[], 0.95, &plan()), Err(Refusal::Empty));
        assert_eq!(document_loss(&two[..1], 0.95, &plan()), Err(Refusal::OneValue));
        assert_eq!(document_difference(&two, &two[..1], 0.95, &plan()), Err(Refusal::UnequalLengths));
        let other = documents(&[2.0, 3.0], &[1, 2]);
        assert_eq!(document_difference(&two, &other, 0.95, &plan()), Err(Refusal::Tokens));
        assert_eq!(document_loss(&documents(&[2.0, 0.0], &[9, 0]), 0.95, &plan()), Err(Refusal::Tokens));
    }
}
