//! The matrix of precisions: a row per FFN, a column per precision, and in each cell what the precision costs.
//!
//! It repeats figures of the table of arms, arranged so that both questions can be read off: whether an FFN suffers more
//! than others (down a column), and from which precision on (along a row).

use std::collections::BTreeSet;

use super::comparison::{Arm, Comparison};
use super::grid::{Cell, Text, decimals};
use super::precision::{self, FULL};

/// The matrix, and what to say above it.
pub(crate) struct Matrix {
    pub caption: String,
    pub text: Text,
}

impl Matrix {
    /// `None` unless there is full precision and another.
    pub fn new(comparison: &Comparison) -> Option<Self> {
        let arms = &comparison.arms;
        let is_full = |arm: &Arm| precision::is_full(&arm.precision);
        if !comparison.has_precisions() || !arms.iter().any(is_full) {
            return None;
        }
        let mut rows: Vec<&str> = Vec::new();
        for arm in arms {
            if !rows.contains(&arm.experiment.as_str()) {
                rows.push(&arm.experiment);
            }
        }
        let recipes: BTreeSet<(_, &str)> =
            arms.iter().map(|arm| (precision::place(&arm.precision), arm.recipe.as_str())).collect();
        let decimals = decimals(comparison);
        let cell = |row: &str, recipe: &str| {
            let arm = arms.iter().find(|arm| arm.experiment == row && arm.recipe == recipe);
            arm.map_or_else(Cell::missing, |arm| cell(arm, decimals))
        };
        let labels = rows.iter().map(|row| Cell::whole((*row).to_owned())).collect();
        let figures = recipes.iter().map(|(_, recipe)| {
            let heading = if precision::is_full(recipe) {
                format!("{FULL}\n(loss)")
            } else {
                recipe.replacen(' ', "\n", 1)
            };
            (heading, rows.iter().map(|row| cell(row, recipe)).collect())
        });
        let columns = [("FFN".to_owned(), labels)].into_iter().chain(figures).collect();
        Some(Self { caption: caption(comparison), text: Text::new(columns) })
    }
}

fn cell(arm: &Arm, decimals: usize) -> Cell {
    let diverged = arm.diverged.len();
    match (&arm.gap_fp32, arm.loss) {
        _ if diverged > 0 => Cell::word(format!("div {diverged}/{}", diverged + arm.seeds.len())),
        (Some(gap), _) => Cell::difference(gap, decimals),
        (None, Some(loss)) if precision::is_full(&arm.precision) => {
            Cell::whole(format!("{:.decimals$}", loss.mean))
        }
        (None, _) => Cell::missing(),
    }
}

fn caption(comparison: &Comparison) -> String {
    let mut arms = comparison.arms.iter();
    let interval =
        arms.clone().any(|arm| arm.gap_fp32.as_ref().is_some_and(|gap| gap.estimate.ci95.is_some()));
    let mut caption = format!("Δ {FULL} by precision");
    if interval {
        caption += " ± half its 95% interval";
    }
    if arms.any(|arm| !arm.diverged.is_empty()) {
        caption += "; div k/n: k of n seeds diverged";
    }
    caption
}

#[cfg(test)]
mod tests {
    use super::super::comparison::Options;
    use super::super::testing::{RunMaker, collection};
    use super::*;

    fn matrix(runs: impl IntoIterator<Item = RunMaker>) -> Option<(Vec<String>, Vec<Vec<String>>)> {
        let comparison = Comparison::new(&collection(runs), &Options::default()).unwrap();
        Matrix::new(&comparison).map(|matrix| (matrix.text.headings, matrix.text.rows))
    }

    #[test]
    fn there_is_none_without_two_precisions_one_of_them_full() {
        let bf16 = |ffn| RunMaker::new(ffn, 0).precision("bf16", 0.5);
        assert_eq!(matrix([RunMaker::new("relu", 0), RunMaker::new("gelu", 0)]), None);
        assert_eq!(matrix([bf16("relu"), RunMaker::new("relu", 0).precision("int8", 0.5)]), None);
        assert!(matrix([RunMaker::new("relu", 0), bf16("relu")]).is_some());
    }

    #[test]
    fn every_kind_of_cell() {
        let int8 = |ffn| RunMaker::new(ffn, 0).loss(3.0).precision("int8", 0.5);
        let (headings, rows) = matrix([
            int8("relu").config("precision.smooth = true"),
            int8("relu").config("precision.smooth = false").diverged(),
            RunMaker::new("relu", 0).loss(3.0),
            RunMaker::new("gelu", 0).precision("bf16", -0.25),
        ])
        .unwrap();
        assert_eq!(headings, ["FFN", "fp32\n(loss)", "bf16", "int8\nsmooth=false", "int8\nsmooth=true"]);
        assert_eq!(rows, [["relu", "3.0000", "–", "div 1/1", "+0.5000"], ["gelu", "–", "–", "–", "–"]]);
    }

    #[test]
    fn settings_make_rows_and_precisions_make_columns() {
        let run = |lr: f64| RunMaker::new("relu", 0).loss(3.0).config(&format!("optim.lr = {lr}"));
        let runs = [run(0.1), run(0.2), run(0.1).precision("bf16", 0.25), run(0.2).precision("bf16", 0.5)];
        let (headings, rows) = matrix(runs).unwrap();
        assert_eq!(headings, ["FFN", "fp32\n(loss)", "bf16"]);
        assert_eq!(rows, [["relu lr=0.1", "3.0000", "+0.2500"], ["relu lr=0.2", "3.0000", "+0.5000"]]);
    }
}
