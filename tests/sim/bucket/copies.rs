//! Copies of the topic within the cluster: an operator forks it, as it is archived or as a cut has it, while everything
//! else goes on, and someone who cannot wait writes to the copies.
//!
//! In the end each copy that the cluster still has is complete, unless the origin has deleted what was still to be
//! copied; it has the origin's batches at their offsets, without their producers, and behind them only what was written
//! to itself.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidewater::controller::copies::TopicCopy;
use tidewater::controller::image::{PartitionImage, TopicImage};
use tidewater::copies::prepare::CopyAsk;
use tidewater_storage::model::batch::forget_producer;
use tidewater_storage::model::{Offset, TopicId, TopicName};
use tidewater_tiering::restore::TopicState;

use super::epochs::Epochs;
use crate::history::{History, body};
use crate::node::Node;
use crate::workload;
use crate::world::within;

/// Copies of a run, at most.
const COPIES_MAX: u32 = 3;
/// Between two copies, and between two batches for one of them, at most.
const PAUSE_MS: u64 = 5_000;
/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Virtual time in which every copy must be complete.
const CALM_MS: u64 = 600_000;
/// Number of the writer to copies: no producer of the origin's has it.
const WRITER: u32 = 2_000_000;
/// What names of copies begin with.
const PREFIX: &str = "copy-";

/// What is known of the copies of a run.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    begun: Cell<u32>,
    /// As they were seen last: a restored cluster takes one that was complete for a topic like any other.
    known: RefCell<BTreeMap<TopicId, TopicCopy>>,
    /// Bodies of batches that were sent to copies.
    sent: RefCell<BTreeSet<Bytes>>,
}

/// Begins copies, and writes to those that there are, until the run ends.
pub(crate) fn make(epochs: &Rc<Epochs>) {
    for (name, is_writer) in [("copies", false), ("writer to copies", true)] {
        let (env, of) = (epochs.env.clone(), Rc::downgrade(epochs));
        drop(env.tasks.spawn(name, async move {
            let mut n = 0;
            loop {
                let Some(epochs) = of.upgrade() else { return };
                epochs.sleep_ms(1 + epochs.below(PAUSE_MS)).await;
                if epochs.stopped.get() {
                    return;
                }
                let Some(node) = epochs.now().way().node().filter(|_| !epochs.restoring.get()) else { continue };
                if is_writer {
                    n += 1;
                    write(&epochs, &node, n).await;
                } else if epochs.copies.begun.get() < COPIES_MAX {
                    begin(&epochs, &node).await;
                }
            }
        }));
    }
}

/// One copy.
async fn begin(epochs: &Epochs, node: &Node) {
    let world = epochs.now();
    let number = epochs.copies.begun.get();
    let name = format!("{PREFIX}{number}");
    let state = match epochs.below(2) {
        1 if epochs.plan.has("cuts") => TopicState::Cut(None),
        _ => TopicState::Newest,
    };
    let topic_name = |name: &str| TopicName::new(name).expect("legal");
    let ask = CopyAsk { from: None, topic: topic_name(world.topic_name()), name: topic_name(&name), state };
    let least: Vec<Offset> =
        (0..world.plan.partitions).map(|partition| epochs.history.with(partition, |past| past.archived_end)).collect();
    let copies = node.copies.as_ref().expect("brokers of this run copy topics");
    // An answer that does not come may mean a copy that was made: the same name is asked for again.
    let Some(answer) = within(&epochs.env, PATIENCE, copies.begin(ask)).await else { return };
    match answer {
        Ok(begun) => {
            epochs.note(format!("{name} begins, {state:?}, resumed {}", begun.resumed));
            epochs.copies.begun.set(number + 1);
            let copy = begun.topic.copy.as_ref().expect("it is a copy");
            let is_of_now = state == TopicState::Newest && !begun.resumed && !epochs.restoring.get();
            for (of, least) in copy.partitions.iter().zip(least).filter(|_| is_of_now) {
                assert!(of.end >= least, "{name} ends at {}, {least} was archived when it was asked for", of.end);
            }
        }
        Err(error) => {
            epochs.note(format!("{name} does not begin: {error}"));
            if matches!(error, tidewater::copies::error::CopyError::Taken { .. }) {
                epochs.copies.begun.set(number + 1);
            }
        }
    }
}

/// The copies that the broker has now.
fn copies(epochs: &Epochs, node: &Node) -> Vec<(Arc<TopicImage>, TopicCopy)> {
    let image = node.controller.image();
    let mut known = epochs.copies.known.borrow_mut();
    let mut found = Vec::new();
    for topic in image.topics.values().filter(|topic| topic.name.as_str().starts_with(PREFIX)) {
        match topic.copy.as_deref() {
            Some(copy) => drop(known.insert(topic.id, copy.clone())),
            // The restored cluster says by this that nothing of it is to be copied any more.
            None => {
                let Some(copy) = known.get_mut(&topic.id) else { continue };
                copy.done = topic.partitions.iter().map(|partition| partition.id.index.0).collect();
            }
        }
        found.push((Arc::clone(topic), known[&topic.id].clone()));
    }
    found
}

/// A batch for one of the copies; what is acknowledged lies behind what is copied.
async fn write(epochs: &Epochs, node: &Node, n: u64) {
    let mut copies = copies(epochs, node);
    if copies.is_empty() {
        return;
    }
    let chosen = usize::try_from(epochs.below(copies.len() as u64)).expect("few");
    let (topic, copy) = copies.swap_remove(chosen);
    let number = i32::try_from(epochs.below(copy.partitions.len() as u64)).expect("few");
    let (bytes, _) = workload::batch(&epochs.env, WRITER, n, None);
    epochs.copies.sent.borrow_mut().insert(body(&bytes));
    let address = topic.partition(number).expect("is there").address();
    let world = epochs.now();
    if let Ok(base) = workload::send(&epochs.env, &world.way(), address, bytes).await {
        let end = end_of(&copy, number);
        assert!(base >= end, "{} p{number} takes a batch at {base} although it is copied up to {end}", topic.name);
    }
}

fn end_of(copy: &TopicCopy, partition: i32) -> Offset {
    copy.partitions[usize::try_from(partition).expect("not negative")].end
}

/// May a partition of a copy stay as it is? The origin has deleted what was to be copied next.
fn is_stranded(epochs: &Epochs, node: &Node, copy: &TopicCopy, partition: &PartitionImage) -> bool {
    let number = partition.id.index.0;
    let Some(status) = node.describe(partition.id) else { return false };
    let reached = Offset::new(status.high_watermark);
    reached < end_of(copy, number) && epochs.history.with(number, |past| past.log_start > reached)
}

/// Waits until the copies are complete, and holds them against the origin. All of the origin was read before.
pub(crate) async fn check(epochs: &Epochs) {
    let until = epochs.now_ms() + CALM_MS;
    loop {
        let node = epochs.now().serving().await;
        let is_open = |(topic, copy): &(Arc<TopicImage>, TopicCopy)| {
            let mut left = topic.partitions.iter().filter(|found| !copy.done.contains(&found.id.index.0));
            left.any(|partition| !is_stranded(epochs, &node, copy, partition))
        };
        let open: Vec<_> = copies(epochs, &node).into_iter().filter(is_open).collect();
        if open.is_empty() {
            break;
        }
        let said = || node.copies.as_ref().map(tidewater::copies::shard::CopyShard::facts);
        assert!(epochs.now_ms() < until, "copies are never complete: {open:?}, {:?}", said());
        epochs.sleep_ms(50).await;
    }
    let node = epochs.now().serving().await;
    for (topic, copy) in copies(epochs, &node) {
        for partition in &topic.partitions {
            if copy.done.contains(&partition.id.index.0) {
                is_the_origin(epochs, &node, &topic, &copy, partition).await;
            }
        }
        epochs.note(format!("{}: {} of {} partitions", topic.name, copy.done.len(), copy.partitions.len()));
    }
}

/// Reads a partition of a copy and compares it with the origin, batch by batch.
async fn is_the_origin(epochs: &Epochs, node: &Node, topic: &TopicImage, copy: &TopicCopy, partition: &PartitionImage) {
    let (world, number) = (epochs.now(), partition.id.index.0);
    let (name, end) = (&topic.name, end_of(copy, number));
    let status = node.describe(partition.id).expect("is there");
    let (start, high_watermark) = (Offset::new(status.log_start_offset), Offset::new(status.high_watermark));
    let of = copy.partitions.get(usize::try_from(number).expect("not negative")).expect("is there");
    let is_held = topic.copy.as_ref().is_some_and(|copy| !copy.lifted);
    assert!(start >= of.log_start, "{name} p{number} begins at {start}, before {}", of.log_start);
    assert!(!is_held || start == of.log_start, "{name} p{number} begins at {start}: retention waits for a day");
    assert!(high_watermark >= end, "{name} p{number} ends at {high_watermark}, before {end}");
    let read = History::default();
    let mut at = start;
    let mut tries = 0;
    while at < high_watermark {
        match workload::read(&epochs.env, &world.way(), &read, topic, number, at, 60_000).await {
            Some(next) if next > at => at = next,
            _ => {
                tries += 1;
                assert!(tries < 50, "{name} p{number} cannot be read at {at}");
                epochs.sleep_ms(100).await;
            }
        }
    }
    let ours = epochs.copies.sent.borrow();
    read.with(number, |found| {
        for seen in found.seen.values() {
            let (offsets, bytes) = (seen.offsets, body(&seen.bytes));
            if offsets.start >= end {
                assert!(ours.contains(&bytes), "{name} p{number} has a batch at {offsets} that was not written to it");
                continue;
            }
            assert!(offsets.end <= end, "{name} p{number} has a batch of {offsets} over the end of the copy, {end}");
            epochs.history.with(number, |origin| {
                let there = origin.seen.get(&offsets.start);
                assert!(
                    there.is_none_or(|there| there.offsets == offsets && without_producer(&there.bytes) == bytes),
                    "{name} p{number} has other records at {offsets} than the origin"
                );
                let is_known = there.is_some() || origin.sent.keys().any(|sent| without_producer_of(sent) == bytes);
                assert!(is_known, "{name} p{number} has records at {offsets} that the origin never had");
            });
        }
    });
}

/// The body of a batch as a copy has it.
fn without_producer(batch: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    forget_producer(&mut bytes);
    body(&bytes.freeze())
}

/// The same of a body: the head that it lacks does not matter.
fn without_producer_of(sent: &Bytes) -> Bytes {
    let mut batch = BytesMut::zeroed(crate::history::BODY);
    batch.extend_from_slice(sent);
    without_producer(&batch.freeze())
}
