//! Which arms share a plot, and how each of them is drawn and called there.

use std::collections::BTreeSet;

use crate::compare::{Arm, Comparison, precision};
use crate::plots::{SERIES, Stroke};

/// Lines that a plot holds, at most: more cannot be followed.
const LINES: usize = 10;

/// Arms that share a plot.
#[derive(Clone, Debug)]
pub(super) struct Panel<'a> {
    /// What they have in common; empty for a plot of all arms.
    pub title: String,
    /// The arms, in the order of the comparison.
    pub lines: Vec<Line<'a>>,
    /// Arms that are not drawn because there are too many, the ones with the highest losses.
    pub dropped: usize,
}

/// An arm in a plot.
#[derive(Clone, Debug)]
pub(super) struct Line<'a> {
    pub arm: &'a Arm,
    /// What it is called beside the others.
    pub label: String,
    pub stroke: Stroke,
}

/// Divides the arms: by experiment where there are precisions, all together where they are few, else by FFN, or by loss where
/// most arms have an FFN of their own.
pub(super) fn panels(comparison: &Comparison) -> Vec<Panel<'_>> {
    let arms = &comparison.arms;
    if comparison.has_precisions() {
        let recipes = recipes(comparison);
        let label = |arm: &Arm| arm.recipe.clone();
        let stroke = |arm: &Arm| {
            let place = recipes.iter().position(|recipe| *recipe == arm.recipe).unwrap_or(0);
            // The first stroke is for full precision, even where no arm is in it.
            let shift = usize::from(!precision::is_full(recipes[0]));
            Stroke::of(place + shift)
        };
        return grouped(arms, |arm| arm.experiment.clone(), label, stroke);
    }
    let stroke = |arm: &Arm| {
        let others = arms.iter().filter(|other| other.label != comparison.baseline);
        let place = others.clone().position(|other| other.label == arm.label);
        Stroke::of(place.map_or(0, |place| place + 1))
    };
    if arms.len() <= LINES {
        return grouped(arms, |_| String::new(), |arm| arm.label.clone(), stroke);
    }
    let ffns: BTreeSet<&str> = arms.iter().map(|arm| arm.ffn.as_str()).collect();
    if 2 * ffns.len() > arms.len() {
        return by_loss(comparison);
    }
    let rest = |arm: &Arm| {
        let rest = arm.label.strip_prefix(&arm.ffn).unwrap_or(&arm.label).trim();
        if rest.is_empty() { arm.label.clone() } else { rest.to_owned() }
    };
    let within = |arm: &Arm| {
        let place =
            arms.iter().filter(|other| other.ffn == arm.ffn).position(|other| other.label == arm.label);
        Stroke::of(place.map_or(0, |place| 1 + place % (SERIES - 1)))
    };
    grouped(arms, |arm| arm.ffn.clone(), rest, within)
}

/// Divides many different arms evenly, the lowest losses first. The baseline is in every part, and no two arms of a part
/// share a colour.
fn by_loss(comparison: &Comparison) -> Vec<Panel<'_>> {
    let is_baseline = |arm: &&Arm| arm.label == comparison.baseline;
    let mut sorted: Vec<&Arm> = comparison.arms.iter().filter(|arm| !is_baseline(arm)).collect();
    sorted.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
    let parts = sorted.len().div_ceil(SERIES - 1);
    let size = sorted.len().div_ceil(parts.max(1)).max(1);
    let panel = |(part, members): (usize, &[&Arm])| {
        let is_member = |arm: &&Arm| members.iter().any(|member| member.label == arm.label);
        // In the order of the comparison, the baseline before the others.
        let baseline = comparison.arms.iter().filter(is_baseline);
        let lines = baseline.chain(comparison.arms.iter().filter(is_member)).enumerate();
        let line = |(i, arm): (usize, _)| Line { arm, label: arm.label.clone(), stroke: Stroke::of(i) };
        let title = match (part, members.len()) {
            (0, n) => format!("the {n} lowest losses"),
            (_, 1) => "the next loss".to_owned(),
            (_, n) => format!("the next {n} losses"),
        };
        Panel { title, lines: lines.map(line).collect(), dropped: 0 }
    };
    sorted.chunks(size).enumerate().map(panel).collect()
}

/// Mean held-out loss; infinite for an arm that has none.
fn loss(arm: &Arm) -> f64 {
    arm.loss.map_or(f64::INFINITY, |loss| loss.mean)
}

/// All recipes, from wide to narrow.
pub(super) fn recipes(comparison: &Comparison) -> Vec<&str> {
    let mut recipes: Vec<(_, &str)> =
        comparison.arms.iter().map(|arm| (precision::place(&arm.precision), arm.recipe.as_str())).collect();
    recipes.sort_unstable();
    recipes.dedup();
    recipes.into_iter().map(|(_, recipe)| recipe).collect()
}

fn grouped<'a>(
    arms: &'a [Arm],
    title: impl Fn(&Arm) -> String,
    label: impl Fn(&Arm) -> String,
    stroke: impl Fn(&Arm) -> Stroke,
) -> Vec<Panel<'a>> {
    let mut panels: Vec<Panel<'a>> = Vec::new();
    for arm in arms {
        let line = Line { arm, label: label(arm), stroke: stroke(arm) };
        let title = title(arm);
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.lines.push(line),
            None => panels.push(Panel { title, lines: vec![line], dropped: 0 }),
        }
    }
    for panel in &mut panels {
        let mut losses: Vec<f64> = panel.lines.iter().map(|line| loss(line.arm)).collect();
        losses.sort_by(f64::total_cmp);
        if let Some(limit) = losses.get(LINES) {
            let before = panel.lines.len();
            let limit = *limit;
            panel.lines.retain(|line| loss(line.arm) < limit);
            panel.dropped = before - panel.lines.len();
        }
    }
    panels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Options;
    use crate::compare::testing::{RunMaker, collection, nine_variants};

    fn shape(comparison: &Comparison) -> Vec<(String, Vec<String>, usize)> {
        let panels = panels(comparison).into_iter();
        panels
            .map(|panel| {
                (panel.title, panel.lines.into_iter().map(|line| line.label).collect(), panel.dropped)
            })
            .collect()
    }

    #[test]
    fn a_few_arms_share_one_plot_and_the_baseline_has_the_colour_of_text() {
        let comparison = Comparison::new(&nine_variants(1), &Options::default()).unwrap();
        let panels = panels(&comparison);
        assert_eq!((panels.len(), panels[0].lines.len()), (1, 9));
        assert_eq!((panels[0].lines[0].label.as_str(), panels[0].lines[0].stroke), ("relu", Stroke::of(0)));
    }

    #[test]
    fn precisions_share_a_plot_per_ffn_and_a_colour_over_all() {
        let runs = ["relu", "geglu"].into_iter().flat_map(|ffn| {
            [
                RunMaker::new(ffn, 0),
                RunMaker::new(ffn, 0).precision("int8", 0.1),
                RunMaker::new(ffn, 0).precision("bf16", 0.1),
            ]
        });
        let comparison = Comparison::new(&collection(runs), &Options::default()).unwrap();
        let labels = ["fp32", "bf16", "int8"].map(str::to_owned).to_vec();
        assert_eq!(
            shape(&comparison),
            [("relu".to_owned(), labels.clone(), 0), ("geglu".to_owned(), labels, 0)]
        );
        assert!(panels(&comparison).iter().all(|panel| panel.lines[2].stroke == Stroke::of(2)));
    }

    #[test]
    fn many_variants_are_divided_by_loss_with_the_baseline_in_every_part() {
        let run = |(i, ffn): (usize, &str)| RunMaker::new(ffn, 0).loss(3.0 - 0.01 * i as f64);
        let ffns = "relu a b c d e f g h i j k l".split(' ');
        let comparison =
            Comparison::new(&collection(ffns.enumerate().map(run)), &Options::default()).unwrap();
        let found = panels(&comparison);
        let labels =
            |panel: &Panel<'_>| panel.lines.iter().map(|line| line.label.as_str()).collect::<String>();
        let shape: Vec<_> = found.iter().map(|panel| (panel.title.as_str(), labels(panel))).collect();
        let expected = [("the 6 lowest losses", "relughijkl"), ("the next 6 losses", "reluabcdef")];
        assert_eq!(shape, expected.map(|(title, labels)| (title, labels.to_owned())));
        for panel in &found {
            assert!(panel.lines.iter().enumerate().all(|(i, line)| line.stroke == Stroke::of(i)));
            assert!(panel.lines.len() <= SERIES);
        }
    }

    #[test]
    fn many_arms_are_divided_by_ffn_and_the_worst_of_too_many_dropped() {
        let run = |ffn: &str, lr: u32| {
            RunMaker::new(ffn, 0).loss(3.0 + f64::from(lr)).config(&format!("optim.lr = {lr}"))
        };
        let runs = (1..=12).map(|lr| run("relu", lr)).chain([run("geglu", 1)]);
        let comparison = Comparison::new(&collection(runs), &Options::default()).unwrap();
        let shape = shape(&comparison);
        assert_eq!((shape[0].0.as_str(), shape[0].1.len(), shape[0].2), ("relu", 10, 2));
        assert_eq!((shape[0].1[0].as_str(), shape[1].0.as_str()), ("lr=1", "geglu"));
    }
}
