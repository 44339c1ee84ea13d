//! Windows of a token stream: shuffled batches to train on, sliding windows to measure on.

use anyhow::{Result, bail};

use super::stream::TokenStream;
use crate::rng::{Key, Permutation, Purpose, below};

/// Inputs and the tokens that follow them, `[batch_size, seq_len]` each, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Tokens to predict from.
    pub inputs: Vec<u32>,
    /// The token after each input.
    pub targets: Vec<u32>,
    /// Rows.
    pub batch_size: usize,
    /// Tokens per row.
    pub seq_len: usize,
}

/// Training batches: each a pure function of the seed and its number, so a run can be resumed anywhere.
///
/// An epoch cuts the stream into windows of `seq_len` inputs side by side, beginning at an offset of its own, and visits
/// each once in a keyed order. Windows follow each other across the ends of epochs, so no batch is cut short. The fewer than
/// `seq_len` tokens at either end that an epoch leaves out differ from epoch to epoch.
#[derive(Clone, Debug)]
pub struct TokenBatches {
    stream: TokenStream,
    seq_len: usize,
    batch_size: usize,
    windows: u64,
    key: Key,
}

impl TokenBatches {
    /// Batches of `batch_size` windows of `seq_len` tokens.
    ///
    /// # Errors
    /// A stream too short for one window, or a size of zero.
    pub fn new(stream: TokenStream, seq_len: usize, batch_size: usize, seed: u64) -> Result<Self> {
        if seq_len == 0 || batch_size == 0 {
            bail!("seq_len = {seq_len} and batch_size = {batch_size} must be at least 1");
        }
        let len = stream.len();
        if len < seq_len + 1 {
            bail!(
                "the training data has {len} tokens, too few for one window of seq_len + 1 = {}",
                seq_len + 1
            );
        }
        // The number of windows that fit behind every offset below seq_len, so that all epochs are equally long; a stream
        // of less than two windows has one.
        let windows = ((len - seq_len) / seq_len).max(1) as u64;
        Ok(Self { stream, seq_len, batch_size, windows, key: Key::new(seed, Purpose::DataOrder) })
    }

    /// Windows of one epoch.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows
    }

    /// The epoch, counted from 0, in which batch `index` begins.
    pub fn epoch_of(&self, index: u64) -> u64 {
        index * self.batch_size as u64 / self.windows
    }

    /// Batch number `index`.
    pub fn batch(&self, index: u64) -> Batch {
        let (batch_size, seq_len) = (self.batch_size, self.seq_len);
        let mut inputs = Vec::with_capacity(batch_size * seq_len);
        let mut targets = Vec::with_capacity(batch_size * seq_len);
        let first = index * batch_size as u64;
        for window in first..first + batch_size as u64 {
            let start = self.start(window);
            inputs.extend(self.stream.iter(start..start + seq_len));
            targets.extend(self.stream.iter(start + 1..start + seq_len + 1));
        }
        Batch { inputs, targets, batch_size, seq_len }
    }

    /// Where the window begins that is visited as number `window`, counted through all epochs.
    fn start(&self, window: u64) -> usize {
        let epoch = self.key.index(window / self.windows);
        let order = Permutation::new(&epoch.named("order"), self.windows);
        let room = self.stream.len() - 1 - self.windows as usize * self.seq_len;
        let offset = below(&mut epoch.named("offset").rng(), room.min(self.seq_len - 1) as u64 + 1) as usize;
        order.get(window % self.windows) as usize * self.seq_len + offset
    }
}

/// A window to evaluate: inputs are the `len` tokens from `start`, targets the ones from `start + 1`. Only the targets from
/// position `scored_from` of the window count; those before are context that another window has scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalWindow {
    /// First input.
    pub start: usize,
    /// Number of inputs, and of targets.
    pub len: usize,
    /// First target that counts, in `0..len`.
    pub scored_from: usize,
}

/// Sliding windows over a stream that score every token but the first exactly once, in order.
///
/// With `stride = seq_len` the windows lie side by side and the first token of each has one token of context. With a smaller
/// stride they overlap, and every token has at least `seq_len - stride` tokens of context, or all there are before it; this
/// is how perplexity with a sliding window is commonly reported (the Hugging Face documentation, "Perplexity of fixed-length
/// models").
#[derive(Clone, Debug)]
pub struct EvalWindows {
    targets: usize,
    seq_len: usize,
    stride: usize,
    start: usize,
    scored: usize,
}

impl EvalWindows {
    /// Windows over a stream of `stream_len` tokens.
    ///
    /// # Errors
    /// Fewer than two tokens; a stride outside `1..=seq_len`.
    pub fn new(stream_len: usize, seq_len: usize, stride: usize) -> Result<Self> {
        if stream_len < 2 {
            bail!("the evaluation data has {stream_len} tokens; it takes two to predict one");
        }
        if stride == 0 || stride > seq_len {
            bail!("stride = {stride} must lie in 1..={seq_len} (seq_len)");
        }
        Ok(Self { targets: stream_len - 1, seq_len, stride, start: 0, scored: 0 })
    }
}

impl Iterator for EvalWindows {
    type Item = EvalWindow;

    fn next(&mut self) -> Option<EvalWindow> {
        if self.scored == self.targets {
            return None;
        }
        let end = (self.start + self.seq_len).min(self.targets);
        let window =
            EvalWindow { start: self.start, len: end - self.start, scored_from: self.scored - self.start };
        self.scored = end;
        self.start += self.stride;
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// A stream whose ids are their positions.
    fn counting(len: u32) -> TokenStream {
        TokenStream::from_ids(&(0..len).collect::<Vec<_>>())
    }

    /// First inputs of the windows of a batch.
    fn starts(batch: &Batch) -> Vec<u32> {
        batch.inputs.chunks(batch.seq_len).map(|row| row[0]).collect()
    }

    proptest! {
        #[test]
        fn an_epoch_visits_each_window_once(len in 2_u32..400, seq_len in 1_usize..40, batch_size in 1_usize..9, seed: u64) {
            prop_assume!(len as usize > seq_len);
            let batches = TokenBatches::new(counting(len), seq_len, batch_size, seed).unwrap();
            let windows = batches.windows_per_epoch() as usize;
            // Three epochs in one sequence of windows, whatever the batch size.
            let all: Vec<u32> = (0..(3 * windows).div_ceil(batch_size) as u64).flat_map(|i| starts(&batches.batch(i))).collect();
            for epoch in all.chunks(windows).take(3) {
                let offset = *epoch.iter().min().unwrap() as usize;
                let distinct: HashSet<_> = epoch.iter().copied().collect();
                prop_assert_eq!(distinct.len(), windows);
                prop_assert!(epoch.iter().all(|&start| (start as usize - offset).is_multiple_of(seq_len)));
                let left_out = len as usize - 1 - windows * seq_len;
                prop_assert!(offset <= left_out && left_out < 2 * seq_len && (windows == 1 || offset < seq_len));
            }
        }

        #[test]
        fn targets_follow_inputs(len in 2_u32..300, seq_len in 1_usize..30, index in 0_u64..1 << 40) {
            prop_assume!(len as usize > seq_len);
            let batch = TokenBatches::new(counting(len), seq_len, 3, 1).unwrap().batch(index);
            prop_assert_eq!((batch.inputs.len(), batch.targets.len()), (3 * seq_len, 3 * seq_len));
            prop_assert!(batch.inputs.iter().zip(&batch.targets).all(|(input, target)| input + 1 == *target));
            prop_assert!(batch.inputs.chunks(seq_len).all(|row| row.windows(2).all(|pair| pair[0] + 1 == pair[1])));
        }

        #[test]
        fn every_token_but_the_first_is_scored_once(len in 2_usize..300, seq_len in 1_usize..40, stride in 1_usize..40) {
            prop_assume!(stride <= seq_len);
            let mut scored = vec![0; len];
            for window in EvalWindows::new(len, seq_len, stride).unwrap() {
                prop_assert!(window.len <= seq_len && window.start + window.len < len && window.scored_from < window.len);
                for position in window.scored_from..window.len {
                    let target = window.start + position + 1;
                    scored[target] += 1;
                    let context = target - window.start;
                    prop_assert!(context >= target.min(seq_len - stride), "token {} has {} before it", target, context);
                }
            }
            prop_assert_eq!(scored[0], 0);
            prop_assert!(scored[1..].iter().all(|&times| times == 1));
        }
    }

    #[test]
    fn batches_are_pure_and_differ_by_seed_and_epoch() {
        let new = |seed| TokenBatches::new(counting(10_000), 10, 8, seed).unwrap();
        let (one, two) = (new(1), new(2));
        assert_eq!(one.windows_per_epoch(), 999);
        assert_eq!(one.batch(5), new(1).batch(5));
        assert_ne!(one.batch(5), two.batch(5));
        let order = |batches: &TokenBatches, from: u64| starts(&batches.batch(from));
        assert_ne!(order(&one, 0), order(&one, 999), "batch 999 begins epoch 8");
        assert_eq!([0, 124, 125, 999].map(|i| one.epoch_of(i)), [0, 0, 1, 8]);
        let offsets: HashSet<u32> = (0..20).map(|epoch| starts(&one.batch(epoch * 125))[0] % 10).collect();
        assert!(offsets.len() > 5, "epochs begin at different offsets: {offsets:?}");
    }

    #[test]
    fn short_data_and_bad_sizes_are_refused() {
        let error = TokenBatches::new(counting(8), 8, 1, 0).unwrap_err().to_string();
        assert!(error.contains("8 tokens") && error.contains("= 9"), "{error}");
        assert_eq!(
            TokenBatches::new(counting(9), 8, 1, 0).unwrap().batch(3).inputs,
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
        assert!(TokenBatches::new(counting(8), 0, 1, 0).is_err());
        assert!(EvalWindows::new(1, 8, 8).unwrap_err().to_string().contains("1 tokens"));
        for stride in [0, 9] {
            assert!(EvalWindows::new(10, 8, stride).unwrap_err().to_string().contains("1..=8"));
        }
    }

    #[test]
    fn a_full_stride_lays_windows_side_by_side() {
        let windows: Vec<_> =
            EvalWindows::new(10, 4, 4).unwrap().map(|w| (w.start, w.len, w.scored_from)).collect();
        assert_eq!(windows, [(0, 4, 0), (4, 4, 0), (8, 1, 0)]);
        let windows: Vec<_> =
            EvalWindows::new(10, 4, 2).unwrap().map(|w| (w.start, w.len, w.scored_from)).collect();
        assert_eq!(windows, [(0, 4, 0), (2, 4, 2), (4, 4, 2), (6, 3, 2)]);
    }
}
