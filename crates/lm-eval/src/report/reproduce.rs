//! How to get every number again.

use std::path::PathBuf;

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
    /// What a run directory does not record.
    pub not_recorded: &'static str,
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
        Self {
            commands,
            sweep: asked.sweep.clone(),
            not_recorded: "run directories record the version of ffnlab, the config, the data's fingerprint and the machine, \
                           but not the commit ffnlab was built from",
        }
    }
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

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("runs/shazeer-small"), "runs/shazeer-small");
        assert_eq!(quoted("swiglu lr=0.1"), "'swiglu lr=0.1'");
        assert_eq!(quoted("a'b"), "'a'\\''b'");
        assert_eq!(quoted(""), "''");
    }
}
