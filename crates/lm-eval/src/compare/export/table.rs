//! For a terminal. Numbers are never wrapped: on a narrow screen the least telling columns go first, then labels wrap.

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width,
};

use super::super::comparison::Comparison;
use super::super::grid::{Column, Grid, on_one_line};

/// Only a rule under the headings; those above and below are drawn here, without comfy-table's gaps between columns.
pub(crate) const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill(RULE));

/// What rules are drawn with.
pub(crate) const RULE: char = '─';

/// Spaces left and right of a cell.
const PADDING: usize = 2;

pub(super) fn export(comparison: &Comparison, width: Option<usize>) -> String {
    let mut grid = Grid::new(comparison);
    let left_out = width.map_or_else(Vec::new, |width| shrink(&mut grid, width));
    let mut text = render(&grid, width);
    for note in &comparison.notes {
        text += &wrapped(&note.to_string(), width);
    }
    if !left_out.is_empty() {
        let note = format!("Left out to fit the width: {}", left_out.join(", "));
        text += &wrapped(&note, width);
    }
    text
}

/// Drops columns until the table fits into `width`, or only essential ones are left; returns their headings.
fn shrink(grid: &mut Grid, width: usize) -> Vec<String> {
    let mut left_out = Vec::new();
    while natural_width(grid) > width {
        let expendable =
            grid.columns.iter().enumerate().filter_map(|(i, column)| Some((column.expendable()?, i)));
        let Some((_, column)) = expendable.min() else { break };
        left_out.push(on_one_line(&grid.headings[column]));
        grid.remove(column);
    }
    left_out
}

fn natural_width(grid: &Grid) -> usize {
    (0..grid.columns.len()).map(|i| content_width(grid, i) + PADDING).sum()
}

fn content_width(grid: &Grid, column: usize) -> usize {
    let cells = grid.rows.iter().map(|row| row[column].as_str());
    cells.chain(grid.headings[column].lines()).map(|text| text.chars().count()).max().unwrap_or(0)
}

fn render(grid: &Grid, width: Option<usize>) -> String {
    let cell = |(text, column): (&String, &Column)| {
        Cell::new(text).set_alignment(if column.is_label() {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        })
    };
    let cells = |row: &[String]| row.iter().zip(&grid.columns).map(cell).collect::<Vec<_>>();
    let mut table = Table::new();
    table.force_no_tty().load_style(STYLE).set_header(cells(&grid.headings));
    for row in &grid.rows {
        table.add_row(cells(row));
    }
    if let Some(width) = width.filter(|&width| natural_width(grid) > width) {
        // Essential columns alone are still too wide: let labels wrap, and nothing else.
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(width).unwrap_or(u16::MAX));
        let words = grid.rows.iter().flat_map(|row| row[0].split(' ')).map(|word| word.chars().count());
        let longest = u16::try_from(words.max().unwrap_or(0) + PADDING).unwrap_or(u16::MAX);
        for (i, column) in table.column_iter_mut().enumerate() {
            column.set_constraint(match i {
                0 => ColumnConstraint::LowerBoundary(Width::Fixed(longest)),
                1.. => ColumnConstraint::ContentWidth,
            });
        }
    }
    let body = table.trim_fmt();
    let rule = RULE.to_string().repeat(body.lines().map(|line| line.chars().count()).max().unwrap_or(0));
    format!("{rule}\n{body}\n{rule}\n")
}

/// Breaks `text` at spaces into lines of at most `width` characters, indented after the first.
pub(crate) fn wrapped(text: &str, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines += &line;
            lines.push('\n');
            line = " ".to_owned();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}
