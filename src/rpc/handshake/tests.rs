//! Handshakes, message by message: who fits, who is refused and in which words.

use proptest::prelude::*;

use super::*;

fn cluster(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn hello(node: i32, birth: u128) -> Hello {
    Hello {
        protocols: PROTOCOLS,
        nonce: [node as u8; 16],
        birth: Uuid::from_u128(birth),
        run: 9,
        member: (node > 0).then(|| MemberOf {
            cluster: cluster(1),
            node: NodeId(node),
            incarnation: ReplicaIncarnation(4),
        }),
        version: "0.1.0".into(),
        feature: 1,
        feature_max: 1,
        expects: None,
        has_secret: false,
        shard: 2,
    }
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.as_bytes()).expect("long enough"))
}

/// The parts of a written message.
fn parts(message: &Bytes) -> (u8, &[u8]) {
    let (kind, len) = header(message.first_chunk().expect("a header")).expect("ours");
    let body = &message[HEADER_LEN..];
    assert_eq!(body.len(), len);
    (kind, body)
}

/// A whole handshake: what the client and the server make of each other.
fn shake(
    (client, client_secret, client_binding): (Hello, Option<Secret>, Binding),
    (server, server_secret, server_binding): (Hello, Option<Secret>, Binding),
) -> Result<(Established, Established), HandshakeError> {
    let (asking, first) = Client::start(client, client_secret, client_binding);
    let (kind, body) = parts(&first);
    let (answering, welcome) = Server::hello(&server, server_secret.as_ref(), &server_binding, kind, body, |_| Ok(()))?;
    let (kind, body) = parts(&welcome);
    let (proved, proof) = asking.welcome(kind, body)?;
    let (kind, body) = parts(&proof);
    let (seen, accept) = answering.proved(kind, body)?;
    let (kind, body) = parts(&accept);
    Ok((proved.accepted(kind, body)?, seen))
}

fn plain(client: Hello, server: Hello) -> Result<(Established, Established), HandshakeError> {
    shake((client, None, [0; PROOF_LEN]), (server, None, [0; PROOF_LEN]))
}

fn refused(client: Hello, server: Hello) -> String {
    plain(client, server).expect_err("refused").to_string()
}

#[test]
fn two_brokers_of_a_cluster_learn_who_the_other_is() {
    let (one, two) = (hello(1, 11), hello(2, 12));
    let (server, client) = plain(Hello { expects: Some(NodeId(2)), ..one.clone() }, two.clone()).expect("fits");
    assert_eq!((server.peer, server.protocol), (two, 1));
    assert_eq!(client.peer, Hello { expects: Some(NodeId(2)), ..one });
}

#[test]
fn a_broker_without_a_cluster_may_ask_and_is_not_asked_as_a_member() {
    plain(hello(0, 11), hello(2, 12)).expect("it may join");
    plain(hello(0, 11), hello(0, 12)).expect("they may found a cluster");
    let early = plain(hello(1, 11), hello(0, 12)).expect_err("not yet");
    assert!(early.to_string().contains("not a member of a cluster yet"), "{early}");
    let sent = answer_to(&early).expect("words");
    let (asking, _) = Client::start(hello(1, 11), None, [0; PROOF_LEN]);
    let (kind, body) = parts(&sent);
    assert_eq!(asking.welcome(kind, body).expect_err("not yet"), early, "the client tries again soon");
}

#[test]
fn brokers_that_do_not_fit_are_refused_with_what_to_do() {
    let other = |change: fn(&mut Hello)| {
        let mut other = hello(2, 12);
        change(&mut other);
        other
    };
    let foreign = |hello: &mut Hello| hello.member.as_mut().expect("a member").cluster = Uuid::from_u128(2);
    let cases: [(fn(&mut Hello), &str); 5] = [
        (foreign, "check the --seed lists"),
        (
            |hello| hello.member.as_mut().expect("a member").node = NodeId(1),
            "two data directories claim to be broker 1",
        ),
        (|hello| hello.protocols = (2, 3), "upgrade"),
        (|hello| (hello.feature, hello.feature_max) = (2, 2), "start a newer binary"),
        (|hello| hello.has_secret = true, "the same file as --cluster-secret-file"),
    ];
    for (change, words) in cases {
        for (client, server) in [(hello(1, 11), other(change)), (other(change), hello(1, 11))] {
            let why = refused(client, server);
            assert!(why.contains(words), "{words}: {why}");
        }
    }
    let wrong = refused(Hello { expects: Some(NodeId(3)), ..hello(1, 11) }, hello(2, 12));
    assert!(wrong.contains("broker 3 was expected there, but broker 2 answers"), "{wrong}");
    let newer = refused(hello(1, 11), other(|hello| hello.protocols = (2, 3)));
    assert!(newer.contains("a broker of an older version speaks protocols 1 to 1"), "{newer}");
}

#[test]
fn only_the_same_secret_in_the_same_session_is_accepted() {
    let with = |node, birth| Hello { has_secret: true, ..hello(node, birth) };
    let side = |node, birth, text, binding| (with(node, birth), secret(text), [binding; PROOF_LEN]);
    const LONG: &str = "sixteen bytes and more";
    shake(side(1, 11, LONG, 7), side(2, 12, LONG, 7)).expect("equal");
    let words = "the cluster secrets of the two brokers differ";
    for (client, server) in [
        (side(1, 11, LONG, 7), side(2, 12, "another secret of some length", 7)),
        (side(1, 11, LONG, 7), side(2, 12, LONG, 8)),
    ] {
        let why = shake(client, server).expect_err("refused").to_string();
        assert!(why.contains(words), "{why}");
    }
}

/// A server that knows no secret cannot pass for one that does: it has only the client's proof to send back.
#[test]
fn a_proof_sent_back_is_no_proof() {
    let with = Hello { has_secret: true, ..hello(1, 11) };
    let (asking, _) = Client::start(with.clone(), secret("sixteen bytes and more"), [0; PROOF_LEN]);
    let welcome = message(Kind::Welcome, &Hello { has_secret: true, ..hello(2, 12) }.encode());
    let (kind, body) = parts(&welcome);
    let (proved, proof) = asking.welcome(kind, body).expect("looks right");
    assert!(proved.accepted(Kind::Accept as u8, parts(&proof).1).is_err());
}

#[test]
fn a_refusal_carries_its_words_to_the_other_side() {
    let (asking, _) = Client::start(hello(1, 11), None, [0; PROOF_LEN]);
    let sent = refusal("no, \u{1b}[31mnever\n");
    let (kind, body) = parts(&sent);
    let error = asking.welcome(kind, body).expect_err("refused");
    assert_eq!(error, HandshakeError::Refused("no, [31mnever".into()));
    let long = "ä".repeat(BODY_MAX);
    assert!(words_of(Kind::Refusal as u8, parts(&refusal(&long)).1).expect("words").starts_with("ää"));
}

#[test]
fn bytes_of_other_protocols_are_recognised() {
    assert_eq!(header(b"\x16\x03\x01\x02\x00\x01\x00"), Err(HandshakeError::Tls));
    assert_eq!(header(b"GET / H"), Err(HandshakeError::Foreign));
    assert_eq!(header(b"TWRP\x01\xff\xff"), Err(HandshakeError::Foreign), "longer than a message");
}

#[test]
fn messages_stay_as_they_are() {
    let all = [
        message(Kind::Hello, &Hello { expects: Some(NodeId(2)), ..hello(1, 11) }.encode()),
        message(Kind::Welcome, &Hello { has_secret: true, ..hello(0, 12) }.encode()),
        message(Kind::Proof, &proof(secret("sixteen bytes and more").as_ref(), "client", b"a", b"b", &[7; PROOF_LEN])),
        refusal("words"),
    ];
    crate::partition::state::golden::frozen("rpc-handshake-v1", &all.concat());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..7) {
        let mine = hello(1, 11);
        let (asking, _) = Client::start(mine.clone(), None, [0; PROOF_LEN]);
        let _ = asking.welcome(kind, &bytes);
        let _ = Server::hello(&mine, None, &[0; PROOF_LEN], kind, &bytes, |_| Ok(()));
        let mut sound = mine.encode().to_vec();
        sound.splice(20.., bytes);
        let _ = Server::hello(&mine, None, &[0; PROOF_LEN], 1, &sound, |_| Ok(()));
    }
}
