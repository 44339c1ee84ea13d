//! `ffnlab report`: one file that says what a sweep came to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use lm_eval::report::{Format, Options, Report as Page, render};
use lm_train::record::write_atomic;

use crate::output::{note, print};

/// Write a report of a sweep: tables, what the seeds resolve, plots, how to reproduce
///
/// DIR is a run directory or a folder of them at any depth. An HTML report is one file that needs no network and no script,
/// follows the light or dark setting of its reader, fits a phone and can be printed. Runs that have not ended, runs that
/// diverged and whatever else weakens a comparison are said in it.
#[derive(Debug, Args)]
pub struct Report {
    /// Run directories, or folders of run directories
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Write the report to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Arm that the others are compared with [default: relu if it is there, else the first]
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// html, markdown, latex (the comparison alone), json or csv (the comparison alone) [default: what the
    /// ending of FILE says, else html]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Add Shazeer's published column
    #[arg(long)]
    published: bool,
    /// Also write every plot to this folder, as SVG that follows light and dark
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

impl Report {
    pub fn run(&self) -> Result<ExitCode> {
        let options = Options { baseline: self.baseline.as_deref(), published: self.published };
        let report = Page::new(&self.dirs, &options)?;
        let by_name = self.out.as_deref().and_then(Format::of_file);
        let text = render(&report, self.format.or(by_name).unwrap_or_default())?;
        if let Some(folder) = &self.plots {
            write_plots(&report, folder)?;
        }
        match &self.out {
            Some(file) => {
                write_atomic(file, text.as_bytes())?;
                let runs = report.asked.finished + report.asked.diverged;
                note(&format!(
                    "{}: {runs} runs, {} plots, {} kB",
                    file.display(),
                    report.figures.all().count(),
                    text.len().div_ceil(1000)
                ));
            }
            None => print(&text)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write_plots(report: &Page, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for figure in report.figures.all() {
        write_atomic(&folder.join(format!("{}.svg", figure.id)), figure.svg.standalone().as_bytes())?;
    }
    Ok(())
}
