//! What clients do: idempotent producers that send again until they know, plain ones that send once, readers at random
//! places, and deletion of records. They live on while the broker dies.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use tidewater::partition::message::{
    CheckedBatch, Isolation, Origin, PartitionAddress, PartitionRequest, ProduceError, ProducePart, ReadDone,
    ReadError, ReadPart,
};
use tidewater::partition::state::command::{LaneOp, PlacedBatch};
use tidewater_storage::env::{Env, Rng};
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{BatchHeader, Compression, Offset, ProducerEpoch, ProducerId};

use crate::defect::Defect;
use crate::groups::{self, Group};
use crate::history::{History, Sent};
use crate::topics::Passing;
use crate::typed::{TableKind, values};
use crate::world::{Way, World, within};

/// How long a client waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Batches of one producer and partition in flight, as in Kafka's clients.
const IN_FLIGHT: u64 = 4;

/// Everything a client needs.
#[derive(Clone)]
pub(crate) struct Client {
    env: Env,
    way: Way,
    history: History,
    topic: std::sync::Arc<tidewater::controller::image::TopicImage>,
    defect: Option<Defect>,
    /// What the values are, where the table is typed.
    values: Option<TableKind>,
    stop: Rc<Cell<bool>>,
    running: Rc<Cell<u64>>,
}

/// The clients of a run.
pub(crate) struct Clients {
    stop: Rc<Cell<bool>>,
    running: Rc<Cell<u64>>,
    pub(crate) groups: Vec<Group>,
    pub(crate) topics: Vec<Passing>,
}

/// The needs of every client: a clock, the way to the broker, and the signal to stop.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) env: Env,
    pub(crate) way: Way,
    pub(crate) stop: Rc<Cell<bool>>,
}

impl Desk {
    pub(crate) async fn pause(&self, ms: u64) {
        self.env.tasks.sleep(Duration::from_millis(1 + self.env.rng.below(ms))).await;
    }
}

impl Clients {
    pub(crate) fn start(world: &World) -> Self {
        let (stop, running) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let client = Client {
            env: world.clients.clone(),
            way: world.way(),
            history: world.history.clone(),
            topic: world.topic(),
            defect: world.plan.defect,
            values: TableKind::of(&world.plan),
            stop: Rc::clone(&stop),
            running: Rc::clone(&running),
        };
        let rng = &world.clients.rng;
        let mut writer = 0;
        for partition in 0..client.partitions() {
            for n in 0..=rng.below(3) {
                writer += 1;
                if n < 2 || world.plan.has("plain") {
                    client.spawn(Client::produce(client.clone(), writer, partition, n < 2));
                }
            }
        }
        let (readers, trims) = (1 + rng.below(2), rng.below(2) == 0);
        if world.plan.has("readers") {
            (0..readers).for_each(|_| client.spawn(Client::read(client.clone())));
        }
        if trims && world.plan.has("trim") {
            client.spawn(Client::trim(client.clone()));
        }
        let desk = Desk { env: client.env.clone(), way: client.way.clone(), stop: Rc::clone(&stop) };
        let groups = world.plan.has("groups").then(|| ["early", "bird"].map(|name| Group::new(&desk, name)));
        for group in groups.iter().flatten() {
            client.spawn(group.clone().commit());
        }
        if world.plan.has("groups") {
            client.spawn(groups::take_producer_ids(desk.clone()));
        }
        let topics = world.plan.has("topics").then(|| ["passing", "visiting"].map(|name| Passing::new(&desk, name)));
        for topic in topics.iter().flatten() {
            client.spawn(topic.clone().come_and_go());
        }
        Self {
            stop,
            running,
            groups: groups.into_iter().flatten().collect(),
            topics: topics.into_iter().flatten().collect(),
        }
    }

    /// Lets them finish their last requests.
    pub(crate) fn stop(&self) {
        self.stop.set(true);
    }

    /// The answers that groups and temporary topics got still hold.
    pub(crate) async fn check(&self, world: &World) {
        for group in &self.groups {
            group.check(world).await;
        }
        for topic in &self.topics {
            topic.check(world).await;
        }
    }

    /// How many have not.
    pub(crate) fn running(&self) -> u64 {
        self.running.get()
    }
}

/// A batch that is not acknowledged yet.
struct Waiting {
    bytes: Bytes,
    idempotent: bool,
}

impl Client {
    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let running = Rc::clone(&self.running);
        running.set(running.get() + 1);
        drop(self.env.tasks.spawn("client", async move {
            work.await;
            running.set(running.get() - 1);
        }));
    }

    fn partitions(&self) -> i32 {
        i32::try_from(self.topic.partitions.len()).expect("few")
    }

    async fn pause(&self, ms: u64) {
        self.env.tasks.sleep(Duration::from_millis(1 + self.env.rng.below(ms))).await;
    }

    /// Batches of one writer to one partition, in order; sent again, in order, until each is acknowledged.
    async fn produce(self, writer: u32, partition: i32, idempotent: bool) {
        let producer = idempotent.then_some(ProducerId(i64::from(writer)));
        let pace = 40 + self.env.rng.below(600);
        let (mut n, mut sequence) = (0, 0);
        let mut window: VecDeque<Waiting> = VecDeque::new();
        loop {
            let wanted = if self.stop.get() { 0 } else { 1 + self.env.rng.below(IN_FLIGHT) };
            while (window.len() as u64) < wanted {
                let of = producer.map(|id| (id, sequence));
                let (bytes, records) = match self.values {
                    None => batch(&self.env, writer, n, of),
                    Some(kind) => values::batch(&self.env, kind, writer, n, of),
                };
                let sent = Sent { writer, n, producer, records, acked: None };
                self.history.sending(partition, &bytes, sent);
                window.push_back(Waiting { bytes, idempotent });
                n += 1;
                sequence += i32::try_from(records).expect("few");
            }
            if window.is_empty() {
                return;
            }
            let calls: Vec<_> = window.iter().map(|waiting| self.send(partition, waiting.bytes.clone())).collect();
            let answers = join_all(calls).await;
            self.settle(partition, &mut window, answers);
            self.pause(pace).await;
        }
    }

    /// Takes what is acknowledged out of the window.
    fn settle(&self, partition: i32, window: &mut VecDeque<Waiting>, answers: Vec<Result<Offset, ProduceError>>) {
        let mut left = VecDeque::new();
        for (waiting, answer) in window.drain(..).zip(answers) {
            match answer {
                Ok(base) => {
                    self.history.acknowledged(partition, &waiting.bytes, Some(base));
                    if self.defect == Some(Defect::ReplayBatch) && waiting.idempotent {
                        self.replay(partition, &waiting.bytes);
                    }
                }
                Err(error) => {
                    let lost = matches!(error, ProduceError::OutOfOrder { .. });
                    assert!(!lost, "p{partition}: the broker has forgotten a producer: {error}");
                    let bad = matches!(
                        error,
                        ProduceError::Fenced { .. } | ProduceError::Invalid(_) | ProduceError::TooLarge { .. }
                    );
                    assert!(!bad, "p{partition}: a good batch is refused: {error}");
                    if waiting.idempotent {
                        left.push_back(waiting);
                    }
                }
            }
        }
        *window = left;
    }

    async fn send(&self, partition: i32, bytes: Bytes) -> Result<Offset, ProduceError> {
        let address = self.topic.partition(partition).expect("is there").address();
        send(&self.env, &self.way, address, bytes).await
    }

    /// A broker's defect: sometimes an acknowledged batch is appended again.
    fn replay(&self, partition: i32, bytes: &Bytes) {
        let Some(node) = self.way.node().filter(|_| self.env.rng.below(8) == 0) else { return };
        let id = self.topic.partition(partition).expect("is there").id;
        let Some(replica) = node.replica(id) else { return };
        let Some(lane) = node.lanes().into_iter().find(|lane| lane.id == replica.lane) else { return };
        let (base_offset, epoch) =
            (replica.high_watermark(), replica.leader_epoch(lane.status.leading().unwrap_or_default()));
        let mut again = BytesMut::from(&bytes[..]);
        patch(&mut again, base_offset, epoch);
        let batch = PlacedBatch { partition: id, base_offset, epoch, bytes: again.freeze() };
        drop(self.env.tasks.spawn("replay", lane.propose(LaneOp::batches(self.env.clock.wall(), vec![batch]))));
    }

    /// Reads at random places.
    async fn read(self) {
        while !self.stop.get() {
            self.pause(300).await;
            let partition = i32::try_from(self.env.rng.below(self.partitions() as u64)).expect("few");
            let (start, end) = self.history.with(partition, |past| (past.log_start, past.high_watermark));
            let mut from = match self.env.rng.below(3) {
                0 => start,
                _ => Offset::new(start.get() + self.env.rng.below(end.get() - start.get() + 1)),
            };
            for _ in 0..=self.env.rng.below(4) {
                let max_bytes = 1 + usize::try_from(self.env.rng.below(60_000)).expect("small");
                match read(&self.env, &self.way, &self.history, &self.topic, partition, from, max_bytes).await {
                    Some(next) if next > from => from = next,
                    _ => break,
                }
            }
        }
    }

    /// Deletes records now and then.
    async fn trim(self) {
        while !self.stop.get() {
            self.pause(8_000).await;
            let partition = i32::try_from(self.env.rng.below(self.partitions() as u64)).expect("few");
            let (start, end) = self.history.with(partition, |past| (past.log_start, past.acked_end));
            let Some(span) = end.since(start) else { continue };
            let to = Offset::new(start.get() + self.env.rng.below(span / 2 + 1));
            let Some(node) = self.way.node() else { continue };
            self.history.with(partition, |past| past.trim_asked = past.trim_asked.max(to));
            let address = self.topic.partition(partition).expect("is there").address();
            let call = node.mesh.call(address.shard, |reply| PartitionRequest::Trim(address, to, reply));
            if let Some(Ok(Ok(start))) = within(&self.env, PATIENCE, call).await {
                assert!(start >= to, "p{partition}: records below {to} were deleted, the log start is {start}");
                self.history.with(partition, |past| past.trim_done = past.trim_done.max(to));
            }
        }
    }
}

/// One batch through the way in.
pub(crate) async fn send(
    env: &Env,
    way: &Way,
    address: PartitionAddress,
    bytes: Bytes,
) -> Result<Offset, ProduceError> {
    let Some(node) = way.node() else { return Err(ProduceError::Unconfirmed) };
    let mesh = node.mesh.clone();
    drop(node);
    let header = BatchHeader::parse(&bytes).expect("well formed");
    let batch = CheckedBatch { header, bytes: BytesMut::from(&bytes[..]) };
    let parts = vec![ProducePart { address, batch, origin: Origin::Client { acks_all: true } }];
    let call = mesh.call(address.shard, |reply| PartitionRequest::Produce(parts, reply));
    let answer = within(env, PATIENCE, call).await;
    let answers = answer.and_then(Result::ok).unwrap_or_default();
    answers.into_iter().next().unwrap_or(Err(ProduceError::Unconfirmed)).map(|done| done.base_offset)
}

/// One read through the way in, held against the past; the offset after it, or `None` when nothing was to be had.
pub(crate) async fn read(
    env: &Env,
    way: &Way,
    history: &History,
    topic: &tidewater::controller::image::TopicImage,
    partition: i32,
    from: Offset,
    max_bytes: usize,
) -> Option<Offset> {
    let mesh = way.node()?.mesh.clone();
    let address = topic.partition(partition).expect("is there").address();
    let part = ReadPart { address, from, max_bytes, isolation: Isolation::ReadUncommitted, epoch: None };
    let (acked_end, trim_done) = history.with(partition, |past| (past.acked_end, past.trim_done));
    let call = mesh.call(address.shard, |reply| PartitionRequest::Read { parts: vec![part], max_bytes, reply });
    let answer = within(env, Duration::from_secs(120), call).await?.ok()?.into_iter().next()?;
    match answer {
        Ok(ReadDone { batches, high_watermark, log_start, .. }) => {
            let rotten = history.is_rotten();
            assert!(
                rotten || high_watermark >= acked_end,
                "p{partition}: the end {high_watermark} is below {acked_end}"
            );
            assert!(log_start >= trim_done, "p{partition}: the log start {log_start} is below {trim_done}");
            let covered = history.observed(partition, &batches);
            assert!(
                rotten || covered.is_some() || from >= acked_end,
                "p{partition}: nothing at {from} although {acked_end} is acknowledged"
            );
            let holds = covered.is_none_or(|covered| covered.contains(from));
            assert!(holds, "p{partition}: a read from {from} answered {covered:?}");
            Some(covered.map_or(from, |covered| covered.end))
        }
        Err(ReadError::OutOfRange { valid, .. }) => {
            let lost = history.is_rotten();
            assert!(lost || from < valid.start || from >= acked_end, "p{partition}: {from} is out of {valid}");
            let trimmed = history.with(partition, |past| past.trim_asked);
            assert!(
                from >= valid.start || valid.start <= trimmed,
                "p{partition}: {from} is gone, only {trimmed} was asked"
            );
            None
        }
        Err(ReadError::Corrupt(_)) if history.is_rotten() => {
            history.refused();
            None
        }
        Err(error @ (ReadError::Corrupt(_) | ReadError::UnknownPartition(_))) => panic!("p{partition}: {error}"),
        Err(_) => None,
    }
}

pub(crate) fn batch(env: &Env, writer: u32, n: u64, producer: Option<(ProducerId, i32)>) -> (Bytes, u64) {
    let rng = &env.rng;
    let compression = if rng.below(4) == 0 { Compression::Lz4 } else { Compression::None };
    let mut builder = BatchBuilder::new(compression);
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, ProducerEpoch(0), sequence);
    }
    let records = 1 + rng.below(5);
    for record in 0..records {
        let key = Bytes::from(format!("{writer}/{n}"));
        builder.push(Record::new(env.clock.wall(), Some(key), Some(value(rng, writer, n, record))));
    }
    (builder.build(), records)
}

fn value(rng: &Rng, writer: u32, n: u64, record: u64) -> Bytes {
    let most = if rng.below(12) == 0 { 12_000 } else { 900 };
    let mut bytes = vec![0; usize::try_from(rng.below(most)).expect("small")];
    rng.fill(&mut bytes);
    let mut value = format!("{writer}/{n}/{record}:").into_bytes();
    value.append(&mut bytes);
    Bytes::from(value)
}
