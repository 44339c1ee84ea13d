//! The search of all arms at once: ask what is missing, train it, ask again.

use std::collections::BTreeMap;

use anyhow::Result;
use lm_eval::tune::{ArmTuning, Measured, Next, Score, Tuning, TuningRun, advance};
use lm_train::record::{RunDir, Summary};

use super::arms::{Arm, Seeds};
use super::{Ended, Request};
use crate::args::Common;
use crate::jobs::Job;
use crate::output::note;
use crate::verbs::sweep::{Folder, train_all};

/// A rate of an arm on a rung: arm, rung, number of the rate.
type Place = (usize, usize, i32);

/// The runs behind a search and what they came to.
struct Runs<'a> {
    arms: &'a [Arm],
    seeds: &'a [u64],
    folder: Folder,
    /// One run per seed, by place.
    jobs: BTreeMap<Place, Vec<Job>>,
    /// Those places whose runs have all ended.
    ended: BTreeMap<Place, Vec<Summary>>,
}

/// Trains round by round until every search has ended.
///
/// # Errors
/// Unusable data, an unreadable run.
pub fn train(request: &Request<'_>, arms: &[Arm], seeds: &Seeds, common: &Common) -> Result<Ended> {
    let mut runs = Runs {
        arms,
        seeds: &seeds.tuning,
        folder: Folder::new(&request.out),
        jobs: BTreeMap::new(),
        ended: BTreeMap::new(),
    };
    for round in 1.. {
        let mut todo = runs.missing()?;
        if todo.is_empty() {
            break;
        }
        // Long runs first, so that no core waits for one that began last.
        todo.sort_by_key(|job| std::cmp::Reverse(job.config.total_steps()));
        note(&describe(round, &todo));
        if let Some(code) = train_all(&todo, request.jobs, common)? {
            return Ok(Ended::Stopped(code));
        }
    }
    let settings = &request.settings;
    let arms = (0..arms.len()).map(|arm| runs.result(arm)).collect();
    let tuning = Tuning {
        config: request.name.clone(),
        seeds: seeds.tuning.clone(),
        sweep_seeds: seeds.sweep.clone(),
        factor: settings.factor,
        growth: settings.growth as usize,
        eta: settings.eta as usize,
        margin: settings.margin,
        arms,
        notes: Vec::new(),
    };
    Ok(Ended::Done(tuning.with_notes()))
}

/// "round 2: 12 runs (9 of 267 steps, 3 of 89)".
fn describe(round: usize, todo: &[Job]) -> String {
    let mut by_steps: BTreeMap<u64, usize> = BTreeMap::new();
    for job in todo {
        *by_steps.entry(job.config.total_steps()).or_default() += 1;
    }
    let parts: Vec<String> =
        by_steps.iter().rev().map(|(steps, runs)| format!("{runs} of {steps} steps")).collect();
    let plural = if todo.len() == 1 { "" } else { "s" };
    format!("round {round}: {} run{plural} ({})", todo.len(), parts.join(", "))
}

impl Runs<'_> {
    /// All runs that the searches want next and that have not ended.
    fn missing(&mut self) -> Result<Vec<Job>> {
        let mut todo = Vec::new();
        for arm in 0..self.arms.len() {
            // A search goes on as long as everything it asks for had ended before.
            while let Next::Train { rung, rates } = self.next(arm) {
                let before = todo.len();
                for rate in rates {
                    todo.extend(self.look((arm, rung, rate))?);
                }
                if todo.len() > before {
                    break;
                }
            }
        }
        Ok(todo)
    }

    fn next(&self, arm: usize) -> Next {
        advance(&self.arms[arm].search, |rung, rate| {
            let losses: Vec<Option<f64>> = self.ended.get(&(arm, rung, rate))?.iter().map(loss).collect();
            Some(Score::of(&losses))
        })
    }

    /// Reads the runs of a place; those that have not ended.
    fn look(&mut self, place: Place) -> Result<Vec<Job>> {
        if !self.jobs.contains_key(&place) {
            let jobs = self.seeds.iter().map(|&seed| job(self.arms, place, seed, &mut self.folder));
            self.jobs.insert(place, jobs.collect::<Result<_>>()?);
        }
        let (mut summaries, mut missing) = (Vec::new(), Vec::new());
        for job in &self.jobs[&place] {
            match RunDir::read_summary(&job.out)? {
                Some(summary) => summaries.push(summary),
                None => missing.push(job.clone()),
            }
        }
        if missing.is_empty() {
            self.ended.insert(place, summaries);
        }
        Ok(missing)
    }

    fn result(&self, index: usize) -> ArmTuning {
        let arm = &self.arms[index];
        let choice = match self.next(index) {
            Next::Chosen(choice) => Some(choice),
            Next::NoRate { .. } | Next::Train { .. } => None,
        };
        let places = self.ended.iter().filter(|((arm, ..), _)| *arm == index);
        let measured = places.map(|(place, summaries)| {
            let &(_, rung, rate) = place;
            let losses: Vec<Option<f64>> = summaries.iter().map(loss).collect();
            let runs = summaries.iter().zip(&self.jobs[place]).map(|(summary, job)| TuningRun {
                seed: summary.seed,
                loss: loss(summary),
                diverged_at: summary.diverged_at,
                dir: job.out.clone(),
            });
            Measured {
                rung,
                steps: arm.rungs[rung].steps,
                rate: arm.search.grid.rate(rate),
                loss: Score::of(&losses).loss(),
                runs: runs.collect(),
            }
        });
        ArmTuning {
            arm: arm.name.clone(),
            keys: arm.cell.point.iter().cloned().collect(),
            rungs: arm.rungs.clone(),
            choice,
            measured: measured.collect(),
        }
    }
}

fn loss(summary: &Summary) -> Option<f64> {
    Some(summary.validation.as_ref()?.loss)
}

/// The run of a place with a seed. In full length it is the run that a sweep would make with this rate and seed.
fn job(arms: &[Arm], (arm, rung, rate): Place, seed: u64, folder: &mut Folder) -> Result<Job> {
    let arm = &arms[arm];
    let (rate, budget) = (arm.search.grid.rate(rate), arm.rungs[rung]);
    let mut config = arm.cell.config.clone();
    config.optim.lr = rate;
    config.seed = seed;
    if rung + 1 < arm.rungs.len() {
        config.train.steps = Some(budget.steps);
        config.train.tokens = None;
        config.schedule.warmup_steps = budget.warmup_steps;
    }
    folder.job(format!("{}-lr{rate}-steps{}-seed{seed}", arm.name, budget.steps), config)
}
