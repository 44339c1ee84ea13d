//! Curves with bands: losses or their differences over steps or time.

use super::canvas::{Axis, Canvas, Frame, Margins, Marks, WIDTH};
use super::labels::{EndLabel, beside_ends, room_beside};
use super::palette::{MUTED, PAPER, Stroke};
use super::range::{cut, range};
use super::svg::Svg;

/// A point of a curve: a mean and what it is the mean of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Step or seconds.
    pub x: f64,
    /// The mean.
    pub mean: f64,
    /// The lowest of the values.
    pub low: f64,
    /// The highest of the values.
    pub high: f64,
}

/// A line with a band around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What stands at its end.
    pub label: String,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Its points by ascending x; never empty.
    pub points: Vec<CurvePoint>,
    /// Something else measured later, (x, y), drawn as a ring that no line leads to.
    pub mark: Option<(f64, f64)>,
}

impl Curve {
    /// Height of what is furthest to the right, where the label stands; `points` are those that are drawn.
    fn end(&self, points: &[CurvePoint]) -> f64 {
        self.mark.map_or_else(|| points[points.len() - 1].mean, |(_, y)| y)
    }
}

/// Scale of the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Everything from the start, evenly.
    Linear,
    /// The logarithm of x, which shows the beginning; points at or below zero are left out.
    Log,
}

/// A plot of curves.
#[derive(Clone, Debug)]
pub struct Curves<'a> {
    /// Unique on the page.
    pub id: &'a str,
    /// What it shows, for those who cannot see it.
    pub alt: &'a str,
    /// What x is, with its unit.
    pub x: &'a str,
    /// What y is, with its unit.
    pub y: &'a str,
    /// How x runs.
    pub scale: Scale,
    /// Whether y is a difference: zero gets a line, values get signs, and a few curves that go many times as far as the
    /// others leave the frame.
    pub difference: bool,
    /// Leave out of the vertical range what happens before this share of the x axis, where losses fall so far that the
    /// differences between curves would not be seen; 0 shows everything.
    pub from: f64,
    /// The curves; the last is drawn on top.
    pub curves: Vec<Curve>,
}

/// Points that are drawn per curve, at most: about one per two units of the view box.
const POINTS: usize = 160;
/// Widest share of a plot that labels may take.
const LABELS: f64 = 0.4;

/// Draws curves; `None` if there is no point to draw.
pub fn curves(plot: &Curves<'_>) -> Option<Svg> {
    let shown: Vec<(&Curve, Vec<CurvePoint>)> = plot
        .curves
        .iter()
        .map(|curve| (curve, thinned(&curve.points, plot.scale)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let marks_x = shown.iter().filter_map(|(curve, _)| Some(curve.mark?.0));
    let x_range =
        range(shown.iter().flat_map(|(_, points)| points.iter().map(|point| point.x)).chain(marks_x))?;
    let x_range = match plot.scale {
        Scale::Linear => (x_range.0.min(0.0), x_range.1),
        Scale::Log => x_range,
    };
    let x_range = if x_range.0 < x_range.1 { x_range } else { (x_range.0 * 0.5, x_range.1 * 2.0 + 1e-9) };
    let first = x_range.0 + plot.from * (x_range.1 - x_range.0);
    let y_range = vertical(&shown, first, plot.difference)?;

    // Where a curve leaves the frame for good, its label says to which side.
    let text = |(curve, points): &(&Curve, Vec<CurvePoint>)| match curve.end(points) {
        end if end > y_range.1 => format!("{} ↑", curve.label),
        end if end < y_range.0 => format!("{} ↓", curve.label),
        _ => curve.label.clone(),
    };
    let room = room_beside(shown.iter().map(text), LABELS * WIDTH);
    let size = (WIDTH, 300.0);
    let x = Axis {
        label: plot.x.to_owned(),
        range: x_range,
        log: plot.scale == Scale::Log,
        ticks: 4,
        signed: false,
    };
    let y = Axis { label: plot.y.to_owned(), range: y_range, log: false, ticks: 5, signed: plot.difference };

    let margins = Margins { left: y.label_width() + 14.0, right: room, top: 30.0, bottom: 42.0 };
    let mut marks = Marks::default();
    // The more bands lie over each other, the fainter each.
    let opacity = (0.5 / shown.len() as f64).clamp(0.05, 0.16);
    for (curve, points) in &shown {
        if points.iter().any(|point| point.low < point.high) {
            let band: Vec<_> = points.iter().map(|point| (point.x, point.low, point.high)).collect();
            marks.band(&band, curve.stroke, opacity);
        }
    }
    for (curve, points) in &shown {
        marks.line(points.iter().map(|point| (point.x, point.mean)), curve.stroke, 1.8);
    }
    let mut canvas = Canvas::new(Frame { size, margins, x, y, x_ticks: true, y_ticks: true }, marks);
    let (left, right) = (margins.left, size.0 - margins.right);
    if plot.difference {
        let zero = canvas.place(x_range.0, 0.0).1;
        canvas.segment((left, zero), (right, zero), MUTED, 1.0, Some("4 3"));
    }
    let label = |line: &(&Curve, Vec<CurvePoint>)| {
        let y = canvas.place(x_range.1, line.0.end(&line.1)).1;
        EndLabel { text: text(line), colour: line.0.stroke.colour(), y }
    };
    let labels: Vec<EndLabel> = shown.iter().map(label).collect();
    beside_ends(&mut canvas, (right, room), (margins.top, size.1 - margins.bottom + 4.0), &labels);
    let is_inside = |y: f64| (y_range.0..=y_range.1).contains(&y);
    for (curve, points) in &shown {
        let colour = curve.stroke.colour();
        // A point alone is no line.
        if let [only] = points[..]
            && is_inside(only.mean)
        {
            canvas.disc(canvas.place(only.x, only.mean), 2.4, &colour, &colour);
        }
        if let Some((x, y)) = curve.mark.filter(|(_, y)| is_inside(*y)) {
            canvas.disc(canvas.place(x, y), 3.6, PAPER, &colour);
        }
    }
    Some(canvas.finish(plot.id, plot.alt))
}

/// At most [`POINTS`] points, evenly spaced on the axis, the last always among them.
fn thinned(points: &[CurvePoint], scale: Scale) -> Vec<CurvePoint> {
    let position = |x: f64| match scale {
        Scale::Linear => x,
        Scale::Log => x.ln(),
    };
    let is_drawn = |point: &&CurvePoint| {
        let finite = [point.x, point.mean, point.low, point.high].iter().all(|value| value.is_finite());
        finite && (scale == Scale::Linear || point.x > 0.0)
    };
    let points: Vec<CurvePoint> = points.iter().filter(is_drawn).copied().collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let cell = (position(last.x) - position(first.x)) / POINTS as f64;
    let mut kept: Vec<CurvePoint> = Vec::new();
    for point in &points {
        let far = kept.last().is_none_or(|before| position(point.x) - position(before.x) >= cell);
        if far {
            kept.push(*point);
        }
    }
    if kept.last() != Some(last) {
        kept.push(*last);
    }
    kept
}

/// The vertical range that shows everything from x = `first` on, with a little air. Of differences, a few curves that go
/// many times as far as the others leave it.
fn vertical(shown: &[(&Curve, Vec<CurvePoint>)], first: f64, difference: bool) -> Option<(f64, f64)> {
    let late = |points: &[CurvePoint]| {
        let late: Vec<CurvePoint> = points.iter().filter(|point| point.x >= first).copied().collect();
        if late.is_empty() { points.to_vec() } else { late }
    };
    let values = shown.iter().flat_map(|(_, points)| late(points)).flat_map(|point| [point.low, point.high]);
    let marks = shown.iter().filter_map(|(curve, _)| Some(curve.mark?.1));
    let (low, high) = range(values.chain(marks))?;
    let (low, high) = if difference {
        let size = |(curve, points): &(&Curve, Vec<CurvePoint>)| {
            let mark = curve.mark.map_or(0.0, |(_, y)| y.abs());
            late(points).iter().map(|p| p.low.abs().max(p.high.abs())).fold(mark, f64::max)
        };
        let limit = cut(shown.iter().map(size)).unwrap_or(f64::INFINITY);
        (low.min(0.0).max(-limit), high.max(0.0).min(limit))
    } else {
        (low, high)
    };
    let air = if high > low { 0.05 * (high - low) } else { 0.05 * high.abs().max(1e-6) };
    Some((low - air, high + air))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: f64, mean: f64) -> CurvePoint {
        CurvePoint { x, mean, low: mean - 0.1, high: mean + 0.1 }
    }

    fn curve(label: &str, series: usize, points: impl IntoIterator<Item = CurvePoint>) -> Curve {
        let points = points.into_iter().collect();
        Curve { label: label.to_owned(), stroke: Stroke::of(series), points, mark: None }
    }

    fn plot(curves: Vec<Curve>) -> Curves<'static> {
        let (id, alt, x, y) = ("loss", "Loss over steps", "step", "loss, nats per token");
        Curves { id, alt, x, y, scale: Scale::Linear, difference: false, from: 0.0, curves }
    }

    fn falling(end: f64) -> impl Iterator<Item = CurvePoint> {
        (1..=1000).map(move |step| point(f64::from(step), end + 3.0 / f64::from(step)))
    }

    #[test]
    fn every_curve_is_drawn_labelled_and_banded() {
        let svg = curves(&plot(vec![curve("relu", 0, falling(2.0)), curve("swiglu <a>", 1, falling(1.5))]))
            .unwrap();
        let text = svg.inline();
        for needed in
            [">relu<", ">swiglu &lt;a&gt;<", "var(--s0)", "var(--s1)", ">loss, nats per token<", ">step<"]
        {
            assert!(text.contains(needed), "{needed} in {text}");
        }
        assert_eq!(text.matches("fill-opacity").count() + text.matches(" opacity=").count(), 2, "{text}");
        assert!(text.len() < 20_000, "{} bytes", text.len());
    }

    #[test]
    fn a_difference_far_beyond_the_others_leaves_the_frame_and_says_so() {
        let flat = |end: f64| {
            (1..=50).map(move |step| point(f64::from(step), end)).map(move |p| CurvePoint {
                low: end,
                high: end,
                ..p
            })
        };
        let near = (0..3).map(|i| curve(&format!("near {i}"), i, flat(0.01 * i as f64)));
        let plot = |far: f64| Curves {
            difference: true,
            ..plot(near.clone().chain([curve("far", 3, flat(far))]).collect())
        };
        let text = |far: f64| curves(&plot(far)).unwrap().inline();
        assert!(
            text(9.0).contains(">far ↑<") && text(-9.0).contains(">far ↓<") && text(0.03).contains(">far<")
        );
    }

    #[test]
    fn a_mark_is_a_ring_apart_from_the_line_and_belongs_to_the_frame() {
        let with = |mark| Curve { mark, ..curve("relu", 1, [point(5.0, 2.0), point(9.0, 2.0)]) };
        let rings = |svg: Svg| svg.inline().matches("<circle").count();
        assert_eq!(rings(curves(&plot(vec![with(None)])).unwrap()), 0);
        assert_eq!(rings(curves(&plot(vec![with(Some((20.0, 9.0)))])).unwrap()), 1);
        let shown = with(Some((20.0, 9.0)));
        let range = vertical(&[(&shown, shown.points.clone())], 0.0, false).unwrap();
        assert!(range.0 < 1.9 && range.1 > 9.0, "{range:?}");
        assert_eq!(rings(curves(&plot(vec![curve("one", 1, [point(5.0, 2.0)])])).unwrap()), 1, "a dot");
    }

    #[test]
    fn there_is_no_plot_of_nothing() {
        assert_eq!(curves(&plot(Vec::new())), None);
        assert_eq!(curves(&plot(vec![curve("nan", 0, [point(1.0, f64::NAN)])])), None);
        let log = Curves { scale: Scale::Log, ..plot(vec![curve("a", 0, [point(0.0, 1.0)])]) };
        assert_eq!(curves(&log), None);
    }

    #[test]
    fn one_point_and_equal_points_are_drawn() {
        for points in [vec![point(5.0, 2.0)], vec![point(5.0, 2.0), point(9.0, 2.0)]] {
            for scale in [Scale::Linear, Scale::Log] {
                let text =
                    curves(&Curves { scale, ..plot(vec![curve("a", 0, points.clone())]) }).unwrap().inline();
                assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            }
        }
    }

    #[test]
    fn thinning_keeps_the_ends_and_the_shape_of_the_axis() {
        let points: Vec<CurvePoint> = falling(2.0).collect();
        for scale in [Scale::Linear, Scale::Log] {
            let kept = thinned(&points, scale);
            assert!(kept.len() <= POINTS + 2 && kept.len() > POINTS / 3, "{}", kept.len());
            assert_eq!((kept[0], kept[kept.len() - 1]), (points[0], points[999]));
        }
        let early = |scale| thinned(&points, scale).iter().filter(|point| point.x < 50.0).count();
        assert!(early(Scale::Log) > 3 * early(Scale::Linear));
    }

    #[test]
    fn a_logarithmic_axis_has_ticks_at_powers() {
        let log = Curves { scale: Scale::Log, ..plot(vec![curve("a", 0, falling(2.0))]) };
        let text = curves(&log).unwrap().inline();
        assert!([">1<", ">10<", ">100<", ">1000<"].iter().all(|tick| text.contains(tick)), "{text}");
    }

    #[test]
    fn the_range_can_leave_out_the_beginning() {
        let shown = curve("a", 0, falling(2.0));
        let all = vertical(&[(&shown, shown.points.clone())], 0.0, false).unwrap();
        let late = vertical(&[(&shown, shown.points.clone())], 100.0, false).unwrap();
        assert!(all.1 > 5.0 && late.1 < 2.3, "{all:?} {late:?}");
        assert!(
            vertical(&[(&shown, shown.points.clone())], 0.0, true).unwrap().0 < 0.0,
            "zero belongs to differences"
        );
    }
}
