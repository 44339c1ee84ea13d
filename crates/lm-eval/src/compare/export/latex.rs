//! LaTeX: a `table` with booktabs rules, the notes in small print below.

use super::super::comparison::Comparison;
use super::super::grid::{Grid, on_one_line};

pub(super) fn export(comparison: &Comparison) -> String {
    let table = Grid::new(comparison).text;
    let alignment = "l".to_owned() + &"r".repeat(table.headings.len() - 1);
    let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
    let headings = table.headings.iter().map(|heading| escaped(&on_one_line(heading))).collect();

    let mut text = "% needs \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n".to_owned();
    text += &format!("  \\begin{{tabular}}{{{alignment}}}\n    \\toprule\n{}    \\midrule\n", line(headings));
    for row in &table.rows {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 => escaped(cell),
            1.. => figure(cell.trim()),
        });
        text += &line(cells.collect());
    }
    text += "    \\bottomrule\n  \\end{tabular}\n\n  \\smallskip\n  \\begin{minipage}{\\linewidth}\\footnotesize\n";
    for note in &comparison.notes {
        text += &format!("    {}.\\par\n", escaped(&note.to_string()));
    }
    text + "  \\end{minipage}\n\\end{table}\n"
}

/// A cell of figures; signs go into math mode, where a minus is a minus.
fn figure(cell: &str) -> String {
    let signed = cell.starts_with(['+', '-']);
    if signed { format!("${}$", cell.replace('±', "\\pm")) } else { escaped(cell) }
}

/// Escapes what LaTeX would interpret, and spells the few symbols outside ASCII that tables use.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '*' => escaped += "$^{*}$",
            '<' | '>' => escaped.extend(['$', c, '$']),
            'Δ' => escaped += "$\\Delta$",
            '±' => escaped += "$\\pm$",
            '≈' => escaped += "$\\approx$",
            '–' => escaped += "--",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_special_is_escaped() {
        assert_eq!(
            escaped("a_b & 50% #1 {x} $ ~ ^ \\"),
            "a\\_b \\& 50\\% \\#1 \\{x\\} \\$ \\textasciitilde{} \\textasciicircum{} \\textbackslash{}"
        );
        assert_eq!(escaped("swiglu ≈"), "swiglu $\\approx$");
        assert_eq!(figure("-0.0550 ± 0.0041"), "$-0.0550 \\pm 0.0041$");
        assert_eq!(figure("3.153M +33%"), "3.153M +33\\%");
    }
}
