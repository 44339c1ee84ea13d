//! Which rules were in force when runs were made.
//!
//! Before a run begins, the hashes of all claims' files are written down beside it. A verdict can then say whether the rule
//! that it applies is the one that was fixed before, one that was changed afterwards, or one that nobody registered.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use lm_train::record::write_atomic;
use serde::{Deserialize, Serialize};

use super::claim::Claim;
use crate::compare::Run;

/// Name of the file, in the folder that holds the run directories.
pub const LEDGER: &str = "claims.json";

/// Hashes of rules, and the runs that were made under them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Hash of each claim's file, by the claim's name; one map per state of the files.
    rules: Vec<BTreeMap<String, String>>,
    /// Which of these was in force, by run id.
    runs: BTreeMap<String, usize>,
}

/// Whether a rule was there before the runs that it judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// All runs were made under this very rule.
    Before,
    /// The claim's file was changed after so many of the runs had begun.
    Changed(usize),
    /// So many of the runs were made without writing down any rule: by a sweep, or elsewhere.
    Unregistered(usize),
}

impl Ledger {
    /// The ledger of a folder; empty where there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is not a ledger.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(LEDGER);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a ledger of claims; move it away (rules then count as not registered)",
                path.display()
            )
        })
    }

    /// Writes it to a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write_atomic(&folder.join(LEDGER), &serde_json::to_vec_pretty(self)?)
    }

    /// Writes down that `claims` are in force for the runs with these ids, which have not begun yet.
    pub fn register<'c>(&mut self, claims: impl IntoIterator<Item = &'c Claim>, runs: &[String]) {
        if runs.is_empty() {
            return;
        }
        let rules: BTreeMap<String, String> =
            claims.into_iter().map(|claim| (claim.name.clone(), claim.hash.clone())).collect();
        let at = self.rules.iter().position(|known| *known == rules).unwrap_or_else(|| {
            self.rules.push(rules);
            self.rules.len() - 1
        });
        self.runs.extend(runs.iter().map(|run| (run.clone(), at)));
    }

    /// Hash of `claim`'s file when this run began.
    fn hash_for(&self, claim: &Claim, run_id: &str) -> Option<&str> {
        self.rules.get(*self.runs.get(run_id)?)?.get(&claim.name).map(String::as_str)
    }
}

/// Compares `claim` with what the ledgers beside `runs` say.
///
/// # Errors
/// An unreadable ledger.
pub(super) fn registration<'a>(
    claim: &Claim,
    runs: impl IntoIterator<Item = &'a Run>,
) -> anyhow::Result<Registration> {
    let mut ledgers: BTreeMap<&Path, Ledger> = BTreeMap::new();
    let (mut changed, mut unknown) = (0, 0);
    for run in runs {
        let folder = run.dir.parent().unwrap_or(Path::new("."));
        if !ledgers.contains_key(folder) {
            ledgers.insert(folder, Ledger::read(folder)?);
        }
        match ledgers[folder].hash_for(claim, &run.summary.run_id) {
            Some(hash) if hash == claim.hash => {}
            Some(_) => changed += 1,
            None => unknown += 1,
        }
    }
    Ok(match (changed, unknown) {
        (0, 0) => Registration::Before,
        (0, unknown) => Registration::Unregistered(unknown),
        (changed, _) => Registration::Changed(changed),
    })
}
