//! Everything that touches the plotting crate: axes with a frame around them, and marks on top.

use std::sync::Arc;

use kuva::backend::svg::SvgBackend;
use kuva::plot::{BandPlot, LinePlot, LineStyle};
use kuva::render::color::Color;
use kuva::render::layout::{AxisLabelOverlap, ComputedLayout, Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, Scene, TextAnchor, render_multiple};
use kuva::render::render_utils::{compute_tick_step, generate_ticks_log, generate_ticks_with_step};
use kuva::render::theme::Theme;

use super::labels::{fitted, plain, width};
use super::palette::{GRID, INK, MUTED, RULE, Stroke};
use super::svg::Svg;

/// Width of most view boxes: on a phone text then shrinks by a fifth, beside another plot on a desk hardly at all.
pub(super) const WIDTH: f64 = 440.0;
/// Size of axis labels and of labels at lines.
pub(super) const TEXT: u32 = 13;

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// What it measures.
    pub label: String,
    /// Least and greatest value shown.
    pub range: (f64, f64),
    /// Whether its scale is logarithmic.
    pub log: bool,
    /// Ticks to aim at on a linear scale.
    pub ticks: usize,
    /// Whether its values carry a sign.
    pub signed: bool,
}

impl Axis {
    /// Distance of its ticks on a linear scale.
    fn step(&self) -> f64 {
        compute_tick_step(self.range.0, self.range.1, self.ticks)
    }

    fn tick_values(&self) -> Vec<f64> {
        let (low, high) = self.range;
        if self.log {
            generate_ticks_log(low, high)
        } else {
            generate_ticks_with_step(low, high, self.step())
        }
    }

    /// The same with so few ticks that their labels have room beside each other.
    fn fitting(mut self, room: f64) -> Self {
        const APART: f64 = 12.0;
        let is_crowded = |axis: &Self| axis.tick_values().len() as f64 * (axis.label_width() + APART) > room;
        while !self.log && self.ticks > 2 && is_crowded(&self) {
            self.ticks -= 1;
        }
        self
    }

    /// Width of its widest tick label.
    pub fn label_width(&self) -> f64 {
        let format = self.format();
        self.tick_values().into_iter().map(|x| width(&format.format(x), TEXT)).fold(0.0, f64::max)
    }

    /// Writes ticks with as many decimals as the finest of them needs.
    fn format(&self) -> TickFormat {
        let is_whole = |x: f64| (x - x.round()).abs() < 1e-6;
        let needed = |x: f64| (0..=6).find(|&decimals| is_whole(x * 10f64.powi(decimals)));
        let finest = self.tick_values().into_iter().filter_map(needed).max().unwrap_or(0);
        let decimals = if self.log { 0 } else { finest };
        let (signed, log) = (self.signed, self.log);
        TickFormat::Custom(Arc::new(
            move |x| if log { power(x) } else { plain(x, decimals as usize, signed) },
        ))
    }
}

/// A tick of a logarithmic axis.
fn power(x: f64) -> String {
    match x {
        _ if x >= 1e6 => format!("{}M", plain(x / 1e6, 0, false)),
        _ if x >= 1e4 => format!("{}k", plain(x / 1e3, 0, false)),
        _ if x >= 0.999 => plain(x, 0, false),
        _ if x >= 1e-4 => format!("{x}"),
        _ => format!("{x:e}"),
    }
}

/// Space around the area of the data, in units of the view box.
#[derive(Clone, Copy, Debug)]
pub(super) struct Margins {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

/// The frame of a plot.
pub(super) struct Frame {
    pub size: (f64, f64),
    pub margins: Margins,
    pub x: Axis,
    pub y: Axis,
    /// Whether the x axis has ticks and lines across; without, the plot writes its own.
    pub x_ticks: bool,
    /// Whether the y axis has ticks and lines across, or only places for rows.
    pub y_ticks: bool,
}

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// What is drawn inside the frame, in data coordinates and clipped to it.
#[derive(Default)]
pub(super) struct Marks(Vec<Plot>);

impl Marks {
    /// A line through points.
    pub fn line(&mut self, points: impl IntoIterator<Item = (f64, f64)>, stroke: Stroke, width: f64) {
        self.0.push(line(points, stroke, width).into());
    }

    /// A line of steps, as around the bars of a histogram.
    pub fn steps(&mut self, points: impl IntoIterator<Item = (f64, f64)>, stroke: Stroke, width: f64) {
        self.0.push(line(points, stroke, width).with_step().into());
    }

    /// An area between two lines over the same x.
    pub fn band(&mut self, points: &[(f64, f64, f64)], stroke: Stroke, opacity: f64) {
        let x = points.iter().map(|point| point.0);
        let (low, high) = (points.iter().map(|point| point.1), points.iter().map(|point| point.2));
        self.0.push(BandPlot::new(x, low, high).with_color(stroke.colour()).with_opacity(opacity).into());
    }
}

fn line(points: impl IntoIterator<Item = (f64, f64)>, stroke: Stroke, width: f64) -> LinePlot {
    let style = stroke.dashes().map_or(LineStyle::Solid, |dashes| LineStyle::Custom(dashes.to_owned()));
    LinePlot::new()
        .with_data(points)
        .with_color(stroke.colour())
        .with_stroke_width(width)
        .with_line_style(style)
}

/// A plot being drawn.
pub(super) struct Canvas {
    scene: Scene,
    map: ComputedLayout,
    size: (f64, f64),
}

impl Canvas {
    /// Draws the frame and `marks`.
    pub fn new(frame: Frame, mut marks: Marks) -> Self {
        let Frame { size, margins, x, y, x_ticks, y_ticks } = frame;
        let x = x.fitting(size.0 - margins.left - margins.right);
        let theme = Theme {
            background: "none".to_owned(),
            axis_color: RULE.to_owned(),
            tick_color: RULE.to_owned(),
            grid_color: GRID.to_owned(),
            text_color: INK.to_owned(),
            ..Theme::light()
        };
        let mut layout = Layout::new(x.range, y.range)
            .with_theme(theme)
            .with_width(size.0)
            .with_height(size.1)
            .with_force_margins(margins.left, margins.right)
            .with_force_margins_y(margins.top, margins.bottom)
            .with_x_label_overlap(AxisLabelOverlap::Thin)
            .with_tick_size(TEXT)
            .with_label_size(TEXT)
            .with_tick_length(4.0)
            .with_x_tick_format(x.format())
            .with_y_tick_format(y.format());
        (layout.x_axis_min, layout.x_axis_max) = (Some(x.range.0), Some(x.range.1));
        (layout.y_axis_min, layout.y_axis_max) = (Some(y.range.0), Some(y.range.1));
        layout = if x.log { layout.with_log_x() } else { layout.with_x_tick_step(x.step()) };
        layout = if y.log { layout.with_log_y() } else { layout.with_y_tick_step(y.step()) };
        if !x_ticks {
            layout.x_categories = Some(Vec::new());
        }
        if !y_ticks {
            layout.y_categories = Some(Vec::new());
        }
        // Without any plot the crate draws no axes; one point is no line.
        marks.line([(x.range.0, y.range.0)], Stroke::of(0), 1.0);
        let map = ComputedLayout::from_layout(&layout);
        let mut canvas = Self { scene: render_multiple(marks.0, layout), map, size };
        canvas.scene.background_color = None;
        // Above the axis rather than beside it: it can be as long as the plot is wide, and nobody has to turn the head.
        let room = size.0 - 8.0;
        canvas.text((4.0, f64::from(TEXT) + 1.0), &fitted(&y.label, room, TEXT), Anchor::Start, MUTED);
        let label = fitted(&x.label, room, TEXT);
        let half = width(&label, TEXT) / 2.0 + 4.0;
        let middle = ((margins.left + size.0 - margins.right) / 2.0).min(size.0 - half).max(half);
        canvas.text((middle, size.1 - 5.0), &label, Anchor::Middle, MUTED);
        canvas
    }

    /// A canvas without axes.
    pub fn bare(size: (f64, f64)) -> Self {
        let layout = Layout::new((0.0, 1.0), (0.0, 1.0)).with_width(size.0).with_height(size.1);
        let mut scene = Scene::new(size.0, size.1);
        scene.background_color = None;
        Self { scene, map: ComputedLayout::from_layout(&layout), size }
    }

    /// Where a point of the data lies, in units of the view box.
    pub fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (self.map.map_x(x), self.map.map_y(y))
    }

    /// A text with its base line at a place.
    pub fn text(&mut self, at: (f64, f64), text: &str, anchor: Anchor, colour: &str) {
        self.sized_text(at, text, anchor, colour, TEXT);
    }

    /// The same in another size.
    pub fn sized_text(&mut self, at: (f64, f64), text: &str, anchor: Anchor, colour: &str, size: u32) {
        let anchor = match anchor {
            Anchor::Start => TextAnchor::Start,
            Anchor::Middle => TextAnchor::Middle,
            Anchor::End => TextAnchor::End,
        };
        // The plotting crate reads formulas between dollars; labels here have none.
        let content = text.replace('$', "\\$");
        let color = Some(Color::from(colour));
        self.scene.add(Primitive::Text {
            x: at.0,
            y: at.1,
            content,
            size,
            anchor,
            rotate: None,
            bold: false,
            color,
        });
    }

    /// A line between two places.
    pub fn segment(
        &mut self,
        from: (f64, f64),
        to: (f64, f64),
        colour: &str,
        width: f64,
        dashes: Option<&str>,
    ) {
        let stroke_dasharray = dashes.map(str::to_owned);
        let ((x1, y1), (x2, y2)) = (from, to);
        self.scene.add(Primitive::Line {
            x1,
            y1,
            x2,
            y2,
            stroke: Color::from(colour),
            stroke_width: width,
            stroke_dasharray,
        });
    }

    /// A disc around a place.
    pub fn disc(&mut self, at: (f64, f64), radius: f64, fill: &str, stroke: &str) {
        self.scene.add(Primitive::Circle {
            cx: at.0,
            cy: at.1,
            r: radius,
            fill: Color::from(fill),
            fill_opacity: None,
            stroke: Some(Color::from(stroke)),
            stroke_width: Some(1.8),
        });
    }

    /// A filled rectangle from its upper left corner.
    pub fn rectangle(&mut self, at: (f64, f64), size: (f64, f64), fill: &str, stroke: Option<&str>) {
        self.scene.add(Primitive::Rect {
            x: at.0,
            y: at.1,
            width: size.0,
            height: size.1,
            fill: Color::from(fill),
            stroke: stroke.map(Color::from),
            stroke_width: stroke.map(|_| 1.0),
            opacity: None,
        });
    }

    /// The picture. `id` is unique on the page, `alt` says what it shows.
    pub fn finish(self, id: &str, alt: &str) -> Svg {
        Svg::new(&SvgBackend::new().render_scene(&self.scene), self.size, id, alt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(range: (f64, f64), log: bool) -> Axis {
        Axis { label: String::new(), range, log, ticks: 4, signed: true }
    }

    #[test]
    fn ticks_are_as_fine_as_their_labels_allow() {
        let fine = axis((-0.0102, 0.0182), false);
        assert_eq!(fine.clone().fitting(400.0).ticks, 4);
        assert!(fine.fitting(120.0).ticks < 4);
        let coarse = axis((0.0, 1.0), false).fitting(10.0);
        assert_eq!(coarse.ticks, 2, "never fewer");
    }

    #[test]
    fn labels_have_the_decimals_of_the_finest_tick() {
        let texts =
            |axis: &Axis| axis.tick_values().iter().map(|x| axis.format().format(*x)).collect::<Vec<_>>();
        assert_eq!(
            texts(&axis((-0.05, 0.05), false)),
            ["\u{2212}0.050", "\u{2212}0.025", "0.000", "+0.025", "+0.050"]
        );
        assert_eq!(texts(&axis((1.0, 10_000.0), true))[..3], ["1", "10", "100"]);
    }
}
