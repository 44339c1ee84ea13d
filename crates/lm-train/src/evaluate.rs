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
    let seq_len = model.seq_len();
    let windows_per_pass = (TOKENS_PER_PASS / seq_len).max(1);
    let mut windows = EvalWindows::new(stream.len(), seq_len, stride)?.peekable();
    let total = stream.len() as u64 - 1;
    let (mut sum, mut scored) = (0.0f64, 0u64);
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
        for (window, losses) in group.iter().zip(losses.chunks(len)) {
            // The first tokens of an overlapping window were scored with the window before.
            let fresh = &losses[window.scored_from..];
            sum += fresh.iter().map(|&l| f64::from(l)).sum::<f64>();
            scored += fresh.len() as u64;
        }
        if progress(scored, total).is_break() {
            return Ok(None);
        }
    }
    let loss = sum / scored as f64;
    let bits_per_byte = bytes.map(|bytes| loss / std::f64::consts::LN_2 * stream.len() as f64 / bytes as f64);
    Ok(Some(EvalResult { loss, perplexity: loss.exp(), bits_per_byte, tokens: scored, seq_len, stride }))
}
