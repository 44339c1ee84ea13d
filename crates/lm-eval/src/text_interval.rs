//! How much a held-out loss, or the difference of two, depends on the text it was measured on: an interval over documents.
//!
//! The trained models are held fixed. Intervals over seeds answer another question and are reported elsewhere.

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use anyhow::{Result, bail};
use lm_train::data::TokenStream;
use lm_train::evaluate::{LossSum, token_losses};
use lm_train::loaded::LoadedRun;
use lm_train::record::EvalResult;
use lm_train::rng::{Key, Purpose};
use serde::Serialize;

use crate::perplexity::EvalText;
use crate::stats::{Document, DocumentInterval, Refusal, Resampling, document_difference, document_loss};

/// What is drawn anew by the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Documents, which end with an end-of-text token.
    Documents,
    /// Pieces of so many tokens, for text that is one document. Pieces side by side are not quite independent; the longer
    /// they are, the less that matters, and the fewer there are.
    Pieces(usize),
}

impl Unit {
    /// For a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Pieces(_) => "pieces",
        }
    }
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) => Err("a piece holds at least one token".to_owned()),
            Ok(tokens) => Ok(Self::Pieces(tokens)),
            Err(_) if text == "documents" => Ok(Self::Documents),
            Err(_) => Err("neither \"documents\" nor a number of tokens".to_owned()),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Documents => write!(f, "documents"),
            Self::Pieces(tokens) => write!(f, "{tokens}"),
        }
    }
}

/// What each unit of a text cost a model.
pub struct TextLosses {
    /// Its units in the order of the text; those without a scored token are left out.
    pub units: Vec<Document>,
    unit: Unit,
    /// What was scored.
    stream: TokenStream,
}

/// Loss of `text` as [`crate::perplexity::perplexity`] gives it, and of each of its units.
///
/// # Errors
/// A text too short, a stride outside 1..=context length, a text without document ends where documents are asked for.
pub fn text_losses(
    run: &LoadedRun,
    text: &EvalText,
    stride: Option<usize>,
    unit: Unit,
    progress: &mut dyn FnMut(u64),
) -> Result<(EvalResult, TextLosses)> {
    let unit_of = units(run, text, unit)?;
    let count = unit_of.last().map_or(0, |last| last + 1);
    let mut units = vec![Document { loss_sum: 0.0, tokens: 0 }; count];
    let mut sum = LossSum::default();
    let stride = stride.unwrap_or(run.model.seq_len());
    let ended = token_losses(&run.model, &text.stream, stride, &run.device, &mut |scores| {
        for &(first, losses) in scores {
            for (loss, &unit) in losses.iter().zip(&unit_of[first..]) {
                units[unit].loss_sum += f64::from(*loss);
                units[unit].tokens += 1;
            }
        }
        sum.add(scores);
        progress(sum.tokens);
        ControlFlow::Continue(())
    })?;
    if ended.is_break() {
        bail!("internal error: the evaluation stopped without being asked to");
    }
    // The first token of a text is never scored, and may be a whole piece.
    units.retain(|unit| unit.tokens > 0);
    Ok((
        sum.result(&run.model, &text.stream, text.bytes, stride),
        TextLosses { units, unit, stream: text.stream.clone() },
    ))
}

/// Number of the unit that each token belongs to.
fn units(run: &LoadedRun, text: &EvalText, unit: Unit) -> Result<Vec<usize>> {
    let len = text.stream.len();
    match unit {
        Unit::Pieces(tokens) => Ok((0..len).map(|place| place / tokens).collect()),
        Unit::Documents => {
            let Some(end) = run.tokenizer.as_ref().and_then(|tokenizer| tokenizer.eos()) else {
                bail!(
                    "{}: its tokens do not say where documents end; cut the text into pieces instead, such as --over 1024",
                    run.path.display()
                );
            };
            let mut document = 0;
            Ok(text
                .stream
                .iter(0..len)
                .map(|token| {
                    let own = document;
                    document += usize::from(token == end);
                    own
                })
                .collect())
        }
    }
}

/// A loss or a difference over the text, or why it has no interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TextInterval {
    /// There it is.
    Interval(DocumentInterval),
    /// Why not.
    Refused(String),
}

impl TextLosses {
    /// Draws that are the same for every run of the same text.
    fn plan() -> Resampling {
        Resampling::new(Key::new(0, Purpose::Resampling).named("documents"))
    }

    /// Of the loss.
    pub fn loss(&self) -> TextInterval {
        self.interval(document_loss(&self.units, 0.95, &Self::plan()))
    }

    /// Of this loss minus that of `baseline`.
    pub fn difference_from(&self, baseline: &Self) -> TextInterval {
        let (own, other) = (&self.stream, &baseline.stream);
        // Equal numbers of tokens alone could hide that each run was scored on a text of its own.
        if own.len() == other.len() && !own.iter(0..own.len()).eq(other.iter(0..other.len())) {
            return TextInterval::Refused(
                "the two runs were not scored on the same tokens; name one text for both with --data"
                    .to_owned(),
            );
        }
        self.interval(document_difference(&baseline.units, &self.units, 0.95, &Self::plan()))
    }

    fn interval(&self, found: Result<DocumentInterval, Refusal>) -> TextInterval {
        let noun = self.unit.noun();
        match found {
            Ok(found) => TextInterval::Interval(found),
            Err(Refusal::Empty | Refusal::OneValue) => TextInterval::Refused(match self.unit {
                Unit::Documents => {
                    "the text is one document, which has no spread; cut it into pieces instead, such as \
                                    --over 1024"
                        .to_owned()
                }
                Unit::Pieces(_) => {
                    "the text is one piece, which has no spread; ask for shorter ones".to_owned()
                }
            }),
            Err(Refusal::Tokens) => TextInterval::Refused(format!(
                "the two runs divide the {noun} into different numbers of tokens: their tokenizers differ"
            )),
            Err(other) => TextInterval::Refused(format!("of {} {noun}: {other}", self.units.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(per_token: &[f64], unit: Unit) -> TextLosses {
        let document = |&loss: &f64| Document { loss_sum: 10.0 * loss, tokens: 10 };
        TextLosses {
            units: per_token.iter().map(document).collect(),
            unit,
            stream: TokenStream::from_ids(&[1, 2]),
        }
    }

    #[test]
    fn units_are_read_as_they_are_written() {
        for text in ["documents", "1024"] {
            assert_eq!(text.parse::<Unit>().unwrap().to_string(), text);
        }
        assert!("0".parse::<Unit>().is_err() && "pages".parse::<Unit>().is_err());
    }

    #[test]
    fn one_document_has_no_interval_and_the_way_out_is_named() {
        let TextInterval::Refused(why) = losses(&[2.0], Unit::Documents).loss() else {
            panic!("an interval")
        };
        assert!(why.contains("--over 1024"), "{why}");
    }

    #[test]
    fn a_difference_is_arm_minus_baseline_and_what_is_hard_for_both_cancels() {
        let hard: Vec<f64> = (0..30).map(|i| 3.0 + (f64::from(i) * 0.9).sin()).collect();
        let easier: Vec<f64> =
            hard.iter().enumerate().map(|(i, x)| x - 0.1 - 0.01 * (i % 4) as f64).collect();
        let (baseline, arm) = (losses(&hard, Unit::Pieces(10)), losses(&easier, Unit::Pieces(10)));
        let (TextInterval::Interval(alone), TextInterval::Interval(difference)) =
            (arm.loss(), arm.difference_from(&baseline))
        else {
            panic!("no interval")
        };
        assert!((difference.bca.estimate + 0.115).abs() < 0.005, "{difference:?}");
        assert!(difference.bca.interval.high < -0.1 && alone.bca.interval.half_width() > 0.1, "{alone:?}");
    }

    #[test]
    fn texts_of_one_length_are_not_the_same_text() {
        let mut other = losses(&[2.0, 2.5, 3.0], Unit::Pieces(10));
        other.stream = TokenStream::from_ids(&[1, 3]);
        let found = losses(&[2.0, 2.5, 3.0], Unit::Pieces(10)).difference_from(&other);
        assert!(matches!(found, TextInterval::Refused(why) if why.contains("same tokens")));
    }

    #[test]
    fn other_tokens_cannot_be_compared() {
        let mut other = losses(&[2.0, 2.5, 3.0], Unit::Documents);
        other.units[0].tokens = 11;
        let found = losses(&[2.0, 2.5, 3.0], Unit::Documents).difference_from(&other);
        assert!(matches!(found, TextInterval::Refused(why) if why.contains("tokenizers differ")));
    }
}
