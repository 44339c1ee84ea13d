//! Plots over steps and time: losses of the arms of a panel, and their differences.

use super::curves::{AllCurves, ArmCurves, HeldOut};
use super::figures::Figure;
use super::panels::{Line, Panel};
use super::setup::grouped;
use crate::compare::{Comparison, precision};
use crate::plots::{self, Curve, CurvePoint, Curves, Scale};

/// Share of the training that plots over even steps leave out of their vertical range.
const LATE: f64 = 0.1;
/// The same for held-out losses on the way, which are few and begin late.
const HELD_OUT_LATE: f64 = 0.25;

/// Everything a plot over steps is made of.
pub(super) struct Drawing<'a> {
    pub comparison: &'a Comparison,
    pub all: &'a AllCurves<'a>,
    /// Held-out losses on the way, where there are any.
    pub held_out: Option<&'a HeldOut<'a>>,
    pub half_life: f64,
    pub panel: &'a Panel<'a>,
    pub index: usize,
}

impl Drawing<'_> {
    /// `Losses`, or `geglu: losses` in one of several panels.
    fn titled(&self, what: &str) -> String {
        if self.panel.title.is_empty() {
            let mut letters = what.chars();
            return letters
                .next()
                .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
        }
        format!("{}: {what}", self.panel.title)
    }

    fn draw(&self, name: &str, what: &str, caption: String, plot: &Curves<'_>) -> Option<Figure> {
        let (id, title) = (format!("{name}-{}", self.index), self.titled(what));
        let svg = plots::curves(&Curves { id: &id, alt: &format!("{title}. {caption}"), ..plot.clone() })?;
        Some(Figure { id, title, caption, svg })
    }

    /// The lines with their points, those of the baseline or full precision last and so on top.
    fn curves(&self, points: impl Fn(&Line<'_>) -> Option<Vec<CurvePoint>>) -> Vec<Curve> {
        self.marked_curves(|line| Some((points(line)?, None)))
    }

    /// The same with a mark apart from the line.
    fn marked_curves(
        &self,
        curve: impl Fn(&Line<'_>) -> Option<(Vec<CurvePoint>, Option<(f64, f64)>)>,
    ) -> Vec<Curve> {
        let curve = |line: &Line<'_>| {
            let (points, mark) = curve(line).filter(|(points, _)| !points.is_empty())?;
            Some(Curve { label: line.label.clone(), stroke: line.stroke, points, mark })
        };
        self.panel.lines.iter().rev().filter_map(curve).collect()
    }

    fn band(&self) -> &'static str {
        let several = self.panel.lines.iter().any(|line| line.arm.seeds.len() > 1);
        if several { "; line: mean over seeds, band: lowest to highest seed" } else { "" }
    }

    fn smoothing(&self) -> String {
        let half_life = self.half_life;
        let unit = if half_life == 1.0 { "step" } else { "steps" };
        format!("smoothed with a half-life of {half_life} {unit}")
    }

    pub fn losses(&self, scale: Scale) -> Option<Figure> {
        let curves = self.curves(|line| Some(self.all.of(&line.arm.label)?.over_steps()));
        let plot = Curves { scale, curves, ..LOSS };
        let caption = format!("Training loss, {}{}", self.smoothing(), self.band());
        match scale {
            Scale::Log => {
                self.draw("loss-log", "losses", caption, &Curves { x: "step, logarithmic", ..plot })
            }
            Scale::Linear => {
                let caption =
                    format!("{caption}; the vertical range is that after the first tenth of the steps");
                self.draw(
                    "loss",
                    "losses over even steps",
                    caption,
                    &Curves { x: "step", from: LATE, ..plot },
                )
            }
        }
    }

    pub fn over_time(&self) -> Option<Figure> {
        let curves = self.curves(|line| Some(self.all.of(&line.arm.label)?.over_time()));
        let caption = format!(
            "The same losses against measured time, validation and checkpoints included{}; the vertical range is again that after the first tenth. Time depends on the machine and on \
             what else ran on it",
            self.band()
        );
        let plot = Curves { x: "seconds since the start of the run", from: LATE, curves, ..LOSS };
        self.draw("loss-time", "losses over measured time", caption, &plot)
    }

    /// What differences are taken from: the label of an arm, and what it is called.
    fn reference(&self) -> Option<(&str, &str)> {
        if self.comparison.has_precisions() {
            let full = self.panel.lines.iter().find(|line| precision::is_full(&line.arm.recipe))?;
            Some((&full.arm.label, precision::FULL))
        } else {
            Some((&self.comparison.baseline, &self.comparison.baseline))
        }
    }

    /// Whether the arm of a line has a difference from the reference.
    fn is_compared(&self, line: &Line<'_>) -> bool {
        let arm = line.arm;
        if self.comparison.has_precisions() { arm.gap_fp32.is_some() } else { arm.difference.is_some() }
    }

    /// Differences from full precision where the panel is of precisions, else from the baseline.
    pub fn gaps(&self) -> Option<Figure> {
        let (reference, against) = self.reference()?;
        let theirs = self.all.of(reference)?;
        let y = format!("difference from {against}, nats per token");
        let curves = self.curves(|line| {
            self.is_compared(line).then(|| Some(self.all.of(&line.arm.label)?.minus(theirs))).flatten()
        });
        let plot = Curves { x: "step", y: &y, difference: true, from: LATE, curves, ..LOSS };
        let caption = format!(
            "Training loss minus that of {reference} at the same step of the same seed, {}{}. Below zero is better than \
             {against}; a curve that leaves the frame goes many times as far",
            self.smoothing(),
            self.band()
        );
        self.draw("gap", &format!("difference from {against} over steps"), caption, &plot)
    }

    /// Held-out losses on the way.
    pub fn held_out(&self) -> Option<Figure> {
        let held_out = self.held_out?;
        let curves = self.marked_curves(|line| {
            let arm = held_out.of(&line.arm.label)?;
            Some((arm.over_steps(), arm.end()))
        });
        let (text, end) = self.held_out_text(held_out, &curves, "the loss");
        let late = late(&curves);
        let caption = format!("Held-out loss {text}{}{end}{late}", self.band());
        let plot = Curves { y: "held-out loss, nats per token", from: HELD_OUT_LATE, curves, ..LOSS };
        self.draw("held-out", "held-out losses on the way", caption, &plot)
    }

    /// Their differences, as in [`Self::gaps`].
    pub fn held_out_gaps(&self) -> Option<Figure> {
        let held_out = self.held_out?;
        let (reference, against) = self.reference()?;
        let theirs = held_out.of(reference)?;
        let pair = |arm: &ArmCurves<'_>| (arm.minus(theirs), arm.end_minus(theirs));
        let curves = self.marked_curves(|line| {
            self.is_compared(line).then(|| held_out.of(&line.arm.label).map(pair)).flatten()
        });
        let (text, end) = self.held_out_text(held_out, &curves, "the difference");
        let caption = format!(
            "Held-out loss minus that of {reference} at the same step of the same seed, {text}{}{end}. Below zero is better \
             than {against}",
            self.band()
        );
        let y = format!("difference from {against}, nats per token");
        let plot = Curves { y: &y, difference: true, from: HELD_OUT_LATE, curves, ..LOSS };
        self.draw("held-out-gap", &format!("held-out difference from {against} on the way"), caption, &plot)
    }

    /// What text the losses on the way are of, and what rings are.
    fn held_out_text(&self, held_out: &HeldOut<'_>, curves: &[Curve], what: &str) -> (String, String) {
        let tokens = grouped(held_out.tokens);
        if curves.iter().all(|curve| curve.mark.is_none()) {
            return (format!("on all {tokens} held-out tokens"), String::new());
        }
        let of = held_out.at_end.map_or_else(String::new, |all| format!(" of {}", grouped(all)));
        let text = format!("on the first {tokens}{of} held-out tokens");
        let mean = if self.band().is_empty() { "" } else { ", mean over seeds" };
        let end = format!(
            "; rings: {what} at the end on all of them{mean}, to which no line leads since it is of other text"
        );
        (text, end)
    }
}

const LOSS: Curves<'static> = Curves {
    id: "",
    alt: "",
    x: "step",
    y: "training loss, nats per token",
    scale: Scale::Linear,
    difference: false,
    from: 0.0,
    curves: Vec::new(),
};

/// What to say where the beginning leaves the frame.
fn late(curves: &[Curve]) -> &'static str {
    let last = curves
        .iter()
        .flat_map(|curve| curve.points.iter().map(|point| point.x).chain(curve.mark.map(|(x, _)| x)));
    let limit = HELD_OUT_LATE * last.fold(0.0, f64::max);
    if curves.iter().any(|curve| curve.points[0].x < limit) {
        "; the vertical range is that after the first quarter of the steps"
    } else {
        ""
    }
}
