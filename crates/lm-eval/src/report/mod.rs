//! A report of a sweep: one file that says what was asked, what came of it, how sure that is, and how to get it again.
//!
//! [`Report::new`] reads run directories and turns them into plain values: what varies between the runs, the receipt of
//! parameters and FLOPs, a [`Comparison`], what the seeds resolve, [`Figure`]s, verdicts on claims. [`render`] writes them as a
//! page (HTML, self-contained), Markdown or JSON; LaTeX and CSV hold the comparison alone. Statistics are those of
//! [`crate::compare`] and [`crate::analysis`]; nothing is computed twice.

mod asked;
mod curves;
mod figures;
mod html;
mod inside;
mod logs;
mod markdown;
mod over_steps;
mod panels;
mod probe_figures;
mod raw;
mod reproduce;
mod seeds;
mod setup;
mod table;
mod templates;
mod verdict;

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use serde::Serialize;

pub use asked::{Asked, Varied};
pub use figures::Figure;
pub use reproduce::Reproduce;
pub use seeds::Seeds;
pub use setup::Setup;
pub use table::Table;
pub use verdict::Verdict;

use crate::compare::{self, Comparison, ProblemKind};

/// What is wanted of a report.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// Arm that the others are compared with, as for a comparison.
    pub baseline: Option<&'a str>,
    /// Show Shazeer's published figures beside the measured ones.
    pub published: bool,
}

/// Everything that a report says.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the sweep: that of its folder.
    pub title: String,
    /// The paths that were given.
    pub paths: Vec<String>,
    /// Version of ffnlab that wrote the report.
    pub ffnlab: &'static str,
    /// What varies between the runs and what does not.
    pub asked: Asked,
    /// Parameters, FLOPs, data, machine; absent while no run has ended.
    pub setup: Option<Setup>,
    /// The comparison of the arms; absent while no run has ended.
    pub comparison: Option<Comparison>,
    /// What so many seeds show and resolve; absent while no run has ended.
    pub seeds: Option<Seeds>,
    /// Verdicts on the shipped claims that these runs decide.
    pub verdicts: Vec<Verdict>,
    /// Directories that could not be used, and why.
    pub problems: Vec<String>,
    /// How to get every number again.
    pub reproduce: Reproduce,
    /// The plots, by section.
    #[serde(skip)]
    pub figures: figures::Figures,
}

impl Report {
    /// Reads the runs at or below `paths`. A sweep of which no run has ended gives a report that says so.
    ///
    /// # Errors
    /// A path that is not a directory or holds no trace of a run, and a baseline that names no arm or several.
    pub fn new(paths: &[PathBuf], options: &Options<'_>) -> anyhow::Result<Self> {
        let collection = compare::find(paths)?;
        let is_trace = |problem: &&compare::Problem| problem.kind != ProblemKind::NoRun;
        if collection.runs.is_empty() && !collection.problems.iter().any(|problem| is_trace(&problem)) {
            let problems: Vec<String> = collection.problems.iter().map(|p| format!("\n  {p}")).collect();
            bail!("no run, not even an unfinished one{}", problems.concat());
        }
        let comparison = if collection.runs.is_empty() {
            if let Some(baseline) = options.baseline {
                bail!("no run has ended, so there is no arm \"{baseline}\" to compare with");
            }
            None
        } else {
            let options = compare::Options {
                baseline: options.baseline,
                published: options.published,
                ..compare::Options::default()
            };
            Some(Comparison::new(&collection, &options)?)
        };
        let (verdicts, not_judged) = verdict::verdicts(&collection)?;
        let asked = Asked::new(&collection, comparison.as_ref());
        let figures = comparison.as_ref().map_or_else(Default::default, figures::figures);
        Ok(Self {
            title: title(paths),
            paths: paths.iter().map(|path| path.display().to_string()).collect(),
            ffnlab: env!("CARGO_PKG_VERSION"),
            setup: comparison.as_ref().map(Setup::new),
            seeds: comparison.as_ref().map(Seeds::new),
            verdicts,
            problems: collection.problems.iter().map(ToString::to_string).chain(not_judged).collect(),
            reproduce: Reproduce::new(paths, &asked, comparison.as_ref(), options),
            asked,
            comparison,
            figures,
        })
    }
}

/// The name of the folder, or of the first and how many more there are.
fn title(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| {
        let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
        whole
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    match paths {
        [] => "runs".to_owned(),
        [only] => name(only),
        [first, rest @ ..] => format!("{} and {} more", name(first), rest.len()),
    }
}

/// How a report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A page in one file, with plots.
    #[default]
    Html,
    /// Text with tables, without plots.
    Markdown,
    /// The comparison as a LaTeX table.
    Latex,
    /// Everything as numbers at full precision.
    Json,
    /// The comparison, one row per arm.
    Csv,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Html, Self::Markdown, Self::Latex, Self::Json, Self::Csv];

    /// Its name, as parsed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Markdown => "markdown",
            Self::Latex => "latex",
            Self::Json => "json",
            Self::Csv => "csv",
        }
    }

    /// Ends of file names that mean it.
    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Html => &["html", "htm"],
            Self::Markdown => &["md", "markdown"],
            Self::Latex => &["tex"],
            Self::Json => &["json"],
            Self::Csv => &["csv"],
        }
    }

    /// The format that a file's name asks for.
    pub fn of_file(path: &std::path::Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::ALL.into_iter().find(|format| format.extensions().contains(&extension.as_str()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            anyhow::anyhow!("no format of a report is called \"{name}\"; there are {}", names.join(", "))
        })
    }
}

/// Writes `report` in `format`, ending with a line break.
///
/// # Errors
/// LaTeX and CSV, which hold nothing but the comparison, while no run has ended.
pub fn render(report: &Report, format: Format) -> anyhow::Result<String> {
    let comparison = |format| match &report.comparison {
        Some(comparison) => Ok(compare::export(comparison, format, None)),
        None => bail!("no run has ended, so there is no table; {}", report.problems.join("; ")),
    };
    match format {
        Format::Html => html::render(report),
        Format::Markdown => markdown::render(report),
        Format::Latex => comparison(compare::Format::Latex),
        Format::Csv => comparison(compare::Format::Csv),
        Format::Json => Ok(serde_json::to_string_pretty(report)? + "\n"),
    }
}
