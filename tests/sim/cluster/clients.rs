//! What clients of a cluster do: idempotent producers that send again until they know, at whichever broker they believe
//! leads; readers; deletion of records; topics that come and go. They live on while brokers die.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use tidewater::partition::message::{
    CheckedBatch, Isolation, Origin, PartitionRequest, ProduceError, ProducePart, ReadDone, ReadError, ReadPart,
};
use tidewater_storage::env::Env;
use tidewater_storage::model::{BatchHeader, Offset, ProducerId};

use super::controllers;
use super::defect::Defect;
use super::groups::Group;
use super::world::{Cluster, Spot};
use crate::history::Sent;
use crate::workload::batch;
use crate::world::within;

/// How long a client waits for an answer before it asks another broker.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// A read may wait for the bucket. The answer of a broker that was killed never comes.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Batches of one producer and partition in flight, as in Kafka's clients.
const IN_FLIGHT: u64 = 4;
/// How often a broker with a defect looks at its watermark, at most.
const WATERMARK_LOOKS: u64 = 40;
/// Partitions of passing topics are numbered from here.
const PASSING_FROM: i32 = 100;

#[derive(Clone)]
pub(crate) struct Clients {
    stop: Rc<Cell<bool>>,
    running: Rc<RefCell<Vec<String>>>,
}

/// One client.
#[derive(Clone)]
struct Client {
    cluster: Rc<Cluster>,
    env: Env,
    stop: Rc<Cell<bool>>,
    /// The broker it asks next.
    guess: Rc<Cell<u32>>,
}

struct Waiting {
    bytes: Bytes,
}

/// What a producer has in flight and what it sends next.
struct Flow {
    writer: u32,
    n: u64,
    sequence: i32,
    window: VecDeque<Waiting>,
}

impl Clients {
    pub(crate) fn start(cluster: &Rc<Cluster>) -> Self {
        let clients = Self { stop: Rc::default(), running: Rc::default() };
        let rng = &cluster.clients.rng;
        let client = || Client {
            cluster: Rc::clone(cluster),
            env: cluster.clients.clone(),
            stop: Rc::clone(&clients.stop),
            guess: Rc::new(Cell::new(1 + u32::try_from(rng.below(u64::from(cluster.plan.nodes))).expect("small"))),
        };
        let mut writer = 0;
        for spot in cluster.spots() {
            for _ in 0..=rng.below(2) {
                writer += 1;
                let (client, spot) = (client(), spot.clone());
                clients.spawn(cluster, format!("producer {writer}"), client.produce(writer, spot));
            }
        }
        if cluster.plan.has("readers") {
            (0..2).for_each(|n| clients.spawn(cluster, format!("reader {n}"), client().read_on()));
        }
        if cluster.plan.has("trim") {
            clients.spawn(cluster, "trim".to_owned(), client().trim());
        }
        if cluster.plan.has("topics") {
            clients.spawn(cluster, "topics".to_owned(), client().come_and_go());
        }
        if cluster.plan.controllers {
            for n in 0..3 {
                let stop = Rc::clone(&clients.stop);
                let work = controllers::administer(Rc::clone(cluster), n, move || stop.get());
                clients.spawn(cluster, format!("administrator {n}"), work);
            }
        }
        clients
    }

    pub(crate) fn commit(&self, cluster: &Cluster, groups: &[Group]) {
        for (n, group) in groups.iter().enumerate() {
            self.spawn(cluster, format!("group {n}"), group.clone().commit(Rc::clone(&self.stop)));
        }
    }

    fn spawn(&self, cluster: &Cluster, name: String, work: impl Future<Output = ()> + 'static) {
        let running = Rc::clone(&self.running);
        running.borrow_mut().push(name.clone());
        drop(cluster.clients.tasks.spawn("client", async move {
            work.await;
            running.borrow_mut().retain(|other| *other != name);
        }));
    }

    pub(crate) fn stop(&self) {
        self.stop.set(true);
    }

    /// Names of those that wait for an answer.
    pub(crate) fn running(&self) -> Vec<String> {
        self.running.borrow().clone()
    }
}

impl Client {
    async fn pause(&self, ms: u64) {
        self.env.tasks.sleep(Duration::from_millis(1 + self.env.rng.below(ms))).await;
    }

    /// Mostly the leader, as Metadata gives it; sometimes any broker.
    fn look_elsewhere(&self, spot: &Spot) {
        let leader = self.cluster.leader(spot.address.lane).map(|(node, ..)| node);
        let any = 1 + u32::try_from(self.env.rng.below(u64::from(self.cluster.plan.nodes))).expect("small");
        self.guess.set(leader.filter(|_| self.env.rng.below(4) > 0).unwrap_or(any));
    }

    async fn produce(self, writer: u32, spot: Spot) {
        let pace = 20 + self.env.rng.below(300);
        let mut flow = Flow { writer, n: 0, sequence: 0, window: VecDeque::new() };
        loop {
            let wanted = if self.stop.get() { 0 } else { 1 + self.env.rng.below(IN_FLIGHT) };
            self.round(&spot, &mut flow, wanted).await;
            if flow.window.is_empty() && self.stop.get() {
                return;
            }
            self.pause(pace).await;
        }
    }

    /// Sends what waits and new batches up to `wanted`, and takes out what is acknowledged.
    async fn round(&self, spot: &Spot, flow: &mut Flow, wanted: u64) {
        let producer = ProducerId(i64::from(flow.writer));
        while (flow.window.len() as u64) < wanted {
            let (bytes, records) = batch(&self.env, flow.writer, flow.n, Some((producer, flow.sequence)));
            let sent = Sent { writer: flow.writer, n: flow.n, producer: Some(producer), records, acked: None };
            self.cluster.history.sending(spot.number, &bytes, sent);
            flow.window.push_back(Waiting { bytes });
            flow.n += 1;
            flow.sequence += i32::try_from(records).expect("few");
        }
        let calls: Vec<_> = flow.window.iter().map(|waiting| self.send(spot, waiting.bytes.clone())).collect();
        let answers = join_all(calls).await;
        let (mut unknown, mut left) = (false, VecDeque::new());
        for (waiting, answer) in flow.window.drain(..).zip(answers) {
            match answer {
                Ok(base) => self.cluster.history.acknowledged(spot.number, &waiting.bytes, Some(base)),
                Err(error) => {
                    // Nor after a batch that was refused: librdkafka would take a new producer id and send again what
                    // may be stored.
                    let lost = matches!(error, ProduceError::OutOfOrder { .. });
                    assert!(!lost, "p{}: a broker has forgotten producer {}: {error}", spot.number, flow.writer);
                    let bad = matches!(
                        error,
                        ProduceError::Fenced { .. } | ProduceError::Invalid(_) | ProduceError::TooLarge { .. }
                    );
                    assert!(!bad, "p{}: a good batch is refused: {error}", spot.number);
                    unknown = true;
                    left.push_back(waiting);
                }
            }
        }
        flow.window = left;
        if unknown {
            self.look_elsewhere(spot);
        }
    }

    async fn send(&self, spot: &Spot, bytes: Bytes) -> Result<Offset, ProduceError> {
        let node = self.guess.get();
        let Some(broker) = self.cluster.broker(node) else { return Err(ProduceError::Unconfirmed) };
        let mesh = broker.mesh.clone();
        drop(broker);
        let header = BatchHeader::parse(&bytes).expect("well formed");
        let batch = CheckedBatch { header, bytes: BytesMut::from(&bytes[..]) };
        let parts = vec![ProducePart { address: spot.address, batch, origin: Origin::Client { acks_all: true } }];
        let call = mesh.call(spot.address.shard, |reply| PartitionRequest::Produce(parts, reply));
        let answers = within(&self.env, PATIENCE, call).await.and_then(Result::ok).unwrap_or_default();
        let answer = answers.into_iter().next().unwrap_or(Err(ProduceError::Unconfirmed)).map(|done| done.base_offset);
        match answer {
            Err(error) => self.by_watermark(node, spot, &bytes).await.ok_or(error),
            stored => stored,
        }
    }

    /// A broker's defect: a batch that it proposed and that failed is answered when its watermark has passed that
    /// offset, which the next leader's batches do, too.
    async fn by_watermark(&self, node: u32, spot: &Spot, bytes: &Bytes) -> Option<Offset> {
        if self.cluster.plan.defect != Some(Defect::AnswerByWatermark) {
            return None;
        }
        let base = self.cluster.was_placed(node, spot.address.id, bytes)?;
        // Another producer gives up earlier, and gets the offset from the next leader.
        for _ in 0..self.env.rng.below(WATERMARK_LOOKS) {
            self.env.tasks.sleep(Duration::from_millis(100)).await;
            let replica = self.cluster.broker(node).and_then(|broker| broker.partitions.replica(spot.address.id));
            if replica.is_some_and(|replica| base < replica.high_watermark()) {
                return Some(base);
            }
        }
        None
    }

    async fn read_on(self) {
        while !self.stop.get() {
            self.pause(200).await;
            let spots = self.cluster.spots();
            let Some(spot) = spots.get(usize::try_from(self.env.rng.below(spots.len() as u64)).expect("few")) else {
                continue;
            };
            let (start, end) = self.cluster.history.with(spot.number, |past| (past.log_start, past.high_watermark));
            let mut from = match self.env.rng.below(3) {
                0 => start,
                1 => end,
                _ => Offset::new(start.get() + self.env.rng.below(end.get() - start.get() + 1)),
            };
            for _ in 0..=self.env.rng.below(3) {
                let max_bytes = 1 + usize::try_from(self.env.rng.below(60_000)).expect("small");
                match read(&self.cluster, self.guess.get(), spot, from, max_bytes).await {
                    Some(next) if next > from => from = next,
                    _ => break,
                }
            }
            self.look_elsewhere(spot);
        }
    }

    async fn trim(self) {
        while !self.stop.get() {
            self.pause(5_000).await;
            let spots: Vec<_> = self.cluster.spots().into_iter().filter(|spot| spot.number < PASSING_FROM).collect();
            let spot = &spots[usize::try_from(self.env.rng.below(spots.len() as u64)).expect("few")];
            let history = &self.cluster.history;
            let (start, end) = history.with(spot.number, |past| (past.log_start, past.acked_end));
            let Some(span) = end.since(start) else { continue };
            let to = Offset::new(start.get() + self.env.rng.below(span / 2 + 1));
            self.look_elsewhere(spot);
            let Some(broker) = self.cluster.broker(self.guess.get()) else { continue };
            history.with(spot.number, |past| past.trim_asked = past.trim_asked.max(to));
            let address = spot.address;
            let call = broker.mesh.call(address.shard, |reply| PartitionRequest::Trim(address, to, reply));
            if let Some(Ok(Ok(start))) = within(&self.env, PATIENCE, call).await {
                assert!(start >= to, "p{}: records below {to} were deleted, the log start is {start}", spot.number);
                history.with(spot.number, |past| past.trim_done = past.trim_done.max(to));
            }
        }
    }

    /// Topics of one partition are made, written to, and deleted or kept.
    async fn come_and_go(self) {
        let mut count = 0;
        while !self.stop.get() {
            self.pause(1_500).await;
            let overrides = crate::world::overrides(&self.env);
            let number = PASSING_FROM + count;
            let first_lane = u32::try_from(self.env.rng.below(8)).expect("small");
            let name = format!("passing-{count}");
            let topic = self.cluster.images.create(&self.cluster, &name, 1, first_lane, overrides);
            count += 1;
            self.cluster.history.with(number, |past| {
                if topic.config.retention_bytes.is_some() {
                    past.trim_asked = Offset::MAX;
                }
            });
            let spot = Spot { number, address: topic.partition(0).expect("is there").address() };
            self.cluster.add_spot(spot.clone());
            let mut flow = Flow {
                writer: u32::try_from(1_000 + number).expect("small"),
                n: 0,
                sequence: 0,
                window: VecDeque::new(),
            };
            for _ in 0..1 + self.env.rng.below(12) {
                self.round(&spot, &mut flow, 1 + self.env.rng.below(3)).await;
                self.pause(150).await;
            }
            while !flow.window.is_empty() {
                self.round(&spot, &mut flow, 0).await;
                self.pause(150).await;
            }
            if self.env.rng.below(3) > 0 {
                self.cluster.forget_spot(number);
                self.cluster.images.remove(&self.cluster, &topic.name);
            }
        }
    }
}

/// One read at a broker, held against the past; the offset after it, or `None` when nothing was to be had there.
pub(crate) async fn read(cluster: &Cluster, node: u32, spot: &Spot, from: Offset, max_bytes: usize) -> Option<Offset> {
    let (mesh, number) = (cluster.broker(node)?.mesh.clone(), spot.number);
    let part = ReadPart { address: spot.address, from, max_bytes, isolation: Isolation::ReadUncommitted, epoch: None };
    let history = &cluster.history;
    let (acked_end, trim_done) = history.with(number, |past| (past.acked_end, past.trim_done));
    let call = mesh.call(spot.address.shard, |reply| PartitionRequest::Read { parts: vec![part], max_bytes, reply });
    let answer = within(&cluster.clients, READ_WITHIN, call).await?.ok()?.into_iter().next()?;
    // The topic was deleted meanwhile.
    if !cluster.spots().iter().any(|known| known.number == number) {
        return None;
    }
    match answer {
        Ok(ReadDone { batches, high_watermark, log_start, .. }) => {
            assert!(
                high_watermark >= acked_end,
                "p{number}: node {node} shows the end {high_watermark}, {acked_end} was acknowledged"
            );
            assert!(
                log_start >= trim_done,
                "p{number}: node {node} shows the log start {log_start}, below {trim_done}"
            );
            let covered = history.observed(number, &batches);
            assert!(
                covered.is_some() || from >= acked_end,
                "p{number}: nothing at {from} although {acked_end} is acknowledged"
            );
            let holds = covered.is_none_or(|covered| covered.contains(from));
            assert!(holds, "p{number}: a read from {from} answered {covered:?}");
            Some(covered.map_or(from, |covered| covered.end))
        }
        Err(ReadError::OutOfRange { valid, .. }) => {
            assert!(
                from < valid.start || from >= acked_end,
                "p{number}: node {node} says that {from} is out of {valid}, {acked_end} was acknowledged"
            );
            let trimmed = history.with(number, |past| past.trim_asked);
            assert!(
                from >= valid.start || valid.start <= trimmed,
                "p{number}: {from} is gone, only {trimmed} was asked"
            );
            None
        }
        Err(error @ ReadError::Corrupt(_)) => panic!("p{number}: {error}"),
        Err(_) => None,
    }
}
