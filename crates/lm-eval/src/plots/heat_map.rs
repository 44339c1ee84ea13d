//! A heat map of differences: variants against precisions.

use super::canvas::{Anchor, Canvas, TEXT, WIDTH};
use super::labels::{fitted, width};
use super::palette::{HIGHER, INK, LOWER, MUTED, RULE, tint};
use super::svg::Svg;

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing was measured.
    Missing,
    /// Words without a colour, such as a loss or that runs diverged.
    Words(String),
    /// A difference, which decides the colour, and what to write: two lines at most.
    Difference(f64, String),
}

/// A heat map.
#[derive(Clone, Debug)]
pub struct HeatMap<'a> {
    /// Unique on the page.
    pub id: &'a str,
    /// What it shows, for those who cannot see it.
    pub alt: &'a str,
    /// Labels of the rows.
    pub rows: Vec<String>,
    /// Labels of the columns, two lines at most.
    pub columns: Vec<String>,
    /// The cells of every row.
    pub cells: Vec<Vec<Cell>>,
}

/// Least width and height of a cell.
const CELL: (f64, f64) = (66.0, 40.0);
/// Width up to which a cell grows for the label of its column.
const WIDEST_CELL: f64 = 100.0;
const GAP: f64 = 2.0;
const SMALL: u32 = 12;
/// How far towards its colour the largest difference goes: text stays readable on it.
const STRONGEST: f64 = 0.62;

/// Draws a heat map; `None` without rows or columns. Where columns are many the view box grows beyond the usual width.
///
/// Colours run over asinh(difference / median of the sizes), even around zero and like a logarithm far from it, so that
/// one precision which costs a hundred times as much as the others does not make these look alike.
pub fn heat_map(map: &HeatMap<'_>) -> Option<Svg> {
    if map.rows.is_empty() || map.columns.is_empty() {
        return None;
    }
    let labels = map.rows.iter().map(|row| width(row, TEXT)).fold(0.0, f64::max).min(0.4 * WIDTH) + 14.0;
    let lines = map.columns.iter().map(|column| column.lines().count()).max().unwrap_or(1).min(2);
    let top = 12.0 + 16.0 * lines as f64;
    let count = map.columns.len() as f64;
    let headings = map.columns.iter().flat_map(|column| column.lines().take(2));
    let widest = headings.map(|line| width(line, SMALL) + 6.0).fold(0.0, f64::max);
    let size = (
        (labels + count * widest.clamp(CELL.0, WIDEST_CELL) + 4.0).max(WIDTH),
        top + map.rows.len() as f64 * CELL.1 + 4.0,
    );
    let cell_width = (size.0 - labels - 4.0) / count;
    let shade = Shades::of(map.cells.iter().flatten());
    let mut canvas = Canvas::bare(size);
    let middle = |column: usize| labels + (column as f64 + 0.5) * cell_width;
    for (i, column) in map.columns.iter().enumerate() {
        for (k, line) in column.lines().take(2).enumerate() {
            let colour = if k == 0 { INK } else { MUTED };
            let text = fitted(line, cell_width - 2.0, SMALL);
            canvas.sized_text((middle(i), 14.0 + 16.0 * k as f64), &text, Anchor::Middle, colour, SMALL);
        }
    }
    for (r, (label, cells)) in map.rows.iter().zip(&map.cells).enumerate() {
        let y = top + r as f64 * CELL.1;
        let base = y + CELL.1 / 2.0 + 4.0;
        canvas.text((labels - 10.0, base), &fitted(label, labels - 12.0, TEXT), Anchor::End, INK);
        for (c, cell) in cells.iter().enumerate().take(map.columns.len()) {
            let corner = (labels + c as f64 * cell_width + GAP / 2.0, y + GAP / 2.0);
            let inner = (cell_width - GAP, CELL.1 - GAP);
            match cell {
                Cell::Missing => canvas.text((middle(c), base), "–", Anchor::Middle, MUTED),
                Cell::Words(words) => {
                    canvas.rectangle(corner, inner, "none", Some(RULE));
                    canvas.sized_text(
                        (middle(c), base),
                        &fitted(words, inner.0, SMALL),
                        Anchor::Middle,
                        INK,
                        SMALL,
                    );
                }
                Cell::Difference(difference, text) => {
                    canvas.rectangle(corner, inner, &shade.colour(*difference), None);
                    let lines: Vec<&str> = text.lines().take(2).collect();
                    for (k, line) in lines.iter().enumerate() {
                        let (size, rise) = if k == 0 {
                            (SMALL, if lines.len() > 1 { 7.0 } else { 0.0 })
                        } else {
                            (SMALL, -8.0)
                        };
                        canvas.sized_text((middle(c), base - rise), line, Anchor::Middle, INK, size);
                    }
                }
            }
        }
    }
    Some(canvas.finish(map.id, map.alt))
}

/// The scale of colours.
struct Shades {
    typical: f64,
    largest: f64,
}

impl Shades {
    fn of<'a>(cells: impl Iterator<Item = &'a Cell>) -> Self {
        let size = |cell: &Cell| match cell {
            Cell::Difference(difference, _) if difference.is_finite() => Some(difference.abs()),
            Cell::Difference(..) | Cell::Missing | Cell::Words(_) => None,
        };
        let mut sizes: Vec<f64> = cells.filter_map(size).filter(|size| *size > 0.0).collect();
        sizes.sort_by(f64::total_cmp);
        let typical = sizes.get(sizes.len() / 2).copied().unwrap_or(1.0);
        Self { typical, largest: sizes.last().copied().unwrap_or(1.0) }
    }

    /// Share of the way to the full colour, negative below zero.
    fn share(&self, difference: f64) -> f64 {
        (difference / self.typical).asinh() / (self.largest / self.typical).asinh()
    }

    fn colour(&self, difference: f64) -> String {
        let share = if difference.is_finite() { self.share(difference).clamp(-1.0, 1.0) } else { 0.0 };
        tint(if share < 0.0 { LOWER } else { HIGHER }, STRONGEST * share.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(columns: usize) -> HeatMap<'static> {
        let cells = vec![
            Cell::Words("2.4899".to_owned()),
            Cell::Difference(0.5, "+0.50\n± 0.1".to_owned()),
            Cell::Missing,
        ];
        let cells: Vec<Cell> = cells.into_iter().cycle().take(columns).collect();
        HeatMap {
            id: "precisions",
            alt: "Cost of precisions",
            rows: vec!["relu".to_owned(), "swiglu".to_owned()],
            columns: (0..columns).map(|i| format!("p{i}\nsmooth=true")).collect(),
            cells: vec![cells.clone(), cells],
        }
    }

    #[test]
    fn every_cell_is_written() {
        let text = heat_map(&map(3)).unwrap().inline();
        for (needed, times) in [(">2.4899<", 2), (">+0.50<", 2), (">± 0.1<", 2), (">–<", 2), (">p1<", 1)] {
            assert_eq!(text.matches(needed).count(), times, "{needed} in {text}");
        }
        assert!(text.contains("color-mix(in oklab, var(--higher) 62%, var(--paper))"), "{text}");
    }

    #[test]
    fn many_columns_widen_the_picture_and_none_makes_none() {
        assert_eq!(heat_map(&map(3)).unwrap().width(), 440);
        assert!(heat_map(&map(15)).unwrap().width() > 900);
        assert_eq!(heat_map(&map(0)), None);
    }

    #[test]
    fn one_huge_difference_leaves_the_others_apart() {
        let cells = [0.001, 0.01, 0.02, 5.0].map(|difference| Cell::Difference(difference, String::new()));
        let shades = Shades::of(cells.iter());
        assert!(shades.share(0.02) - shades.share(0.001) > 0.1 && (shades.share(5.0) - 1.0).abs() < 1e-12);
        assert_eq!(shades.share(-0.02), -shades.share(0.02));
        assert!(Shades::of([].iter()).colour(0.0).contains("0%"), "no difference, no colour");
    }
}
