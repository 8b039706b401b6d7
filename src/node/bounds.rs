//! The worst case of a node's memory: the caps of `src/limits.rs`, `src/kafka/limits.rs` and the crates below that
//! bound bytes, added up; and the page that lists them. `tidewater check` prints the sum for its settings.
//!
//! A sum of bounds, not a forecast: the bounds are not all reached at the same time. Not in it is memory that grows
//! with what is stored (topics, partitions, manifests; figures in `benches/README.md`) or with groups and their members
//! (each with the metadata it joined with), and what the allocator adds.

use std::fmt::Write;

use serde::Serialize;
use tidewater_storage::engine::EngineConfig;
use tidewater_tiering::archive::ArchiveConfig;
use tidewater_tiering::fetch::FetchConfig;
use tidewater_tiering::store::StoreOptions;

use crate::group::{OFFSETS_PARTITIONS, QUEUE_BYTES_MAX};
use crate::kafka::limits as kafka;
use crate::limits;
use crate::rpc::limits as rpc;

/// What a bound is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    Node,
    Shard,
    Connection,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Bound {
    pub what: &'static str,
    pub per: Per,
    pub bytes: u64,
    /// The constants that give the figure.
    pub from: &'static str,
}

/// About one message in an inbox: an enum of owned parts.
const MESSAGE_BYTES: u64 = 256;
/// Fields of `shard_main::Meshes`.
const MESHES: u64 = 8;
/// About the index of a closed segment of 1 GiB.
const INDEX_BYTES: u64 = 40 << 10;
/// A connection's own state and buffers when it is idle, measured (tests/hostile/crowd.rs).
const CONNECTION_BYTES: u64 = 14 << 10;
/// About one partition that a fetch session remembers.
const SESSION_PARTITION_BYTES: u64 = 168;

/// Every bound of memory, tables last.
#[must_use]
pub fn memory() -> Vec<Bound> {
    let (engine, archive) = (EngineConfig::default(), ArchiveConfig::default());
    let fetch = FetchConfig::new(std::path::PathBuf::new(), 0);
    let entry = u64::from(limits::BATCH_BYTES_MAX) + limits::ENTRY_BYTES_TARGET as u64;
    let bound = |what, per, bytes: u64, from| Bound { what, per, bytes, from };
    let mut rows = vec![
        bound(
            "requests and responses, queued batches included",
            Per::Shard,
            kafka::REQUEST_BYTES_SHARD_MAX as u64,
            "REQUEST_BYTES_SHARD_MAX",
        ),
        bound(
            "requests admitted beyond it: half received, decoded",
            Per::Shard,
            (kafka::FRAME_BYTES_MAX + kafka::DECODING_BYTES_MAX) as u64,
            "FRAME_BYTES_MAX, DECODING_BYTES_MAX",
        ),
        bound(
            "a response being assembled, besides its frame",
            Per::Shard,
            kafka::ANSWER_BYTES_MAX as u64,
            "ANSWER_BYTES_MAX",
        ),
        bound("recent batches", Per::Shard, 2 * engine.recent_bytes, "EngineConfig::recent_bytes, twice"),
        // Four times as much while a journal is opened, when nothing else on this list is there yet.
        bound("journal: recent entries", Per::Shard, engine.journal.memory_bytes as u64, "JournalConfig::memory_bytes"),
        bound(
            "journal: a commit in flight, one being filled",
            Per::Shard,
            2 * entry,
            "BATCH_BYTES_MAX + ENTRY_BYTES_TARGET, twice",
        ),
        bound(
            "segment indexes",
            Per::Shard,
            engine.open_indexes as u64 * INDEX_BYTES,
            "EngineConfig::open_indexes, 40 KiB each",
        ),
        bound(
            "cold reads and read-ahead",
            Per::Shard,
            fetch.memory_bytes * 31 / 8 + fetch.index_bytes,
            "FetchConfig::memory_bytes three times (in flight, kept for readers, in answers), a half read ahead, an \
             eighth not yet in the cache, a quarter free; index_bytes",
        ),
        bound(
            "cold reads and read-ahead of sources",
            Per::Shard,
            limits::SOURCES_MAX as u64 * (limits::SOURCE_READ_BYTES_MAX * 31 / 8 + limits::SOURCE_INDEX_BYTES_MAX),
            "SOURCES_MAX times: SOURCE_READ_BYTES_MAX as in the row above, SOURCE_INDEX_BYTES_MAX",
        ),
        bound(
            "copies of topics",
            Per::Shard,
            limits::COPIES_MAX as u64
                * (limits::COPY_READ_BYTES_MAX * 31 / 8 + limits::COPY_INDEX_BYTES_MAX + limits::COPY_STORE_BYTES_MAX),
            "COPIES_MAX times: COPY_READ_BYTES_MAX as in the rows above, COPY_INDEX_BYTES_MAX, COPY_STORE_BYTES_MAX",
        ),
        bound(
            "archiver: a bundle and an object in flight",
            Per::Shard,
            archive.bundle_bytes_max + archive.object_bytes_max,
            "ArchiveConfig::bundle_bytes_max, object_bytes_max",
        ),
        bound(
            "fetch sessions",
            Per::Shard,
            kafka::FETCH_SESSION_PARTITIONS_MAX as u64 * SESSION_PARTITION_BYTES,
            "FETCH_SESSION_PARTITIONS_MAX, 168 bytes each",
        ),
        // One frame beyond the bound is received alone.
        bound(
            "frames of other brokers, received or in work",
            Per::Shard,
            rpc::RECEIVED_BYTES_MAX as u64,
            "rpc RECEIVED_BYTES_MAX",
        ),
        bound("a batch that is opened for checks", Per::Shard, kafka::UNPACKED_MAX as u64, "UNPACKED_MAX"),
        bound(
            "batches recompressed, and one unpacked for it",
            Per::Shard,
            (kafka::RECOMPRESSED_SHARD_MAX + kafka::RECOMPRESSED_REQUEST_MAX + kafka::UNPACKED_MAX) as u64,
            "RECOMPRESSED_SHARD_MAX, RECOMPRESSED_REQUEST_MAX, UNPACKED_MAX; topics with compression.type alone",
        ),
        bound(
            "messages between shards",
            Per::Shard,
            MESHES * limits::MESH_INBOX_MAX as u64 * MESSAGE_BYTES,
            "MESH_INBOX_MAX, eight meshes",
        ),
        bound(
            "queued offset commits",
            Per::Node,
            u64::from(OFFSETS_PARTITIONS.unsigned_abs()) * QUEUE_BYTES_MAX as u64,
            "QUEUE_BYTES_MAX for each partition of __consumer_offsets",
        ),
        bound(
            "a connection: its state, small requests, a fetch past a spent budget",
            Per::Connection,
            CONNECTION_BYTES + (kafka::FREE_BYTES + kafka::FETCH_BYTES_FLOOR) as u64,
            "FREE_BYTES, FETCH_BYTES_FLOOR",
        ),
        bound(
            "a connection: small responses that its peer does not read",
            Per::Connection,
            kafka::OUTBOX_BYTES_MAX as u64,
            "OUTBOX_BYTES_MAX; responses above FREE_BYTES are in the first row",
        ),
        bound(
            "bodies of requests to the bucket, and of its answers",
            Per::Node,
            StoreOptions::default().bytes_max,
            "StoreOptions::bytes_max",
        ),
        bound(
            "bodies of requests to the buckets of sources",
            Per::Node,
            limits::SOURCES_MAX as u64 * limits::SOURCE_STORE_BYTES_MAX,
            "SOURCES_MAX, SOURCE_STORE_BYTES_MAX",
        ),
    ];
    rows.push(schemas());
    rows.extend(tables());
    rows
}

fn schemas() -> Bound {
    Bound {
        what: "requests to the Schema Registry",
        per: Per::Node,
        bytes: (limits::SCHEMA_REQUESTS_AT_ONCE * 4 * limits::SCHEMA_BODY_BYTES_MAX) as u64,
        from: "SCHEMA_REQUESTS_AT_ONCE, four times SCHEMA_BODY_BYTES_MAX each: as sent, as parsed and as printed",
    }
}

#[cfg(feature = "lakehouse")]
fn tables() -> Vec<Bound> {
    // The rows that a turn of a table's sink holds (`SinkConfig::turn_bytes`).
    const TURN_BYTES: u64 = 128 << 20;
    let turn = 2 * TURN_BYTES + tidewater_iceberg::translate::UNPACKED_BYTES_MAX as u64;
    let turns = Bound {
        what: "tables being written",
        per: Per::Node,
        bytes: limits::TABLE_TURNS_AT_ONCE as u64 * turn,
        from: "TABLE_TURNS_AT_ONCE, twice 128 MiB and an open batch of 256 MiB each",
    };
    let requests = Bound {
        what: "requests to the Iceberg catalog",
        per: Per::Node,
        bytes: (limits::CATALOG_REQUESTS_AT_ONCE * 4 * limits::CATALOG_BODY_BYTES_MAX) as u64,
        from: "CATALOG_REQUESTS_AT_ONCE, four times CATALOG_BODY_BYTES_MAX each: as sent and as parsed",
    };
    let compactions = Bound {
        what: "tables being compacted",
        per: Per::Node,
        bytes: limits::COMPACTIONS_AT_ONCE as u64 * 4 * tidewater_iceberg::compact::FILE_BYTES_MAX,
        from: "COMPACTIONS_AT_ONCE, four times FILE_BYTES_MAX each: the files that are read and the one that is written",
    };
    vec![turns, compactions, requests]
}

#[cfg(not(feature = "lakehouse"))]
fn tables() -> Vec<Bound> {
    Vec::new()
}

/// The sum of the bounds, in bytes.
#[must_use]
pub fn worst_case(shards: u16, connections: u64) -> u64 {
    let times = |per| match per {
        Per::Node => 1,
        Per::Shard => u64::from(shards),
        Per::Connection => connections,
    };
    memory().iter().map(|bound| bound.bytes * times(bound.per)).sum()
}

/// The limits as a part of the reference, generated from the constants and their comments.
#[must_use]
pub fn markdown() -> String {
    let mib = |bytes: u64| match bytes {
        small if small < 1 << 20 => format!("{} KiB", small >> 10),
        _ => format!("{} MiB", bytes >> 20),
    };
    let mut out = String::from(
        "\n## Limits\n\nFixed in this version. A request that meets one waits (back-pressure) unless the row says otherwise.\n\n\
         ### Memory at worst\n\n| what | most | for each | from |\n|---|---|---|---|\n",
    );
    for bound in memory() {
        let per = match bound.per {
            Per::Node => "node",
            Per::Shard => "shard",
            Per::Connection => "connection",
        };
        let _ = writeln!(out, "| {} | {} | {per} | {} |", bound.what, mib(bound.bytes), bound.from);
    }
    for (shards, connections) in [(1, 100), (2, 1000), (8, 10_000)] {
        let sum = worst_case(shards, connections);
        let _ = writeln!(out, "\nSum for {shards} shards and {connections} connections: {}.", mib(sum));
    }
    out.push_str(
        "\nA sum of bounds, not a forecast. Not in it: a fetch past a spent budget returns its first batch whole, up to 32 MiB, for \
         one connection at a time. A read from disk holds the run that its batches are part of, up to 1 MiB for each of the \
         `COLD_READS_MAX` partitions that one fetch reads at the same time. Records that make up a quarter of their request or \
         more keep the whole request in memory. A start, before anything else on this list exists, holds 64 entries of its \
         journal: 64 MiB, up to 2,112 MiB where each is a batch of `BATCH_BYTES_MAX` (a shard starts its lanes one after the \
         other).\n",
    );
    for (title, source) in [
        ("Of the broker (`src/limits.rs`)", include_str!("../limits.rs")),
        ("Of the protocol (`src/kafka/limits.rs`)", include_str!("../kafka/limits.rs")),
    ] {
        let _ = write!(out, "\n### {title}\n\n| limit | value | why |\n|---|---|---|\n");
        for (name, value, why) in constants(source) {
            let _ = writeln!(out, "| `{name}` | `{value}` | {why} |");
        }
    }
    out
}

/// Name, value and comment of every public constant of a source file.
fn constants(source: &str) -> Vec<(String, String, String)> {
    let (mut found, mut why) = (Vec::new(), Vec::new());
    for line in source.lines() {
        if let Some(comment) = line.strip_prefix("///") {
            why.push(comment.trim());
        } else if let Some((name, value)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(" = ")) {
            let name = name.split(':').next().unwrap_or_default().to_owned();
            found.push((name, value.trim_end_matches(';').to_owned(), why.join(" ").replace('|', "\\|")));
            why.clear();
        } else {
            why.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_found_with_their_reasons() {
        let source = "/// One\n/// line.\npub const A: usize = 1 << 20;\n\n/// Not this.\nconst B: u8 = 1;\npub const C: u8 = 2;";
        let found = constants(source);
        assert_eq!(found[0], ("A".to_owned(), "1 << 20".to_owned(), "One line.".to_owned()));
        assert_eq!(found.len(), 2);
    }

    // Requests that 32 shards have accepted into memory fit in the queue of one lane.
    const _: () = assert!(kafka::REQUEST_BYTES_SHARD_MAX * 32 <= limits::LANE_QUEUE_BYTES_MAX);

    /// A change of a cap shows its cost here.
    #[test]
    fn the_worst_case_is_known() {
        let (one, two) = (worst_case(1, 0), worst_case(2, 0));
        assert_eq!((one >> 20, (two - one) >> 20), (5212, 2396), "MiB of a node of one shard, and of each shard more");
        assert_eq!((worst_case(1, 1000) - one) >> 20, 1091, "MiB of 1,000 connections");
    }
}
