//! A lane as the layers above see it: one voter, three voters, crashes, the cost of a proposal.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, BytesMut};
use tidewater_storage::env::sim::World;
use tidewater_storage::journal::{Journal, JournalConfig, JournalEntry};
use tidewater_storage::model::{LogIndex, ReplicaIncarnation};

use super::*;
use crate::raft::Answer;
use crate::raft::TransferError;
use crate::raft::memory_log::{MemoryDisk, MemoryLog};
use crate::raft::network::{PeerError, PeerReply, PeerRequest, PeerVote};

mod crashes;
mod three_voters;

pub(super) const LANE: LaneId = LaneId(5);
pub(super) const SYNC: Option<Duration> = Some(Duration::from_micros(300));

/// The calls that the layer above got, and the numbers it applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Leading(Term, EntryId),
    Following(Term),
}

/// A layer above that keeps a list of numbers.
#[derive(Default)]
pub(super) struct Numbers {
    pub(super) applied: RefCell<Vec<(EntryId, u64)>>,
    pub(super) last: Cell<Option<EntryId>>,
    pub(super) membership: RefCell<Bytes>,
    pub(super) events: RefCell<Vec<Event>>,
    leads: Cell<bool>,
}

impl Numbers {
    pub(super) fn restored(applied: Vec<(EntryId, u64)>, last: Option<EntryId>) -> Rc<Self> {
        Rc::new(Self { applied: RefCell::new(applied), last: Cell::new(last), ..Self::default() })
    }

    fn advance(&self, id: EntryId) {
        let before = self.last.replace(Some(id));
        assert!(before.is_none_or(|before| before.index.0 + 1 == id.index.0 && before.term <= id.term));
    }
}

pub(super) fn payload(number: u64, bytes: usize) -> Payload {
    let mut meta = BytesMut::new();
    meta.put_u64(number);
    Payload { meta: meta.freeze(), blobs: vec![Bytes::from(vec![0; bytes])], verified: false }
}

impl Apply for Numbers {
    fn apply(&self, id: EntryId, payload: &Payload) -> Answer {
        self.advance(id);
        let number = payload.meta.clone().get_u64();
        self.applied.borrow_mut().push((id, number));
        Answer::of(number)
    }

    fn applied_blank(&self, id: EntryId) {
        self.advance(id);
    }

    fn membership(&self, blob: Bytes) {
        self.membership.replace(blob);
    }

    fn leading(&self, term: Term, ready_at: EntryId) {
        assert_eq!(ready_at.term, term);
        assert!(!self.leads.replace(true), "called once");
        self.events.borrow_mut().push(Event::Leading(term, ready_at));
    }

    fn following(&self, term: Term) {
        assert!(self.leads.replace(false), "called only after leading");
        self.events.borrow_mut().push(Event::Following(term));
    }
}

pub(super) async fn until(env: &Env, what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..600_000 {
        if reached() {
            return;
        }
        env.tasks.sleep(Duration::from_micros(500)).await;
    }
    unreachable!("never reached: {what}");
}

async fn single(env: &Env, disk: &MemoryDisk, numbers: &Rc<Numbers>) -> Lane {
    let options = LaneOptions::single(LANE, NodeId(1));
    let log = MemoryLog::open(env, disk, SYNC);
    Lane::start_on(env, log, numbers.clone(), options).await.expect("starts")
}

#[test]
fn requests_that_would_end_the_group_are_refused() {
    let world = World::new(4);
    let env = world.env();
    let numbers = Rc::new(Numbers::default());
    world.block_on(async {
        let lane = single(&env, &MemoryDisk::default(), &numbers).await;
        until(&env, "ready", || lane.leadership().ready).await;
        let (me, other) = (lane.me(), ReplicaId::first(NodeId(2)));
        let vote = |term| PeerVote { term: Term(term), replica: other, committed: true };
        let candidate = |term| PeerVote { committed: false, ..vote(term) };
        let entry = |term, index| JournalEntry {
            id: EntryId { term: Term(term), index: LogIndex(index) },
            payload: Payload { meta: Bytes::from_static(&[0]), ..Payload::default() },
        };
        let id = |term, index| entry(term, index).id;
        let append =
            |term, previous, entries| PeerRequest::Append { vote: vote(term), previous, entries, committed: None };
        let after = lane.applied();
        let next = after.expect("has applied").index.0 + 1;
        let membership = |meta: Vec<u8>| JournalEntry {
            payload: Payload { meta: Bytes::from(meta), ..Payload::default() },
            ..entry(9, next)
        };
        let no_voters = membership(vec![2, 1, 0, 0, 0, 0]);
        let no_replica = membership([&[2, 1, 0, 1, 0, 1][..], &[0xff; 8], &[0, 1], &[0xff; 8]].concat());
        for request in [
            PeerRequest::Vote { vote: candidate(u64::from(u32::MAX)), last: after, transfer: true },
            PeerRequest::Vote { vote: vote(9), last: after, transfer: true },
            PeerRequest::PreVote { vote: candidate(9), last: Some(id(10, next)) },
            append(u64::from(u32::MAX), after, Vec::new()),
            append(9, after, vec![entry(9, next + 1)]),
            append(9, after, vec![entry(9, next), entry(9, next)]),
            append(9, after, vec![entry(10, next)]),
            append(9, None, vec![entry(9, 3)]),
            append(9, Some(id(9, 0)), Vec::new()),
            append(9, Some(id(9, u64::MAX)), Vec::new()),
            append(9, after, vec![no_voters]),
            append(9, after, vec![no_replica]),
            PeerRequest::Append { vote: candidate(9), previous: after, entries: Vec::new(), committed: None },
            PeerRequest::Append { vote: vote(9), previous: after, entries: Vec::new(), committed: Some(id(10, 4)) },
            PeerRequest::Append {
                vote: PeerVote { replica: me, ..vote(9) },
                previous: after,
                entries: Vec::new(),
                committed: None,
            },
            PeerRequest::Rebuild { vote: vote(9), at: id(9, 0) },
        ] {
            let refused = lane.handle(me, other, request.clone()).await;
            assert!(matches!(refused, Err(PeerError::Nonsense { .. })), "{request:?}: {refused:?}");
        }
        let stranger = ReplicaId { incarnation: ReplicaIncarnation(4), ..me };
        let refused = lane.handle(stranger, other, append(9, after, Vec::new())).await;
        assert_eq!(refused, Err(PeerError::OtherIncarnation { lane: LANE, asked: stranger, found: me }));
        assert!(lane.died().is_none() && lane.propose(payload(7, 10)).await.is_ok(), "it leads on");
    });
}

#[test]
fn a_fresh_and_a_restarted_voter_lead_at_once_and_in_a_new_term() {
    let world = World::new(3);
    let disk = MemoryDisk::default();
    let mut terms = Vec::new();
    for _ in 0..3 {
        let env = world.restart();
        disk.crash(0);
        let numbers = Rc::new(Numbers::default());
        world.block_on(async {
            let start = env.clock.now();
            let lane = single(&env, &disk, &numbers).await;
            until(&env, "ready", || lane.leadership().ready).await;
            assert!(env.clock.now().since(start) < Duration::from_millis(50));
            assert_eq!(lane.leadership().leader, Some(NodeId(1)));
            let (id, answer) = lane.propose(payload(7, 10)).await.expect("is applied");
            assert_eq!((id.term, answer.take::<u64>().expect("a number")), (lane.leadership().term, 7));
            terms.push(lane.leadership().term);
            lane.shutdown().await;
        });
    }
    assert!(terms.windows(2).all(|pair| pair[0] < pair[1]), "{terms:?}");
}

#[test]
fn proposals_are_logged_in_the_order_of_calls_and_capped() {
    let world = World::new(4);
    let env = world.env();
    let numbers = Rc::new(Numbers::default());
    world.block_on(async {
        let lane = single(&env, &MemoryDisk::default(), &numbers).await;
        assert_eq!(lane.propose(payload(0, 0)).await.expect_err("not yet"), ProposeError::NotLeader { hint: None });
        until(&env, "ready", || lane.leadership().ready).await;
        let proposals: Vec<_> = (0..PROPOSALS_MAX as u64).map(|n| lane.propose(payload(n, 100))).collect();
        assert_eq!(lane.in_flight(), PROPOSALS_MAX);
        assert_eq!(lane.propose(payload(9999, 0)).await.expect_err("full"), ProposeError::Full { cap: PROPOSALS_MAX });
        for (n, proposal) in proposals.into_iter().enumerate() {
            let (_, answer) = proposal.await.expect("is applied");
            assert_eq!(answer.take::<u64>().expect("a number"), n as u64);
        }
        assert_eq!(lane.in_flight(), 0);
        let applied: Vec<_> = numbers.applied.borrow().iter().map(|(_, n)| *n).collect();
        assert_eq!(applied, (0..PROPOSALS_MAX as u64).collect::<Vec<_>>());
        lane.shutdown().await;
    });
}

#[test]
fn shutting_down_settles_what_is_in_flight_and_applies_nothing_more() {
    let world = World::new(5);
    let env = world.env();
    let numbers = Rc::new(Numbers::default());
    world.block_on(async {
        let lane = single(&env, &MemoryDisk::default(), &numbers).await;
        until(&env, "ready", || lane.leadership().ready).await;
        let proposals: Vec<_> = (0..10).map(|n| lane.propose(payload(n, 100))).collect();
        lane.shutdown().await;
        let applied = numbers.applied.borrow().len();
        for proposal in proposals {
            match proposal.await {
                Ok(_) | Err(ProposeError::Shutdown) => {}
                Err(error) => unreachable!("unexpected: {error}"),
            }
        }
        env.tasks.sleep(Duration::from_secs(1)).await;
        assert_eq!(numbers.applied.borrow().len(), applied);
        assert_eq!(lane.propose(payload(99, 0)).await.expect_err("is down"), ProposeError::Shutdown);
        assert_eq!(lane.died(), None);
        assert_eq!(world.tasks_alive(0), 0, "nothing of the lane is left");
    });
}

#[test]
fn an_entry_larger_than_the_journal_takes_is_refused_and_kills_nothing() {
    let world = World::new(7);
    let env = world.env();
    let numbers = Rc::new(Numbers::default());
    world.block_on(async {
        let config = JournalConfig { first_file_bytes: 32 << 10, file_bytes: 64 << 10, ..JournalConfig::default() };
        let journal = Journal::open(env.clone(), Path::new("/journal"), config).await.expect("opens");
        let options = LaneOptions::single(LANE, NodeId(1));
        let lane = Lane::start(&env, journal.lane(LANE), numbers.clone(), options).await.expect("starts");
        until(&env, "ready", || lane.leadership().ready).await;
        let most = (journal.entry_bytes_max() - codec::entry_bytes(&payload(1, 0))) as usize;
        let error = lane.propose(payload(1, most + 1)).await.expect_err("is too large");
        assert_eq!(
            error,
            ProposeError::TooLarge { bytes: journal.entry_bytes_max() + 1, max: journal.entry_bytes_max() }
        );
        assert!(error.disposition().outcome_is_known());
        lane.propose(payload(2, most)).await.expect("the largest is applied");
        assert_eq!(lane.died(), None);
        assert_eq!(numbers.applied.borrow().iter().map(|(_, n)| *n).collect::<Vec<_>>(), [2]);
        lane.shutdown().await;
    });
}

#[test]
fn a_failing_log_kills_the_lane_and_says_so() {
    let world = World::new(6);
    let env = world.env();
    let numbers = Rc::new(Numbers::default());
    world.block_on(async {
        let log = MemoryLog::open(&env, &MemoryDisk::default(), SYNC);
        let breaker = log.breaker();
        let options = LaneOptions::single(LANE, NodeId(1));
        let lane = Lane::start_on(&env, log, numbers.clone(), options).await.expect("starts");
        until(&env, "ready", || lane.leadership().ready).await;
        breaker.set(true);
        let error = lane.propose(payload(1, 0)).await.expect_err("cannot be stored");
        assert_eq!(error, ProposeError::Fatal);
        let fatal = lane.fatal().await;
        assert_eq!(fatal.lane, LANE);
        assert_eq!(lane.died(), Some(fatal));
        assert_eq!(lane.propose(payload(2, 0)).await.expect_err("is dead"), ProposeError::Fatal);
        assert!(matches!(numbers.events.borrow().last(), Some(Event::Following(_))));
    });
}

#[test]
fn purging_follows_the_checkpoint_and_a_restart_goes_on_behind_it() {
    let world = World::new(8);
    let disk = MemoryDisk::default();
    let env = world.env();
    let numbers = Rc::new(Numbers::default());
    let (applied, membership) = world.block_on(async {
        let lane = single(&env, &disk, &numbers).await;
        until(&env, "ready", || lane.leadership().ready).await;
        let mut last = None;
        for n in 0..100 {
            last = Some(lane.propose(payload(n, 10)).await.expect("is applied").0);
        }
        let checkpoint = (lane.applied(), numbers.membership.borrow().clone());
        assert_eq!(checkpoint.0, last);
        lane.purge(EntryId { term: Term(1), index: LogIndex(50) });
        until(&env, "purged", || disk.purged().is_some_and(|id| id.index.0 == 50)).await;
        lane.purge(last.expect("one"));
        until(&env, "purged", || disk.purged() == last).await;
        lane.propose(payload(100, 10)).await.expect("is applied");
        checkpoint
    });
    world.kill();
    disk.crash(usize::MAX);
    let env = world.env();
    let restored = Numbers::restored(Vec::new(), applied);
    world.block_on(async {
        let options = LaneOptions::single(LANE, NodeId(1)).from_checkpoint(applied, Some(membership));
        let log = MemoryLog::open(&env, &disk, SYNC);
        let lane = Lane::start_on(&env, log, restored.clone(), options).await.expect("starts");
        until(&env, "ready", || lane.leadership().ready).await;
        let again: Vec<_> = restored.applied.borrow().iter().map(|(_, n)| *n).collect();
        assert_eq!(again, [100], "only what the checkpoint does not hold");
    });
}

#[test]
fn a_checkpoint_that_cannot_be_read_or_does_not_fit_is_refused() {
    let world = World::new(9);
    let env = world.env();
    world.block_on(async {
        let options = LaneOptions::single(LANE, NodeId(1)).from_checkpoint(None, Some(Bytes::from_static(b"\x07")));
        let log = MemoryLog::open(&env, &MemoryDisk::default(), SYNC);
        let error = Lane::start_on(&env, log, Rc::new(Numbers::default()), options).await.expect_err("is refused");
        assert!(matches!(error, LaneError::Membership { .. }), "{error}");
        let applied = Some(EntryId { term: Term(1), index: LogIndex(9) });
        let options = LaneOptions::single(LANE, NodeId(1)).from_checkpoint(applied, None);
        let log = MemoryLog::open(&env, &MemoryDisk::default(), SYNC);
        let error = Lane::start_on(&env, log, Numbers::restored(Vec::new(), applied), options).await;
        let error = error.expect_err("no voter");
        assert!(matches!(error, LaneError::NoVoters { .. }), "{error}");
    });
}

/// Not a target here; printed by `cargo test --release cost_of_a_proposal -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_proposal() {
    struct Count(Cell<u64>);
    impl Apply for Count {
        fn apply(&self, _: EntryId, _: &Payload) -> Answer {
            self.0.set(self.0.get() + 1);
            Answer::none()
        }
        fn applied_blank(&self, _: EntryId) {}
        fn membership(&self, _: Bytes) {}
        fn leading(&self, _: Term, _: EntryId) {}
        fn following(&self, _: Term) {}
    }
    for writers in [1usize, 4, 16, 64] {
        tidewater_storage::env::real::run(1, |env| async move {
            let log = MemoryLog::open(&env, &MemoryDisk::default(), None);
            let options = LaneOptions::single(LANE, NodeId(1));
            let lane = Lane::start_on(&env, log, Rc::new(Count(Cell::new(0))), options).await.expect("starts");
            until(&env, "ready", || lane.leadership().ready).await;
            let (meta, blob) = (Bytes::from(vec![0; 64]), Bytes::from(vec![0; 1024]));
            let rounds = 200_000 / writers;
            let start = env.clock.now();
            for round in 0..rounds {
                let proposals: Vec<_> = (0..writers)
                    .map(|_| lane.propose(Payload { meta: meta.clone(), blobs: vec![blob.clone()], verified: false }))
                    .collect();
                let mut last = None;
                for proposal in proposals {
                    last = Some(proposal.await.expect("is applied").0);
                }
                if round % 256 == 0 {
                    lane.purge(last.expect("one"));
                }
            }
            let each = env.clock.now().since(start) / u32::try_from(rounds * writers).expect("small");
            eprintln!("{writers} in flight: {each:?} per proposal");
            lane.shutdown().await;
        })
        .expect("executor");
    }
}
