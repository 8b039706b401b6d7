//! What operators ask of the tasks of a topic's table, and what those answer. Types alone: they are there without
//! tables in the binary, too.

use serde::Serialize;
use tokio::sync::oneshot;

/// Where an answer goes: what was done, or why it was not.
pub(super) type OrderReply<T> = oneshot::Sender<Result<T, String>>;

/// What is asked of the task that compacts a topic's table.
#[derive(Debug)]
pub enum TableOrder {
    /// Compact it now. [`super::Compaction::ordered`] counts those that are done.
    Compact,
    /// Expire snapshots now; answers how many.
    Expire(OrderReply<u64>),
}

/// What is asked of the task that fills a topic's table. It is done between two turns.
#[derive(Debug)]
pub enum SinkOrder {
    /// Give the table up and set `iceberg.mode=disabled`.
    Detach(OrderReply<DetachedTables>),
}

/// Tables that were given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DetachedTables {
    /// `namespace.table`.
    pub table: String,
    /// That of dead letters, if the topic has one.
    pub dead_letters: Option<String>,
}

/// Why an order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderRefused {
    /// This broker does not commit to the table.
    NotHere,
    /// As many as are kept wait already.
    Full,
}
