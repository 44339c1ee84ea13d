//! Which arms share a plot, and how each of them is drawn and called there.

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

/// Divides the arms: by experiment where there are precisions, all together where they are few, else by FFN.
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
        let loss = |line: &Line<'_>| line.arm.loss.map_or(f64::INFINITY, |loss| loss.mean);
        let mut losses: Vec<f64> = panel.lines.iter().map(loss).collect();
        losses.sort_by(f64::total_cmp);
        if let Some(limit) = losses.get(LINES) {
            let before = panel.lines.len();
            let limit = *limit;
            panel.lines.retain(|line| loss(line) < limit);
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
