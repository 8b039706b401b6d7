//! [`Decoding`]: what becomes of keys and values of each schema, for a table as it is at one moment.
//!
//! Owns: the layouts of the table's columns, a [`Verdict`] for each type of keys and values that has come up, the
//! offsets that are dead letters already. Does not own: asking the registry, changing the table (`sink::typed`). Pure.
//! *Message*.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use iceberg::spec::{Schema, TableMetadata};
use tidewater_storage::model::record::Record;
use tidewater_storage::model::{Offset, OffsetRange, PartitionIndex};
use uuid::Uuid;

use super::framing::{self, Framed, Naming, Part, Written, WrittenWith};
use super::rows::{self, Placed};
use super::value_schema::ValueDecoder;
use crate::columns::build::Layout;
use crate::columns::map::{self, ColumnMap};
use crate::columns::protobuf::path::MessagePath;
use crate::plan::Offsets;
use crate::schema::file::FileSchema;
use crate::schema::ids;
use crate::schema::system::SystemColumns;

/// Verdicts kept at most: one may hold a decoder of a thousand columns. Beyond that all are found again. More than
/// those that are found at once, so that a turn gets on.
const VERDICTS_MAX: usize = 1_000;

/// What a key or value is of: a schema, and a message of that where values say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueType {
    pub part: Part,
    pub with: WrittenWith,
    pub message: Option<MessagePath>,
}

impl std::fmt::Display for ValueType {
    /// Begins with [`KEY`] if it is of keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(prefix(self.part))?;
        match self.message {
            None => self.with.fmt(f),
            Some(path) if path == MessagePath::FIRST => self.with.fmt(f),
            Some(path) => write!(f, "{}, message {path}", self.with),
        }
    }
}

/// What the reason of a dead letter begins with if it is about the record's key.
pub const KEY: &str = "key: ";

/// What the reason of a dead letter about this part begins with.
pub(super) fn prefix(part: Part) -> &'static str {
    match part {
        Part::Key => KEY,
        Part::Value => "",
    }
}

/// What becomes of values of one type.
#[derive(Debug)]
pub enum Verdict {
    Rows(ValueDecoder),
    /// Dead letters; why.
    Dead(Arc<str>),
    /// The same, but only for records below these offsets, which were there before the registry was asked.
    Unknown(Arc<Offsets>),
}

/// What becomes of one part of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate<'a> {
    /// No columns are made of it: it is null, or bytes.
    Plain,
    /// Its type has a decoder.
    Decoded(ValueType, &'a [u8]),
    /// Its type has no verdict yet.
    Undecided,
    Dead {
        schema: Option<i32>,
        why: String,
    },
}

/// Whether values are columns, or bytes in the column `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValuesAs {
    Bytes,
    Columns,
}

/// The columns of rows, beside the system columns.
#[derive(Clone, Debug)]
pub struct Layouts {
    /// Of keys.
    pub key: Arc<Layout>,
    pub value: ValueLayout,
}

/// The columns of values.
#[derive(Clone, Debug)]
pub enum ValueLayout {
    /// `value`, which has this index among the table's top-level fields.
    Bytes(usize),
    Columns(Arc<Layout>),
}

impl Layouts {
    /// # Errors
    /// The table has a type that Arrow lacks, a damaged column map, or no `value` for values that are bytes.
    fn of(metadata: &TableMetadata, values: ValuesAs) -> iceberg::Result<Self> {
        let unfit = |why: String| iceberg::Error::new(iceberg::ErrorKind::FeatureUnsupported, why);
        let (schema, system): (&Schema, _) = (metadata.current_schema(), SystemColumns::of(metadata));
        let map = metadata.properties().get(map::PROPERTY).map(|text| ColumnMap::parse(text)).transpose();
        let map = map.map_err(|e| unfit(e.to_string()))?.unwrap_or_default();
        let keys: Vec<i32> = map.record_keys().collect();
        let key = Layout::of_keys(schema, &keys).map_err(|e| unfit(e.to_string()))?;
        let value = match values {
            ValuesAs::Bytes => {
                let at = schema.as_struct().fields().iter().position(|field| field.id == system.id(ids::VALUE));
                ValueLayout::Bytes(at.ok_or_else(|| unfit("the table has no column value".to_owned()))?)
            }
            ValuesAs::Columns => {
                let others = [system.reserved(), keys].concat();
                ValueLayout::Columns(Layout::new(schema, &others).map_err(|e| unfit(e.to_string()))?)
            }
        };
        Ok(Self { key, value })
    }

    /// Whether the table's top-level field at `index` is among the columns.
    fn has(&self, index: usize) -> bool {
        let of_value = match &self.value {
            ValueLayout::Bytes(at) => *at == index,
            ValueLayout::Columns(layout) => layout.has(index),
        };
        of_value || self.key.has(index)
    }

    /// Bytes that columns take before they have a row, about.
    pub(super) fn open_bytes(&self) -> usize {
        let of_value = match &self.value {
            ValueLayout::Bytes(_) => 0,
            ValueLayout::Columns(layout) => layout.open_bytes(),
        };
        of_value + self.key.open_bytes()
    }
}

/// How the keys and the values of a topic name their schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namings {
    pub key: Naming,
    pub value: Naming,
}

/// What a table is at one moment, as far as values depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableVersion {
    table: Uuid,
    schema_id: i32,
    columns: Option<String>,
}

impl TableVersion {
    #[must_use]
    pub fn of(metadata: &TableMetadata) -> Self {
        Self {
            table: metadata.uuid(),
            schema_id: metadata.current_schema_id(),
            columns: metadata.properties().get(map::PROPERTY).cloned(),
        }
    }
}

/// Offsets that the table of dead letters has, by partition, ascending and apart.
pub type DeadOffsets = BTreeMap<PartitionIndex, Vec<OffsetRange>>;

/// Decoders for one version of a table.
#[derive(Debug)]
pub struct Decoding {
    version: TableVersion,
    pub(super) layouts: Layouts,
    /// The columns of data files.
    file: FileSchema,
    /// Schemas of which each value names a message.
    files: HashSet<WrittenWith>,
    verdicts: HashMap<ValueType, Verdict>,
    dead: DeadOffsets,
    /// Where the log ended before any question of this turn; every record of the turn is below.
    ends: Arc<Offsets>,
    namings: Namings,
}

impl Decoding {
    /// For the table with this metadata; no schema has come up yet.
    ///
    /// # Errors
    /// As the table is, it cannot have such rows: a type that Arrow lacks, a damaged column map, no column `value`.
    pub fn new(metadata: &TableMetadata, values: ValuesAs) -> iceberg::Result<Self> {
        let (layouts, system) = (Layouts::of(metadata, values)?, SystemColumns::of(metadata));
        let file = FileSchema::typed(metadata.current_schema(), system, |index| layouts.has(index))?;
        let (version, verdicts, files) = (TableVersion::of(metadata), HashMap::new(), HashSet::new());
        let (dead, ends) = (DeadOffsets::new(), Arc::default());
        let namings = Namings { key: Naming::Bytes, value: Naming::Bytes };
        Ok(Self { version, layouts, file, files, verdicts, dead, ends, namings })
    }

    #[must_use]
    pub fn is_for(&self, metadata: &TableMetadata) -> bool {
        self.version == TableVersion::of(metadata)
    }

    /// The columns of keys, or of values.
    ///
    /// # Panics
    /// Values are bytes.
    #[must_use]
    pub fn layout(&self, part: Part) -> &Arc<Layout> {
        match (part, &self.layouts.value) {
            (Part::Key, _) => &self.layouts.key,
            (Part::Value, ValueLayout::Columns(layout)) => layout,
            (Part::Value, ValueLayout::Bytes(_)) => unreachable!("values that are bytes have no schema"),
        }
    }

    /// Bytes that a record takes beside its columns.
    pub(super) fn system_bytes(&self, record: &Record) -> usize {
        match self.layouts.value {
            ValueLayout::Bytes(_) => rows::row_bytes(record),
            ValueLayout::Columns(_) => rows::system_bytes(record),
        }
    }

    #[must_use]
    pub fn file_schema(&self) -> &FileSchema {
        &self.file
    }

    /// What `written` is of, as far as is known, and the bytes of that.
    ///
    /// # Errors
    /// It does not say which message of its schema it is; why.
    pub fn type_of<'a>(&self, written: &Written<'a>) -> Result<(ValueType, &'a [u8]), &'static str> {
        let (part, with) = (written.part, written.with);
        if self.files.contains(&with) {
            let (path, value) = written.message()?;
            return Ok((ValueType { part, with, message: Some(path) }, value));
        }
        let of = ValueType { part, with, message: None };
        match written.whole() {
            // The header says more than an id: which message, if the schema turns out to have any.
            Err(_) if !self.verdicts.contains_key(&of) => Ok((of, &[])),
            whole => whole.map(|value| (of, value)),
        }
    }

    /// What becomes of a part of a record.
    pub(super) fn fate<'a>(&self, part: Part, placed: &Placed<'a>) -> Fate<'a> {
        let dead = |schema: Option<i32>, why: String| Fate::Dead { schema, why };
        let written = match framing::of(placed.record, part, self.naming(part)) {
            Framed::Null | Framed::Bytes(_) => return Fate::Plain,
            Framed::Bare(why) => return dead(None, format!("{}{why}", prefix(part))),
            Framed::Value(written) => written,
        };
        let id = written.with.id();
        let (of, bytes) = match self.type_of(&written) {
            Ok(found) => found,
            Err(why) => return dead(id, format!("{}{}: {why}", prefix(part), written.with)),
        };
        match self.verdict(of, placed.partition, placed.record.offset) {
            None => Fate::Undecided,
            Some(Verdict::Dead(why)) => dead(id, format!("{of}: {why}")),
            Some(Verdict::Unknown(_)) => dead(id, format!("{of} is not in the registry")),
            Some(Verdict::Rows(_)) => Fate::Decoded(of, bytes),
        }
    }

    /// What becomes of the value of a record, which is of this type; `None` if that is not known yet, or not for a
    /// record that is younger than the registry's answer.
    #[must_use]
    pub fn verdict(&self, of: ValueType, partition: PartitionIndex, offset: Offset) -> Option<&Verdict> {
        let is_younger = |ends: &Offsets| ends.get(&partition).is_none_or(|end| offset >= *end);
        self.verdicts.get(&of).filter(|verdict| !matches!(verdict, Verdict::Unknown(ends) if is_younger(ends)))
    }

    /// Where the log ended when the turn began.
    #[must_use]
    pub fn ends(&self) -> Arc<Offsets> {
        Arc::clone(&self.ends)
    }

    /// Values of schema `with` say which message they are.
    pub fn has_messages(&mut self, with: WrittenWith) {
        if self.files.len() >= VERDICTS_MAX {
            self.files.clear();
        }
        self.files.insert(with);
    }

    pub fn decide(&mut self, of: ValueType, verdict: Verdict) {
        if self.verdicts.len() >= VERDICTS_MAX {
            self.verdicts.clear();
        }
        self.verdicts.insert(of, verdict);
    }

    /// For a turn: where the log ended before it, how keys and values name their schemas, and which offsets are dead
    /// letters already and stay so even if their values could be read.
    pub fn begin_turn(&mut self, ends: Offsets, namings: Namings, dead: DeadOffsets) {
        (self.ends, self.namings, self.dead) = (Arc::new(ends), namings, dead);
    }

    #[must_use]
    pub fn naming(&self, part: Part) -> Naming {
        match part {
            Part::Key => self.namings.key,
            Part::Value => self.namings.value,
        }
    }

    /// Goes on with the turn of `before`, with the next version of the table.
    #[must_use]
    pub fn in_turn_of(self, before: Self) -> Self {
        Self { ends: before.ends, namings: before.namings, dead: before.dead, ..self }
    }

    #[must_use]
    pub fn is_dead(&self, partition: PartitionIndex, offset: Offset) -> bool {
        let Some(ranges) = self.dead.get(&partition) else { return false };
        let at = ranges.partition_point(|range| range.end <= offset);
        ranges.get(at).is_some_and(|range| range.contains(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::World;

    const EACH: Namings = Namings { key: Naming::Bytes, value: Naming::Each };

    /// Of a table of keys and values.
    fn fresh() -> Decoding {
        futures::executor::block_on(async {
            let mut world = World::new(1);
            world.log.append(0, 1, tidewater_storage::model::TimestampMs(1));
            world.sink(1).run_once(tidewater_storage::model::TimestampMs(1)).await;
            let loaded = crate::catalog::Catalog::load(&*world.catalog(), &world.table()).await.expect("loads");
            Decoding::new(&loaded.metadata, ValuesAs::Columns).expect("columns")
        })
    }

    #[test]
    fn a_schema_that_was_not_there_is_unknown_to_older_records_only() {
        let mut decoding = fresh();
        let of = ValueType { part: Part::Value, with: WrittenWith::Id(9), message: None };
        decoding.begin_turn([(PartitionIndex(0), Offset::new(5))].into(), EACH, DeadOffsets::new());
        decoding.decide(of, Verdict::Unknown(decoding.ends()));
        decoding.begin_turn([(PartitionIndex(0), Offset::new(8))].into(), EACH, DeadOffsets::new());
        let known = |partition, offset| decoding.verdict(of, PartitionIndex(partition), Offset::new(offset)).is_some();
        assert!(known(0, 4) && !known(0, 5) && !known(0, 7), "the answer is of the turn before");
        assert!(!known(1, 0), "this partition's end was not known then");
    }

    #[test]
    fn an_answer_about_values_is_none_about_keys_of_the_same_schema() {
        let mut decoding = fresh();
        let of = |part| ValueType { part, with: WrittenWith::Id(9), message: None };
        decoding.decide(of(Part::Value), Verdict::Dead("no".into()));
        let known = |part| decoding.verdict(of(part), PartitionIndex(0), Offset::new(0)).is_some();
        assert_eq!(Part::ALL.map(known), [false, true]);
        assert_eq!(Part::ALL.map(|part| of(part).to_string()), ["key: schema 9", "schema 9"]);
    }

    #[test]
    fn dead_offsets_are_found_in_ranges() {
        let range = |start, end| OffsetRange::new(Offset::new(start), Offset::new(end));
        let mut decoding = fresh();
        decoding.begin_turn(Offsets::new(), EACH, [(PartitionIndex(1), vec![range(3, 5), range(9, 10)])].into());
        let dead = |partition, offset| decoding.is_dead(PartitionIndex(partition), Offset::new(offset));
        let found: Vec<u64> = (0..12).filter(|offset| dead(1, *offset)).collect();
        assert_eq!(found, [3, 4, 9]);
        assert!(!dead(0, 3));
    }
}
