//! Sessions against a model: partitions that grow and are trimmed, a client that reads, seeks, forgets and comes back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::kafka::handlers::fixture::image;
use crate::kafka::words::topic_name;

const PARTITIONS: i32 = 6;
/// Bytes of a record of the model.
const RECORD: usize = 10;

fn asked(topic: &str, partitions: &[(i32, i64)]) -> FetchTopic {
    let partitions = partitions.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_partition_max_bytes(1000)
    });
    FetchTopic::default().with_topic(topic_name(topic)).with_partitions(partitions.collect())
}

fn done(bytes: usize, log_start: u64, end: u64) -> ReadDone {
    let end = Offset::new(end);
    let batches = if bytes > 0 { vec![Bytes::from(vec![0; bytes])] } else { Vec::new() };
    ReadDone { batches, high_watermark: end, last_stable_offset: end, log_start: Offset::new(log_start) }
}

fn errors(topics: &[(TopicRef, Vec<PartitionAnswer>)]) -> Vec<(i32, i16)> {
    topics.iter().flat_map(|(_, answers)| answers.iter().map(|a| (a.index, a.error.number()))).collect()
}

fn look_all(session: &mut Session, image: &ClusterImage, read: impl Fn(&Look) -> Outcome) -> Vec<(SlotId, Outcome)> {
    let ids = session.take_queue();
    let one = |id| (id, session.look(id, image).map_or_else(Outcome::Refused, |look| read(&look)));
    ids.into_iter().map(one).collect()
}

#[test]
fn a_full_answer_keeps_the_requests_order_and_names_what_is_refused() {
    let image = image(&[("orders", 2)]);
    let topics = [asked("nope", &[(0, 0)]), asked("orders", &[(9, 0), (1, 6), (0, -3)])];
    let mut session = Session::new(false, Isolation::ReadUncommitted, &topics);
    let found = look_all(&mut session, &image, |_| Outcome::Read(done(10, 0, 50)));
    assert!(session.settle(&found, Kind::Full, false).is_empty(), "no one is at its end");
    let answer = session.whole(found);
    assert_eq!(errors(&answer), [(0, 3), (9, 3), (1, 0), (0, 1)]);
    assert_eq!(answer[1].1[1].high_watermark, 50);
}

#[test]
fn ids_that_are_not_known_and_names_that_moved_on() {
    let old = image(&[("orders", 1), ("bills", 1)]);
    let by_id = |name: &str| asked("", &[(0, 0)]).with_topic_id(old.topic(name).expect("there").id.0);
    let topics = [by_id("orders"), by_id("bills"), asked("orders", &[(0, 0)])];
    let mut session = Session::new(true, Isolation::ReadUncommitted, &topics);
    let found = look_all(&mut session, &old, |_| Outcome::Read(done(0, 0, 0)));
    assert_eq!(session.settle(&found, Kind::Full, false).len(), 2);
    assert_eq!(errors(&session.whole(found)), [(0, 0), (0, 0), (0, 100)]);
    // Made again under another id, and deleted.
    let mut new = image(&[("other", 1), ("third", 1), ("orders", 1)]);
    new.topics.retain(|name, _| name.as_str() == "orders");
    new.names.retain(|_, name| name.as_str() == "orders");
    (0..2).for_each(|id| assert!(session.rang(id)));
    let found = look_all(&mut session, &new, |_| Outcome::Read(done(0, 0, 0)));
    assert!(session.settle(&found, Kind::Incremental, false).is_empty(), "errors are looked at again anyway");
    assert_eq!(errors(&session.changed(found)), [(0, 100), (0, 103), (0, 3)]);
}

#[test]
fn who_was_not_reached_stays_in_front() {
    let image = image(&[("orders", 4)]);
    let topics = [asked("orders", &[(0, 0), (1, 0), (2, 0), (3, 0)])];
    let mut session = Session::new(false, Isolation::ReadUncommitted, &topics);
    for expected in [[0, 1], [2, 3], [0, 1]] {
        let ids = session.take_queue();
        let outcome = |n| if n < 2 { Outcome::Read(done(10, 0, 9)) } else { Outcome::Unread };
        let found: Vec<_> = ids.into_iter().enumerate().map(|(n, id)| (id, outcome(n))).collect();
        for (id, _) in &found {
            session.look(*id, &image).expect("there");
        }
        assert!(session.is_full(&found));
        assert!(session.settle(&found, Kind::Incremental, false).is_empty(), "no one is at its end");
        let answered: Vec<i32> = errors(&session.changed(found)).into_iter().map(|(n, _)| n).collect();
        assert_eq!(answered, expected);
    }
}

#[test]
fn what_was_idle_in_the_first_fetch_of_a_session_is_heard_of_in_the_next() {
    let image = image(&[("orders", 2)]);
    let topics = [asked("orders", &[(0, 0), (1, 0)])];
    let first = |kind| {
        let mut session = Session::new(false, Isolation::ReadUncommitted, &topics);
        // Partition 0 has a record, so nothing is waited for; partition 1 is empty.
        let found = look_all(&mut session, &image, |look| match look.part.address.id.index.0 {
            0 => Outcome::Read(done(RECORD, 0, 1)),
            _ => Outcome::Read(done(0, 0, 0)),
        });
        let watched: Vec<SlotId> =
            session.settle(&found, kind, false).into_iter().map(|(_, watched)| watched.token).collect();
        assert_eq!(errors(&session.whole(found)), [(0, 0), (1, 0)]);
        (session, watched)
    };
    assert!(first(Kind::Once).1.is_empty(), "nobody comes back");
    let (mut session, watched) = first(Kind::Full);
    assert_eq!(watched, [1]);
    // The client names only what it read, and a record comes to the other.
    session.update(Isolation::ReadUncommitted, &[asked("orders", &[(0, 1)])], &[]);
    watched.into_iter().for_each(|token| assert!(session.rang(token)));
    let found = look_all(&mut session, &image, |look| match look.part.address.id.index.0 {
        0 => Outcome::Read(done(0, 0, 1)),
        _ => Outcome::Read(done(RECORD, 0, 1)),
    });
    let watched = session.settle(&found, Kind::Incremental, false);
    assert_eq!(watched.into_iter().map(|(_, watched)| watched.token).collect::<Vec<_>>(), [0]);
    assert_eq!(errors(&session.changed(found)), [(1, 0)]);
}

#[test]
fn what_is_forgotten_is_not_answered_any_more() {
    let image = image(&[("orders", 3)]);
    let topics = [asked("orders", &[(0, 0), (1, 0), (2, 0)])];
    let mut session = Session::new(false, Isolation::ReadUncommitted, &topics);
    let found = look_all(&mut session, &image, |_| Outcome::Read(done(0, 0, 0)));
    assert_eq!(session.settle(&found, Kind::Full, false).len(), 3, "all are idle");
    assert_eq!(errors(&session.whole(found)).len(), 3);
    let gone = ForgottenTopic::default().with_topic(topic_name("orders")).with_partitions(vec![0, 1, 2]);
    session.update(Isolation::ReadUncommitted, &[], &[gone]);
    assert!(session.is_empty() && session.take_queue().is_empty());
    assert!(session.whole(Vec::new()).is_empty());
}

/// What happens in the model.
#[derive(Clone, Debug)]
enum Event {
    Append(i32),
    Trim(i32),
    Seek(i32, u64),
    Forget(i32),
    /// The client fetches, with room for so many records.
    Fetch(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let partition = 0..PARTITIONS;
    prop_oneof![
        4 => partition.clone().prop_map(Event::Append),
        1 => partition.clone().prop_map(Event::Trim),
        1 => (partition.clone(), 0..20u64).prop_map(|(n, to)| Event::Seek(n, to)),
        2 => partition.prop_map(Event::Forget),
        5 => (1..4usize).prop_map(Event::Fetch),
        3 => Just(Event::Fetch(1000)),
    ]
}

/// Broker and client around a session.
struct World {
    session: Session,
    image: ClusterImage,
    /// Log start and end of each partition.
    logs: BTreeMap<i32, (u64, u64)>,
    /// Alarms registered: token by partition.
    alarms: BTreeMap<i32, SlotId>,
    /// The client's offset and the bounds it received; absent when forgotten.
    client: BTreeMap<i32, (u64, Option<(u64, u64)>)>,
    /// What the next request has to say.
    changed: BTreeSet<i32>,
    /// The partitions it will forget, and the bounds it received of them.
    forgotten: BTreeMap<i32, Option<(u64, u64)>>,
    started: bool,
}

impl World {
    fn new() -> Self {
        let all: Vec<(i32, i64)> = (0..PARTITIONS).map(|n| (n, 0)).collect();
        let mut world = Self {
            session: Session::new(false, Isolation::ReadUncommitted, &[asked("orders", &all)]),
            image: image(&[("orders", PARTITIONS)]),
            logs: (0..PARTITIONS).map(|n| (n, (0, 0))).collect(),
            alarms: BTreeMap::new(),
            client: (0..PARTITIONS).map(|n| (n, (0, None))).collect(),
            changed: BTreeSet::new(),
            forgotten: BTreeMap::new(),
            started: false,
        };
        world.fetch(1000);
        world
    }

    fn ring(&mut self, n: i32) {
        if let Some(token) = self.alarms.remove(&n) {
            self.session.rang(token);
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Append(n) => {
                self.logs.get_mut(&n).expect("a log").1 += 1;
                self.ring(n);
            }
            Event::Trim(n) => {
                let log = self.logs.get_mut(&n).expect("a log");
                log.0 = (log.0 + 1).min(log.1);
                self.ring(n);
            }
            Event::Seek(n, to) => {
                // Also brings back what was forgotten.
                let (start, end) = self.logs[&n];
                let to = to.clamp(start, end);
                let sent = self.client.get(&n).map(|(_, sent)| *sent).or_else(|| self.forgotten.remove(&n));
                self.client.insert(n, (to, sent.flatten()));
                self.changed.insert(n);
            }
            Event::Forget(n) => {
                if self.client.len() > 1
                    && let Some((_, sent)) = self.client.remove(&n)
                {
                    self.changed.remove(&n);
                    self.forgotten.insert(n, sent);
                }
            }
            Event::Fetch(room) => self.fetch(room),
        }
    }

    fn send(&mut self) {
        let asks: Vec<(i32, i64)> = self.changed.iter().map(|n| (*n, self.client[n].0 as i64)).collect();
        let gone: Vec<i32> = std::mem::take(&mut self.forgotten).into_keys().collect();
        let gone = ForgottenTopic::default().with_topic(topic_name("orders")).with_partitions(gone);
        self.session.update(Isolation::ReadUncommitted, &[asked("orders", &asks)], &[gone]);
        self.changed.clear();
    }

    fn fetch(&mut self, room: usize) {
        if self.started {
            self.send();
        }
        let (logs, mut left, mut first) = (&self.logs, room * RECORD, true);
        let (ids, image) = (self.session.take_queue(), &self.image);
        let mut found = Vec::new();
        for id in ids {
            let look = self.session.look(id, image).expect("known");
            let n = look.part.address.id.index.0;
            let (start, end) = logs[&n];
            let from = look.part.from.get();
            assert_eq!(from, self.client[&n].0, "the session knows where the client stands");
            let outcome = if from < start || from > end {
                Outcome::Refused(ErrorCode::OFFSET_OUT_OF_RANGE)
            } else if left == 0 && self.started {
                Outcome::Unread
            } else {
                let bytes = if left == 0 { 0 } else { (end - from) as usize * RECORD };
                Outcome::Read(done(bytes, start, end).within(&mut left, &mut first))
            };
            found.push((id, outcome));
        }
        let kind = if self.started { Kind::Incremental } else { Kind::Full };
        let watched = self.session.settle(&found, kind, false);
        for (place, watched) in watched {
            let (start, end) = self.logs[&place.id.index.0];
            assert_eq!((watched.log_start.get(), watched.end.get()), (start, end));
            let before = self.alarms.insert(place.id.index.0, watched.token);
            assert_eq!(before, None, "an alarm is registered once");
        }
        let full = self.session.is_full(&found);
        let answer = if self.started { self.session.changed(found) } else { self.session.whole(found) };
        self.started = true;
        self.read(answer.into_iter().flat_map(|(_, answers)| answers).collect(), full);
    }

    fn read(&mut self, answers: Vec<PartitionAnswer>, full: bool) {
        let mut had_data = BTreeSet::new();
        for answer in answers {
            let (at, sent) = self.client.get_mut(&answer.index).expect("only what the client wants");
            if answer.error.is_none() {
                *sent = Some((answer.log_start_offset as u64, answer.high_watermark as u64));
            } else {
                // A consumer that is out of range goes to the start.
                *at = self.logs[&answer.index].0;
                self.changed.insert(answer.index);
            }
            if answer.record_bytes() > 0 {
                had_data.insert(answer.index);
                *at += (answer.record_bytes() / RECORD) as u64;
                self.changed.insert(answer.index);
            }
        }
        if full {
            return;
        }
        for (n, (at, sent)) in self.client.iter().filter(|(n, _)| !self.changed.contains(n)) {
            assert_eq!(*sent, Some(self.logs[n]), "partition {n}: what changed is sent");
            assert_eq!(*at, self.logs[n].1, "partition {n}: what is there is sent");
        }
    }
}

proptest! {
    #[test]
    fn the_client_learns_all_there_is(events in proptest::collection::vec(event(), 1..80)) {
        let mut world = World::new();
        events.iter().for_each(|event| world.happen(event));
        // However small the answers, everybody is served in the end.
        for _ in 0..400 {
            world.happen(&Event::Fetch(1));
        }
        world.happen(&Event::Fetch(1000));
        for (n, (at, _)) in &world.client {
            prop_assert_eq!(*at, world.logs[n].1);
        }
        // And then nothing costs anything.
        world.happen(&Event::Fetch(1000));
        world.send();
        prop_assert!(world.session.take_queue().is_empty());
        prop_assert!(world.session.len() <= PARTITIONS as usize + 1);
    }
}
