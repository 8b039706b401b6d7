//! openraft's bounded queue: tokio's, which works without tokio's runtime and serves waiting senders in order.

use openraft_rt::{OptionalSend, SendError, TryRecvError};
use tokio::sync::mpsc;

/// The queue in openraft's terms.
#[derive(Debug)]
pub(crate) struct ShardMpsc;

pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

impl openraft_rt::Mpsc for ShardMpsc {
    type Sender<T: OptionalSend> = mpsc::Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = mpsc::WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (mpsc::Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::channel(buffer.max(1));
        (sender, Receiver(receiver))
    }
}

impl<T: OptionalSend> openraft_rt::MpscSender<ShardMpsc, T> for mpsc::Sender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        mpsc::Sender::send(self, message).await.map_err(|error| SendError(error.0))
    }

    fn downgrade(&self) -> mpsc::WeakSender<T> {
        mpsc::Sender::downgrade(self)
    }
}

impl<T: OptionalSend> openraft_rt::MpscWeakSender<ShardMpsc, T> for mpsc::WeakSender<T> {
    fn upgrade(&self) -> Option<mpsc::Sender<T>> {
        mpsc::WeakSender::upgrade(self)
    }
}

impl<T: OptionalSend> openraft_rt::MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}
