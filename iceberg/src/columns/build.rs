//! [`Columns`]: the columns of a table's values, growing row by row, in the types that the table has.
//!
//! Decoders append; [`Columns::truncate`] takes back what they appended of a row that failed or found no room, which
//! needs no memory of its own: the number of rows says how long each part is. Several decoders may append in turn.
//!
//! Not `arrow`'s builders: these cannot be cut, and begin with room for a thousand rows each.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBufferBuilder, FixedSizeBinaryArray, LargeBinaryArray, ListArray, MapArray,
    NullBufferBuilder, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int32Type,
    Int64Type, Schema as ArrowSchema, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use arrow::error::ArrowError;
use iceberg::spec::{PrimitiveType, Schema, Type};

/// Bytes of text in one column, or items of one list column, at most: Arrow counts them in 31 bits.
pub const OFFSET_MAX: usize = i32::MAX as usize;

/// The key of Arrow's field metadata that holds an extension type's name.
const EXTENSION: &str = "ARROW:extension:name";

/// The table's schema in Arrow, with the extension name that makes Parquet write uuid columns as such.
///
/// # Errors
/// The schema has a type that Arrow lacks.
pub fn arrow_schema(schema: &Schema) -> iceberg::Result<ArrowSchema> {
    let arrow = iceberg::arrow::schema_to_arrow_schema(schema)?;
    let is_uuid = |id: &str| {
        let field = id.parse().ok().and_then(|id| schema.field_by_id(id));
        field.is_some_and(|field| *field.field_type == Type::Primitive(PrimitiveType::Uuid))
    };
    let fields: Vec<FieldRef> = arrow.fields().iter().map(|field| with_uuids(field, &is_uuid)).collect();
    Ok(ArrowSchema::new(fields))
}

fn with_uuids(field: &FieldRef, is_uuid: &dyn Fn(&str) -> bool) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| with_uuids(field, is_uuid)).collect()),
        DataType::List(element) => DataType::List(with_uuids(element, is_uuid)),
        DataType::Map(entries, sorted) => DataType::Map(with_uuids(entries, is_uuid), *sorted),
        kind => kind.clone(),
    };
    let id = field.metadata().get(parquet::arrow::PARQUET_FIELD_ID_META_KEY);
    let mut metadata: HashMap<String, String> = field.metadata().clone();
    if id.is_some_and(|id| is_uuid(id)) {
        metadata.insert(EXTENSION.to_owned(), "arrow.uuid".to_owned());
    }
    Arc::new(Field::new(field.name(), kind, field.is_nullable()).with_metadata(metadata))
}

/// The columns of one table schema that values go to. Decoders for it and [`Columns`] of it fit together.
#[derive(Debug)]
pub struct Layout {
    /// Of the columns, with their index among the table's top-level fields.
    fields: Vec<(usize, FieldRef)>,
    /// They are of records' keys.
    of_keys: bool,
}

/// Which columns the members of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowColumns {
    /// All of a layout.
    All,
    /// Those inside the layout's column at this index, which is a struct: the value is a record's key.
    Inside(usize),
}

impl Layout {
    /// All top-level fields of `schema` but those with an id in `reserved`, which are left to the caller.
    ///
    /// # Errors
    /// The schema has a type that Arrow lacks.
    pub fn new(schema: &Schema, reserved: &[i32]) -> Result<Arc<Self>, ArrowError> {
        Self::with(schema, false, |id| !reserved.contains(&id))
    }

    /// Top-level fields of `schema` with an id in `ids`, which are of records' keys.
    ///
    /// # Errors
    /// The schema has a type that Arrow lacks.
    pub fn of_keys(schema: &Schema, ids: &[i32]) -> Result<Arc<Self>, ArrowError> {
        Self::with(schema, true, |id| ids.contains(&id))
    }

    fn with(schema: &Schema, of_keys: bool, has: impl Fn(i32) -> bool) -> Result<Arc<Self>, ArrowError> {
        let arrow = arrow_schema(schema).map_err(|e| ArrowError::SchemaError(e.to_string()))?;
        let top = schema.as_struct().fields().iter().zip(arrow.fields()).enumerate();
        let ours = top.filter(|(_, (field, _))| has(field.id));
        let layout = Self { fields: ours.map(|(at, (_, arrow))| (at, arrow.clone())).collect(), of_keys };
        layout.columns()?;
        Ok(Arc::new(layout))
    }

    /// Whether the columns are of records' keys.
    pub(super) fn is_of_keys(&self) -> bool {
        self.of_keys
    }

    /// Whether the table's top-level field at `index` is one of our columns.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.slot(index).is_some()
    }

    /// Bytes that columns take before they have a value, about.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.columns().map_or(0, |columns| columns.iter().map(Column::open_bytes).sum())
    }

    /// Which of our columns the table's top-level field at `index` is.
    pub(super) fn slot(&self, index: usize) -> Option<usize> {
        self.fields.iter().position(|(at, _)| *at == index)
    }

    pub(super) fn columns(&self) -> Result<Vec<Column>, ArrowError> {
        self.fields.iter().map(|(_, field)| Column::new(field.data_type())).collect()
    }
}

/// Rows of a table's columns.
#[derive(Debug)]
pub struct Columns {
    layout: Arc<Layout>,
    pub(super) columns: Vec<Column>,
    rows: usize,
}

impl Columns {
    /// No rows yet.
    #[must_use]
    pub fn new(layout: &Arc<Layout>) -> Self {
        let columns = layout.columns().expect("a layout has types for which there are columns");
        Self { layout: layout.clone(), columns, rows: 0 }
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn is_of(&self, layout: &Arc<Layout>) -> bool {
        Arc::ptr_eq(&self.layout, layout)
    }

    /// Appends a row. `fill` appends the members of its value, or nothing and returns false if that is null. An error
    /// leaves the columns as they were.
    pub(super) fn push_row<E>(
        &mut self,
        row: RowColumns,
        fill: impl FnOnce(&mut [Column]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let filled = match row {
            RowColumns::All => fill(&mut self.columns).map(|has_value| {
                if !has_value {
                    self.columns.iter_mut().for_each(Column::push_null);
                }
            }),
            RowColumns::Inside(at) => self.push_inside(at, fill),
        };
        match filled {
            Ok(()) => self.end_row(),
            Err(_) => self.truncate(self.rows),
        }
        filled
    }

    fn push_inside<E>(&mut self, at: usize, fill: impl FnOnce(&mut [Column]) -> Result<bool, E>) -> Result<(), E> {
        let Column { nulls, values } = &mut self.columns[at];
        let Values::Struct(inside) = values else { unreachable!("members are inside a struct") };
        match fill(inside)? {
            true => nulls.append_non_null(),
            false => self.columns[at].push_null(),
        }
        self.push_nulls_beside(at);
        Ok(())
    }

    /// Appends a row with one column that `fill` appends to; the others are null. An error leaves the columns as they
    /// were.
    pub(super) fn push_only<E>(&mut self, at: usize, fill: impl FnOnce(&mut Column) -> Result<(), E>) -> Result<(), E> {
        let filled = fill(&mut self.columns[at]);
        match filled {
            Ok(()) => {
                self.push_nulls_beside(at);
                self.end_row();
            }
            Err(_) => self.truncate(self.rows),
        }
        filled
    }

    fn push_nulls_beside(&mut self, at: usize) {
        self.columns
            .iter_mut()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .for_each(|(_, column)| column.push_null());
    }

    /// Counts a row that has been appended to each column.
    fn end_row(&mut self) {
        self.rows += 1;
        // All of them are compared when they become arrays.
        debug_assert!(self.columns.last().is_none_or(|column| column.len() == self.rows), "each column has the row");
    }

    /// Appends a row without a value: a tombstone, or a record whose value is null.
    pub fn push_null(&mut self) {
        self.columns.iter_mut().for_each(Column::push_null);
        self.end_row();
    }

    /// Takes back all rows from `rows` on, and what was appended of one that is not complete.
    pub fn truncate(&mut self, rows: usize) {
        assert!(rows <= self.rows, "{rows} of {} rows stay", self.rows);
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.rows = rows;
    }

    /// The arrays, each with the index of its field among the table's top-level fields.
    ///
    /// # Errors
    /// The columns do not fit the schema: one is required that values left out, or a defect here.
    pub fn finish(self) -> Result<Vec<(usize, ArrayRef)>, ArrowError> {
        let both = self.columns.into_iter().zip(&self.layout.fields);
        both.map(|(column, (at, field))| {
            assert_eq!(column.len(), self.rows, "column {} has each row", field.name());
            let array = column.finish(field.data_type())?;
            if !field.is_nullable() && array.null_count() > 0 {
                return Err(ArrowError::SchemaError(format!("column {} is required and has nulls", field.name())));
            }
            Ok((*at, array))
        })
        .collect()
    }
}

/// Values of one column and which of them are null.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) nulls: NullBufferBuilder,
    pub(super) values: Values,
}

/// Values by how they are held, not by what they mean: dates and times are integers here.
#[derive(Debug)]
pub(super) enum Values {
    Bool(BooleanBufferBuilder),
    I32(Vec<i32>),
    I64(Vec<i64>),
    I128(Vec<i128>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Fixed { size: usize, bytes: Vec<u8> },
    Text { offsets: Vec<i32>, bytes: Vec<u8> },
    Binary { offsets: Vec<i64>, bytes: Vec<u8> },
    Struct(Vec<Column>),
    List { offsets: Vec<i32>, items: Box<Column> },
    Map { offsets: Vec<i32>, keys: Box<Column>, items: Box<Column> },
}

impl Column {
    fn new(kind: &DataType) -> Result<Self, ArrowError> {
        let values = match kind {
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(0)),
            DataType::Int32 | DataType::Date32 => Values::I32(Vec::new()),
            DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => Values::I64(Vec::new()),
            DataType::Decimal128(..) => Values::I128(Vec::new()),
            DataType::Float32 => Values::F32(Vec::new()),
            DataType::Float64 => Values::F64(Vec::new()),
            DataType::FixedSizeBinary(size) => Values::Fixed { size: size.unsigned_abs() as usize, bytes: Vec::new() },
            DataType::Utf8 => Values::Text { offsets: vec![0], bytes: Vec::new() },
            DataType::LargeBinary => Values::Binary { offsets: vec![0], bytes: Vec::new() },
            DataType::Struct(fields) => {
                Values::Struct(fields.iter().map(|field| Self::new(field.data_type())).collect::<Result<_, _>>()?)
            }
            DataType::List(element) => {
                Values::List { offsets: vec![0], items: Box::new(Self::new(element.data_type())?) }
            }
            DataType::Map(entries, _) => {
                let (key, value) = map_fields(entries)?;
                let (keys, items) = (Self::new(key.data_type())?, Self::new(value.data_type())?);
                Values::Map { offsets: vec![0], keys: Box::new(keys), items: Box::new(items) }
            }
            kind => return Err(ArrowError::NotYetImplemented(format!("a column of type {kind}"))),
        };
        Ok(Self { nulls: NullBufferBuilder::new(0), values })
    }

    pub(super) fn len(&self) -> usize {
        self.nulls.len()
    }

    fn open_bytes(&self) -> usize {
        let inside = match &self.values {
            Values::Struct(columns) => columns.iter().map(Self::open_bytes).sum(),
            Values::List { items, .. } => items.open_bytes(),
            Values::Map { keys, items, .. } => keys.open_bytes() + items.open_bytes(),
            _ => 0,
        };
        size_of::<Self>() + inside
    }

    pub(super) fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::I32(values) => values.push(0),
            Values::I64(values) => values.push(0),
            Values::I128(values) => values.push(0),
            Values::F32(values) => values.push(0.0),
            Values::F64(values) => values.push(0.0),
            Values::Fixed { size, bytes } => bytes.resize(bytes.len() + *size, 0),
            Values::Text { offsets, .. } | Values::List { offsets, .. } | Values::Map { offsets, .. } => {
                offsets.push(offsets.last().copied().unwrap_or(0));
            }
            Values::Binary { offsets, .. } => offsets.push(offsets.last().copied().unwrap_or(0)),
            Values::Struct(columns) => columns.iter_mut().for_each(Self::push_null),
        }
    }

    /// Cuts to `len` values. Values that were appended without their null bit, or a part of a struct or list, go too.
    pub(super) fn truncate(&mut self, len: usize) {
        self.nulls.truncate(len);
        match &mut self.values {
            Values::Bool(values) => values.truncate(len),
            Values::I32(values) => values.truncate(len),
            Values::I64(values) => values.truncate(len),
            Values::I128(values) => values.truncate(len),
            Values::F32(values) => values.truncate(len),
            Values::F64(values) => values.truncate(len),
            Values::Fixed { size, bytes } => bytes.truncate(len * *size),
            Values::Text { offsets, bytes } => {
                offsets.truncate(len + 1);
                bytes.truncate(last(offsets));
            }
            Values::Binary { offsets, bytes } => {
                offsets.truncate(len + 1);
                bytes.truncate(offsets.last().map_or(0, |end| end.unsigned_abs() as usize));
            }
            Values::Struct(columns) => columns.iter_mut().for_each(|column| column.truncate(len)),
            Values::List { offsets, items } => {
                offsets.truncate(len + 1);
                items.truncate(last(offsets));
            }
            Values::Map { offsets, keys, items } => {
                offsets.truncate(len + 1);
                keys.truncate(last(offsets));
                items.truncate(last(offsets));
            }
        }
    }

    /// Bytes that one value takes beside text, binary and the items of lists: what a null takes at least.
    pub(super) fn width(&self) -> usize {
        match &self.values {
            Values::Bool(_) => 1,
            Values::I32(_) | Values::F32(_) => 4,
            Values::I64(_) | Values::F64(_) => 8,
            Values::I128(_) => 16,
            Values::Fixed { size, .. } => *size,
            Values::Text { .. } | Values::List { .. } | Values::Map { .. } => 5,
            Values::Binary { .. } => 9,
            Values::Struct(columns) => 1 + columns.iter().map(Self::width).sum::<usize>(),
        }
    }

    fn finish(mut self, kind: &DataType) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.finish();
        Ok(match (self.values, kind) {
            (Values::Bool(mut values), _) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            (Values::I32(values), DataType::Date32) => primitive::<Date32Type>(values, nulls, kind)?,
            (Values::I32(values), _) => primitive::<Int32Type>(values, nulls, kind)?,
            (Values::I64(values), DataType::Time64(_)) => primitive::<Time64MicrosecondType>(values, nulls, kind)?,
            (Values::I64(values), DataType::Timestamp(TimeUnit::Nanosecond, _)) => {
                primitive::<TimestampNanosecondType>(values, nulls, kind)?
            }
            (Values::I64(values), DataType::Timestamp(..)) => {
                primitive::<TimestampMicrosecondType>(values, nulls, kind)?
            }
            (Values::I64(values), _) => primitive::<Int64Type>(values, nulls, kind)?,
            (Values::I128(values), _) => primitive::<Decimal128Type>(values, nulls, kind)?,
            (Values::F32(values), _) => primitive::<Float32Type>(values, nulls, kind)?,
            (Values::F64(values), _) => primitive::<Float64Type>(values, nulls, kind)?,
            (Values::Fixed { size, bytes }, _) => {
                let size = i32::try_from(size).map_err(|e| ArrowError::SchemaError(e.to_string()))?;
                Arc::new(FixedSizeBinaryArray::try_new(size, Buffer::from_vec(bytes), nulls)?)
            }
            (Values::Text { offsets, bytes }, _) => {
                Arc::new(StringArray::try_new(to_offsets(offsets), Buffer::from_vec(bytes), nulls)?)
            }
            (Values::Binary { offsets, bytes }, _) => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                Arc::new(LargeBinaryArray::try_new(offsets, Buffer::from_vec(bytes), nulls)?)
            }
            (Values::Struct(columns), DataType::Struct(fields)) => {
                let columns = columns.into_iter().zip(fields).map(|(column, field)| column.finish(field.data_type()));
                Arc::new(StructArray::try_new(fields.clone(), columns.collect::<Result<_, _>>()?, nulls)?)
            }
            (Values::List { offsets, items }, DataType::List(element)) => {
                let items = items.finish(element.data_type())?;
                Arc::new(ListArray::try_new(element.clone(), to_offsets(offsets), items, nulls)?)
            }
            (Values::Map { offsets, keys, items }, DataType::Map(entries, _)) => {
                let (key, value) = map_fields(entries)?;
                let columns = vec![keys.finish(key.data_type())?, items.finish(value.data_type())?];
                let both = StructArray::try_new(vec![key.clone(), value.clone()].into(), columns, None)?;
                Arc::new(MapArray::try_new(entries.clone(), to_offsets(offsets), both, nulls, false)?)
            }
            (_, kind) => return Err(ArrowError::SchemaError(format!("a column of type {kind} has other values"))),
        })
    }
}

fn last(offsets: &[i32]) -> usize {
    offsets.last().map_or(0, |end| end.unsigned_abs() as usize)
}

fn to_offsets(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn map_fields(entries: &Field) -> Result<(&FieldRef, &FieldRef), ArrowError> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Ok((&fields[0], &fields[1])),
        kind => Err(ArrowError::SchemaError(format!("a map's entries are {kind}"))),
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: Option<arrow::buffer::NullBuffer>,
    kind: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let array = PrimitiveArray::<T>::try_new(ScalarBuffer::from(values), nulls)?;
    Ok(Arc::new(array.with_data_type(kind.clone())))
}
