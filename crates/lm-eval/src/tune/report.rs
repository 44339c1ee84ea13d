//! A tuning as text for a terminal: the choices, then the loss at every rate.

use std::collections::BTreeSet;

use super::choice::{Choice, Side, Step};
use super::tuning::{ArmTuning, Measured, Tuning, between, count, rate, seeds};
use crate::compare::export::wrapped;
use crate::plain::{cells, section, table};

/// What stands for a figure that is not there.
const ABSENT: &str = "–";

/// Writes a tuning as text, ending with a line break. Sentences are wrapped to `width` columns, tables are not.
pub fn report(tuning: &Tuning, width: Option<usize>) -> String {
    let mut text = format!(
        "{}: {}, tuned with {}\n",
        tuning.config,
        count(tuning.arms.len(), "arm"),
        seeds(&tuning.seeds)
    );
    text += &section("Learning rates", choices(tuning));
    let last = tuning.arms.iter().map(|arm| arm.rungs.len()).max().unwrap_or(0);
    // Arms may have fewer rungs than others; the last is the full length for all.
    for below_top in 0..last {
        if let Some(panel) = panel(tuning, below_top) {
            text += &panel;
        }
    }
    text.push('\n');
    for note in &tuning.notes {
        text += &wrapped(&note.to_string(), width);
    }
    text
}

fn choices(tuning: &Tuning) -> comfy_table::Table {
    let ties = tuning.choices().any(|(_, choice)| !choice.tied.is_empty());
    let edges = tuning.choices().any(|(_, choice)| !choice.edges.is_empty());
    let (lower, higher) = step_headings(tuning);
    let mut headings = vec!["arm", "lr", "loss", &lower, &higher, "lr by parabola"];
    headings.extend(ties.then_some("as good"));
    let mut table = table(&headings);
    for arm in &tuning.arms {
        let mut row = vec![arm.arm.clone()];
        match &arm.choice {
            None => row.extend(["none", "diverged", ABSENT, ABSENT, ABSENT].map(str::to_owned)),
            Some(choice) => row.extend([
                rate(choice.rate) + &edge(choice, edges),
                format!("{:.4}", choice.loss),
                excess(choice.lower),
                excess(choice.higher),
                choice.parabola.map_or(ABSENT.to_owned(), |p| rate(two_digits(p.rate))),
            ]),
        }
        if ties {
            let tied = arm.choice.iter().flat_map(|choice| &choice.tied).map(|tied| rate(*tied));
            row.push(tied.collect::<Vec<_>>().join(", "));
        }
        table.add_row(cells(row));
    }
    table
}

/// ÷2 and ×2 where that is what neighbours are.
fn step_headings(tuning: &Tuning) -> (String, String) {
    let ratio = |a: f64, b: f64| (a / b / tuning.factor - 1.0).abs() < 0.01;
    let by_factor = tuning.choices().all(|(_, choice)| {
        choice.lower.is_none_or(|lower| ratio(choice.rate, lower.rate))
            && choice.higher.is_none_or(|higher| ratio(higher.rate, choice.rate))
    });
    if by_factor {
        (format!("÷{}", tuning.factor), format!("×{}", tuning.factor))
    } else {
        ("next lower".to_owned(), "next higher".to_owned())
    }
}

/// Follows a rate at an end of the search; blank, but as wide, for others beside it.
fn edge(choice: &Choice, any: bool) -> String {
    let arrow = |side| match side {
        Side::Lower => '↓',
        Side::Higher => '↑',
    };
    let arrows: String = choice.edges.iter().map(|edge| arrow(edge.side)).collect();
    if any { format!(" {arrows:1}") } else { arrows }
}

/// What a parabola through three points is worth.
fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

fn excess(step: Option<Step>) -> String {
    match step {
        None => ABSENT.to_owned(),
        Some(Step { excess: None, .. }) => "diverged".to_owned(),
        Some(Step { excess: Some(excess), .. }) => format!("{excess:+.4}"),
    }
}

/// Losses by arm and rate, on the rung that lies so far below the full length.
fn panel(tuning: &Tuning, below_top: usize) -> Option<String> {
    let on_rung = |arm: &ArmTuning| -> Vec<Measured> {
        let rung = (arm.rungs.len()).checked_sub(1 + below_top);
        arm.measured.iter().filter(|m| Some(m.rung) == rung).cloned().collect()
    };
    let arms: Vec<(&ArmTuning, Vec<Measured>)> = tuning.arms.iter().map(|arm| (arm, on_rung(arm))).collect();
    let arms: Vec<_> = arms.into_iter().filter(|(_, measured)| !measured.is_empty()).collect();
    let bits: BTreeSet<u64> = arms.iter().flat_map(|(_, m)| m).map(|m| m.rate.to_bits()).collect();
    let rates: Vec<f64> = bits.into_iter().map(f64::from_bits).collect(); // positive floats sort as their bits
    let steps: Vec<u64> = arms.iter().flat_map(|(_, m)| m).map(|m| m.steps).collect();
    if rates.is_empty() {
        return None;
    }
    let headings: Vec<String> =
        std::iter::once("lr".to_owned()).chain(rates.iter().map(|r| rate(*r))).collect();
    let mut table = table(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for (arm, measured) in &arms {
        let best = measured.iter().filter_map(|m| m.loss).fold(f64::INFINITY, f64::min);
        let cell = |rate: &f64| match measured.iter().find(|m| m.rate == *rate).map(|m| m.loss) {
            None => String::new(),
            Some(None) => "div ".to_owned(),
            Some(Some(loss)) => format!("{loss:.3}{}", if loss == best { '*' } else { ' ' }),
        };
        table.add_row(cells(std::iter::once(arm.arm.clone()).chain(rates.iter().map(cell))));
    }
    let heading = format!("{} (* best, div diverged)", between("Loss after", &steps, "step"));
    Some(section(&heading, table))
}

#[cfg(test)]
mod tests {
    use super::super::{RateGrid, Rung, Score, rungs};
    use super::*;
    use crate::tune::tuning::TuningRun;

    fn arm(name: &str, losses: &[(usize, i32, Option<f64>)], best: Option<i32>) -> ArmTuning {
        let grid = RateGrid::around(4e-3, 2.0, 5, 2, 10.0).unwrap();
        let rungs: Vec<Rung> = rungs(800, 50, 3, 2);
        let last = rungs.len() - 1;
        let scores = losses.iter().filter(|(rung, ..)| *rung == last);
        let scores = scores.map(|(_, number, loss)| (*number, Score::of(&[*loss]))).collect();
        let measured = losses.iter().map(|(rung, number, loss)| Measured {
            rung: *rung,
            steps: rungs[*rung].steps,
            rate: grid.rate(*number),
            loss: *loss,
            runs: vec![TuningRun {
                seed: 3,
                loss: *loss,
                diverged_at: loss.is_none().then_some(9),
                dir: "run".into(),
            }],
        });
        ArmTuning {
            arm: name.to_owned(),
            keys: toml::Table::from_iter([("model.ffn.preset".to_owned(), name.into())]),
            measured: measured.collect(),
            choice: best.map(|best| Choice::new(&grid, 0.01, best, scores)),
            rungs,
        }
    }

    fn tuning(arms: Vec<ArmTuning>) -> Tuning {
        let tuning = Tuning {
            config: "small.toml".to_owned(),
            seeds: vec![3],
            sweep_seeds: vec![0, 1, 2],
            factor: 2.0,
            growth: 2,
            eta: 3,
            margin: 0.01,
            arms,
            notes: Vec::new(),
        };
        tuning.with_notes()
    }

    fn short() -> Vec<(usize, i32, Option<f64>)> {
        [3.1, 3.0, 2.9, 2.8, 2.95].iter().enumerate().map(|(i, loss)| (0, i as i32, Some(*loss))).collect()
    }

    #[test]
    fn a_table_that_says_everything() {
        let relu = [short(), vec![(1, 2, Some(2.5)), (1, 3, Some(2.4899)), (1, 4, Some(2.52))]].concat();
        let swiglu = [short(), vec![(1, 5, Some(2.43)), (1, 6, Some(2.40))]].concat();
        let glu = [short(), vec![(1, 1, Some(2.47)), (1, 2, Some(2.4)), (1, 3, None)]].concat();
        let gelu = (-2..5).map(|number| (0, number, None)).collect::<Vec<_>>();
        let arms = vec![
            arm("relu", &relu, Some(3)),
            arm("swiglu", &swiglu, Some(6)),
            arm("glu", &glu, Some(2)),
            arm("gelu", &gelu, None),
        ];
        insta::assert_snapshot!(report(&tuning(arms), Some(100)), @r"
        small.toml: 4 arms, tuned with seed 3

        Learning rates
        ──────────────────────────────────────────────────────────────
         arm          lr      loss       ÷2        ×2  lr by parabola
        ──────────────────────────────────────────────────────────────
         relu    0.008      2.4899  +0.0101   +0.0301          0.0067
         swiglu  0.064 ↑    2.4000  +0.0300         –               –
         glu     0.004      2.4000  +0.0700  diverged               –
         gelu       none  diverged        –         –               –
        ──────────────────────────────────────────────────────────────

        Loss after 800 steps (* best, div diverged)
        ────────────────────────────────────────────────────────
         lr       0.002   0.004   0.008   0.016   0.032   0.064
        ────────────────────────────────────────────────────────
         relu            2.500   2.490*  2.520
         swiglu                                  2.430   2.400*
         glu     2.470   2.400*    div
        ────────────────────────────────────────────────────────

        Loss after 267 steps (* best, div diverged)
        ─────────────────────────────────────────────────────────────────
         lr      0.00025  0.0005   0.001   0.002   0.004   0.008   0.016
        ─────────────────────────────────────────────────────────────────
         relu                     3.100   3.000   2.900   2.800*  2.950
         swiglu                   3.100   3.000   2.900   2.800*  2.950
         glu                      3.100   3.000   2.900   2.800*  2.950
         gelu       div     div     div     div     div     div     div
        ─────────────────────────────────────────────────────────────────

        Warning: every rate diverged, so there is none to choose: gelu (down to 0.00025)
        Warning: the best rate is at the end of the search and a better one may lie beyond: swiglu at 0.064,
          the highest rate tried (the grid has grown as often as it may)
        lr is the rate of the grid with the lowest held-out loss after a whole run of 800 steps, seed 3; the
          columns beside the loss say what the next lower and the next higher rate cost, nats per token
        Runs of 267 steps only decide which rates are run longer: they are whole runs, schedule included,
          and favour rates that are high for a long one. The rate chosen was compared with both neighbours
          in runs of full length
        Diverged, which counts as infinitely bad: glu from 0.008 on (1 run), gelu from 0.00025 on (7 runs)
        ");
    }

    #[test]
    fn tuning_with_the_seeds_of_the_sweep_is_said() {
        let arms = vec![arm("relu", &short(), None)];
        let overlapping = Tuning { seeds: vec![2, 3], ..tuning(arms) }.with_notes();
        assert!(overlapping.notes.iter().any(|note| note.text.contains("the sweep has tuning seed 2 too")));
    }
}
