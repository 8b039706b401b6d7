//! Partitions of a table: which one a row belongs to, by any spec over the columns that each table has and those of its
//! values and keys.
//!
//! Owns: [`PartitionKey`] (the values of one partition) and [`Partitioner`] (record → key). [`spec`] says which specs
//! the setting may ask for, [`column`](mod@column) what columns of values may be partitioned by, [`wanted`] what
//! becomes of a spec whose columns are not there yet. Pure.
//!
//! A table that was made without `iceberg.partition.spec` has [`schema::hour_spec`]; its keys, its files' names and its
//! compaction are by hour. Of other specs a key has a value for each field. Where none of these is over a column of
//! values, a record's partition is known before its value is decoded.

use std::fmt;
use std::sync::Arc;

use iceberg::spec::{Datum, Literal, PartitionSpec, PrimitiveLiteral, Schema, Struct, TableMetadata, Transform};
use iceberg::transform::{BoxedTransformFunction, create_transform_function};

use crate::columns::cell::Cell;
use crate::schema::system::SystemColumns;
use crate::schema::{self, HOUR_US};
use crate::translate::rows::Placed;

pub mod column;
pub mod spec;
pub mod wanted;

use column::{TooLong, ValueColumn};
use spec::SystemColumn;

/// Microseconds of a day.
const DAY_US: i64 = 24 * HOUR_US;

/// One value of a partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartitionValue {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Text(String),
    Binary(Vec<u8>),
}

/// The values of one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartitionKey {
    /// Of the spec by hour: hours since 1970.
    Hour(i32),
    /// Of any other spec: its fields' values.
    Fields(Vec<PartitionValue>),
}

/// The folder of a partition's files below `data`. Two partitions may share one: it is a name and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Folder {
    /// `hour=<hours since 1970>`.
    Hour(i32),
    /// `part=<16 hex digits>`, made of the values: they may be bytes that a client chose.
    Part(u64),
}

impl PartitionKey {
    /// The key that a manifest entry's partition is; `None` if it is of no spec of ours. `by_hour`: of the spec by
    /// hour.
    #[must_use]
    pub fn of(partition: &Struct, by_hour: bool) -> Option<Self> {
        let values = partition.iter().map(|value| match value {
            None => Some(PartitionValue::Null),
            Some(Literal::Primitive(value)) => PartitionValue::of(value),
            Some(_) => None,
        });
        let values: Vec<PartitionValue> = values.collect::<Option<_>>()?;
        match (by_hour, values.as_slice()) {
            (false, _) => Some(Self::Fields(values)),
            (true, [PartitionValue::Int(hour)]) => Some(Self::Hour(*hour)),
            (true, _) => None,
        }
    }

    /// As a manifest entry has it.
    #[must_use]
    pub fn to_struct(&self) -> Struct {
        match self {
            Self::Hour(hour) => Struct::from_iter([Some(Literal::int(*hour))]),
            Self::Fields(values) => values.iter().map(PartitionValue::literal).collect(),
        }
    }

    #[must_use]
    pub fn folder(&self) -> Folder {
        match self {
            Self::Hour(hour) => Folder::Hour(*hour),
            Self::Fields(values) => {
                let mut bytes = Vec::new();
                values.iter().for_each(|value| value.write(&mut bytes));
                // FNV-1a.
                Folder::Part(
                    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                    }),
                )
            }
        }
    }
}

impl PartitionValue {
    fn of(value: &PrimitiveLiteral) -> Option<Self> {
        match value {
            PrimitiveLiteral::Boolean(value) => Some(Self::Bool(*value)),
            PrimitiveLiteral::Int(value) => Some(Self::Int(*value)),
            PrimitiveLiteral::Long(value) => Some(Self::Long(*value)),
            PrimitiveLiteral::String(value) => Some(Self::Text(value.clone())),
            PrimitiveLiteral::Binary(value) => Some(Self::Binary(value.clone())),
            _ => None,
        }
    }

    fn literal(&self) -> Option<Literal> {
        match self {
            Self::Null => None,
            Self::Bool(value) => Some(Literal::bool(*value)),
            Self::Int(value) => Some(Literal::int(*value)),
            Self::Long(value) => Some(Literal::long(*value)),
            Self::Text(value) => Some(Literal::string(value)),
            Self::Binary(value) => Some(Literal::binary(value.clone())),
        }
    }

    /// Appends bytes that no other value has, nor a value and what follows it.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(0),
            Self::Int(value) => {
                out.push(1);
                out.extend(value.to_be_bytes());
            }
            Self::Long(value) => {
                out.push(2);
                out.extend(value.to_be_bytes());
            }
            Self::Binary(value) => {
                out.push(3);
                out.extend((value.len() as u64).to_be_bytes());
                out.extend(value);
            }
            Self::Text(value) => {
                out.push(4);
                out.extend((value.len() as u64).to_be_bytes());
                out.extend(value.as_bytes());
            }
            Self::Bool(value) => out.extend([5, u8::from(*value)]),
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour(hour) => write!(f, "hour={hour}"),
            Self::Part(hash) => write!(f, "part={hash:016x}"),
        }
    }
}

impl Folder {
    /// `None` if the name is not one that [`Folder`]'s `Display` gives.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let folder = match name.strip_prefix("hour=") {
            Some(hour) => Self::Hour(hour.parse().ok()?),
            None => Self::Part(u64::from_str_radix(name.strip_prefix("part=")?, 16).ok()?),
        };
        (folder.to_string() == name).then_some(folder)
    }
}

/// Which partition a record belongs to, by one spec of a table.
#[derive(Clone, Debug)]
pub struct Partitioner {
    spec_id: i32,
    /// `None`: by hour.
    fields: Option<Arc<[Field]>>,
    /// Some field is over a column of values or keys.
    needs_values: bool,
}

#[derive(Debug)]
struct Field {
    source: Source,
    transform: Transform,
    /// Iceberg's hash. Of the other functions, it truncates no bytes, and the rest are divisions.
    bucket: Option<BoxedTransformFunction>,
}

/// The column that a field is over.
#[derive(Debug)]
enum Source {
    System(SystemColumn),
    Value(ValueColumn),
}

impl Source {
    /// `None` for a transform that its column may not have, and a column that files cannot be partitioned by.
    fn of(id: i32, transform: Transform, schema: &Schema, system: SystemColumns) -> Option<Self> {
        if let Some(column) = SystemColumn::of_id(system.own(id)) {
            column.check(transform).ok()?;
            return Some(Self::System(column));
        }
        let column = ValueColumn::of_id(schema, id, system)?;
        column.check(transform).ok()?;
        Some(Self::Value(column))
    }
}

impl Partitioner {
    /// By hour, of no table: for dead letters, and where there is none yet.
    #[must_use]
    pub fn by_hour() -> Self {
        Self { spec_id: 0, fields: None, needs_values: false }
    }

    /// By the spec with which a table's files are written: its default one if it is one of those that the setting may
    /// have, else that by hour, if it has had that. `None` if it has neither.
    #[must_use]
    pub fn of_table(metadata: &TableMetadata) -> Option<Self> {
        let by_hour = || schema::find_hour_spec(metadata).and_then(|spec| Self::of_spec(&spec, metadata));
        Self::of_spec(metadata.default_partition_spec(), metadata).or_else(by_hour)
    }

    /// By a spec of the table with this metadata; `None` if it is over other columns, or not of those that the setting
    /// may have.
    #[must_use]
    pub fn of_spec(spec: &PartitionSpec, metadata: &TableMetadata) -> Option<Self> {
        let (spec_id, system) = (spec.spec_id(), SystemColumns::of(metadata));
        if system.is_by_hour(spec) {
            return Some(Self { spec_id, ..Self::by_hour() });
        }
        let field = |field: &iceberg::spec::PartitionField| {
            let source = Source::of(field.source_id, field.transform, metadata.current_schema(), system)?;
            let is_bucket = matches!(field.transform, Transform::Bucket(_));
            let bucket = if is_bucket { Some(create_transform_function(&field.transform).ok()?) } else { None };
            Some(Field { source, transform: field.transform, bucket })
        };
        let fields: Vec<Field> = spec.fields().iter().map(field).collect::<Option<_>>()?;
        let needs_values = fields.iter().any(|field| matches!(field.source, Source::Value(_)));
        Some(Self { spec_id, fields: Some(fields.into()), needs_values })
    }

    /// Which of the table's specs it is.
    #[must_use]
    pub fn spec_id(&self) -> i32 {
        self.spec_id
    }

    #[must_use]
    pub fn is_by_hour(&self) -> bool {
        self.fields.is_none()
    }

    /// Whether a record's partition depends on columns of its value or key ([`Partitioner::key_of_row`]).
    #[must_use]
    pub fn needs_values(&self) -> bool {
        self.needs_values
    }

    /// The key that a manifest entry's partition is, in the types that the columns have now: an int that its owner has
    /// widened is one in older entries. `None` if it is of no spec of ours.
    #[must_use]
    pub fn key_of_entry(&self, partition: &Struct) -> Option<PartitionKey> {
        let mut key = PartitionKey::of(partition, self.is_by_hour())?;
        if let (PartitionKey::Fields(values), Some(fields)) = (&mut key, &self.fields) {
            for (value, field) in values.iter_mut().zip(fields.iter()) {
                if let (PartitionValue::Int(held), true) = (&*value, field.is_long()) {
                    *value = PartitionValue::Long(i64::from(*held));
                }
            }
        }
        Some(key)
    }

    /// The partition of a record whose value and key are not decoded: columns of them are null.
    #[must_use]
    pub fn key(&self, placed: &Placed<'_>) -> PartitionKey {
        let value = |field: &Field| match &field.source {
            Source::System(column) => field.value(*column, placed),
            Source::Value(_) => PartitionValue::Null,
        };
        match &self.fields {
            None => PartitionKey::Hour(hour_of(placed)),
            Some(fields) => PartitionKey::Fields(fields.iter().map(value).collect()),
        }
    }

    /// The partition of a record that is a row; `cell` gives the row's value in the column at a path.
    ///
    /// # Errors
    /// A value is too long for metadata.
    pub fn key_of_row<'a>(
        &self,
        placed: &Placed<'_>,
        cell: impl Fn(&[usize]) -> Option<Cell<'a>>,
    ) -> Result<PartitionKey, TooLong> {
        let value = |field: &Field| match &field.source {
            Source::System(column) => Ok(field.value(*column, placed)),
            Source::Value(column) => column.value(cell(column.path()), field.transform, field.bucket.as_ref()),
        };
        match &self.fields {
            None => Ok(PartitionKey::Hour(hour_of(placed))),
            Some(fields) => Ok(PartitionKey::Fields(fields.iter().map(value).collect::<Result<_, _>>()?)),
        }
    }
}

/// The bucket of a value, of a type that has a hash.
fn bucket_of(bucket: &BoxedTransformFunction, value: &Datum) -> PartitionValue {
    match bucket.transform_literal(value).map(|value| value.as_ref().map(Datum::literal).cloned()) {
        Ok(Some(PrimitiveLiteral::Int(bucket))) => PartitionValue::Int(bucket),
        other => unreachable!("{value} has a hash: {other:?}"),
    }
}

impl Field {
    /// Whether its values are those of a column of type long.
    fn is_long(&self) -> bool {
        let is_of_column = matches!(self.transform, Transform::Identity | Transform::Truncate(_));
        is_of_column && matches!(&self.source, Source::Value(column) if column.is_long())
    }

    /// What a record has in a field over a column that each table has. Iceberg specification, "Partition Transforms".
    fn value(&self, column: SystemColumn, placed: &Placed<'_>) -> PartitionValue {
        match (&self.bucket, column) {
            (Some(bucket), column) => {
                column.datum(placed).map_or(PartitionValue::Null, |source| bucket_of(bucket, &source))
            }
            (None, SystemColumn::Timestamp) => PartitionValue::Int(time(self.transform, placed.micros)),
            (None, SystemColumn::Partition) if self.transform == Transform::Identity => {
                PartitionValue::Int(placed.partition.0)
            }
            (None, SystemColumn::Partition) => {
                let partition = placed.partition.0;
                let Ok(width) = i32::try_from(self.width()) else { unreachable!("checked: {:?}", self.transform) };
                PartitionValue::Int(partition - partition.rem_euclid(width))
            }
            (None, SystemColumn::Offset) => {
                let offset = placed.record.offset.to_wire();
                PartitionValue::Long(offset - offset.rem_euclid(i64::from(self.width())))
            }
            (None, SystemColumn::Key) => placed.record.key.as_ref().map_or(PartitionValue::Null, |key| {
                PartitionValue::Binary(key.get(..self.width() as usize).unwrap_or(key).to_vec())
            }),
        }
    }

    /// Of a truncation.
    fn width(&self) -> u32 {
        match self.transform {
            Transform::Truncate(width) if width > 0 => width,
            other => unreachable!("{:?} passed its check with {other}", self.source),
        }
    }
}

/// Years, months, days or hours between 1970 and a time in microseconds, rounded down.
fn time(transform: Transform, micros: i64) -> i32 {
    let days = micros.div_euclid(DAY_US);
    // Days since the first of March of year 0, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let month = (5 * (day - (365 * year + year / 4 - year / 100)) + 2) / 153;
    // Months since January of 1970; `month` counts from March.
    let months = (era * 400 + year) * 12 + month + 2 - 1970 * 12;
    let since = match transform {
        Transform::Year => months.div_euclid(12),
        Transform::Month => months,
        Transform::Day => days,
        _ => micros.div_euclid(HOUR_US),
    };
    i32::try_from(since).unwrap_or(i32::MAX)
}

/// The hour of a record.
#[must_use]
pub fn hour_of(placed: &Placed<'_>) -> i32 {
    i32::try_from(placed.micros.div_euclid(HOUR_US)).unwrap_or(i32::MAX)
}

/// Whether the transform is of time.
pub(crate) fn is_time(transform: Transform) -> bool {
    matches!(transform, Transform::Year | Transform::Month | Transform::Day | Transform::Hour)
}

#[cfg(test)]
mod tests;
