//! `ffnlab config`: what a config means.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

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
    /// Explain a key or a section: meaning, type, default
    Explain {
        /// Dotted key, such as optim.lr or model.ffn; empty for everything
        #[arg(default_value = "")]
        key: String,
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
            ConfigVerb::Explain { key } => print(&lm_train::config::explain(key)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
