//! Three voters in one simulated world: leaders are killed and cut off, replicas join, leave and are replaced;
//! acknowledged entries survive on every replica.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::raft::LEASE;
use crate::raft::log_store::LogDevice;
use crate::raft::network::in_process::InProcess;

mod apart;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

struct Replica {
    id: ReplicaId,
    disk: MemoryDisk,
    numbers: Rc<Numbers>,
    lane: Option<Lane>,
    may_initialise: bool,
}

impl Replica {
    fn new(id: ReplicaId, may_initialise: bool) -> Self {
        Self { id, disk: MemoryDisk::default(), numbers: Rc::default(), lane: None, may_initialise }
    }
}

fn founders() -> Vec<ReplicaId> {
    NODES.map(ReplicaId::first).to_vec()
}

struct Cluster {
    world: World,
    wires: InProcess,
    replicas: BTreeMap<NodeId, Replica>,
    /// Every term anyone led, with who: one leader each, and no incarnation twice.
    led: BTreeMap<Term, NodeId>,
    acknowledged: Vec<(EntryId, u64)>,
    unknown: BTreeSet<u64>,
    next: u64,
    /// Between two replicas, one way.
    delay: Duration,
}

fn machine(node: NodeId) -> u32 {
    u32::try_from(node.0).expect("small")
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self::apart(seed, Duration::from_millis(2))
    }

    fn apart(seed: u64, delay: Duration) -> Self {
        let mut cluster = Self {
            world: World::new(seed),
            wires: InProcess::new(),
            replicas: BTreeMap::new(),
            led: BTreeMap::new(),
            acknowledged: Vec::new(),
            unknown: BTreeSet::new(),
            next: 0,
            delay,
        };
        for node in NODES {
            cluster.replicas.insert(node, Replica::new(ReplicaId::first(node), true));
        }
        NODES.into_iter().for_each(|node| cluster.start(node));
        cluster
    }

    fn replica(&mut self, node: NodeId) -> &mut Replica {
        self.replicas.get_mut(&node).expect("one of three")
    }

    fn start(&mut self, node: NodeId) {
        let env = self.world.env_of(machine(node));
        let transport = self.wires.transport(env.clone(), node, self.delay);
        let replica = self.replica(node);
        let (disk, id, may_initialise) = (replica.disk.clone(), replica.id, replica.may_initialise);
        let numbers = Rc::new(Numbers::default());
        let options =
            LaneOptions { transport: Some(transport), may_initialise, ..LaneOptions::replica(LANE, id, founders()) };
        let lane = self.world.block_on(async {
            let log = MemoryLog::open(&env, &disk, SYNC);
            Lane::start_on(&env, log, numbers.clone(), options).await.expect("starts")
        });
        self.wires.connect(LANE, node, lane.clone());
        let replica = self.replica(node);
        replica.numbers = numbers;
        replica.lane = Some(lane);
    }

    fn kill(&mut self, node: NodeId, kept: u64) {
        self.note_terms();
        self.wires.disconnect(LANE, node);
        self.world.kill_node(machine(node));
        let replica = self.replica(node);
        replica.lane = None;
        let kept = usize::try_from(kept).expect("small").min(replica.disk.unsynced());
        replica.disk.crash(kept);
    }

    /// Notes who led which term; called before an incarnation's record is lost.
    fn note_terms(&mut self) {
        for (node, replica) in &self.replicas {
            let mut mine = BTreeSet::new();
            for event in replica.numbers.events.take() {
                if let Event::Leading(term, _) = event {
                    assert!(mine.insert(term), "{node} led {term} twice");
                    assert!(self.led.insert(term, *node).is_none(), "{term} was led before");
                }
            }
        }
    }

    /// A broker without a past: another, or one that lost its disk.
    fn join(&mut self, id: ReplicaId) {
        self.replicas.insert(id.node, Replica::new(id, false));
        self.start(id.node);
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.world.block_on(future)
    }

    fn lane(&self, node: NodeId) -> Lane {
        self.replicas.get(&node).and_then(|replica| replica.lane.clone()).expect("runs")
    }

    fn cut_off(&self, node: NodeId, cut: bool) {
        self.replicas.keys().filter(|other| **other != node).for_each(|other| self.wires.cut(node, *other, cut));
    }

    fn leader(&self) -> Option<(NodeId, Lane)> {
        let ready = |(node, replica): (&NodeId, &Replica)| {
            let lane = replica.lane.clone()?;
            let leadership = lane.leadership();
            leadership.ready.then_some((*node, lane, leadership.term))
        };
        let best = self.replicas.iter().filter_map(ready).max_by_key(|(_, _, term)| *term);
        best.map(|(node, lane, _)| (node, lane))
    }

    fn await_leader(&self) -> (NodeId, Lane) {
        let env = self.world.env_of(99);
        self.world.block_on(until(&env, "a leader", || self.leader().is_some()));
        self.leader().expect("one")
    }

    /// Proposes some and waits for them, at most two seconds.
    fn propose(&mut self, count: u64) {
        let (_, lane) = self.await_leader();
        let env = self.world.env_of(99);
        let proposals: Vec<_> = (0..count)
            .map(|_| {
                self.next += 1;
                (self.next, lane.propose(payload(self.next, 50)))
            })
            .collect();
        for (number, proposal) in proposals {
            let deadline = env.tasks.sleep(Duration::from_secs(2));
            let outcome = self.world.block_on(futures::future::select(proposal, deadline));
            match outcome {
                futures::future::Either::Left((Ok((id, _)), _)) => self.acknowledged.push((id, number)),
                futures::future::Either::Left((Err(error), _)) if error.disposition().outcome_is_known() => {}
                futures::future::Either::Left((Err(_), _)) | futures::future::Either::Right(_) => {
                    self.unknown.insert(number);
                }
            }
        }
    }

    /// All replicas are up and connected: they converge, and hold what was acknowledged.
    fn check(&mut self) {
        self.propose(1);
        let env = self.world.env_of(99);
        let (_, leader) = self.await_leader();
        let upto = leader.applied().expect("something");
        let reached = || self.replicas.values().all(|r| r.lane.as_ref().is_some_and(|l| l.applied() >= Some(upto)));
        self.world.block_on(until(&env, "every replica caught up", reached));
        let lists: Vec<_> = self.replicas.values().map(|r| r.numbers.applied.borrow().clone()).collect();
        let shortest = lists.iter().map(Vec::len).min().expect("three");
        assert!(lists.iter().all(|list| list[..shortest] == lists[0][..shortest]), "replicas differ");
        let places: BTreeMap<u64, EntryId> = lists[0].iter().map(|(id, number)| (*number, *id)).collect();
        assert_eq!(places.len(), lists[0].len(), "something was applied twice");
        for (id, number) in &self.acknowledged {
            assert_eq!(places.get(number), Some(id), "acknowledged {number}");
        }
        let known: BTreeSet<u64> =
            self.acknowledged.iter().map(|(_, n)| *n).chain(self.unknown.iter().copied()).collect();
        assert!(places.keys().all(|number| known.contains(number)), "something was refused and yet applied");
    }
}

fn run(seed: u64) -> usize {
    let mut cluster = Cluster::new(seed);
    let dice = cluster.world.env_of(99).rng;
    for _ in 0..4 {
        cluster.propose(1 + dice.below(20));
        let (leader, lane) = cluster.await_leader();
        match dice.below(4) {
            0 => {
                // Killed with proposals in flight, and back at once: it must not lead the same term again.
                cluster.next += 1;
                cluster.unknown.insert(cluster.next);
                drop(lane.propose(payload(cluster.next, 50)));
                drop(lane);
                cluster.world.run_for(Duration::from_micros(dice.below(1500)));
                cluster.kill(leader, dice.below(4));
                cluster.start(leader);
            }
            1 => {
                drop(lane);
                cluster.kill(leader, dice.below(4));
                cluster.propose(1 + dice.below(10));
                cluster.start(leader);
            }
            2 => {
                drop(lane);
                let others = NODES.into_iter().filter(|node| *node != leader);
                others.clone().for_each(|other| cluster.wires.cut(leader, other, true));
                cluster.world.run_for(Duration::from_secs(6));
                cluster.propose(1 + dice.below(10));
                others.for_each(|other| cluster.wires.cut(leader, other, false));
            }
            _ => {
                let to = NODES.into_iter().find(|node| *node != leader).expect("another");
                // It may be behind, or another may be elected.
                let _ = cluster.run(lane.transfer_leadership(ReplicaId::first(to)));
                drop(lane);
            }
        }
    }
    cluster.world.run_for(Duration::from_secs(5));
    cluster.check();
    cluster.note_terms();
    cluster.acknowledged.len()
}

#[test]
fn acknowledged_entries_survive_their_leader() {
    let acknowledged: usize = (0..30).map(run).sum();
    assert!(acknowledged > 500, "the runs did something: {acknowledged}");
}

fn another(than: NodeId) -> NodeId {
    NODES.into_iter().find(|node| *node != than).expect("another")
}

#[test]
fn a_replica_behind_the_purged_log_asks_for_a_rebuild_and_never_counts_as_caught_up() {
    let mut cluster = Cluster::new(77);
    cluster.propose(20);
    let (leader, _) = cluster.await_leader();
    let behind = another(leader);
    cluster.kill(behind, 0);
    cluster.propose(50);
    for replica in cluster.replicas.values() {
        if let Some(lane) = &replica.lane
            && let Some(applied) = lane.applied()
        {
            replica.disk.short.set(true);
            lane.purge(applied);
        }
    }
    cluster.world.run_for(Duration::from_secs(2));
    cluster.start(behind);
    let env = cluster.world.env_of(99);
    let lane = cluster.lane(behind);
    let me = lane.me();
    cluster.run(until(&env, "it is found on both sides", || {
        let leader = cluster.leader().is_some_and(|(_, leader)| leader.needs_rebuild().contains(&me));
        leader && lane.needs_rebuild().contains(&me)
    }));
    let (_, leading) = cluster.await_leader();
    let last = leading.applied().expect("something");
    let matched = leading.progress().into_iter().find(|progress| progress.replica == me).and_then(|p| p.matched);
    assert!(matched.is_none_or(|matched| matched < last), "{matched:?} of {last}");
    assert!(lane.died().is_none() && lane.applied() < Some(last));

    // What a rebuild does: the state as of the leader's, the vote kept, the log purged up to there.
    cluster.kill(behind, 0);
    let applied = leading.applied();
    let source = cluster.await_leader().0;
    let (numbers, membership) = {
        let source = &cluster.replicas[&source].numbers;
        (source.applied.borrow().clone(), source.membership.borrow().clone())
    };
    let replica = cluster.replica(behind);
    let log = MemoryLog::open(&env, &replica.disk, None);
    LogDevice::purge(&log, applied.expect("something"));
    replica.disk.settle(&log);
    let numbers = Numbers::restored(numbers, applied);
    numbers.membership.replace(membership.clone());
    let env = cluster.world.env_of(machine(behind));
    let options = LaneOptions {
        transport: Some(cluster.wires.transport(env.clone(), behind, Duration::from_millis(2))),
        ..LaneOptions::replica(LANE, me, founders())
    }
    .from_checkpoint(applied, Some(membership));
    let disk = cluster.replica(behind).disk.clone();
    let lane = cluster.run(async {
        let log = MemoryLog::open(&env, &disk, SYNC);
        Lane::start_on(&env, log, numbers.clone(), options).await.expect("starts")
    });
    cluster.wires.connect(LANE, behind, lane.clone());
    let replica = cluster.replica(behind);
    (replica.numbers, replica.lane) = (numbers, Some(lane));
    cluster.propose(5);
    cluster.check();
    let (_, leading) = cluster.await_leader();
    assert!(leading.needs_rebuild().is_empty(), "it has caught up");
}

#[test]
fn a_learner_becomes_a_voter_and_a_voter_leaves() {
    let mut cluster = Cluster::new(78);
    cluster.propose(10);
    let four = ReplicaId::first(NodeId(4));
    cluster.join(four);
    let (leader, lane) = cluster.await_leader();
    let gone = ReplicaId::first(another(leader));
    cluster.run(lane.add_learner(four)).expect("is added");
    assert!(lane.membership().is_learner(four) && !lane.membership().joint);
    let env = cluster.world.env_of(99);
    cluster.run(until(&env, "it has the log", || cluster.lane(four.node).applied() >= lane.applied()));
    assert_eq!(cluster.lane(four.node).membership().learners, [four]);
    let voters: BTreeSet<_> = founders().into_iter().filter(|id| *id != gone).chain([four]).collect();
    cluster.run(lane.change_voters(voters.clone())).expect("changes");
    assert_eq!(lane.membership().voters, voters.into_iter().collect::<Vec<_>>());
    assert!(!lane.membership().joint && lane.membership().committed);
    assert_eq!(lane.progress().len(), 3);
    cluster.kill(gone.node, 0);
    cluster.replicas.remove(&gone.node);
    cluster.propose(10);
    // The new voter counts: with another one away, it is needed.
    let (leader, _) = cluster.await_leader();
    let third = cluster.replicas.keys().copied().find(|node| *node != leader && *node != four.node);
    if let Some(third) = third {
        cluster.kill(third, 0);
        cluster.propose(10);
        cluster.start(third);
    }
    cluster.check();
}

#[test]
fn a_broker_without_its_disk_is_another_replica_and_the_former_one_is_not_heard() {
    let mut cluster = Cluster::new(79);
    cluster.propose(10);
    let (leader, lane) = cluster.await_leader();
    let lost = another(leader);
    let old = ReplicaId::first(lost);
    cluster.kill(lost, 0);
    cluster.propose(10);
    let new = ReplicaId { node: lost, incarnation: ReplicaIncarnation(7) };
    cluster.join(new);
    // Not yet a member: what the leader sends to the former replica is refused, and it is no voter.
    cluster.world.run_for(Duration::from_secs(2));
    assert_eq!(cluster.lane(lost).applied(), None);
    cluster.run(lane.add_learner(new)).expect("is added");
    let voters = founders().into_iter().filter(|id| *id != old).chain([new]).collect();
    cluster.run(lane.change_voters(voters)).expect("changes");
    assert!(!lane.membership().is_voter(old) && lane.membership().is_voter(new));
    let vote = PeerVote { term: Term(900), replica: old, committed: false };
    let request = PeerRequest::Vote { vote, last: lane.applied(), transfer: true };
    let refused = cluster.run(lane.handle(lane.me(), old, request));
    assert_eq!(refused, Err(PeerError::OtherIncarnation { lane: LANE, asked: old, found: new }));
    let request = PeerRequest::PreVote { vote: PeerVote { replica: lane.me(), ..vote }, last: None };
    let refused = cluster.run(cluster.lane(lost).handle(old, lane.me(), request));
    assert_eq!(refused, Err(PeerError::OtherIncarnation { lane: LANE, asked: old, found: new }));
    cluster.check();
}

#[test]
fn a_leader_that_is_cut_off_has_no_lease_when_another_is_elected() {
    let mut cluster = Cluster::new(80);
    cluster.propose(10);
    let (leader, lane) = cluster.await_leader();
    assert!(lane.holds_lease());
    assert_eq!(cluster.run(lane.confirm()), Ok(()));
    cluster.cut_off(leader, true);
    let env = cluster.world.env_of(99);
    let other = || {
        cluster
            .replicas
            .iter()
            .filter(|(node, _)| **node != leader)
            .any(|(_, replica)| replica.lane.as_ref().is_some_and(|lane| lane.leadership().ready))
    };
    cluster.run(until(&env, "another leads", || {
        let other = other();
        assert!(!other || !lane.holds_lease(), "two replicas would answer");
        other
    }));
    assert!(lane.leadership().ready, "it does not know yet");
    assert_eq!(cluster.run(lane.confirm()), Err(ProposeError::Unconfirmed));
    // A write waits for one confirmation, and was not written.
    assert_eq!(cluster.run(lane.propose(payload(9000, 10))).expect_err("no quorum"), ProposeError::Unconfirmed);
    cluster.cut_off(leader, false);
    cluster.world.run_for(Duration::from_secs(3));
    cluster.check();
}

#[test]
fn a_write_after_a_pause_waits_for_a_confirmation_and_keeps_its_order() {
    let mut cluster = Cluster::new(81);
    cluster.propose(10);
    let (leader, lane) = cluster.await_leader();
    // Long enough for the lease, too short for an election.
    cluster.cut_off(leader, true);
    let env = cluster.world.env_of(99);
    cluster.run(until(&env, "the lease ends", || !lane.holds_lease()));
    let first = cluster.next + 1;
    let proposals: Vec<_> = (first..first + 20).map(|number| (number, lane.propose(payload(number, 10)))).collect();
    cluster.next += 20;
    cluster.cut_off(leader, false);
    let mut last = None;
    for (number, proposal) in proposals {
        let (id, _) = cluster.run(proposal).expect("is confirmed");
        assert!(last < Some(id), "in the order of calls");
        last = Some(id);
        cluster.acknowledged.push((id, number));
    }
    cluster.check();
}

#[test]
fn leadership_is_handed_over_with_proposals_in_flight() {
    for seed in 82..90 {
        let mut cluster = Cluster::new(seed);
        cluster.propose(10);
        let (leader, lane) = cluster.await_leader();
        let to = another(leader);
        let env = cluster.world.env_of(99);
        let mut proposals = Vec::new();
        let mut propose = |lane: &Lane, next: &mut u64| {
            *next += 1;
            proposals.push((*next, lane.propose(payload(*next, 10))));
        };
        (0..20).for_each(|_| propose(&lane, &mut cluster.next));
        let handed = Rc::new(Cell::new(None));
        let (moving, done) = (lane.clone(), handed.clone());
        drop(env.tasks.spawn("transfer", async move {
            done.set(Some(moving.transfer_leadership(ReplicaId::first(to)).await));
        }));
        while handed.get().is_none() {
            cluster.world.run_for(Duration::from_millis(3));
            propose(&lane, &mut cluster.next);
        }
        assert_eq!(handed.get(), Some(Ok(())), "seed {seed}");
        assert_eq!(cluster.await_leader().0, to, "seed {seed}");
        for (number, proposal) in proposals {
            match cluster.run(proposal) {
                Ok((id, _)) => cluster.acknowledged.push((id, number)),
                // Every proposal has a known outcome: nothing was in flight when leadership moved.
                Err(error) => assert!(error.disposition().outcome_is_known(), "seed {seed}: {error}"),
            }
        }
        cluster.check();
    }
}

#[test]
fn a_transfer_to_a_replica_that_is_behind_is_given_up_and_the_leader_goes_on() {
    let mut cluster = Cluster::new(91);
    cluster.propose(10);
    let (leader, lane) = cluster.await_leader();
    let to = another(leader);
    cluster.kill(to, 0);
    cluster.propose(10);
    let refused = cluster.run(lane.transfer_leadership(ReplicaId::first(to)));
    assert_eq!(refused, Err(TransferError::Behind { lane: LANE, to: ReplicaId::first(to) }));
    assert!(lane.holds_lease());
    cluster.propose(10);
    assert_eq!(cluster.await_leader().0, leader, "it still leads");
    let stranger = ReplicaId::first(NodeId(9));
    let refused = cluster.run(lane.transfer_leadership(stranger));
    assert_eq!(refused, Err(TransferError::NotVoter { lane: LANE, to: stranger }));
    cluster.start(to);
    cluster.check();
}

#[test]
fn a_deposed_leaders_uncommitted_entries_are_replaced() {
    let mut cluster = Cluster::new(92);
    cluster.propose(10);
    let (leader, lane) = cluster.await_leader();
    cluster.cut_off(leader, true);
    // Within the lease, so they are in its log; no quorum has them.
    let lost: Vec<_> = (0..10)
        .map(|_| {
            cluster.next += 1;
            cluster.unknown.insert(cluster.next);
            lane.propose(payload(cluster.next, 10))
        })
        .collect();
    cluster.world.run_for(Duration::from_secs(3));
    cluster.propose(10);
    cluster.cut_off(leader, false);
    for proposal in lost {
        let error = cluster.run(proposal).expect_err("another leader's entries are there");
        assert!(matches!(error, ProposeError::Unknown { .. }), "{error}");
    }
    cluster.check();
}

#[test]
fn a_voter_keeps_its_vote_over_a_restart() {
    let mut cluster = Cluster::new(93);
    cluster.propose(10);
    let (leader, _) = cluster.await_leader();
    let (voter, other) = (another(leader), NODES.into_iter().find(|n| *n != leader && *n != another(leader)));
    let other = ReplicaId::first(other.expect("the third"));
    let ask = |cluster: &Cluster, term, candidate| {
        let lane = cluster.lane(voter);
        let last = Some(EntryId { term: Term(term - 1), index: LogIndex(1 << 40) });
        let vote = PeerVote { term: Term(term), replica: candidate, committed: false };
        let request = PeerRequest::Vote { vote, last, transfer: true };
        match cluster.run(lane.handle(lane.me(), candidate, request)) {
            Ok(PeerReply::Vote { vote, granted, .. }) => granted && vote.replica == candidate,
            reply => unreachable!("{reply:?}"),
        }
    };
    cluster.cut_off(voter, true);
    assert!(ask(&cluster, 900, other), "it has not voted in this term");
    cluster.kill(voter, 0);
    cluster.start(voter);
    assert!(!ask(&cluster, 900, ReplicaId::first(leader)), "it has");
    assert!(ask(&cluster, 900, other), "for this one");
}

#[test]
fn voters_that_never_spoke_with_the_first_leader_begin_without_it() {
    for seed in 100..110 {
        let mut cluster = Cluster::new(seed);
        // The first one may have begun or not: a majority of the founders goes on without it.
        cluster.kill(NODES[0], 0);
        cluster.propose(10);
        cluster.start(NODES[0]);
        cluster.check();
    }
}

#[test]
fn a_follower_that_stands_wins_soon_after_the_lease_and_never_within_it() {
    for seed in 1..=8 {
        let mut cluster = Cluster::new(seed);
        let (leader, lane) = cluster.await_leader();
        cluster.propose(3);
        cluster.world.run_for(Duration::from_secs(1));
        let term = lane.leadership().term;
        let other = another(leader);
        for _ in 0..20 {
            cluster.run(cluster.lane(other).stand());
            cluster.world.run_for(Duration::from_millis(37));
        }
        assert_eq!(cluster.leader().map(|(node, lane)| (node, lane.leadership().term)), Some((leader, term)));
        cluster.kill(leader, 0);
        let killed = cluster.world.env_of(99).clock.now();
        cluster.run(cluster.lane(other).stand());
        cluster.world.run_for(LEASE + Duration::from_millis(20));
        assert_eq!(cluster.leader().map(|(node, _)| node), None, "seed {seed}: within the lease");
        cluster.run(cluster.lane(other).stand());
        let (next, _) = cluster.await_leader();
        let took = cluster.world.env_of(99).clock.now().since(killed);
        assert!(next == other && took < Duration::from_millis(600), "seed {seed}: {next} leads after {took:?}");
        cluster.start(leader);
        cluster.propose(3);
        cluster.check();
    }
}

#[test]
fn a_leader_is_elected_however_slow_the_disks_are() {
    for (seed, slow) in [(1, 100), (2, 200), (3, 350), (4, 500), (5, 800)] {
        let mut cluster = Cluster::new(seed);
        cluster.propose(3);
        let (leader, lane) = cluster.await_leader();
        drop(lane);
        cluster.world.run_for(Duration::from_secs(1));
        cluster.kill(leader, 0);
        cluster.replicas.values().for_each(|replica| replica.disk.slower.set(Duration::from_millis(slow)));
        let killed = cluster.world.env_of(99).clock.now();
        drop(cluster.await_leader());
        let took = cluster.world.env_of(99).clock.now().since(killed);
        println!("syncs of {slow} ms: a leader after {took:?}");
        assert!(took < Duration::from_secs(20), "syncs of {slow} ms: a leader after {took:?}");
        cluster.replicas.values().for_each(|replica| replica.disk.slower.set(Duration::ZERO));
        cluster.start(leader);
        cluster.check();
    }
}
