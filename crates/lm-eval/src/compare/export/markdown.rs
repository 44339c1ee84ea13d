//! Markdown: tables that also read well as plain text, and the notes as a list.

use super::super::comparison::Comparison;
use super::super::grid::{Grid, Text, on_one_line};
use super::super::matrix::Matrix;

pub(super) fn export(comparison: &Comparison) -> String {
    let mut lines = table(&Grid::new(comparison).text);
    lines.push(String::new());
    if let Some(matrix) = Matrix::new(comparison) {
        lines.extend([format!("{}:", matrix.caption), String::new()]);
        lines.extend(table(&matrix.text));
        lines.push(String::new());
    }
    lines.extend(comparison.notes.iter().map(|note| format!("- {}", escaped(&note.to_string()))));
    lines.join("\n") + "\n"
}

/// The lines of a table, its columns padded to one width.
pub(crate) fn table(text: &Text) -> Vec<String> {
    let headings: Vec<String> = text.headings.iter().map(|heading| on_one_line(heading)).collect();
    let rows: Vec<Vec<String>> = [&headings]
        .into_iter()
        .chain(&text.rows)
        .map(|row| row.iter().map(|cell| escaped(cell)).collect())
        .collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0).max(3);

    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().enumerate().map(|(i, cell)| match i {
                0 => format!(" {cell:<0$} |", width(i)),
                1.. => format!(" {cell:>0$} |", width(i)),
            });
            format!("|{}", cells.collect::<String>())
        })
        .collect();
    let rule = (0..headings.len()).map(|i| {
        let dashes = "-".repeat(width(i));
        match i {
            0 => format!(" {dashes} |"),
            1.. => format!(" {}: |", &dashes[1..]),
        }
    });
    lines.insert(1, format!("|{}", rule.collect::<String>()));
    lines
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*")
}
