//! The columns of `iceberg.mode=key_value`: one row per record, nothing interpreted.
//!
//! Nulls stay nulls (key, value, header value). A header name that is not UTF-8 has its bad bytes replaced by U+FFFD.
//! Timestamps go from milliseconds to microseconds; those outside the years 1 to 9999, which no engine can show, are
//! moved to that bound.

use arrow::array::{
    ArrayRef, Int32Builder, Int64Builder, LargeBinaryBuilder, ListBuilder, RecordBatch, StringBuilder, StructArray,
    StructBuilder, TimestampMicrosecondBuilder,
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
    bytes: usize,
}

impl Default for HourRows {
    fn default() -> Self {
        let header = StructBuilder::new(
            schema::header_fields(),
            vec![Box::new(StringBuilder::new()), Box::new(LargeBinaryBuilder::new())],
        );
        Self {
            partition: Int32Builder::new(),
            offset: Int64Builder::new(),
            timestamp: TimestampMicrosecondBuilder::new().with_timezone("+00:00"),
            timestamp_type: Int32Builder::new(),
            headers: ListBuilder::new(header).with_field(schema::header_element()),
            key: LargeBinaryBuilder::new(),
            value: LargeBinaryBuilder::new(),
            bytes: 0,
        }
    }
}

/// What a row costs beside its key, value and headers: the fixed columns.
const ROW_BYTES: usize = 48;

impl HourRows {
    /// Adds a record; `micros` is its timestamp from [`micros`]. Returns the bytes it took.
    pub fn push(&mut self, partition: PartitionIndex, kind: TimestampType, micros: i64, record: &Record) -> usize {
        self.partition.append_value(partition.0);
        self.offset.append_value(record.offset.to_wire());
        self.timestamp.append_value(micros);
        self.timestamp_type.append_value(match kind {
            TimestampType::Create => 0,
            TimestampType::LogAppend => 1,
        });
        let mut bytes =
            ROW_BYTES + record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
        let list = self.headers.values();
        for header in &record.headers {
            bytes += header.key.len() + header.value.as_ref().map_or(0, Bytes::len);
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
        self.bytes += bytes;
        bytes
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// As an Arrow batch with the table's field ids.
    ///
    /// # Errors
    /// If the columns do not fit the schema: a defect here.
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
