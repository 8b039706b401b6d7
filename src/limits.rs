//! The hard caps of the broker, each with its reason. Those of the Kafka protocol are in `kafka/limits.rs`, those of
//! storage and bucket in the configurations of their crates; `node/bounds.rs` adds up the caps on memory.

use std::time::Duration;

/// An entry of a lane takes batches until it has this many bytes. Larger entries cost latency and win no throughput
/// (256 × 64 KiB in one entry was slower than 16).
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;

/// The largest batch that is proposed to a lane, from a client or from the broker itself. With `ENTRY_BYTES_TARGET` it
/// stays well below the size of a journal file; an entry that the journal refuses would end its lane.
pub const BATCH_BYTES_MAX: u32 = 32 << 20;

const _: () = assert!(BATCH_BYTES_MAX as usize + 2 * ENTRY_BYTES_TARGET < 64 << 20, "an entry fits in a journal file");

/// Commands in one entry of a lane: a topic of 10,000 partitions takes some tens of entries and as many commits, and
/// none of them blocks its lane for long.
pub const LANE_COMMANDS_MAX: usize = 512;

/// Bytes of the commands in one entry, unless one alone is larger: they are one line of JSON, read and applied at once.
pub const LANE_COMMANDS_BYTES_MAX: usize = 1 << 20;

/// Trims queued at one lane, some 100 bytes each; one more is refused (retriable). A request sends `ASKED_AT_ONCE` of
/// them at a time, so the queue holds those of far more requests than a lane sees.
pub const LANE_TRIMS_MAX: usize = 16_384;

/// The longest value of one topic setting; a larger one is refused (INVALID_CONFIG).
pub const SETTING_BYTES_MAX: usize = 4 << 10;

/// All settings of one topic together, names included; more are refused (INVALID_CONFIG). Each partition keeps them, in
/// its lane's log and in memory.
pub const TOPIC_SETTINGS_BYTES_MAX: usize = 16 << 10;

/// Requests that the controller handles together, with one image for all of them. Fewer than a lane has in flight.
pub const CONTROLLER_BATCH_MAX: usize = 128;

/// Entries of one lane that are proposed and not yet applied: enough to fill one commit while another is written.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Bytes that must be queued before an entry is proposed while another is in flight. Single records are gathered; whole
/// batches go at once, so that the batches of one client do not wait for each other.
pub const ENTRY_BYTES_AHEAD: usize = 16 << 10;

/// Bytes of batches queued at one lane's proposer; beyond it, producers get a retriable error. The memory is charged to
/// the requests that brought the batches, and the requests of 32 shards fit in, so this bound is not reached.
pub const LANE_QUEUE_BYTES_MAX: usize = 8 << 30;

/// Messages in one inbox of a shard; each mesh has one.
pub const MESH_INBOX_MAX: usize = 4096;

/// The default of `--cut-interval-ms`: time between two cuts of the cluster.
pub const CUT_INTERVAL_MS: u64 = 60_000;

/// The default of `--producer-id-expiration-ms`: an idempotent producer that was silent for this long, in the log's
/// time, is forgotten.
pub const PRODUCER_ID_EXPIRATION_MS: u64 = 86_400_000;

/// Idempotent producers that one partition remembers, up to 300 bytes each; beyond, those that were silent longest are
/// forgotten.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 10_000;

/// The default of `--group-max-size`, members of a consumer group. Kafka has no bound by default; a rebalance of more
/// members than this does not finish in useful time.
pub const GROUP_MEMBERS_MAX: usize = 10_000;

/// Protocols in one join; a join with more is refused (INCONSISTENT_GROUP_PROTOCOL). A consumer names its assignors, a
/// handful; each name is compared with those of the other members.
pub const GROUP_PROTOCOLS_MAX: usize = 64;

/// Bytes of one member's protocols with its ids and names; a join with more is refused (INVALID_REQUEST). The group's
/// record in `__consumer_offsets` holds all of its members in 1 MiB, so a larger member could never be written; it
/// would only be kept in memory until then.
pub const GROUP_MEMBER_BYTES_MAX: usize = 1 << 20;

/// Bytes of a group's name in a join or a commit. Kafka's only bound is the 32 KiB of its strings; the name is part of
/// the key of every record of the group.
pub const GROUP_ID_BYTES_MAX: usize = 1024;

/// Producer ids that one command of the controller reserves for a shard.
pub const PRODUCER_ID_BLOCK: u32 = 1000;

/// Data lanes of a cluster. Each is a Raft group with a heartbeat of its own on every broker that carries it.
pub const LANES_MAX: u32 = 65_536;

/// Lanes of several replicas that each shard of a broker leads. Enough that a broker's lanes move to all others when it
/// dies, and few enough that their heartbeats cost little.
pub const LANES_PER_SHARD: usize = 4;

/// Replicas of a topic; a majority of five already survives any two brokers.
pub const REPLICATION_FACTOR_MAX: u16 = 5;

/// How long a request to the controller waits for a leader of the controller's lane and for its answer, if the client
/// gives no limit of its own.
pub const CONTROLLER_PATIENCE: Duration = Duration::from_secs(15);

/// How long an answered creation waits for the leaders of the topic's lanes to have made its partitions, and a changed
/// topic for this broker's image. Later, clients try again until they serve.
pub const FOLLOWED_PATIENCE: Duration = Duration::from_secs(5);

/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 100_000;

/// How long a first start waits for the bucket before it serves without it.
pub const BUCKET_START_PATIENCE: Duration = Duration::from_secs(5);

/// The same for a bucket that this data directory has used before: a restart serves within two seconds.
pub const BUCKET_RESTART_PATIENCE: Duration = Duration::from_millis(500);

/// Between rounds of retention.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(5);

/// Topics with their own series in metrics; one series sums up the rest. A scrape of 1,000 topics is about a megabyte.
pub const METRIC_TOPICS_MAX: usize = 1000;

/// Group × topic × partition with their own series in metrics; a group beyond it has one series a topic.
pub const METRIC_GROUP_PARTITIONS_MAX: usize = 5000;

/// Scrapes and status pages gathered at the same time; the next wait. Each holds its answer in memory.
pub const SURVEYS_AT_ONCE: usize = 2;

/// How long a scrape waits for a shard or a group coordinator; a part that is late is left out.
pub const SURVEY_PATIENCE: Duration = Duration::from_secs(5);

/// Turns of tables at the same time. A turn holds up to 128 MiB of rows, in columns of twice that size at worst, and an
/// open batch of up to 256 MiB; the memory of the batch is free again when the file is written.
pub const TABLE_TURNS_AT_ONCE: usize = 2;

/// Tables that are compacted at the same time, each with four files of 128 MiB in memory at worst. The others wait: no
/// reader misses rows because of it.
pub const COMPACTIONS_AT_ONCE: usize = 1;

/// Requests to the Iceberg catalog at the same time; the next wait.
pub const CATALOG_REQUESTS_AT_ONCE: usize = 8;

/// Body of a request to the Iceberg catalog; a larger one is refused with 413. A commit carries whole schemas and
/// summaries; Spark's largest seen were below 1 MiB.
pub const CATALOG_BODY_BYTES_MAX: usize = 8 << 20;

/// Body of a request to the Iceberg catalog to sign a request to the bucket. It carries that one's headers, and a list
/// of objects to delete: a thousand keys of S3's longest would be refused with 413, those of table files take a
/// quarter.
pub const CATALOG_SIGN_BYTES_MAX: usize = 1 << 20;

/// Requests to the Schema Registry at the same time; the next wait.
pub const SCHEMA_REQUESTS_AT_ONCE: usize = 8;

/// Requests to the Schema Registry that wait for its state.
pub const SCHEMA_REQUESTS_QUEUED_MAX: usize = 64;

/// Body of a request to the Schema Registry; a larger one is refused with 413. A schema of 1 MiB with every character
/// escaped fits.
pub const SCHEMA_BODY_BYTES_MAX: usize = 8 << 20;

/// Other clusters that a cluster follows. Each takes memory for cold reads of its own on every shard.
pub const SOURCES_MAX: usize = 8;

/// Bodies of requests to a source's bucket, and of its answers, at the same time.
pub const SOURCE_STORE_BYTES_MAX: u64 = 32 << 20;

/// Chunks of a source's bucket on their way to the readers of one shard (`FetchConfig::memory_bytes`).
pub const SOURCE_READ_BYTES_MAX: u64 = 16 << 20;

/// Indexes of a source's objects that one shard keeps (`FetchConfig::index_bytes`).
pub const SOURCE_INDEX_BYTES_MAX: u64 = 8 << 20;

/// Topics that a shard copies from buckets at the same time; more wait for their turn. Each takes memory of its own on
/// every shard that copies partitions of it.
pub const COPIES_MAX: usize = 4;

/// Chunks of a copy's origin on their way, on one shard (`FetchConfig::memory_bytes`).
pub const COPY_READ_BYTES_MAX: u64 = 8 << 20;

/// Indexes of its objects that one shard keeps (`FetchConfig::index_bytes`).
pub const COPY_INDEX_BYTES_MAX: u64 = 4 << 20;

/// Bodies of requests to another bucket that a copy comes from, on one shard.
pub const COPY_STORE_BYTES_MAX: u64 = 16 << 20;

/// The default of `--max-connections`; each connection takes a file handle.
pub const CONNECTIONS_MAX: usize = 20_000;

/// The default of `--connections-max-idle-ms`: a connection that was silent for this long, with no request in work, is
/// closed.
pub const CONNECTIONS_MAX_IDLE_MS: u64 = 600_000;

/// TCP keepalive on every port: time before the first probe of a silent peer, time between probes, probes without an
/// answer. The kernel finds a peer whose network has gone within two minutes, without a timer of ours.
pub const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// Sent bytes without acknowledgement for this long end the connection (TCP_USER_TIMEOUT). A little longer than the
/// broker's own limit for a stalled peer, which logs the reason.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(90);

/// How long a fetch that already has records waits for partitions whose bytes come from the bucket. Later bytes go into
/// the next fetch.
pub const COLD_PATIENCE: Duration = Duration::from_millis(50);

/// Partitions of one fetch that are read from disk or bucket at the same time. `FetchConfig::memory_bytes` bounds the
/// bytes from the bucket that a shard has in memory.
pub const COLD_READS_MAX: usize = 16;
