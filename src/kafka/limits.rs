//! Caps of the protocol layer, with their reasons. The largest memory of a shard for requests and responses is
//! `REQUEST_BYTES_SHARD_MAX`, plus what may go on past it (`FRAME_BYTES_MAX` for frames to become whole, and
//! `DECODING_BYTES_MAX`), plus what is free of charge: `FREE_BYTES` a connection.

use std::time::Duration;

use super::wire::guard;

/// Largest request accepted (`socket.request.max.bytes` of Kafka).
pub const FRAME_BYTES_MAX: usize = 100 << 20;

/// Requests and responses of one shard together.
pub const REQUEST_BYTES_SHARD_MAX: usize = 256 << 20;

/// What decoding requests may take past a spent budget: as much as the largest takes.
pub const DECODING_BYTES_MAX: usize = 48 << 20;

/// What a connection may hold without asking the budget: every small request, so that a shard whose budget is spent by
/// large ones still answers heartbeats.
pub const FREE_BYTES: usize = 16 << 10;

/// Requests of one connection that may be in work: five of a Java producer's, many of librdkafka's.
pub const IN_FLIGHT_REQUESTS_MAX: usize = 64;

/// Bytes of one connection's requests that may be in work, beyond which it is not read from: 16 of 1 MiB.
pub const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;

/// Bytes of responses that may wait for one connection's socket before no more requests are taken from it.
pub const OUTBOX_BYTES_MAX: usize = 1 << 20;

/// Records in one fetch response (`fetch.max.bytes` of Kafka's broker).
pub const FETCH_BYTES_MAX: usize = 55 << 20;

/// What a fetch may read even when the shard's budget is spent.
pub const FETCH_BYTES_FLOOR: usize = 64 << 10;

/// The longest that a fetch waits for data, even if the client asks for longer.
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a fetch that found something, but too little, lets pass before it reads all of it again (`fetch.min.bytes`): it
/// would do so at every append.
pub const FETCH_LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Fetch sessions of one shard (`max.incremental.fetch.session.cache.slots` of Kafka, there per broker).
pub const FETCH_SESSIONS_MAX: usize = 1000;

/// Partitions and topics that the fetch sessions of one shard remember together: about 40 MiB. A fetch beyond it is
/// answered, but gets no session.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 250_000;

/// A session unused for this long, or a smaller one of this age, makes room for a new one
/// (`min.incremental.fetch.session.eviction.ms` of Kafka).
pub const FETCH_SESSION_EVICTION: Duration = Duration::from_secs(120);

/// Partitions of one shard that a fetch asks for at once; it stops between two askings when its answer is full.
pub const FETCH_LOOK_PARTITIONS: usize = 256;

/// A connection whose request does not become whole, or whose response is not taken, for this long is closed. What
/// waits for the shard's memory does not count; what was let past it must become whole within this time.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// How often silent connections are looked for, while there are connections; four times as often as connections may be
/// idle, if that is more.
pub const REAP_INTERVAL: Duration = Duration::from_secs(10);

/// How long a stop lets connections answer what they have begun; a waiting fetch or group join is cut short.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// Accepted connections that may wait for their shard.
pub const ACCEPTED_MAX: usize = 1024;

/// Records that the answer to a refused batch names.
pub const RECORD_ERRORS_MAX: usize = 1000;

/// Records that the answer to a produce request names; of refused batches beyond it none is named.
pub const RECORD_ERRORS_REQUEST_MAX: usize = 10_000;

/// Topics and partitions of one produce request: about 40 MiB while it is in work, charged to the shard's memory. A
/// request with more is malformed.
pub const PRODUCE_ELEMENTS_MAX: usize = 100_000;

/// Questions that one request asks of partitions, groups or the controller at a time, however many it names.
pub const ASKED_AT_ONCE: usize = 256;

/// Partitions whose producers one request asks for at a time: each may answer with 10,000.
pub const PRODUCERS_ASKED_AT_ONCE: usize = 16;

/// Producers that one answer describes, about 30 MiB; partitions beyond it are refused (INVALID_REQUEST).
pub const PRODUCERS_DESCRIBED_MAX: usize = 250_000;

/// An answer while it is put together, where a small request can ask for a large one; what does not fit is refused
/// (INVALID_REQUEST). About 5000 topics' settings with all there is to say of them.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What a batch may unpack to when it must be opened to be checked or recompressed.
pub const UNPACKED_MAX: usize = 64 << 20;

/// What the batches of one request may be recompressed to, together; more are refused (MESSAGE_TOO_LARGE).
pub const RECOMPRESSED_REQUEST_MAX: usize = 128 << 20;

/// Recompressed batches of one shard that wait to be committed, beyond which no more are made. The last request may
/// pass it.
pub const RECOMPRESSED_SHARD_MAX: usize = 64 << 20;

/// Topics that one request may create without being asked to (auto-creation by metadata).
pub const AUTO_CREATE_MAX: usize = 100;

/// Pieces of at most this many bytes are copied together before they are sent; a copy of 4 KiB costs less than a
/// piece of a `sendmsg` of its own.
pub const PIECE_COPIED_MAX: usize = 4 << 10;

const _: () = assert!(DECODING_BYTES_MAX >= guard::ELEMENTS_MAX * guard::ELEMENT_BYTES);
const _: () = assert!(IN_FLIGHT_BYTES_MAX < REQUEST_BYTES_SHARD_MAX);
const _: () = assert!(FRAME_BYTES_MAX < REQUEST_BYTES_SHARD_MAX);
