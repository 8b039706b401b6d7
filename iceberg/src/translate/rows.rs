//! Rows of one partition of a table, growing: the system columns, which are the same in each table, and those of keys
//! and values.
//!
//! Nulls stay nulls (key, value, header value). A header name that is not UTF-8 has its bad bytes replaced by U+FFFD.
//! Timestamps go from milliseconds to microseconds; those outside the years 1 to 9999, which no engine can show, are
//! moved to that bound.

use arrow::array::{
    ArrayBuilder, ArrayRef, AsArray, Int32Builder, Int64Builder, LargeBinaryBuilder, ListArray, ListBuilder,
    RecordBatch, StringBuilder, StructArray, StructBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use std::sync::Arc;
use tidewater_storage::model::record::Record;
use tidewater_storage::model::{PartitionIndex, TimestampMs, TimestampType};

use super::decoding::{Layouts, ValueLayout};
use super::headers;
use crate::columns::build::Columns;
use crate::schema;
use crate::schema::file::FileSchema;

/// 0001-01-01T00:00:00Z.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
const MICROS_MAX: i64 = 253_402_300_799_999_999;

/// A Kafka timestamp as the table holds it: microseconds since the epoch.
#[must_use]
pub fn micros(timestamp: TimestampMs) -> i64 {
    timestamp.0.saturating_mul(1000).clamp(MICROS_MIN, MICROS_MAX)
}

/// What a row costs beside its key, value and headers: the fixed columns.
const ROW_BYTES: usize = 48;
/// What a header costs beside its name and value: two offsets and two bits.
const HEADER_BYTES: usize = 16;

/// Bytes a record takes as a row of key and value.
#[must_use]
pub fn row_bytes(record: &Record) -> usize {
    system_bytes(record) + record.value.as_ref().map_or(0, Bytes::len)
}

/// Bytes a record takes in the system columns.
#[must_use]
pub fn system_bytes(record: &Record) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    // A bad byte of a name becomes three.
    let name = |key: &Bytes| if std::str::from_utf8(key).is_ok() { key.len() } else { key.len().saturating_mul(3) };
    let headers = record.headers.iter().map(|header| HEADER_BYTES + name(&header.key) + len(&header.value));
    ROW_BYTES + len(&record.key) + headers.sum::<usize>()
}

/// A record with what its batch says of it.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    pub partition: PartitionIndex,
    pub kind: TimestampType,
    /// Its timestamp, from [`micros`].
    pub micros: i64,
    pub record: &'a Record,
}

/// Rows of one partition of a table, growing.
#[derive(Debug)]
pub struct PartitionRows {
    system: SystemColumns,
    /// Of keys; `None` where they are bytes alone.
    keys: Option<Columns>,
    values: ValueColumns,
}

/// Columns that depend on the kind of table.
#[allow(
    clippy::large_enum_variant,
    reason = "one for each open partition of a turn; the columns themselves are on the heap"
)]
#[derive(Debug)]
enum ValueColumns {
    /// The value's bytes, and the index of that column among the table's top-level fields.
    Bytes { value: LargeBinaryBuilder, at: usize },
    /// The value's parts.
    Typed(Columns),
    /// The value's bytes, and why it is not in the topic's table.
    Dead { value: LargeBinaryBuilder, reason: StringBuilder, schema: Int32Builder },
}

impl PartitionRows {
    /// For rows of a `key_value` table.
    #[must_use]
    pub fn key_value() -> Self {
        let values = ValueColumns::Bytes { value: LargeBinaryBuilder::with_capacity(0, 0), at: 1 };
        Self { system: SystemColumns::default(), keys: None, values }
    }

    /// For rows of typed columns.
    #[must_use]
    pub fn typed(layouts: &Layouts) -> Self {
        let values = match &layouts.value {
            ValueLayout::Bytes(at) => ValueColumns::Bytes { value: LargeBinaryBuilder::with_capacity(0, 0), at: *at },
            ValueLayout::Columns(layout) => ValueColumns::Typed(Columns::new(layout)),
        };
        Self { system: SystemColumns::default(), keys: Some(Columns::new(&layouts.key)), values }
    }

    /// For dead letters.
    #[must_use]
    pub fn dead_letters() -> Self {
        let (value, reason) = (LargeBinaryBuilder::with_capacity(0, 0), StringBuilder::with_capacity(0, 0));
        let values = ValueColumns::Dead { value, reason, schema: Int32Builder::with_capacity(0) };
        Self { system: SystemColumns::default(), keys: None, values }
    }

    /// Adds a record with its key and value as bytes.
    pub fn push(&mut self, placed: &Placed<'_>) {
        let (None, ValueColumns::Bytes { value, .. }) = (&self.keys, &mut self.values) else {
            unreachable!("rows of a key_value table")
        };
        value.append_option(placed.record.value.as_deref());
        self.system.push(placed);
    }

    /// Adds a record. `fill` appends one row to the columns of its key and one to those of its value, where values have
    /// columns. An error of `fill` leaves the rows as they were.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn push_typed<T, E>(
        &mut self,
        placed: &Placed<'_>,
        fill: impl FnOnce(&mut Columns, Option<&mut Columns>) -> Result<T, E>,
    ) -> Result<T, E> {
        let before = self.len();
        let Some(keys) = &mut self.keys else { unreachable!("rows of typed columns") };
        let values = match &mut self.values {
            ValueColumns::Typed(columns) => Some(columns),
            ValueColumns::Bytes { .. } | ValueColumns::Dead { .. } => None,
        };
        let filled = fill(keys, values);
        let rows = if filled.is_ok() { before + 1 } else { before };
        if filled.is_err() {
            keys.truncate(before);
        }
        assert_eq!(keys.rows(), rows, "a key is one row");
        match &mut self.values {
            ValueColumns::Typed(columns) => {
                if filled.is_err() {
                    columns.truncate(before);
                }
                assert_eq!(columns.rows(), rows, "a value is one row");
            }
            ValueColumns::Bytes { value, .. } if filled.is_ok() => value.append_option(placed.record.value.as_deref()),
            ValueColumns::Bytes { .. } => {}
            ValueColumns::Dead { .. } => unreachable!("rows of typed columns"),
        }
        if filled.is_ok() {
            self.system.push(placed);
        }
        filled
    }

    /// Adds a dead letter: `reason` says why, `schema` is the id of the schema that it names.
    pub fn push_dead(&mut self, placed: &Placed<'_>, why: &str, schema_id: Option<i32>) {
        let ValueColumns::Dead { value, reason, schema } = &mut self.values else {
            unreachable!("rows of dead letters")
        };
        value.append_option(placed.record.value.as_deref());
        reason.append_value(why);
        schema.append_option(schema_id);
        self.system.push(placed);
    }

    /// Rows so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.system.offset.len()
    }

    /// Whether there is no row yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As an Arrow batch with the table's field ids.
    ///
    /// # Errors
    /// The columns do not fit the schema: it is of another table, or a defect here.
    pub fn finish(self, schema: &FileSchema) -> Result<RecordBatch, ArrowError> {
        let mut arrays = self.system.finish(schema)?;
        let mut others = self.keys.map(Columns::finish).transpose()?.unwrap_or_default();
        match self.values {
            ValueColumns::Bytes { mut value, at } => others.push((at, Arc::new(value.finish()))),
            ValueColumns::Typed(columns) => others.extend(columns.finish()?),
            ValueColumns::Dead { mut value, mut reason, mut schema } => {
                let columns =
                    [Arc::new(value.finish()) as ArrayRef, Arc::new(reason.finish()), Arc::new(schema.finish())];
                others.extend(columns.into_iter().enumerate());
            }
        }
        others.sort_by_key(|(at, _)| *at);
        arrays.extend(others.into_iter().map(|(_, array)| array));
        RecordBatch::try_new(schema.arrow.clone(), arrays)
    }
}

/// The system columns of rows.
#[derive(Debug)]
struct SystemColumns {
    partition: Int32Builder,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    timestamp_type: Int32Builder,
    headers: ListBuilder<StructBuilder>,
    key: LargeBinaryBuilder,
}

impl Default for SystemColumns {
    /// Columns without any capacity: of a thousand rows each, which is what Arrow begins with, a partition would
    /// take 56 KB.
    fn default() -> Self {
        let names = StringBuilder::with_capacity(0, 0);
        let contents = LargeBinaryBuilder::with_capacity(0, 0);
        let header = StructBuilder::new(schema::header_fields(), vec![Box::new(names), Box::new(contents)]);
        Self {
            partition: Int32Builder::with_capacity(0),
            offset: Int64Builder::with_capacity(0),
            timestamp: TimestampMicrosecondBuilder::with_capacity(0).with_timezone("+00:00"),
            timestamp_type: Int32Builder::with_capacity(0),
            headers: ListBuilder::with_capacity(header, 0).with_field(schema::header_element()),
            key: LargeBinaryBuilder::with_capacity(0, 0),
        }
    }
}

impl SystemColumns {
    fn push(&mut self, placed: &Placed<'_>) {
        let record = placed.record;
        self.partition.append_value(placed.partition.0);
        self.offset.append_value(record.offset.to_wire());
        self.timestamp.append_value(placed.micros);
        self.timestamp_type.append_value(match placed.kind {
            TimestampType::Create => 0,
            TimestampType::LogAppend => 1,
        });
        let list = self.headers.values();
        for header in &record.headers {
            if let Some(key) = list.field_builder::<StringBuilder>(0) {
                key.append_value(String::from_utf8_lossy(&header.key));
            }
            if let Some(value) = list.field_builder::<LargeBinaryBuilder>(1) {
                value.append_option(header.value.as_deref());
            }
            list.append(true);
        }
        self.headers.append(true);
        self.key.append_option(record.key.as_deref());
    }

    /// As the columns that come first in a file of `schema`: one struct, or one column for each.
    fn finish(mut self, schema: &FileSchema) -> Result<Vec<ArrayRef>, ArrowError> {
        let headers = self.headers.finish();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.timestamp_type.finish()),
            // Headers, as soon as it is known in which form.
            Arc::new(self.key.finish()),
        ];
        match schema.arrow.field(0).data_type() {
            DataType::Struct(fields) => {
                columns.insert(HEADERS_AT, headers_of(headers, fields.get(HEADERS_AT))?);
                Ok(vec![Arc::new(StructArray::try_new(fields.clone(), columns, None)?)])
            }
            _ => {
                columns.insert(HEADERS_AT, Arc::new(headers::as_text(&headers)));
                Ok(columns)
            }
        }
    }
}

/// Which of the system columns headers are.
const HEADERS_AT: usize = 4;

/// Lists of headers with the field ids of `wanted`: those of an adopted table are other ones.
fn headers_of(headers: ListArray, wanted: Option<&FieldRef>) -> Result<ArrayRef, ArrowError> {
    let Some(DataType::List(element)) = wanted.map(|field| field.data_type()) else {
        return Err(ArrowError::SchemaError("headers are a list".to_owned()));
    };
    let DataType::Struct(members) = element.data_type() else {
        return Err(ArrowError::SchemaError("a header is a struct".to_owned()));
    };
    let (_, offsets, values, nulls) = headers.into_parts();
    let (_, columns, inner) = values.as_struct().clone().into_parts();
    let values = StructArray::try_new(members.clone(), columns, inner)?;
    Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, Arc::new(values), nulls)?))
}
