//! For a terminal. Numbers are never wrapped: on a narrow screen the least telling columns go first, then labels wrap.

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width,
};

use super::super::comparison::Comparison;
use super::super::grid::{Grid, Text, on_one_line};
use super::super::matrix::Matrix;

/// Only a rule under the headings; those above and below are drawn here, without comfy-table's gaps between columns.
pub(crate) const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill(RULE));

/// What rules are drawn with.
pub(crate) const RULE: char = '─';

/// Spaces left and right of a cell.
const PADDING: usize = 2;

pub(super) fn export(comparison: &Comparison, width: Option<usize>) -> String {
    let mut grid = Grid::new(comparison);
    let left_out = width.map_or_else(Vec::new, |width| shrink(&mut grid, width));
    let mut text = render(&grid.text, width);
    if let Some(matrix) = Matrix::new(comparison) {
        text += &format!("\n{}", wrapped(&matrix.caption, width));
        for panel in panels(matrix.text, width) {
            text += &format!("{}\n", render(&panel, width));
        }
    }
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
    while natural_width(&grid.text) > width {
        let expendable =
            grid.columns.iter().enumerate().filter_map(|(i, column)| Some((column.expendable()?, i)));
        let Some((_, column)) = expendable.min() else { break };
        left_out.push(on_one_line(&grid.text.headings[column]));
        grid.remove(column);
    }
    left_out
}

/// Splits a table that is too wide into several, one below the other, each with the labels.
fn panels(text: Text, width: Option<usize>) -> Vec<Text> {
    let columns = 0..text.headings.len();
    let mut chosen: Vec<Vec<usize>> = vec![vec![0]];
    let natural =
        |columns: &[usize]| columns.iter().map(|&i| content_width(&text, i) + PADDING).sum::<usize>();
    for column in columns.skip(1) {
        let with_it = [chosen[chosen.len() - 1].as_slice(), &[column]].concat();
        let fits = width.is_none_or(|width| natural(&with_it) <= width);
        if fits || with_it.len() == 2 {
            chosen.pop();
            chosen.push(with_it);
        } else {
            chosen.push(vec![0, column]);
        }
    }
    let pick = |row: &[String], columns: &[usize]| columns.iter().map(|&i| row[i].clone()).collect();
    let panel = |columns: &Vec<usize>| Text {
        headings: pick(&text.headings, columns),
        rows: text.rows.iter().map(|row| pick(row, columns)).collect(),
    };
    chosen.iter().map(panel).collect()
}

fn natural_width(text: &Text) -> usize {
    (0..text.headings.len()).map(|i| content_width(text, i) + PADDING).sum()
}

fn content_width(text: &Text, column: usize) -> usize {
    let cells = text.rows.iter().map(|row| row[column].as_str());
    cells.chain(text.headings[column].lines()).map(|text| text.chars().count()).max().unwrap_or(0)
}

fn render(text: &Text, width: Option<usize>) -> String {
    let cell = |(i, text): (usize, &String)| {
        Cell::new(text).set_alignment(if i == 0 { CellAlignment::Left } else { CellAlignment::Right })
    };
    let cells = |row: &[String]| row.iter().enumerate().map(cell).collect::<Vec<_>>();
    let mut table = Table::new();
    table.force_no_tty().load_style(STYLE).set_header(cells(&text.headings));
    for row in &text.rows {
        table.add_row(cells(row));
    }
    if let Some(width) = width.filter(|&width| natural_width(text) > width) {
        // Essential columns alone are still too wide: let labels wrap, and nothing else.
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(width).unwrap_or(u16::MAX));
        let words = text.rows.iter().flat_map(|row| row[0].split(' ')).map(|word| word.chars().count());
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
