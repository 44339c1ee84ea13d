//! The config that a tuning comes to: the same grid, with a rule per arm that sets its learning rate.

use anyhow::Result;
use lm_eval::tune::{ArmTuning, Choice, Edge, Limit, Side, Step, Tuning};
use lm_train::config::{ConfigSource, Override, Rule};

use super::Settings;
use super::arms::{LR, SEED};
use crate::verbs::sweep::grid;

/// How every file begins that this verb writes.
pub const SIGNATURE: &str = "# Written by `ffnlab tune`";

/// Text of the config.
///
/// # Errors
/// A config that does not resolve; it did before.
pub fn config(source: &ConfigSource, tuning: &Tuning, settings: &Settings) -> Result<String> {
    let grid = grid(source)?;
    // The rates found take the place of rates that were set before.
    let mut rules: Vec<Rule> = grid.rules().to_vec();
    for rule in &mut rules {
        rule.set.retain(|(key, _)| key != LR);
    }
    rules.retain(|rule| !rule.set.is_empty());
    let mut keys = Vec::new();
    for (arm, choice) in tuning.choices() {
        let set = vec![(LR.to_owned(), choice.rate.into())];
        if arm.keys.is_empty() {
            // Nothing distinguishes the only arm, so its rate is that of the config.
            keys.push(Override {
                key: LR.to_owned(),
                value: choice.rate.into(),
                typed: "ffnlab tune".to_owned(),
            });
        } else {
            let when = arm.keys.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            rules.push(Rule { when, set, comment: provenance(arm, choice, tuning) });
        }
    }
    let mut header = header(tuning, settings);
    if let ([(only, choice)], false) = (&tuning.choices().collect::<Vec<_>>()[..], keys.is_empty()) {
        header += &format!("\noptim.lr = {}: {}", choice.rate, provenance(only, choice, tuning));
    }
    let mut grid = grid.with_rules(Vec::new()).without(&[LR])?;
    if grid.axes().is_empty() {
        let seeds = tuning.sweep_seeds.iter().map(|&seed| toml::Value::Integer(seed as i64));
        grid = grid.with_axis(SEED, seeds.collect());
    }
    grid.with_rules(rules).to_toml(&header, &keys)
}

fn header(tuning: &Tuning, settings: &Settings) -> String {
    let list = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "{} {} from {}; every comment above a learning rate says where it comes from.\n\
         The same search for all arms: neighbouring rates a factor of {} apart, up to {} more at either end, {} rungs\n\
         (eta {}), margin {} nats per token, tuning seeds {} (the sweep's: {}).",
        SIGNATURE.trim_start_matches("# "),
        env!("CARGO_PKG_VERSION"),
        tuning.config,
        tuning.factor,
        tuning.growth,
        settings.rungs,
        tuning.eta,
        tuning.margin,
        list(&tuning.seeds),
        list(&tuning.sweep_seeds),
    )
}

/// "swiglu: loss 2.4322 after 800 steps; 0.002 costs +0.0101; 0.008 costs +0.0301; tried 0.001 to 0.016".
fn provenance(arm: &ArmTuning, choice: &Choice, tuning: &Tuning) -> String {
    let steps = arm.rungs.last().map_or(0, |rung| rung.steps);
    let neighbours: Vec<String> = choice.lower.iter().chain(&choice.higher).map(neighbour).collect();
    let rates = arm.measured.iter().map(|measured| measured.rate);
    let (lowest, highest) = (rates.clone().fold(f64::INFINITY, f64::min), rates.fold(0.0, f64::max));
    let mut text = format!(
        "{}: loss {:.4} after {steps} steps{}; {}tried {lowest} to {highest}",
        arm.arm,
        choice.loss,
        if tuning.seeds.len() > 1 { ", mean over the tuning seeds" } else { "" },
        neighbours.concat(),
    );
    for edge in &choice.edges {
        text += &format!("\n{}", warning(*edge));
    }
    text
}

fn neighbour(step: &Step) -> String {
    match step.excess {
        Some(excess) => format!("{} costs {excess:+.4}; ", step.rate),
        None => format!("{} diverges; ", step.rate),
    }
}

fn warning(edge: Edge) -> &'static str {
    match (edge.side, edge.limit) {
        (Side::Lower, Limit::Growth | Limit::Range) => {
            "AT THE LOWER END of the search: a lower rate may be better (--growth)"
        }
        (Side::Higher, Limit::Growth) => {
            "AT THE HIGHER END of the search: a higher rate may be better (--growth)"
        }
        (Side::Higher, Limit::Range) => "AT THE HIGHER END of the search: a config allows no higher rate",
    }
}
