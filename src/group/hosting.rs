//! What a coordinator has to know of the lanes on its shard: a group lives where the lane of its partition is led, and
//! only for as long. *Shard-local.*

use futures::future::LocalBoxFuture;
use tidewater_storage::model::Term;

use crate::partition::message::PartitionAddress;
use crate::partition::shard::PartitionShard;

/// Leadership of the partitions of this shard. Implemented by [`PartitionShard`].
pub trait Hosting {
    /// The term in which this broker leads the partition's lane.
    fn leading(&self, partition: PartitionAddress) -> Option<Term>;

    /// The same, and no other broker can lead it by now: what groups answer is the newest.
    fn serving(&self, partition: PartitionAddress) -> Option<Term>;

    /// Resolves once leadership of a lane has changed since it resolved last. For one task at a time.
    fn changed(&self) -> LocalBoxFuture<'_, ()>;
}

impl Hosting for PartitionShard {
    fn leading(&self, partition: PartitionAddress) -> Option<Term> {
        self.lane(partition.lane)?.status.leading()
    }

    fn serving(&self, partition: PartitionAddress) -> Option<Term> {
        self.lane(partition.lane)?.serving()
    }

    fn changed(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.leadership_changed())
    }
}
