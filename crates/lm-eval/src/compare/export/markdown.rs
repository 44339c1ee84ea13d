//! Markdown: a table that also reads well as plain text, and the notes as a list.

use super::super::comparison::Comparison;
use super::super::grid::{Grid, on_one_line};

pub(super) fn export(comparison: &Comparison) -> String {
    let grid = Grid::new(comparison);
    let headings: Vec<String> = grid.headings.iter().map(|heading| on_one_line(heading)).collect();
    let escape = |cell: &String| cell.replace('|', "\\|").replace('*', "\\*");
    let rows: Vec<Vec<String>> =
        [&headings].into_iter().chain(&grid.rows).map(|r| r.iter().map(escape).collect()).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0).max(3);
    let left = |i: usize| grid.columns[i].is_label();

    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().enumerate().map(|(i, cell)| {
                if left(i) { format!(" {cell:<0$} |", width(i)) } else { format!(" {cell:>0$} |", width(i)) }
            });
            format!("|{}", cells.collect::<String>())
        })
        .collect();
    let rule = (0..headings.len()).map(|i| {
        let dashes = "-".repeat(width(i));
        if left(i) { format!(" {dashes} |") } else { format!(" {}: |", &dashes[1..]) }
    });
    lines.insert(1, format!("|{}", rule.collect::<String>()));
    lines.push(String::new());
    lines.extend(comparison.notes.iter().map(|note| format!("- {}", escape(&note.to_string()))));
    lines.join("\n") + "\n"
}
