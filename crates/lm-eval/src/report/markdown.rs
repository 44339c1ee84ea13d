//! The report as Markdown, for a record or a pull request.

use anyhow::Context;
use minijinja::context;

use super::templates::{environment, value};
use super::{Report, Seeds, Table, raw};
use crate::compare::{self, export};

/// Writes the text.
///
/// # Errors
/// A mistake in the template.
pub(super) fn render(report: &Report) -> anyhow::Result<String> {
    let environment = environment(&[("report.md", include_str!("templates/report.md"))])?;
    let comparison = report.comparison.as_ref();
    let table = |table: Option<&Table>| value(table.map(Table::markdown));
    let seeds = report.seeds.as_ref();
    let text = context! {
        report => value(report),
        comparison => value(comparison.map(|comparison| export(comparison, compare::Format::Markdown, None))),
        receipt => table(report.setup.as_ref().map(|setup| &setup.receipt)),
        differences => table(seeds.and_then(|seeds| seeds.differences.as_ref())),
        resolution => table(seeds.and_then(|seeds| seeds.resolution.as_ref())),
        raw => value(comparison.map(|comparison| raw::runs(comparison).markdown())),
        typical_sd => value(seeds.and_then(Seeds::typical_sd_text)),
        seeds_csv => value(comparison.map(raw::per_seed_csv)),
    };
    let template = environment.get_template("report.md").context("template report.md")?;
    template.render(text).context("the text")
}
