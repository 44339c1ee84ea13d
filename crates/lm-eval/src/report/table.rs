//! A table of text, as every format shows it.

use serde::Serialize;

use crate::compare::export::markdown_table;
use crate::compare::grid::{Text, on_one_line};

/// Headings and cells. The first columns hold labels, which read from the left; all others hold figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// A heading per column, without line breaks.
    pub headings: Vec<String>,
    /// A cell per column in every row.
    pub rows: Vec<Vec<String>>,
    /// How many of the columns hold labels.
    pub labels: usize,
}

impl Table {
    /// A table with one column of labels.
    pub(super) fn new(headings: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { headings: headings.iter().map(|heading| (*heading).to_owned()).collect(), rows, labels: 1 }
    }

    /// A table of a comparison.
    pub(super) fn of_text(text: &Text) -> Self {
        let headings = text.headings.iter().map(|heading| on_one_line(heading)).collect();
        // Tails are padded to one width: with figures and spaces of one width, what is before them lines up.
        let figure_spaces = |cell: &String| {
            let shown = cell.trim_end();
            format!("{shown}{}", "\u{2007}".repeat(cell.chars().count() - shown.chars().count()))
        };
        let rows = text.rows.iter().map(|row| row.iter().map(figure_spaces).collect()).collect();
        Self { headings, rows, labels: 1 }
    }

    /// In Markdown.
    pub(super) fn markdown(&self) -> String {
        let rows = self.rows.iter().map(|row| row.iter().map(|cell| cell.replace('\u{2007}', " ")).collect());
        markdown_table(&Text { headings: self.headings.clone(), rows: rows.collect() }).join("\n")
    }
}
