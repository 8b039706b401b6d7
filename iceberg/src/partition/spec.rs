//! [`PartitionChoice`]: the specs that `iceberg.partition.spec` may ask for, read from text. Pure.
//!
//! `(hour(tidewater.timestamp))`, `(day(tidewater.timestamp), country, bucket(16, customer.id))`, `()`: transforms in
//! the order of the fields, over the columns that each table has and, by the names that SQL has for them, columns of
//! values and keys. What the former may not have is refused here: a partition for each record, and values of any length
//! in metadata. Of the latter, transforms are checked once the columns are there ([`super::column`]);
//! [`super::wanted`] says what becomes of the spec until then.

use std::fmt;

use iceberg::spec::{Datum, Transform};

use super::is_time;
use crate::bounds::BOUND_BYTES_MAX;
use crate::schema::ids;
use crate::translate::rows::Placed;

/// Buckets at most: a turn opens 256 partitions, so one that crosses an hour or a day has room for the buckets of both.
pub const BUCKETS_MAX: u32 = 128;
/// Fields of a spec at most.
const FIELDS_MAX: usize = 8;
/// Bytes of a column's name with those of the structs that it is in, at most.
const NAME_BYTES_MAX: usize = 512;
/// What the names of the columns that each table has begin with.
const SYSTEM: &str = "tidewater.";

/// A column that each table has, by which it may be partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SystemColumn {
    Partition,
    Offset,
    Timestamp,
    Key,
}

impl SystemColumn {
    const ALL: [Self; 4] = [Self::Partition, Self::Offset, Self::Timestamp, Self::Key];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Offset => "offset",
            Self::Timestamp => "timestamp",
            Self::Key => "key",
        }
    }

    #[must_use]
    pub fn id(self) -> i32 {
        match self {
            Self::Partition => ids::PARTITION,
            Self::Offset => ids::OFFSET,
            Self::Timestamp => ids::TIMESTAMP,
            Self::Key => ids::KEY,
        }
    }

    /// The column with this field id.
    #[must_use]
    pub fn of_id(id: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.id() == id)
    }

    fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix(SYSTEM)?;
        Self::ALL.into_iter().find(|column| column.name() == name)
    }

    /// Checks that a spec may have this transform of the column.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, transform: Transform) -> Result<(), String> {
        let fits = match (self, transform) {
            (Self::Timestamp, transform) => is_time(transform),
            (Self::Partition, Transform::Identity) => true,
            (Self::Key, Transform::Truncate(width)) => (1..=BOUND_BYTES_MAX).contains(&(width as usize)),
            (Self::Partition | Self::Offset, Transform::Truncate(width)) => (1..=i32::MAX as u32).contains(&width),
            (Self::Partition | Self::Offset | Self::Key, Transform::Bucket(count)) => {
                (1..=BUCKETS_MAX).contains(&count)
            }
            _ => false,
        };
        let may = match self {
            Self::Timestamp => "year, month, day or hour".to_owned(),
            Self::Partition => format!("itself, bucket(1 to {BUCKETS_MAX}, …) or truncate(width, …)"),
            Self::Offset => format!("bucket(1 to {BUCKETS_MAX}, …) or truncate(width, …)"),
            Self::Key => format!("bucket(1 to {BUCKETS_MAX}, …) or truncate(1 to {BOUND_BYTES_MAX}, …)"),
        };
        if fits { Ok(()) } else { Err(format!("a table can be partitioned by {may} of {self}")) }
    }

    /// What a record has in the column.
    pub(super) fn datum(self, placed: &Placed<'_>) -> Option<Datum> {
        match self {
            Self::Partition => Some(Datum::int(placed.partition.0)),
            Self::Offset => Some(Datum::long(placed.record.offset.to_wire())),
            Self::Timestamp => Some(Datum::timestamptz_micros(placed.micros)),
            Self::Key => placed.record.key.as_ref().map(|key| Datum::binary(key.iter().copied())),
        }
    }
}

impl fmt::Display for SystemColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tidewater.{}", self.name())
    }
}

/// A column that a field of a spec is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecColumn {
    System(SystemColumn),
    /// Of values or keys: its name in SQL, with those of the structs that it is in.
    Value(String),
}

impl fmt::Display for SpecColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(column) => column.fmt(f),
            Self::Value(name) => f.write_str(name),
        }
    }
}

/// The partition spec that a table is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionChoice(Vec<(SpecColumn, Transform)>);

impl Default for PartitionChoice {
    /// `(hour(tidewater.timestamp))`.
    fn default() -> Self {
        Self(vec![(SpecColumn::System(SystemColumn::Timestamp), Transform::Hour)])
    }
}

impl fmt::Display for PartitionChoice {
    /// As [`PartitionChoice::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (at, (column, transform)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            match transform {
                Transform::Identity => write!(f, "{comma}{column}")?,
                Transform::Bucket(n) => write!(f, "{comma}bucket({n}, {column})")?,
                Transform::Truncate(n) => write!(f, "{comma}truncate({n}, {column})")?,
                time => write!(f, "{comma}{time}({column})")?,
            }
        }
        f.write_str(")")
    }
}

/// Names of columns that differ in case alone are the same, as for engines.
fn is_same_column(a: &SpecColumn, b: &SpecColumn) -> bool {
    match (a, b) {
        (SpecColumn::Value(a), SpecColumn::Value(b)) => a.to_lowercase() == b.to_lowercase(),
        (a, b) => a == b,
    }
}

impl PartitionChoice {
    /// Reads a spec, as in the header.
    ///
    /// # Errors
    /// `text` is no spec, or none that a table can have; what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || "a list such as (day(tidewater.timestamp), bucket(16, tidewater.key)), or ()".to_owned();
        let inside = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')')).ok_or_else(form)?;
        let mut fields: Vec<(SpecColumn, Transform)> = Vec::new();
        for term in split(inside).ok_or_else(form)? {
            let (column, transform) = parse_field(term)?;
            check(&column, transform)?;
            let is_like = |(held, of): &(SpecColumn, Transform)| {
                let same_kind = std::mem::discriminant(of) == std::mem::discriminant(&transform);
                is_same_column(held, &column) && (same_kind || (is_time(*of) && is_time(transform)))
            };
            if fields.iter().any(is_like) {
                return Err(format!("two fields of the same kind of {column}: leave one out"));
            }
            fields.push((column, transform));
        }
        if fields.len() > FIELDS_MAX {
            return Err(format!("{} fields, at most {FIELDS_MAX} are taken", fields.len()));
        }
        Ok(Self(fields))
    }

    pub(super) fn fields(&self) -> &[(SpecColumn, Transform)] {
        &self.0
    }

    /// With other names of the columns of values.
    pub(super) fn map_values(&self, name: impl Fn(&str) -> String) -> Self {
        let column = |column: &SpecColumn| match column {
            SpecColumn::Value(held) => SpecColumn::Value(name(held)),
            system @ SpecColumn::System(_) => system.clone(),
        };
        Self(self.0.iter().map(|(held, transform)| (column(held), *transform)).collect())
    }
}

/// Checks what can be known of a transform before the column is there.
fn check(column: &SpecColumn, transform: Transform) -> Result<(), String> {
    match (column, transform) {
        (SpecColumn::System(column), transform) => column.check(transform),
        (SpecColumn::Value(_), Transform::Bucket(count)) if !(1..=BUCKETS_MAX).contains(&count) => {
            Err(format!("a table can be partitioned by bucket(1 to {BUCKETS_MAX}, …) of {column}"))
        }
        (SpecColumn::Value(_), Transform::Truncate(width)) if !(1..=i32::MAX as u32).contains(&width) => {
            Err(format!("a table can be partitioned by truncate(width, …) of {column} with a width of at least 1"))
        }
        (SpecColumn::Value(_), _) => Ok(()),
    }
}

/// Splits at commas outside of parentheses; `None` if those do not match.
fn split(text: &str) -> Option<Vec<&str>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let (mut terms, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth = depth.checked_add(1)?,
            ')' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                terms.push(text.get(from..at)?.trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    terms.push(text.get(from..)?.trim());
    (depth == 0).then_some(terms)
}

fn parse_field(term: &str) -> Result<(SpecColumn, Transform), String> {
    let Some((name, inside)) = term.strip_suffix(')').and_then(|term| term.split_once('(')) else {
        return Ok((parse_column(term, "partitioned")?, Transform::Identity));
    };
    let unknown = || {
        format!("{term:?} is none of year(c), month(c), day(c), hour(c), bucket(n, c), truncate(n, c) and c, a column")
    };
    let transform = match name.trim().to_ascii_lowercase().as_str() {
        "identity" => Transform::Identity,
        "year" => Transform::Year,
        "month" => Transform::Month,
        "day" => Transform::Day,
        "hour" => Transform::Hour,
        name @ ("bucket" | "truncate") => {
            let (number, column) = inside.split_once(',').ok_or_else(unknown)?;
            let number = number.trim().parse().map_err(|_| unknown())?;
            let transform = if name == "bucket" { Transform::Bucket(number) } else { Transform::Truncate(number) };
            return Ok((parse_column(column, "partitioned")?, transform));
        }
        _ => return Err(unknown()),
    };
    Ok((parse_column(inside, "partitioned")?, transform))
}

/// Reads the name of a column by which a table is to be `made`: partitioned or sorted.
pub(crate) fn parse_column(text: &str, made: &str) -> Result<SpecColumn, String> {
    let text = text.trim();
    if text.starts_with(SYSTEM) {
        let names = SystemColumn::ALL.map(|column| column.to_string()).join(", ");
        let column = SystemColumn::parse(text).map(SpecColumn::System);
        return column.ok_or_else(|| format!("{text:?} is no column that a table can be {made} by; those are {names}"));
    }
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '(' | ')' | ',' | '"' | '\'' | '`');
    let is_name = |part: &str| !part.is_empty() && part.chars().all(is_plain);
    if text.len() <= NAME_BYTES_MAX && text.split('.').all(is_name) {
        return Ok(SpecColumn::Value(text.to_owned()));
    }
    Err(format!("{text:?} is no name of a column, such as country or address.city"))
}
