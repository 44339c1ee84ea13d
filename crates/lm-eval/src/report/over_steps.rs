//! Plots over steps and time: losses of the arms of a panel, and their differences.

use super::curves::AllCurves;
use super::figures::Figure;
use super::panels::{Line, Panel};
use crate::compare::{Comparison, precision};
use crate::plots::{self, Curve, CurvePoint, Curves, Scale};

/// Share of the training that plots over even steps leave out of their vertical range.
const LATE: f64 = 0.1;

/// Everything a plot over steps is made of.
pub(super) struct Drawing<'a> {
    pub comparison: &'a Comparison,
    pub all: &'a AllCurves<'a>,
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
        let curve = |line: &Line<'_>| {
            let points = points(line).filter(|points| !points.is_empty())?;
            Some(Curve { label: line.label.clone(), stroke: line.stroke, points })
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

    /// Differences from full precision where the panel is of precisions, else from the baseline.
    pub fn gaps(&self) -> Option<Figure> {
        let by_precision = self.comparison.has_precisions();
        let reference = if by_precision {
            self.panel.lines.iter().find(|line| precision::is_full(&line.arm.recipe))?.arm.label.as_str()
        } else {
            self.comparison.baseline.as_str()
        };
        let theirs = self.all.of(reference)?;
        let pair = |line: &Line<'_>| {
            let has_difference = if by_precision { &line.arm.gap_fp32 } else { &line.arm.difference };
            has_difference.as_ref()?;
            Some(self.all.of(&line.arm.label)?.minus(theirs))
        };
        let against = if by_precision { precision::FULL } else { reference };
        let y = format!("difference from {against}, nats per token");
        let curves = self.curves(|line| pair(line));
        let plot = Curves { x: "step", y: &y, difference: true, from: LATE, curves, ..LOSS };
        let caption = format!(
            "Training loss minus that of {reference} at the same step of the same seed, {}{}. Below zero is better than \
             {against}; a curve that leaves the frame goes many times as far",
            self.smoothing(),
            self.band()
        );
        self.draw("gap", &format!("difference from {against} over steps"), caption, &plot)
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
