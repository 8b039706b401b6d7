//! Frames waiting to be sent on one connection, and the task that sends them. Shard-local.
//!
//! Frames that are queued during one turn of the executor go out together, several to a `sendmsg`. A frame whose caller
//! has given up is taken out, unless a part of it is sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tidewater_storage::env::Notify;

use super::wire::Wire;

/// Pieces of one write.
const PIECES_MAX: usize = 64;
/// Writes of one poll before other tasks of the shard get their turn.
const ROUNDS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<Outgoing>>,
    /// The first frame of the queue is partly sent.
    begun: Cell<bool>,
    closed: Cell<bool>,
    flush: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    bytes: Cell<u64>,
    writes: Cell<u64>,
    frames: Cell<u64>,
    queued: Cell<usize>,
    /// Bytes were sent, or the outbox was closed.
    pub(super) moved: Notify,
}

#[derive(Debug)]
struct Outgoing {
    id: u64,
    pieces: VecDeque<Bytes>,
}

impl Outbox {
    /// Queues a frame. `id` names it for [`Outbox::take_back`].
    pub(super) fn push(&self, id: u64, pieces: Vec<Bytes>) {
        self.queued.set(self.queued.get() + pieces.iter().map(Bytes::len).sum::<usize>());
        self.queue.borrow_mut().push_back(Outgoing { id, pieces: pieces.into() });
        self.wake();
    }

    /// Takes a frame out. False: it is sent or being sent.
    pub(super) fn take_back(&self, id: u64) -> bool {
        let mut queue = self.queue.borrow_mut();
        let found = queue.iter().position(|frame| frame.id == id);
        match found {
            Some(0) if self.begun.get() => false,
            Some(at) => {
                let taken = queue.remove(at);
                self.forget(taken.as_ref());
                taken.is_some()
            }
            None => false,
        }
    }

    /// Is the frame in the queue, with no byte of it sent?
    pub(super) fn is_unsent(&self, id: u64) -> bool {
        let queue = self.queue.borrow();
        queue.iter().skip(usize::from(self.begun.get())).any(|frame| frame.id == id)
    }

    /// The TLS session has bytes of its own to send.
    pub(super) fn flush(&self) {
        self.flush.set(true);
        self.wake();
    }

    /// Ends [`Outbox::send_all`]. Frames stay in the queue.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.wake();
        self.moved.notify();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Bytes that wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.queued.get()
    }

    fn forget(&self, frame: Option<&Outgoing>) {
        let bytes: usize = frame.map_or(0, |frame| frame.pieces.iter().map(Bytes::len).sum());
        debug_assert!(bytes <= self.queued.get(), "more bytes leave the queue than are in it");
        self.queued.set(self.queued.get().saturating_sub(bytes));
    }

    /// For another connection: the frame that is partly sent is dropped.
    pub(super) fn reopen(&self) {
        self.closed.set(false);
        if self.begun.replace(false) {
            let partly = self.queue.borrow_mut().pop_front();
            self.forget(partly.as_ref());
        }
    }

    pub(super) fn clear(&self) {
        self.begun.set(false);
        self.queue.borrow_mut().clear();
        self.queued.set(0);
    }

    /// Bytes, writes and frames sent.
    pub(super) fn sent(&self) -> (u64, u64, u64) {
        (self.bytes.get(), self.writes.get(), self.frames.get())
    }

    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Sends until [`Outbox::close`]. One task at a time.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn send_all(&self, wire: &Wire) -> io::Result<()> {
        poll_fn(|cx| self.poll_send(wire, cx)).await
    }

    fn poll_send(&self, wire: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waker.replace(Some(cx.waker().clone()));
        for _ in 0..ROUNDS_MAX {
            if self.closed.get() {
                return Poll::Ready(Ok(()));
            }
            let queue = self.queue.borrow();
            if queue.is_empty() {
                if !self.flush.get() {
                    return Poll::Pending;
                }
                match wire.poll_flush(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(done) => done?,
                }
                self.flush.set(false);
                continue;
            }
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(queue.iter().flat_map(|frame| &frame.pieces)) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let sent = wire.poll_write(cx, slices.get(..count).unwrap_or_default());
            drop(queue);
            match sent {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.advance(n),
            }
            if wire.wants_flush() {
                self.flush.set(true);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// `n` bytes were taken by the connection.
    fn advance(&self, mut n: usize) {
        self.bytes.set(self.bytes.get() + n as u64);
        self.writes.set(self.writes.get() + 1);
        self.queued.set(self.queued.get().saturating_sub(n));
        self.moved.notify();
        let mut queue = self.queue.borrow_mut();
        while n > 0 {
            let Some(frame) = queue.front_mut() else {
                debug_assert!(false, "more was sent than was queued");
                return;
            };
            self.begun.set(true);
            while n > 0 {
                let Some(piece) = frame.pieces.front_mut() else { break };
                let part = n.min(piece.len());
                piece.advance(part);
                n -= part;
                if piece.is_empty() {
                    frame.pieces.pop_front();
                }
            }
            if frame.pieces.is_empty() {
                queue.pop_front();
                self.begun.set(false);
                self.frames.set(self.frames.get() + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_frame_can_be_taken_back_until_its_first_byte_is_sent() {
        let outbox = Outbox::default();
        for id in 1..=3 {
            outbox.push(id, vec![piece("head"), piece("body")]);
        }
        assert!(outbox.take_back(2) && !outbox.take_back(2));
        outbox.advance(5);
        assert!(!outbox.take_back(1) && !outbox.is_unsent(1) && outbox.is_unsent(3));
        outbox.reopen();
        assert!(outbox.is_unsent(3), "only what was partly sent is gone");
        outbox.advance(8);
        assert!(!outbox.is_unsent(3));
        assert_eq!((outbox.sent(), outbox.queued()), ((13, 2, 1), 0));
    }
}
