//! `compression.type` other than `producer`: batches that arrive in another codec are packed again on the side runtime.
//!
//! Cost: a batch takes one thread of the side runtime for the time that its codecs take, and a shard uses one thread at
//! a time. Memory per shard: what one batch unpacks to (`UNPACKED_MAX`), what one request is packed to
//! (`RECOMPRESSED_REQUEST_MAX`), and what waits to be committed (`RECOMPRESSED_SHARD_MAX`).
//!
//! Order: a request's batches reach their lanes in the client's order, though recompression takes time. [`HandOver`]
//! has the Produce requests of a connection hand their batches over one after the other. A request asks for its turn
//! and for the shard's thread in its first poll, and first polls are in the client's order: so a request never waits
//! for one behind it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;
use tidewater_storage::model::recompress::recompress;
use tidewater_storage::model::record::RecordError;
use tidewater_storage::model::{BatchError, BatchHeader};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::{RECOMPRESSED_SHARD_MAX, UNPACKED_MAX};
use crate::config::topic::TopicCompression;
use crate::partition::message::CheckedBatch;

/// What a permit of the shard's memory stands for. Bytes.
const PERMIT_BYTES: usize = 4096;
const PERMITS: usize = RECOMPRESSED_SHARD_MAX / PERMIT_BYTES;

/// Recompresses the batches of one shard. Shard-local, cheap to clone.
#[derive(Clone, Debug)]
pub struct Recompressor {
    side: Handle,
    thread: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

/// Why a batch was not recompressed.
#[derive(Debug, thiserror::Error)]
pub enum RecompressError {
    /// Its records do not unpack, unpack to too much or are not what the header says.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The side runtime stops, or the codec panicked.
    #[error("the batch could not be recompressed: the broker stops")]
    Interrupted,
    /// A fault of ours: what was made is no batch.
    #[error("the batch was recompressed to what is no batch: {0}")]
    Made(BatchError),
}

/// The shard's memory for recompressed batches of one request, until they are committed.
#[derive(Debug)]
pub struct Recompressed {
    _memory: Option<OwnedSemaphorePermit>,
}

/// The shard's thread for recompression.
#[derive(Debug)]
pub struct Working<'a> {
    of: &'a Recompressor,
    _thread: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Recompressor {
    /// One that works on the side runtime.
    #[must_use]
    pub fn new(side: Handle) -> Self {
        Self { side, thread: Arc::new(Semaphore::new(1)), memory: Arc::new(Semaphore::new(PERMITS)) }
    }

    /// Waits for the shard's thread, first come, first served.
    pub async fn begin(&self) -> Working<'_> {
        let thread = Arc::clone(&self.thread).acquire_owned().await;
        debug_assert!(thread.is_ok(), "the semaphore is never closed");
        Working { of: self, _thread: thread.ok(), bytes: 0 }
    }
}

impl Working<'_> {
    /// Bytes of the batches made so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch in the codec.
    ///
    /// # Errors
    /// Its records are bad, or the broker stops.
    pub async fn recompress(
        &mut self,
        batch: CheckedBatch,
        to: TopicCompression,
    ) -> Result<CheckedBatch, RecompressError> {
        let (answer, answered) = oneshot::channel();
        self.of.side.spawn_blocking(move || {
            let header = batch.header;
            let made = recompress(&header, &batch.bytes.freeze(), to.codec, to.level, UNPACKED_MAX);
            // The request may have been given up.
            let _ = answer.send(made);
        });
        let bytes = answered.await.map_err(|_| RecompressError::Interrupted)??;
        let header = BatchHeader::parse(&bytes).map_err(RecompressError::Made)?;
        self.bytes += bytes.len();
        Ok(CheckedBatch { header, bytes })
    }

    /// Gives the thread back once the shard has memory for what was made.
    pub async fn end(self) -> Recompressed {
        let permits = u32::try_from(self.bytes.div_ceil(PERMIT_BYTES).min(PERMITS)).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.of.memory).acquire_many_owned(permits).await;
        debug_assert!(memory.is_ok(), "the semaphore is never closed");
        Recompressed { _memory: memory.ok() }
    }
}

/// Is the batch stored in another codec than it has?
#[must_use]
pub fn differs(header: &BatchHeader, to: Option<TopicCompression>) -> Option<TopicCompression> {
    to.filter(|to| header.compression() != Some(to.codec))
}

/// The order in which the Produce requests of one connection hand their batches to the lanes. Shard-local.
#[derive(Debug, Default)]
pub struct HandOver {
    /// Resolves when the last request that asked for a turn has had it.
    last: RefCell<Option<oneshot::Receiver<()>>>,
}

/// A request's turn to hand its batches over; dropping it lets the next one go.
#[derive(Debug, Default)]
pub struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _after: Option<oneshot::Sender<()>>,
}

impl HandOver {
    /// The turn behind all that were asked for; `late` when this request hands over after its first poll.
    #[must_use]
    pub fn turn(self: &Rc<Self>, late: bool) -> Turn {
        let mut last = self.last.borrow_mut();
        let before = last.take().and_then(|mut before| matches!(before.try_recv(), Ok(None)).then_some(before));
        if before.is_none() && !late {
            return Turn::default();
        }
        let (after, next) = oneshot::channel();
        *last = Some(next);
        Turn { before, _after: Some(after) }
    }
}

impl Turn {
    /// Waits until every request before has handed its batches over; at once when none is under way.
    pub async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // It answers by being dropped.
            let _ = before.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use futures::FutureExt;
    use tidewater_storage::model::record::{BatchBuilder, Record};
    use tidewater_storage::model::{Compression, TimestampMs};

    use super::*;

    fn batch(codec: Compression, records: usize) -> CheckedBatch {
        let mut builder = BatchBuilder::new(codec);
        (0..records)
            .for_each(|n| builder.push(Record::new(TimestampMs(n as i64), None, Some(Bytes::from(vec![7; 1000])))));
        let bytes = BytesMut::from(&builder.build()[..]);
        CheckedBatch { header: BatchHeader::parse(&bytes).expect("parses"), bytes }
    }

    #[test]
    fn requests_hand_over_in_order_when_one_is_late() {
        let order = Rc::new(HandOver::default());
        assert!(order.turn(false).come().now_or_never().is_some(), "nothing is under way");
        let (mut first, mut second) = (order.turn(true), order.turn(false));
        let mut third = order.turn(false);
        assert!(first.come().now_or_never().is_some());
        let mut waiting = Box::pin(second.come());
        assert!(waiting.as_mut().now_or_never().is_none() && third.come().now_or_never().is_none());
        drop(first);
        assert!(waiting.now_or_never().is_some());
        drop((second, third));
        assert!(order.turn(false).before.is_none(), "order costs nothing once nothing is late");
    }

    #[test]
    fn a_batch_is_recompressed_only_into_another_codec() {
        let to = |codec| Some(TopicCompression { codec, level: None });
        let gzip = batch(Compression::Gzip, 1).header;
        assert_eq!(differs(&gzip, None), None);
        assert_eq!(differs(&gzip, to(Compression::Gzip)), None);
        assert_eq!(differs(&gzip, to(Compression::Lz4)), to(Compression::Lz4));
    }

    #[test]
    fn one_request_works_at_a_time_and_what_it_made_is_bounded() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let recompressor = Recompressor::new(runtime.handle().clone());
        let none = TopicCompression { codec: Compression::None, level: None };
        futures::executor::block_on(async {
            let mut working = recompressor.begin().await;
            assert!(recompressor.begin().now_or_never().is_none(), "the thread is taken");
            let made = working.recompress(batch(Compression::Zstd, 100), none).await.expect("recompresses");
            assert_eq!((made.header.compression(), made.header.record_count), (Some(Compression::None), 100));
            made.header.verify_crc(&made.bytes).expect("checksum holds");
            let bytes = working.bytes();
            assert!(bytes > 100_000, "{bytes}");
            let held = working.end().await;
            assert_eq!(recompressor.memory.available_permits(), PERMITS - bytes.div_ceil(PERMIT_BYTES));
            assert!(recompressor.begin().now_or_never().is_some(), "the thread is free");
            drop(held);
            assert_eq!(recompressor.memory.available_permits(), PERMITS);
            let mut broken = batch(Compression::Zstd, 100);
            broken.bytes[70..].fill(0);
            let refused = recompressor.begin().await.recompress(broken, none).await;
            assert!(matches!(refused, Err(RecompressError::Records(_))));
        });
    }
}
