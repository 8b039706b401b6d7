//! Commands on the broker that leads `_schemas`: planned one at a time on everything that is committed, written in the
//! term in which that was read, applied, archived, answered.
//!
//! A write whose outcome is not known may still come into the log of its term. Before the next plan a NOOP is written
//! behind it: once that is committed, so is everything before it, or it never will be.

use std::sync::Arc;

use tidewater_storage::model::{Offset, PartitionId, Term};

use super::archived::Unarchived;
use super::log::{self, WriteError};
use super::{IDS_LEFT_OUT, SchemaRegistry, Tried};
use crate::partition::message::PartitionAddress;
use crate::schema::http::reply::Reply;
use crate::schema::record::Record;
use crate::schema::request::{Answer, Command};
use crate::schema::{Plan, SchemaError};

/// What this broker knows of its own writes in one term.
#[derive(Debug, Default)]
pub(super) struct Writer {
    of: Option<(PartitionId, Term)>,
    /// The outcome of a write is not known.
    unsettled: bool,
    /// Ids whose records are not in the bucket.
    pub(super) unarchived: Unarchived,
}

/// A command that was carried out: the answer, and the offset up to which the log must be archived before it is given.
struct Carried {
    answer: Answer,
    archived_to: Option<Offset>,
}

impl SchemaRegistry {
    /// # Errors
    /// The command is refused; nothing was written, or an id is not archived in time.
    pub(super) async fn lead(&self, address: PartitionAddress, command: Command) -> Result<Tried<Reply>, SchemaError> {
        let carried = match self.write(address, command).await? {
            Tried::Done(carried) => carried,
            Tried::NotLeader => return Ok(Tried::NotLeader),
            Tried::Unknown(error) => return Ok(Tried::Unknown(error)),
        };
        if let Some(to) = carried.archived_to {
            self.wait_until_archived(address, to).await?;
        }
        Ok(Tried::Done(carried.answer.into()))
    }

    async fn write(&self, address: PartitionAddress, command: Command) -> Result<Tried<Carried>, SchemaError> {
        let mut writer = self.shared.writer.lock().await;
        let Some(term) = self.shared.leading(address) else { return Ok(Tried::NotLeader) };
        if let Tried::NotLeader = self.settle(&mut writer, address, term).await? {
            return Ok(Tried::NotLeader);
        }
        let gives_id = matches!(command, Command::Register { .. });
        if gives_id {
            self.refresh_unarchived(&mut writer.unarchived, address).await?;
        }
        let shared = Arc::clone(&self.shared);
        let planned = self.shared.handle.spawn_blocking(move || {
            let copy = shared.copy();
            copy.state.plan(&command).map(|plan| (plan, copy.end))
        });
        let (plan, end) = planned.await.map_err(|error| SchemaError::Store(error.to_string()))??;
        let Plan { records, answer } = plan;
        if records.is_empty() {
            let archived_to = writer.unarchived.needed_for(&answer);
            return Ok(Tried::Done(Carried { answer, archived_to }));
        }
        if gives_id {
            writer.unarchived.check_room()?;
        }
        match self.append(&mut writer, (address, term), end, records).await? {
            Tried::Done(end) => Ok(Tried::Done(Carried { answer, archived_to: gives_id.then_some(end) })),
            Tried::NotLeader => Ok(Tried::NotLeader),
            Tried::Unknown(error) => Ok(Tried::Unknown(error)),
        }
    }

    /// Reads everything that is committed, and all that the log of this term may still get; in a restored cluster
    /// writes first that ids are left out.
    async fn settle(
        &self,
        writer: &mut Writer,
        address: PartitionAddress,
        term: Term,
    ) -> Result<Tried<()>, SchemaError> {
        if let Tried::NotLeader = self.read_leading(address).await? {
            return Ok(Tried::NotLeader);
        }
        if writer.of != Some((address.id, term)) {
            let unarchived = self.read_unarchived(address).await?;
            *writer = Writer { of: Some((address.id, term)), unsettled: false, unarchived };
        }
        if writer.unsettled {
            match log::write(&self.shared.meshes.partitions, address, term, &[Record::Noop]).await {
                Ok(_) => writer.unsettled = false,
                Err(WriteError::NotLeader) => return Ok(Tried::NotLeader),
                Err(WriteError::Refused(error) | WriteError::Unknown(error)) => return Err(error),
            }
            if let Tried::NotLeader = self.read_leading(address).await? {
                return Ok(Tried::NotLeader);
            }
            writer.unarchived = self.read_unarchived(address).await?;
        }
        let lineage = self.shared.images.borrow().lineage.as_ref().map_or(0, |lineage| lineage.epoch);
        if self.shared.copy().state.lineage() < lineage {
            let (records, end) = {
                let copy = self.shared.copy();
                (copy.state.skipping_ids(IDS_LEFT_OUT, lineage), copy.end)
            };
            match self.append(writer, (address, term), end, records).await? {
                Tried::Done(_) => {
                    tracing::info!(lineage, left_out = IDS_LEFT_OUT, "a restored cluster leaves schema ids out");
                }
                Tried::NotLeader => return Ok(Tried::NotLeader),
                Tried::Unknown(error) => return Err(error),
            }
        }
        Ok(Tried::Done(()))
    }

    /// Writes records that were planned on the copy as of `from`, and applies them; the end of the log behind them.
    async fn append(
        &self,
        writer: &mut Writer,
        (address, term): (PartitionAddress, Term),
        from: Offset,
        records: Vec<Record>,
    ) -> Result<Tried<Offset>, SchemaError> {
        let written = match log::write(&self.shared.meshes.partitions, address, term, &records).await {
            Ok(written) => written,
            Err(WriteError::NotLeader) => return Ok(Tried::NotLeader),
            Err(WriteError::Refused(error)) => return Err(error),
            Err(WriteError::Unknown(error)) => {
                writer.unsettled = true;
                return Ok(Tried::Unknown(error));
            }
        };
        let offsets = (written.start.get()..written.end.get()).map(Offset::new);
        let records: Vec<(Offset, Record)> = offsets.zip(records).collect();
        if written.start != from {
            // No client may write here and the term is ours: it would have to be a defect.
            tracing::error!(expected = %from, found = %written.start, "_schemas has a second writer; see which ids are twice in it");
            writer.of = None;
            return Err(SchemaError::Store("another writer was faster; try again".to_owned()));
        }
        writer.unarchived.note(&records);
        let _one = self.shared.reading.lock().await;
        // A query may have read them meanwhile.
        if self.end() < written.end {
            self.shared.copy_mut().apply(records, written.end);
        }
        Ok(Tried::Done(written.end))
    }
}
