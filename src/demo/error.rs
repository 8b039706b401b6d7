//! Why the demo did not come to its end, with what to do.

use std::io;
use std::time::Duration;

use crate::cli::CliError;
use crate::client::ClientError;
use crate::node::StartError;

/// A demo that failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The broker does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A Kafka call failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Printing, or a question over HTTP, failed.
    #[error(transparent)]
    Cli(#[from] CliError),
    /// The system refuses threads or signals.
    #[error("cannot start the demo's runtime: {0}")]
    Runtime(#[source] io::Error),
    /// A client task ended badly.
    #[error("a task of the demo ended badly: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// There is such a topic, but with other settings.
    #[error(
        "there is a topic {topic} already and its {setting} is {value:?}, so it is not this demo's; delete or rename it \
         (`tidewater topic delete {topic}`), or choose another --data-dir"
    )]
    NotOurs {
        /// Its name.
        topic: &'static str,
        /// The setting that differs.
        setting: String,
        /// Its value.
        value: String,
    },
    /// An answer that lacks what it should say.
    #[error("{of} says nothing about {what}")]
    Silent {
        /// Whose answer.
        of: &'static str,
        /// What is missing.
        what: String,
    },
    /// Somebody else wrote in between: what was written cannot be told apart.
    #[error(
        "partition {partition}: offset {expected} was next but the batch lies at {found}; is somebody else writing?"
    )]
    Elsewhere {
        /// Which.
        partition: i32,
        /// Where it should be.
        expected: u64,
        /// Where it is.
        found: u64,
    },
    /// Nothing moved for too long.
    #[error("{step} stands still for {} s: {why}", after.as_secs())]
    Stalled {
        /// Which step.
        step: &'static str,
        /// For how long.
        after: Duration,
        /// What the broker says.
        why: String,
    },
    /// The table cannot be read through from the bucket.
    #[error("the table cannot be read from the bucket: {0}")]
    Table(String),
    /// Log, bucket and table do not hold the same.
    #[error("log, bucket and table do not hold the same: {0}")]
    Differs(String),
    /// Ended by a signal before its end.
    #[error("interrupted; what was acknowledged is kept, the next run goes on from it")]
    Interrupted,
    /// Ended by a signal while serving on.
    #[error("stopped")]
    Stopped,
}
