//! A bounded queue within a shard: many senders, one receiver, first come first served.
//!
//! A sender that finds the queue full waits in line; nobody passes it. Messages and wakers are dropped and woken with
//! nothing borrowed, because either may reach back into the queue. Affinity: shard-local.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use openraft_rt::{OptionalSend, SendError, TryRecvError};

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    receiver_alive: bool,
    receiver_waits: Option<Waker>,
    senders: usize,
    line: VecDeque<(u64, Waker)>,
    next_ticket: u64,
}

impl<T> State<T> {
    /// The waker of the sender that may go next, if there is room for it.
    fn next_in_line(&self) -> Option<Waker> {
        (self.queue.len() < self.capacity).then(|| self.line.front().map(|(_, w)| w.clone())).flatten()
    }

    fn leave_line(&mut self, ticket: u64) {
        self.line.retain(|(waiting, _)| *waiting != ticket);
    }
}

type Shared<T> = Rc<RefCell<State<T>>>;

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Sends. Clones count as one sender more.
pub(crate) struct Sender<T> {
    shared: Shared<T>,
}

/// Does not keep the channel open.
pub(crate) struct WeakSender<T> {
    shared: Shared<T>,
}

/// Receives.
pub(crate) struct Receiver<T> {
    shared: Shared<T>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.borrow_mut().senders += 1;
        Self { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.borrow_mut();
            state.senders -= 1;
            if state.senders == 0 { state.receiver_waits.take() } else { None }
        };
        wake(waiting);
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (unread, line) = {
            let mut state = self.shared.borrow_mut();
            state.receiver_alive = false;
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.line))
        };
        line.into_iter().for_each(|(_, waker)| waker.wake());
        drop(unread);
    }
}

/// A message on its way.
struct Sending<'a, T> {
    shared: &'a Shared<T>,
    message: Option<T>,
    ticket: Option<u64>,
}

// No field is ever pinned: the message is only moved.
impl<T> Unpin for Sending<'_, T> {}

impl<T> Future for Sending<'_, T> {
    type Output = Result<(), SendError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(message) = this.message.take() else { return Poll::Pending };
        let mut state = this.shared.borrow_mut();
        if !state.receiver_alive {
            return Poll::Ready(Err(SendError(message)));
        }
        let my_turn = match (state.line.front(), this.ticket) {
            (None, _) => true,
            (Some((front, _)), Some(mine)) => *front == mine,
            (Some(_), None) => false,
        };
        if my_turn && state.queue.len() < state.capacity {
            state.queue.push_back(message);
            if let Some(ticket) = this.ticket.take() {
                state.leave_line(ticket);
            }
            let (receiver, next) = (state.receiver_waits.take(), state.next_in_line());
            drop(state);
            wake(receiver);
            wake(next);
            return Poll::Ready(Ok(()));
        }
        this.message = Some(message);
        match this.ticket {
            Some(mine) => {
                if let Some((_, waker)) = state.line.iter_mut().find(|(ticket, _)| *ticket == mine) {
                    waker.clone_from(cx.waker());
                }
            }
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.line.push_back((ticket, cx.waker().clone()));
                this.ticket = Some(ticket);
            }
        }
        Poll::Pending
    }
}

impl<T> Drop for Sending<'_, T> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let next = {
            let mut state = self.shared.borrow_mut();
            state.leave_line(ticket);
            state.next_in_line()
        };
        wake(next);
    }
}

/// openraft's view of it.
#[derive(Debug)]
pub(crate) struct ShardMpsc;

impl openraft_rt::Mpsc for ShardMpsc {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let shared = Rc::new(RefCell::new(State {
            queue: VecDeque::new(),
            capacity: buffer.max(1),
            receiver_alive: true,
            receiver_waits: None,
            senders: 1,
            line: VecDeque::new(),
            next_ticket: 0,
        }));
        (Sender { shared: shared.clone() }, Receiver { shared })
    }
}

impl<T: OptionalSend> openraft_rt::MpscSender<ShardMpsc, T> for Sender<T> {
    fn send(&self, message: T) -> impl Future<Output = Result<(), SendError<T>>> {
        Sending { shared: &self.shared, message: Some(message), ticket: None }
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender { shared: self.shared.clone() }
    }
}

impl<T: OptionalSend> openraft_rt::MpscWeakSender<ShardMpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        let mut state = self.shared.borrow_mut();
        (state.senders > 0 && state.receiver_alive).then(|| {
            state.senders += 1;
            Sender { shared: self.shared.clone() }
        })
    }
}

impl<T> Receiver<T> {
    fn pop(&self) -> Result<T, TryRecvError> {
        let (message, next) = {
            let mut state = self.shared.borrow_mut();
            let message = state.queue.pop_front();
            let next = if message.is_some() { state.next_in_line() } else { None };
            match message {
                Some(message) => (message, next),
                None if state.senders == 0 => return Err(TryRecvError::Disconnected),
                None => return Err(TryRecvError::Empty),
            }
        };
        wake(next);
        Ok(message)
    }
}

impl<T: OptionalSend> openraft_rt::MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| match self.pop() {
            Ok(message) => Poll::Ready(Some(message)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                self.shared.borrow_mut().receiver_waits = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.pop()
    }
}
