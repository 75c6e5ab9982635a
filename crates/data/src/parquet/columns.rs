//! Reading, by the column readers of the crate `parquet`: of a file, the pages under way are in memory, and no more.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::{ConvertedType, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};

use super::{Columns, Content, Error, Label, Row};

/// Rows of a batch. Values lie in their page, a batch has the places.
const BATCH: usize = 256;
const LABEL: &str = "a column of whole numbers, strings or booleans";

pub(super) fn read<E: From<Error>>(
    file: &Path,
    wanted: &Columns<'_>,
    mut each: impl FnMut(Row<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let open = File::open(file).map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })?;
    let damaged = |source: ParquetError| Error::Damaged {
        file: file.to_owned(),
        source: source.into(),
    };
    let reader = guarded(|| SerializedFileReader::new(open)).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let (content, label) = places(file, schema, wanted)?;
    let mut number = 0;
    for group in 0..reader.num_row_groups() {
        let group = guarded(|| reader.get_row_group(group)).map_err(damaged)?;
        let mut contents = guarded(|| Column::new(&*group, content)).map_err(damaged)?;
        let label = label.map(|label| guarded(|| Column::new(&*group, label)));
        let mut labels = label.transpose().map_err(damaged)?;
        loop {
            let batch = contents.next().map_err(damaged)?;
            let of_labels = labels.as_mut().map(Column::next).transpose().map_err(damaged)?;
            let mut of_labels = of_labels.unwrap_or_else(|| vec![None; batch.len()]).into_iter();
            if of_labels.len() != batch.len() {
                let text = "columns of different lengths".to_owned();
                return Err(damaged(ParquetError::General(text)).into());
            }
            if batch.is_empty() {
                break;
            }
            for content in batch {
                number += 1;
                each(Row {
                    number,
                    content: content.as_ref().and_then(Value::bytes),
                    label: of_labels.next().flatten().and_then(Value::label),
                })?;
            }
        }
    }
    Ok(())
}

/// The leaves of the wanted columns.
fn places(
    file: &Path,
    schema: &SchemaDescriptor,
    wanted: &Columns<'_>,
) -> Result<(usize, Option<usize>), Error> {
    let wrong = |column: &str, expected: &str| {
        let fields = schema.root_schema().get_fields();
        let found = match fields.iter().find(|field| field.name() == column) {
            Some(field) => described(field),
            None => {
                let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
                format!("absent among {}", names.join(", "))
            }
        };
        Error::Column {
            file: file.to_owned(),
            column: column.to_owned(),
            found,
            expected: expected.to_owned(),
        }
    };
    let leaf = |column: &str, fits: &dyn Fn(&ColumnDescriptor) -> bool| {
        let of_column = |leaf: &ColumnDescriptor| {
            let parts = leaf.path().parts();
            parts.first().is_some_and(|first| first == column) && leaf.max_rep_level() == 0
        };
        let columns = schema.columns();
        columns.iter().position(|leaf| of_column(leaf) && fits(leaf))
    };
    let content = leaf(wanted.content, &|leaf| {
        let within = &leaf.path().parts()[1..];
        let in_place = within.is_empty() || (wanted.kind == Content::Bytes && within == ["bytes"]);
        in_place && are_bytes(leaf)
    });
    let content = content.ok_or_else(|| wrong(wanted.content, wanted.kind.expected()))?;
    let there = |column: &str| {
        let fields = schema.root_schema().get_fields();
        fields.iter().any(|field| field.name() == column)
    };
    let label = leaf(wanted.label, &|leaf| {
        leaf.path().parts().len() == 1 && is_label(leaf)
    });
    if label.is_none() && (there(wanted.label) || !wanted.unlabelled) {
        return Err(wrong(wanted.label, LABEL));
    }
    Ok((content, label))
}

/// Strings, or bytes that nobody says anything of.
fn are_bytes(leaf: &ColumnDescriptor) -> bool {
    let plain = [ConvertedType::NONE, ConvertedType::UTF8, ConvertedType::ENUM];
    leaf.physical_type() == Physical::BYTE_ARRAY && plain.contains(&leaf.converted_type())
}

fn is_label(leaf: &ColumnDescriptor) -> bool {
    let whole = [
        ConvertedType::NONE,
        ConvertedType::INT_8,
        ConvertedType::INT_16,
        ConvertedType::INT_32,
        ConvertedType::INT_64,
        ConvertedType::UINT_8,
        ConvertedType::UINT_16,
    ];
    match leaf.physical_type() {
        Physical::BOOLEAN => true,
        Physical::INT32 | Physical::INT64 => whole.contains(&leaf.converted_type()),
        _ => are_bytes(leaf),
    }
}

/// `DOUBLE`, `BYTE_ARRAY (DECIMAL)`, `a group of bytes, path`.
fn described(field: &Type) -> String {
    if field.is_group() {
        let names: Vec<&str> = field.get_fields().iter().map(|field| field.name()).collect();
        return format!("a group of {}", names.join(", "));
    }
    let (physical, means) = (field.get_physical_type(), field.get_basic_info().converted_type());
    match means {
        ConvertedType::NONE => format!("of type {physical}"),
        means => format!("of type {physical} ({means})"),
    }
}

/// A column of one row group.
struct Column {
    reader: ColumnReader,
    /// The level of a value that is there.
    level: i16,
}

#[derive(Clone)]
enum Value {
    Bytes(ByteArray),
    Number(i64),
    Truth(bool),
}

impl Value {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes.data()),
            _ => None,
        }
    }

    /// `None` of what is empty.
    fn label(self) -> Option<Label> {
        match self {
            Self::Number(number) => Some(Label::Number(number)),
            Self::Truth(truth) => Some(Label::Name(truth.to_string())),
            Self::Bytes(bytes) if bytes.is_empty() => None,
            Self::Bytes(bytes) => Some(Label::Name(String::from_utf8_lossy(bytes.data()).into_owned())),
        }
    }
}

impl Column {
    fn new(group: &dyn RowGroupReader, leaf: usize) -> Result<Self, ParquetError> {
        let described = group.metadata().column(leaf).column_descr();
        Ok(Self {
            level: described.max_def_level(),
            reader: group.get_column_reader(leaf)?,
        })
    }

    /// The next rows, [`BATCH`] unless the end is near; none at the end.
    fn next(&mut self) -> Result<Vec<Option<Value>>, ParquetError> {
        let level = self.level;
        guarded(|| match &mut self.reader {
            ColumnReader::ByteArrayColumnReader(reader) => take(reader, level, Value::Bytes),
            ColumnReader::Int32ColumnReader(reader) => take(reader, level, |n| Value::Number(n.into())),
            ColumnReader::Int64ColumnReader(reader) => take(reader, level, Value::Number),
            ColumnReader::BoolColumnReader(reader) => take(reader, level, Value::Truth),
            _ => Err(ParquetError::General(
                "a column of another type than announced".to_owned(),
            )),
        })
    }
}

/// The crate asserts what a damaged file need not keep.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let unsound = |_| {
        Err(ParquetError::General(
            "its pages contradict themselves".to_owned(),
        ))
    };
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(unsound)
}

fn take<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    level: i16,
    value: impl Fn(T::T) -> Value,
) -> Result<Vec<Option<Value>>, ParquetError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    reader.read_records(BATCH, Some(&mut levels), None, &mut values)?;
    let mut values = values.into_iter().map(value);
    if level == 0 {
        return Ok(values.map(Some).collect());
    }
    let each = |there: i16| if there == level { values.next() } else { None };
    Ok(levels.into_iter().map(each).collect())
}
