//! `ffnlab stats`: anybody's per-seed results, and how sure they are.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use lm_eval::analysis::{Analysis, Options, Pairing, read, report};

use crate::output::{print, print_json};

/// Statistics of anybody's results over seeds: intervals, tests, power, from a CSV file
///
/// The file has a header with the columns variant, seed and value, in any order, and a row per run. Every variant is
/// compared with the baseline: difference with interval, p values by t, permutation and ranks, adjusted by Holm, and
/// what so many seeds can resolve. Sentences say what cannot be concluded. Random draws are keyed: the same file gives
/// the same figures.
#[derive(Debug, Args)]
pub struct Stats {
    /// CSV file, or - for standard input
    file: PathBuf,
    /// Variant that the others are compared with [default: the first in the file]
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// Compare runs of one seed with each other, because they share more than the number (order of the data,
    /// initial weights); every seed must be in every variant
    #[arg(long)]
    paired: bool,
    /// Also test whether differences are smaller than this (two one-sided tests)
    #[arg(long, value_name = "X", value_parser = margin)]
    margin: Option<f64>,
    /// Level of the tests; intervals have the level 1 - A
    #[arg(long, value_name = "A", default_value_t = 0.05, value_parser = alpha)]
    alpha: f64,
    /// Print one JSON object: source, alpha, power, pairing, margin, variants, baseline, family,
    /// comparisons, decomposition, shown, not_shown
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub fn run(&self) -> Result<ExitCode> {
        let (name, text) = if self.file.as_os_str() == "-" {
            let text = std::io::read_to_string(std::io::stdin());
            ("<standard input>".to_owned(), text)
        } else {
            (self.file.display().to_string(), std::fs::read_to_string(&self.file))
        };
        let text = text.with_context(|| format!("{name}: cannot read this file"))?;
        let options = Options {
            baseline: self.baseline.as_deref(),
            pairing: if self.paired { Pairing::BySeed } else { Pairing::Independent },
            margin: self.margin,
            alpha: self.alpha,
        };
        let analysis = Analysis::new(&read(&name, &text)?, &options)?;
        if self.json {
            print_json(&analysis)?;
        } else {
            print(&report(&analysis, super::terminal_width()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A positive difference.
fn margin(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(margin) if margin.is_finite() && margin > 0.0 => Ok(margin),
        Ok(_) | Err(_) => Err("not a number above 0".to_owned()),
    }
}

/// A level that leaves room for one-sided tests.
fn alpha(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(alpha) if alpha > 0.0 && alpha < 0.5 => Ok(alpha),
        Ok(_) | Err(_) => Err("not a number between 0 and 0.5".to_owned()),
    }
}
