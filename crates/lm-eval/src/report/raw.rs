//! The raw numbers: every run as it was read.

use std::fmt::Write;

use lm_train::record::RunStatus;

use super::setup::grouped;
use super::table::Table;
use crate::compare::Comparison;
use crate::compare::export::csv::quoted;

/// A row per run, by arm and seed.
pub(super) fn runs(comparison: &Comparison) -> Table {
    let rows = comparison.runs.iter().map(|row| {
        let run = &row.summary;
        let eval = run.validation.as_ref();
        let number =
            |x: Option<f64>, decimals: usize| x.map_or_else(|| "–".to_owned(), |x| format!("{x:.decimals$}"));
        let ended = match run.status {
            RunStatus::Finished => "finished".to_owned(),
            RunStatus::Diverged => format!("diverged at {}", run.diverged_at.unwrap_or(run.steps)),
        };
        vec![
            row.arm.clone(),
            run.seed.to_string(),
            ended,
            number(eval.map(|eval| eval.loss), 6),
            number(eval.map(|eval| eval.perplexity), 3),
            number(eval.and_then(|eval| eval.bits_per_byte), 5),
            number(run.train_loss, 5),
            grouped(run.steps),
            grouped(run.tokens),
            number(Some(run.wall_s), 1),
            grouped(run.tokens_per_s.round().max(0.0) as u64),
            number(Some(run.peak_rss_mb), 0),
            run.run_id.clone(),
        ]
    });
    let headings = [
        "FFN",
        "seed",
        "ended",
        "held-out loss",
        "perplexity",
        "bits/byte",
        "last training loss",
        "steps",
        "tokens",
        "seconds",
        "tokens/s",
        "peak MiB",
        "run",
    ];
    Table::new(&headings, rows.collect())
}

/// The finished runs as `ffnlab stats` reads them.
pub(super) fn per_seed_csv(comparison: &Comparison) -> String {
    let mut text = "variant,seed,value\n".to_owned();
    for row in &comparison.runs {
        if let Some(eval) = &row.summary.validation {
            let _ = writeln!(text, "{},{},{}", quoted(&row.arm), row.summary.seed, eval.loss);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Options;
    use crate::compare::testing::{RunMaker, collection};

    #[test]
    fn diverged_runs_are_listed_and_not_averaged() {
        let runs = [RunMaker::new("relu", 0).loss(2.5), RunMaker::new("relu", 1).diverged()];
        let comparison = Comparison::new(&collection(runs), &Options::default()).unwrap();
        let rows = runs_of(&comparison);
        assert_eq!((rows[0][2].as_str(), rows[0][3].as_str()), ("finished", "2.500000"));
        assert_eq!((rows[1][2].as_str(), rows[1][3].as_str()), ("diverged at 321", "–"));
        assert_eq!(per_seed_csv(&comparison), "variant,seed,value\nrelu,0,2.5\n");
    }

    fn runs_of(comparison: &Comparison) -> Vec<Vec<String>> {
        runs(comparison).rows
    }
}
