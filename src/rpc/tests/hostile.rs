//! Peers that send what no broker sends, or do not read, or do not answer.

use super::*;

/// A stranger that speaks as it likes.
fn stranger(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("connects");
    stream.set_read_timeout(Some(PATIENCE * 2)).expect("a timeout");
    stream
}

/// What it gets until the connection is closed.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => all,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => all,
        Err(error) => panic!("the connection stays open: {error}"),
    }
}

/// A connection that has shaken hands as `node`.
fn shaken(at: SocketAddr, node: &RpcNode) -> TcpStream {
    let mut stream = stranger(at);
    let receive = |stream: &mut TcpStream| {
        let mut head = [0; handshake::HEADER_LEN];
        stream.read_exact(&mut head).expect("a message");
        let (kind, len) = handshake::header(&head).expect("ours");
        let mut body = vec![0; len];
        stream.read_exact(&mut body).expect("its body");
        (kind, body)
    };
    let (client, first) = handshake::Client::start(node.hello(None, ShardId(0)), None, handshake::Binding::default());
    stream.write_all(&first).expect("sends");
    let (kind, body) = receive(&mut stream);
    let (client, proof) = client.welcome(kind, &body).expect("fits");
    stream.write_all(&proof).expect("sends");
    let (kind, body) = receive(&mut stream);
    client.accepted(kind, &body).expect("accepted");
    stream
}

#[test]
fn hostile_peers_end_their_own_connections_only() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", echoes);
    let (at, three) = (serving.at, broker(3));
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"TWRP\x01\xff\xff", b"TWRP\x09\x00\x00", &[0; 64]] {
        let mut stream = stranger(at);
        stream.write_all(garbage).expect("sends");
        let answer = rest(stream);
        assert!(answer.starts_with(b"TWRP\x05"), "refused in words: {answer:?}");
    }
    let mut tls = stranger(at);
    tls.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").expect("sends");
    let answer = String::from_utf8_lossy(&rest(tls)).into_owned();
    assert!(answer.contains("this broker does not: give every broker --rpc-tls-cert"), "{answer}");

    let call = frame::encode(&frame::Frame { id: 1, body: frame::Body::Call { service: 7, body: Bytes::new() } });
    let answer = frame::encode(&frame::Frame { id: 1, body: frame::Body::Answer(Ok(Bytes::new())) });
    let mut damaged = call.concat();
    damaged[9] ^= 1;
    for bytes in [vec![0xff; 4], vec![0; 4], damaged, answer.concat(), [0, 0, 1, 0].repeat(100)] {
        let mut stream = shaken(at, &three);
        stream.write_all(&bytes).expect("sends");
        assert!(rest(stream).is_empty(), "{bytes:?}");
    }
    // Large lengths cost nothing until bytes come; ends in the middle of a frame are no garbage.
    let halves: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = shaken(at, &three);
            stream.write_all(&(frame::FRAME_BYTES_MAX as u32).to_be_bytes()).expect("sends");
            stream
        })
        .collect();
    let mut sound = shaken(at, &three);
    sound.write_all(&call.concat()).expect("sends");
    let mut answered = [0; 17];
    sound.read_exact(&mut answered).expect("answered beside the others");
    drop(halves);
    let silent = stranger(at);
    let begun = Instant::now();
    assert!(rest(silent).is_empty());
    assert!(begun.elapsed() < limits::HANDSHAKE_MAX + Duration::from_secs(1), "{:?}", begun.elapsed());
    let counts = serving.end();
    assert_eq!((counts.cut_off, counts.handshakes_refused), (5, 6), "{counts:?}");
}

/// Answers wait for it up to a bound; its own connection is not read meanwhile, and others are served.
#[test]
fn a_peer_that_does_not_read_answers_holds_little_memory() {
    let serving = Serving::start(broker(1), "127.0.0.1:0", |rpc| {
        echoes(rpc);
        let large = Bytes::from(vec![5; 1 << 20]);
        rpc.serve(Service::Rebuild, Rc::new(move |_, _| std::future::ready(Ok(large.clone())).boxed_local()));
    });
    let mut greedy = shaken(serving.at, &broker(3));
    greedy.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let body = || frame::Body::Call { service: Service::Rebuild.code(), body: Bytes::from(vec![0; 1000]) };
    let mut sent = 0;
    while let Ok(n) = greedy.write(&frame::encode(&frame::Frame { id: 1, body: body() }).concat()) {
        sent += n;
        assert!(sent < 64 << 20, "it is read without an end");
    }
    with_peers(broker(2), vec![peer(1, serving.at)], |rpc| async move {
        assert_eq!(echo(&rpc, 1, "served").await, Ok(Bytes::from_static(b"served")));
    });
    let counts = serving.end();
    assert!(counts.requests_received < 400, "{counts:?}");
    drop(greedy);
}

/// A peer that stops, as SIGSTOP makes it: its system accepts, nothing answers.
#[test]
fn a_peer_that_does_not_answer_the_handshake_is_away() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let at = listener.local_addr().expect("bound");
    with_peers(broker(2), vec![peer(1, at)], |rpc| async move {
        let begun = Instant::now();
        while rpc.counts().peers[0].connects_failed < 2 {
            rpc.shard.env.tasks.sleep(Duration::from_millis(50)).await;
            assert!(begun.elapsed() < PATIENCE * 2);
        }
        let error = echo(&rpc, 1, "").await.expect_err("away").to_string();
        assert!(error.contains("did not finish the handshake"), "{error}");
    });
    drop(listener);
}
