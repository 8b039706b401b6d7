//! What clients do over all epochs: idempotent producers that send open batches again, also to a restored broker;
//! readers; a group that commits what it could have read; deletion of records.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tidewater::group::GroupId;
use tidewater::group::message::{Commit, CommitAsk};
use tidewater::partition::message::{PartitionAddress, PartitionRequest, ProduceError};
use tidewater_storage::model::{Offset, ProducerId};

use super::epochs::Epochs;
use crate::history::Sent;
use crate::workload::{self, PATIENCE, batch};
use crate::world::{World, within};

const GROUP: &str = "readers";
/// Batches of one producer and partition in flight, as in Kafka's clients.
const IN_FLIGHT: u64 = 4;

pub(crate) fn start(epochs: &Rc<Epochs>) {
    let partitions = epochs.now().plan.partitions;
    for partition in 0..partitions {
        for _ in 0..=epochs.below(2) {
            spawn(epochs, Producer::new(epochs, partition).produce());
        }
    }
    if epochs.plan.has("readers") {
        spawn(epochs, read_on(Rc::clone(epochs)));
    }
    if epochs.plan.has("trim") {
        spawn(epochs, trim(Rc::clone(epochs)));
    }
    if epochs.plan.has("group") {
        spawn(epochs, commit(Rc::clone(epochs)));
    }
}

fn spawn(epochs: &Rc<Epochs>, work: impl Future<Output = ()> + 'static) {
    let this = Rc::clone(epochs);
    this.running.set(this.running.get() + 1);
    drop(epochs.env.tasks.spawn("client", async move {
        work.await;
        this.running.set(this.running.get() - 1);
    }));
}

async fn pause(epochs: &Epochs, ms: u64) {
    epochs.env.tasks.sleep(Duration::from_millis(1 + epochs.below(ms))).await;
}

struct Producer {
    epochs: Rc<Epochs>,
    partition: i32,
    writer: u32,
    n: u64,
    sequence: i32,
    /// Sent and not acknowledged.
    window: VecDeque<Bytes>,
}

impl Producer {
    fn new(epochs: &Rc<Epochs>, partition: i32) -> Self {
        let writer = epochs.writer();
        Self { epochs: Rc::clone(epochs), partition, writer, n: 0, sequence: 0, window: VecDeque::new() }
    }

    async fn produce(mut self) {
        let epochs = Rc::clone(&self.epochs);
        let pace = 20 + epochs.below(400);
        loop {
            let wanted = if epochs.stopped.get() { 0 } else { 1 + epochs.below(IN_FLIGHT) };
            let busy = epochs.enter().await;
            self.round(wanted).await;
            drop(busy);
            if self.window.is_empty() && epochs.stopped.get() {
                return;
            }
            pause(&epochs, pace).await;
        }
    }

    /// Sends what waits and new batches up to `wanted`, and takes out what is acknowledged.
    async fn round(&mut self, wanted: u64) {
        let (epochs, partition) = (Rc::clone(&self.epochs), self.partition);
        while (self.window.len() as u64) < wanted {
            let producer = ProducerId(i64::from(self.writer));
            let (bytes, records) = batch(&epochs.env, self.writer, self.n, Some((producer, self.sequence)));
            let sent = Sent { writer: self.writer, n: self.n, producer: Some(producer), records, acked: None };
            epochs.history.sending(partition, &bytes, sent);
            self.window.push_back(bytes);
            self.n += 1;
            self.sequence += i32::try_from(records).expect("few");
        }
        let world = epochs.now();
        let (way, address) = (world.way(), world.topic().partition(partition).expect("is there").address());
        drop(world);
        let sends: Vec<_> =
            self.window.iter().map(|bytes| workload::send(&epochs.env, &way, address, bytes.clone())).collect();
        let answers = join_all(sends).await;
        let (mut refused, mut is_cut_off, mut left) = (false, false, VecDeque::new());
        for (bytes, answer) in self.window.drain(..).zip(answers) {
            match answer {
                Ok(base) => epochs.history.acknowledged(partition, &bytes, Some(base)),
                Err(error) => {
                    if matches!(error, ProduceError::OutOfOrder { .. }) && !refused {
                        let lost = epochs.cut_off.borrow().contains(&self.writer);
                        assert!(lost, "p{partition}: a broker has forgotten producer {}: {error}", self.writer);
                        is_cut_off = true;
                    }
                    let bad = matches!(
                        error,
                        ProduceError::Fenced { .. } | ProduceError::Invalid(_) | ProduceError::TooLarge { .. }
                    );
                    assert!(!bad, "p{partition}: a good batch is refused: {error}");
                    refused = true;
                    left.push_back(bytes);
                }
            }
        }
        self.window = left;
        if is_cut_off {
            // Records that were acknowledged are lost: a program begins again as another producer.
            epochs.note(format!("p{partition}: producer {} ends", self.writer));
            *self = Self::new(&epochs, partition);
        }
    }
}

async fn read_on(epochs: Rc<Epochs>) {
    while !epochs.stopped.get() {
        pause(&epochs, 250).await;
        let busy = epochs.enter().await;
        let world = epochs.now();
        let partition = any_partition(&epochs, &world);
        let (start, end) = epochs.history.with(partition, |past| (past.log_start, past.high_watermark));
        let mut from = Offset::new(start.get() + epochs.below(end.get().saturating_sub(start.get()) + 1));
        for _ in 0..=epochs.below(3) {
            let max_bytes = 1 + usize::try_from(epochs.below(60_000)).expect("small");
            let (way, topic) = (world.way(), world.topic());
            match workload::read(&epochs.env, &way, &epochs.history, &topic, partition, from, max_bytes).await {
                Some(next) if next > from => from = next,
                _ => break,
            }
        }
        drop(busy);
    }
}

fn any_partition(epochs: &Epochs, world: &World) -> i32 {
    i32::try_from(epochs.below(u64::try_from(world.plan.partitions).expect("some"))).expect("few")
}

async fn trim(epochs: Rc<Epochs>) {
    while !epochs.stopped.get() {
        pause(&epochs, 3_000).await;
        let busy = epochs.enter().await;
        let world = epochs.now();
        let partition = any_partition(&epochs, &world);
        let history = &epochs.history;
        let (start, end) = history.with(partition, |past| (past.log_start, past.acked_end));
        let (Some(span), Some(node)) = (end.since(start), world.way().node()) else { continue };
        let to = Offset::new(start.get() + epochs.below(span * 2 / 3 + 1));
        history.with(partition, |past| past.trim_asked = past.trim_asked.max(to));
        let (address, mesh) = (world.topic().partition(partition).expect("is there").address(), node.mesh.clone());
        drop(node);
        let call = mesh.call(address.shard, |reply| PartitionRequest::Trim(address, to, reply));
        if let Some(Ok(Ok(start))) = within(&epochs.env, PATIENCE, call).await {
            assert!(start >= to, "p{partition}: records below {to} were deleted, the log start is {start}");
            history.with(partition, |past| past.trim_done = past.trim_done.max(to));
        }
        drop(busy);
    }
}

/// Deletes records at a broker that is none any more; what it answers does not matter.
pub(crate) async fn delete_some(epochs: &Epochs, old: &World, address: PartitionAddress) {
    let Some(node) = old.way().node() else { return };
    let Some(end) = node.replica(address.id).map(|replica| replica.high_watermark()) else { return };
    let (mesh, to) = (node.mesh.clone(), Offset::new(epochs.below(end.get() + 1)));
    drop(node);
    let call = mesh.call(address.shard, |reply| PartitionRequest::Trim(address, to, reply));
    let _ = within(&epochs.env, PATIENCE, call).await;
}

/// Commits offsets up to the ends, and sometimes reads them.
async fn commit(epochs: Rc<Epochs>) {
    while !epochs.stopped.get() {
        pause(&epochs, 200).await;
        let busy = epochs.enter().await;
        if epochs.below(5) == 0
            && let Some(found) = fetch(&epochs).await
        {
            found.into_iter().for_each(|(partition, at)| committed_holds(&epochs, partition, at));
        }
        let world = epochs.now();
        let Some(node) = world.way().node() else { continue };
        let groups = node.groups.clone();
        drop(node);
        let mut offsets = Vec::new();
        for partition in 0..world.plan.partitions {
            let end = epochs.history.with(partition, |past| past.acked_end).get();
            let mut all = epochs.committed.borrow_mut();
            let committed = all.entry(partition).or_default();
            committed.last += epochs.below(end.saturating_sub(committed.last) + 1);
            committed.tried.insert(committed.last);
            offsets.push((
                Arc::from(world.topic_name()),
                partition,
                Commit::new(Offset::new(committed.last), None, ""),
            ));
        }
        let ask = CommitAsk { member: None, instance: None, generation: -1, retention_ms: None, offsets };
        let answer = within(&epochs.env, PATIENCE, groups.commit(GroupId::from(GROUP), ask)).await;
        if let Some(Ok(answers)) = answer
            && answers.iter().all(Result::is_ok)
        {
            epochs.committed.borrow_mut().values_mut().for_each(|committed| committed.acknowledged = committed.last);
        }
        drop(busy);
    }
}

/// The committed offsets by partition; `None` without an answer.
async fn fetch(epochs: &Epochs) -> Option<Vec<(i32, u64)>> {
    let world = epochs.now();
    let groups = world.way().node()?.groups.clone();
    let wanted = vec![(world.topic_name().to_owned(), (0..world.plan.partitions).collect())];
    let answer = within(&epochs.env, PATIENCE, groups.fetch(GroupId::from(GROUP), Some(wanted))).await?;
    let offset = |commit: &Commit| u64::try_from(commit.offset.0).expect("an offset");
    let found = answer.ok()?.into_iter();
    Some(found.map(|found| (found.partition, found.commit.as_ref().map_or(0, offset))).collect())
}

/// What is committed was acknowledged last, or sent later.
fn committed_holds(epochs: &Epochs, partition: i32, at: u64) {
    let mut all = epochs.committed.borrow_mut();
    let known = all.entry(partition).or_default();
    assert!(
        (known.acknowledged..=known.last).contains(&at),
        "p{partition}: {at} is committed, {} was acknowledged and {} sent",
        known.acknowledged,
        known.last
    );
}

/// The committed offsets, however long the coordinator takes to load them.
async fn fetched(epochs: &Epochs) -> Vec<(i32, u64)> {
    for _ in 0..600 {
        if let Some(found) = fetch(epochs).await {
            return found;
        }
        epochs.sleep_ms(100).await;
    }
    panic!("committed offsets cannot be read");
}

/// After a restore: what is committed was committed once, and is no further than the restored `ends`.
pub(crate) async fn check_restored_commits(epochs: &Epochs, ends: &[Offset]) {
    for (partition, at) in fetched(epochs).await {
        let end = ends.get(usize::try_from(partition).expect("a number")).copied().unwrap_or_default().get();
        let mut all = epochs.committed.borrow_mut();
        let known = all.entry(partition).or_default();
        assert!(at <= end, "p{partition}: {at} is committed, the restored partition ends at {end}");
        let was = at == 0 || at == end || known.tried.contains(&at);
        assert!(was, "p{partition}: {at} is committed after a restore and never was: {:?}", known.tried);
        (known.acknowledged, known.last, known.tried) = (at, at, BTreeSet::from([at]));
    }
}

/// In the end the commits are there.
pub(crate) async fn check(epochs: &Epochs) {
    for (partition, at) in fetched(epochs).await {
        committed_holds(epochs, partition, at);
    }
}
