//! The coordinator over a log in memory and simulated time: what it answers, what survives, how far its log grows.

mod failover;
mod offsets;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use tidewater_storage::env::sim::World;
use tidewater_storage::model::{Incarnation, LaneId, NodeId, Offset, PartitionIndex, ShardId, TopicId, TopicName};
use uuid::Uuid;

use super::*;
use crate::controller::image::{BrokerImage, ClusterImage, PartitionImage, TopicImage};
use crate::group::message::{Commit, CommitAsk, FetchedOffset, Heartbeat};
use crate::group::state::{Join, Joined, StateName, Sync};
use crate::group::{GroupRouter, OFFSETS_TOPIC};
use crate::partition::message::{Origin, PartitionRequest, ProduceDone, ReadDone, ReadError};
use crate::partition::router::Serve;
use crate::shard::mesh::Mesh;

/// One partition's log: answers appends after a while, as a disk does.
struct MemoryLog {
    env: Env,
    state: RefCell<LogState>,
}

#[derive(Default)]
struct LogState {
    batches: Vec<(Offset, Offset, Bytes)>,
    start: Offset,
    end: Offset,
    term: Term,
    appends: usize,
}

impl Serve for Rc<MemoryLog> {
    fn serve(&self, request: PartitionRequest) {
        match request {
            PartitionRequest::Produce(parts, reply) => {
                let log = Rc::clone(self);
                drop(self.env.tasks.spawn("append", async move {
                    log.env.tasks.sleep(Duration::from_millis(5)).await;
                    let done = parts.into_iter().map(|part| {
                        let Origin::Coordinator(term) = part.origin else { unreachable!("groups are written as such") };
                        let mut state = log.state.borrow_mut();
                        state.term = state.term.max(term);
                        assert_eq!(term, state.term, "written in a term that has ended");
                        let (base, mut bytes) = (state.end, part.batch.bytes);
                        bytes[..8].copy_from_slice(&base.to_wire().to_be_bytes());
                        state.end = base.plus(u64::from(part.batch.header.record_count));
                        state.appends += 1;
                        let end = state.end;
                        state.batches.push((base, end, bytes.freeze()));
                        Ok(ProduceDone { base_offset: base, log_append_time: None, log_start: state.start })
                    });
                    reply.send(done.collect());
                }));
            }
            PartitionRequest::Read { parts, reply, .. } => {
                reply.send(parts.iter().map(|part| self.state.borrow().read(part.from)).collect());
            }
            PartitionRequest::Trim(_, to, reply) => {
                let mut state = self.state.borrow_mut();
                state.start = state.start.max(to);
                let start = state.start;
                state.batches.retain(|(_, end, _)| *end > start);
                reply.send(Ok(start));
            }
            _ => {}
        }
    }
}

impl LogState {
    /// A batch or two at a time, so that a load takes several reads.
    fn read(&self, from: Offset) -> Result<ReadDone, ReadError> {
        if from < self.start {
            let valid = tidewater_storage::model::OffsetRange::new(self.start, self.end);
            return Err(ReadError::OutOfRange { offset: from, valid });
        }
        let batches = self.batches.iter().filter(|(_, end, _)| *end > from).take(2).map(|(_, _, bytes)| bytes.clone());
        Ok(ReadDone {
            batches: batches.collect(),
            high_watermark: self.end,
            last_stable_offset: self.end,
            log_start: self.start,
        })
    }
}

/// Leadership of the one lane as a broker sees it.
#[derive(Default)]
struct Leads {
    term: Cell<Option<Term>>,
    without_lease: Cell<bool>,
    changed: tidewater_storage::env::Notify,
}

impl Leads {
    fn set(&self, term: Option<u64>) {
        self.term.set(term.map(Term));
        self.changed.notify();
    }
}

impl Hosting for Leads {
    fn leading(&self, _: PartitionAddress) -> Option<Term> {
        self.term.get()
    }

    fn serving(&self, _: PartitionAddress) -> Option<Term> {
        self.term.get().filter(|_| !self.without_lease.get())
    }

    fn changed(&self) -> futures::future::LocalBoxFuture<'_, ()> {
        Box::pin(self.changed.notified())
    }
}

fn topic(name: &str, id: u128) -> Arc<TopicImage> {
    let id = TopicId(Uuid::from_u128(id));
    let partition = PartitionImage {
        id: PartitionId { topic: id, index: PartitionIndex(0), incarnation: Incarnation(0) },
        lane: LaneId(1),
        epoch_base: 0,
        shard: ShardId(0),
    };
    let name = TopicName::new(name).expect("legal");
    let (config, overrides) = (Arc::default(), BTreeMap::new());
    Arc::new(TopicImage { id, name, partitions: vec![partition], config, overrides, revision: 0, copy: None })
}

fn image(revision: u64, t: Option<u128>) -> Arc<ClusterImage> {
    let topics = std::iter::once(topic(OFFSETS_TOPIC, 1)).chain(t.map(|id| topic("t", id)));
    let topics = topics.collect::<Vec<_>>();
    Arc::new(ClusterImage {
        cluster: Uuid::nil(),
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".into(),
        cluster_name: "tidewater".into(),
        here: NodeId(1),
        brokers: Arc::new(BTreeMap::from([(NodeId(1), BrokerImage::plain(NodeId(1), "localhost", 9092))])),
        lanes: Arc::default(),
        features: Arc::default(),
        sources: Arc::default(),
        followed: Arc::default(),
        lineage: None,
        names: topics.iter().map(|t| (t.id, t.name.clone())).collect::<HashMap<_, _>>(),
        topics: topics.into_iter().map(|t| (t.name.clone(), t)).collect(),
        revision,
    })
}

/// A node with one shard and one partition of `__consumer_offsets`, whose coordinator can be started again.
struct Node {
    env: Env,
    log: Rc<MemoryLog>,
    controller: ControllerHandle,
    settings: GroupSettings,
}

impl Node {
    fn new(world: &World) -> Self {
        let env = world.env();
        let log = Rc::new(MemoryLog { env: env.clone(), state: RefCell::default() });
        let controller = ControllerHandle::new(image(1, Some(2)), Mesh::new(1, 1).0);
        let settings = GroupSettings { initial_rebalance_delay_ms: 0, ..GroupSettings::default() };
        Self { env, log, controller, settings }
    }

    /// A coordinator that knows nothing yet, and the way to it.
    fn start(&self) -> GroupRouter {
        self.start_knowing(self.controller.clone())
    }

    /// The same, whose coordinator's shard knows of the cluster what `controller` says.
    fn start_knowing(&self, controller: ControllerHandle) -> GroupRouter {
        self.start_beside(controller).1
    }

    /// The same with the coordinator itself.
    fn start_beside(&self, controller: ControllerHandle) -> (Coordinator, GroupRouter) {
        let leads = Rc::new(Leads::default());
        leads.set(Some(1));
        self.start_on(controller, leads)
    }

    /// The same on a broker that leads the lane as `leads` says.
    fn start_on(&self, controller: ControllerHandle, leads: Rc<Leads>) -> (Coordinator, GroupRouter) {
        let (env, here) = (self.env.clone(), ShardId(0));
        let router = Router::new(here, Rc::new(Rc::clone(&self.log)), Mesh::new(1, 1).0);
        let coordinator = Coordinator::new(env, router, controller, leads, self.settings);
        let (mesh, mut inboxes) = Mesh::new(1, 1);
        coordinator.serve(inboxes.remove(0));
        let groups = GroupRouter::new(here, coordinator.clone(), mesh, self.controller.clone());
        (coordinator, groups)
    }

    /// Two brokers on one log; the first leads in term 1.
    fn two_brokers(&self) -> [(Rc<Leads>, Coordinator, GroupRouter); 2] {
        [Some(1), None].map(|term| {
            let leads = Rc::new(Leads::default());
            leads.set(term);
            let (coordinator, groups) = self.start_on(self.controller.clone(), Rc::clone(&leads));
            (leads, coordinator, groups)
        })
    }
}

fn g() -> GroupId {
    GroupId::from("g")
}

fn commit(offset: u64) -> CommitAsk {
    let offsets = vec![("t".into(), 0, Commit::new(Offset::new(offset), None, "m"))];
    CommitAsk { member: None, instance: None, generation: -1, retention_ms: None, offsets }
}

async fn committed(groups: &GroupRouter) -> Option<u64> {
    let found: Vec<FetchedOffset> = groups.fetch(g(), Some(vec![("t".into(), vec![0])])).await.expect("answers");
    found[0].commit.as_ref().map(|commit| commit.offset.0.unsigned_abs())
}

/// A member alone in its group, with its share, that subscribes to `t`.
async fn join_alone(groups: &GroupRouter) -> Joined {
    join_for(groups, b't').await
}

fn joining(topic: u8) -> Join {
    let subscription = Bytes::copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 1, topic]);
    Join {
        member: None,
        fresh: "m".into(),
        instance: None,
        id_required: false,
        may_skip: false,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        session: Duration::from_secs(10),
        rebalance: Duration::from_secs(60),
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription)],
    }
}

async fn join_for(groups: &GroupRouter, topic: u8) -> Joined {
    let joined = groups.join(g(), joining(topic)).await.expect("joins");
    let sync = Sync {
        member: joined.member.clone(),
        instance: None,
        generation: joined.generation,
        protocol_type: None,
        protocol: None,
        assignments: vec![(joined.member.clone(), Bytes::from_static(b"share"))],
    };
    assert_eq!(groups.sync(g(), sync).await.expect("syncs").assignment, Bytes::from_static(b"share"));
    joined
}

async fn beat(groups: &GroupRouter, joined: &Joined) -> Result<(), GroupError> {
    let beat = Heartbeat { member: joined.member.clone(), instance: None, generation: joined.generation };
    groups.heartbeat(g(), beat).await
}

#[test]
fn offsets_are_there_after_a_restart() {
    let world = World::new(1);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        assert_eq!(committed(&groups).await, None);
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        assert_eq!(committed(&groups).await, Some(5));
        assert_eq!(groups.commit(g(), commit(9)).await, Ok(vec![Ok(())]));
        let again = node.start();
        assert_eq!(committed(&again).await, Some(9));
        assert_eq!(again.describe(g()).await.expect("known").state, StateName::Empty);
    });
}

#[test]
fn a_shard_that_knows_no_topics_yet_writes_no_offsets_off() {
    let world = World::new(10);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        // Another shard has the image already and asks; this one still has the placeholder.
        let placeholder = ClusterImage { topics: BTreeMap::new(), names: HashMap::new(), ..(*image(0, None)).clone() };
        let late = ControllerHandle::new(Arc::new(placeholder), Mesh::new(1, 1).0);
        let again = node.start_knowing(late.clone());
        assert_eq!(again.fetch(g(), None).await, Err(GroupError::Loading));
        late.set_image(image(1, Some(2)));
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        assert_eq!(committed(&again).await, Some(5));
        assert_eq!(committed(&node.start()).await, Some(5));
    });
}

#[test]
fn a_log_that_cannot_be_read_to_its_end_is_not_taken_for_a_short_one() {
    let world = World::new(13);
    let node = Node::new(&world);
    world.block_on(async {
        assert_eq!(node.start().commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        let held = std::mem::take(&mut node.log.state.borrow_mut().batches);
        let again = node.start();
        assert_eq!(again.fetch(g(), None).await, Err(GroupError::Loading));
        node.log.state.borrow_mut().batches = held;
        node.env.tasks.sleep(Duration::from_secs(2)).await;
        assert_eq!(committed(&again).await, Some(5));
    });
}

#[test]
fn commits_that_wait_share_an_append() {
    let world = World::new(2);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        let commits = (0..100).map(|n| groups.commit(g(), commit(n)));
        for answer in futures::future::join_all(commits).await {
            assert_eq!(answer, Ok(vec![Ok(())]));
        }
        assert_eq!(committed(&groups).await, Some(99));
        assert!(node.log.state.borrow().appends <= 3, "{} appends", node.log.state.borrow().appends);
    });
}

#[test]
fn members_go_on_after_a_restart_and_are_dropped_when_silent() {
    let world = World::new(3);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        let joined = join_alone(&groups).await;
        let again = node.start();
        assert_eq!(beat(&again, &joined).await, Ok(()));
        let described = again.describe(g()).await.expect("known");
        assert_eq!((described.state, described.members.len()), (StateName::Stable, 1));
        assert_eq!(described.members[0].assignment, Bytes::from_static(b"share"));
        node.env.tasks.sleep(Duration::from_secs(9)).await;
        assert_eq!(beat(&again, &joined).await, Ok(()));
        node.env.tasks.sleep(Duration::from_secs(9)).await;
        assert_eq!(again.describe(g()).await.expect("known").state, StateName::Stable);
        node.env.tasks.sleep(Duration::from_secs(2)).await;
        assert_eq!(again.describe(g()).await.expect("known").state, StateName::Empty);
        assert_eq!(beat(&again, &joined).await, Err(GroupError::UnknownMember));
        // A restart after that finds it empty too.
        node.env.tasks.sleep(Duration::from_secs(1)).await;
        assert_eq!(node.start().describe(g()).await.expect("known").state, StateName::Empty);
    });
}

#[test]
fn the_log_is_cut_and_tells_the_same() {
    let world = World::new(4);
    let mut node = Node::new(&world);
    node.settings.snapshot_bytes = 10_000;
    world.block_on(async {
        let groups = node.start();
        let joined = join_alone(&groups).await;
        for n in 0..1000 {
            let ask = CommitAsk { member: Some(joined.member.clone()), generation: joined.generation, ..commit(n) };
            assert_eq!(groups.commit(g(), ask).await, Ok(vec![Ok(())]));
            beat(&groups, &joined).await.expect("lives");
        }
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        let (kept, start) = {
            let state = node.log.state.borrow();
            (state.batches.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>(), state.start)
        };
        assert!(kept < 40_000, "{kept} bytes are kept");
        assert!(start > Offset::new(500), "{start}");
        let again = node.start();
        assert_eq!(committed(&again).await, Some(999));
        assert_eq!(beat(&again, &joined).await, Ok(()));
    });
}

#[test]
fn a_deleted_group_stays_deleted() {
    let world = World::new(5);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        let joined = join_alone(&groups).await;
        assert_eq!(groups.delete(g()).await, Err(GroupError::NotEmpty));
        let leave = crate::group::state::Leave { member: Some(joined.member), instance: None };
        assert_eq!(groups.leave(g(), vec![leave]).await, Ok(vec![Ok(())]));
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        // A commit that is under way goes with the group.
        let (late, gone) = futures::join!(groups.commit(g(), commit(6)), groups.delete(g()));
        assert_eq!((late, gone), (Ok(vec![Ok(())]), Ok(())));
        assert_eq!(groups.delete(g()).await, Err(GroupError::NotFound));
        let again = node.start();
        assert_eq!(committed(&again).await, None);
        assert!(again.list().await.expect("lists").is_empty());
    });
}

#[test]
fn a_group_that_gets_a_member_before_its_deletion_is_written_is_not_deleted() {
    let world = World::new(14);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        // The deletion waits for an append, and the member is there before its turn comes.
        let (late, gone, joined) =
            futures::join!(groups.commit(g(), commit(6)), groups.delete(g()), groups.join(g(), joining(b't')));
        assert_eq!((late, gone), (Ok(vec![Ok(())]), Err(GroupError::NotEmpty)));
        assert_eq!(joined.expect("joins").generation, 1);
        assert_eq!((committed(&groups).await, committed(&node.start()).await), (Some(6), Some(6)));
    });
}

#[test]
fn a_group_that_gets_a_member_while_its_deletion_is_written_has_lost_its_offsets() {
    let world = World::new(15);
    let node = Node::new(&world);
    world.block_on(async {
        let groups = node.start();
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        let join = async {
            node.env.tasks.sleep(Duration::from_millis(2)).await;
            groups.join(g(), joining(b't')).await
        };
        let (gone, joined) = futures::join!(groups.delete(g()), join);
        assert_eq!((gone, joined.is_ok()), (Ok(()), true));
        assert_eq!((committed(&groups).await, committed(&node.start()).await), (None, None));
    });
}

#[test]
fn a_commit_ahead_of_a_sweep_is_kept_by_it() {
    let world = World::new(16);
    let mut node = Node::new(&world);
    node.settings.offsets_retention_ms = 3_650_000;
    world.block_on(async {
        let (coordinator, groups) = node.start_beside(node.controller.clone());
        let sweep = async || coordinator.inner.each_group_shard(|groups| groups.sweep(node.env.clock.wall()));
        // A group that was used and has no offsets would be deleted with its first one.
        let joined = join_alone(&groups).await;
        let leave = crate::group::state::Leave { member: Some(joined.member), instance: None };
        assert_eq!(groups.leave(g(), vec![leave]).await, Ok(vec![Ok(())]));
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        assert!(futures::join!(groups.commit(g(), commit(6)), sweep()).0.is_ok());
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        assert_eq!((committed(&groups).await, committed(&node.start()).await), (Some(6), Some(6)));
        // An offset that has lapsed would be removed after it was committed again.
        node.env.tasks.sleep(Duration::from_secs(3660)).await;
        assert!(futures::join!(groups.commit(g(), commit(7)), sweep()).0.is_ok());
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        assert_eq!((committed(&groups).await, committed(&node.start()).await), (Some(7), Some(7)));
        // An offset without further commits is removed with its group.
        node.env.tasks.sleep(Duration::from_secs(5000)).await;
        assert!(groups.list().await.expect("lists").is_empty());
    });
}

#[test]
fn a_coordinator_that_leads_again_knows_what_another_wrote_meanwhile() {
    // It hears of the end of its leadership, or only sees that the term is another.
    for hears in [true, false] {
        let world = World::new(20);
        let node = Node::new(&world);
        world.block_on(async {
            let [(leads_a, _, a), (leads_b, _, b)] = node.two_brokers();
            let joined = join_alone(&a).await;
            let of_member = |offset| CommitAsk {
                member: Some(joined.member.clone()),
                generation: joined.generation,
                ..commit(offset)
            };
            assert_eq!(a.commit(g(), of_member(5)).await, Ok(vec![Ok(())]));
            assert_eq!(b.fetch(g(), None).await, Err(GroupError::NotCoordinator));
            if hears {
                leads_a.set(None);
                assert_eq!(beat(&a, &joined).await, Err(GroupError::NotCoordinator));
            }
            leads_b.set(Some(2));
            assert_eq!(beat(&b, &joined).await, Ok(()), "a member goes on with the next coordinator");
            assert_eq!(b.commit(g(), of_member(9)).await, Ok(vec![Ok(())]));
            leads_b.set(None);
            leads_a.set(Some(3));
            assert_eq!(committed(&a).await, Some(9), "hears: {hears}");
            assert_eq!(beat(&a, &joined).await, Ok(()));
        });
    }
}

#[test]
fn who_waits_for_a_group_is_sent_to_the_next_coordinator() {
    let world = World::new(21);
    let mut node = Node::new(&world);
    node.settings.initial_rebalance_delay_ms = 3000;
    world.block_on(async {
        let [(leads, coordinator, groups), _] = node.two_brokers();
        assert_eq!(committed(&groups).await, None);
        let ends = async {
            node.env.tasks.sleep(Duration::from_millis(2)).await;
            leads.set(None);
        };
        let (joined, done, ()) =
            futures::join!(groups.join(g(), joining(b't')), groups.commit(GroupId::from("h"), commit(5)), ends);
        assert_eq!(joined.map(|joined| joined.generation), Err(GroupError::NotCoordinator));
        assert_eq!(done, Err(GroupError::NotCoordinator), "written or not, its client asks the next one");
        assert!(coordinator.inner.group_shards.borrow().is_empty());
        assert!(coordinator.inner.deadlines.borrow().next().is_none());
        assert_eq!(groups.list().await, Ok(Vec::new()), "another broker lists them");
    });
}

#[test]
fn groups_that_come_to_a_broker_are_read_before_they_are_asked_for() {
    let world = World::new(22);
    let node = Node::new(&world);
    world.block_on(async {
        let [(leads_a, _, a), (leads_b, coordinator, b)] = node.two_brokers();
        let joined = join_alone(&a).await;
        leads_a.set(None);
        leads_b.set(Some(2));
        node.env.tasks.sleep(Duration::from_millis(100)).await;
        assert_eq!(coordinator.inner.group_shards.borrow().len(), 1);
        // The member does not come back.
        node.env.tasks.sleep(Duration::from_secs(11)).await;
        assert_eq!(b.describe(g()).await.expect("known").state, StateName::Empty);
        assert_eq!(beat(&b, &joined).await, Err(GroupError::UnknownMember));
    });
}

#[test]
fn without_a_lease_nothing_is_answered_from_memory() {
    let world = World::new(23);
    let node = Node::new(&world);
    world.block_on(async {
        let [(leads, _, groups), _] = node.two_brokers();
        assert_eq!(groups.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        leads.without_lease.set(true);
        assert_eq!(groups.fetch(g(), None).await, Err(GroupError::NotCoordinator));
        leads.without_lease.set(false);
        assert_eq!(committed(&groups).await, Some(5));
    });
}

/// The image of a new coordinator may lack a topic that its predecessor's had.
#[test]
fn an_image_that_may_be_old_writes_no_offsets_off() {
    let world = World::new(24);
    let node = Node::new(&world);
    world.block_on(async {
        let [(leads_a, _, a), _] = node.two_brokers();
        assert_eq!(a.commit(g(), commit(5)).await, Ok(vec![Ok(())]));
        leads_a.set(None);
        let other = BrokerImage::plain(NodeId(2), "localhost", 9093);
        let brokers = image(1, None).brokers.values().cloned().chain([other]).map(|b| (b.id, b)).collect();
        // No controller answers.
        let old = ClusterImage { brokers: Arc::new(brokers), ..(*image(1, None)).clone() };
        let controller = ControllerHandle::new(Arc::new(old), Mesh::new(1, 1).0);
        let leads = Rc::new(Leads::default());
        leads.set(Some(2));
        let (_, groups) = node.start_on(controller.clone(), leads);
        assert_eq!(groups.fetch(g(), None).await, Err(GroupError::Loading));
        node.env.tasks.sleep(FRESH_PATIENCE).await;
        assert_eq!(committed(&groups).await, Some(5));
        node.env.tasks.sleep(Duration::from_secs(1)).await;
        controller.set_image(image(2, Some(2)));
        assert_eq!(committed(&groups).await, Some(5));
        assert_eq!(committed(&node.start()).await, Some(5));
    });
}
