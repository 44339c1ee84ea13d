//! Parquet: every column optional, one row group per million rows, dictionaries and no compression.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

use super::{Column, Get};

/// Rows held together; a reader may skip a group.
const GROUP: usize = 1 << 20;

/// Key of the file's metadata under which the meaning of every column is written, as JSON.
pub(super) const MEANINGS: &str = "ffnlab.columns";

/// Writes a table to a file that does not exist yet.
///
/// # Errors
/// A full disk.
pub(super) fn write<Row>(path: &Path, columns: &[Column<Row>], rows: &[Row]) -> Result<()> {
    let fields = columns.iter().map(|column| Ok(Arc::new(field(column)?))).collect::<Result<_>>()?;
    let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
    let meanings: serde_json::Map<String, serde_json::Value> =
        columns.iter().map(|column| (column.name.to_owned(), column.meaning.into())).collect();
    let meanings = KeyValue::new(MEANINGS.to_owned(), serde_json::to_string(&meanings)?);
    let properties = WriterProperties::builder()
        .set_created_by(format!("ffnlab {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(vec![meanings]))
        .build();
    let mut writer = SerializedFileWriter::new(File::create(path)?, Arc::new(schema), Arc::new(properties))?;
    for rows in rows.chunks(GROUP) {
        let mut group = writer.next_row_group()?;
        let mut left = columns.iter();
        while let (Some(mut to), Some(column)) = (group.next_column()?, left.next()) {
            match &column.value {
                Get::Text(text) => {
                    put::<ByteArrayType>(
                        &mut to,
                        rows.iter().map(|row| Some(ByteArray::from(text(row)?.as_str()))),
                    )?;
                }
                Get::Integer(integer) => put::<Int64Type>(&mut to, rows.iter().map(integer))?,
                Get::Float(float) => put::<DoubleType>(&mut to, rows.iter().map(float))?,
                Get::Flag(flag) => put::<BoolType>(&mut to, rows.iter().map(flag))?,
            }
            to.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

fn field<Row>(column: &Column<Row>) -> Result<Type> {
    let (physical, logical) = match column.value {
        Get::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Get::Integer(_) => (Physical::INT64, None),
        Get::Float(_) => (Physical::DOUBLE, None),
        Get::Flag(_) => (Physical::BOOLEAN, None),
    };
    let builder = Type::primitive_type_builder(column.name, physical);
    Ok(builder.with_repetition(Repetition::OPTIONAL).with_logical_type(logical).build()?)
}

/// Writes the values that are there; the definition levels say which those are.
fn put<T: DataType>(
    to: &mut SerializedColumnWriter<'_>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<()> {
    let (mut present, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(i16::from(value.is_some()));
        present.extend(value);
    }
    to.typed::<T>().write_batch(&present, Some(&levels), None)?;
    Ok(())
}
