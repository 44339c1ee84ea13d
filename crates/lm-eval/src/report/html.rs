//! The page: one file without anything from elsewhere.

use anyhow::Context;
use minijinja::context;
use minijinja::value::Value;

use super::figures::Figure;
use super::templates::{environment, value};
use super::{Report, Seeds, Table, raw};
use crate::compare::grid::Grid;
use crate::compare::{Level, Note};
use crate::plots;

/// Templates by name; what ends in `.html` is escaped.
const TEMPLATES: [(&str, &str); 4] = [
    ("report.html", include_str!("templates/report.html")),
    ("parts.html", include_str!("templates/parts.html")),
    ("report.css", include_str!("templates/report.css")),
    ("sort.js", include_str!("templates/sort.js")),
];

/// Writes the page.
///
/// # Errors
/// A mistake in a template.
pub(super) fn render(report: &Report) -> anyhow::Result<String> {
    let environment = environment(&TEMPLATES)?;
    let comparison = report.comparison.as_ref();
    let notes = |level: Level| -> Vec<&str> {
        let notes = comparison.map_or(&[][..], |comparison| &comparison.notes);
        notes.iter().filter(|note: &&Note| note.level == level).map(|note| note.text.as_str()).collect()
    };
    let seeds = report.seeds.as_ref();
    let table = |table: Option<Table>| value(table);
    let page = context! {
        report => value(report),
        colours => plots::STYLE,
        tables => context! {
            arms => table(comparison.map(|comparison| Table::of_text(&Grid::new(comparison).text))),
            receipt => table(report.setup.as_ref().map(|setup| setup.receipt.clone())),
            differences => table(seeds.and_then(|seeds| seeds.differences.clone())),
            resolution => table(seeds.and_then(|seeds| seeds.resolution.clone())),
            runs => table(comparison.map(raw::runs)),
        },
        typical_sd => value(seeds.and_then(Seeds::typical_sd_text)),
        invalid => value(notes(Level::Invalid)),
        warnings => value(notes(Level::Warning)),
        infos => value(notes(Level::Info)),
        seeds_csv => value(comparison.map(raw::per_seed_csv)),
        figures => context! {
            differences => figures(&report.figures.differences),
            precisions => figures(&report.figures.precisions),
            steps => figures(&report.figures.steps),
            further => figures(&report.figures.further),
            probes => figures(&report.figures.probes),
            notes => value(&report.figures.notes),
        },
    };
    let template = environment.get_template("report.html").context("template report.html")?;
    template.render(page).context("the page")
}

/// Width of a view box up to which text can be read on a phone.
const FITTING: u32 = 460;

fn figures(figures: &[Figure]) -> Vec<Value> {
    let value = |figure: &Figure| {
        context! {
            id => value(&figure.id),
            title => value(&figure.title),
            caption => value(&figure.caption),
            // Wider ones keep their width and scroll in their own box.
            wide => figure.svg.width() > FITTING,
            width => figure.svg.width(),
            svg => Value::from_safe_string(figure.svg.inline()),
        }
    };
    figures.iter().map(value).collect()
}
