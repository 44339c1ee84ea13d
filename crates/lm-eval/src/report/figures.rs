//! The plots of a report, each with what it shows.

use super::curves::{AllCurves, HeldOut};
use super::logs::Logs;
use super::over_steps::Drawing;
use super::panels::{Panel, panels, recipes};
use super::probe_figures;
use crate::compare::grid::decimals;
use crate::compare::{Arm, Comparison, precision};
use crate::plots::{Cell, HeatMap, Row, Scale, Svg, forest, heat_map};
use crate::stats::PairedDifference;

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
    let (held_out, not_held_out) = match HeldOut::new(comparison, &logs) {
        Ok(found) => (found, None),
        Err(why) => (None, Some(why)),
    };
    let panels = panels(comparison);
    let mut found = Figures {
        differences: forests(comparison),
        precisions: matrix(comparison).into_iter().collect(),
        probes: probe_figures::all(comparison, &logs),
        ..Figures::default()
    };
    for (i, panel) in panels.iter().enumerate() {
        let (half_life, held_out) = (logs.half_life, held_out.as_ref());
        let drawing = Drawing { comparison, all: &all, held_out, half_life, panel, index: i };
        found.steps.extend(drawing.gaps());
        found.steps.extend(drawing.losses(Scale::Log));
        found.steps.extend(drawing.held_out_gaps());
        found.steps.extend(drawing.held_out());
        found.further.extend(drawing.losses(Scale::Linear));
        found.further.extend(drawing.over_time());
    }
    found.notes = notes(comparison, &all, &panels);
    found.notes.extend(not_held_out);
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
