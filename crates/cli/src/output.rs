//! Results on standard output, errors on standard error, and the exit code that goes with each.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use lm_train::config::ConfigError;
use serde::Serialize;

/// Exit code of a wrong command line or config; clap uses the same.
const USAGE: u8 = 2;
/// What a shell reports for a process ended by SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// Prints text with a final newline.
///
/// # Errors
/// When standard output is closed or full.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Prints one JSON object, readable.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// A table with a rule under its headings and nothing else.
pub fn plain_table(header: &[&str]) -> Table {
    const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─'));
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table
}

/// A line on standard error; a closed standard error is nobody's problem.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// One clear line for an error, and its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        note("ffnlab: the reader of the output closed the pipe");
        return ExitCode::from(BROKEN_PIPE);
    }
    note(&format!("ffnlab: {}", one_line(error)));
    if error.chain().any(|cause| cause.is::<ConfigError>()) {
        ExitCode::from(USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// The chain of causes on one line; Candle appends backtraces, which say nothing to a user.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .take_while(|line| !is_backtrace(line))
            .filter(|line| !line.is_empty())
            .collect();
        let line = lines.join("; ");
        if !line.is_empty() && !parts.iter().any(|part| part.contains(&line)) {
            parts.push(line);
        }
    }
    parts.join(": ")
}

/// A frame of a backtrace: `12: some::function`.
fn is_backtrace(line: &str) -> bool {
    line.split_once(':')
        .is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_backtrace() {
        let error = anyhow::anyhow!("shape mismatch\n   0: candle_core::error\n   1: main").context("step 3");
        assert_eq!(one_line(&error), "step 3: shape mismatch");
        assert_eq!(
            one_line(&anyhow::anyhow!("no usable run\n  a: unfinished")),
            "no usable run; a: unfinished"
        );
    }
}
