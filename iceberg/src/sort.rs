//! [`TableOrder`]: the sort order by which a table's files are written when they are compacted: the table's default
//! one, whether `iceberg.sort.order` or an engine has set it. Pure.
//!
//! Any transform is taken that iceberg can apply to a column, since an engine may have chosen it; the setting asks for
//! columns as they are alone ([`choice`]). [`wanted`] says how the table gets what it asks for.

use arrow::compute::SortOptions;
use iceberg::spec::{NullOrder, Schema, SortDirection, SortOrder, StructType, TableMetadata, Transform, Type};

pub mod choice;
pub mod wanted;

/// See the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOrder {
    /// The id that files in this order carry in their manifest entries.
    pub id: i32,
    pub fields: Vec<OrderField>,
}

/// One column of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderField {
    /// Field id of the column.
    pub source: i32,
    pub transform: Transform,
    pub options: SortOptions,
}

impl TableOrder {
    /// The default order of a table; `None` if it is not sorted.
    ///
    /// # Errors
    /// Why its files cannot be sorted by it.
    pub fn of(metadata: &TableMetadata) -> Result<Option<Self>, String> {
        let (order, schema) = (metadata.default_sort_order(), metadata.current_schema());
        if order.is_unsorted() {
            return Ok(None);
        }
        let field = |field: &iceberg::spec::SortField| {
            check(schema, field.source_id)?;
            if matches!(field.transform, Transform::Bucket(0) | Transform::Truncate(0)) {
                return Err(format!("{} has no value: nothing is divided by zero", field.transform));
            }
            let descending = field.direction == SortDirection::Descending;
            let options = SortOptions { descending, nulls_first: field.null_order == NullOrder::First };
            Ok(OrderField { source: field.source_id, transform: field.transform, options })
        };
        let fields = order.fields.iter().map(field).collect::<Result<_, String>>()?;
        let id = i32::try_from(order.order_id).map_err(|_| format!("its id {} is too large", order.order_id))?;
        Ok(Some(Self { id, fields }))
    }
}

/// Checks that rows can be sorted by the column with this field id.
///
/// # Errors
/// Why not.
pub(crate) fn check(schema: &Schema, id: i32) -> Result<(), String> {
    let name = schema.name_by_field_id(id).ok_or_else(|| format!("the column with field id {id} was dropped"))?;
    let has_parts = schema.field_by_id(id).is_none_or(|field| !field.field_type.is_primitive());
    if has_parts {
        return Err(format!("column {name} has parts, and rows can be sorted by one of these alone"));
    }
    match is_below(schema.as_struct(), id) {
        true => Ok(()),
        false => Err(format!("column {name} is in a list or a map, of which a row has any number of values")),
    }
}

/// Whether the field is one of these, or of a struct among them.
fn is_below(fields: &StructType, id: i32) -> bool {
    fields.fields().iter().any(|field| match &*field.field_type {
        Type::Struct(inside) => is_below(inside, id),
        _ => field.id == id,
    })
}

/// An order for people, in the words of SQL: `customer ASC NULLS FIRST, bucket(4, id) DESC NULLS LAST`.
#[must_use]
pub fn words_of(order: &SortOrder, schema: &Schema) -> String {
    let field = |field: &iceberg::spec::SortField| {
        let column = schema
            .name_by_field_id(field.source_id)
            .map_or_else(|| format!("field {}", field.source_id), ToOwned::to_owned);
        let by = match field.transform {
            Transform::Identity => column,
            Transform::Bucket(n) => format!("bucket({n}, {column})"),
            Transform::Truncate(n) => format!("truncate({n}, {column})"),
            other => format!("{other}({column})"),
        };
        let direction = if field.direction == SortDirection::Ascending { "ASC" } else { "DESC" };
        let nulls = if field.null_order == NullOrder::First { "FIRST" } else { "LAST" };
        format!("{by} {direction} NULLS {nulls}")
    };
    order.fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use iceberg::spec::{FormatVersion, SortField, TableMetadataBuilder};

    use super::*;
    use crate::schema::{ids, table_schema};

    fn table(fields: &[(i32, Transform)]) -> iceberg::Result<TableMetadata> {
        let field = |(id, transform): &(i32, Transform)| SortField {
            source_id: *id,
            transform: *transform,
            direction: SortDirection::Descending,
            null_order: NullOrder::Last,
        };
        let order = SortOrder { order_id: 1, fields: fields.iter().map(field).collect() };
        let spec = iceberg::spec::UnboundPartitionSpec::default();
        let (location, format) = ("s3://b/t".to_owned(), FormatVersion::V2);
        let made = TableMetadataBuilder::new(table_schema()?, spec, order, location, format, HashMap::new())?;
        Ok(made.build()?.metadata)
    }

    #[test]
    fn an_order_is_read_from_the_table() {
        assert_eq!(TableOrder::of(&table(&[]).expect("a table")), Ok(None));
        let found = table(&[(ids::KEY, Transform::Identity), (ids::TIMESTAMP, Transform::Day)]).expect("a table");
        let order = TableOrder::of(&found).expect("sortable").expect("sorted");
        let options = SortOptions { descending: true, nulls_first: false };
        let field = |source, transform| OrderField { source, transform, options };
        assert_eq!(order.fields, [field(ids::KEY, Transform::Identity), field(ids::TIMESTAMP, Transform::Day)]);
        assert_eq!(
            words_of(found.default_sort_order(), found.current_schema()),
            "tidewater.key DESC NULLS LAST, day(tidewater.timestamp) DESC NULLS LAST"
        );
    }

    #[test]
    fn what_a_row_has_many_of_is_no_column_to_sort_by() {
        let found = table(&[(ids::HEADER_KEY, Transform::Identity)]).expect("a table");
        assert!(TableOrder::of(&found).expect_err("in a list").contains("is in a list or a map"));
        assert!(check(found.current_schema(), ids::TIDEWATER).expect_err("a struct").contains("has parts"));
        // The builder takes it, and a row of it would divide by zero.
        if let Ok(found) = table(&[(ids::KEY, Transform::Bucket(0))]) {
            assert!(TableOrder::of(&found).expect_err("no value").contains("divided by zero"));
        }
        assert!(check(found.current_schema(), 99).expect_err("none").contains("was dropped"));
    }
}
