//! Dead letters: records of a typed topic whose values are no rows of its table. They go to `<topic>~dlq`, each once.
//!
//! **Order of effects.** Which records of a range are rows and which are dead letters is decided by *one* commit, that
//! of the topic's table. Before it, the dead letters' data files and a list of them are written below the other table;
//! the commit records that list ([`PENDING`]); after it, the list is appended to the other table. No turn begins
//! before that has happened.
//!
//! | crash, or a lost answer | then |
//! |---|---|
//! | before the commit | the files are garbage; the range is planned again |
//! | the commit's answer is lost | the same append again, which finds out |
//! | between the commit and the append of dead letters | the next turn, of any process, appends the list |
//! | the answer of that append is lost | the other table counts its appends, so the next turn sees that it is there |
//!
//! **Rivals** that both settle one list append it once: both begin from the same count. A rival that has decided
//! otherwise about a record loses the commit to the topic's table, and with it its list.
//!
//! **A table that goes back** (dropped and made again, or rolled back by its owner) is filled again from the log. What
//! is in `<topic>~dlq` stays a dead letter then, even if its value could be read by now ([`TableSink::known_dead`]).
//! After a restore of the cluster an offset may be another record's; then the table pauses until its owner has rolled
//! `<topic>~dlq` back as well.

use std::collections::HashMap;

use iceberg::TableIdent;
use iceberg::spec::{TableMetadata, read_data_files_from_avro, write_data_files_to_avro};
use serde::{Deserialize, Serialize};
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{Offset, OffsetRange, PartitionIndex, TimestampMs, TopicName};
use uuid::Uuid;

use super::make::make_table;
use super::{NAMESPACE, SinkConfig, SinkError, TableSink};
use crate::audit::{self, AuditError};
use crate::catalog::{CatalogError, Loaded};
use crate::commit::maintain::MANIFEST_PREFIX;
use crate::commit::offsets::DEAD_LETTERS_REACHED;
use crate::commit::{Append, CommitError, Committer, SchemaChange, identity, offsets};
use crate::plan::{Offsets, PlannedRange};
use crate::schema::{self, file::FileSchema, ids, system::SystemColumns};
use crate::translate::Translation;
use crate::translate::decoding::DeadOffsets;

pub(super) mod report;

use report::Unlogged;

/// Property of a topic's table: the dead letters of its last commit, as JSON ([`Pending`]); not there if it had none.
pub(super) const PENDING: &str = "tidewater.dead-letters";
/// What a table's name gets for that of its dead letters. No topic's name and no `iceberg.table` has `~`.
const SUFFIX: &str = "~dlq";
/// Bytes of a table's name in that of its dead letters at most: a directory bucket holds file names of 255
/// bytes, in which `~` takes three.
const NAME_BYTES_MAX: usize = 244;

/// The table of the dead letters of a topic whose rows go to `table`: the same name with `~dlq`.
#[must_use]
pub fn dead_letter_table(table: &TableIdent) -> TableIdent {
    TableIdent::new(table.namespace.clone(), dead_letter_name(&table.name))
}

/// A name that is too long is cut, and gets a number made of all of it.
fn dead_letter_name(table: &str) -> String {
    if table.len() <= NAME_BYTES_MAX {
        return format!("{table}{SUFFIX}");
    }
    // FNV-1a: names must be the same in each version.
    let hash = table
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let start: String = table.chars().take(NAME_BYTES_MAX - 17).collect();
    format!("{start}-{hash:016x}{SUFFIX}")
}

/// Whether `dead` is the name of the dead letters of a topic whose table is called `table`.
#[must_use]
pub fn is_dead_letter_name(dead: &str, table: &str) -> bool {
    dead.ends_with(SUFFIX) && dead == dead_letter_name(table)
}

/// The name of a topic that may have `table` without naming one: for its rows, or for its dead letters. A long topic's
/// name is cut in the latter, and not found.
#[must_use]
pub fn topic_of_default_table(table: &TableIdent) -> Option<TopicName> {
    if !table.namespace.iter().eq([NAMESPACE]) {
        return None;
    }
    TopicName::new(table.name.strip_suffix(SUFFIX).unwrap_or(&table.name)).ok()
}

/// Whether a table with these properties still has the name that it was made with.
#[must_use]
pub fn is_under_own_name(table: &TableIdent, properties: &HashMap<String, String>) -> bool {
    match (properties.get(identity::TABLE), properties.get(identity::TOPIC_NAME)) {
        (Some(made), _) => *made == table.to_string(),
        // Of a version that knew one namespace.
        (None, Some(topic)) => {
            table.namespace.iter().eq([NAMESPACE]) && (table.name == *topic || is_dead_letter_name(&table.name, topic))
        }
        (None, None) => false,
    }
}

/// Dead letters that a commit to the topic's table has decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// Iceberg's id of the table that they go to.
    table: Uuid,
    /// How many appends that table has once they are in it.
    append: u64,
    /// URI of the list of their data files.
    files: String,
    rows: u64,
}

/// The topic's table was taken back, and this one goes back with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Return {
    /// Iceberg's id of the table that goes back.
    table: Uuid,
    /// How many appends that table has once it is done: it counts as one.
    append: u64,
    /// The first offset of each partition whose dead letters leave, as in `tidewater.offsets`.
    back_to: String,
}

/// What [`PENDING`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Decided {
    Letters(Pending),
    Return(Return),
}

/// What a sink knows of the table of dead letters.
pub(super) struct DeadLetters {
    pub(super) table: TableIdent,
    pub(super) committer: Committer,
    /// The table was looked for and is not there, or is another's.
    absent: bool,
    /// The [`PENDING`] that is known to be in the table.
    settled: Option<String>,
    /// Dead letters at or above offsets that the topic's table had when they were read.
    known: Option<(Uuid, Offsets, DeadOffsets)>,
    unlogged: Unlogged,
}

/// Dead letters that are ready for the commit that decides them.
pub(super) struct Prepared {
    /// The value of [`PENDING`].
    pub(super) property: String,
    /// Files to be deleted if that commit fails for good.
    pub(super) files: Vec<String>,
}

impl DeadLetters {
    /// The table is looked for again.
    pub(super) fn forget_absence(&mut self) {
        self.absent = false;
        self.committer.forget();
    }

    /// Whether the table has so many appends.
    pub(super) fn has_append(&self, dead: &Loaded, append: u64) -> Result<bool, CommitError> {
        Ok(appends(&self.table, &dead.metadata)? >= append)
    }

    /// See [`reached`].
    pub(super) fn reached(&self, dead: &Loaded) -> Result<Offsets, CommitError> {
        reached(&self.table, &dead.metadata)
    }

    pub(super) fn new(config: &SinkConfig, committer: Committer) -> Self {
        let table = dead_letter_table(&config.table);
        Self { table, committer, absent: false, settled: None, known: None, unlogged: Unlogged::default() }
    }
}

/// How many appends a table of dead letters has: kept as its offset of partition 0, and so compared and moved as
/// offsets are.
fn appends(table: &TableIdent, metadata: &TableMetadata) -> Result<u64, CommitError> {
    let held = offsets::of(table, metadata)?;
    Ok(held.get(&PartitionIndex(0)).map_or(0, |appends| appends.get()))
}

pub(super) fn counted(appends: u64) -> Offsets {
    if appends == 0 { Offsets::new() } else { Offsets::from([(PartitionIndex(0), Offset::new(appends))]) }
}

/// How far the topic's table was when the last dead letters came. A user who rolls back moves this too.
fn reached(table: &TableIdent, metadata: &TableMetadata) -> Result<Offsets, CommitError> {
    let text = offsets::nearest(metadata, DEAD_LETTERS_REACHED);
    let Some(text) = text.or_else(|| metadata.properties().get(DEAD_LETTERS_REACHED)) else {
        return Ok(Offsets::new());
    };
    offsets::decode(text).ok_or_else(|| CommitError::Unfit {
        table: table.clone(),
        detail: format!(
            "its {DEAD_LETTERS_REACHED} is not offsets by partition: {text:?}; put back what the last snapshot had"
        ),
    })
}

/// The lineage epoch of a fencing epoch: it grows with each restore, after which offsets may be other records'.
fn lineage(epoch: u64) -> u64 {
    epoch >> 32
}

impl TableSink {
    /// Writes the dead letters of a turn, to be decided by the commit of its rows.
    pub(super) async fn prepare_dead(&mut self, translation: &mut Translation) -> Result<Prepared, SinkError> {
        let base = self.dead_table().await?;
        let append = appends(&self.dead.table, &base.metadata)? + 1;
        let rows = translation.dead_rows();
        let settings = self.dead.committer.settings(&base.metadata).files;
        let partition = self.partition_type(&base.metadata)?;
        let writer = self.writer(&base, partition.0, settings);
        let schema = FileSchema::dead_letters(SystemColumns::of(&base.metadata)).map_err(CatalogError::from)?;
        let files = writer.write(&schema, translation.take_dead()).await?;
        let written: u64 = files.iter().map(iceberg::spec::DataFile::record_count).sum();
        assert_eq!(written, rows, "every dead letter is in a data file");
        let mut paths: Vec<String> = files.iter().map(|file| file.file_path().to_owned()).collect();
        let list = format!("{}/metadata/{MANIFEST_PREFIX}dead-{}.avro", base.metadata.location(), self.names.uuid());
        let mut body = Vec::new();
        write_data_files_to_avro(&mut body, files, &partition.1, base.metadata.format_version())
            .map_err(CatalogError::from)?;
        self.catalog.files().write(&list, body.into()).await.map_err(CatalogError::from)?;
        paths.push(list.clone());
        let pending = Pending { table: base.metadata.uuid(), append, files: list, rows };
        let property = serde_json::to_string(&pending).expect("numbers and strings are JSON");
        Ok(Prepared { property, files: paths })
    }

    /// The spec of data files and the type of its values.
    fn partition_type(&self, metadata: &TableMetadata) -> Result<(i32, iceberg::spec::StructType), SinkError> {
        let spec = schema::find_hour_spec(metadata).ok_or_else(|| self.no_spec(&self.dead.table))?;
        let kind = spec.partition_type(metadata.current_schema()).map_err(CatalogError::from)?;
        Ok((spec.spec_id(), kind))
    }

    /// The table of dead letters as it is now; made if it is not there.
    async fn dead_table(&mut self) -> Result<Loaded, SinkError> {
        let base = match self.dead.committer.refresh().await {
            Err(error) if error.is_table_gone() => {
                make_table(&*self.catalog, &self.config, &self.dead.table).await?;
                self.dead.committer.refresh().await?
            }
            loaded => loaded?,
        };
        self.dead.absent = false;
        let current = base.metadata.current_schema();
        if [ids::REASON, ids::SCHEMA_ID].iter().all(|id| current.field_by_id(*id).is_some()) {
            return Ok(base);
        }
        if base.metadata.last_column_id() >= ids::REASON {
            let detail = "its columns reason and schema_id were dropped; drop or rename the table".to_owned();
            return Err(CommitError::Unfit { table: self.dead.table.clone(), detail }.into());
        }
        let system = SystemColumns::made(self.config.layout);
        let schema = Some(schema::dead_letter_schema(system).map_err(CatalogError::from)?);
        Ok(self.dead.committer.change_schema(&base, SchemaChange { schema, ..SchemaChange::default() }).await?)
    }

    /// Appends the dead letters that the last commit to the topic's table (`base`) decided, unless they are there.
    pub(super) async fn settle_dead(&mut self, base: &Loaded, now: TimestampMs) -> Result<(), SinkError> {
        let Some(text) = base.metadata.properties().get(PENDING) else { return Ok(()) };
        if self.dead.settled.as_ref() == Some(text) {
            return Ok(());
        }
        let decided: Decided = serde_json::from_str(text).map_err(|e| CommitError::Unfit {
            table: self.config.table.clone(),
            detail: format!("its property {PENDING} cannot be read ({e}); remove it to give up those dead letters"),
        })?;
        let (Decided::Letters(Pending { table, .. }) | Decided::Return(Return { table, .. })) = &decided;
        let dead = match self.dead.committer.refresh().await {
            Ok(dead) if dead.metadata.uuid() == *table => Some(dead),
            Ok(_) => None,
            Err(error) if error.is_table_gone() => None,
            Err(error) => return Err(error.into()),
        };
        match (dead, decided) {
            (None, Decided::Letters(pending)) => tracing::warn!(
                table = %self.dead.table, rows = pending.rows,
                "the table was dropped while dead letters were on their way to it; they went with it"
            ),
            (None, Decided::Return(_)) => {}
            (Some(dead), Decided::Letters(pending)) => self.append_dead(&dead, &pending, base, now).await?,
            (Some(dead), Decided::Return(Return { append, back_to, .. })) => {
                let to = offsets::decode(&back_to).ok_or_else(|| CommitError::Unfit {
                    table: self.config.table.clone(),
                    detail: format!("its property {PENDING} has no offsets in {back_to:?}; remove it to give that up"),
                })?;
                self.take_dead_back(dead, (&to, append), now).await?;
                self.dead.known = None;
            }
        }
        self.dead.settled = Some(text.clone());
        Ok(())
    }

    /// The value of [`PENDING`] by which the table of dead letters goes back to `to`; `None` without that table.
    pub(super) async fn decide_return(&mut self, to: &Offsets) -> Result<Option<String>, SinkError> {
        let dead = match self.dead.committer.refresh().await {
            Ok(dead) => dead,
            Err(CommitError::Foreign(_)) => return Ok(None),
            Err(error) if error.is_table_gone() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let append = appends(&self.dead.table, &dead.metadata)? + 1;
        let decided = Return { table: dead.metadata.uuid(), append, back_to: offsets::encode(to) };
        Ok(Some(serde_json::to_string(&decided).expect("numbers and strings are JSON")))
    }

    async fn append_dead(
        &mut self,
        dead: &Loaded,
        pending: &Pending,
        base: &Loaded,
        now: TimestampMs,
    ) -> Result<(), SinkError> {
        let held = appends(&self.dead.table, &dead.metadata)?;
        if held >= pending.append {
            return Ok(());
        }
        let list = match self.catalog.files().read(&pending.files).await {
            Ok(list) => list,
            // It is deleted once it is appended: the table's owner rolled that back.
            Err(error) if error.disposition() == Disposition::Absent => return Ok(()),
            Err(error) => return Err(CatalogError::from(error).into()),
        };
        let ((spec, partition), format) = (self.partition_type(&dead.metadata)?, dead.metadata.format_version());
        let schema = dead.metadata.current_schema();
        let files =
            read_data_files_from_avro(&mut &*list, schema, spec, &partition, format).map_err(CatalogError::from)?;
        let rows: u64 = files.iter().map(iceberg::spec::DataFile::record_count).sum();
        assert_eq!(rows, pending.rows, "the list of dead letters has those that were decided");
        let mut to = reached(&self.dead.table, &dead.metadata)?;
        for (partition, next) in offsets::of(&self.config.table, &base.metadata)? {
            let held = to.entry(partition).or_insert(next);
            *held = next.max(*held);
        }
        let mut append = Append {
            files,
            spec_id: spec,
            table: pending.table,
            from: counted(held),
            to: counted(pending.append),
            skipped: Vec::new(),
            properties: vec![(DEAD_LETTERS_REACHED, Some(offsets::encode(&to)))],
            summary: vec![(DEAD_LETTERS_REACHED, offsets::encode(&to))],
            beside: Vec::new(),
            uncertain: true,
        };
        self.dead.committer.append(&mut append, now).await?;
        self.catalog.files().take_back(std::slice::from_ref(&pending.files)).await;
        Ok(())
    }

    /// Offsets in `ranges` that are dead letters already, because the topic's table went back to before them. After
    /// [`TableSink::look_for_dead`].
    pub(super) async fn known_dead(
        &mut self,
        ranges: &[PlannedRange],
        held: &Offsets,
    ) -> Result<DeadOffsets, SinkError> {
        let Some(dead) = self.dead.committer.current() else { return Ok(DeadOffsets::new()) };
        let (uuid, reached) = (dead.metadata.uuid(), reached(&self.dead.table, &dead.metadata)?);
        let is_behind =
            |range: &PlannedRange| reached.get(&range.partition).is_some_and(|reached| range.offsets.start < *reached);
        if !ranges.iter().any(is_behind) {
            self.dead.known = None;
            return Ok(DeadOffsets::new());
        }
        if lineage(identity::epoch(&dead.metadata)) < lineage(self.config.epoch) {
            let detail = format!(
                "it has dead letters of offsets above those of the topic's table, and the cluster was restored since: \
                 they may be other records' by now. Roll it back to a snapshot whose {DEAD_LETTERS_REACHED} is \
                 not above the {} of the topic's table, or drop or rename it",
                offsets::OFFSETS
            );
            return Err(CommitError::Unfit { table: self.dead.table.clone(), detail }.into());
        }
        let start = |offsets: &Offsets, partition| offsets.get(&partition).copied().unwrap_or(Offset::ZERO);
        match &self.dead.known {
            Some((table, floor, known))
                if *table == uuid && reached.keys().all(|at| start(held, *at) >= start(floor, *at)) =>
            {
                Ok(known.clone())
            }
            _ => {
                let known = self.read_dead(held).await?;
                self.dead.known = Some((uuid, held.clone(), known.clone()));
                Ok(known)
            }
        }
    }

    /// Looks whether there is a table of dead letters, unless that is known. One that is another's counts as none until
    /// it is needed.
    pub(super) async fn look_for_dead(&mut self) -> Result<(), SinkError> {
        if self.dead.committer.current().is_none() && !self.dead.absent {
            match self.dead.committer.refresh().await {
                Ok(_) => {}
                Err(CommitError::Foreign(_)) => self.dead.absent = true,
                Err(error) if error.is_table_gone() => self.dead.absent = true,
                Err(error) => return Err(error.into()),
            }
        }
        let Some(base) = self.dead.committer.current().cloned() else { return Ok(()) };
        if identity::goes_with_topic(&base.metadata) != self.config.delete {
            let value = if self.config.delete { "true" } else { "false" };
            self.dead.committer.set_property(&base, identity::DELETE, value).await?;
        }
        Ok(())
    }

    /// The offsets of all dead letters at or above `from`, joined where they touch.
    async fn read_dead(&mut self, from: &Offsets) -> Result<DeadOffsets, SinkError> {
        let mut offsets: std::collections::BTreeMap<PartitionIndex, Vec<u64>> = [].into();
        let read = audit::read(&*self.catalog, &self.dead.table, |row| {
            let partition = PartitionIndex(row.partition);
            let start = from.get(&partition).map_or(0, |start| start.get());
            if let Some(offset) = u64::try_from(row.offset).ok().filter(|offset| *offset >= start) {
                offsets.entry(partition).or_default().push(offset);
            }
        });
        match read.await {
            Ok(_) => {}
            Err(AuditError::Catalog(error)) => return Err(error.into()),
            Err(AuditError::File(error)) => return Err(CommitError::File(error).into()),
            Err(AuditError::Iceberg(error)) => return Err(CommitError::Metadata(error).into()),
            Err(error) => {
                let detail = format!("which dead letters it has cannot be read: {error}");
                return Err(CommitError::Unfit { table: self.dead.table.clone(), detail }.into());
            }
        }
        Ok(offsets.into_iter().map(|(partition, offsets)| (partition, joined(offsets))).collect())
    }

    /// Drops the table of dead letters with its files; another owner's is left alone.
    pub(super) async fn drop_dead(&mut self) -> Result<(), SinkError> {
        let dropped = match self.dead.committer.refresh().await {
            Ok(base) => self.catalog.drop_one(&self.dead.table, Some(base.metadata.uuid()), true).await,
            Err(CommitError::Catalog(error)) => Err(error),
            Err(CommitError::Foreign(_)) => Ok(()),
            Err(error) => return Err(error.into()),
        };
        match dropped {
            Ok(()) | Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the mark by which the table of dead letters is dropped with its topic.
    pub(super) async fn unmark_dead(&mut self) -> Result<(), SinkError> {
        self.dead.absent = false;
        self.dead.committer.forget();
        self.look_for_dead().await
    }
}

/// Ascending ranges of `offsets`.
fn joined(mut offsets: Vec<u64>) -> Vec<OffsetRange> {
    offsets.sort_unstable();
    let mut ranges: Vec<OffsetRange> = Vec::new();
    for offset in offsets {
        match ranges.last_mut() {
            Some(last) if last.end.get() >= offset => last.end = Offset::new(last.end.get().max(offset + 1)),
            _ => ranges.push(OffsetRange::new(Offset::new(offset), Offset::new(offset + 1))),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_joined_where_they_touch() {
        let ranges: Vec<_> = joined(vec![7, 3, 4, 4, 9]).iter().map(|r| (r.start.get(), r.end.get())).collect();
        assert_eq!(ranges, [(3, 5), (7, 8), (9, 10)]);
    }

    #[test]
    fn every_topic_has_a_name_for_its_dead_letters_and_no_two_the_same() {
        let longest = ["a".repeat(249), format!("{}b", "a".repeat(248)), "a".repeat(244)];
        let names: std::collections::BTreeSet<_> = longest.iter().map(|topic| dead_letter_name(topic)).collect();
        assert_eq!(names.len(), 3);
        assert!(names.iter().all(|name| name.len() <= 248 && name.ends_with(SUFFIX)), "{names:?}");
        assert_eq!(dead_letter_name("orders"), "orders~dlq");
        assert!(names.iter().zip(["a"; 3]).all(|(name, other)| !is_dead_letter_name(name, other)));
    }

    #[test]
    fn a_table_is_under_its_own_name_until_it_is_renamed() {
        let table = |namespace: &str, name: &str| TableIdent::from_strs([namespace, name]).expect("legal");
        let with = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
        let (made, old) = (with(identity::TABLE, "lake.o"), with(identity::TOPIC_NAME, "orders"));
        assert!(is_under_own_name(&table("lake", "o"), &made));
        assert!(!is_under_own_name(&table(NAMESPACE, "o"), &made) && !is_under_own_name(&table("lake", "p"), &made));
        assert!(is_under_own_name(&table(NAMESPACE, "orders"), &old));
        assert!(is_under_own_name(&table(NAMESPACE, "orders~dlq"), &old));
        assert!(!is_under_own_name(&table("lake", "orders"), &old));
        assert!(!is_under_own_name(&table(NAMESPACE, "order"), &old));
        assert!(!is_under_own_name(&table(NAMESPACE, "orders"), &HashMap::new()));
    }

    #[test]
    fn a_table_names_the_topic_that_may_have_it() {
        let table = |namespace: &str, name: &str| TableIdent::from_strs([namespace, name]).expect("legal");
        let topic = TopicName::new("orders").ok();
        assert_eq!(topic_of_default_table(&table(NAMESPACE, "orders")), topic);
        assert_eq!(topic_of_default_table(&table(NAMESPACE, "orders~dlq")), topic);
        assert_eq!(dead_letter_table(&table("lake", "o")), table("lake", "o~dlq"));
        for other in [table("lake", "orders"), table(NAMESPACE, "a b")] {
            assert_eq!(topic_of_default_table(&other), None, "{other}");
        }
    }
}
