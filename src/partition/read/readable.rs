//! What a read needs of a partition: its offsets, its local log if it has one, and where its records are in the bucket.
//!
//! Functions of `read_path` are generic over it, so that reads of a replica of this broker cost what they would cost
//! without it. Shard-local.

use tidewater_storage::log::PartitionLog;
use tidewater_storage::model::{LeaderEpoch, Offset, OffsetRange, PartitionId, TopicName};
use tidewater_tiering::fetch::{ReadView, RemoteReader};

use crate::partition::state::replica::Replica;

/// A partition that serves reads.
pub trait Readable {
    fn id(&self) -> PartitionId;

    fn topic(&self) -> &TopicName;

    fn log_start(&self) -> Offset;

    fn high_watermark(&self) -> Offset;

    fn last_stable_offset(&self) -> Offset;

    /// The leader epoch in which the record at `offset` was appended, if it is known.
    fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch>;

    /// Its records on this broker's disk; `None` for a partition that has all of them in the bucket.
    fn local(&self) -> Option<&PartitionLog>;

    /// First offset that is not in the bucket.
    fn archived_end(&self) -> Offset;

    /// Does this broker's cluster put its records into the bucket?
    fn is_uploaded(&self) -> bool;

    /// Does the bucket hold a good copy of the record?
    fn has_archived(&self, offset: Offset) -> bool;

    /// Where the records from `from` on are in the bucket, as far as one read takes them.
    fn view(&self, from: Offset) -> ReadView;

    /// Where all records are in the bucket.
    fn whole_view(&self) -> ReadView;

    /// Was damage that begins there not logged yet?
    fn is_new_damage(&self, begins: Option<Offset>) -> bool;

    /// Is an offset above the end surely no record's? Otherwise its reader tries again.
    fn is_beyond(&self) -> bool;

    /// Objects that a view named are gone: learns what names them now. False if that is known already.
    fn refresh(&self) -> impl Future<Output = bool>;

    /// The offsets a consumer may read.
    fn readable(&self) -> OffsetRange {
        OffsetRange::new(self.log_start(), self.high_watermark())
    }
}

impl Readable for Replica {
    fn id(&self) -> PartitionId {
        self.id
    }

    fn topic(&self) -> &TopicName {
        Self::topic(self)
    }

    fn log_start(&self) -> Offset {
        Self::log_start(self)
    }

    fn high_watermark(&self) -> Offset {
        Self::high_watermark(self)
    }

    fn last_stable_offset(&self) -> Offset {
        Self::last_stable_offset(self)
    }

    fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let epochs = self.epochs();
        epoch_at(&epochs, offset)
    }

    fn local(&self) -> Option<&PartitionLog> {
        Some(&self.log)
    }

    fn archived_end(&self) -> Offset {
        self.manifest().archived_end
    }

    fn is_uploaded(&self) -> bool {
        self.config().archived
    }

    fn has_archived(&self, offset: Offset) -> bool {
        let manifest = self.manifest();
        offset < manifest.archived_end && manifest.quarantine_in(OffsetRange::new(offset, offset.next())).is_none()
    }

    fn view(&self, from: Offset) -> ReadView {
        RemoteReader::view(&self.manifest(), from)
    }

    fn whole_view(&self) -> ReadView {
        ReadView::whole(&self.manifest())
    }

    fn is_new_damage(&self, begins: Option<Offset>) -> bool {
        Self::is_new_damage(self, begins)
    }

    /// A leader knows its end.
    fn is_beyond(&self) -> bool {
        true
    }

    /// The manifest is this broker's own state: it names what is in the bucket.
    async fn refresh(&self) -> bool {
        false
    }
}

/// The epoch of an offset, of epochs with their first offsets, ascending.
#[must_use]
pub fn epoch_at(epochs: &[(LeaderEpoch, Offset)], offset: Offset) -> Option<LeaderEpoch> {
    let n = epochs.partition_point(|(_, start)| *start <= offset);
    n.checked_sub(1).and_then(|n| epochs.get(n)).map(|(epoch, _)| *epoch)
}
