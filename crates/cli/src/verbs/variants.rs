//! `ffnlab variants`: every activation and feed-forward block there is.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use ffn_variants::{Activation, FfnPreset, FfnSection};
use serde::Serialize;

use crate::output::{plain_table, print, print_json};

/// List every feed-forward variant and activation: formula, width, parameters, FLOPs, source
#[derive(Debug, Args)]
pub struct Variants {
    /// Width of the residual stream for which parameters and FLOPs are counted
    #[arg(long, default_value_t = 512, value_name = "N")]
    d_model: usize,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct FfnRow {
    name: &'static str,
    formula: String,
    d_ff: usize,
    params: usize,
    flops_per_token: u64,
    source: &'static str,
}

#[derive(Serialize)]
struct ActivationRow {
    name: &'static str,
    formula: String,
    source: &'static str,
}

impl Variants {
    pub fn run(&self) -> Result<ExitCode> {
        if !(1..=1 << 20).contains(&self.d_model) {
            bail!("--d-model {} is outside 1..=1048576", self.d_model);
        }
        let ffns = FfnPreset::ALL.iter().map(|preset| self.row(*preset)).collect::<Result<Vec<_>>>()?;
        let activations: Vec<ActivationRow> = Activation::ALL
            .iter()
            .map(|a| ActivationRow { name: a.name(), formula: a.formula().to_owned(), source: a.source() })
            .collect();
        if self.json {
            print_json(
                &serde_json::json!({ "d_model": self.d_model, "ffn": ffns, "activation": activations }),
            )?;
        } else {
            let text = format!(
                "Feed-forward variants, matched to an ungated block of width 4 d_model (d_model {})\n{}\n\n\
                 Activations (as `activation`, `gate` or `up` in [model.ffn])\n{}",
                self.d_model,
                ffn_table(&ffns).trim_fmt(),
                activation_table(&activations).trim_fmt()
            );
            print(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn row(&self, preset: FfnPreset) -> Result<FfnRow> {
        let config = FfnSection { preset: Some(preset), ..FfnSection::default() }.resolve(self.d_model)?;
        Ok(FfnRow {
            name: preset.name(),
            formula: preset.formula().to_owned(),
            d_ff: config.d_ff,
            params: config.num_params(),
            flops_per_token: config.flops_per_token().total(),
            source: preset.source(),
        })
    }
}

fn ffn_table(rows: &[FfnRow]) -> Table {
    let mut table = plain_table(&["preset", "formula", "d_ff", "parameters", "FLOPs/token", "source"]);
    for row in rows {
        let (d_ff, params, flops) =
            (row.d_ff.to_string(), row.params.to_string(), row.flops_per_token.to_string());
        table.add_row([row.name, &row.formula, &d_ff, &params, &flops, row.source]);
    }
    for column in table.column_iter_mut().skip(2).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn activation_table(rows: &[ActivationRow]) -> Table {
    let mut table = plain_table(&["activation", "formula", "source"]);
    for row in rows {
        table.add_row([row.name, &row.formula, row.source]);
    }
    table
}
