//! Loss of a model over a token stream, by sliding windows.

use std::ops::ControlFlow;

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::data::{EvalWindows, TokenStream};
use crate::model::Transformer;
use crate::record::EvalResult;

/// Tokens evaluated in one forward pass at most, so that memory stays bounded.
const TOKENS_PER_PASS: usize = 4096;

/// Scores every token of `stream` but the first exactly once. A window holds `model.seq_len()` tokens of context and
/// starts `stride` tokens after the one before; of an overlapping window only the tokens not yet scored count (the
/// sliding-window perplexity of the Hugging Face guide). `bytes` is the size of the text behind the stream. `progress`
/// hears the tokens scored and the tokens to score; when it breaks off, the result is `None`.
///
/// # Errors
/// A stream of fewer than two tokens, a stride of 0 or beyond the context, an id outside the vocabulary.
pub fn evaluate(
    model: &Transformer,
    stream: &TokenStream,
    bytes: Option<u64>,
    stride: usize,
    device: &Device,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<EvalResult>> {
    let total = stream.len().saturating_sub(1) as u64;
    let mut sum = LossSum::default();
    let ended = token_losses(model, stream, stride, device, &mut |scores| {
        sum.add(scores);
        progress(sum.tokens, total)
    })?;
    Ok(ended.is_continue().then(|| sum.result(model, stream, bytes, stride)))
}

/// Sum of the losses that [`token_losses`] hands out.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossSum {
    /// Nats.
    sum: f64,
    /// Tokens summed so far.
    pub tokens: u64,
}

impl LossSum {
    /// Adds the losses of one pass.
    pub fn add(&mut self, scores: &[TokenLosses<'_>]) {
        for (_, losses) in scores {
            self.sum += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
            self.tokens += losses.len() as u64;
        }
    }

    /// What it comes to for a whole stream, which `bytes` of text are behind.
    pub fn result(
        &self,
        model: &Transformer,
        stream: &TokenStream,
        bytes: Option<u64>,
        stride: usize,
    ) -> EvalResult {
        let loss = self.sum / self.tokens as f64;
        let bits_per_byte =
            bytes.map(|bytes| loss / std::f64::consts::LN_2 * stream.len() as f64 / bytes as f64);
        EvalResult {
            loss,
            perplexity: loss.exp(),
            bits_per_byte,
            tokens: self.tokens,
            seq_len: model.seq_len(),
            stride,
        }
    }
}

/// Losses of consecutive tokens of a stream: the place of the first of them, and nats each.
pub type TokenLosses<'a> = (usize, &'a [f32]);

/// The losses behind [`evaluate`], in the order of the stream: `visit` hears them pass by pass until it breaks off.
///
/// # Errors
/// As [`evaluate`].
pub fn token_losses(
    model: &Transformer,
    stream: &TokenStream,
    stride: usize,
    device: &Device,
    visit: &mut dyn FnMut(&[TokenLosses<'_>]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let seq_len = model.seq_len();
    let windows_per_pass = (TOKENS_PER_PASS / seq_len).max(1);
    let mut windows = EvalWindows::new(stream.len(), seq_len, stride)?.peekable();
    while let Some(first) = windows.next() {
        let mut group = vec![first];
        while group.len() < windows_per_pass {
            match windows.next_if(|w| w.len == group[0].len) {
                Some(window) => group.push(window),
                None => break,
            }
        }
        let len = group[0].len;
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for window in &group {
            let tokens = stream.get(window.start..window.start + len + 1);
            inputs.extend_from_slice(&tokens[..len]);
            targets.extend_from_slice(&tokens[1..]);
        }
        let ids = Tensor::from_vec(inputs, (group.len(), len), device)?;
        let targets = Tensor::from_vec(targets, group.len() * len, device)?;
        let losses = model.token_losses(&ids, &targets)?;
        let scores: Vec<TokenLosses<'_>> = group
            .iter()
            .zip(losses.chunks(len))
            // The first tokens of an overlapping window were scored with the window before.
            .map(|(window, losses)| (window.start + 1 + window.scored_from, &losses[window.scored_from..]))
            .collect();
        if visit(&scores).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}
