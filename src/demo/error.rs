//! Why the demo failed, with what to do.

use std::io;
use std::time::Duration;

use crate::client::ClientError;
use crate::console::CliError;
use crate::node::StartError;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Printing, or a request over HTTP, failed.
    #[error(transparent)]
    Cli(#[from] CliError),
    /// A process or a file of the cluster demo.
    #[error("cannot start or end a broker: {0}")]
    Process(#[from] io::Error),
    #[error("cannot start the demo's runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("a task of the demo panicked: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error(
        "there is a topic {topic} already and its {setting} is {value:?}, so it is not this demo's; delete or rename it \
         (`tidewater topic delete {topic}`), or choose another --data-dir"
    )]
    NotOurs { topic: &'static str, setting: String, value: String },
    /// The answer of a port lacks a field.
    #[error("the answer of {of} lacks {what}")]
    Silent { of: &'static str, what: String },
    /// A broker of the cluster demo.
    #[error("broker {broker} ended with {status}; its log is {log}")]
    Broker { broker: usize, status: String, log: std::path::PathBuf },
    /// Another producer wrote between two batches of the demo.
    #[error(
        "partition {partition}: the next batch should have offset {expected} and has {found}; stop the other producer of the topic"
    )]
    Elsewhere { partition: i32, expected: u64, found: u64 },
    #[error("{step} made no progress for {} s: {why}", after.as_secs())]
    Stalled {
        step: &'static str,
        after: Duration,
        /// The broker's reason, or the offsets reached.
        why: String,
    },
    #[error("the table cannot be read from the bucket: {0}")]
    Table(String),
    #[error("log, bucket and table differ: {0}")]
    Differs(String),
    /// By a signal, before the end of the demo.
    #[error("interrupted; acknowledged records are kept, the next run continues after them")]
    Interrupted,
    /// By a signal, while serving on after the demo.
    #[error("stopped")]
    Stopped,
}
