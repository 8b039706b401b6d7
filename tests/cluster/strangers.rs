//! Strangers at the port between brokers: programs that are no brokers, brokers of another cluster, version or secret,
//! and peers that stop in the middle of what they say. Each is refused in words or cut off, and the cluster serves on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidewater::controller::features::CLUSTER_MAX;
use tidewater::rpc::frame::{self, Body, Frame};
use tidewater::rpc::handshake::{self, Client, HEADER_LEN, Hello, MemberOf, PROTOCOLS};
use tidewater_storage::model::{NodeId, ReplicaIncarnation};
use uuid::Uuid;

use super::clients::{create, read_all};
use super::support::cluster::{Cluster, ClusterOptions};
use super::tools::produce;

const PATIENCE: Duration = Duration::from_secs(60);
const NO_TLS: handshake::Binding = [0; 32];

/// A connection of the test to a broker's port for other brokers.
struct Stranger(TcpStream);

impl Stranger {
    fn knock(cluster: &Cluster, n: usize) -> Self {
        let stream = TcpStream::connect(cluster.options[n].rpc.as_deref().expect("an address")).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        // The broker may close before all is written.
        let _ = self.0.write_all(bytes);
    }

    /// The broker's next message: its kind and body.
    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).ok()?;
        let (kind, len) = handshake::header(&header).expect("a message of a handshake");
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).ok()?;
        Some((kind, body))
    }

    /// The words with which the broker refuses.
    fn refusal(&mut self) -> String {
        let (kind, body) = self.message().expect("an answer");
        handshake::words_of(kind, &body).expect("a refusal")
    }

    /// Shakes hands as `hello`; the words of the refusal if there is one.
    fn shake_hands(&mut self, hello: Hello) -> Result<(), String> {
        let (client, first) = Client::start(hello, None, NO_TLS);
        self.send(&first);
        let (kind, body) = self.message().expect("an answer");
        if let Some(words) = handshake::words_of(kind, &body) {
            return Err(words);
        }
        let (proved, next) = client.welcome(kind, &body).map_err(|error| error.to_string())?;
        self.send(&next);
        let (kind, body) = self.message().expect("an answer");
        if let Some(words) = handshake::words_of(kind, &body) {
            return Err(words);
        }
        proved.accepted(kind, &body).map(drop).map_err(|error| error.to_string())
    }

    /// Waits until the broker closes; what it sent before.
    fn closed(&mut self, within: Duration) -> Vec<u8> {
        self.0.set_read_timeout(Some(within)).expect("a timeout");
        let mut all = Vec::new();
        match self.0.read_to_end(&mut all) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection stays open: {error}"),
            Ok(_) => {}
        }
        all
    }
}

fn hello(member: Option<MemberOf>) -> Hello {
    Hello {
        protocols: PROTOCOLS,
        nonce: *Uuid::new_v4().as_bytes(),
        birth: Uuid::new_v4(),
        run: 1,
        member,
        version: "0.0.1-stranger".to_owned(),
        feature: 0,
        feature_max: CLUSTER_MAX,
        expects: None,
        has_secret: false,
        shard: 0,
    }
}

fn member(cluster: Uuid, node: i32) -> Option<MemberOf> {
    Some(MemberOf { cluster, node: NodeId(node), incarnation: ReplicaIncarnation(0) })
}

/// The cluster's id, from a data directory.
fn cluster_id(cluster: &Cluster) -> Uuid {
    let text = std::fs::read_to_string(cluster.options[0].data.join("node.json")).expect("an identity");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["cluster"].as_str().and_then(|id| id.parse().ok()).expect("a cluster id")
}

/// Programs that are no brokers, and the words that refuse each.
fn no_brokers(cluster: &Cluster) {
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat();
    let kafka = [&[0, 0, 0, 20, 0, 18, 0, 0, 0, 0, 0, 1][..], &[0; 12]].concat();
    let huge = [&handshake::MAGIC[..], &[1, 0xff, 0xff], &[0; 100]].concat();
    let unknown_kind = handshake::message(handshake::Kind::Accept, b"what");
    let noise: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (what, bytes, words) in [
        ("a browser", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n".to_vec(), "no handshake of a broker"),
        ("a client of Kafka", kafka, "no handshake of a broker"),
        ("a program with TLS", tls, "--rpc-tls-cert"),
        ("noise", noise, "no handshake of a broker"),
        ("a message that is too long", huge, "no handshake of a broker"),
        ("a message out of order", unknown_kind.to_vec(), "was expected"),
    ] {
        let mut stranger = Stranger::knock(cluster, 0);
        stranger.send(&bytes);
        // After a million bytes of noise the answer may be lost with the connection.
        if what != "noise" {
            let found = stranger.refusal();
            assert!(found.contains(words), "{what}: {found}");
        }
        stranger.closed(Duration::from_secs(5));
    }
}

/// Brokers that do not belong here, and the words that refuse each.
fn wrong_brokers(cluster: &Cluster, id: Uuid) {
    let secret = Hello { has_secret: true, ..hello(member(id, 9)) };
    let expects = Hello { expects: Some(NodeId(3)), ..hello(member(id, 9)) };
    let newest = PROTOCOLS.1;
    for (what, hello, words) in [
        ("an older binary", Hello { protocols: (0, 0), ..hello(None) }, "upgrade the other broker's binary first"),
        (
            "a newer binary",
            Hello { protocols: (newest + 1, newest + 2), ..hello(None) },
            "upgrade this broker's binary first",
        ),
        (
            "a cluster of a newer feature level",
            Hello { feature: 99, feature_max: 99, ..hello(member(id, 9)) },
            "start a newer binary",
        ),
        ("another cluster's broker", hello(member(Uuid::new_v4(), 2)), "check the --seed lists"),
        ("a second broker 1", hello(member(id, 1)), "--replace 1"),
        ("a second broker 2", hello(member(id, 2)), "start it with an empty data directory"),
        ("a broker with a secret", secret, "--cluster-secret-file"),
        ("a broker that looks for another", expects, "--advertised-rpc-addr"),
    ] {
        let mut stranger = Stranger::knock(cluster, 0);
        let found = stranger.shake_hands(hello).expect_err(what);
        assert!(found.contains(words), "{what}: {found}");
        stranger.closed(Duration::from_secs(5));
    }
}

/// Peers whose handshake is good and whose frames are not.
fn wrong_frames(cluster: &Cluster) {
    let ask = |body| frame::encode(&Frame { id: 1, body }).concat();
    let good = ask(Body::Call { service: 255, body: bytes::Bytes::from_static(b"{}") });
    let mut damaged = good.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    for (what, bytes) in [
        ("a damaged frame", damaged),
        ("a frame of four gigabytes", vec![0xff; 64]),
        ("a frame of nothing", vec![0; 64]),
        ("an answer that nothing asked for", ask(Body::Answer(Ok(bytes::Bytes::from_static(b"yes"))))),
    ] {
        let mut stranger = Stranger::knock(cluster, 1);
        stranger.shake_hands(hello(None)).expect("no secret is asked for");
        stranger.send(&bytes);
        assert!(stranger.closed(Duration::from_secs(5)).is_empty(), "{what} is answered");
    }
    // A question that only members may ask.
    let mut stranger = Stranger::knock(cluster, 1);
    stranger.shake_hands(hello(None)).expect("no secret is asked for");
    stranger.send(&ask(Body::Call {
        service: tidewater::rpc::Service::Status.code(),
        body: bytes::Bytes::from_static(b"{}"),
    }));
    let mut answer = vec![0; 400];
    let n = stranger.0.read(&mut answer).expect("an answer");
    let text = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(text.contains("may only ask to join"), "{text}");
}

/// Connections that stop: before, in and after the handshake, and in a frame that they announced as a large one.
fn stopped(cluster: &Cluster) -> Vec<Stranger> {
    let mut held = Vec::new();
    for n in 0..3 {
        for _ in 0..40 {
            held.push(Stranger::knock(cluster, n));
            let mut half = Stranger::knock(cluster, n);
            let (_, first) = Client::start(hello(None), None, NO_TLS);
            half.send(&first[..first.len() / 2]);
            held.push(half);
        }
        for shard in 0..4 {
            let mut stranger = Stranger::knock(cluster, n);
            stranger.shake_hands(Hello { shard, ..hello(None) }).expect("no secret is asked for");
            // A frame of 40 MB, of which nothing comes but the beginning.
            stranger.send(&40_000_000_u32.to_be_bytes());
            stranger.send(&[0; 1000]);
            held.push(stranger);
        }
    }
    held
}

#[test]
fn strangers_are_refused_in_words_and_the_cluster_serves_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = ClusterOptions {
        bucket: Some(format!("file://{}", dir.path().join("bucket").display())),
        expected: super::EXPECTED.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), "orders", 3, &[]);
    // A lane that goes back to its preferred leader begins a term too.
    cluster.wait_settled(PATIENCE);
    let (id, terms) = (cluster_id(&cluster), cluster.terms());

    // Records of all sizes are written all the time: small ones, and some that fill a frame between brokers.
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (bootstrap, over) = (cluster.bootstrap(), Arc::clone(&over));
        std::thread::spawn(move || {
            let (mut written, mut longest) = (0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                written += produce(&bootstrap, "orders", 3, 20);
                written += super::tools::produce_of(&bootstrap, "orders", 3, 3, 300_000);
                longest = longest.max(begun.elapsed());
            }
            (written, longest)
        })
    };
    no_brokers(&cluster);
    wrong_brokers(&cluster, id);
    wrong_frames(&cluster);
    let held = stopped(&cluster);
    std::thread::sleep(Duration::from_secs(8));
    drop(held);
    over.store(true, Ordering::Relaxed);
    let (written, longest) = writer.join().expect("the writer ends well");
    println!("{written} records written meanwhile, 23 of them in {longest:?} at most");
    assert!(longest < Duration::from_secs(5), "strangers hold the brokers' own frames up: {longest:?}");

    cluster.wait_healthy(PATIENCE);
    assert_eq!(cluster.terms(), terms, "no lane had to elect a leader");
    let log = read_all(&cluster.bootstrap(), "orders", 3);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written, "nothing was harmed");
    let logs = cluster.logs();
    for words in ["no connection with a broker", "cut off a broker's connection"] {
        assert!(logs.contains(words), "no {words:?} in\n{logs}");
    }
    cluster.check_logs();
}

/// A broker that comes back with another secret is kept out, `cluster health` names it, and it is let in with the right
/// one.
#[test]
fn a_broker_with_another_secret_is_named_until_it_has_the_right_one() {
    let dir = tempfile::tempdir().expect("tempdir");
    let secret = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let right = secret("right", "the secret of this cluster, thirty-two characters");
    let wrong = secret("wrong", "another secret of more than thirty-two characters");
    let options = ClusterOptions {
        bucket: Some(format!("file://{}", dir.path().join("bucket").display())),
        args: vec!["--cluster-secret-file".to_owned(), right.clone()],
        expected: super::EXPECTED.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), "orders", 3, &[]);
    let mut written = produce(&cluster.bootstrap(), "orders", 3, 20);
    cluster.stop(2);
    let at = cluster.options[2].args.iter().position(|arg| *arg == right).expect("the secret's file");
    cluster.options[2].args[at] = wrong;
    cluster.restart(2);
    let begun = Instant::now();
    let health = loop {
        let health = cluster.get_of(0, "/v1/cluster/health").expect("broker 1 answers");
        let refused = |problem: &serde_json::Value| problem["kind"] == "refused" && problem["brokers"][0] == 3;
        if health["problems"].as_array().is_some_and(|problems| problems.iter().any(refused)) {
            break health;
        }
        assert!(begun.elapsed() < PATIENCE, "{health:#}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(health.to_string().contains("--cluster-secret-file"), "{health:#}");
    assert_eq!(health["status"], "degraded");
    assert!(!cluster.broker(2).is_ready(), "it reaches no majority");
    written += produce(&cluster.bootstrap(), "orders", 3, 20);
    cluster.kill(2);
    cluster.options[2].args[at] = right;
    cluster.restart(2);
    cluster.wait_ready();
    cluster.wait_healthy(PATIENCE);
    written += produce(&cluster.bootstrap(), "orders", 3, 20);
    let log = read_all(&cluster.bootstrap(), "orders", 3);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written);
    cluster.check_logs();
}
