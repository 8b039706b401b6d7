//! The rows of a data file in the columns of the table as they are now, matched by field id. Pure.
//!
//! A column that the file lacks is null, one that the table no longer has is left out, one whose type the table has
//! widened (Iceberg's "Schema Evolution") is widened. Anything else is an error: such a file is left as it is.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, StructArray, make_array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

/// Why rows do not fit the columns.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("column {0} is required, and the file lacks it")]
    Missing(String),
    #[error("column {column} is {found} in the file and {wanted} in the table")]
    Type { column: String, found: DataType, wanted: DataType },
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

/// The field id that Parquet has for `field`.
pub(super) fn id_of(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

/// The column with this field id: a top-level one, or a member of a struct, which is null where that is.
pub(super) fn column_of(batch: &RecordBatch, id: i32) -> Option<ArrayRef> {
    find(batch.schema_ref().fields(), batch.columns(), id)
}

fn find(fields: &Fields, columns: &[ArrayRef], id: i32) -> Option<ArrayRef> {
    fields.iter().zip(columns).find_map(|(field, column)| {
        if id_of(field) == Some(id) {
            return Some(Arc::clone(column));
        }
        let inside = column.as_struct_opt()?;
        let member = find(inside.fields(), inside.columns(), id)?;
        let Some(nulls) = inside.nulls() else { return Some(member) };
        let both = NullBuffer::union(Some(nulls), member.nulls());
        member.to_data().into_builder().nulls(both).build().ok().map(make_array)
    })
}

/// The rows of `batch` with the columns of `wanted`.
pub(super) fn project(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ProjectError> {
    let schema = batch.schema();
    let columns = children(schema.fields(), batch.columns(), wanted.fields(), batch.num_rows())?;
    Ok(RecordBatch::try_new(Arc::clone(wanted), columns)?)
}

/// The columns of `wanted`, each made of the one with its id.
fn children(found: &Fields, columns: &[ArrayRef], wanted: &Fields, rows: usize) -> Result<Vec<ArrayRef>, ProjectError> {
    let of = |wanted: &FieldRef| {
        let held = found.iter().zip(columns).find(|(field, _)| id_of(field).is_some() && id_of(field) == id_of(wanted));
        match held {
            Some((_, column)) => column_as(column, wanted),
            None if wanted.is_nullable() => Ok(new_null_array(wanted.data_type(), rows)),
            None => Err(ProjectError::Missing(wanted.name().clone())),
        }
    };
    wanted.iter().map(of).collect()
}

fn column_as(column: &ArrayRef, wanted: &Field) -> Result<ArrayRef, ProjectError> {
    match (column.data_type(), wanted.data_type()) {
        (DataType::Struct(found), DataType::Struct(fields)) => {
            let held = column.as_struct();
            let columns = children(found, held.columns(), fields, held.len())?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, held.nulls().cloned())?))
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = column.as_list::<i32>();
            let values = column_as(list.values(), element)?;
            let list = ListArray::try_new(Arc::clone(element), list.offsets().clone(), values, list.nulls().cloned())?;
            Ok(Arc::new(list))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = column.as_map();
            let held: ArrayRef = Arc::new(map.entries().clone());
            let held = column_as(&held, entries)?;
            let map = MapArray::try_new(
                Arc::clone(entries),
                map.offsets().clone(),
                held.as_struct().clone(),
                map.nulls().cloned(),
                *sorted,
            )?;
            Ok(Arc::new(map))
        }
        (found, wanted) if found == wanted => Ok(Arc::clone(column)),
        (found, kind) if widens(found, kind) => Ok(cast(column, kind)?),
        (found, kind) => {
            Err(ProjectError::Type { column: wanted.name().clone(), found: found.clone(), wanted: kind.clone() })
        }
    }
}

/// Whether Iceberg lets a column of `found` become one of `wanted`; binary as other versions wrote it is taken too.
fn widens(found: &DataType, wanted: &DataType) -> bool {
    use DataType::{Binary, Decimal128, Float32, Float64, Int32, Int64, LargeBinary, Timestamp};
    match (found, wanted) {
        (Int32, Int64) | (Float32, Float64) | (Binary, LargeBinary) => true,
        (Decimal128(from, scale), Decimal128(to, wanted)) => scale == wanted && from <= to,
        (Timestamp(from, Some(_)), Timestamp(to, Some(_))) => from == to,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::{Decimal128Array, Float32Array, Int32Array, StringArray};
    use arrow::datatypes::{Float64Type, Int64Type, Schema};

    use super::*;

    fn field(id: i32, name: &str, kind: DataType) -> Field {
        let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
        Field::new(name, kind, true).with_metadata(id)
    }

    fn decimal(precision: u8) -> DataType {
        DataType::Decimal128(precision, 2)
    }

    fn batch() -> RecordBatch {
        let inner: Fields = vec![field(5, "a", DataType::Int32), field(6, "gone", DataType::Utf8)].into();
        let columns: Vec<(Field, ArrayRef)> = vec![
            (field(1, "n", DataType::Int32), Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]))),
            (field(2, "x", DataType::Float32), Arc::new(Float32Array::from(vec![0.5, 1.5, 2.5]))),
            (
                field(3, "d", decimal(5)),
                Arc::new(Decimal128Array::from(vec![100, 200, 300]).with_data_type(decimal(5))),
            ),
            (
                field(4, "s", DataType::Struct(inner.clone())),
                Arc::new(StructArray::new(
                    inner,
                    vec![
                        Arc::new(Int32Array::from(vec![7, 8, 9])) as ArrayRef,
                        Arc::new(StringArray::from(vec!["p", "q", "r"])),
                    ],
                    Some(vec![true, false, true].into()),
                )),
            ),
        ];
        let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("fits")
    }

    #[test]
    fn columns_are_matched_by_id_and_widened() {
        let inner: Fields = vec![field(8, "new", DataType::Utf8), field(5, "renamed", DataType::Int64)].into();
        let wanted = Arc::new(Schema::new(vec![
            field(4, "s", DataType::Struct(inner)),
            field(7, "later", DataType::Utf8),
            field(1, "number", DataType::Int64),
            field(2, "x", DataType::Float64),
            field(3, "d", decimal(9)),
        ]));
        let projected = project(&batch(), &wanted).expect("fits");
        assert_eq!(projected.schema(), wanted);
        let inner = projected.column(0).as_struct();
        assert_eq!(inner.column(0).null_count(), 3);
        assert_eq!(inner.column(1).as_primitive::<Int64Type>().value(2), 9);
        assert!(inner.is_null(1), "a struct that is null stays so");
        assert_eq!(projected.column(1).null_count(), 3);
        assert_eq!(
            projected.column(2).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
            [Some(1), None, Some(3)]
        );
        assert_eq!(projected.column(3).as_primitive::<Float64Type>().value(1).to_bits(), 1.5_f64.to_bits());
        assert_eq!(projected.column(4).data_type(), &decimal(9));
    }

    #[test]
    fn what_cannot_be_read_as_the_tables_columns_is_refused() {
        let refuses = |wanted: Field| project(&batch(), &Arc::new(Schema::new(vec![wanted]))).expect_err("refused");
        assert!(matches!(refuses(field(1, "n", DataType::Utf8)), ProjectError::Type { .. }));
        assert!(matches!(refuses(field(3, "d", decimal(4))), ProjectError::Type { .. }));
        assert!(matches!(refuses(field(9, "k", DataType::Utf8).with_nullable(false)), ProjectError::Missing(_)));
        assert!(matches!(refuses(field(1, "n", DataType::Int32).with_nullable(false)), ProjectError::Arrow(_)));
    }
}
