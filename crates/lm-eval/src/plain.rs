//! Tables of figures in plain text, as reports print them: a label on the left, figures on the right, a rule around.

use comfy_table::{Cell, CellAlignment, Table};

use crate::compare::export::{RULE, STYLE};

/// An empty table; headings that are all empty are left out.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.force_no_tty().load_style(STYLE);
    if headings.iter().any(|heading| !heading.is_empty()) {
        table.set_header(cells(headings.iter().map(|heading| (*heading).to_owned())));
    }
    table
}

/// A row: a label on the left, figures on the right.
pub(crate) fn cells(texts: impl IntoIterator<Item = String>) -> Vec<Cell> {
    let alignment = |i| if i == 0 { CellAlignment::Left } else { CellAlignment::Right };
    texts.into_iter().enumerate().map(|(i, text)| Cell::new(text).set_alignment(alignment(i))).collect()
}

/// A blank line, a heading, and the table between two rules.
pub(crate) fn section(heading: &str, table: Table) -> String {
    let body = table.trim_fmt();
    let rule = RULE.to_string().repeat(body.lines().map(|line| line.chars().count()).max().unwrap_or(0));
    format!("\n{heading}\n{rule}\n{body}\n{rule}\n")
}
