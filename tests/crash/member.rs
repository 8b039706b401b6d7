//! A member of a consumer group that outlives its broker: joins, is assigned, reads from where the group had committed,
//! commits, beats. The answers it gets go into a history that all members of the group share.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tidewater_storage::model::BatchHeader;
use tidewater_storage::model::record::read_all;

use super::ledger::Found;
use super::support::wire::Wire;
use super::{PARTITIONS, TOPIC};

/// The members' group.
pub const GROUP: &str = "readers";
const MEMBER_ID_REQUIRED: i16 = 79;
const UNKNOWN_MEMBER_ID: i16 = 25;
/// A group without a record or an answer for longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// The answers that all members of a group got.
#[derive(Debug, Default)]
pub struct Readings {
    /// Every record that was read, by partition and offset.
    read: BTreeMap<(i32, u64), Found>,
    /// The greatest offset whose commit was acknowledged, by partition.
    committed: BTreeMap<i32, u64>,
    /// Generations seen.
    generations: u64,
}

impl Readings {
    /// Notes a record that was read, and checks that earlier reads at its offset gave the same.
    fn read(&mut self, partition: i32, offset: u64, found: Found) {
        let before = self.read.entry((partition, offset)).or_insert_with(|| found.clone());
        assert_eq!(*before, found, "{partition}/{offset} is not what it was");
    }

    /// Checks that the records read are those of the log, and that the group committed past no record it had not read.
    pub fn check(&self, log: &[Vec<Found>]) {
        assert!(self.read.len() > 100, "the group read only {} records", self.read.len());
        for ((partition, offset), found) in &self.read {
            let held = log[*partition as usize].get(*offset as usize);
            assert_eq!(held, Some(found), "a member read something else at {partition}/{offset}");
        }
        for (partition, committed) in &self.committed {
            let skipped = (0..*committed).find(|offset| !self.read.contains_key(&(*partition, *offset)));
            assert_eq!(skipped, None, "the group committed {committed} of partition {partition} and skipped a record");
        }
        println!(
            "{} records read in {} generations, committed {:?}",
            self.read.len(),
            self.generations,
            self.committed
        );
    }
}

pub struct Member {
    addr: String,
    id: StrBytes,
    readings: Arc<Mutex<Readings>>,
}

/// A member's share of a generation.
struct Assigned {
    generation: i32,
    /// The next offset to read, by partition.
    positions: BTreeMap<i32, u64>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group() -> GroupId {
    GroupId(text(GROUP))
}

fn topic() -> TopicName {
    TopicName(text(TOPIC))
}

/// An error of the broker after which the member joins again.
fn again(what: &str, code: i16) -> io::Error {
    io::Error::other(format!("{what}: error {code}"))
}

impl Member {
    pub fn new(addr: String, readings: Arc<Mutex<Readings>>) -> Self {
        Self { addr, id: StrBytes::default(), readings }
    }

    fn readings(&self) -> MutexGuard<'_, Readings> {
        self.readings.lock().expect("no member panics with it")
    }

    /// Takes part until stopped.
    pub fn run(mut self, stop: &AtomicBool) {
        let mut heard = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let before = self.readings().generations;
            // After a kill or a rebalance.
            let _ = self.connection(stop, &mut heard);
            if self.readings().generations > before {
                heard = Instant::now();
            }
            assert!(heard.elapsed() < PATIENCE, "a member of {GROUP} hears nothing for {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn connection(&mut self, stop: &AtomicBool, heard: &mut Instant) -> io::Result<()> {
        let mut wire = Wire::connect(&self.addr)?;
        let find = FindCoordinatorRequest::default().with_key(text(GROUP));
        let found = wire.call(&find, 2)?;
        if found.error_code != 0 {
            return Err(again("find", found.error_code));
        }
        let mut assigned = self.join(&mut wire)?;
        self.readings().generations += 1;
        while !stop.load(Ordering::Relaxed) {
            self.beat(&mut wire, assigned.generation)?;
            if self.fetch(&mut wire, &mut assigned)? {
                self.commit(&mut wire, &assigned)?;
                *heard = Instant::now();
            }
        }
        Ok(())
    }

    /// Joins and syncs; the leader assigns partitions round-robin.
    fn join(&mut self, wire: &mut Wire) -> io::Result<Assigned> {
        let mut subscription = BytesMut::new();
        subscription.put_slice(&[0, 0, 0, 0, 0, 1, 0, TOPIC.len() as u8]);
        subscription.put_slice(TOPIC.as_bytes());
        subscription.put_i32(-1);
        let protocol =
            JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(subscription.freeze());
        let ask = |member: StrBytes| {
            JoinGroupRequest::default()
                .with_group_id(group())
                .with_session_timeout_ms(10_000)
                .with_rebalance_timeout_ms(5_000)
                .with_member_id(member)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol.clone()])
        };
        let mut joined = wire.call(&ask(self.id.clone()), 5)?;
        if joined.error_code == MEMBER_ID_REQUIRED {
            self.id = joined.member_id.clone();
            joined = wire.call(&ask(self.id.clone()), 5)?;
        }
        if joined.error_code != 0 {
            self.forget_if_unknown(joined.error_code);
            return Err(again("join", joined.error_code));
        }
        self.id = joined.member_id.clone();
        let mut shares = Vec::new();
        if joined.leader == joined.member_id {
            for (n, member) in joined.members.iter().enumerate() {
                let mine: Vec<i32> = (0..PARTITIONS).filter(|p| *p as usize % joined.members.len() == n).collect();
                let share = SyncGroupRequestAssignment::default().with_member_id(member.member_id.clone());
                shares.push(share.with_assignment(assignment(&mine)));
            }
        }
        let sync = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(joined.generation_id)
            .with_member_id(self.id.clone())
            .with_assignments(shares);
        let synced = wire.call(&sync, 3)?;
        if synced.error_code != 0 {
            self.forget_if_unknown(synced.error_code);
            return Err(again("sync", synced.error_code));
        }
        let partitions = assigned(synced.assignment)?;
        let positions = self.committed(wire, &partitions)?;
        Ok(Assigned { generation: joined.generation_id, positions })
    }

    fn forget_if_unknown(&mut self, code: i16) {
        if code == UNKNOWN_MEMBER_ID {
            self.id = StrBytes::default();
        }
    }

    /// The group's offsets, which must not be below those of acknowledged commits.
    fn committed(&self, wire: &mut Wire, partitions: &[i32]) -> io::Result<BTreeMap<i32, u64>> {
        let known = self.readings().committed.clone();
        let wanted = OffsetFetchRequestTopic::default().with_name(topic()).with_partition_indexes(partitions.to_vec());
        let fetch = OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![wanted]));
        let answer = wire.call(&fetch, 5)?;
        if answer.error_code != 0 {
            return Err(again("offsets", answer.error_code));
        }
        let mut positions = BTreeMap::new();
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code != 0 {
                return Err(again("offset", partition.error_code));
            }
            let at = u64::try_from(partition.committed_offset).unwrap_or(0);
            let least = known.get(&partition.partition_index).copied().unwrap_or(0);
            assert!(at >= least, "partition {}: {least} was committed, {at} is returned", partition.partition_index);
            positions.insert(partition.partition_index, at);
        }
        Ok(positions)
    }

    fn beat(&mut self, wire: &mut Wire, generation: i32) -> io::Result<()> {
        let beat = HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(generation)
            .with_member_id(self.id.clone());
        match wire.call(&beat, 3)?.error_code {
            0 => Ok(()),
            code => {
                self.forget_if_unknown(code);
                Err(again("heartbeat", code))
            }
        }
    }

    /// Reads a little of every partition; true if there was a record.
    fn fetch(&self, wire: &mut Wire, assigned: &mut Assigned) -> io::Result<bool> {
        let partitions = assigned.positions.iter().map(|(partition, at)| {
            FetchPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(*at as i64)
                .with_partition_max_bytes(200_000)
        });
        let wanted = FetchTopic::default().with_topic(topic()).with_partitions(partitions.collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(50)
            .with_min_bytes(1)
            .with_max_bytes(400_000)
            .with_session_epoch(-1)
            .with_topics(vec![wanted]);
        let answer = wire.call(&request, 11)?;
        let mut came = false;
        for part in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            if part.error_code != 0 {
                return Err(again("fetch", part.error_code));
            }
            let mut bytes = part.records.unwrap_or_default();
            let at = assigned.positions.entry(part.partition_index).or_default();
            while let Ok(header) = BatchHeader::parse(&bytes) {
                header.verify_crc(&bytes).expect("its sum holds");
                for record in read_all(&header, &bytes, 1 << 20).expect("opens") {
                    // A batch may begin before the requested offset.
                    if record.offset.get() < *at {
                        continue;
                    }
                    assert_eq!(record.offset.get(), *at, "partition {}: a hole", part.partition_index);
                    self.readings().read(part.partition_index, *at, Found::of(&record));
                    *at += 1;
                    came = true;
                }
                bytes.advance((header.len as usize).min(bytes.len()));
            }
        }
        Ok(came)
    }

    fn commit(&mut self, wire: &mut Wire, assigned: &Assigned) -> io::Result<()> {
        let one = |(partition, at): (&i32, &u64)| {
            OffsetCommitRequestPartition::default().with_partition_index(*partition).with_committed_offset(*at as i64)
        };
        let partitions = assigned.positions.iter().map(one).collect();
        let of = OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(partitions);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(assigned.generation)
            .with_member_id(self.id.clone())
            .with_topics(vec![of]);
        let answer = wire.call(&request, 7)?;
        for part in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            if part.error_code != 0 {
                self.forget_if_unknown(part.error_code);
                return Err(again("commit", part.error_code));
            }
        }
        let mut readings = self.readings();
        for (partition, at) in &assigned.positions {
            let held = readings.committed.entry(*partition).or_default();
            *held = (*held).max(*at);
        }
        Ok(())
    }
}

/// `ConsumerProtocolAssignment`, version 0.
fn assignment(partitions: &[i32]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(&[0, 0, 0, 0, 0, 1, 0, TOPIC.len() as u8]);
    out.put_slice(TOPIC.as_bytes());
    out.put_i32(partitions.len() as i32);
    partitions.iter().for_each(|partition| out.put_i32(*partition));
    out.put_i32(-1);
    out.freeze()
}

/// The partitions of such an assignment; none if it is empty.
fn assigned(mut bytes: Bytes) -> io::Result<Vec<i32>> {
    let short = |_| io::Error::other("an assignment that is none");
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    bytes.advance(8.min(bytes.len()));
    bytes.advance(TOPIC.len().min(bytes.len()));
    let count = bytes.try_get_i32().map_err(short)?;
    (0..count).map(|_| bytes.try_get_i32().map_err(short)).collect()
}
