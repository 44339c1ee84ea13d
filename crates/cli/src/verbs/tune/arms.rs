//! From a config to the arms that are tuned: the grid without seed and learning rate.

use anyhow::Result;
use lm_eval::tune::{RateGrid, Rung, Search, rungs};
use lm_train::config::{Cell, ConfigError, ConfigSource, MAX_LR};
use toml::Value;

use super::super::sweep::grid;
use super::Settings;

/// Key of what is tuned.
pub const LR: &str = "optim.lr";
/// Key of what is averaged over.
pub const SEED: &str = "seed";

/// An arm before anything is trained.
pub struct Arm {
    /// Name made of its keys.
    pub name: String,
    /// What distinguishes it, and its config at the rate and the seed that the file gives.
    pub cell: Cell,
    /// Its budgets.
    pub rungs: Vec<Rung>,
    /// Its search.
    pub search: Search,
}

/// Seeds of the tuning, and of the sweep that it is for.
pub struct Seeds {
    pub tuning: Vec<u64>,
    pub sweep: Vec<u64>,
}

/// Name of the only arm of a grid that varies nothing but seeds and rates.
const LONE: &str = "all";

/// The arms of a config's grid, and the seeds.
///
/// # Errors
/// A config without grid, a bad cell, an impossible grid of rates.
pub fn plan(source: &ConfigSource, settings: &Settings) -> Result<(Vec<Arm>, Seeds)> {
    let grid = grid(source)?;
    let axis = |key: &str| grid.axes().iter().find(|(axis, _)| axis == key).map(|(_, values)| values);
    let listed = axis(LR);
    if listed.is_some() && settings.points.is_some() {
        return Err(invalid(
            "--points",
            "the grid lists the rates of optim.lr itself; leave one of them out",
        ));
    }
    // Every value is checked as a cell of the whole grid.
    let mut sweep_seeds: Vec<u64> = grid.cells()?.iter().map(|cell| cell.config.seed).collect();
    sweep_seeds.sort_unstable();
    sweep_seeds.dedup();
    let first = settings.first_seed.unwrap_or(sweep_seeds.last().map_or(0, |last| last + 1));
    let tuning = (first..first + settings.seeds).collect();

    let mut arms = Vec::new();
    for cell in grid.without(&[SEED, LR])?.cells()? {
        let config = &cell.config;
        let growth = settings.growth as usize;
        let rates = match listed {
            Some(values) => {
                let rates = values.iter().filter_map(number).collect();
                RateGrid::of(rates, settings.factor, growth, MAX_LR)
            }
            None => {
                let points = settings.points.unwrap_or(5) as usize;
                RateGrid::around(config.optim.lr, settings.factor, points, growth, MAX_LR)
            }
        };
        let rates = rates.map_err(|error| invalid(LR, &error.to_string()))?;
        let total = config.total_steps();
        let rungs = rungs(total, config.schedule.warmup_steps, settings.eta, settings.rungs as usize);
        let search =
            Search { grid: rates, rungs: rungs.len(), eta: settings.eta as usize, margin: settings.margin };
        let name = if cell.name.is_empty() { LONE.to_owned() } else { cell.name.clone() };
        arms.push(Arm { name, cell, rungs, search });
    }
    Ok((arms, Seeds { tuning, sweep: sweep_seeds }))
}

/// A number of a TOML list; what is none has been refused with its cell.
fn number(value: &Value) -> Option<f64> {
    value.as_float().or(value.as_integer().map(|i| i as f64))
}

fn invalid(place: &str, message: &str) -> anyhow::Error {
    ConfigError::Invalid { place: place.to_owned(), message: message.to_owned() }.into()
}
