//! The origins that one shard has open at the same time: at most `COPIES_MAX`, since each takes memory of its own.
//!
//! Owns: which topics have a place, and the queue of the others. A topic keeps its place until its copy is complete on
//! this shard; one that makes no progress gives it up to the next in the queue, and queues again. So no number of
//! copies that cannot go on keeps another from its end. Does not own: what is opened. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tidewater_storage::model::TopicId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the header. `T` is what is open for a topic.
pub(super) struct Places<T> {
    open: RefCell<BTreeMap<TopicId, (Rc<T>, OwnedSemaphorePermit)>>,
    free: Arc<Semaphore>,
    queued: Cell<usize>,
}

impl<T> Places<T> {
    pub(super) fn new(places: usize) -> Self {
        Self { open: RefCell::default(), free: Arc::new(Semaphore::new(places)), queued: Cell::default() }
    }

    pub(super) fn held(&self, topic: TopicId) -> Option<Rc<T>> {
        self.open.borrow().get(&topic).map(|(open, _)| Rc::clone(open))
    }

    /// What is open for the topic, opened when there is a place. Places are given in the order of the calls.
    ///
    /// # Errors
    /// That of `open`; the place is free again.
    pub(super) async fn take<E>(&self, topic: TopicId, open: impl FnOnce() -> Result<T, E>) -> Result<Rc<T>, E> {
        if let Some(held) = self.held(topic) {
            return Ok(held);
        }
        let queued = Queued::begin(&self.queued);
        let place = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        drop(queued);
        // Another partition of the topic may have been before this one in the queue.
        if let Some(held) = self.held(topic) {
            return Ok(held);
        }
        let opened = Rc::new(open()?);
        self.open.borrow_mut().insert(topic, (Rc::clone(&opened), place));
        Ok(opened)
    }

    /// The topic makes no progress: its place goes to the next topic in the queue, if there is one.
    pub(super) fn yield_place(&self, topic: TopicId) {
        if self.queued.get() > 0 {
            self.free(topic);
        }
    }

    /// The topic needs no place any more.
    pub(super) fn free(&self, topic: TopicId) {
        self.open.borrow_mut().remove(&topic);
    }
}

/// One in the queue, until dropped.
struct Queued<'a>(&'a Cell<usize>);

impl<'a> Queued<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::future::FutureExt as _;
    use uuid::Uuid;

    use super::*;

    fn topic(n: u128) -> TopicId {
        TopicId(Uuid::from_u128(n))
    }

    fn opens(n: u128) -> impl FnOnce() -> Result<u128, String> {
        move || Ok(n)
    }

    #[test]
    fn topics_that_do_not_get_on_leave_their_places_to_those_that_wait() {
        let places = Places::new(2);
        for n in 1..=2 {
            assert_eq!(block_on(places.take(topic(n), opens(n))).as_deref(), Ok(&n));
        }
        places.yield_place(topic(1));
        assert!(places.held(topic(1)).is_some(), "no topic waits for it");
        let mut third = Box::pin(places.take(topic(3), opens(3)));
        let mut again = Box::pin(places.take(topic(3), || Err("opened twice".to_owned())));
        assert!((&mut third).now_or_never().is_none() && (&mut again).now_or_never().is_none());
        // Topics that have a place do not queue.
        assert_eq!(places.take(topic(2), opens(0)).now_or_never(), Some(Ok(Rc::new(2))));
        places.yield_place(topic(1));
        let mut first = Box::pin(places.take(topic(1), opens(4)));
        assert!((&mut first).now_or_never().is_none(), "it queues behind the third");
        assert_eq!((&mut third).now_or_never(), Some(Ok(Rc::new(3))));
        // The second partition of topic 3 takes no second place.
        places.free(topic(2));
        assert_eq!((&mut again).now_or_never(), Some(Ok(Rc::new(3))));
        assert_eq!((&mut first).now_or_never(), Some(Ok(Rc::new(4))));
    }

    #[test]
    fn a_place_is_free_again_when_nothing_opens_and_when_a_wait_is_given_up() {
        let places: Places<u128> = Places::new(1);
        assert_eq!(block_on(places.take(topic(1), || Err("no bucket"))), Err("no bucket"));
        assert_eq!(block_on(places.take(topic(2), opens(2))), Ok(Rc::new(2)));
        assert!(places.take(topic(3), opens(3)).now_or_never().is_none(), "dropped while it waits");
        places.yield_place(topic(2));
        assert!(places.held(topic(2)).is_some(), "no topic waits any more");
    }
}
