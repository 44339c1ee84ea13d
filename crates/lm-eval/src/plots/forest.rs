//! A forest plot: differences with their intervals, one row each.

use super::canvas::{Anchor, Axis, Canvas, Frame, Margins, Marks, TEXT, WIDTH};
use super::labels::{fitted, width};
use super::palette::{HIGHER, INK, LOWER, MUTED, PAPER, UNSURE};
use super::range::cut;
use super::svg::Svg;

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What is compared.
    pub label: String,
    /// The difference.
    pub mean: f64,
    /// Its interval, where there is one.
    pub interval: Option<(f64, f64)>,
    /// The same as text, at the right.
    pub figures: String,
}

const ROW: f64 = 24.0;
/// Height of a row whose label stands above its interval.
const TALL_ROW: f64 = 38.0;
/// Longest label that stands beside its interval.
const BESIDE: f64 = 130.0;

/// Draws the rows from the top down; `None` for no rows. `x` says what the differences are, `id` is unique on the page, `alt`
/// says what the plot shows.
///
/// An interval below zero, above it, and across it are told apart by colour and by the mark: a disc is filled where the
/// interval leaves out zero. A difference without interval is a ring with nothing around it. A few rows that go many times
/// as far as the others end in an arrow where the axis is cut.
pub fn forest(id: &str, alt: &str, x: &str, rows: &[Row]) -> Option<Svg> {
    let ends = rows.iter().flat_map(|row| row.interval.map_or([row.mean; 2], |(low, high)| [low, high]));
    let (low, high) = ends.fold((0.0f64, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
    let finite = rows.iter().all(|row| row.mean.is_finite()) && low.is_finite() && high.is_finite();
    if rows.is_empty() || !finite {
        return None;
    }
    let reach = |row: &Row| row.interval.map_or(row.mean.abs(), |(low, high)| low.abs().max(high.abs()));
    let limit = cut(rows.iter().map(reach)).unwrap_or(f64::INFINITY);
    let (low, high) = (low.max(-limit), high.min(limit));
    let air = if high > low { 0.06 * (high - low) } else { 1.0 };
    let widest = |of: fn(&Row) -> &str| rows.iter().map(|row| width(of(row), TEXT)).fold(0.0, f64::max);
    let (labels, figures) = (widest(|row| &row.label), widest(|row| &row.figures));
    let above = labels > BESIDE;
    let row_height = if above { TALL_ROW } else { ROW };
    let x = Axis { label: x.to_owned(), range: (low - air, high + air), log: false, ticks: 4, signed: true };
    let margins = Margins {
        // Half of the first tick label stands left of the axis.
        left: (if above { 14.0 } else { labels + 16.0 }).max(x.label_width() / 2.0 + 6.0),
        right: (figures + 14.0).min(0.4 * WIDTH),
        top: 8.0,
        bottom: 42.0,
    };
    let count = rows.len() as f64;
    let size = (WIDTH, margins.top + margins.bottom + count * row_height);
    let y = Axis { label: String::new(), range: (0.0, count), log: false, ticks: 1, signed: false };
    let mut canvas =
        Canvas::new(Frame { size, margins, x, y, x_ticks: true, y_ticks: false }, Marks::default());

    let zero = canvas.place(0.0, 0.0).0;
    canvas.segment((zero, margins.top), (zero, size.1 - margins.bottom), MUTED, 1.0, Some("4 3"));
    for (i, row) in rows.iter().enumerate() {
        let middle = canvas.place(0.0, count - i as f64 - 0.5).1;
        let mark = if above { middle + 9.0 } else { middle };
        let base = |y: f64| y + f64::from(TEXT) * 0.36;
        if above {
            let label = fitted(&row.label, size.0 - margins.left - 10.0, TEXT);
            // The line at zero stops behind the label.
            let behind = (width(&label, TEXT), f64::from(TEXT) + 3.0);
            canvas.rectangle((margins.left + 3.0, middle - 9.0 - behind.1 / 2.0), behind, PAPER, None);
            canvas.text((margins.left + 4.0, base(middle - 9.0)), &label, Anchor::Start, INK);
        } else {
            canvas.text((margins.left - 10.0, base(mark)), &row.label, Anchor::End, INK);
        }
        let colour = match row.interval {
            Some((_, high)) if high < 0.0 => LOWER,
            Some((low, _)) if low > 0.0 => HIGHER,
            Some(_) | None => UNSURE,
        };
        let (left, right) = (margins.left + 1.0, size.0 - margins.right - 1.0);
        let at = |x: f64| canvas.place(x, 0.0).0;
        let ends = row.interval.map(|(low, high)| [at(low), at(high)]);
        let centre = at(row.mean);
        if let Some([from, to]) = ends {
            let (from_shown, to_shown) = (from.clamp(left, right), to.clamp(left, right));
            canvas.segment((from_shown, mark), (to_shown, mark), colour, 2.4, None);
            for end in [from, to].into_iter().filter(|end| (left..=right).contains(end)) {
                canvas.segment((end, mark - 4.0), (end, mark + 4.0), colour, 1.6, None);
            }
        }
        let all = ends.into_iter().flatten().chain([centre]);
        let (first, last) = all.fold((centre, centre), |(first, last), x| (first.min(x), last.max(x)));
        for (tip, is_beyond, back) in [(left, first < left, 6.0), (right, last > right, -6.0)] {
            for height in [-4.5, 4.5].into_iter().filter(|_| is_beyond) {
                canvas.segment((tip, mark), (tip + back, mark + height), colour, 2.0, None);
            }
        }
        if (left..=right).contains(&centre) {
            let is_sure = row.interval.is_some_and(|(low, high)| high < 0.0 || low > 0.0);
            canvas.disc((centre, mark), 4.6, if is_sure { colour } else { PAPER }, colour);
        }
        canvas.text((size.0 - 4.0, base(mark)), &row.figures, Anchor::End, INK);
    }
    Some(canvas.finish(id, alt))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, mean: f64, interval: Option<(f64, f64)>) -> Row {
        Row { label: label.to_owned(), mean, interval, figures: format!("{mean:+.3}") }
    }

    fn draw(rows: &[Row]) -> Option<String> {
        forest("differences", "Differences", "difference, nats", rows).map(|svg| svg.inline())
    }

    #[test]
    fn sides_are_told_apart_and_nothing_is_drawn_for_a_missing_interval() {
        let rows = [
            row("geglu", -0.05, Some((-0.08, -0.02))),
            row("glu", 0.05, Some((0.02, 0.08))),
            row("gelu", 0.01, Some((-0.02, 0.04))),
        ];
        let text = draw(&rows).unwrap();
        let segments = |text: &str, colour: &str| {
            text.matches(&format!("stroke=\"{colour}\" stroke-width=\"2.4\"")).count()
        };
        assert_eq!([LOWER, HIGHER, UNSURE].map(|colour| segments(&text, colour)), [1, 1, 1], "{text}");
        let alone = draw(&[row("geglu", -0.05, None)]).unwrap();
        assert_eq!([LOWER, HIGHER, UNSURE].map(|colour| segments(&alone, colour)), [0, 0, 0], "{alone}");
        assert!(alone.contains("circle"), "{alone}");
    }

    #[test]
    fn a_row_far_beyond_the_others_ends_in_an_arrow() {
        let near = (0..5).map(|i| row("near", 0.01 * f64::from(i), Some((-0.02, 0.05))));
        let far = row("far", 5.0, Some((4.0, 6.0)));
        let text = draw(&near.clone().chain([far]).collect::<Vec<_>>()).unwrap();
        let arrows = |text: &str| text.matches("stroke-width=\"2\"").count();
        assert_eq!((arrows(&text), text.matches("<circle").count()), (2, 5), "{text}");
        assert_eq!(arrows(&draw(&near.collect::<Vec<_>>()).unwrap()), 0);
    }

    #[test]
    fn long_labels_stand_above_their_intervals() {
        let height = |label: &str| {
            let svg = forest("d", "", "x", &[row(label, 0.1, None)]).unwrap();
            svg.inline()
                .split("viewBox=\"0 0 440 ")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .parse::<u32>()
                .unwrap()
        };
        assert!(height("swiglu fp8_delayed smooth=true lr=0.001") > height("swiglu"));
    }

    #[test]
    fn there_is_no_plot_of_nothing() {
        assert_eq!(draw(&[]), None);
        assert_eq!(draw(&[row("a", f64::NAN, None)]), None);
        assert!(draw(&[row("a", 0.0, None)]).is_some(), "no difference at all is one");
    }
}
