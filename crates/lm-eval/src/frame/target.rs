//! Where a table goes: the name of the file says which table it is and in which format.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};
use lm_train::record::write_atomic_with;

use super::{Column, METRIC_COLUMNS, RUN_COLUMNS, metric_rows, run_rows};
use crate::compare::Comparison;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Apache Parquet.
    Parquet,
    /// CSV.
    Csv,
}

impl FileKind {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Parquet, Self::Csv];

    /// Ending of its files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        }
    }
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetTable {
    /// One row per run.
    Runs,
    /// One row per training step and validation of every run.
    Metrics,
}

impl TargetTable {
    /// Every table.
    pub const ALL: [Self; 2] = [Self::Runs, Self::Metrics];

    /// What the name of its file ends in, before the extension.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Metrics => "metrics",
        }
    }
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    table: TargetTable,
    kind: FileKind,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    /// `runs.parquet`, `metrics.parquet`, `DIR/today-runs.csv`.
    fn from_str(text: &str) -> Result<Self> {
        let path = PathBuf::from(text);
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let (stem, extension) = (part(path.file_stem()), part(path.extension()));
        let Some(kind) = FileKind::ALL.into_iter().find(|kind| kind.extension() == extension) else {
            bail!("\"{text}\" does not end in .parquet or .csv, so its format is not known");
        };
        let Some(table) = TargetTable::ALL.into_iter().find(|table| stem.ends_with(table.name())) else {
            bail!(
                "\"{text}\" could be either table; name it runs.{extension} for one row per run, or metrics.{extension} for \
                 one row per step"
            );
        };
        Ok(Self { path, table, kind })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Target {
    /// Writes the table; the number of its rows.
    ///
    /// # Errors
    /// Unreadable metrics, a file that cannot be written; what was there before then stays.
    pub fn write(&self, comparison: &Comparison) -> Result<usize> {
        match self.table {
            TargetTable::Runs => self.put(RUN_COLUMNS, &run_rows(comparison)),
            TargetTable::Metrics => self.put(METRIC_COLUMNS, &metric_rows(comparison)?),
        }
    }

    fn put<Row>(&self, columns: &[Column<Row>], rows: &[Row]) -> Result<usize> {
        let write = |path: &Path| match self.kind {
            FileKind::Parquet => super::parquet::write(path, columns, rows),
            FileKind::Csv => super::csv::write(path, columns, rows),
        };
        write_atomic_with(&self.path, write)?;
        Ok(rows.len())
    }
}

/// The columns of both tables, for a help text.
pub fn columns_help() -> String {
    fn list<Row>(columns: &[Column<Row>]) -> String {
        let line = |column: &Column<Row>| {
            format!("  {:<16} {:<8} {}\n", column.name, column.value.type_name(), column.meaning)
        };
        columns.iter().map(line).collect()
    }
    format!(
        "Columns of runs.parquet (one row per run):\n{}\nColumns of metrics.parquet (one row per step and validation):\n{}",
        list(RUN_COLUMNS),
        list(METRIC_COLUMNS).trim_end()
    )
}

#[cfg(test)]
mod tests {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::Field;

    use super::super::parquet::MEANINGS;
    use super::*;
    use crate::compare::testing::{RunMaker, collection};
    use crate::compare::{Collection, Options};

    fn write(name: &str, runs: &Collection) -> (tempfile::TempDir, PathBuf, usize) {
        let comparison = Comparison::new(runs, &Options::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let rows = path.to_str().unwrap().parse::<Target>().unwrap().write(&comparison).unwrap();
        (folder, path, rows)
    }

    /// Rows of a Parquet file as (name, value) pairs.
    fn read(path: &Path) -> Vec<Vec<(String, Field)>> {
        let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        rows.map(|row| row.unwrap().into_columns()).collect()
    }

    fn runs() -> Collection {
        let relu = RunMaker::new("relu", 0).config("optim.lr = 0.004").loss(2.5);
        let swiglu = RunMaker::new("swiglu", 1).config("optim.lr = 0.008").precision("bf16", 0.0).diverged();
        collection([relu, swiglu])
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (_folder, path, count) = write("runs.parquet", &runs());
        let rows = read(&path);
        assert_eq!((rows.len(), count), (2, 2));
        let names: Vec<&str> = rows[0].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, RUN_COLUMNS.iter().map(|column| column.name).collect::<Vec<_>>());
        let value = |row: usize, name: &str| rows[row].iter().find(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(value(0, "arm"), Field::Str("relu".to_owned()));
        assert_eq!(value(0, "val_loss"), Field::Double(2.5));
        assert_eq!((value(0, "lr"), value(0, "diverged_at")), (Field::Double(0.004), Field::Null));
        assert_eq!(
            (value(1, "arm"), value(1, "precision")),
            (Field::Str("swiglu bf16".into()), Field::Str("bf16".into()))
        );
        assert_eq!((value(1, "val_loss"), value(1, "diverged_at")), (Field::Null, Field::Long(321)));
        assert_eq!((value(1, "seed"), value(1, "status")), (Field::Long(1), Field::Str("diverged".into())));
    }

    #[test]
    fn a_file_explains_its_columns() {
        let (_folder, path, _) = write("runs.parquet", &runs());
        let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
        let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
        let meanings = metadata.iter().find(|pair| pair.key == MEANINGS).unwrap().value.clone().unwrap();
        let meanings: serde_json::Value = serde_json::from_str(&meanings).unwrap();
        assert_eq!(meanings["tokens_per_s"], "training tokens per second");
        for name in RUN_COLUMNS.iter().map(|column| column.name) {
            assert!(meanings[name].is_string() && columns_help().contains(&format!("\n  {name} ")), "{name}");
        }
    }

    #[test]
    fn csv_has_the_same_columns() {
        let (_folder, path, _) = write("my-runs.csv", &runs());
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("run,arm,ffn,precision,seed,status,lr,"), "{text}");
        assert!(lines[1].starts_with("runs/relu-0,relu,relu,fp32,0,finished,0.004,512,"), "{text}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn the_name_of_a_file_says_what_it_is_to_hold() {
        let parse = |text: &str| text.parse::<Target>().map(|t| (t.table, t.kind)).map_err(|e| e.to_string());
        assert_eq!(parse("a/runs.parquet"), Ok((TargetTable::Runs, FileKind::Parquet)));
        assert_eq!(parse("novels-metrics.csv"), Ok((TargetTable::Metrics, FileKind::Csv)));
        assert!(parse("runs.xlsx").unwrap_err().contains("does not end in .parquet or .csv"));
        assert!(parse("runs").unwrap_err().contains("does not end in"));
        assert!(parse("table.parquet").unwrap_err().contains("name it runs.parquet"));
    }
}
