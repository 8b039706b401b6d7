//! One shard's part of copies: the partitions whose lanes this broker leads here are copied from the bucket into their
//! logs.
//!
//! Owns: which partitions are copied, one step after the other. Does not own: where a batch goes (the proposer). Shard-
//! local. Copies take turns: at most `TURNS` reads are under way, each of `STEP_BYTES`, so a copy takes the room in
//! queues and journal that a few producers would take. More topics than have a place (`places`) wait for one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::select;
use tidewater_storage::env::Notify;
use tidewater_storage::model::batch::forget_producer;
use tidewater_storage::model::{Batch, BatchHeader, Offset, OffsetRange, PartitionId, TopicId};
use tidewater_tiering::fetch::{RemoteRead, RemoteReader};
use tokio::sync::Semaphore;

use super::error::CopyError;
use super::facts::{CopyCounts, CopyFacts};
use super::origin::{Origin, OriginParts};
use super::places::Places;
use super::prepare::{self, CopyAsk, CopyBegun, CopyPlan};
use crate::controller::client::ControllerHandle;
use crate::controller::copies::{CopyPartition, TopicCopy};
use crate::controller::image::PartitionImage;
use crate::limits::COPIES_MAX;
use crate::partition::message::{CheckedBatch, Origin as ProduceOrigin, PartitionAddress, ProducePart};
use crate::partition::router::Router;
use crate::partition::shard::PartitionShard;
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::state::replica::Replica;

/// Reads that are under way at once.
const TURNS: usize = 4;
/// Bytes that are read and stored in one step.
const STEP_BYTES: usize = 2 << 20;
/// Between looks at whether what was copied is archived.
const ARCHIVE_LOOK: Duration = Duration::from_millis(500);
/// After a step that failed; twice as long each time, up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What a shard's part is started with.
pub struct CopyParts {
    pub origins: OriginParts,
    pub controller: ControllerHandle,
    pub partitions: Rc<PartitionShard>,
    pub router: Router,
}

/// See the header. Cheap to clone.
#[derive(Clone)]
pub struct CopyShard {
    inner: Rc<Inner>,
}

struct Inner {
    parts: CopyParts,
    jobs: RefCell<BTreeMap<PartitionId, Rc<Job>>>,
    origins: Places<Origin>,
    turns: Semaphore,
    records: Cell<u64>,
    bytes: Cell<u64>,
}

/// A partition that is being copied.
struct Job {
    partition: PartitionImage,
    of: CopyPartition,
    reached: Cell<Offset>,
    reason: RefCell<Option<String>>,
    /// It waits for a place.
    queued: Cell<bool>,
    /// All of it is copied, and not all of that is archived.
    archiving: Cell<bool>,
}

/// What a step came to.
enum Step {
    On,
    /// The partition is complete, and the controller has noted it.
    Done,
}

impl fmt::Debug for CopyShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CopyShard({} partitions)", self.inner.jobs.borrow().len())
    }
}

impl CopyShard {
    /// Copies what is to be copied until the node stops.
    #[must_use]
    pub fn start(parts: CopyParts) -> Self {
        let inner = Inner {
            parts,
            jobs: RefCell::default(),
            origins: Places::new(COPIES_MAX),
            turns: Semaphore::new(TURNS),
            records: Cell::default(),
            bytes: Cell::default(),
        };
        let shard = Self { inner: Rc::new(inner) };
        let inner = Rc::clone(&shard.inner);
        drop(shard.inner.parts.origins.env.tasks.spawn("copies", async move { inner.run().await }));
        shard
    }

    /// Begins a copy. On shard 0.
    pub fn begin(&self, ask: CopyAsk) -> impl Future<Output = Result<CopyBegun, CopyError>> + use<> {
        let (parts, controller) = (self.inner.parts.origins.clone(), self.inner.parts.controller.clone());
        async move { prepare::begin(&parts, &controller, ask).await }
    }

    /// What a copy would bring. On shard 0.
    pub fn plan(&self, ask: CopyAsk) -> impl Future<Output = Result<CopyPlan, CopyError>> + use<> {
        let (parts, controller) = (self.inner.parts.origins.clone(), self.inner.parts.controller.clone());
        async move { prepare::plan(&parts, &controller, ask).await }
    }

    /// What this shard says about the copies that it makes.
    #[must_use]
    pub fn facts(&self) -> Vec<CopyFacts> {
        let jobs = self.inner.jobs.borrow();
        let fact = |(id, job): (&PartitionId, &Rc<Job>)| CopyFacts {
            topic: id.topic.0,
            partition: id.index.0,
            reached: job.reached.get().get(),
            reason: job.reason.borrow().clone(),
            queued: job.queued.get(),
            archiving: job.archiving.get(),
        };
        jobs.iter().map(fact).collect()
    }

    #[must_use]
    pub fn counts(&self) -> CopyCounts {
        let jobs = self.inner.jobs.borrow();
        CopyCounts {
            records: self.inner.records.get(),
            bytes: self.inner.bytes.get(),
            running: jobs.len() as u64,
            failing: jobs.values().filter(|job| job.reason.borrow().is_some()).count() as u64,
        }
    }
}

impl Inner {
    async fn run(self: Rc<Self>) {
        let led = Rc::new(Notify::default());
        self.parts.partitions.on_leadership(Rc::clone(&led));
        loop {
            let revision = self.parts.controller.image().revision;
            self.take_up();
            select(pin!(led.notified()), pin!(self.parts.controller.image_after(revision))).await;
        }
    }

    /// Starts what this broker leads and does not copy yet.
    fn take_up(self: &Rc<Self>) {
        let image = self.parts.controller.image();
        for topic in image.topics.values() {
            let Some(copy) = topic.copy.as_ref().filter(|copy| copy.finished.is_none()) else { continue };
            for (partition, of) in topic.partitions.iter().zip(&copy.partitions) {
                if copy.done.contains(&partition.id.index.0) || !self.leads(partition) {
                    continue;
                }
                if self.jobs.borrow().contains_key(&partition.id) {
                    continue;
                }
                let job = Rc::new(Job {
                    partition: *partition,
                    of: *of,
                    reached: Cell::new(of.start),
                    reason: RefCell::default(),
                    queued: Cell::new(false),
                    archiving: Cell::new(false),
                });
                self.jobs.borrow_mut().insert(partition.id, Rc::clone(&job));
                let this = Rc::clone(self);
                let task = async move { this.copy(&job).await };
                drop(self.parts.origins.env.tasks.spawn("copy of a partition", task));
            }
        }
    }

    fn leads(&self, partition: &PartitionImage) -> bool {
        self.parts.partitions.lane(partition.lane).is_some_and(|lane| lane.status.leading().is_some())
    }

    /// The copy, if the partition is still to be copied here.
    fn wanted(&self, job: &Job) -> Option<Arc<TopicCopy>> {
        let (image, id) = (self.parts.controller.image(), job.partition.id);
        let copy = image.topic_by_id(id.topic)?.copy.clone()?;
        (!copy.done.contains(&id.index.0) && self.leads(&job.partition)).then_some(copy)
    }

    async fn copy(self: Rc<Self>, job: &Job) {
        let (id, mut pause) = (job.partition.id, PAUSE_FIRST);
        while let Some(copy) = self.wanted(job) {
            match self.step(job, &copy).await {
                Ok(Step::Done) => break,
                Ok(Step::On) => {
                    pause = PAUSE_FIRST;
                    job.reason.take();
                }
                Err(error) => {
                    self.failed(job, &copy, &error);
                    self.parts.origins.env.tasks.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        self.jobs.borrow_mut().remove(&id);
        let is_last = self.jobs.borrow().keys().all(|other| other.topic != id.topic);
        if is_last {
            self.origins.free(id.topic);
        }
        // Leadership may have come back, or the topic's image been replaced, while the task was ending.
        if self.wanted(job).is_some() {
            self.take_up();
        }
    }

    /// Logged once, until it is another reason.
    fn failed(&self, job: &Job, copy: &TopicCopy, error: &CopyError) {
        let topic = job.partition.id.topic;
        if error.is_of_old_manifest()
            && let Some(origin) = self.origins.held(topic)
        {
            origin.forget(job.of.lane);
        }
        let reason = error.to_string();
        if error.is_usual() {
            tracing::debug!(partition = %job.partition.id, %reason, "a copy is tried again");
            return;
        }
        self.origins.yield_place(topic);
        if job.reason.borrow().as_ref() != Some(&reason) {
            let (partition, origin) = (job.partition.id, &copy.origin.topic);
            tracing::warn!(%partition, %origin, %reason, "a copy of a topic makes no progress; it is tried again");
            job.reason.replace(Some(reason));
        }
    }

    async fn step(&self, job: &Job, copy: &TopicCopy) -> Result<Step, CopyError> {
        let id = job.partition.id;
        let lane = self.parts.partitions.lane(job.partition.lane);
        let found = lane.and_then(|lane| {
            let replica = lane.replica(id)?;
            Some((lane, replica))
        });
        let Some((lane, replica)) = found else {
            // The lane has not made the partition yet.
            self.parts.origins.env.tasks.sleep(PAUSE_FIRST).await;
            return Ok(Step::On);
        };
        let reached = replica.high_watermark();
        job.reached.set(reached);
        if reached < job.of.end {
            // First the place, then the turn: those that wait for a place keep none from a turn.
            let origin = self.origin(job, copy).await?;
            let _turn = self.turns.acquire().await;
            return self.append(job, copy, &replica, &origin).await.map(|()| Step::On);
        }
        if replica.log_start() < job.of.log_start {
            let trim = LaneCommand::Trim { partition: id, to: job.of.log_start };
            lane.propose(LaneOp::Command(trim)).await.map_err(|error| CopyError::Trim(error.to_string()))?;
        }
        // A restore of the cluster brings back what is archived, and goes on with copies that are not complete.
        if replica.config().archived && replica.manifest().archived_end < job.of.end {
            job.archiving.set(true);
            self.free_if_copied(id.topic);
            self.parts.origins.env.tasks.sleep(ARCHIVE_LOOK).await;
            return Ok(Step::On);
        }
        let now = self.parts.origins.env.clock.wall();
        self.parts.controller.copied(id.topic, id.index.0, now).await?;
        tracing::info!(partition = %id, origin = %copy.origin.topic, end = %job.of.end, "a partition is copied");
        Ok(Step::Done)
    }

    /// Gives the topic's place up once none of its partitions here has anything left to copy.
    fn free_if_copied(&self, topic: TopicId) {
        let jobs = self.jobs.borrow();
        if jobs.iter().filter(|(id, _)| id.topic == topic).all(|(_, job)| job.archiving.get()) {
            self.origins.free(topic);
        }
    }

    /// Reads the next batches and appends them.
    async fn append(&self, job: &Job, copy: &TopicCopy, replica: &Replica, origin: &Origin) -> Result<(), CopyError> {
        let (id, reached) = (job.partition.id, replica.high_watermark());
        let manifest = origin.manifest(&copy.origin, job.of.lane, id.index).await?;
        // Readers of the origin do not see the first records of the first batch; the batch is copied whole.
        let from = reached.max(job.of.log_start);
        if from < manifest.log_start {
            return Err(CopyError::Gone { partition: id, wanted: from, found: manifest.log_start });
        }
        let view = RemoteReader::view(&manifest, from);
        let read = origin.remote.read_batches(view, from, job.of.end, STEP_BYTES).await;
        let read = read.map_err(|error| CopyError::Read { place: origin.place.clone(), error: Box::new(error) })?;
        let batches = batches(id, reached, job.of.end, read)?;
        let (first, bytes) = (reached, batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>());
        let address = PartitionAddress { id, lane: job.partition.lane, shard: job.partition.shard };
        let part = |batch| ProducePart { address, batch, origin: ProduceOrigin::Copy };
        let answers = self.parts.router.produce(batches.into_iter().map(part).collect()).await;
        for answer in answers {
            answer?;
        }
        let end = replica.high_watermark();
        job.reached.set(end);
        self.records.set(self.records.get() + (end.get() - first.get()));
        self.bytes.set(self.bytes.get() + bytes);
        Ok(())
    }

    /// The origin, once the topic has a place.
    async fn origin(&self, job: &Job, copy: &TopicCopy) -> Result<Rc<Origin>, CopyError> {
        let of = &copy.origin;
        let open = || Origin::open(&self.parts.origins, of.url.as_deref(), &of.cluster_name);
        job.queued.set(self.origins.held(job.partition.id.topic).is_none());
        let origin = self.origins.take(job.partition.id.topic, open).await;
        job.queued.set(false);
        origin
    }
}

/// The batches of a read that continue a partition at `next`, without their producers: a producer of the origin's
/// cluster may have the id of another one here, and one of this cluster begins with its first sequence in every topic.
fn batches(
    partition: PartitionId,
    mut next: Offset,
    end: Offset,
    read: RemoteRead,
) -> Result<Vec<CheckedBatch>, CopyError> {
    let bad = |error| CopyError::Batch { partition, error };
    let mut taken = Vec::new();
    for bytes in read.batches {
        for Batch { header, bytes } in Batch::split_all(bytes).map_err(bad)? {
            let found: OffsetRange = header.offsets();
            if found.start != next || found.end > end {
                return Err(CopyError::Gap { partition, wanted: next, found });
            }
            header.verify_crc(&bytes).map_err(bad)?;
            let mut bytes = BytesMut::from(&bytes[..]);
            let header = match header.producer_id {
                None => header,
                Some(_) => {
                    forget_producer(&mut bytes);
                    BatchHeader::parse(&bytes).map_err(bad)?
                }
            };
            next = found.end;
            taken.push(CheckedBatch { header, bytes });
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidewater_storage::model::batch::patch;
    use tidewater_storage::model::record::{BatchBuilder, Record};
    use tidewater_storage::model::{Compression, LeaderEpoch, ProducerEpoch, ProducerId, TimestampMs};

    use super::*;

    fn batch(base: u64, records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(3), ProducerEpoch(1), 40);
        for n in 0..records {
            builder.push(Record::new(TimestampMs(1_000 + n as i64), None, Some(Bytes::from_static(b"v"))));
        }
        let mut bytes = BytesMut::from(&builder.build()[..]);
        patch(&mut bytes, Offset::new(base), LeaderEpoch(4));
        bytes.freeze()
    }

    fn read(all: &[Bytes]) -> RemoteRead {
        let range = OffsetRange::new(Offset::ZERO, Offset::ZERO);
        RemoteRead { batches: vec![all.concat().into()], range, bytes: 0 }
    }

    #[test]
    fn batches_keep_offsets_and_leader_epochs_and_lose_their_producers() {
        let id = PartitionId::default();
        let taken = batches(id, Offset::new(7), Offset::new(12), read(&[batch(7, 2), batch(9, 3)])).expect("continue");
        let of = |batch: &CheckedBatch| (batch.header.base_offset.get(), batch.header.leader_epoch.0);
        assert_eq!(taken.iter().map(of).collect::<Vec<_>>(), [(7, 4), (9, 4)]);
        for batch in &taken {
            assert_eq!(batch.header.producer_id, None);
            assert!(batch.header.verify_crc(&batch.bytes).is_ok());
            assert_eq!(BatchHeader::parse(&batch.bytes), Ok(batch.header));
        }
    }

    #[test]
    fn a_gap_a_damaged_batch_and_one_beyond_the_end_are_refused() {
        let id = PartitionId::default();
        let (next, end) = (Offset::new(7), Offset::new(12));
        let gap = batches(id, next, end, read(&[batch(7, 2), batch(10, 2)]));
        assert!(matches!(gap, Err(CopyError::Gap { wanted, .. }) if wanted == Offset::new(9)), "{gap:?}");
        let beyond = batches(id, next, Offset::new(8), read(&[batch(7, 2)]));
        assert!(matches!(beyond, Err(CopyError::Gap { .. })), "{beyond:?}");
        let mut damaged = BytesMut::from(&batch(7, 2)[..]);
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let damaged = batches(id, next, end, read(&[damaged.freeze()]));
        assert!(matches!(damaged, Err(CopyError::Batch { .. })), "{damaged:?}");
    }
}
