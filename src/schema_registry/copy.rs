//! This broker's copy of the registry's state, and how it is brought up to date: from the leader's own log, or from any
//! replica up to an offset that the leader named.

use bytes::Bytes;
use tidewater_storage::model::{Offset, PartitionId};
use tokio::time::{Instant, sleep};

use super::log::{self, SERVE_PATIENCE, SERVE_PAUSE};
use super::{SchemaRegistry, Tried};
use crate::partition::message::{PartitionAddress, ReadError};
use crate::schema::record::Record;
use crate::schema::{SchemaError, State};

/// The state as of an offset of one incarnation of `_schemas`.
#[derive(Debug, Default)]
pub(super) struct Copy {
    pub(super) of: Option<PartitionId>,
    pub(super) state: State,
    /// First offset that is not applied.
    pub(super) end: Offset,
    /// It has once been where the leader was.
    pub(super) was_whole: bool,
}

impl Copy {
    /// Empty if it was of another partition.
    pub(super) fn be_of(&mut self, of: Option<PartitionId>) {
        if self.of != of {
            *self = Self { of, ..Self::default() };
        }
    }

    /// Applies records that stand below `end`, the next ones of the log.
    pub(super) fn apply(&mut self, records: Vec<(Offset, Record)>, end: Offset) {
        assert!(end >= self.end, "a copy goes forward: from {} to {end}", self.end);
        let from = self.end;
        records.into_iter().filter(|(offset, _)| *offset >= from).for_each(|(_, record)| self.state.apply(record));
        self.end = end;
    }
}

impl SchemaRegistry {
    /// Applies everything that is committed, on the leader; the end. A leader that has not applied its term's first
    /// entry, or that no quorum answers, does not answer reads.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn read_leading(&self, address: PartitionAddress) -> Result<Tried<Offset>, SchemaError> {
        let _one = self.shared.reading.lock().await;
        self.shared.copy_mut().be_of(Some(address.id));
        let begun = Instant::now();
        loop {
            let from = self.end();
            let done = match log::read_leading(&self.shared.meshes.partitions, address, from).await {
                Ok(done) => done,
                Err(ReadError::OutOfRange { valid, .. }) if from < valid.start => {
                    self.shared.copy_mut().end = valid.start;
                    continue;
                }
                Err(ReadError::NotLeader(_) | ReadError::UnknownPartition(_)) => {
                    if begun.elapsed() >= SERVE_PATIENCE || self.shared.leading(address).is_none() {
                        return Ok(Tried::NotLeader);
                    }
                    sleep(SERVE_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(unreadable(&error)),
            };
            self.take(&done.batches)?;
            let end = self.end();
            if end >= done.high_watermark {
                return Ok(Tried::Done(end));
            }
            if end == from {
                let why = format!("nothing can be read at offset {from} of _schemas, before its end");
                return Err(SchemaError::Store(why));
            }
        }
    }

    /// Applies everything below `end`, which the leader named, from any replica.
    ///
    /// # Errors
    /// [`SchemaError::NoLeader`] if no replica that has it answers before `deadline`; or the log cannot be read.
    pub(super) async fn read_to(
        &self,
        address: PartitionAddress,
        end: Offset,
        deadline: Instant,
    ) -> Result<(), SchemaError> {
        let _one = self.shared.reading.lock().await;
        self.shared.copy_mut().be_of(Some(address.id));
        loop {
            let from = self.end();
            if from >= end {
                return Ok(());
            }
            match log::read_anywhere(&self.shared.meshes.partitions, address, from, end).await {
                Ok(batches) => self.take(&batches)?,
                Err(ReadError::OutOfRange { valid, .. }) if from < valid.start => {
                    self.shared.copy_mut().end = valid.start;
                }
                Err(ReadError::NotLeader(_) | ReadError::UnknownPartition(_) | ReadError::Unavailable) => {}
                Err(error) => return Err(unreadable(&error)),
            }
            if self.end() == from {
                if Instant::now() >= deadline {
                    return Err(SchemaError::NoLeader);
                }
                sleep(SERVE_PAUSE).await;
            }
        }
    }

    /// Applies batches that were read at the end of the copy.
    fn take(&self, batches: &[Bytes]) -> Result<(), SchemaError> {
        for batches in batches {
            let mut read = log::records(batches, self.end())?;
            let records = std::mem::take(&mut read.records);
            self.shared.copy_mut().apply(records, read.end);
        }
        Ok(())
    }
}

fn unreadable(error: &ReadError) -> SchemaError {
    SchemaError::Store(format!("_schemas cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::PartitionId;

    use super::*;
    use crate::schema::subject::Context;

    fn next(next: i32) -> Record {
        Record::NextId { context: Context::default(), next, lineage: None }
    }

    #[test]
    fn records_that_a_copy_has_are_not_applied_again() {
        let mut copy = Copy::default();
        copy.be_of(Some(PartitionId::default()));
        copy.apply(vec![(Offset::new(0), next(7)), (Offset::new(1), next(9))], Offset::new(2));
        copy.apply(vec![(Offset::new(1), next(50)), (Offset::new(2), next(10))], Offset::new(3));
        assert_eq!((copy.end, copy.state.next_id(&Context::default())), (Offset::new(3), 10));
        copy.be_of(Some(PartitionId::default()));
        assert_eq!(copy.end, Offset::new(3));
        copy.be_of(None);
        assert_eq!((copy.end, copy.state.next_id(&Context::default())), (Offset::ZERO, 1));
    }
}
