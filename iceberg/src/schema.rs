//! The columns that are the same in each table: their field ids, the partition spec. Frozen: FORMAT.md lists the ids.
//! [`file`](mod@file) says what columns a data file has.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use iceberg::spec::{
    ListType, NestedField, PartitionSpec, PrimitiveType, Schema, StructType, TableMetadata, Transform, Type,
    UnboundPartitionSpec,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

pub mod file;

/// Field ids, as iceberg numbers a fresh schema: level by level.
pub mod ids {
    /// `tidewater`.
    pub const TIDEWATER: i32 = 1;
    /// `value`.
    pub const VALUE: i32 = 2;
    /// `tidewater.partition`.
    pub const PARTITION: i32 = 3;
    /// `tidewater.offset`.
    pub const OFFSET: i32 = 4;
    /// `tidewater.timestamp`.
    pub const TIMESTAMP: i32 = 5;
    /// `tidewater.timestamp_type`.
    pub const TIMESTAMP_TYPE: i32 = 6;
    /// `tidewater.headers`.
    pub const HEADERS: i32 = 7;
    /// `tidewater.key`.
    pub const KEY: i32 = 8;
    /// An element of `tidewater.headers`.
    pub const HEADER: i32 = 9;
    /// A header's name.
    pub const HEADER_KEY: i32 = 10;
    /// A header's value.
    pub const HEADER_VALUE: i32 = 11;
    /// `reason`, in tables of dead letters.
    pub const REASON: i32 = 12;
    /// `schema_id`, in tables of dead letters.
    pub const SCHEMA_ID: i32 = 13;
}

/// Name of the partition field. Without a dot: Avro, in which manifests carry it, allows none.
pub const HOUR_FIELD: &str = "tidewater_hour";
/// Microseconds in an hour: the transform is the floor of the quotient (Iceberg spec, "Partition Transforms").
pub const HOUR_US: i64 = 3_600_000_000;

fn primitive(kind: PrimitiveType) -> Type {
    Type::Primitive(kind)
}

/// `tidewater`, with what each row says of its record.
#[must_use]
pub fn system_field() -> NestedField {
    let header = StructType::new(vec![
        NestedField::required(ids::HEADER_KEY, "key", primitive(PrimitiveType::String)).into(),
        NestedField::optional(ids::HEADER_VALUE, "value", primitive(PrimitiveType::Binary)).into(),
    ]);
    let headers = ListType::new(NestedField::list_element(ids::HEADER, Type::Struct(header), true).into());
    let system = StructType::new(vec![
        NestedField::required(ids::PARTITION, "partition", primitive(PrimitiveType::Int)).into(),
        NestedField::required(ids::OFFSET, "offset", primitive(PrimitiveType::Long)).into(),
        NestedField::required(ids::TIMESTAMP, "timestamp", primitive(PrimitiveType::Timestamptz)).into(),
        NestedField::required(ids::TIMESTAMP_TYPE, "timestamp_type", primitive(PrimitiveType::Int)).into(),
        NestedField::optional(ids::HEADERS, "headers", Type::List(headers)).into(),
        NestedField::optional(ids::KEY, "key", primitive(PrimitiveType::Binary)).into(),
    ]);
    NestedField::required(ids::TIDEWATER, "tidewater", Type::Struct(system))
}

fn value_field() -> NestedField {
    NestedField::optional(ids::VALUE, "value", primitive(PrimitiveType::Binary))
}

/// The schema with which every table is made, and that of a `key_value` table.
///
/// # Errors
/// None in practice: the fields are constants; iceberg's builder is fallible.
pub fn table_schema() -> iceberg::Result<Schema> {
    Schema::builder().with_fields(vec![system_field().into(), value_field().into()]).build()
}

/// The schema of a table of dead letters. A table that is made with it gets other field ids, by level: it is made with
/// [`table_schema`] and then changed to this.
///
/// # Errors
/// None in practice, as [`table_schema`].
pub fn dead_letter_schema() -> iceberg::Result<Schema> {
    let fields = vec![
        system_field().into(),
        value_field().into(),
        NestedField::optional(ids::REASON, "reason", primitive(PrimitiveType::String)).into(),
        NestedField::optional(ids::SCHEMA_ID, "schema_id", primitive(PrimitiveType::Int)).into(),
    ];
    Schema::builder().with_fields(fields).build()
}

/// `hour(tidewater.timestamp)`: the spec of tables whose topics choose none, and of dead letters.
///
/// # Errors
/// None in practice, as [`table_schema`].
pub fn hour_spec() -> iceberg::Result<UnboundPartitionSpec> {
    Ok(UnboundPartitionSpec::builder().add_partition_field(ids::TIMESTAMP, HOUR_FIELD, Transform::Hour)?.build())
}

/// The hour spec among those of a table, which may have got others since; `None` if a user removed it.
#[must_use]
pub fn find_hour_spec(metadata: &TableMetadata) -> Option<Arc<PartitionSpec>> {
    let default = metadata.default_partition_spec();
    if is_by_hour(default) {
        return Some(default.clone());
    }
    metadata.partition_specs_iter().find(|spec| is_by_hour(spec)).cloned()
}

/// Whether it is [`hour_spec`].
#[must_use]
pub fn is_by_hour(spec: &PartitionSpec) -> bool {
    match spec.fields() {
        [field] => field.source_id == ids::TIMESTAMP && field.transform == Transform::Hour,
        _ => false,
    }
}

fn field(id: i32, name: &str, kind: DataType, nullable: bool) -> Field {
    Field::new(name, kind, nullable)
        .with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]))
}

/// Fields of one header, in Arrow.
#[must_use]
pub fn header_fields() -> Fields {
    Fields::from(vec![
        field(ids::HEADER_KEY, "key", DataType::Utf8, false),
        field(ids::HEADER_VALUE, "value", DataType::LargeBinary, true),
    ])
}

/// The element field of the headers list, in Arrow.
#[must_use]
pub fn header_element() -> Field {
    field(ids::HEADER, "element", DataType::Struct(header_fields()), false)
}

/// Fields of the `tidewater` struct, in Arrow.
#[must_use]
pub fn system_fields() -> Fields {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    Fields::from(vec![
        field(ids::PARTITION, "partition", DataType::Int32, false),
        field(ids::OFFSET, "offset", DataType::Int64, false),
        field(ids::TIMESTAMP, "timestamp", timestamp, false),
        field(ids::TIMESTAMP_TYPE, "timestamp_type", DataType::Int32, false),
        field(ids::HEADERS, "headers", DataType::List(Arc::new(header_element())), true),
        field(ids::KEY, "key", DataType::LargeBinary, true),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use iceberg::spec::{FormatVersion, SortOrder, TableMetadataBuilder};

    use super::*;

    #[test]
    fn the_system_columns_in_arrow_are_what_iceberg_converts_to() {
        let theirs = iceberg::arrow::schema_to_arrow_schema(&table_schema().expect("schema")).expect("converts");
        assert_eq!(*theirs.field(0).data_type(), DataType::Struct(system_fields()));
    }

    #[test]
    fn a_fresh_table_keeps_the_field_ids() {
        let schema = table_schema().expect("schema");
        let builder = TableMetadataBuilder::new(
            schema.clone(),
            hour_spec().expect("spec"),
            SortOrder::unsorted_order(),
            "file:///t".into(),
            FormatVersion::V2,
            HashMap::new(),
        );
        let metadata = builder.and_then(TableMetadataBuilder::build).expect("metadata").metadata;
        assert_eq!(metadata.current_schema().as_struct(), schema.as_struct());
        assert!(find_hour_spec(&metadata).is_some());
    }
}
