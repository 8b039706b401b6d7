//! Why the demo failed, with what to do.

use std::io;
use std::path::PathBuf;
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
    /// A process of a demo with several.
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
    /// A broker that is a process of its own.
    #[error("{broker} ended with {status}: {last} (its log: {})", log.display())]
    Broker {
        broker: String,
        status: String,
        /// The last line of the log.
        last: String,
        log: PathBuf,
    },
    #[error("cannot write {}: {source}; choose another place with --data-dir", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("no free port of 127.0.0.1 was found between {first} and {last}; end programs that listen there")]
    Ports { first: u16, last: u16 },
    /// A command that the demo runs as a user would.
    #[error("tidewater {command} failed: {why}")]
    Command { command: String, why: String },
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
    /// By the demo of a disaster.
    #[error("not everything came back: {0}")]
    NotRestored(String),
    /// By a signal, before the end of the demo.
    #[error("interrupted; acknowledged records are kept, the next run continues after them")]
    Interrupted,
    /// The same of a demo whose brokers are processes of their own.
    #[error("interrupted; the demo's brokers are ended and their data is removed")]
    Ended,
    /// By a signal, while serving on after the demo.
    #[error("stopped")]
    Stopped,
}
