//! Questions of one request, asked side by side: so many at a time, answered in order. Shard-local.
//!
//! A request may name 250,000 partitions, the same one again and again, in a megabyte; asked all at once, each would be
//! a task and a message.

use std::future::Future;

use futures::stream::{self, StreamExt};

use super::limits::ASKED_AT_ONCE;

/// The answers to all, in the order of the questions. `asked` is only gone through as far as there is room.
pub async fn at_once<F: Future>(asked: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn so_many_at_a_time_and_in_order() {
        let (under_way, most) = (Cell::new(0), Cell::new(0));
        let (under_way, most) = (&under_way, &most);
        let ask = |n: usize| async move {
            under_way.set(under_way.get() + 1);
            most.set(under_way.get().max(most.get()));
            let mut polls = n % 7;
            std::future::poll_fn(|cx| match polls.checked_sub(1) {
                None => std::task::Poll::Ready(()),
                Some(left) => {
                    polls = left;
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                }
            })
            .await;
            under_way.set(under_way.get() - 1);
            n
        };
        let answers = futures::executor::block_on(at_once((0..10_000).map(ask)));
        assert_eq!(answers, (0..10_000).collect::<Vec<_>>());
        assert!((2..=ASKED_AT_ONCE).contains(&most.get()), "{} at once", most.get());
    }
}
