//! Brokers over loopback: real sockets, each broker an executor of its own.
#![allow(clippy::disallowed_methods, reason = "the clock of the test, not of a shard")]

mod hostile;
mod tls;

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Instant;

use futures::FutureExt;
use futures::future::join_all;
use glommio::LocalExecutorBuilder;
use tidewater_storage::env::blocking::until_settled;
use tidewater_storage::journal::{JournalEntry, Payload};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, EntryId, LogIndex, Term, TimestampMs};

use self::tls::{certificates, with_tls};
use super::*;
use crate::net::listen::{Bound, Listening};
use crate::raft::network::{AppendReply, PeerVote};
use crate::shard::mesh::{Inbox, Mesh};

const SECRET: &[u8] = b"a secret of thirty-two hex bytes";
const PATIENCE: Duration = Duration::from_secs(5);

fn run<T>(main: impl Future<Output = T>) -> T {
    let executor = LocalExecutorBuilder::default().make().expect("an executor");
    executor.run(until_settled(main))
}

fn member(cluster: u128, node: i32) -> RpcMember {
    let cluster = Uuid::from_u128(cluster);
    RpcMember { cluster, node: NodeId(node), incarnation: ReplicaIncarnation(0), feature: 1 }
}

fn birth(node: i32) -> Uuid {
    Uuid::from_u128(0xb0 + node as u128)
}

fn options(node: i32) -> RpcOptions {
    RpcOptions::plain(birth(node), None)
}

/// A broker of cluster 1.
fn broker(node: i32) -> RpcNode {
    of_cluster(options(node), 1, node)
}

fn of_cluster(options: RpcOptions, cluster: u128, node: i32) -> RpcNode {
    let here = RpcNode::new(options);
    here.set_member(member(cluster, node));
    here
}

fn peer(node: i32, at: SocketAddr) -> PeerAddress {
    PeerAddress { node: NodeId(node), host: at.ip().to_string(), port: at.port(), birth: None }
}

/// Peers may connect from here on.
fn listen(at: &str) -> Listening {
    let bound = Bound::bind("--rpc-addr", at.parse().expect("an address")).expect("binds");
    bound.listen().expect("listens")
}

/// A broker that serves on a thread of its own until it is dropped or ended.
struct Serving {
    at: SocketAddr,
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<RpcCounts>>,
}

impl Serving {
    fn start(node: RpcNode, at: &str, set_up: impl FnOnce(&Rpc) + Send + 'static) -> Self {
        let (mesh, mut inboxes) = Mesh::new(1, 64);
        let socket = listen(at);
        Self::shard(node, socket.addr(), ShardId(0), inboxes.remove(0), Some((socket, mesh)), set_up)
    }

    /// Several shards; the first accepts.
    fn shards(node: &RpcNode, count: u16, set_up: impl FnOnce(&Rpc) + Clone + Send + 'static) -> Vec<Self> {
        let (mesh, inboxes) = Mesh::new(count, 64);
        let socket = listen("127.0.0.1:0");
        let (at, mut accepts) = (socket.addr(), Some((socket, mesh)));
        let start =
            |(shard, inbox)| Self::shard(node.clone(), at, ShardId(shard), inbox, accepts.take(), set_up.clone());
        (0..count).zip(inboxes).map(start).collect()
    }

    fn shard(
        node: RpcNode,
        at: SocketAddr,
        shard: ShardId,
        inbox: Inbox<RpcArrival>,
        accepts: Option<(Listening, Mesh<RpcArrival>)>,
        set_up: impl FnOnce(&Rpc) + Send + 'static,
    ) -> Self {
        let (stop, stopped) = flume::bounded::<()>(1);
        let thread = std::thread::spawn(move || {
            run(async move {
                let env = Env::real(1);
                let rpc = Rpc::new(&env, &node);
                rpc.set_shard(shard);
                set_up(&rpc);
                rpc.serve_connections(inbox);
                let accepting = accepts.map(|(socket, mesh)| {
                    env.tasks.spawn("accept", accept(env.clone(), socket.into_listener(), mesh, node.clone()))
                });
                let _ = stopped.recv_async().await;
                if let Some(accepting) = accepting {
                    accepting.cancel();
                }
                let counts = rpc.counts();
                rpc.stop();
                env.tasks.sleep(Duration::from_millis(20)).await;
                counts
            })
        });
        Self { at, stop: Some(stop), thread: Some(thread) }
    }

    fn end(mut self) -> RpcCounts {
        self.stop.take();
        self.thread.take().expect("runs").join().expect("no panic")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers calls with their body, requests to replicas with `Stored`.
fn echoes(rpc: &Rpc) {
    rpc.serve(Service::Status, Rc::new(|_, body| std::future::ready(Ok(body)).boxed_local()));
    rpc.serve(Service::Join, Rc::new(|_, body| std::future::ready(Ok(body)).boxed_local()));
    let stored = PeerReply::Append(AppendReply::Stored);
    rpc.serve_raft(Rc::new(move |_, _, _, _| std::future::ready(Ok(stored.clone())).boxed_local()));
}

/// Runs `main` on a broker that has `peers`.
fn with_peers<T, F: Future<Output = T>>(node: RpcNode, peers: Vec<PeerAddress>, main: impl FnOnce(Rpc) -> F) -> T {
    run(async move {
        let rpc = Rpc::new(&Env::real(2), &node);
        rpc.set_peers(peers);
        let done = main(rpc.clone()).await;
        rpc.stop();
        rpc.shard.env.tasks.sleep(Duration::from_millis(20)).await;
        done
    })
}

async fn until(rpc: &Rpc, what: &str, mut holds: impl FnMut(&PeerState) -> bool) -> PeerState {
    let begun = Instant::now();
    loop {
        let state = rpc.peers().remove(0);
        if holds(&state) {
            return state;
        }
        assert!(begun.elapsed() < PATIENCE * 2, "not {what}: {state:?}");
        connection::within(rpc, Duration::from_millis(20), rpc.changed()).await;
    }
}

async fn echo(rpc: &Rpc, to: i32, body: &'static str) -> Result<Bytes, RpcError> {
    rpc.call(NodeId(to), Service::Status, Bytes::from_static(body.as_bytes()), PATIENCE).await
}

fn heartbeat(node: i32) -> PeerRequest {
    append(node, Vec::new())
}

fn append(node: i32, entries: Vec<JournalEntry>) -> PeerRequest {
    let vote = PeerVote { term: Term(1), replica: ReplicaId::first(NodeId(node)), committed: true };
    PeerRequest::Append { vote, previous: None, entries, committed: None }
}

/// An entry with one batch of about that many bytes.
fn entry(bytes: usize) -> JournalEntry {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Record::new(TimestampMs(1), None, Some(Bytes::from(vec![7; bytes]))));
    let payload = Payload { meta: Bytes::from_static(b"m"), blobs: vec![builder.build()], verified: true };
    JournalEntry { id: EntryId { term: Term(1), index: LogIndex(0) }, payload }
}

fn to_lane(rpc: &Rpc, lane: u32, to: i32, from: i32, request: PeerRequest) -> crate::raft::network::Calling {
    rpc.transport().call(LaneId(lane), ReplicaId::first(NodeId(to)), ReplicaId::first(NodeId(from)), request)
}

#[test]
fn requests_are_answered_over_both_connections() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", echoes);
    let (counts, state) = with_peers(broker(2), vec![peer(1, serving.at)], |rpc| async move {
        assert_eq!(echo(&rpc, 1, "hello").await, Ok(Bytes::from_static(b"hello")));
        let unknown = rpc.call(NodeId(1), Service::Group, Bytes::new(), PATIENCE).await.expect_err("no handler");
        assert!(unknown.to_string().contains("does not serve group requests"), "{unknown}");
        assert!(matches!(echo(&rpc, 9, "").await, Err(RpcError::Unreachable { .. })));
        let large = Bytes::from(vec![3; 3 << 20]);
        let answer = rpc.call(NodeId(1), Service::Status, large.clone(), PATIENCE).await.expect("answered");
        assert_eq!(answer, large);
        let requests = (0..200).map(|n| {
            let request = if n % 4 == 0 { append(2, vec![entry(100_000)]) } else { heartbeat(2) };
            to_lane(&rpc, n, 1, 2, request)
        });
        for reply in join_all(requests).await {
            assert_eq!(reply, Ok(PeerReply::Append(AppendReply::Stored)));
        }
        let state = until(&rpc, "idle", |state| state.in_flight_bytes == 0).await;
        (rpc.counts(), state)
    });
    assert!(state.connected && state.refused.is_none() && state.rtt.is_some_and(|rtt| rtt < PATIENCE));
    let peer = &counts.peers[0];
    assert_eq!((peer.requests, peer.connects, peer.in_flight_bytes), (203, 2, 0));
    assert!(peer.frames_sent > 2 * peer.writes / 3, "frames share writes: {peer:?}");
    let served = serving.end();
    assert_eq!((served.requests_received, served.cut_off, served.handshakes_refused), (203, 0, 0));
}

/// Both brokers have the same lanes on shards of the same number, so most requests need no other shard.
#[test]
fn a_connection_is_served_by_the_shard_of_its_number() {
    let tls = tempfile::tempdir().expect("a directory");
    let files = certificates(tls.path(), "ours");
    for files in [None, Some(files)] {
        let with = |node| of_cluster(with_tls(node, files.clone()), 1, node);
        let serving = Serving::shards(&with(1), 3, |rpc| {
            let here = rpc.shard.here.get();
            let says = Bytes::copy_from_slice(&here.0.to_be_bytes());
            rpc.serve(Service::Status, Rc::new(move |_, _| std::future::ready(Ok(says.clone())).boxed_local()));
        });
        let (at, two) = (serving[0].at, with(2));
        for shard in 0..5u16 {
            let answer = run(async {
                let rpc = Rpc::new(&Env::real(2), &two);
                rpc.set_shard(ShardId(shard));
                rpc.set_peers(vec![peer(1, at)]);
                let answer = echo(&rpc, 1, "which?").await;
                rpc.stop();
                rpc.shard.env.tasks.sleep(Duration::from_millis(20)).await;
                answer
            });
            assert_eq!(answer, Ok(Bytes::copy_from_slice(&(shard % 3).to_be_bytes())));
        }
    }
}

#[test]
fn a_request_in_the_name_of_another_broker_is_refused() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", echoes);
    with_peers(broker(2), vec![peer(1, serving.at)], |rpc| async move {
        let forged = to_lane(&rpc, 1, 1, 3, heartbeat(3)).await;
        assert!(matches!(forged, Err(PeerError::Nonsense { .. })), "{forged:?}");
    });
}

#[test]
fn before_membership_only_join_is_answered() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", echoes);
    let newcomer = RpcNode::new(options(7));
    with_peers(newcomer, Vec::new(), |rpc| async move {
        let (host, port) = (serving.at.ip().to_string(), serving.at.port());
        let ask = async |kind| rpc.call_address(&host, port, kind, Bytes::from_static(b"me"), PATIENCE).await;
        assert_eq!(ask(Service::Join).await, Ok(Bytes::from_static(b"me")));
        let refused = ask(Service::Status).await.expect_err("not a member").to_string();
        assert!(refused.contains("may only ask to join"), "{refused}");
    });
}

/// Founders become members one after the other; none of them waits as long as after a refusal.
#[test]
fn a_broker_that_is_not_a_member_yet_is_tried_again_soon() {
    let founder = RpcNode::new(options(1));
    let serving = Serving::start(founder.clone(), "127.0.0.1:0", echoes);
    with_peers(broker(2), vec![peer(1, serving.at)], |rpc| async move {
        rpc.shard.env.tasks.sleep(Duration::from_millis(200)).await;
        let state = rpc.peers().remove(0);
        assert!(!state.connected && state.refused.is_none(), "{state:?}");
        founder.set_member(member(1, 1));
        let begun = Instant::now();
        until(&rpc, "connected", |state| state.connected).await;
        assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    });
}

/// The words that broker `node` gets when it connects.
fn refused(node: RpcNode, serving: &Serving, expected: i32) -> String {
    with_peers(node, vec![peer(expected, serving.at)], |rpc| async move {
        let state = until(&rpc, "refused", |state| state.refused.is_some()).await;
        assert!(!state.connected);
        let error = echo(&rpc, expected, "").await.expect_err("refused");
        assert!(matches!(error, RpcError::Refused { .. }), "{error}");
        state.refused.expect("words")
    })
}

#[test]
fn brokers_that_do_not_belong_together_are_refused_in_words() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", echoes);
    let secret =
        |node, text: &[u8]| of_cluster(RpcOptions::plain(birth(node), Some(Secret::new(text).expect("long"))), 1, node);
    let copy = of_cluster(RpcOptions::plain(birth(9), None), 1, 1);
    for (node, expected, words) in [
        (of_cluster(options(2), 2, 2), 1, "check the --seed lists"),
        (broker(2), 3, "broker 3 was expected there, but broker 1 answers"),
        (secret(2, SECRET), 1, "broker 2 has a cluster secret, broker 1 has none"),
    ] {
        let why = refused(node, &serving, expected);
        assert!(why.contains(words), "{why}");
    }
    let twice = run(async move {
        let rpc = Rpc::new(&Env::real(3), &copy);
        let (host, port) = (serving.at.ip().to_string(), serving.at.port());
        rpc.call_address(&host, port, Service::Join, Bytes::new(), PATIENCE).await.expect_err("refused").to_string()
    });
    assert!(twice.contains("two data directories claim to be broker 1"), "{twice}");
    let guarded = Serving::start(secret(1, SECRET), "127.0.0.1:0", echoes);
    let why = refused(secret(2, b"another secret, as long as that"), &guarded, 1);
    assert!(why.contains("the cluster secrets of the two brokers differ"), "{why}");
    with_peers(secret(2, SECRET), vec![peer(1, guarded.at)], |rpc| async move {
        assert_eq!(echo(&rpc, 1, "in").await, Ok(Bytes::from_static(b"in")));
    });
    assert!(guarded.end().handshakes_refused > 0);
}

#[test]
fn a_replaced_data_directory_is_kept_out() {
    let now = Uuid::from_u128(77);
    let serving = Serving::start(broker(1), "127.0.0.1:0", move |rpc| {
        echoes(rpc);
        // Nothing listens there; what counts is who broker 2 is.
        let birth = Some((now, ReplicaIncarnation(3)));
        rpc.set_peers(vec![PeerAddress { node: NodeId(2), host: "127.0.0.1".into(), port: 1, birth }]);
    });
    let why = refused(broker(2), &serving, 1);
    assert!(why.contains("it was replaced"), "{why}");
    let of = |birth, incarnation| {
        let node = RpcNode::new(RpcOptions::plain(birth, None));
        node.set_member(RpcMember { incarnation: ReplicaIncarnation(incarnation), ..member(1, 2) });
        node
    };
    for node in [of(now, 3), of(birth(8), 4)] {
        with_peers(node, vec![peer(1, serving.at)], |rpc| async move {
            assert_eq!(echo(&rpc, 1, "in").await, Ok(Bytes::from_static(b"in")), "newer than what is known");
        });
    }
}

#[test]
fn a_second_process_on_a_copy_of_a_data_directory_is_refused() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", echoes);
    let at = serving.at;
    with_peers(broker(2), vec![peer(1, at)], |rpc| async move {
        echo(&rpc, 1, "first").await.expect("in");
        let copy = std::thread::spawn(move || {
            let begun = Instant::now();
            let serving = Serving { at, stop: None, thread: None };
            (refused(broker(2), &serving, 1), begun.elapsed())
        });
        // The first one goes on.
        while !copy.is_finished() {
            echo(&rpc, 1, "still").await.expect("in");
            rpc.shard.env.tasks.sleep(Duration::from_millis(20)).await;
        }
        let (why, _) = copy.join().expect("no panic");
        assert!(why.contains("two brokers run on copies of one data directory"), "{why}");
    });
}

#[test]
fn connections_are_made_again_and_requests_to_replicas_wait_for_them() {
    let first = Serving::start(broker(1), "127.0.0.1:0", echoes);
    let at = first.at;
    with_peers(broker(2), vec![peer(1, at)], |rpc| async move {
        echo(&rpc, 1, "one").await.expect("answered");
        first.end();
        until(&rpc, "away", |state| !state.connected).await;
        assert!(matches!(echo(&rpc, 1, "two").await, Err(RpcError::Unreachable { .. })), "at once");
        let vote = to_lane(&rpc, 1, 1, 2, heartbeat(2));
        let entries = to_lane(&rpc, 1, 1, 2, append(2, vec![entry(10_000)]));
        let again = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            Serving::start(broker(1), &at.to_string(), echoes)
        });
        let begun = Instant::now();
        let (vote, entries) = futures::join!(vote, entries);
        assert_eq!(vote, Ok(PeerReply::Append(AppendReply::Stored)));
        assert_eq!(entries, Ok(PeerReply::Append(AppendReply::Stored)));
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        drop(again.join().expect("no panic"));
        assert!(rpc.counts().peers[0].disconnects >= 2);
    });
}

/// Never answers.
fn hangs(rpc: &Rpc) {
    rpc.serve(Service::Status, Rc::new(|_, body| std::future::ready(Ok(body)).boxed_local()));
    rpc.serve(Service::Group, Rc::new(|_, _| std::future::pending().boxed_local()));
    rpc.serve_raft(Rc::new(|_, _, _, _| std::future::pending().boxed_local()));
}

#[test]
fn unanswered_bytes_have_a_cap_and_dropped_calls_give_theirs_back() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", hangs);
    with_peers(broker(2), vec![peer(1, serving.at)], |rpc| async move {
        echo(&rpc, 1, "connected").await.expect("answered");
        let requests: Vec<_> = (0..20).map(|n| to_lane(&rpc, n, 1, 2, append(2, vec![entry(1 << 20)]))).collect();
        let all = join_all(requests);
        assert!(connection::within(&rpc, Duration::from_millis(300), all).await.is_none(), "nothing is answered");
        let state = rpc.peers().remove(0);
        assert_eq!(state.in_flight_bytes, 0, "given back");
        let counts = rpc.counts().peers.remove(0);
        assert!(counts.held_back >= 12 && counts.sent_bytes < 9 << 20, "{counts:?}");
        // Once more, looked at from inside: bulk is full, urgent works.
        let requests: Vec<_> = (0..20).map(|n| to_lane(&rpc, n, 1, 2, append(2, vec![entry(1 << 20)]))).collect();
        let looks = async {
            rpc.shard.env.tasks.sleep(Duration::from_millis(100)).await;
            assert!((6 << 20..=8 << 20).contains(&rpc.peers()[0].in_flight_bytes));
            echo(&rpc, 1, "urgent").await
        };
        match futures::future::select(join_all(requests).boxed_local(), looks.boxed_local()).await {
            futures::future::Either::Right((answer, _)) => assert_eq!(answer, Ok(Bytes::from_static(b"urgent"))),
            futures::future::Either::Left(_) => panic!("nothing is answered"),
        }
        let late = rpc.call(NodeId(1), Service::Group, Bytes::new(), Duration::from_millis(50)).await;
        assert!(matches!(late, Err(RpcError::TimedOut { .. })), "{late:?}");
        assert_eq!(rpc.peers()[0].in_flight_bytes, 0);
    });
}

/// Not a test of speed: it prints what the connections carry (`--nocapture`).
#[test]
fn appends_are_measured() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", echoes);
    with_peers(broker(2), vec![peer(1, serving.at)], |rpc| async move {
        echo(&rpc, 1, "connected").await.expect("answered");
        for (lanes, bytes, rounds) in [(1, 1 << 20, 100), (4, 1 << 20, 50), (1, 16 << 10, 1000), (12, 16 << 10, 200)] {
            let one = entry(bytes);
            let begun = Instant::now();
            let rpc = &rpc;
            join_all((0..lanes).map(|lane| {
                let one = one.clone();
                async move {
                    for _ in 0..rounds {
                        to_lane(rpc, lane, 1, 2, append(2, vec![one.clone()])).await.expect("stored");
                    }
                }
            }))
            .await;
            let took = begun.elapsed();
            let all = f64::from(lanes) * f64::from(rounds);
            println!(
                "{lanes} lanes, {bytes} bytes: {:.0} MB/s, {:.0} us a round",
                all * bytes as f64 / 1e6 / took.as_secs_f64(),
                took.as_secs_f64() * 1e6 / f64::from(rounds)
            );
        }
    });
}
