//! Watching partitions from another shard: a reader registers its alarm once at each partition whose end it has
//! reached.
//!
//! A registration is good for one ring: the reader gets the token of the partition that changed, reads that one and
//! registers there again. So a reader of thousands of idle partitions costs nothing until one changes, and then only
//! that. [`Alarm`] is a *message*; [`Alarms`] and [`Waiters`] are shard-local.

use std::cell::RefCell;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use tidewater_storage::model::{Offset, PartitionId};

/// Rings at its reader, on any shard. Its queue holds at most one ring per registration.
#[derive(Clone, Debug)]
pub struct Alarm {
    rings: UnboundedSender<u32>,
}

impl Alarm {
    fn ring(&self, token: u32) {
        // The reader may be gone.
        let _ = self.rings.unbounded_send(token);
    }
}

#[derive(Debug)]
pub struct Alarms {
    rings: UnboundedReceiver<u32>,
}

impl Alarms {
    /// An alarm and its receiving end.
    #[must_use]
    pub fn new() -> (Alarm, Self) {
        let (sender, receiver) = unbounded();
        (Alarm { rings: sender }, Self { rings: receiver })
    }

    /// The token of a registration that rang.
    pub fn poll_ring(&mut self, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        self.rings.poll_next_unpin(cx)
    }

    /// The same without waiting.
    pub fn try_ring(&mut self) -> Option<u32> {
        self.rings.try_recv().ok()
    }
}

/// One registration. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Chosen by the reader; the ring carries it.
    pub token: u32,
    pub id: PartitionId,
    /// Its high watermark as the reader knows it.
    pub end: Offset,
    /// Its log start as the reader knows it.
    pub log_start: Offset,
}

/// Readers at a partition's end. One whose alarm was dropped is removed at a later pass.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: RefCell<Vec<(Offset, Alarm, u32)>>,
}

impl Waiters {
    /// Rings `alarm` once when the partition's end is past `end`, its start moves, or it goes.
    pub fn register(&self, end: Offset, alarm: &Alarm, token: u32) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() % 64 == 63 {
            waiting.retain(|(_, alarm, _)| !alarm.rings.is_closed());
        }
        waiting.push((end, alarm.clone(), token));
    }

    /// The partition now ends at `end`.
    pub fn reached(&self, end: Offset) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        waiting.retain(|(seen, alarm, token)| {
            let rings = *seen < end;
            if rings {
                alarm.ring(*token);
            }
            !rings && !alarm.rings.is_closed()
        });
    }

    /// The log start moved, or the partition was dropped or lost its leader: rings all alarms.
    pub fn all(&self) {
        for (_, alarm, token) in self.waiting.borrow_mut().drain(..) {
            alarm.ring(token);
        }
    }
}

/// Rings at once: the partition has changed since the reader saw it.
pub fn ring_now(alarm: &Alarm, token: u32) {
    alarm.ring(token);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_once_when_its_offset_is_passed() {
        let waiters = Waiters::default();
        let (alarm, mut heard) = Alarms::new();
        waiters.register(Offset::new(5), &alarm, 50);
        waiters.register(Offset::new(9), &alarm, 90);
        waiters.reached(Offset::new(5));
        assert_eq!(heard.try_ring(), None, "nothing past 5 yet");
        waiters.reached(Offset::new(6));
        waiters.reached(Offset::new(7));
        assert_eq!((heard.try_ring(), heard.try_ring()), (Some(50), None));
        waiters.all();
        assert_eq!((heard.try_ring(), heard.try_ring()), (Some(90), None));
    }

    #[test]
    fn dropped_alarms_are_removed() {
        let waiters = Waiters::default();
        for n in 0..1000 {
            let (alarm, _) = Alarms::new();
            waiters.register(Offset::new(n), &alarm, 0);
        }
        assert!(waiters.waiting.borrow().len() <= 64);
        waiters.reached(Offset::ZERO);
        assert!(waiters.waiting.borrow().is_empty());
    }
}
