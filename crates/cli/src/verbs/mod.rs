//! One file per verb: its options and what it calls.

pub mod bench;
pub mod claims;
pub mod compare;
pub mod config;
pub mod data;
pub mod diverge;
pub mod eval;
pub mod export;
pub mod formats;
pub mod probe;
pub mod quantize;
pub mod report;
pub mod reproduce;
pub mod sample;
pub mod stats;
pub mod sweep;
pub mod train;
pub mod tune;
pub mod variants;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lm_train::config::{ConfigError, ConfigSource, Override};

/// Reads a config from a file, or from standard input when the path is `-`.
///
/// # Errors
/// An unreadable or wrong config.
pub fn read_config(path: &Path, overrides: &[Override]) -> Result<ConfigSource> {
    if path == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin())?;
        return Ok(ConfigSource::from_text("<standard input>", &text, overrides)?);
    }
    Ok(ConfigSource::read(path, overrides)?)
}

/// Folder for the results of a config: `runs/` and the name of its file.
pub fn default_out(config: &Path) -> Result<PathBuf> {
    match config.file_stem() {
        Some(stem) if config != Path::new("-") => Ok(Path::new("runs").join(stem)),
        _ => bail!(ConfigError::Invalid {
            place: "--out".to_owned(),
            message: "a config from standard input has no name; say where its results go".to_owned()
        }),
    }
}

/// Columns of the terminal behind standard output; none when it is a file or a pipe.
pub fn terminal_width() -> Option<usize> {
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))
}

/// A count with a least value.
pub fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count >= LEAST => Ok(count),
        Ok(_) | Err(_) => Err(format!("not a whole number of {LEAST} or more")),
    }
}
