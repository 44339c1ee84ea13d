//! Tables for other tools: all runs of a comparison, or all their steps, as Parquet or CSV.
//!
//! A column is a row of a table here: its name, what it means and in which unit, and how it is read. The two writers, the
//! help text and the metadata of a Parquet file all come from it.

mod csv;
mod metrics;
mod parquet;
mod runs;
mod target;

pub use metrics::{METRIC_COLUMNS, MetricRow, metric_rows};
pub use runs::{RUN_COLUMNS, RunRow, run_rows};
pub use target::{FileKind, Target, TargetTable, columns_help};

/// A column: missing values are null in Parquet and empty in CSV.
pub struct Column<Row> {
    /// Its name.
    pub name: &'static str,
    /// What it holds, and in which unit.
    pub meaning: &'static str,
    /// Type and value.
    pub(crate) value: Get<Row>,
}

/// How a column is read from a row.
pub(crate) enum Get<Row> {
    /// Text (UTF-8).
    Text(fn(&Row) -> Option<String>),
    /// A 64-bit integer.
    Integer(fn(&Row) -> Option<i64>),
    /// A 64-bit float.
    Float(fn(&Row) -> Option<f64>),
    /// True or false.
    Flag(fn(&Row) -> Option<bool>),
}

impl<Row> Column<Row> {
    const fn text(name: &'static str, meaning: &'static str, value: fn(&Row) -> Option<String>) -> Self {
        Self { name, meaning, value: Get::Text(value) }
    }

    const fn integer(name: &'static str, meaning: &'static str, value: fn(&Row) -> Option<i64>) -> Self {
        Self { name, meaning, value: Get::Integer(value) }
    }

    const fn float(name: &'static str, meaning: &'static str, value: fn(&Row) -> Option<f64>) -> Self {
        Self { name, meaning, value: Get::Float(value) }
    }

    const fn flag(name: &'static str, meaning: &'static str, value: fn(&Row) -> Option<bool>) -> Self {
        Self { name, meaning, value: Get::Flag(value) }
    }
}

impl<Row> Get<Row> {
    /// Name of the type, as the help shows it.
    fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "int64",
            Self::Float(_) => "float64",
            Self::Flag(_) => "bool",
        }
    }
}

/// A count as the integer that the formats have.
fn integer(count: impl TryInto<i64>) -> Option<i64> {
    count.try_into().ok()
}
