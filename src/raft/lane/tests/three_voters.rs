//! Three voters in one simulated world: leaders are killed and cut off, acknowledged entries survive on every replica.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::raft::network::in_process::InProcess;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

struct Replica {
    disk: MemoryDisk,
    numbers: Rc<Numbers>,
    lane: Option<Lane>,
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
}

fn machine(node: NodeId) -> u32 {
    u32::try_from(node.0).expect("small")
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut cluster = Self {
            world: World::new(seed),
            wires: InProcess::new(),
            replicas: BTreeMap::new(),
            led: BTreeMap::new(),
            acknowledged: Vec::new(),
            unknown: BTreeSet::new(),
            next: 0,
        };
        for node in NODES {
            let replica = Replica { disk: MemoryDisk::default(), numbers: Rc::default(), lane: None };
            cluster.replicas.insert(node, replica);
        }
        NODES.into_iter().for_each(|node| cluster.start(node));
        cluster
    }

    fn replica(&mut self, node: NodeId) -> &mut Replica {
        self.replicas.get_mut(&node).expect("one of three")
    }

    fn start(&mut self, node: NodeId) {
        let env = self.world.env_of(machine(node));
        let transport = self.wires.transport(env.clone(), node, Duration::from_millis(2));
        let disk = self.replica(node).disk.clone();
        let numbers = Rc::new(Numbers::default());
        let options =
            LaneOptions { voters: NODES.to_vec(), transport: Some(transport), ..LaneOptions::single(LANE, node) };
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
                cluster.world.block_on(lane.transfer_leadership(to));
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

#[test]
fn a_replica_behind_the_purged_log_gets_a_snapshot() {
    let mut cluster = Cluster::new(77);
    cluster.propose(20);
    let (leader, _) = cluster.await_leader();
    let behind = NODES.into_iter().find(|node| *node != leader).expect("another");
    cluster.kill(behind, 0);
    cluster.propose(50);
    for replica in cluster.replicas.values() {
        if let Some(lane) = &replica.lane
            && let Some(applied) = lane.applied()
        {
            lane.purge(applied);
        }
    }
    cluster.world.run_for(Duration::from_secs(1));
    cluster.start(behind);
    cluster.check();
    let events = cluster.replica(behind).numbers.events.take();
    assert!(events.iter().any(|event| matches!(event, Event::Installed(_))), "{events:?}");
}
