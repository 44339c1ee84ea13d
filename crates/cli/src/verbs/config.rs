//! `ffnlab config`: what a config means.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use ffn_variants::{PrecisionPreset, PrecisionSection};
use lm_train::config::ConfigError;

use super::read_config;
use crate::args::Overrides;
use crate::output::{print, print_json};

/// Resolve, describe or explain configs
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Print a config as it will run: base and overrides applied, every default filled in
    Resolve {
        /// Config file (TOML), or - for standard input
        config: PathBuf,
        #[command(flatten)]
        overrides: Overrides,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of config files
    Schema,
    /// Explain a key or a section: meaning, type, default; or print a precision preset key by key
    Explain {
        /// Dotted key, such as optim.lr or model.ffn; empty for everything
        #[arg(default_value = "")]
        key: String,
        /// With the key `precision`: a preset, such as fp8_delayed, printed as the recipe that it stands for
        #[arg(value_name = "PRESET")]
        preset: Option<PrecisionPreset>,
    },
}

impl Config {
    pub fn run(&self) -> Result<ExitCode> {
        match &self.verb {
            ConfigVerb::Resolve { config, overrides, json } => {
                let resolved = read_config(config, &overrides.parse()?)?.resolve()?;
                if *json { print_json(&resolved)? } else { print(&resolved.to_toml()?)? }
            }
            ConfigVerb::Schema => print_json(&lm_train::config::schema())?,
            ConfigVerb::Explain { key, preset: None } => print(&lm_train::config::explain(key)?)?,
            ConfigVerb::Explain { key, preset: Some(preset) } => {
                if key != "precision" {
                    return Err(ConfigError::Invalid {
                        place: format!("config explain {key} {preset}"),
                        message:
                            "only `precision` has presets to explain, as in `config explain precision bf16`"
                                .to_owned(),
                    }
                    .into());
                }
                print(&explain_preset(*preset)?)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A preset as the TOML that spells it out: any key of it can be copied into a config and changed.
fn explain_preset(preset: PrecisionPreset) -> Result<String> {
    #[derive(serde::Serialize)]
    struct File {
        precision: PrecisionSection,
    }
    let recipe = preset.recipe();
    let spelled_out = toml::to_string(&File { precision: PrecisionSection::from(&recipe) })?;
    Ok(format!(
        "# {preset}: {}\n# Source: {}\n# Write `preset = \"{preset}\"` under [precision] and change any of these keys below it.\n{spelled_out}",
        preset.description(),
        preset.source(),
    ))
}
