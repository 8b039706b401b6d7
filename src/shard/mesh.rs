//! Typed messages between shards: one mesh for each kind of message, every queue bounded.
//!
//! A `Mesh<M>` is node-wide (`Clone`, `Send`); an `Inbox<M>` belongs to the shard that drains it. A message carries its
//! own [`Reply`], so a call is a send and a wait. Only messages cross shards: no locks, no shared state.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidewater_storage::model::ShardId;

/// The receiving shard has stopped, since the node is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard has stopped")]
pub struct MeshClosed;

/// Sends to every shard.
pub struct Mesh<M> {
    senders: Arc<[flume::Sender<M>]>,
    sent: Arc<[AtomicU64]>,
}

impl<M> Clone for Mesh<M> {
    fn clone(&self) -> Self {
        Self { senders: Arc::clone(&self.senders), sent: Arc::clone(&self.sent) }
    }
}

impl<M> fmt::Debug for Mesh<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mesh({} shards)", self.senders.len())
    }
}

/// The receiving end of one shard.
pub struct Inbox<M> {
    receiver: flume::Receiver<M>,
}

impl<M> fmt::Debug for Inbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} waiting)", self.receiver.len())
    }
}

/// The way back for the answer to a call. If it is dropped without an answer, the caller gets [`MeshClosed`].
pub struct Reply<T> {
    sender: futures::channel::oneshot::Sender<T>,
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

impl<T> Reply<T> {
    /// Answers. Does nothing if the caller has gone.
    pub fn send(self, answer: T) {
        let _ = self.sender.send(answer);
    }
}

impl<M: Send + 'static> Mesh<M> {
    /// A mesh of `shards` inboxes of at most `cap` messages each.
    #[must_use]
    pub fn new(shards: u16, cap: usize) -> (Self, Vec<Inbox<M>>) {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..shards)
            .map(|_| {
                let (sender, receiver) = flume::bounded(cap);
                (sender, Inbox { receiver })
            })
            .unzip();
        let sent = (0..shards).map(|_| AtomicU64::new(0)).collect();
        (Self { senders: senders.into(), sent }, inboxes)
    }

    #[must_use]
    pub fn shards(&self) -> u16 {
        self.senders.len() as u16
    }

    /// Sends, waiting while the inbox is full.
    ///
    /// # Errors
    /// [`MeshClosed`] when that shard has stopped or does not exist.
    pub async fn send(&self, to: ShardId, message: M) -> Result<(), MeshClosed> {
        let sender = self.senders.get(usize::from(to.0)).ok_or(MeshClosed)?;
        sender.send_async(message).await.map_err(|_| MeshClosed)?;
        if let Some(sent) = self.sent.get(usize::from(to.0)) {
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends a message that carries a [`Reply`] and waits for the answer.
    ///
    /// # Errors
    /// [`MeshClosed`] when that shard has stopped or dropped the question.
    pub async fn call<T: Send + 'static>(
        &self,
        to: ShardId,
        make: impl FnOnce(Reply<T>) -> M,
    ) -> Result<T, MeshClosed> {
        let (sender, receiver) = futures::channel::oneshot::channel();
        self.send(to, make(Reply { sender })).await?;
        receiver.await.map_err(|_| MeshClosed)
    }
}

/// The queue lengths of a mesh, for metrics, independent of its message type.
pub trait Depths: Send + Sync {
    /// Messages in each shard's inbox now.
    fn depths(&self) -> Vec<usize>;

    /// Messages sent to each shard since the start.
    fn sent(&self) -> Vec<u64>;
}

impl<M: Send + 'static> Depths for Mesh<M> {
    fn depths(&self) -> Vec<usize> {
        self.senders.iter().map(flume::Sender::len).collect()
    }

    fn sent(&self) -> Vec<u64> {
        self.sent.iter().map(|sent| sent.load(Ordering::Relaxed)).collect()
    }
}

impl<M> Inbox<M> {
    /// The next message; `None` when every sender is gone.
    pub async fn recv(&self) -> Option<M> {
        self.receiver.recv_async().await.ok()
    }

    /// A message that is already queued.
    #[must_use]
    pub fn try_recv(&self) -> Option<M> {
        self.receiver.try_recv().ok()
    }
}

/// A reply and the future of its answer, for calls that stay on their shard.
pub fn reply_pair<T>() -> (Reply<T>, futures::channel::oneshot::Receiver<T>) {
    let (sender, receiver) = futures::channel::oneshot::channel();
    (Reply { sender }, receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_and_a_dropped_reply_is_seen() {
        futures::executor::block_on(async {
            let (mesh, inboxes) = Mesh::<(u32, Reply<u32>)>::new(1, 4);
            let serve = async {
                let (n, reply) = inboxes[0].recv().await.expect("open");
                reply.send(n + 1);
                drop(inboxes[0].recv().await);
            };
            let ask = async {
                assert_eq!(mesh.call(ShardId(0), |r| (41, r)).await, Ok(42));
                assert_eq!(mesh.call(ShardId(0), |r| (0, r)).await, Err(MeshClosed));
                assert_eq!(mesh.call(ShardId(9), |r| (0, r)).await, Err(MeshClosed));
            };
            futures::join!(serve, ask);
        });
    }
}
