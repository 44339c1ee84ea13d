//! Text drawn from a trained run, token by token.

use anyhow::{Result, bail};
use candle_core::Tensor;
use lm_train::loaded::LoadedRun;
use lm_train::model::Dropout;
use lm_train::rng::{Key, Purpose};
use rand::Rng;

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub struct SampleOptions {
    /// Tokens to draw at most.
    pub tokens: usize,
    /// Logits are divided by this; 0 takes the most probable token.
    pub temperature: f64,
    /// Draw among the so many most probable tokens; 0: among all.
    pub top_k: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// Continues `prompt`; ends at the end-of-text token. The result holds the prompt and what was drawn.
///
/// # Errors
/// A run without tokenizer, a prompt of no tokens, a negative temperature.
pub fn sample(run: &LoadedRun, prompt: &str, options: SampleOptions) -> Result<String> {
    if !(options.temperature >= 0.0 && options.temperature.is_finite()) {
        bail!("temperature {} must be 0 or more", options.temperature);
    }
    let tokenizer = run.text_tokenizer()?;
    let mut ids = tokenizer.encode(prompt)?;
    if ids.is_empty() {
        match tokenizer.eos() {
            Some(eos) => ids.push(eos),
            None => {
                bail!("the prompt holds no tokens, and this tokenizer has no end-of-text token to begin from")
            }
        }
    }
    let prompt_len = ids.len();
    let key = Key::new(options.seed, Purpose::Sampling);
    for index in 0..options.tokens {
        let context = &ids[ids.len().saturating_sub(run.model.seq_len())..];
        let input = Tensor::from_slice(context, (1, context.len()), &run.device)?;
        let logits = run.model.forward(&input, &Dropout::OFF)?;
        let last = logits.get(context.len() - 1)?.to_vec1::<f32>()?;
        let uniform = key.index(index as u64).rng().random::<f64>();
        let next = draw(&last, options, uniform);
        if Some(next) == tokenizer.eos() {
            break;
        }
        ids.push(next);
    }
    Ok(format!("{prompt}{}", tokenizer.decode(&ids[prompt_len..])?))
}

/// Index drawn from softmax(logits / temperature) restricted to the top k, by inverting the cumulative sum at `uniform`.
fn draw(logits: &[f32], options: SampleOptions, uniform: f64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    if options.temperature == 0.0 {
        return order[0];
    }
    if options.top_k > 0 {
        order.truncate(options.top_k);
    }
    let best = f64::from(logits[order[0] as usize]);
    let weight = |id: u32| ((f64::from(logits[id as usize]) - best) / options.temperature).exp();
    let mut rest = uniform * order.iter().map(|&id| weight(id)).sum::<f64>();
    for &id in &order {
        rest -= weight(id);
        if rest < 0.0 {
            return id;
        }
    }
    order[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(temperature: f64, top_k: usize) -> SampleOptions {
        SampleOptions { tokens: 1, temperature, top_k, seed: 0 }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0f32, 3.0, 2.0];
        let z: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let share = 3f64.exp() / z;
        assert_eq!(draw(&logits, options(1.0, 0), share - 1e-9), 1);
        assert_eq!(draw(&logits, options(1.0, 0), share + 1e-9), 2);
        assert_eq!(draw(&logits, options(1.0, 0), 1.0 - 1e-12), 0);
        assert_eq!(draw(&logits, options(1.0, 1), 0.999), 1);
        assert_eq!(draw(&logits, options(0.0, 0), 0.999), 1);
    }
}
