//! What operators ask of the tasks of a topic's table, and what those answer. Types alone: they are there without
//! tables in the binary, too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
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
    /// Commit what there is now, without the wait for `iceberg.target.lag.ms`.
    Hurry,
    /// Take the table back.
    Rewind(RewindOrder, OrderReply<RewoundTables>),
    /// Take on a table that another program made.
    Adopt(AdoptOrder, OrderReply<AdoptedTable>),
}

/// Where a topic goes on in a table that it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdoptStart {
    /// At the start of its log.
    Earliest,
    /// At `offsets`.
    Offsets,
    /// At the table's own offsets, if the topic wrote it before and gave it up; else at `offsets`.
    #[default]
    Resume,
}

/// Which table a topic gets. The body of `POST /v1/iceberg/{topic}/adopt`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptOrder {
    /// `namespace.table`, which must be the topic's: the one that the asker means.
    pub table: String,
    #[serde(default)]
    pub start: AdoptStart,
    /// The next offset of each partition; one that is not there begins at the start of its log.
    #[serde(default)]
    pub offsets: BTreeMap<i32, u64>,
    /// Change nothing.
    #[serde(default)]
    pub plan: bool,
}

/// A table that a topic got, or would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedTable {
    pub topic: String,
    /// `namespace.table`.
    pub table: String,
    /// Nothing was changed.
    pub plan: bool,
    /// The topic had it before the question.
    pub was_adopted: bool,
    /// Rows that it had, if its last snapshot says so.
    pub rows: Option<u64>,
    pub snapshots: usize,
    /// As `(day(ts))`.
    pub partition_spec: String,
    /// Columns that it gets.
    pub added_columns: Vec<String>,
    /// Columns that it had, to which values go by their names.
    pub columns: Vec<String>,
    /// Where the topic goes on; at the start of its log in a partition that is not there.
    pub offsets: BTreeMap<i32, u64>,
    /// That of dead letters, if the topic gets it back too.
    pub dead_letters: Option<String>,
}

/// To where a table goes back. The body of `POST /v1/iceberg/{topic}/rewind`: one of the first three members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewindOrder {
    /// How it was then, in milliseconds since 1970.
    #[serde(default)]
    pub at_ms: Option<i64>,
    /// The first offset of each partition that leaves.
    #[serde(default)]
    pub offsets: BTreeMap<i32, u64>,
    /// The ends of the log.
    #[serde(default)]
    pub to_log: bool,
    /// Change nothing.
    #[serde(default)]
    pub plan: bool,
    /// Also where the log no longer has the offsets.
    #[serde(default)]
    pub force: bool,
}

/// A table that was taken back, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewoundTables {
    pub topic: String,
    /// `namespace.table`.
    pub table: String,
    /// Nothing was changed.
    pub plan: bool,
    /// The snapshot whose offsets it has now, and when that was made, if a time was asked for.
    pub snapshot: Option<i64>,
    pub snapshot_at_ms: Option<i64>,
    /// Those that go back.
    pub partitions: Vec<RewoundPartition>,
    pub leaving: LeavingRows,
    /// That of dead letters, if the topic has one, and what leaves it.
    pub dead_letters: Option<String>,
    pub dead_letters_leaving: Option<LeavingRows>,
}

/// One partition that goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewoundPartition {
    pub partition: i32,
    /// The table's next offset before.
    pub from: u64,
    /// The one after: it is filled from here.
    pub to: u64,
    /// Offsets between the two that the log no longer has.
    pub lost: u64,
}

/// What leaves a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingRows {
    pub rows: u64,
    pub files: u64,
    /// Files among them whose other rows are written again.
    pub rewritten_files: u64,
    /// Of all these files.
    pub bytes: u64,
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
