//! The tuning of a whole grid: the choices of all arms, what they rest on, and what a reader has to know.

use std::path::PathBuf;

use serde::Serialize;

use super::choice::{Choice, Limit, Side};
use super::rungs::Rung;
use crate::compare::{Level, Note};

/// One rate on one rung.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The rung, counted from 0.
    pub rung: usize,
    /// Steps of its runs.
    pub steps: u64,
    /// Peak learning rate.
    pub rate: f64,
    /// Mean held-out loss over the seeds, nats per token; `None` when a seed diverged.
    pub loss: Option<f64>,
    /// The runs, one per tuning seed.
    pub runs: Vec<TuningRun>,
}

/// A run behind a [`Measured`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuningRun {
    /// Its seed.
    pub seed: u64,
    /// Held-out loss, nats per token; `None` when it diverged.
    pub loss: Option<f64>,
    /// Step at which it diverged.
    pub diverged_at: Option<u64>,
    /// Its run directory.
    pub dir: PathBuf,
}

/// One arm: a cell of the grid without seed and learning rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmTuning {
    /// Name made of its keys, such as `swiglu-bf16`.
    pub arm: String,
    /// What distinguishes it: the keys of the grid and their values.
    pub keys: toml::Table,
    /// Its budgets.
    pub rungs: Vec<Rung>,
    /// The rate; `None` when every rate diverged.
    pub choice: Option<Choice>,
    /// All that was trained, by rung and rate.
    pub measured: Vec<Measured>,
}

/// The result of `ffnlab tune`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tuning {
    /// The config that was tuned.
    pub config: String,
    /// Seeds of the runs that decided.
    pub seeds: Vec<u64>,
    /// Seeds of the sweep that the rates are for.
    pub sweep_seeds: Vec<u64>,
    /// Factor between neighbouring rates, where the config does not list them itself.
    pub factor: f64,
    /// How many rates a grid may grow by at either end.
    pub growth: usize,
    /// One in so many rates went on to the next rung.
    pub eta: usize,
    /// Rates no further apart than this are as good as each other, nats per token.
    pub margin: f64,
    /// The arms, in the order of the grid.
    pub arms: Vec<ArmTuning>,
    /// What a reader has to know, the gravest first.
    pub notes: Vec<Note>,
}

impl Tuning {
    /// Fills in `notes`.
    pub fn with_notes(mut self) -> Self {
        let warnings = [self.without_rate(), self.at_an_edge(), self.same_seeds()];
        let infos = [Some(self.meaning()), self.about_short_runs(), self.about_ties(), self.diverged()];
        let note = |level| move |text| Note { level, text };
        self.notes = warnings
            .into_iter()
            .flatten()
            .map(note(Level::Warning))
            .chain(infos.into_iter().flatten().map(note(Level::Info)))
            .collect();
        self
    }

    /// The arms with their choices, those without left out.
    pub fn choices(&self) -> impl Iterator<Item = (&ArmTuning, &Choice)> {
        self.arms.iter().filter_map(|arm| Some((arm, arm.choice.as_ref()?)))
    }

    fn without_rate(&self) -> Option<String> {
        let lost = |arm: &&ArmTuning| arm.choice.is_none();
        let arms: Vec<String> = self
            .arms
            .iter()
            .filter(lost)
            .map(|arm| {
                let lowest = arm.measured.iter().map(|m| m.rate).fold(f64::INFINITY, f64::min);
                format!("{} (down to {})", arm.arm, rate(lowest))
            })
            .collect();
        (!arms.is_empty())
            .then(|| format!("every rate diverged, so there is none to choose: {}", arms.join(", ")))
    }

    fn at_an_edge(&self) -> Option<String> {
        let arms: Vec<String> = self
            .choices()
            .flat_map(|(arm, choice)| {
                choice.edges.iter().map(move |edge| {
                    let end = match edge.side {
                        Side::Lower => "lowest",
                        Side::Higher => "highest",
                    };
                    let why = match edge.limit {
                        Limit::Growth => "the grid has grown as often as it may",
                        Limit::Range => "a config allows no higher one",
                    };
                    format!("{} at {}, the {end} rate tried ({why})", arm.arm, rate(choice.rate))
                })
            })
            .collect();
        (!arms.is_empty()).then(|| {
            format!(
                "the best rate is at the end of the search and a better one may lie beyond: {}",
                arms.join("; ")
            )
        })
    }

    fn same_seeds(&self) -> Option<String> {
        let both: Vec<u64> =
            self.seeds.iter().copied().filter(|seed| self.sweep_seeds.contains(seed)).collect();
        (!both.is_empty()).then(|| {
            format!(
                "the sweep has tuning {} too, where each arm's rate fits the very runs that are compared",
                seeds(&both)
            )
        })
    }

    fn meaning(&self) -> String {
        let steps: Vec<u64> = self.arms.iter().filter_map(|arm| Some(arm.rungs.last()?.steps)).collect();
        format!(
            "lr is the rate of the grid with the lowest held-out loss after {}, {}; the columns beside the loss say what the \
             next lower and the next higher rate cost, nats per token",
            between("a whole run of", &steps, "step"),
            seeds(&self.seeds)
        )
    }

    fn about_short_runs(&self) -> Option<String> {
        let short: Vec<u64> =
            self.arms.iter().flat_map(|arm| &arm.rungs[..arm.rungs.len() - 1]).map(|r| r.steps).collect();
        (!short.is_empty()).then(|| {
            format!(
                "Runs of {} only decide which rates are run longer: they are whole runs, schedule included, and favour \
                 rates that are high for a long one. The rate chosen was compared with both neighbours in runs of full \
                 length",
                between("", &short, "step").trim_start()
            )
        })
    }

    fn about_ties(&self) -> Option<String> {
        self.choices().any(|(_, choice)| !choice.tied.is_empty()).then(|| {
            format!(
                "As good: rates within {} nats per token, too close to call with {}",
                self.margin,
                count(self.seeds.len(), "seed")
            )
        })
    }

    fn diverged(&self) -> Option<String> {
        let arms: Vec<String> = self
            .arms
            .iter()
            .filter_map(|arm| {
                let lost: Vec<&Measured> = arm.measured.iter().filter(|m| m.loss.is_none()).collect();
                let lowest = lost.iter().map(|m| m.rate).fold(f64::INFINITY, f64::min);
                let runs: usize =
                    lost.iter().map(|m| m.runs.iter().filter(|run| run.loss.is_none()).count()).sum();
                (!lost.is_empty())
                    .then(|| format!("{} from {} on ({})", arm.arm, rate(lowest), count(runs, "run")))
            })
            .collect();
        (!arms.is_empty()).then(|| format!("Diverged, which counts as infinitely bad: {}", arms.join(", ")))
    }
}

/// A rate as a table shows it.
pub(super) fn rate(rate: f64) -> String {
    if rate < 1e-4 { format!("{rate:e}") } else { rate.to_string() }
}

pub(super) fn seeds(seeds: &[u64]) -> String {
    let list: Vec<String> = seeds.iter().map(u64::to_string).collect();
    format!("seed{} {}", if seeds.len() == 1 { "" } else { "s" }, list.join(", "))
}

pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// "89 steps", or "89 to 267 steps".
pub(super) fn between(before: &str, counts: &[u64], what: &str) -> String {
    let (least, most) =
        (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    if least == most {
        format!("{before} {}", count(least as usize, what))
    } else {
        format!("{before} {least} to {most} {what}s")
    }
}
