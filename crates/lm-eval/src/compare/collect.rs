//! Finds run directories and reads them. What cannot be used is a [`Problem`] with its reason, never silently skipped.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lm_train::record::{RUN_SCHEMA, RunStatus, Summary};
use serde::Deserialize;

use super::keys::Keys;

/// A run that ended, by finishing or by diverging.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its directory, as reached from the paths given.
    pub dir: PathBuf,
    /// `summary.json`.
    pub summary: Summary,
    /// `config.toml`, by dotted key.
    pub keys: Keys,
}

/// Why a directory gives no run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// There is no `summary.json`: the run still trains or was interrupted.
    Unfinished,
    /// A file cannot be read or makes no sense.
    Unreadable {
        /// Name of the file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Another version of ffnlab wrote it, with a layout that this one does not know.
    ForeignSchema {
        /// Version of its layout.
        found: u32,
    },
    /// No run anywhere below a path that was given.
    NoRun,
}

/// A directory that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The directory.
    pub dir: PathBuf,
    /// Why.
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.dir.display())?;
        match &self.kind {
            ProblemKind::Unfinished => write!(f, "unfinished"),
            ProblemKind::Unreadable { file, reason } => write!(f, "{file}: {reason}"),
            ProblemKind::ForeignSchema { found } => {
                write!(f, "written with layout {found} of run directories, this version reads {RUN_SCHEMA}")
            }
            ProblemKind::NoRun => write!(f, "holds no run"),
        }
    }
}

/// The runs below some paths.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    /// Runs that ended, in the order of the paths given, sorted by name below each.
    pub runs: Vec<Run>,
    /// Directories that could not be used.
    pub problems: Vec<Problem>,
}

/// Reads all runs at or below `paths`, each directory once. Links below a path are not followed.
///
/// # Errors
/// As [`find`], and when no run at all is usable; the message then lists why.
pub fn collect(paths: &[PathBuf]) -> anyhow::Result<Collection> {
    let found = find(paths)?;
    if found.runs.is_empty() {
        let problems: Vec<String> = found.problems.iter().map(|p| format!("\n  {p}")).collect();
        anyhow::bail!("no usable run{}", problems.concat());
    }
    Ok(found)
}

/// The same for a caller who can say what is wrong when no run is usable.
///
/// # Errors
/// When a path is not a directory or cannot be listed.
pub fn find(paths: &[PathBuf]) -> anyhow::Result<Collection> {
    let mut walk = Walk::default();
    for path in paths {
        anyhow::ensure!(path.exists(), "{}: no such directory", path.display());
        anyhow::ensure!(
            path.is_dir(),
            "{}: not a directory; give a run directory or a folder of runs",
            path.display()
        );
        if !walk.descend(path)? {
            walk.found.problems.push(Problem { dir: path.clone(), kind: ProblemKind::NoRun });
        }
    }
    Ok(walk.found)
}

#[derive(Default)]
struct Walk {
    found: Collection,
    seen: BTreeSet<PathBuf>,
}

impl Walk {
    /// Reads the run at `dir` or the runs below it; whether there was any, usable or not.
    fn descend(&mut self, dir: &Path) -> anyhow::Result<bool> {
        let context = || format!("cannot list {}", dir.display());
        let has = |name: &str| dir.join(name).is_file();
        let is_run = has("summary.json") || has("metrics.jsonl");
        if !self.seen.insert(dir.canonicalize().with_context(context)?) {
            return Ok(true);
        }
        let mut any = is_run;
        if !is_run {
            let mut below = Vec::new();
            for entry in fs::read_dir(dir).with_context(context)? {
                let entry = entry.with_context(context)?;
                let hidden = entry.file_name().to_string_lossy().starts_with('.');
                if entry.file_type().with_context(context)?.is_dir()
                    && !hidden
                    && entry.file_name() != "checkpoints"
                {
                    below.push(entry.path());
                }
            }
            below.sort();
            for folder in below {
                any |= self.descend(&folder)?;
            }
        }
        // A config alone is a run that has just begun, unless it lies above other runs.
        if is_run || (!any && has("config.toml")) {
            any = true;
            match read_run(dir) {
                Ok(run) => self.found.runs.push(run),
                Err(kind) => self.found.problems.push(Problem { dir: dir.to_owned(), kind }),
            }
        }
        Ok(any)
    }
}

/// The part of `summary.json` that every version has.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

fn read_run(dir: &Path) -> Result<Run, ProblemKind> {
    const SUMMARY: &str = "summary.json";
    const CONFIG: &str = "config.toml";
    let unreadable =
        |file, reason: &dyn fmt::Display| ProblemKind::Unreadable { file, reason: reason.to_string() };
    let read = |file| fs::read_to_string(dir.join(file)).map_err(|e| unreadable(file, &e));

    if !dir.join(SUMMARY).is_file() {
        return Err(ProblemKind::Unfinished);
    }
    let text = read(SUMMARY)?;
    let version: Version = serde_json::from_str(&text).map_err(|e| unreadable(SUMMARY, &e))?;
    if version.schema != RUN_SCHEMA {
        return Err(ProblemKind::ForeignSchema { found: version.schema });
    }
    let summary: Summary = serde_json::from_str(&text).map_err(|e| unreadable(SUMMARY, &e))?;
    if summary.status == RunStatus::Finished && summary.validation.is_none() {
        return Err(unreadable(SUMMARY, &"finished, but without a validation loss"));
    }
    let config: toml::Table =
        read(CONFIG)?.parse().map_err(|e: toml::de::Error| unreadable(CONFIG, &e.message()))?;
    let keys = Keys::new(&config, &summary.data_fingerprint);
    Ok(Run { dir: dir.to_owned(), summary, keys })
}

#[cfg(test)]
mod tests {
    use super::super::testing::RunMaker;
    use super::*;

    fn problems(collection: &Collection) -> Vec<String> {
        collection
            .problems
            .iter()
            .map(|p| {
                let name = p.dir.file_name().unwrap().to_string_lossy();
                p.to_string().replace(&*p.dir.to_string_lossy(), &name)
            })
            .collect()
    }

    #[test]
    fn finds_runs_at_any_depth_and_each_once() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        RunMaker::new("relu", 0).write(&at("a/deep/run0"));
        RunMaker::new("relu", 1).write(&at("a/deep/run1"));
        RunMaker::new("swiglu", 0).write(&at("b"));
        RunMaker::new("swiglu", 9).write(&at("b/checkpoints/looks-like-a-run"));
        RunMaker::new("swiglu", 8).write(&at(".trash/run"));
        let found = collect(&[at("b"), root.path().to_owned(), at("a")]).unwrap();
        let dirs: Vec<_> =
            found.runs.iter().map(|r| r.dir.strip_prefix(root.path()).unwrap().to_owned()).collect();
        assert_eq!(dirs, [Path::new("b"), Path::new("a/deep/run0"), Path::new("a/deep/run1")]);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
    }

    #[test]
    fn a_config_above_runs_is_not_a_run() {
        let root = tempfile::tempdir().unwrap();
        RunMaker::new("relu", 0).write(&root.path().join("rows/run"));
        fs::write(root.path().join("config.toml"), "seed = 1").unwrap();
        let found = collect(&[root.path().to_owned()]).unwrap();
        assert_eq!((found.runs.len(), found.problems.len()), (1, 0));
    }

    #[test]
    fn what_cannot_be_used_is_listed_with_its_reason() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        RunMaker::new("relu", 0).write(&at("0-good"));
        for name in
            ["1-begun", "2-interrupted", "3-garbled", "4-foreign", "5-no-config", "6-no-loss", "7-bad-config"]
        {
            RunMaker::new("relu", 1).write(&at(name));
        }
        let edit = |run: &str, from: &str, to: &str| {
            let path = at(run).join("summary.json");
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(path, text.replace(from, to)).unwrap();
        };
        fs::remove_file(at("1-begun/summary.json")).unwrap();
        fs::remove_file(at("2-interrupted/summary.json")).unwrap();
        fs::write(at("2-interrupted/metrics.jsonl"), "{}\n").unwrap();
        edit("3-garbled", "\"seed\"", "\"sead\"");
        edit("4-foreign", "\"schema\":1", "\"schema\":7");
        fs::remove_file(at("5-no-config/config.toml")).unwrap();
        let whole = fs::read_to_string(at("6-no-loss/summary.json")).unwrap();
        let mut summary: Summary = serde_json::from_str(&whole).unwrap();
        summary.validation = None;
        fs::write(at("6-no-loss/summary.json"), serde_json::to_string(&summary).unwrap()).unwrap();
        fs::write(at("7-bad-config/config.toml"), "seed = = 1").unwrap();
        fs::create_dir(at("empty")).unwrap();

        let found = collect(&[at("empty"), root.path().to_owned()]).unwrap();
        assert_eq!(found.runs.len(), 1);
        let problems = problems(&found);
        assert_eq!(
            problems[..3],
            ["empty: holds no run", "1-begun: unfinished", "2-interrupted: unfinished"]
        );
        assert!(problems[3].starts_with("3-garbled: summary.json: missing field `seed`"), "{problems:?}");
        assert_eq!(problems[4], "4-foreign: written with layout 7 of run directories, this version reads 1");
        assert!(problems[5].starts_with("5-no-config: config.toml: No such file"), "{problems:?}");
        assert_eq!(problems[6], "6-no-loss: summary.json: finished, but without a validation loss");
        assert!(problems[7].starts_with("7-bad-config: config.toml: "), "{problems:?}");
        assert_eq!(problems.len(), 8);
    }

    #[test]
    fn runs_from_before_there_was_a_choice_of_precision_are_in_fp32() {
        let root = tempfile::tempdir().unwrap();
        RunMaker::new("relu", 0).write(root.path());
        let path = root.path().join("summary.json");
        let text = fs::read_to_string(&path).unwrap();
        let older = text.replace("\"precision\":\"fp32\",", "");
        assert_ne!(older, text);
        fs::write(path, older).unwrap();
        let found = collect(&[root.path().to_owned()]).unwrap();
        assert_eq!(found.runs[0].summary.precision, "fp32");
    }

    #[test]
    fn fails_only_when_nothing_is_usable() {
        let root = tempfile::tempdir().unwrap();
        let message = collect(&[root.path().to_owned()]).unwrap_err().to_string();
        assert!(message.starts_with("no usable run") && message.ends_with("holds no run"), "{message}");
        let message = collect(&[root.path().join("nowhere")]).unwrap_err().to_string();
        assert!(message.ends_with("nowhere: no such directory"), "{message}");
    }
}
