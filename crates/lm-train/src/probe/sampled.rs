//! What a run writes about the inside of its blocks while it trains.

use anyhow::Result;

use super::active::active_ratio;
use super::alignment::alignment;
use super::figures::{Threshold, sample};
use crate::config::RunConfig;
use crate::data::TokenStream;
use crate::record::Metric;
use crate::schedule::due;
use crate::session::Session;

/// Tokens looked at: the first of the validation text, the same in every step and in every run on that text.
const TOKENS: usize = 2048;

/// The lines that are due after `step` steps. Reads the model without gradients and changes nothing, so a run takes the
/// same steps with and without them.
///
/// # Errors
/// When an operation fails. What is not finite has no line.
pub fn sampled(step: u64, config: &RunConfig, session: &Session, valid: &TokenStream) -> Result<Vec<Metric>> {
    let train = &config.train;
    let text = || valid.prefix(TOKENS + 1);
    let mut lines = Vec::new();
    if due(step, train.alignment_every) {
        for (layer, cosines) in alignment(session.params())? {
            lines.push(Metric::Alignment { step, layer, cosines });
        }
    }
    if due(step, train.probe_every) {
        let sums =
            sample(session.eval_model(), &text(), Threshold::default(), session.device(), &mut |_| {})?;
        // A block without figures is about to end the run as diverged, which is not for its probe to do.
        let figures = sums.iter().filter_map(|sums| sums.figures().ok());
        lines.extend(figures.map(|ffn| Metric::Probe { step, ffn }));
    }
    if due(step, train.sparsity_every) {
        let tokens = step * config.tokens_per_step();
        let found = active_ratio(session.eval_model(), &text(), session.device())?;
        lines.extend(found.map(|found| Metric::Sparsity { step, tokens, found }));
    }
    Ok(lines)
}
