//! How to get every number again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lm_train::record::Summary;
use serde::Serialize;

use super::{Asked, Options};
use crate::compare::Comparison;

/// Commands, and what they give.
#[derive(Clone, Debug, Serialize)]
pub struct Reproduce {
    /// (what, command).
    pub commands: Vec<(String, String)>,
    /// A config with a grid that makes all runs, where they are one.
    pub sweep: Option<String>,
    /// Why the commands may not give the same numbers.
    pub caveats: Vec<String>,
}

impl Reproduce {
    pub(super) fn new(
        paths: &[PathBuf],
        asked: &Asked,
        comparison: Option<&Comparison>,
        options: &Options<'_>,
    ) -> Self {
        let quoted: Vec<String> = paths.iter().map(|path| quoted(&path.to_string_lossy())).collect();
        let dirs = quoted.join(" ");
        let baseline =
            options.baseline.map_or_else(String::new, |name| format!(" --baseline {}", self::quoted(name)));
        let published = if options.published { " --published" } else { "" };
        let mut commands = Vec::new();
        let mut add = |what: &str, command: String| commands.push((what.to_owned(), command));
        if let Some(commit) = comparison.and_then(commit) {
            add("the program", format!("git checkout {commit} && cargo build --release --workspace"));
        }
        if asked.sweep.is_some() {
            add("all runs, from the config below", "ffnlab sweep sweep.toml --out NEW".to_owned());
        }
        if let Some(run) = comparison.and_then(|comparison| comparison.runs.first()) {
            let dir = self::quoted(&run.dir);
            add(
                "one run, with the same bits on the same kind of processor",
                format!("ffnlab train {dir}/config.toml --out NEW"),
            );
            add("a run's held-out loss, from its weights", format!("ffnlab eval {dir} --json"));
            add("the table of arms", format!("ffnlab compare {dirs}{baseline}{published}"));
            add("intervals, tests and what the seeds resolve, from the values per seed below", {
                let label = &comparison.map_or_else(String::new, |comparison| comparison.baseline.clone());
                format!("ffnlab stats seeds.csv --paired --baseline {}", self::quoted(label))
            });
        }
        add("this report", format!("ffnlab report {dirs} -o report.html{baseline}{published}"));
        Self { commands, sweep: asked.sweep.clone(), caveats: comparison.map_or_else(Vec::new, caveats) }
    }
}

/// The commit that all runs were made by, if it is one and known, and its sources were unchanged.
fn commit(comparison: &Comparison) -> Option<&str> {
    let mut runs = comparison.runs.iter().map(|run| &run.summary);
    let first = runs.next()?;
    let commit = first.commit.as_deref()?;
    (!first.is_dirty() && runs.all(|run| run.commit.as_deref() == Some(commit))).then_some(commit)
}

fn caveats(comparison: &Comparison) -> Vec<String> {
    let runs: Vec<&Summary> = comparison.runs.iter().map(|run| &run.summary).collect();
    let count = runs.len();
    let commits: BTreeSet<&str> = runs.iter().filter_map(|run| run.commit.as_deref()).collect();
    let unknown = runs.iter().filter(|run| run.commit.is_none()).count();
    let dirty = runs.iter().filter(|run| run.is_dirty()).count();
    let mut caveats = Vec::new();
    if unknown > 0 {
        caveats.push(format!(
            "{unknown} of {count} runs do not record the commit of ffnlab that made them: it was built outside of its \
             repository, or before commits were recorded"
        ));
    }
    if dirty > 0 {
        caveats.push(format!("{dirty} of {count} runs were made from sources that differ from their commit"));
    }
    if commits.len() > 1 {
        caveats.push(format!("the runs were made by {} different commits", commits.len()));
    }
    caveats
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare;
    use crate::compare::testing::{RunMaker, collection};

    fn of(commits: [Option<&str>; 2]) -> (Option<String>, Vec<String>) {
        let runs =
            commits.into_iter().zip(0..).map(|(commit, seed)| RunMaker::new("relu", seed).commit(commit));
        let collection = collection(runs);
        let comparison = Comparison::new(&collection, &compare::Options::default()).unwrap();
        (commit(&comparison).map(str::to_owned), caveats(&comparison))
    }

    #[test]
    fn a_commit_is_named_where_it_stands_for_all_runs() {
        assert_eq!(of([Some("abc"), Some("abc")]), (Some("abc".to_owned()), vec![]));
        let (commit, caveats) = of([Some("abc"), Some("def")]);
        assert_eq!((commit, caveats.len()), (None, 1));
        assert!(caveats[0].contains("2 different commits"), "{caveats:?}");
        let (commit, caveats) = of([None, Some("abc")]);
        assert_eq!(commit, None);
        assert!(caveats[0].starts_with("1 of 2 runs do not record"), "{caveats:?}");
        let (commit, caveats) = of([Some("abc-dirty"), Some("abc-dirty")]);
        assert_eq!(commit, None);
        assert!(caveats[0].starts_with("2 of 2 runs were made from sources that differ"), "{caveats:?}");
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("runs/shazeer-small"), "runs/shazeer-small");
        assert_eq!(quoted("swiglu lr=0.1"), "'swiglu lr=0.1'");
        assert_eq!(quoted("a'b"), "'a'\\''b'");
        assert_eq!(quoted(""), "''");
    }
}
