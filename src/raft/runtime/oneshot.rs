//! openraft's channel for one value: tokio's, which works without tokio's runtime.

use openraft_rt::OptionalSend;
use tokio::sync::oneshot;

pub(crate) use oneshot::Receiver;

/// The channel in openraft's terms.
#[derive(Debug)]
pub(crate) struct ShardOneshot;

pub(crate) struct Sender<T>(oneshot::Sender<T>);

impl openraft_rt::Oneshot for ShardOneshot {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;

    fn channel<T: OptionalSend>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Sender(sender), receiver)
    }
}

impl<T: OptionalSend> openraft_rt::OneshotSender<T> for Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}
