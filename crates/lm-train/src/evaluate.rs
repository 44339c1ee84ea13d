//! Loss of a model over a token stream, by sliding windows.

use std::ops::ControlFlow;

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::data::{EvalWindow, EvalWindows, TokenStream};
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
    for pass in passes(stream, model.seq_len(), stride, device)? {
        let pass = pass?;
        let losses = model.token_losses(&pass.ids_bt, &pass.targets_n)?;
        let scores: Vec<TokenLosses<'_>> = pass
            .windows
            .iter()
            .zip(losses.chunks(pass.windows[0].len))
            // The first tokens of an overlapping window were scored with the window before.
            .map(|(window, losses)| (window.start + 1 + window.scored_from, &losses[window.scored_from..]))
            .collect();
        if visit(&scores).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Windows of one length that go through a model together.
pub struct Pass {
    /// Inputs, [windows, len].
    pub ids_bt: Tensor,
    /// The token after each input, [windows * len].
    pub targets_n: Tensor,
    /// The windows, at least one.
    pub windows: Vec<EvalWindow>,
}

/// The sliding windows of a stream in passes of bounded memory, in order.
///
/// # Errors
/// A stream of fewer than two tokens, a stride of 0 or beyond the context; a pass that the device refuses.
pub fn passes<'a>(
    stream: &'a TokenStream,
    seq_len: usize,
    stride: usize,
    device: &'a Device,
) -> Result<impl Iterator<Item = Result<Pass>> + 'a> {
    let windows_per_pass = (TOKENS_PER_PASS / seq_len).max(1);
    let mut windows = EvalWindows::new(stream.len(), seq_len, stride)?.peekable();
    Ok(std::iter::from_fn(move || {
        let mut group = vec![windows.next()?];
        let len = group[0].len;
        while group.len() < windows_per_pass
            && let Some(window) = windows.next_if(|window| window.len == len)
        {
            group.push(window);
        }
        Some(Pass::new(stream, group, device))
    }))
}

impl Pass {
    /// Windows of equal length, at least one.
    ///
    /// # Errors
    /// When the device refuses the tensors.
    pub fn new(stream: &TokenStream, windows: Vec<EvalWindow>, device: &Device) -> Result<Self> {
        let len = windows.first().map_or(0, |window| window.len);
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for window in &windows {
            let tokens = stream.get(window.start..window.start + len + 1);
            inputs.extend_from_slice(&tokens[..len]);
            targets.extend_from_slice(&tokens[1..]);
        }
        let ids_bt = Tensor::from_vec(inputs, (windows.len(), len), device)?;
        let targets_n = Tensor::from_vec(targets, windows.len() * len, device)?;
        Ok(Self { ids_bt, targets_n, windows })
    }
}
