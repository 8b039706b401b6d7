//! [`Decoding`]: what becomes of values of each schema, for a table as it is at one moment.
//!
//! Owns: the layout of the table's columns, a [`Verdict`] for each type of values that has come up, the offsets that
//! are dead letters already. Does not own: asking the registry, changing the table (`sink::typed`). Pure. *Message*.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use iceberg::spec::{Schema, TableMetadata};
use tidewater_storage::model::{Offset, OffsetRange, PartitionIndex};
use uuid::Uuid;

use super::framing::{Naming, Written, WrittenWith};
use super::value_schema::ValueDecoder;
use crate::columns::build::Layout;
use crate::columns::map;
use crate::columns::protobuf::path::MessagePath;
use crate::plan::Offsets;
use crate::schema::file::FileSchema;
use crate::schema::ids;

/// Verdicts kept at most: one may hold a decoder of a thousand columns. Beyond that all are found again. More than those
/// that are found at once, so that a turn gets on.
const VERDICTS_MAX: usize = 1_000;

/// Top-level columns that no value goes to.
pub const RESERVED: [i32; 2] = [ids::TIDEWATER, ids::VALUE];

/// What a value is of: a schema, and a message of that where values say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueType {
    pub with: WrittenWith,
    pub message: Option<MessagePath>,
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.message {
            None => self.with.fmt(f),
            Some(path) if path == MessagePath::FIRST => self.with.fmt(f),
            Some(path) => write!(f, "{}, message {path}", self.with),
        }
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
    pub(super) layout: Arc<Layout>,
    /// The columns of data files.
    file: FileSchema,
    /// Schemas of which each value names a message.
    files: HashSet<WrittenWith>,
    verdicts: HashMap<ValueType, Verdict>,
    dead: DeadOffsets,
    /// Where the log ended before any question of this turn; every record of the turn is below.
    ends: Arc<Offsets>,
    naming: Naming,
}

impl Decoding {
    /// For the table with this metadata; no schema has come up yet.
    ///
    /// # Errors
    /// The table has a type that Arrow lacks.
    pub fn new(metadata: &TableMetadata) -> iceberg::Result<Self> {
        let schema: &Schema = metadata.current_schema();
        let layout = Layout::new(schema, &RESERVED)
            .map_err(|e| iceberg::Error::new(iceberg::ErrorKind::FeatureUnsupported, e.to_string()))?;
        let file = FileSchema::typed(schema, &layout)?;
        let (version, verdicts, files) = (TableVersion::of(metadata), HashMap::new(), HashSet::new());
        let (dead, ends, naming) = (DeadOffsets::new(), Arc::default(), Naming::default());
        Ok(Self { version, layout, file, files, verdicts, dead, ends, naming })
    }

    #[must_use]
    pub fn is_for(&self, metadata: &TableMetadata) -> bool {
        self.version == TableVersion::of(metadata)
    }

    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
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
        let with = written.with;
        if self.files.contains(&with) {
            let (path, value) = written.message()?;
            return Ok((ValueType { with, message: Some(path) }, value));
        }
        let of = ValueType { with, message: None };
        match written.whole() {
            // The header says more than an id: which message, if the schema turns out to have any.
            Err(_) if !self.verdicts.contains_key(&of) => Ok((of, &[])),
            whole => whole.map(|value| (of, value)),
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

    /// For a turn: where the log ended before it, how values name their schemas, and which offsets are dead letters
    /// already and stay so even if their values could be read.
    pub fn begin_turn(&mut self, ends: Offsets, naming: Naming, dead: DeadOffsets) {
        (self.ends, self.naming, self.dead) = (Arc::new(ends), naming, dead);
    }

    #[must_use]
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// Goes on with the turn of `before`, with the next version of the table.
    #[must_use]
    pub fn in_turn_of(self, before: Self) -> Self {
        Self { ends: before.ends, naming: before.naming, dead: before.dead, ..self }
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

    /// Of a table of keys and values.
    fn fresh() -> Decoding {
        futures::executor::block_on(async {
            let mut world = World::new(1);
            world.log.append(0, 1, tidewater_storage::model::TimestampMs(1));
            world.sink(1).run_once(tidewater_storage::model::TimestampMs(1)).await;
            let loaded = crate::catalog::Catalog::load(&*world.catalog(), &world.table()).await.expect("loads");
            Decoding::new(&loaded.metadata).expect("columns")
        })
    }

    #[test]
    fn a_schema_that_was_not_there_is_unknown_to_older_records_only() {
        let mut decoding = fresh();
        let of = ValueType { with: WrittenWith::Id(9), message: None };
        decoding.begin_turn([(PartitionIndex(0), Offset::new(5))].into(), Naming::Each, DeadOffsets::new());
        decoding.decide(of, Verdict::Unknown(decoding.ends()));
        decoding.begin_turn([(PartitionIndex(0), Offset::new(8))].into(), Naming::Each, DeadOffsets::new());
        let known = |partition, offset| decoding.verdict(of, PartitionIndex(partition), Offset::new(offset)).is_some();
        assert!(known(0, 4) && !known(0, 5) && !known(0, 7), "the answer is of the turn before");
        assert!(!known(1, 0), "this partition's end was not known then");
    }

    #[test]
    fn dead_offsets_are_found_in_ranges() {
        let range = |start, end| OffsetRange::new(Offset::new(start), Offset::new(end));
        let mut decoding = fresh();
        decoding.begin_turn(
            Offsets::new(),
            Naming::Each,
            [(PartitionIndex(1), vec![range(3, 5), range(9, 10)])].into(),
        );
        let dead = |partition, offset| decoding.is_dead(PartitionIndex(partition), Offset::new(offset));
        let found: Vec<u64> = (0..12).filter(|offset| dead(1, *offset)).collect();
        assert_eq!(found, [3, 4, 9]);
        assert!(!dead(0, 3));
    }
}
