//! One partition of a followed lane: its ends, its leader epochs, its records.
//!
//! Owns: reading through the shard's reader, with one more look at the lane when an object is gone. Does not own: what
//! is known of the partition (`tidewater_tiering::follow`), Kafka's answers. Shard-local, cheap to clone.

use tidewater_storage::model::{LeaderEpoch, Offset, PartitionId, TimestampMs};
use tidewater_tiering::fetch::{ReadView, RemoteError, RemoteRead, RemoteReader, RemoteTime};
use tidewater_tiering::follow::FollowedPartition;
use tidewater_tiering::format::EpochStart;

use crate::lane::LaneFollower;

/// See the header.
#[derive(Clone, Debug)]
pub struct PartitionReader {
    lane: LaneFollower,
    id: PartitionId,
}

impl PartitionReader {
    pub(crate) fn new(lane: LaneFollower, id: PartitionId) -> Self {
        Self { lane, id }
    }

    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Is it known? Until the source has archived something of it, and from its deletion on, it is not.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.lane.with_partition(self.id, |_| ()).is_some()
    }

    /// Was its topic deleted at the source?
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.lane.with_partition(self.id, FollowedPartition::is_dropped).unwrap_or(false)
    }

    /// First offset that clients see; 0 if it is not known.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.lane.with_partition(self.id, FollowedPartition::log_start).unwrap_or(Offset::ZERO)
    }

    /// High watermark and last stable offset: the end of the last bundle. 0 if it is not known.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.lane.with_partition(self.id, FollowedPartition::high_watermark).unwrap_or(Offset::ZERO)
    }

    /// The leader epoch of the last record, if there is one.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.lane.with_partition(self.id, FollowedPartition::leader_epoch).flatten()
    }

    /// Leader epochs with their first offsets, ascending. Those before the first are not known.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochStart> {
        self.lane.with_partition(self.id, |state| state.epochs().to_vec()).unwrap_or_default()
    }

    /// Greatest timestamp, an upper bound; [`TimestampMs::NONE`] without records.
    #[must_use]
    pub fn max_timestamp(&self) -> TimestampMs {
        self.lane.with_partition(self.id, |state| state.manifest().max_timestamp()).unwrap_or(TimestampMs::NONE)
    }

    /// What a read from `from` on needs; `None` if the partition is not known.
    #[must_use]
    pub fn view(&self, from: Offset) -> Option<ReadView> {
        self.lane.with_partition(self.id, |state| RemoteReader::view(state.manifest(), from))
    }

    /// What a search by time needs.
    #[must_use]
    pub fn whole(&self) -> Option<ReadView> {
        self.lane.with_partition(self.id, |state| ReadView::whole(state.manifest()))
    }

    /// Reads whole batches from the one that holds `from` on, about `max_bytes`. `None`: the partition is not known.
    /// `reader` is one over the source's store.
    ///
    /// # Errors
    /// As [`RemoteReader::read_batches`]. An object that is gone or unreadable is looked for once more through a lane
    /// manifest that is read again: the source replaces objects, and deletes the old ones after a while.
    pub async fn read_batches(
        &self,
        reader: &RemoteReader,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Option<RemoteRead>, RemoteError> {
        let read = async || match self.view(from) {
            Some(view) => reader.read_batches(view, from, Offset::MAX, max_bytes).await.map(Some),
            None => Ok(None),
        };
        self.once_more(read).await
    }

    /// The first record at or after `at_or_after`, as [`RemoteReader::find_time`].
    ///
    /// # Errors
    /// As [`PartitionReader::read_batches`].
    pub async fn find_time(
        &self,
        reader: &RemoteReader,
        at_or_after: TimestampMs,
    ) -> Result<Option<RemoteTime>, RemoteError> {
        let find = async || match self.whole() {
            Some(view) => reader.find_time(view, at_or_after, Offset::MAX).await,
            None => Ok(None),
        };
        self.once_more(find).await
    }

    /// The first record with the greatest timestamp, as [`RemoteReader::max_timestamp`].
    ///
    /// # Errors
    /// As [`PartitionReader::read_batches`].
    pub async fn latest_record(&self, reader: &RemoteReader) -> Result<Option<RemoteTime>, RemoteError> {
        let find = async || match self.whole() {
            Some(view) => reader.max_timestamp(view, Offset::MAX).await,
            None => Ok(None),
        };
        self.once_more(find).await
    }

    /// As [`LaneFollower::refresh`].
    pub async fn refresh(&self) -> bool {
        self.lane.refresh().await
    }

    async fn once_more<T>(&self, work: impl AsyncFn() -> Result<T, RemoteError>) -> Result<T, RemoteError> {
        match work().await {
            failed @ Err(RemoteError::Missing { .. } | RemoteError::BadIndex { .. }) => {
                if self.lane.refresh().await {
                    work().await
                } else {
                    failed
                }
            }
            done => done,
        }
    }
}
