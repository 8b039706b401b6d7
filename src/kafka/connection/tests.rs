//! The connection over a real loopback socket, with a service that answers on command.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use bytes::{Buf, BufMut};
use futures::channel::oneshot;
use tidewater_storage::env::Env;

use super::*;
use crate::net::listen::Bound;

/// Answers Metadata at once, Produce and Fetch when the test says so; records the order of starts.
struct Scripted {
    env: Env,
    started: RefCell<Vec<i32>>,
    waiting: RefCell<BTreeMap<i32, oneshot::Sender<Reply>>>,
    writes: Cell<usize>,
}

impl Scripted {
    fn release(&self, id: i32, reply: Reply) {
        let sender = self.waiting.borrow_mut().remove(&id).expect("waits");
        sender.send(reply).map_err(drop).expect("awaited");
    }
}

fn frame(id: i32) -> Vec<Bytes> {
    let mut out = BytesMut::new();
    out.put_i32(4);
    out.put_i32(id);
    vec![out.freeze()]
}

impl Service for Scripted {
    fn call(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        let id = request.header.correlation_id;
        self.started.borrow_mut().push(id);
        if !matches!(request.api.key, ApiKey::Produce | ApiKey::Fetch) {
            return ready(Reply::Send(frame(id), None));
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        Box::pin(async move { receiver.await.unwrap_or(Reply::Silent) })
    }

    fn api_versions_fallback(&self, correlation_id: i32) -> Bytes {
        frame(correlation_id + 1000).remove(0)
    }

    fn now(&self) -> Mono {
        self.env.clock.now()
    }

    fn moved(&self, _received: usize, sent: Sent) {
        self.writes.set(self.writes.get() + sent.writes);
    }
}

fn request(key: i16, version: i16, id: i32) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_i16(key);
    body.put_i16(version);
    body.put_i32(id);
    body.put_i16(-1);
    body.put_slice(&[0; 20]);
    let mut out = (body.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(&body);
    out
}

const PRODUCE: (i16, i16) = (0, 8);
const FETCH: (i16, i16) = (1, 4);
const METADATA: (i16, i16) = (3, 1);

struct Client {
    stream: Stream,
    got: BytesMut,
}

impl Client {
    async fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| self.stream.poll_write(cx, &[io::IoSlice::new(bytes)])).await.expect("sends");
            bytes = &bytes[sent..];
        }
    }

    async fn ask(&mut self, (key, version): (i16, i16), id: i32) {
        self.send(&request(key, version, id)).await;
    }

    /// The next response's correlation id; `None` at the end.
    async fn next(&mut self) -> Option<i32> {
        loop {
            if self.got.len() >= 4 && self.got.len() >= 4 + (&self.got[..4]).get_u32() as usize {
                let len = self.got.get_u32() as usize;
                return Some(self.got.split_to(len).get_i32());
            }
            let mut some = [0; 4096];
            match poll_fn(|cx| self.stream.poll_read(cx, &mut some)).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.got.extend_from_slice(&some[..n]),
            }
        }
    }
}

struct World {
    env: Env,
    client: Client,
    service: Rc<Scripted>,
    handle: Rc<Handle>,
    budget: Budget,
    served: tidewater_storage::env::Task<CloseReason>,
}

/// Runs a test inside an executor of its own, with one connection open.
fn with_connection<F: Future<Output = ()> + 'static>(test: impl FnOnce(World) -> F + Send + 'static) {
    let run = glommio::LocalExecutorBuilder::default().spawn(|| async move {
        let env = Env::real(1);
        let bound = Bound::bind("--kafka-addr", "127.0.0.1:0".parse().expect("address")).expect("binds");
        let addr = bound.addr();
        let listener = bound.listen().expect("listens").into_listener();
        let client = Client { stream: Stream::connect(addr).await.expect("connects"), got: BytesMut::new() };
        let stream = listener.accept().await.expect("accepts").into_stream().expect("lives");
        let service = Rc::new(Scripted {
            env: env.clone(),
            started: RefCell::default(),
            waiting: RefCell::default(),
            writes: Cell::new(0),
        });
        let (budget, handle) = (Budget::new(1 << 20), Handle::new(env.clock.now()));
        let connection = Connection::new(stream, Rc::clone(&service), &budget, Rc::clone(&handle));
        let served = env.tasks.spawn("connection", connection.run());
        test(World { env, client, service, handle, budget, served }).await;
    });
    run.expect("io_uring is there").join().expect("runs");
}

async fn until(env: &Env, what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        env.tasks.sleep(Duration::from_millis(1)).await;
    }
    unreachable!("it never came to be");
}

#[test]
fn produce_requests_are_pipelined_and_answered_in_order() {
    with_connection(|mut w| async move {
        for id in 1..=3 {
            w.client.ask(PRODUCE, id).await;
        }
        w.client.ask(METADATA, 4).await;
        w.client.ask(PRODUCE, 5).await;
        until(&w.env, || w.service.started.borrow().len() == 3).await;
        assert_eq!(*w.service.started.borrow(), [1, 2, 3], "metadata waits for the produce requests before it");

        let before = w.service.writes.get();
        for id in [3, 2, 1] {
            w.service.release(id, Reply::Send(frame(id), None));
        }
        for id in 1..=4 {
            assert_eq!(w.client.next().await, Some(id));
        }
        assert!(w.service.writes.get() - before <= 2, "ready answers go out together");
        until(&w.env, || w.service.started.borrow().len() == 5).await;
        w.service.release(5, Reply::Silent);
        w.client.ask(METADATA, 6).await;
        assert_eq!(w.client.next().await, Some(6), "acks=0 has no answer");
    });
}

#[test]
fn unknown_versions_and_keys() {
    with_connection(|mut w| async move {
        w.client.ask((18, 77), 1).await;
        assert_eq!(w.client.next().await, Some(1001), "ApiVersions of the future");
        w.client.ask(METADATA, 2).await;
        w.client.ask((4242, 0), 3).await;
        w.client.ask(METADATA, 4).await;
        assert_eq!(w.client.next().await, Some(2), "what came before is still answered");
        assert_eq!(w.client.next().await, None);
        assert!(matches!(w.served.await, Some(CloseReason::Unsupported { key: 4242, version: 0 })));
    });
}

#[test]
fn a_failed_produce_without_acknowledgement_closes() {
    with_connection(|mut w| async move {
        w.client.ask(PRODUCE, 1).await;
        w.client.ask(PRODUCE, 2).await;
        until(&w.env, || w.service.started.borrow().len() == 2).await;
        w.service.release(1, Reply::Close(CloseReason::Unacknowledged("full".into())));
        assert_eq!(w.client.next().await, None);
        w.service.release(2, Reply::Send(frame(2), None));
        assert!(matches!(w.served.await, Some(CloseReason::Unacknowledged(_))));
    });
}

#[test]
fn bad_frames_close() {
    with_connection(|mut w| async move {
        w.client.send(&[0x7f, 0xff, 0xff, 0xff]).await;
        assert_eq!(w.client.next().await, None);
        assert!(matches!(w.served.await, Some(CloseReason::Frame(_))));
    });
    with_connection(|mut w| async move {
        w.client.send(&[0, 0, 0, 3, 1, 2, 3]).await;
        assert_eq!(w.client.next().await, None);
        assert!(matches!(w.served.await, Some(CloseReason::Malformed { .. })));
    });
}

/// A produce request of so many bytes, length included.
fn large(id: i32, bytes: usize) -> Vec<u8> {
    let mut out = request(PRODUCE.0, PRODUCE.1, id);
    out.resize(bytes, 0);
    out[..4].copy_from_slice(&(bytes as u32 - 4).to_be_bytes());
    out
}

#[test]
fn a_bad_frame_behind_good_requests_costs_them_neither_answer_nor_charge() {
    for bad in [&[0x7f, 0xff, 0xff, 0xff][..], &[0, 0, 0, 3, 1, 2, 3]] {
        with_connection(move |mut w| async move {
            w.client.send(&large(1, 300_000)).await;
            w.client.send(&large(2, 300_000)).await;
            w.client.send(bad).await;
            until(&w.env, || w.service.started.borrow().len() == 2).await;
            w.env.tasks.sleep(Duration::from_millis(20)).await;
            assert!(w.budget.used() >= 599_992, "{} bytes are charged", w.budget.used());
            for id in 1..=2 {
                w.service.release(id, Reply::Send(frame(id), None));
                assert_eq!(w.client.next().await, Some(id));
            }
            assert_eq!(w.client.next().await, None);
            assert!(matches!(w.served.await, Some(CloseReason::Frame(_) | CloseReason::Malformed { .. })));
            assert_eq!(w.budget.used(), 0);
        });
    }
}

#[test]
fn a_connection_that_is_cut_off_stays_charged_until_its_batches_are_written() {
    with_connection(|mut w| async move {
        w.client.send(&large(1, 300_000)).await;
        w.client.send(&large(2, 300_000)).await;
        until(&w.env, || w.service.started.borrow().len() == 2).await;
        w.handle.kill(Kill::Stalled);
        assert_eq!(w.client.next().await, None, "the peer does not wait for them");
        assert!(w.budget.used() >= 599_992 && w.handle.working.get() && !w.handle.half_way.get());
        w.service.release(2, Reply::Silent);
        w.service.release(1, Reply::Silent);
        assert!(matches!(w.served.await, Some(CloseReason::Stalled)));
        assert_eq!(w.budget.used(), 0);
    });
    with_connection(|mut w| async move {
        w.client.send(&large(1, 300_000)).await;
        w.client.send(&large(2, 300_000)).await;
        until(&w.env, || w.service.started.borrow().len() == 2).await;
        w.service.release(1, Reply::Close(CloseReason::Unacknowledged("full".into())));
        assert_eq!(w.client.next().await, None);
        assert!(w.budget.used() >= 299_996, "{} bytes are charged", w.budget.used());
        // A stop does not wait for peers.
        w.handle.kill(Kill::Stopping);
        assert!(matches!(w.served.await, Some(CloseReason::Unacknowledged(_))));
        assert_eq!(w.budget.used(), 0);
    });
}

#[test]
fn an_announced_frame_is_charged_by_what_has_come() {
    with_connection(|mut w| async move {
        w.client.send(&(50u32 << 20).to_be_bytes()).await;
        w.client.send(&vec![0; 200_000]).await;
        until(&w.env, || w.budget.used() > 0).await;
        w.env.tasks.sleep(Duration::from_millis(20)).await;
        assert!(w.budget.used() <= 200_004, "{} bytes are charged", w.budget.used());
        assert!(w.handle.half_way.get());
        w.handle.kill(Kill::Stalled);
        assert_eq!(w.client.next().await, None);
        assert!(matches!(w.served.await, Some(CloseReason::Stalled)));
        assert_eq!(w.budget.used(), 0);
    });
}

#[test]
fn a_spent_budget_stops_reading_and_goes_on_when_there_is_room() {
    with_connection(|mut w| async move {
        let mut others = w.budget.empty();
        others.set(1 << 20);
        let mut ahead = w.budget.empty();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(ahead.poll_set(&mut cx, 1, Past::Frame, FRAME_BYTES_MAX).is_ready());
        let mut large = request(PRODUCE.0, PRODUCE.1, 1);
        large.resize(300_004, 0);
        large[..4].copy_from_slice(&300_000u32.to_be_bytes());
        w.client.send(&large).await;
        w.env.tasks.sleep(Duration::from_millis(20)).await;
        assert!(w.service.started.borrow().is_empty());
        assert!(!w.handle.half_way.get(), "it is not the peer who keeps it waiting");
        drop(ahead);
        drop(others);
        until(&w.env, || w.service.started.borrow().len() == 1).await;
        w.service.release(1, Reply::Send(frame(1), None));
        assert_eq!(w.client.next().await, Some(1));
        until(&w.env, || w.budget.used() == 0).await;
    });
}

#[test]
fn half_a_request_becomes_whole_though_the_budget_stays_spent() {
    with_connection(|mut w| async move {
        let mut others = w.budget.empty();
        others.set(1 << 20);
        let mut large = request(PRODUCE.0, PRODUCE.1, 1);
        large.resize(300_004, 0);
        large[..4].copy_from_slice(&300_000u32.to_be_bytes());
        w.client.send(&large[..200_000]).await;
        until(&w.env, || w.handle.let_past.get().is_some()).await;
        assert!(w.handle.half_way.get(), "now it is");
        w.client.send(&large[200_000..]).await;
        until(&w.env, || w.service.started.borrow().len() == 1).await;
        assert_eq!(w.handle.let_past.get(), None);
        w.service.release(1, Reply::Send(frame(1), None));
        assert_eq!(w.client.next().await, Some(1));
        until(&w.env, || w.budget.used() == 1 << 20).await;
    });
}

#[test]
fn a_stop_answers_what_has_begun() {
    with_connection(|mut w| async move {
        w.client.ask(PRODUCE, 1).await;
        until(&w.env, || w.service.started.borrow().len() == 1).await;
        w.handle.stop();
        w.env.tasks.sleep(Duration::from_millis(5)).await;
        w.service.release(1, Reply::Send(frame(1), None));
        assert_eq!(w.client.next().await, Some(1));
        assert_eq!(w.client.next().await, None);
        assert!(matches!(w.served.await, Some(CloseReason::Stopping)));
    });
}

#[test]
fn a_peer_that_has_gone_ends_its_long_poll_but_not_its_append() {
    with_connection(|mut w| async move {
        w.client.ask(FETCH, 1).await;
        until(&w.env, || w.service.started.borrow().len() == 1).await;
        drop(w.client);
        assert!(matches!(w.served.await, Some(CloseReason::Peer)));
        assert!(w.service.waiting.borrow_mut().remove(&1).expect("asked").is_canceled());
    });
    with_connection(|mut w| async move {
        w.client.ask(PRODUCE, 1).await;
        until(&w.env, || w.service.started.borrow().len() == 1).await;
        drop(w.client);
        w.env.tasks.sleep(Duration::from_millis(20)).await;
        w.service.release(1, Reply::Silent);
        assert!(matches!(w.served.await, Some(CloseReason::Peer)));
    });
}

#[test]
fn a_large_answer_reaches_a_slow_reader_whole() {
    with_connection(|mut w| async move {
        w.client.ask(PRODUCE, 1).await;
        until(&w.env, || w.service.started.borrow().len() == 1).await;
        let body = 20 << 20;
        let mut head = BytesMut::new();
        head.put_u32(4 + body as u32);
        head.put_i32(1);
        let mut pieces = vec![head.freeze()];
        pieces.extend((0..20 * 16).map(|n| Bytes::from(vec![n as u8; 64 << 10])));
        w.service.release(1, Reply::Send(pieces, None));
        w.env.tasks.sleep(Duration::from_millis(20)).await;
        assert!(w.handle.half_way.get(), "the socket cannot take 20 MiB at once");
        assert_eq!(w.client.next().await, Some(1));
    });
}
