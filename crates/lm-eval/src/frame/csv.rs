//! CSV (RFC 4180, with line feeds): a header and a line per row.

use std::path::Path;

use anyhow::Result;

use super::{Column, Get};

/// Writes a table to a file that does not exist yet.
///
/// # Errors
/// A full disk.
pub(super) fn write<Row>(path: &Path, columns: &[Column<Row>], rows: &[Row]) -> Result<()> {
    let mut writer = csv::Writer::from_path(path)?;
    writer.write_record(columns.iter().map(|column| column.name))?;
    for row in rows {
        writer.write_record(columns.iter().map(|column| field(&column.value, row).unwrap_or_default()))?;
    }
    Ok(writer.flush()?)
}

fn field<Row>(value: &Get<Row>, row: &Row) -> Option<String> {
    match value {
        Get::Text(text) => text(row),
        Get::Integer(integer) => integer(row).map(|value| value.to_string()),
        Get::Float(float) => float(row).map(|value| value.to_string()),
        Get::Flag(flag) => flag(row).map(|value| value.to_string()),
    }
}
