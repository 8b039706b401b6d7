//! The columns of `iceberg.mode=key_value`: one row per record, nothing interpreted.
//!
//! Nulls stay nulls (key, value, header value). A header name that is not UTF-8 has its bad bytes replaced by U+FFFD.
//! Timestamps go from milliseconds to microseconds; those outside the years 1 to 9999, which no engine can show, are
//! moved to that bound.

use arrow::array::{
    ArrayBuilder, ArrayRef, Int32Builder, Int64Builder, LargeBinaryBuilder, ListBuilder, RecordBatch, StringBuilder,
    StructArray, StructBuilder, TimestampMicrosecondBuilder,
};
use arrow::error::ArrowError;
use bytes::Bytes;
use std::sync::Arc;
use tidewater_storage::model::record::Record;
use tidewater_storage::model::{PartitionIndex, TimestampMs, TimestampType};

use crate::schema;

/// 0001-01-01T00:00:00Z.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z.
const MICROS_MAX: i64 = 253_402_300_799_999_999;

/// A Kafka timestamp as the table holds it: microseconds since the epoch.
#[must_use]
pub fn micros(timestamp: TimestampMs) -> i64 {
    timestamp.0.saturating_mul(1000).clamp(MICROS_MIN, MICROS_MAX)
}

/// Rows of one hour partition, growing.
#[derive(Debug)]
pub struct HourRows {
    partition: Int32Builder,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    timestamp_type: Int32Builder,
    headers: ListBuilder<StructBuilder>,
    key: LargeBinaryBuilder,
    value: LargeBinaryBuilder,
}

impl Default for HourRows {
    /// Columns without any capacity: of a thousand rows each, which is what Arrow begins with, an hour would take 56
    /// KB.
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
            value: LargeBinaryBuilder::with_capacity(0, 0),
        }
    }
}

/// What a row costs beside its key, value and headers: the fixed columns.
const ROW_BYTES: usize = 48;
/// What a header costs beside its name and value: two offsets and two bits.
const HEADER_BYTES: usize = 16;

/// Bytes a record takes as a row.
#[must_use]
pub fn row_bytes(record: &Record) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    // A bad byte of a name becomes three.
    let name = |key: &Bytes| if std::str::from_utf8(key).is_ok() { key.len() } else { key.len().saturating_mul(3) };
    let headers = record.headers.iter().map(|header| HEADER_BYTES + name(&header.key) + len(&header.value));
    ROW_BYTES + len(&record.key) + len(&record.value) + headers.sum::<usize>()
}

impl HourRows {
    /// Adds a record; `micros` is its timestamp from [`micros`].
    pub fn push(&mut self, partition: PartitionIndex, kind: TimestampType, micros: i64, record: &Record) {
        self.partition.append_value(partition.0);
        self.offset.append_value(record.offset.to_wire());
        self.timestamp.append_value(micros);
        self.timestamp_type.append_value(match kind {
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
        self.value.append_option(record.value.as_deref());
    }

    /// Rows so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offset.len()
    }

    /// Whether there is no row yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As an Arrow batch with the table's field ids.
    ///
    /// # Errors
    /// The columns do not fit the schema: a defect here.
    pub fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let system: Vec<ArrayRef> = vec![
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.timestamp_type.finish()),
            Arc::new(self.headers.finish()),
            Arc::new(self.key.finish()),
        ];
        let system = StructArray::try_new(schema::system_fields(), system, None)?;
        RecordBatch::try_new(schema::arrow_schema(), vec![Arc::new(system), Arc::new(self.value.finish())])
    }
}
