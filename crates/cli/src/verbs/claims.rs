//! `ffnlab claims`: published claims, the rules that decide them, and the verdicts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use lm_eval::claims::{self, Assessment, Claim, DecidedBy, Ledger, Scale, State};
use lm_eval::compare::{Collection, ProblemKind, find};
use lm_train::config::{ConfigError, Override};
use serde::Serialize;

use super::sweep::{Folder, has_ended, train_cells};
use crate::args::{Common, Overrides};
use crate::jobs::Job;
use crate::output::{note, print, print_json};

/// Published claims as code: a config, a rule fixed beforehand, and a verdict with an interval
///
/// A verdict is confirmed, refuted, underpowered (with the seeds that would decide it), or not reached at this scale (what
/// the claim is about did not occur in the runs). N is the number or the name of a claim, or the path of a claim's file of
/// your own (.toml).
#[derive(Debug, Args)]
pub struct Claims {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All claims: what they cost and where they stand
    List(List),
    /// Everything about one claim, its rule included
    Show(Show),
    /// Train what a claim needs and give the verdict
    ///
    /// Runs that have ended, for this claim or another one, are not repeated; after an interruption the same command goes on.
    /// The hash of the claim's file is written down before a run begins.
    Run(Run),
    /// The verdict on runs that are there, whoever made them
    ///
    /// Runs belong to the arms of a claim by what their configs say, so a sweep or `reproduce shazeer` decides claims too. One
    /// verdict is given for each setting (data, size, budget) that has all arms.
    Verdict(VerdictArgs),
}

#[derive(Debug, Args)]
struct List {
    /// Folder of runs that decide them
    #[arg(long, value_name = "DIR", default_value = DEFAULT_OUT)]
    out: PathBuf,
    /// Scale for which the cost is given
    #[arg(long, value_enum, default_value_t = ScaleChoice::Small)]
    scale: ScaleChoice,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Show {
    /// Number or name of a claim, or the path of a claim's file
    #[arg(value_name = "N")]
    claim: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Run {
    /// Number or name of a claim, or the path of a claim's file
    #[arg(value_name = "N")]
    claim: String,
    /// Size of the models: smoke (seconds a claim, decides nothing), small (minutes to tens of minutes on two cores)
    #[arg(long, value_enum, default_value_t = ScaleChoice::Small)]
    scale: ScaleChoice,
    /// Train on this text file (or glob) instead of the built-in language; its last part is held out
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Number of seeds [default: what the rule asks for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,
    #[command(flatten)]
    overrides: Overrides,
    /// Runs trained at a time, each with its share of the cores (0: one per core, or fewer with more cores each when there
    /// are fewer runs)
    #[arg(long, default_value_t = 0, value_name = "N")]
    jobs: usize,
    /// Folder for the run directories; runs of several claims may share it
    #[arg(long, value_name = "DIR", default_value = DEFAULT_OUT)]
    out: PathBuf,
    /// Only list the runs and what is left to do
    #[arg(long)]
    dry_run: bool,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerdictArgs {
    /// Number or name of a claim, the path of a claim's file, or all
    #[arg(value_name = "N")]
    claim: String,
    /// Run directories, or folders of them at any depth; may be repeated
    #[arg(long, value_name = "DIR", default_value = DEFAULT_OUT)]
    runs: Vec<PathBuf>,
    /// Seeds that count, such as 0,1,2 [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Where runs of claims go.
const DEFAULT_OUT: &str = "runs/claims";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScaleChoice {
    Smoke,
    Small,
}

impl ScaleChoice {
    fn scale(self) -> Scale {
        match self {
            Self::Smoke => Scale::Smoke,
            Self::Small => Scale::Small,
        }
    }
}

impl Claims {
    pub fn run(&self, common: &Common) -> Result<ExitCode> {
        match &self.action {
            Action::List(list) => list.run(),
            Action::Show(show) => show.run(),
            Action::Run(run) => run.run(common),
            Action::Verdict(verdict) => verdict.run(),
        }
    }
}

impl List {
    fn run(&self) -> Result<ExitCode> {
        let found =
            if self.out.is_dir() { usable(std::slice::from_ref(&self.out))? } else { Collection::default() };
        let all = assess_all(&found, None)?;
        if self.json {
            print_json(&all)?;
        } else {
            print(&claims::list(&all, self.scale.scale(), super::terminal_width()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    fn run(&self) -> Result<ExitCode> {
        let claim = claim(&self.claim)?;
        if self.json {
            print_json(&claim)?;
        } else {
            print(&claims::describe(&claim))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Serialize)]
struct PlannedRun<'a> {
    name: &'a str,
    out: &'a Path,
    ended: bool,
}

impl Run {
    fn run(&self, common: &Common) -> Result<ExitCode> {
        let claim = claim(&self.claim)?;
        let mut ended = ExitCode::SUCCESS;
        let mut found = Collection::default();
        if claim.rule.decided_by_runs() {
            let seeds = self.seeds.unwrap_or(claim.seeds);
            let planned = claim.plan(self.scale.scale(), seeds, &self.all_overrides()?)?;
            let mut folder = Folder::new(&self.out);
            let runs = planned.into_iter().map(|run| folder.job(run.name, run.config));
            let runs = runs.collect::<Result<Vec<_>>>()?;
            if self.dry_run {
                return self.list(&runs);
            }
            register(&claim, &runs, &self.out)?;
            note(&format!("claim {}: {} runs in {}", claim.number, runs.len(), self.out.display()));
            ended = train_cells(&runs, self.jobs, common)?;
            let dirs: Vec<PathBuf> = runs.into_iter().map(|run| run.out).filter(|dir| dir.exists()).collect();
            found = usable(&dirs)?;
        }
        say_timing(&claim);
        show(&claims::assess(&claim, &found, None)?, self.json)?;
        Ok(ended)
    }

    fn list(&self, runs: &[Job]) -> Result<ExitCode> {
        let planned: Vec<PlannedRun<'_>> = runs
            .iter()
            .map(|run| PlannedRun { name: &run.name, out: &run.out, ended: has_ended(&run.out) })
            .collect();
        if self.json {
            print_json(&planned)?;
            return Ok(ExitCode::SUCCESS);
        }
        let left = planned.iter().filter(|run| !run.ended).count();
        let line = |run: &PlannedRun<'_>| {
            format!(
                "{:<7} {:<28} {}\n",
                if run.ended { "ended" } else { "to do" },
                run.name,
                run.out.display()
            )
        };
        let text: String = planned.iter().map(line).collect();
        print(&format!("{text}{} runs, {left} to do", planned.len()))?;
        Ok(ExitCode::SUCCESS)
    }

    /// What `--data` means in terms of the config, then the user's own overrides.
    fn all_overrides(&self) -> Result<Vec<Override>> {
        let mut overrides = Vec::new();
        if let Some(path) = &self.data {
            overrides = super::reproduce::own_text(path);
        }
        overrides.extend(self.overrides.parse()?);
        Ok(overrides)
    }
}

/// Writes down which rules are in force for runs that have not begun: those of all shipped claims, since they may share
/// them, and that of `claim`.
fn register(claim: &Claim, runs: &[Job], out: &Path) -> Result<()> {
    let new: Vec<&Job> = runs.iter().filter(|run| !run.out.exists()).collect();
    let ids = new.iter().map(|run| run.id.clone()).collect::<Vec<String>>();
    if ids.is_empty() {
        return Ok(());
    }
    let shipped = claims::shipped()?;
    let others = shipped.iter().filter(|other| other.name != claim.name);
    let mut ledger = Ledger::read(out)?;
    ledger.register(others.chain([claim]), &ids);
    ledger.write(out)
}

impl VerdictArgs {
    fn run(&self) -> Result<ExitCode> {
        let seeds: Option<BTreeSet<u64>> = self.seeds.as_ref().map(|seeds| seeds.iter().copied().collect());
        if self.claim == "all" {
            let all = assess_all(&usable(&self.runs)?, seeds.as_ref())?;
            if self.json {
                print_json(&all)?;
            } else {
                print(&claims::list(&all, Scale::Small, super::terminal_width()))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let claim = claim(&self.claim)?;
        let found = if claim.rule.decided_by_runs() { usable(&self.runs)? } else { Collection::default() };
        say_timing(&claim);
        let assessment = claims::assess(&claim, &found, seeds.as_ref())?;
        let dirs: Vec<String> = self.runs.iter().map(|dir| dir.display().to_string()).collect();
        let what = format!("claim {} ({})", claim.number, claim.name);
        match &assessment.state {
            State::Judged(_) | State::Untimed { .. } | State::NotYetTestable { .. } => {}
            State::NoRuns => {
                let arms: Vec<&str> = claim.arms.iter().map(|arm| arm.name.as_str()).collect();
                bail!(
                    "no run in {} belongs to {what}, which needs {}; `ffnlab claims run {}` makes them",
                    dirs.join(", "),
                    arms.join(", "),
                    self.claim
                );
            }
            State::Incomplete { runs, reasons } => bail!(
                "{runs} runs in {} belong to {what}, but do not decide it: {}",
                dirs.join(", "),
                reasons.join("; ")
            ),
        }
        show(&assessment, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The shipped claim of that number or name, or the one in that file.
fn claim(wanted: &str) -> Result<Claim, ConfigError> {
    match claims::find(wanted)? {
        Some(claim) => Ok(claim),
        None => Claim::read(Path::new(wanted)),
    }
}

/// Says what a verdict by times wants, before they are taken.
fn say_timing(claim: &Claim) {
    if claim.rule.decided_by().contains(&DecidedBy::Timing) {
        note(&format!("claim {} times activation functions: leave the machine idle", claim.number));
    }
}

fn assess_all(found: &Collection, seeds: Option<&BTreeSet<u64>>) -> Result<Vec<Assessment>> {
    claims::shipped()?.iter().map(|claim| claims::assess_untimed(claim, found, seeds)).collect()
}

fn show(assessment: &Assessment, json: bool) -> Result<()> {
    if json { print_json(assessment) } else { print(&claims::report(assessment, super::terminal_width())) }
}

/// Runs that ended in `dirs`; a folder in which none has is empty rather than an error. What cannot be read is said.
fn usable(dirs: &[PathBuf]) -> Result<Collection> {
    for dir in dirs {
        if !dir.is_dir() {
            bail!(
                "{}: no such directory; `ffnlab claims run N` makes runs, --runs says where others are",
                dir.display()
            );
        }
    }
    let found = find(dirs)?;
    let mut unfinished = 0;
    for problem in &found.problems {
        match problem.kind {
            ProblemKind::NoRun => {}
            ProblemKind::Unfinished => unfinished += 1,
            ProblemKind::Unreadable { .. } | ProblemKind::ForeignSchema { .. } => {
                note(&format!("left out: {problem}"));
            }
        }
    }
    if unfinished > 0 {
        note(&format!("left out: runs that have not ended ({unfinished})"));
    }
    Ok(found)
}
