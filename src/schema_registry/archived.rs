//! Ids and the bucket: an id is given out when the record that holds it is archived.
//!
//! Without that, a restored cluster could have data with an id that its registry does not know and would give to
//! another schema. Ids of registrations that were not answered, and of answered ones where an object of the bucket was
//! lost, are not given again either: a restored cluster leaves ids out ([`IDS_LEFT_OUT`]), and never so many wait for
//! the bucket at once.

use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::model::Offset;
use tokio::time::{Instant, sleep};

use super::SchemaRegistry;
use super::log;
use crate::partition::message::{PartitionAddress, PartitionRequest, ReadError};
use crate::partition::read::internal::{InternalRequest, Reach};
use crate::schema::SchemaError;
use crate::schema::record::Record;
use crate::schema::request::Answer;
use crate::schema::subject::Context;

/// Ids that the registry of a restored cluster leaves out in every context.
pub const IDS_LEFT_OUT: i32 = 1000;
/// Ids that may wait for the bucket; a registration of one more is refused.
const UNARCHIVED_MAX: usize = 500;
/// How long a registration waits for the bucket.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks, doubled from the first to the second.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));

const _: () = assert!(UNARCHIVED_MAX < IDS_LEFT_OUT as usize, "no lost id is given again");

/// Ids whose records the bucket does not hold yet, with their offsets.
#[derive(Debug, Default)]
pub(super) struct Unarchived {
    ids: Vec<(Offset, Context, i32)>,
}

impl Unarchived {
    pub(super) fn note(&mut self, records: &[(Offset, Record)]) {
        let ids = records.iter().filter_map(|(offset, record)| match record {
            Record::Schema { subject, schema: Some(schema), .. } => Some((*offset, subject.context(), schema.id)),
            _ => None,
        });
        self.ids.extend(ids);
    }

    /// Forgets what is archived.
    fn archived_to(&mut self, end: Offset) {
        self.ids.retain(|(offset, ..)| *offset >= end);
    }

    /// The end that the archive must have before an answer that was planned may be given.
    pub(super) fn needed_for(&self, answer: &Answer) -> Option<Offset> {
        let Answer::Registered { id, .. } = answer else { return None };
        self.ids.iter().filter(|(_, _, waits)| waits == id).map(|(offset, ..)| offset.plus(1)).max()
    }

    /// # Errors
    /// As many ids wait as may.
    pub(super) fn check_room(&self) -> Result<(), SchemaError> {
        if self.ids.len() < UNARCHIVED_MAX {
            return Ok(());
        }
        let why = format!("{UNARCHIVED_MAX} registered schemas wait for the bucket");
        Err(SchemaError::NotArchived(why))
    }
}

impl SchemaRegistry {
    /// The ids behind the end of the archive.
    pub(super) async fn read_unarchived(&self, address: PartitionAddress) -> Result<Unarchived, SchemaError> {
        let mut unarchived = Unarchived::default();
        let failed = |error: ReadError| SchemaError::Store(format!("_schemas cannot be read: {error}"));
        let (mut from, end) = (self.archived_end(address).await.map_err(failed)?, self.end());
        while from < end {
            let batches = log::read_anywhere(&self.shared.meshes.partitions, address, from, end).await;
            let before = from;
            for batches in batches.map_err(failed)?.iter().filter(|batches: &&Bytes| !batches.is_empty()) {
                let read = log::records(batches, from)?;
                unarchived.note(&read.records);
                from = from.max(read.end);
            }
            if from == before {
                return Err(SchemaError::Store(format!("nothing can be read at offset {from} of _schemas")));
            }
        }
        Ok(unarchived)
    }

    pub(super) async fn refresh_unarchived(
        &self,
        unarchived: &mut Unarchived,
        address: PartitionAddress,
    ) -> Result<(), SchemaError> {
        if !unarchived.ids.is_empty() {
            // Where it cannot be asked, all that waited still waits.
            let end = self.archived_end(address).await.unwrap_or(Offset::ZERO);
            unarchived.archived_to(end);
        }
        Ok(())
    }

    /// # Errors
    /// [`SchemaError::NotArchived`]: not in time. It may be archived later.
    pub(super) async fn wait_until_archived(&self, address: PartitionAddress, to: Offset) -> Result<(), SchemaError> {
        let begun = Instant::now();
        let (mut pause, max) = LOOK;
        loop {
            let found = self.archived_end(address).await;
            if found.as_ref().is_ok_and(|end| *end >= to) {
                self.shared.counts.waits.note(begun.elapsed(), true);
                return Ok(());
            }
            if begun.elapsed() >= ARCHIVE_PATIENCE {
                self.shared.counts.waits.note(begun.elapsed(), false);
                let why = match found {
                    Ok(end) => format!("it holds _schemas up to offset {end} and not up to {to}"),
                    Err(error) => error.to_string(),
                };
                return Err(SchemaError::NotArchived(why));
            }
            sleep(pause).await;
            pause = (pause * 2).min(max);
        }
    }

    /// The end of what the bucket holds; of a topic that is not archived, the end of the log.
    async fn archived_end(&self, address: PartitionAddress) -> Result<Offset, ReadError> {
        let ask = |reply| PartitionRequest::Internal(InternalRequest::TableBounds(address, Reach::Leader, reply));
        let bounds = self.shared.meshes.partitions.call(address.shard, ask).await;
        bounds.unwrap_or(Err(ReadError::Unavailable)).map(|bounds| bounds.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::definition::{Definition, Guid};
    use crate::schema::record::Registered;
    use crate::schema::subject::Subject;

    fn record(offset: u64, subject: &str, id: i32) -> (Offset, Record) {
        let schema = Registered { id, guid: None, definition: Definition::default(), deleted: false };
        let record = Record::Schema { subject: Subject::parse(subject), version: 1, schema: Some(schema) };
        (Offset::new(offset), record)
    }

    fn registered(id: i32) -> Answer {
        let guid = Guid::parse("00000000-0000-0000-0000-000000000001").expect("a GUID");
        Answer::Registered { id, version: 1, guid, changed: None }
    }

    #[test]
    fn an_id_waits_for_its_own_records_alone() {
        let mut waits = Unarchived::default();
        waits.note(&[record(4, "a", 7), (Offset::new(5), Record::Noop), record(6, "b", 8), record(9, "c", 7)]);
        assert_eq!(waits.needed_for(&registered(8)), Some(Offset::new(7)));
        assert_eq!(waits.needed_for(&registered(7)), Some(Offset::new(10)));
        assert_eq!(waits.needed_for(&registered(1)), None);
        assert_eq!(waits.needed_for(&Answer::Number(7)), None, "no id is given out");
        waits.archived_to(Offset::new(7));
        assert_eq!((waits.needed_for(&registered(8)), waits.needed_for(&registered(7))), (None, Some(Offset::new(10))));
    }

    #[test]
    fn fewer_ids_wait_than_a_restore_leaves_out() {
        let mut waits = Unarchived::default();
        let mut offset = 0;
        while waits.check_room().is_ok() {
            waits.note(&[record(offset, "a", 1)]);
            offset += 1;
            assert!(offset < IDS_LEFT_OUT as u64);
        }
        waits.archived_to(Offset::new(1));
        assert_eq!(waits.check_room(), Ok(()));
    }
}
