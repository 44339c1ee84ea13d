//! A comparison as text, one exporter per format.

pub(crate) mod csv;
mod json;
mod latex;
mod markdown;
mod table;

use std::fmt;
use std::str::FromStr;

use super::comparison::Comparison;

/// An output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For a terminal, with the notes below; several precisions also get a matrix of FFN x precision.
    #[default]
    Table,
    /// The same tables in Markdown, with the notes as a list.
    Markdown,
    /// One row per arm at full precision; the columns are listed in [`csv_header`].
    Csv,
    /// A LaTeX table (package booktabs), with the notes below.
    Latex,
    /// Everything at full precision: arms, raw runs, notes.
    Json,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Table, Self::Markdown, Self::Csv, Self::Latex, Self::Json];

    /// Its name, as parsed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Markdown => "markdown",
            Self::Csv => "csv",
            Self::Latex => "latex",
            Self::Json => "json",
        }
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
            anyhow::anyhow!("no output format is called \"{name}\"; there are {}", names.join(", "))
        })
    }
}

/// Writes `comparison` in `format`, ending with a line break. `width`, in characters, is for [`Format::Table`] alone:
/// to fit, it leaves out columns and says which; `None` shows all of them.
pub fn export(comparison: &Comparison, format: Format, width: Option<usize>) -> String {
    match format {
        Format::Table => table::export(comparison, width),
        Format::Markdown => markdown::export(comparison),
        Format::Csv => csv::export(comparison),
        Format::Latex => latex::export(comparison),
        Format::Json => json::export(comparison),
    }
}

pub use csv::csv_header;
pub(crate) use markdown::table as markdown_table;
pub(crate) use table::{RULE, STYLE, wrapped};

#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod snapshots_precision;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_by_their_names() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        assert_eq!(
            "xml".parse::<Format>().unwrap_err().to_string(),
            "no output format is called \"xml\"; there are table, markdown, csv, latex, json"
        );
    }
}
