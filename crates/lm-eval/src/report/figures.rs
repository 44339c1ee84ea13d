//! The plots of a report, each with what it shows.

use super::curves::AllCurves;
use super::inside::Inside;
use super::logs::Logs;
use super::panels::{Line, Panel, panels, recipes};
use crate::compare::grid::decimals;
use crate::compare::{Arm, Comparison, precision};
use crate::plots::{
    self, Cell, Curve, CurvePoint, Curves, HeatMap, Row, Scale, Svg, forest, heat_map, histogram, sparsity,
};
use crate::stats::PairedDifference;

/// Share of the training that the plot over even steps leaves out of its vertical range.
const LATE: f64 = 0.1;

/// A plot and its caption.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Unique in the report; also the name of its file.
    pub id: String,
    /// What it shows, in a few words.
    pub title: String,
    /// How to read it; a sentence or more, without a full stop at the end.
    pub caption: String,
    /// The picture.
    pub svg: Svg,
}

/// The plots, by section.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Differences with their intervals.
    pub differences: Vec<Figure>,
    /// Variant against precision.
    pub precisions: Vec<Figure>,
    /// Differences and losses over steps.
    pub steps: Vec<Figure>,
    /// Losses over even steps, and over time.
    pub further: Vec<Figure>,
    /// What hidden units do.
    pub probes: Vec<Figure>,
    /// What is not drawn, and why.
    pub notes: Vec<String>,
}

impl Figures {
    /// All of them, in the order of the report.
    pub fn all(&self) -> impl Iterator<Item = &Figure> {
        let Self { differences, precisions, steps, further, probes, notes: _ } = self;
        [differences, precisions, steps, further, probes].into_iter().flatten()
    }
}

/// Draws whatever there are data for.
pub(super) fn figures(comparison: &Comparison) -> Figures {
    let logs = Logs::read(comparison);
    let all = AllCurves::new(comparison, &logs);
    let panels = panels(comparison);
    let mut found = Figures {
        differences: forests(comparison),
        precisions: matrix(comparison).into_iter().collect(),
        probes: comparison
            .arms
            .iter()
            .enumerate()
            .filter_map(|(i, arm)| Some((i, Inside::of(&logs, arm)?)))
            .flat_map(|(i, inside)| of_probes(i, &inside))
            .collect(),
        ..Figures::default()
    };
    for (i, panel) in panels.iter().enumerate() {
        let drawing = Drawing { comparison, all: &all, half_life: logs.half_life, panel, index: i };
        found.steps.extend(drawing.gaps());
        found.steps.extend(drawing.losses(Scale::Log));
        found.further.extend(drawing.losses(Scale::Linear));
        found.further.extend(drawing.over_time());
    }
    found.notes = notes(comparison, &all, &panels);
    found
}

fn notes(comparison: &Comparison, all: &AllCurves<'_>, panels: &[Panel<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    for why in ["diverged", "no readable metrics.jsonl"] {
        let labels: Vec<&str> =
            all.without.iter().filter(|(_, because)| *because == why).map(|(label, _)| *label).collect();
        if !labels.is_empty() {
            notes.push(format!("Not drawn over steps: {} ({why})", labels.join(", ")));
        }
    }
    for panel in panels.iter().filter(|panel| panel.dropped > 0) {
        notes.push(format!(
            "{}: the {} arms with the highest losses are not drawn over steps",
            panel.title, panel.dropped
        ));
    }
    let hosts: std::collections::BTreeSet<_> =
        comparison.runs.iter().map(|run| (&run.summary.host, run.summary.threads)).collect();
    if hosts.len() > 1 {
        notes.push("Runs were made on different machines or with different numbers of threads, so their times cannot be compared".to_owned());
    }
    notes
}

/// Everything a plot over steps is made of.
struct Drawing<'a> {
    comparison: &'a Comparison,
    all: &'a AllCurves<'a>,
    half_life: f64,
    panel: &'a Panel<'a>,
    index: usize,
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

    fn losses(&self, scale: Scale) -> Option<Figure> {
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

    fn over_time(&self) -> Option<Figure> {
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
    fn gaps(&self) -> Option<Figure> {
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

/// Forest plots of differences from the baseline, and from full precision.
fn forests(comparison: &Comparison) -> Vec<Figure> {
    let baseline = forest_of(
        comparison,
        "differences",
        format!("Difference from {}", comparison.baseline),
        &comparison.baseline,
        |arm| arm.difference.as_ref(),
    );
    let full = forest_of(
        comparison,
        "differences-fp32",
        format!("Cost of precision: difference from {}", precision::FULL),
        precision::FULL,
        |arm| arm.gap_fp32.as_ref(),
    );
    baseline.into_iter().chain(full).collect()
}

fn forest_of(
    comparison: &Comparison,
    id: &str,
    title: String,
    against: &str,
    difference: impl Fn(&Arm) -> Option<&PairedDifference>,
) -> Option<Figure> {
    let decimals = decimals(comparison);
    let row = |arm: &Arm| {
        let estimate = difference(arm)?.estimate;
        let half = estimate.half_width().map_or_else(String::new, |half| format!(" ± {half:.decimals$}"));
        let mean = format!("{:+.decimals$}", estimate.mean).replace('-', "\u{2212}");
        Some(Row {
            label: arm.label.clone(),
            mean: estimate.mean,
            interval: estimate.ci95,
            figures: format!("{mean}{half}"),
        })
    };
    let rows: Vec<Row> = comparison.arms.iter().filter_map(row).collect();
    let intervals = rows.iter().any(|row| row.interval.is_some());
    let caption = format!(
        "Held-out loss minus that of {against}, mean over pairs of one seed{}. Left of zero is better",
        if intervals {
            ", with its 95\u{a0}% interval (Student's t). A filled mark: the interval leaves out zero; an arrow: beyond the axis"
        } else {
            "; one pair has no interval"
        }
    );
    let x = format!("difference from {against}, nats per token");
    let svg = forest(id, &format!("{title}. {caption}"), &x, &rows)?;
    Some(Figure { id: id.to_owned(), title, caption, svg })
}

/// The matrix of precisions in colours, with the fewer of variants and precisions as columns.
fn matrix(comparison: &Comparison) -> Option<Figure> {
    let recipes = recipes(comparison);
    if !comparison.has_precisions() || !comparison.arms.iter().any(|arm| arm.gap_fp32.is_some()) {
        return None;
    }
    let mut experiments: Vec<&str> = Vec::new();
    for arm in &comparison.arms {
        if !experiments.contains(&arm.experiment.as_str()) {
            experiments.push(&arm.experiment);
        }
    }
    let decimals = decimals(comparison).min(4);
    let cell = |experiment: &str, recipe: &str| {
        let arm = comparison.arms.iter().find(|arm| arm.experiment == experiment && arm.recipe == recipe);
        arm.map_or(Cell::Missing, |arm| self::cell(arm, decimals))
    };
    let split = |label: &str| label.replacen(' ', "\n", 1);
    let as_text = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
    let (rows, columns, cells): (Vec<String>, Vec<String>, Vec<Vec<Cell>>) =
        if experiments.len() <= recipes.len() {
            let row = |recipe: &&str| experiments.iter().map(|experiment| cell(experiment, recipe)).collect();
            (
                as_text(&recipes),
                experiments.iter().map(|label| split(label)).collect(),
                recipes.iter().map(row).collect(),
            )
        } else {
            let row = |experiment: &&str| recipes.iter().map(|recipe| cell(experiment, recipe)).collect();
            (
                as_text(&experiments),
                recipes.iter().map(|label| split(label)).collect(),
                experiments.iter().map(row).collect(),
            )
        };
    let (id, title) = ("precisions".to_owned(), "Variant and precision".to_owned());
    let diverged = comparison.arms.iter().any(|arm| !arm.diverged.is_empty());
    let caption = format!(
        "Held-out loss minus that of the same variant in {full} ± half the 95\u{a0}% interval, in nats per token; outlined: the \
         loss itself in {full}{}. Colours are even around zero and like a logarithm far from it",
        if diverged { ", or how many seeds diverged" } else { "" },
        full = precision::FULL
    );
    let map = HeatMap { id: &id, alt: &format!("{title}. {caption}"), rows, columns, cells };
    let svg = heat_map(&map)?;
    Some(Figure { id, title, caption, svg })
}

fn cell(arm: &Arm, decimals: usize) -> Cell {
    let diverged = arm.diverged.len();
    match (&arm.gap_fp32, arm.loss) {
        _ if diverged > 0 => Cell::Words(format!("{diverged}/{} div.", diverged + arm.seeds.len())),
        (Some(gap), _) => {
            let mean = format!("{:+.decimals$}", gap.estimate.mean).replace('-', "\u{2212}");
            let half =
                gap.estimate.half_width().map_or_else(String::new, |half| format!("\n± {half:.decimals$}"));
            Cell::Difference(gap.estimate.mean, mean + &half)
        }
        (None, Some(loss)) if precision::is_full(&arm.precision) => {
            Cell::Words(format!("{:.decimals$}", loss.mean))
        }
        (None, _) => Cell::Missing,
    }
}

fn of_probes(index: usize, inside: &Inside<'_>) -> Vec<Figure> {
    let figure = |name: &str, what: &str, caption: &str, draw: &dyn Fn(&str, &str) -> Option<Svg>| {
        let (id, title) = (format!("{name}-{index}"), format!("{}: {what}", inside.of));
        let svg = draw(&id, &format!("{title}. {caption}"))?;
        Some(Figure { id, title, caption: caption.to_owned(), svg })
    };
    let sparse = figure(
        "sparsity",
        "hidden units at zero",
        "Share of hidden activations that are exactly zero on the same held-out tokens, by layer; mean over seeds",
        &|id, alt| sparsity(id, alt, &inside.zeros),
    );
    let values = figure(
        "activations",
        "sizes of hidden activations",
        "Sizes of the hidden activations at the last look, by layer, all seeds together; zeros are left out",
        &|id, alt| histogram(id, alt, "log2 of |activation|", &inside.sizes),
    );
    sparse.into_iter().chain(values).collect()
}
