//! [`ValueColumn`]: a column of values or keys that a table is partitioned by: which transforms it may have, and what a
//! row has for one. Pure.
//!
//! Refused are, beside what Iceberg does not allow, transforms of which each value of the column may be a partition of
//! its own (times and floating point as they are), and those whose values iceberg 0.10 cannot write into a manifest
//! (decimals, UUIDs and `fixed` as they are, decimals cut).

use iceberg::spec::{Datum, PrimitiveType, Schema, StructType, Transform, Type};
use iceberg::transform::BoxedTransformFunction;

use super::spec::BUCKETS_MAX;
use super::{DAY_US, PartitionValue, bucket_of, time};
use crate::columns::cell::Cell;
use crate::schema::system::SystemColumns;

/// Bytes of a partition's value that is text or binary at most: it stands in the manifest entry of each file, and in
/// each manifest list.
pub const VALUE_BYTES_MAX: usize = 128;
/// Characters that text may be cut to: each has four bytes at most.
const CHARS_MAX: u32 = 32;

/// A column of values or keys, outside of lists and maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueColumn {
    /// As SQL has it: `address.city`.
    name: String,
    /// Index among the table's top-level fields, then of a field of each struct below.
    path: Vec<usize>,
    kind: PrimitiveType,
}

/// Why a row has no partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "column {column} has {bytes} bytes; the table is partitioned by it as it is, and takes at most {VALUE_BYTES_MAX}"
)]
pub struct TooLong {
    pub column: String,
    /// Index of the column, or of the struct that it is in, among the table's top-level fields.
    pub top: usize,
    pub bytes: usize,
}

impl ValueColumn {
    /// The column of `schema` with this field id; `None` if it is no column of values or keys, has several values in a
    /// row, or is not there.
    #[must_use]
    pub fn of_id(schema: &Schema, id: i32, system: SystemColumns) -> Option<Self> {
        let mut path = Vec::new();
        let kind = find(schema.as_struct(), id, &mut path)?;
        let top = schema.as_struct().fields().get(*path.first()?)?;
        let name = schema.name_by_field_id(id)?.to_owned();
        (!system.is_own(top.id)).then_some(Self { name, path, kind })
    }

    /// The column that SQL calls `name`, in any case, and its field id.
    ///
    /// # Errors
    /// Why a table with this schema cannot be partitioned by it.
    pub fn of_name(schema: &Schema, name: &str, system: SystemColumns) -> Result<(i32, Self), String> {
        let none = || format!("the table has no column {name} yet");
        let field = schema.field_by_name(name).or_else(|| schema.field_by_name_case_insensitive(name));
        let field = field.filter(|field| !system.is_own(field.id)).ok_or_else(none)?;
        if !matches!(*field.field_type, Type::Primitive(_)) {
            return Err(format!("column {name} has parts, and a table can be partitioned by one of these alone"));
        }
        let column = Self::of_id(schema, field.id, system);
        let column = column.ok_or_else(|| format!("column {name} is in a list or a map"))?;
        Ok((field.id, column))
    }

    #[must_use]
    pub fn path(&self) -> &[usize] {
        &self.path
    }

    fn top(&self) -> usize {
        self.path.first().copied().expect("a path names a column")
    }

    pub(super) fn is_long(&self) -> bool {
        self.kind == PrimitiveType::Long
    }

    /// Checks that a spec may have this transform of the column.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, transform: Transform) -> Result<(), String> {
        use PrimitiveType as Kind;
        let is_timestamp =
            matches!(self.kind, Kind::Timestamp | Kind::Timestamptz | Kind::TimestampNs | Kind::TimestamptzNs);
        let fits = match transform {
            Transform::Identity => {
                matches!(self.kind, Kind::Boolean | Kind::Int | Kind::Long | Kind::Date | Kind::String | Kind::Binary)
            }
            Transform::Bucket(count) => {
                (1..=BUCKETS_MAX).contains(&count) && !matches!(self.kind, Kind::Boolean | Kind::Float | Kind::Double)
            }
            Transform::Truncate(width) => width >= 1 && width <= self.widest(),
            Transform::Year | Transform::Month | Transform::Day => is_timestamp || self.kind == Kind::Date,
            Transform::Hour => is_timestamp,
            _ => false,
        };
        let buckets = format!("bucket(1 to {BUCKETS_MAX}, …)");
        let may = match &self.kind {
            Kind::Date => format!("itself, year, month, day or {buckets}"),
            _ if is_timestamp => format!("year, month, day, hour or {buckets}"),
            Kind::Boolean => "itself".to_owned(),
            Kind::Int | Kind::Long => format!("itself, {buckets} or truncate(width, …)"),
            Kind::String | Kind::Binary => format!("itself, {buckets} or truncate(1 to {}, …)", self.widest()),
            Kind::Float | Kind::Double => "nothing".to_owned(),
            _ => buckets,
        };
        let (name, kind) = (&self.name, &self.kind);
        if fits {
            Ok(())
        } else {
            Err(format!("column {name} is {kind}, of which a table can be partitioned by {may}"))
        }
    }

    /// The greatest width that the column can be truncated to; 0 if it cannot be.
    fn widest(&self) -> u32 {
        match self.kind {
            PrimitiveType::Int | PrimitiveType::Long => i32::MAX as u32,
            PrimitiveType::String => CHARS_MAX,
            PrimitiveType::Binary => VALUE_BYTES_MAX as u32,
            _ => 0,
        }
    }

    /// What a row with `cell` in the column has in a field with a transform that passed its check. Iceberg
    /// specification, "Partition Transforms".
    ///
    /// # Errors
    /// The value is too long for metadata.
    pub(super) fn value(
        &self,
        cell: Option<Cell<'_>>,
        transform: Transform,
        bucket: Option<&BoxedTransformFunction>,
    ) -> Result<PartitionValue, TooLong> {
        let Some(cell) = cell else { return Ok(PartitionValue::Null) };
        if let Some(bucket) = bucket {
            return Ok(bucket_of(bucket, &self.hashed(cell)));
        }
        Ok(match (cell, transform) {
            (Cell::Bool(value), Transform::Identity) => PartitionValue::Bool(value),
            (Cell::Int(value), Transform::Identity) => PartitionValue::Int(value),
            (Cell::Long(value), Transform::Identity) => PartitionValue::Long(value),
            (Cell::Bytes(value), Transform::Identity) if value.len() > VALUE_BYTES_MAX => {
                return Err(TooLong { column: self.name.clone(), top: self.top(), bytes: value.len() });
            }
            (Cell::Bytes(value), Transform::Identity) => self.bytes(value),
            // Near the least value there is no multiple below: as in Iceberg's own libraries, it is that of the type's
            // arithmetic.
            (Cell::Int(value), Transform::Truncate(width)) => {
                PartitionValue::Int(value.wrapping_sub(value.rem_euclid(width.cast_signed())))
            }
            (Cell::Long(value), Transform::Truncate(width)) => {
                PartitionValue::Long(value.wrapping_sub(value.rem_euclid(i64::from(width))))
            }
            (Cell::Bytes(value), Transform::Truncate(width)) => self.bytes(self.cut(value, width as usize)),
            (Cell::Int(days), _) => PartitionValue::Int(time(transform, i64::from(days) * DAY_US)),
            (Cell::Long(at), _) => PartitionValue::Int(time(transform, self.micros(at))),
            (cell, transform) => unreachable!("{} passed its check with {transform}: {cell:?}", self.name),
        })
    }

    /// The first `width` characters of text, or bytes.
    fn cut<'a>(&self, value: &'a [u8], width: usize) -> &'a [u8] {
        let end = match self.kind {
            // A byte that goes on with a character begins none.
            PrimitiveType::String => {
                let starts = value.iter().enumerate().filter(|(_, byte)| **byte & 0xc0 != 0x80);
                starts.map(|(at, _)| at).nth(width)
            }
            _ => Some(width),
        };
        end.and_then(|end| value.get(..end)).unwrap_or(value)
    }

    fn bytes(&self, value: &[u8]) -> PartitionValue {
        match self.kind {
            PrimitiveType::String => {
                let text = std::str::from_utf8(value);
                PartitionValue::Text(text.expect("columns of text hold text, cut between characters").to_owned())
            }
            _ => PartitionValue::Binary(value.to_vec()),
        }
    }

    /// A timestamp in microseconds.
    fn micros(&self, at: i64) -> i64 {
        match self.kind {
            PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => at.div_euclid(1000),
            _ => at,
        }
    }

    /// A value with the hash of this one: Iceberg hashes integers, dates and times as long, all others as bytes.
    fn hashed(&self, cell: Cell<'_>) -> Datum {
        match cell {
            Cell::Int(value) => Datum::long(i64::from(value)),
            Cell::Long(value) => Datum::long(self.micros(value)),
            Cell::Bytes(value) => Datum::binary(value.iter().copied()),
            // As few bytes as hold it with its sign.
            Cell::Decimal(value) => {
                let bytes = value.to_be_bytes();
                let is_spare = |pair: &[u8]| match pair {
                    [0, next] => next & 0x80 == 0,
                    [0xff, next] => next & 0x80 != 0,
                    _ => false,
                };
                let spare = bytes.windows(2).take_while(|pair| is_spare(pair)).count();
                Datum::binary(bytes.into_iter().skip(spare))
            }
            Cell::Bool(_) => unreachable!("{} passed its check, and has no hash", self.name),
        }
    }
}

/// The type of the value with field id `id`; `path` becomes the way to it through structs.
fn find(within: &StructType, id: i32, path: &mut Vec<usize>) -> Option<PrimitiveType> {
    for (at, field) in within.fields().iter().enumerate() {
        path.push(at);
        match &*field.field_type {
            Type::Primitive(kind) if field.id == id => return Some(kind.clone()),
            Type::Struct(inner) => {
                if let Some(kind) = find(inner, id, path) {
                    return Some(kind);
                }
            }
            _ => {}
        }
        path.pop();
    }
    None
}

#[cfg(test)]
mod tests {
    use iceberg::spec::{NestedField, PrimitiveLiteral};
    use iceberg::transform::create_transform_function;
    use proptest::prelude::*;

    use super::*;

    fn column(kind: PrimitiveType) -> ValueColumn {
        ValueColumn { name: "c".to_owned(), path: vec![1], kind }
    }

    fn value(kind: PrimitiveType, transform: Transform, cell: Cell<'_>) -> PartitionValue {
        let column = column(kind);
        column.check(transform).expect("fits");
        let bucket =
            matches!(transform, Transform::Bucket(_)).then(|| create_transform_function(&transform).expect("is one"));
        column.value(Some(cell), transform, bucket.as_ref()).expect("short")
    }

    #[test]
    fn columns_are_found_by_the_path_that_sql_has() {
        let list = iceberg::spec::ListType::new(
            NestedField::list_element(26, Type::Primitive(PrimitiveType::Int), true).into(),
        );
        let inner = StructType::new(vec![
            NestedField::optional(24, "zip", Type::Primitive(PrimitiveType::Long)).into(),
            NestedField::optional(25, "City", Type::Primitive(PrimitiveType::String)).into(),
        ]);
        let values = [
            NestedField::optional(20, "address", Type::Struct(inner)).into(),
            NestedField::optional(21, "tags", Type::List(list)).into(),
        ];
        let fields = SystemColumns::default().fields().into_iter().chain(values);
        let schema = Schema::builder().with_fields(fields).build().expect("a schema");
        let (id, found) = ValueColumn::of_name(&schema, "address.city", SystemColumns::default()).expect("is there");
        assert_eq!(
            (id, found.path(), &found.kind, &*found.name),
            (25, &[1, 1][..], &PrimitiveType::String, "address.City")
        );
        for (name, part) in [
            ("city", "no column city yet"),
            ("tidewater", "no column tidewater yet"),
            ("address", "has parts"),
            ("tags", "has parts"),
            ("tags.element", "in a list or a map"),
            ("tidewater.partition", "no column tidewater.partition yet"),
        ] {
            let refused = ValueColumn::of_name(&schema, name, SystemColumns::default()).expect_err("none");
            assert!(refused.contains(part), "{name}: {refused}");
        }
    }

    #[test]
    fn a_transform_that_does_not_fit_says_what_does() {
        use PrimitiveType as Kind;
        for (kind, transform, part) in [
            (Kind::Double, Transform::Identity, "by nothing"),
            (Kind::Timestamptz, Transform::Identity, "year, month, day, hour or bucket"),
            (Kind::Date, Transform::Hour, "itself, year, month, day"),
            (Kind::Long, Transform::Month, "itself, bucket(1 to 128, …) or truncate(width, …)"),
            (Kind::Long, Transform::Truncate(0), "truncate(width, …)"),
            (Kind::String, Transform::Truncate(33), "truncate(1 to 32, …)"),
            (Kind::Binary, Transform::Truncate(129), "truncate(1 to 128, …)"),
            (Kind::Boolean, Transform::Bucket(4), "by itself"),
            (Kind::Uuid, Transform::Identity, "by bucket"),
            (Kind::Decimal { precision: 9, scale: 2 }, Transform::Truncate(10), "by bucket"),
            (Kind::Int, Transform::Bucket(129), "itself, bucket(1 to 128"),
        ] {
            let refused = column(kind).check(transform).expect_err("refused");
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn values_are_those_of_the_specification() {
        use PartitionValue as Is;
        use PrimitiveType as Kind;
        // Appendix B: of 34, of "iceberg", of 14.20, of a UUID, of 2017-11-16, of 22:31:08.
        let bucket = |hash: i32| Is::Int((hash & i32::MAX) % 100);
        let of = Transform::Bucket(100);
        assert_eq!(value(Kind::Int, of, Cell::Int(34)), bucket(2_017_239_379));
        assert_eq!(value(Kind::Long, of, Cell::Long(34)), bucket(2_017_239_379));
        assert_eq!(value(Kind::String, of, Cell::Bytes(b"iceberg")), bucket(1_210_000_089));
        assert_eq!(value(Kind::Decimal { precision: 9, scale: 2 }, of, Cell::Decimal(1420)), bucket(-500_754_589));
        let uuid = 0xf79c_3e09_677c_4bbd_a479_3f34_9cb7_85e7_u128.to_be_bytes();
        assert_eq!(value(Kind::Uuid, of, Cell::Bytes(&uuid)), bucket(1_488_055_340));
        assert_eq!(value(Kind::Date, of, Cell::Int(17_486)), bucket(-653_330_422));
        assert_eq!(value(Kind::Time, of, Cell::Long(81_068_000_000)), bucket(-662_762_989));
        let at = 1_510_871_468_000_000;
        assert_eq!(value(Kind::Timestamptz, of, Cell::Long(at)), bucket(-2_047_944_441));
        assert_eq!(value(Kind::TimestampNs, of, Cell::Long(at * 1000)), bucket(-2_047_944_441));
        assert_eq!(value(Kind::Fixed(4), of, Cell::Bytes(&[0, 1, 2, 3])), bucket(-188_683_207));
        assert_eq!(value(Kind::Timestamp, Transform::Hour, Cell::Long(at)), Is::Int(419_686));
        assert_eq!(value(Kind::TimestamptzNs, Transform::Month, Cell::Long(at * 1000)), Is::Int(574));
        assert_eq!(value(Kind::Date, Transform::Year, Cell::Int(-1)), Is::Int(-1));
        assert_eq!(value(Kind::Int, Transform::Truncate(10), Cell::Int(-1)), Is::Int(-10));
        assert_eq!(value(Kind::Long, Transform::Truncate(10), Cell::Long(19)), Is::Long(10));
        assert_eq!(
            value(Kind::String, Transform::Truncate(3), Cell::Bytes("aβγδ".as_bytes())),
            Is::Text("aβγ".to_owned())
        );
        assert_eq!(value(Kind::Binary, Transform::Truncate(3), Cell::Bytes(&[1, 2])), Is::Binary(vec![1, 2]));
        assert_eq!(column(Kind::Long).value(None, Transform::Identity, None), Ok(Is::Null));
        let long = "x".repeat(129);
        let refused = column(Kind::String).value(Some(Cell::Bytes(long.as_bytes())), Transform::Identity, None);
        assert_eq!(refused, Err(TooLong { column: "c".to_owned(), top: 1, bytes: 129 }));
    }

    proptest! {
        #[test]
        fn numbers_and_text_become_what_iceberg_makes_of_them(
            long: i64, int: i32, text in "\\PC{0,40}", width in 1..33_u32, days in -700_000..2_900_000_i32,
        ) {
            let theirs = |transform: Transform, of: Datum| {
                let function = create_transform_function(&transform).expect("is one");
                function.transform_literal(&of).expect("fits").map(|it| it.literal().clone())
            };
            let ours = |kind, transform, cell| match value(kind, transform, cell).literal() {
                Some(iceberg::spec::Literal::Primitive(literal)) => Some(literal),
                other => panic!("{other:?}"),
            };
            let bucket = Transform::Bucket(width);
            prop_assert_eq!(ours(PrimitiveType::Long, bucket, Cell::Long(long)), theirs(bucket, Datum::long(long)));
            prop_assert_eq!(ours(PrimitiveType::Int, bucket, Cell::Int(int)), theirs(bucket, Datum::int(int)));
            let cell = Cell::Bytes(text.as_bytes());
            prop_assert_eq!(ours(PrimitiveType::String, bucket, cell), theirs(bucket, Datum::string(&text)));
            let cut = Transform::Truncate(width);
            prop_assert_eq!(ours(PrimitiveType::String, cut, cell), theirs(cut, Datum::string(&text)));
            let date = Datum::date(days);
            for by in [Transform::Year, Transform::Month, Transform::Day] {
                let found = match theirs(by, date.clone()) {
                    Some(PrimitiveLiteral::Int(found)) => found,
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(value(PrimitiveType::Date, by, Cell::Int(days)), PartitionValue::Int(found));
            }
        }
    }
}
