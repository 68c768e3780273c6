//! Parquet, read row by row, only the columns asked for.

use std::{
    fs::File,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parquet::{
    basic::{ConvertedType, Type as Physical},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
    schema::types::Type,
};
use serde_json::Value;

use super::{
    DataError,
    source::Source,
    table::{Cell, RawRow},
};

/// An opened Parquet file.
pub(super) struct ParquetTable {
    file: String,
    reader: SerializedFileReader<File>,
}

impl ParquetTable {
    /// Opens the file and reads its schema.
    pub fn open(source: &Source) -> Result<Self, DataError> {
        let file = source.name();
        let handle = handle(source)?;
        if handle.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            return Err(DataError::Empty { file });
        }
        let reader = guarded(&file, || SerializedFileReader::new(handle))?
            .map_err(|error| fault(&file, None, &error))?;
        Ok(Self { file, reader })
    }

    /// Names of the top-level columns.
    pub fn columns(&self) -> Vec<String> {
        self.schema()
            .get_fields()
            .iter()
            .map(|field| field.name().to_string())
            .collect()
    }

    /// The cells of `wanted` of every row.
    pub fn rows(&self, wanted: &[&str]) -> Result<Vec<RawRow>, DataError> {
        let schema = self.schema();
        let mut fields = Vec::new();
        for field in schema.get_fields() {
            if wanted.contains(&field.name()) {
                self.check_type(field)?;
                fields.push(Arc::clone(field));
            }
        }
        let projection = Type::group_type_builder(schema.name())
            .with_fields(fields)
            .build()
            .map_err(|error| fault(&self.file, None, &error))?;
        guarded(&self.file, || self.read(projection, wanted))?
    }

    fn read(&self, projection: Type, wanted: &[&str]) -> Result<Vec<RawRow>, DataError> {
        let rows = self
            .reader
            .get_row_iter(Some(projection))
            .map_err(|error| fault(&self.file, None, &error))?;
        rows.enumerate()
            .map(|(index, row)| {
                let line = index + 1;
                let mut values = row
                    .map_err(|error| fault(&self.file, Some(line), &error))?
                    .into_columns();
                let cells = wanted
                    .iter()
                    .map(
                        |name| match values.iter_mut().find(|(column, _)| column == name) {
                            Some((_, value)) => cell(std::mem::replace(value, Field::Null)),
                            None => Ok(Cell::Missing),
                        },
                    )
                    .collect();
                Ok(RawRow { line, cells })
            })
            .collect()
    }

    /// The class names that Hugging Face `datasets` writes beside integer labels (`ClassLabel`).
    pub fn class_names(&self, column: &str) -> Option<Vec<String>> {
        let metadata = self
            .reader
            .metadata()
            .file_metadata()
            .key_value_metadata()?;
        let entry = metadata.iter().find(|entry| entry.key == "huggingface")?;
        let value: Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
        let names = value
            .pointer("/info/features")?
            .get(column)?
            .get("names")?
            .as_array()?;
        names
            .iter()
            .map(|name| name.as_str().map(str::to_string))
            .collect()
    }

    fn schema(&self) -> &Type {
        self.reader.metadata().file_metadata().schema()
    }

    /// Refuses what is no text, label, or list or structure of such, and what the record reader would panic on.
    fn check_type(&self, field: &Type) -> Result<(), DataError> {
        let info = field.get_basic_info();
        let found = if field.is_group() {
            let mut inner = field.get_fields().iter();
            return inner.try_for_each(|field| self.check_type(field));
        } else {
            use ConvertedType as C;
            let converted = info.converted_type();
            match (field.get_physical_type(), converted) {
                (Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE, _)
                | (Physical::BYTE_ARRAY, C::UTF8 | C::ENUM | C::JSON | C::NONE)
                | (
                    Physical::INT32,
                    C::NONE
                    | C::INT_8
                    | C::INT_16
                    | C::INT_32
                    | C::UINT_8
                    | C::UINT_16
                    | C::UINT_32,
                )
                | (Physical::INT64, C::NONE | C::INT_64 | C::UINT_64) => return Ok(()),
                (physical, C::NONE) => physical.to_string(),
                (_, converted) => converted.to_string(),
            }
        };
        Err(DataError::ColumnType {
            file: self.file.clone(),
            column: field.name().into(),
            found,
        })
    }
}

fn cell(value: Field) -> Result<Cell, String> {
    Ok(match value {
        Field::Null => Cell::Missing,
        Field::Bool(value) => Cell::Bool(value),
        Field::Byte(value) => Cell::Integer(value.into()),
        Field::Short(value) => Cell::Integer(value.into()),
        Field::Int(value) => Cell::Integer(value.into()),
        Field::Long(value) => Cell::Integer(value),
        Field::UByte(value) => Cell::Integer(value.into()),
        Field::UShort(value) => Cell::Integer(value.into()),
        Field::UInt(value) => Cell::Integer(value.into()),
        Field::ULong(value) => {
            i64::try_from(value).map_or_else(|_| Cell::Text(value.to_string()), Cell::Integer)
        }
        Field::Float(value) => Cell::Fraction(value.into()),
        Field::Double(value) => Cell::Fraction(value),
        Field::Str(text) => Cell::Text(text),
        // Some writers leave out the mark that says that bytes are text.
        Field::Bytes(bytes) => Cell::Text(super::table::text(bytes.data())?.to_string()),
        nested @ (Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_)) => {
            Cell::Json(json(nested)?)
        }
        _ => Cell::Other("neither text nor a number"),
    })
}

/// A list or structure, such as the messages of a chat.
fn json(value: Field) -> Result<Value, String> {
    Ok(match value {
        Field::Group(row) => {
            let fields = row.into_columns().into_iter();
            let fields = fields.map(|(name, value)| Ok((name, json(value)?)));
            Value::Object(fields.collect::<Result<_, String>>()?)
        }
        Field::ListInternal(list) => {
            let items = list.elements().iter().cloned().map(json);
            Value::Array(items.collect::<Result<_, String>>()?)
        }
        Field::MapInternal(map) => {
            let entries = map.entries().iter().map(|(key, value)| match key {
                Field::Str(name) => Ok((name.clone(), json(value.clone())?)),
                _ => Err("a map whose keys are not text".to_string()),
            });
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
        plain => match cell(plain)? {
            Cell::Missing => Value::Null,
            Cell::Bool(value) => value.into(),
            Cell::Integer(value) => value.into(),
            Cell::Fraction(value) => value.into(),
            Cell::Text(text) | Cell::Untyped(text) => text.into(),
            Cell::Json(value) => value,
            Cell::Other(what) => return Err(what.to_string()),
        },
    })
}

/// A file handle: the reader needs to seek, so bytes in memory go through a temporary file.
fn handle(source: &Source) -> Result<File, DataError> {
    let path = match source {
        Source::File(path) => path.clone(),
        Source::Memory { name, .. } => name.into(),
    };
    let handle = match source {
        Source::File(path) => File::open(path),
        Source::Memory { bytes, .. } => tempfile::tempfile().and_then(|mut file| {
            file.write_all(bytes)?;
            Ok(file)
        }),
    };
    handle.map_err(|source| DataError::Read { path, source })
}

/// Runs the reader, which panics on some damaged files, and makes an error of the panic.
fn guarded<T>(file: &str, read: impl FnOnce() -> T) -> Result<T, DataError> {
    // What the closure held is dropped with the error, so no broken state is seen again.
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| DataError::Parquet {
        file: file.into(),
        row: None,
        message: "the content is damaged".into(),
    })
}

fn fault(file: &str, row: Option<usize>, error: &ParquetError) -> DataError {
    DataError::Parquet {
        file: file.into(),
        row,
        message: error.to_string(),
    }
}
