//! The setup: what every arm is made of, and what all of them were trained and measured on.

use std::collections::BTreeSet;

use lm_train::record::Summary;
use serde::Serialize;

use super::table::Table;
use crate::compare::Comparison;
use crate::compare::grid::si;

/// A backward pass takes about twice the products of a forward pass.
const TRAINING_PASSES: f64 = 3.0;

/// The receipt and the circumstances.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// Parameters by part and FLOPs, an arm a row.
    #[serde(skip)]
    pub receipt: Table,
    /// What and what it was; several values where the runs differ.
    pub facts: Vec<(String, String)>,
}

impl Setup {
    pub(super) fn new(comparison: &Comparison) -> Self {
        Self { receipt: receipt(comparison), facts: facts(comparison) }
    }
}

fn receipt(comparison: &Comparison) -> Table {
    let runs = &comparison.runs;
    let rows = comparison.arms.iter().map(|arm| {
        let tokens = runs.iter().filter(|run| run.arm == arm.label).map(|run| run.summary.tokens).max();
        let training = tokens.map(|tokens| TRAINING_PASSES * arm.flops_per_token as f64 * tokens as f64);
        let excess = if arm.label == comparison.baseline {
            "baseline".to_owned()
        } else {
            format!("{:+.2} %", 100.0 * arm.params_excess).replace('-', "\u{2212}")
        };
        let parts = [arm.params.embedding, arm.params.attention, arm.params.ffn, arm.params.norm];
        [arm.label.clone(), arm.d_ff.to_string(), grouped(arm.params.total as u64), excess]
            .into_iter()
            .chain(parts.map(|part| grouped(part as u64)))
            .chain([grouped(arm.flops_per_token), training.map_or_else(|| "–".to_owned(), si)])
            .collect()
    });
    let headings = [
        "FFN",
        "d_ff",
        "parameters",
        "against baseline",
        "embedding",
        "attention",
        "FFN blocks",
        "norms",
        "FLOPs/token",
        "training FLOPs",
    ];
    Table::new(&headings, rows.collect())
}

fn facts(comparison: &Comparison) -> Vec<(String, String)> {
    let all = |of: &dyn Fn(&Summary) -> Option<String>| -> String {
        let values: BTreeSet<String> = comparison.runs.iter().filter_map(|run| of(&run.summary)).collect();
        values.into_iter().collect::<Vec<_>>().join("; ")
    };
    let finished = |run: &Summary| run.validation.is_some();
    let facts = [
        (
            "data",
            all(&|run| {
                let data: String = run.data_fingerprint.chars().take(16).collect();
                Some(format!("{data}, vocabulary of {}", grouped(run.vocab_size as u64)))
            }),
        ),
        (
            "training",
            all(&|run| {
                finished(run).then(|| format!("{} steps, {} tokens", grouped(run.steps), grouped(run.tokens)))
            }),
        ),
        (
            "measured on",
            all(&|run| {
                let eval = run.validation.as_ref()?;
                Some(format!(
                    "{} held-out tokens, windows of {}, stride {}",
                    grouped(eval.tokens),
                    eval.seq_len,
                    eval.stride
                ))
            }),
        ),
        ("entropy floor", all(&|run| Some(format!("{:.4} nats per token", run.floor?)))),
        ("machine", all(&|run| Some(run.host.clone()))),
        ("threads per run", all(&|run| Some(run.threads.to_string()))),
        ("ffnlab", all(&|run| Some(run.ffnlab.clone()))),
        ("commit", all(&|run| Some(run.commit.clone().unwrap_or_else(|| "not recorded".to_owned())))),
    ];
    facts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(what, value)| (what.to_owned(), value))
        .collect()
}

/// Digits in groups of three, with narrow spaces that do not break.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digits.len() > 4 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_from_ten_thousand_on() {
        assert_eq!(grouped(1234), "1234");
        assert_eq!(grouped(12345), "12\u{202f}345");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
