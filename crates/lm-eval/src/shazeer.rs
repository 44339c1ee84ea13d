//! Published figures of Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202, tables 1 to 4).
//!
//! T5-base on C4 span filling: 12 + 12 layers, d_model 768, d_ff 3072 (two matrices) or 2048 (three), batches of 128
//! sequences. Four runs per variant at 65,536 steps give the spread; all other figures are single runs. The model, the
//! data and the objective differ from anything trained here, so only signs, order and rough size can be compared.

use serde::Serialize;

/// Where the figures come from.
pub const SOURCE: &str = "Shazeer 2020, arXiv:2002.05202";

/// Steps after which [`Published::early`] was measured.
pub const EARLY_STEPS: u64 = 65_536;

/// Steps after which [`Published::late`] was measured.
pub const LATE_STEPS: u64 = 524_288;

/// What the paper reports for one feed-forward variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Published {
    /// Name of the preset here.
    pub ffn: &'static str,
    /// Held-out log-perplexity at [`EARLY_STEPS`], mean of four runs, nats per token.
    pub early: f64,
    /// Sample standard deviation of those runs.
    pub early_sd: f64,
    /// Held-out log-perplexity at [`LATE_STEPS`], one run, nats per token.
    pub late: f64,
    /// GLUE average after fine-tuning, percent.
    pub glue: f64,
    /// SuperGLUE average after fine-tuning, percent.
    pub superglue: f64,
    /// SQuAD exact match after fine-tuning, percent.
    pub squad_em: f64,
    /// SQuAD F1 after fine-tuning, percent.
    pub squad_f1: f64,
}

/// One row of [`TABLE`]; `scores` are GLUE, SuperGLUE, SQuAD exact match and SQuAD F1.
const fn row(ffn: &'static str, (early, early_sd): (f64, f64), late: f64, scores: [f64; 4]) -> Published {
    let [glue, superglue, squad_em, squad_f1] = scores;
    Published { ffn, early, early_sd, late, glue, superglue, squad_em, squad_f1 }
}

/// All variants of the paper, in its order.
pub const TABLE: [Published; 8] = [
    row("relu", (1.997, 0.005), 1.677, [83.80, 72.76, 83.18, 90.87]),
    row("gelu", (1.983, 0.005), 1.679, [83.86, 72.98, 83.09, 90.79]),
    row("swish", (1.994, 0.003), 1.683, [83.60, 72.40, 83.25, 90.76]),
    row("glu", (1.982, 0.006), 1.663, [84.20, 73.95, 82.88, 90.69]),
    row("bilinear", (1.960, 0.005), 1.648, [83.79, 73.81, 83.82, 91.06]),
    row("geglu", (1.942, 0.004), 1.633, [84.12, 73.96, 83.55, 91.12]),
    row("swiglu", (1.944, 0.010), 1.636, [84.36, 74.56, 83.42, 91.03]),
    row("reglu", (1.953, 0.003), 1.645, [84.67, 73.66, 83.53, 91.18]),
];

/// The paper's figures for a preset; `None` for variants it does not have, squared ReLU among them.
pub fn published(ffn: &str) -> Option<&'static Published> {
    rank(ffn).map(|i| &TABLE[i])
}

/// Place of a preset in the paper's tables.
pub fn rank(ffn: &str) -> Option<usize> {
    TABLE.iter().position(|row| row.ffn == ffn)
}

impl Published {
    /// Early log-perplexity minus ReLU's, nats per token.
    pub fn early_minus_relu(&self) -> f64 {
        self.early - TABLE[0].early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_variant_and_no_other() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(rank(row.ffn), Some(i));
            assert_eq!(published(row.ffn), Some(row));
        }
        assert_eq!(published("relu_squared"), None);
    }

    #[test]
    fn the_findings_of_the_paper_follow_from_the_table() {
        let difference = |ffn: &str| published(ffn).unwrap().early_minus_relu();
        assert_eq!(difference("relu"), 0.0);
        assert!((difference("geglu") + 0.055).abs() < 1e-9);
        let late = |ffn: &str| published(ffn).unwrap().late;
        assert!((late("geglu") - late("relu") + 0.044).abs() < 1e-9);
        for gated in ["bilinear", "geglu", "swiglu", "reglu"] {
            for plain in ["relu", "gelu", "swish"] {
                assert!(
                    difference(gated) < difference(plain) && late(gated) < late(plain),
                    "{gated} {plain}"
                );
            }
        }
    }
}
