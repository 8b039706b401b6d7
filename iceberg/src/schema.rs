//! The columns that are the same in each table: their field ids, the partition spec. Frozen: FORMAT.md lists the ids.
//! [`file`](mod@file) says what columns a data file has, [`system`] how one table has the system columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use iceberg::spec::{
    NestedField, PartitionSpec, PrimitiveType, Schema, TableMetadata, Transform, Type, UnboundPartitionSpec,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

pub mod file;
pub mod system;

use system::SystemColumns;

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

/// The schema with which every table is made, and that of a `key_value` table.
///
/// # Errors
/// None in practice: the fields are constants; iceberg's builder is fallible.
pub fn table_schema() -> iceberg::Result<Schema> {
    key_value_schema(SystemColumns::default())
}

/// The schema of the data files of a `key_value` table.
///
/// # Errors
/// None in practice, as [`table_schema`].
pub fn key_value_schema(system: SystemColumns) -> iceberg::Result<Schema> {
    let fields = system.fields().into_iter().chain([system.value().into()]);
    Schema::builder().with_fields(fields).build()
}

/// The schema of a table of dead letters. A table that is made with it gets other field ids, by level: it is made with
/// [`table_schema`] and then changed to this.
///
/// # Errors
/// None in practice, as [`table_schema`].
pub fn dead_letter_schema(system: SystemColumns) -> iceberg::Result<Schema> {
    let optional = |id, name, kind| NestedField::optional(id, name, Type::Primitive(kind)).into();
    let own = [
        system.value().into(),
        optional(system.id(ids::REASON), "reason", PrimitiveType::String),
        optional(system.id(ids::SCHEMA_ID), "schema_id", PrimitiveType::Int),
    ];
    Schema::builder().with_fields(system.fields().into_iter().chain(own)).build()
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
    let system = SystemColumns::of(metadata);
    let default = metadata.default_partition_spec();
    if system.is_by_hour(default) {
        return Some(default.clone());
    }
    metadata.partition_specs_iter().find(|spec| system.is_by_hour(spec)).cloned()
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use iceberg::spec::{FormatVersion, SortOrder, TableMetadataBuilder};

    use super::*;

    #[test]
    fn headers_in_arrow_are_what_iceberg_converts_to() {
        let theirs = iceberg::arrow::schema_to_arrow_schema(&table_schema().expect("schema")).expect("converts");
        let DataType::Struct(system) = theirs.field(0).data_type() else { unreachable!("a struct") };
        let (_, headers) = system.find("headers").expect("there");
        assert_eq!(*headers.data_type(), DataType::List(Arc::new(header_element())));
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
