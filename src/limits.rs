//! Every hard cap of the broker, on one page, with its reason.

use std::time::Duration;

/// A lane entry takes batches until it holds this many bytes. Larger flushes cost latency and win no throughput
/// (256 × 64 KiB in one flush was slower than 16).
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;

/// The largest batch that is ever proposed, whoever wrote it. With an entry's target on top it stays well below what one
/// journal file takes; an entry the journal refuses would end its lane.
pub const BATCH_BYTES_MAX: u32 = 32 << 20;

const _: () = assert!(BATCH_BYTES_MAX as usize + 2 * ENTRY_BYTES_TARGET < 64 << 20, "an entry fits in a journal file");

/// Commands of a lane that travel in one entry: a topic of 10,000 partitions is some tens of entries and as many syncs,
/// and none of them holds its lane up for long.
pub const LANE_COMMANDS_MAX: usize = 512;

/// Bytes of the commands that travel in one entry, unless one alone is larger: they are one line of JSON, read and applied
/// in one go.
pub const LANE_COMMANDS_BYTES_MAX: usize = 1 << 20;

/// Trims that may wait at one lane for those before them, some 100 bytes each; one more is refused (retriable). A request
/// asks for `ASKED_AT_ONCE` of them at a time, so this takes more requests at once than a lane has to do with.
pub const LANE_TRIMS_MAX: usize = 16_384;

/// The longest value of one topic setting; a larger one is refused (INVALID_CONFIG).
pub const SETTING_BYTES_MAX: usize = 4 << 10;

/// All settings of one topic together, names included; more are refused (INVALID_CONFIG). Every partition carries them, in
/// its lane's log and in memory.
pub const TOPIC_SETTINGS_BYTES_MAX: usize = 16 << 10;

/// Requests that the controller takes together: one image is made and followed for all of them. Below what a lane takes
/// in flight.
pub const CONTROLLER_BATCH_MAX: usize = 128;

/// Entries of one lane that may be proposed and not yet applied: enough to fill one commit while another syncs.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Bytes that must wait before an entry is proposed behind one in flight. Single records are gathered; whole batches go at
/// once, so that a client with a few batches in flight never waits for its own writes in turn.
pub const ENTRY_BYTES_AHEAD: usize = 16 << 10;

/// Bytes of batches that may wait at one lane's proposer; beyond it, producers are told to retry. They wait in memory that
/// is charged to the requests they came with, so the requests of 32 shards fit in and this is never met.
pub const LANE_QUEUE_BYTES_MAX: usize = 8 << 30;

/// Messages that may wait in one shard's inbox, per layer.
pub const MESH_INBOX_MAX: usize = 4096;

/// An idempotent producer silent for this long is forgotten (`producer.id.expiration.ms`), in the log's time, unless
/// the process is told another time.
pub const PRODUCER_ID_EXPIRATION_MS: u64 = 86_400_000;

/// Idempotent producers one partition remembers, each with up to 300 bytes; beyond, those silent longest are forgotten.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 10_000;

/// Members of a consumer group unless `--group-max-size` says otherwise. Kafka has no bound of its own; a rebalance of more
/// than this cannot finish in useful time.
pub const GROUP_MEMBERS_MAX: usize = 10_000;

/// Protocols one join may name; one with more is refused (INCONSISTENT_GROUP_PROTOCOL). A consumer names its assignors, of
/// which there are a handful; each name is compared with those of the other members.
pub const GROUP_PROTOCOLS_MAX: usize = 64;

/// Bytes of a group's name in a join or a commit. Kafka knows no bound but the 32 KiB of its strings; a name stands in the
/// key of every record of the group, and a cut one would be another group's.
pub const GROUP_ID_BYTES_MAX: usize = 1024;

/// Producer ids given out per command of the controller.
pub const PRODUCER_ID_BLOCK: u32 = 1000;

/// Partitions one topic may have.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 100_000;

/// How long a start waits for the bucket to answer before it goes on without it.
pub const BUCKET_START_PATIENCE: Duration = Duration::from_secs(5);

/// As much for one that this data directory has been served with before: a restart serves within two seconds.
pub const BUCKET_RESTART_PATIENCE: Duration = Duration::from_millis(500);

/// How often retention is looked at.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(5);

/// Topics that metrics tell by name; the rest are summed up in one series. A scrape of 1,000 topics is about a megabyte.
pub const METRIC_TOPICS_MAX: usize = 1000;

/// Group × topic × partition that metrics tell one by one; a group beyond it is told by topic.
pub const METRIC_GROUP_PARTITIONS_MAX: usize = 5000;

/// Scrapes and status pages that may be gathered at a time; the next wait. Each holds its answer in memory.
pub const SURVEYS_AT_ONCE: usize = 2;

/// How long a scrape waits for a shard or a group coordinator before it leaves that part out.
pub const SURVEY_PATIENCE: Duration = Duration::from_secs(5);

/// Tables that are brought up to date at a time. A turn holds up to 128 MiB of rows, in columns that have grown to twice
/// that at worst, and an open batch of up to 256 MiB; once all are read, what is written takes the batch's place.
pub const TABLE_TURNS_AT_ONCE: usize = 2;

/// Connections of the node unless `--max-connections` says otherwise; each takes a file handle.
pub const CONNECTIONS_MAX: usize = 20_000;

/// A connection silent for this long, with no request in work, is closed (`connections.max.idle.ms`) unless the process is
/// told another time.
pub const CONNECTIONS_MAX_IDLE_MS: u64 = 600_000;

/// Before a silent peer is asked whether it is there, between questions, and how many go unanswered: a peer whose cable
/// was pulled is found within two minutes by the kernel, without a timer of ours, on every port.
pub const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// Sent bytes that a peer leaves unacknowledged for this long end the connection (TCP_USER_TIMEOUT); a little longer than
/// the broker's own patience with a stalled peer, which names the reason in its log.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(90);

/// How long a fetch that has something to bring waits for partitions whose bytes come from the bucket. What comes later
/// is brought by the next fetch.
pub const COLD_PATIENCE: Duration = Duration::from_millis(50);

/// Partitions of one fetch that are read from disk or bucket side by side. What a shard has in memory from the bucket is
/// bounded in bytes (`FetchConfig::memory_bytes`).
pub const COLD_READS_MAX: usize = 16;
