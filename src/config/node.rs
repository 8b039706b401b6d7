//! Settings of this process: flag over `TIDEWATER_*` variable over TOML file over default.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::spelling;
use crate::limits::{CONNECTIONS_MAX, GROUP_MEMBERS_MAX};

/// The port of `--rpc-addr`, if it is not given.
pub const RPC_PORT: u16 = 33145;

/// Settings as given on the command line, in the environment or in the file; every field may be missing. Clap fills it
/// from flags and variables; the file is read into the same type, and fills the gaps.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawConfig {
    /// Directory of journal, segments, checkpoints and cache [default: ./tidewater-data]
    #[arg(long, env = "TIDEWATER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The cluster's name; several clusters may share a bucket [default: tidewater]
    #[arg(long, env = "TIDEWATER_CLUSTER_NAME", value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// The bucket: file:///dir, s3://bucket/prefix, gs://…, az://… [default: the directory bucket below --data-dir]
    #[arg(long, env = "TIDEWATER_BUCKET", value_name = "URL")]
    pub bucket: Option<String>,
    /// Address for Kafka clients [default: 127.0.0.1:9092]
    #[arg(long, env = "TIDEWATER_KAFKA_ADDR", value_name = "HOST:PORT")]
    pub kafka_addr: Option<String>,
    /// The address that Kafka clients get to connect to; required when --kafka-addr is a wildcard [default: the bound
    /// address]
    #[arg(long, env = "TIDEWATER_ADVERTISED_KAFKA_ADDR", value_name = "HOST:PORT")]
    pub advertised_kafka_addr: Option<String>,
    /// Address of admin API, health and metrics [default: 127.0.0.1:9644]
    #[arg(long, env = "TIDEWATER_ADMIN_ADDR", value_name = "HOST:PORT")]
    pub admin_addr: Option<String>,
    /// Address of the Iceberg REST catalog [default: 127.0.0.1:8181]
    #[arg(long, env = "TIDEWATER_CATALOG_ADDR", value_name = "HOST:PORT")]
    pub catalog_addr: Option<String>,
    /// Address for the other brokers of the cluster [default: 127.0.0.1:33145]
    #[arg(long, env = "TIDEWATER_RPC_ADDR", value_name = "HOST:PORT")]
    pub rpc_addr: Option<String>,
    /// The address under which other brokers reach this one; required when --rpc-addr is a wildcard and --seed is given
    /// [default: the bound address]
    #[arg(long, env = "TIDEWATER_ADVERTISED_RPC_ADDR", value_name = "HOST:PORT")]
    pub advertised_rpc_addr: Option<String>,
    /// File with the cluster's secret, at least 16 bytes: brokers without it are refused [default: none]
    #[arg(long, env = "TIDEWATER_CLUSTER_SECRET_FILE", value_name = "FILE")]
    pub cluster_secret_file: Option<PathBuf>,
    /// Certificate for connections between brokers, in PEM form; with --rpc-tls-key and --rpc-tls-ca [default: no TLS]
    #[arg(long, env = "TIDEWATER_RPC_TLS_CERT", value_name = "FILE")]
    pub rpc_tls_cert: Option<PathBuf>,
    /// Private key of --rpc-tls-cert, in PEM form
    #[arg(long, env = "TIDEWATER_RPC_TLS_KEY", value_name = "FILE")]
    pub rpc_tls_key: Option<PathBuf>,
    /// Authority that signs the certificates of all brokers, in PEM form
    #[arg(long, env = "TIDEWATER_RPC_TLS_CA", value_name = "FILE")]
    pub rpc_tls_ca: Option<PathBuf>,
    /// More host names under which clients call the admin and catalog ports, comma-separated; .example.com is every
    /// name below it, * every name. Web pages of these hosts, except by *, may change things [default: none]
    #[arg(long, env = "TIDEWATER_HTTP_ALLOWED_HOSTS", value_name = "NAMES", value_delimiter = ',')]
    pub http_allowed_hosts: Option<Vec<String>>,
    /// The brokers that form the cluster, by their --rpc-addr, comma-separated: the same list in the same order for each;
    /// a broker that is not among them joins the cluster they have formed [default: none, a cluster of one]
    #[arg(long, env = "TIDEWATER_SEED", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub seed: Option<Vec<String>>,
    /// Take the place of this node, whose data directory is lost; only for a start with an empty data directory
    #[arg(long, env = "TIDEWATER_REPLACE", value_name = "NODE")]
    pub replace: Option<i32>,
    /// The rack or zone of this broker; replicas are spread over racks [default: none]
    #[arg(long, env = "TIDEWATER_RACK", value_name = "NAME")]
    pub rack: Option<String>,
    /// Replicas of a partition when its topic is created without a number of them, or with -1 [default: 3, or the number
    /// of brokers if there are fewer]
    #[arg(long, env = "TIDEWATER_DEFAULT_REPLICATION_FACTOR", value_name = "N")]
    pub default_replication_factor: Option<u16>,
    /// Shards, each pinned to a core; another number may be given at any start [default: the cores less one in eight,
    /// at least one; later the number the data directory has]
    #[arg(long, env = "TIDEWATER_SHARDS", value_name = "N")]
    pub shards: Option<u16>,
    /// Disk for the cache of chunks from the bucket, in bytes or with a unit (10GiB) [default: a tenth of --disk-bytes]
    #[arg(long, env = "TIDEWATER_CACHE_BYTES", value_name = "BYTES")]
    pub cache_bytes: Option<ByteSize>,
    /// Disk for data directory, directory bucket and cache together [default: nine tenths of the free space and of what
    /// the data directory holds]
    #[arg(long, env = "TIDEWATER_DISK_BYTES", value_name = "BYTES")]
    pub disk_bytes: Option<ByteSize>,
    /// Partitions of a topic that is created without a number of them [default: 1]
    #[arg(long, env = "TIDEWATER_NUM_PARTITIONS", value_name = "N")]
    pub num_partitions: Option<u32>,
    /// Create a topic when a client first asks for it [default: true]
    #[arg(long, env = "TIDEWATER_AUTO_CREATE_TOPICS_ENABLE", value_name = "BOOL")]
    pub auto_create_topics_enable: Option<bool>,
    /// How long a new consumer group waits for more members, in milliseconds [default: 3000]
    #[arg(long, env = "TIDEWATER_GROUP_INITIAL_REBALANCE_DELAY_MS", value_name = "MS")]
    pub group_initial_rebalance_delay_ms: Option<u64>,
    /// Shortest session timeout that a group member may ask for, in milliseconds [default: 6000]
    #[arg(long, env = "TIDEWATER_GROUP_MIN_SESSION_TIMEOUT_MS", value_name = "MS")]
    pub group_min_session_timeout_ms: Option<u64>,
    /// Longest session timeout that a group member may ask for, in milliseconds [default: 1800000]
    #[arg(long, env = "TIDEWATER_GROUP_MAX_SESSION_TIMEOUT_MS", value_name = "MS")]
    pub group_max_session_timeout_ms: Option<u64>,
    /// Members of one consumer group; more are refused [default: 10000]
    #[arg(long, env = "TIDEWATER_GROUP_MAX_SIZE", value_name = "N")]
    pub group_max_size: Option<usize>,
    /// How long committed offsets outlive their group's last member, in minutes [default: 10080]
    #[arg(long, env = "TIDEWATER_OFFSETS_RETENTION_MINUTES", value_name = "MINUTES")]
    pub offsets_retention_minutes: Option<u64>,
    /// How long a partition remembers a silent idempotent producer, in milliseconds [default: 86400000]
    #[arg(long, env = "TIDEWATER_PRODUCER_ID_EXPIRATION_MS", value_name = "MS")]
    pub producer_id_expiration_ms: Option<u64>,
    /// Kafka connections of the node; more are closed at once [default: 20000]
    #[arg(long, env = "TIDEWATER_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// Kafka connections from one address; more are closed at once [default: as many as --max-connections]
    #[arg(long, env = "TIDEWATER_MAX_CONNECTIONS_PER_IP", value_name = "N")]
    pub max_connections_per_ip: Option<usize>,
    /// How long a Kafka connection may be silent, with no request in work, before it is closed, in milliseconds
    /// [default: 600000]
    #[arg(long, env = "TIDEWATER_CONNECTIONS_MAX_IDLE_MS", value_name = "MS")]
    pub connections_max_idle_ms: Option<u64>,
}

/// A number of bytes: plain, or with KiB, MiB, GiB, TiB, or one letter for the same; KB, MB, GB, TB are powers of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "ByteSizeText")]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum ByteSizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<ByteSizeText> for ByteSize {
    type Error = ConfigError;

    fn try_from(text: ByteSizeText) -> Result<Self, Self::Error> {
        match text {
            ByteSizeText::Number(n) => Ok(Self(n)),
            ByteSizeText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for ByteSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ConfigError::ByteSize(text.to_owned());
        let mut spelled = text.trim().replace('_', "");
        // The crate reads `10G` as ten powers of ten; here one letter has always been a power of two.
        if spelled.ends_with(|c: char| matches!(c.to_ascii_lowercase(), 'k' | 'm' | 'g' | 't')) {
            spelled.push_str("iB");
        }
        let parsed: bytesize::ByteSize = spelled.parse().map_err(|_| bad())?;
        // What does not fit in 64 bits is read as the largest number.
        if parsed.as_u64() == u64::MAX { Err(bad()) } else { Ok(Self(parsed.as_u64())) }
    }
}

/// Why the settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{0:?} is not a number of bytes; write 1073741824 or 1GiB")]
    ByteSize(String),
    #[error("cannot read the config file {path}: {why}")]
    File {
        path: PathBuf,
        /// The text of the system or of the parser.
        why: String,
    },
    #[error("{setting}: {value:?} is not an address; write HOST:PORT, for example 127.0.0.1:{port}")]
    Address {
        setting: &'static str,
        value: String,
        /// For the example in the text.
        port: u16,
    },
    #[error(
        "--kafka-addr {0} is a wildcard: set --advertised-kafka-addr to what clients can reach, for example this machine's host name and port"
    )]
    WildcardAdvertised(SocketAddr),
    #[error(
        "--rpc-addr {0} is a wildcard: set --advertised-rpc-addr to what the other brokers can reach, for example this machine's host name and port"
    )]
    WildcardRpc(SocketAddr),
    #[error("TLS between brokers needs all of --rpc-tls-cert, --rpc-tls-key and --rpc-tls-ca")]
    HalfTls,
    /// Not a host name, `.suffix` or `*`.
    #[error(
        "--http-allowed-hosts {0:?}: write host names without scheme and port, for example broker.example.com, .example.com for all names below it, or * for every name"
    )]
    AllowedHost(String),
    #[error("--seed names {0:?} twice")]
    SeedTwice(String),
    #[error("--rack {0:?}: use at most 255 characters, none of them a control character")]
    Rack(String),
    #[error("--replace {0}: node ids are 1 and greater; `tidewater cluster brokers` lists them")]
    Replace(i32),
    #[error("--replace needs --seed: the addresses of brokers of the cluster")]
    ReplaceWithoutSeed,
    #[error("{setting} is {value}, but {expected} is expected")]
    Range { setting: &'static str, value: u64, expected: &'static str },
    /// Not legal in object keys.
    #[error("--cluster-name {0:?}: use 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit")]
    ClusterName(String),
}

/// The names of a broker, in lower case. IP addresses and `localhost` are names of every broker. Node-wide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpNames {
    /// The hosts of the listen and advertised addresses.
    pub own: Vec<String>,
    /// `--http-allowed-hosts`: a name, `.example.com` for all names below it, or `*` for every name.
    pub allowed: Vec<String>,
}

/// The files of TLS between brokers, in PEM form. Node-wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcTlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// Settings as the node uses them. Node-wide.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Absolute.
    pub data_dir: PathBuf,
    pub cluster_name: String,
    /// As in `--bucket`.
    pub bucket: String,
    /// The bucket is a directory below the data directory: the default.
    pub bucket_is_embedded: bool,
    /// Address to bind; port 0 takes a free one.
    pub kafka_addr: SocketAddr,
    /// Host and port.
    pub advertised: Option<(String, u16)>,
    pub admin_addr: SocketAddr,
    pub catalog_addr: SocketAddr,
    /// The names by which clients may call the admin and catalog ports.
    pub http_names: HttpNames,
    /// Address to bind for other brokers; port 0 takes a free one.
    pub rpc_addr: SocketAddr,
    /// `--rpc-addr` was given.
    pub rpc_addr_is_given: bool,
    /// Host and port under which other brokers reach this one.
    pub advertised_rpc: Option<(String, u16)>,
    pub cluster_secret_file: Option<PathBuf>,
    pub rpc_tls: Option<RpcTlsFiles>,
    /// `--seed`: `host:port` of each, in the order given.
    pub seeds: Vec<String>,
    /// `--replace`.
    pub replace: Option<i32>,
    pub rack: Option<String>,
    /// `default.replication.factor`; `None` is 3, or the number of brokers if there are fewer.
    pub default_replication_factor: Option<u16>,
    /// Shards; `None` takes the number that the data directory has, or `node::cores` for a new one.
    pub shards: Option<u16>,
    /// `None` is a tenth of the disk budget.
    pub cache_bytes: Option<u64>,
    /// `None`: see `node::budgets`.
    pub disk_bytes: Option<u64>,
    /// `num.partitions`.
    pub num_partitions: u32,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `group.initial.rebalance.delay.ms`.
    pub group_initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`.
    pub group_min_session_timeout_ms: u64,
    /// `group.max.session.timeout.ms`.
    pub group_max_session_timeout_ms: u64,
    /// `group.max.size`.
    pub group_max_size: usize,
    /// `offsets.retention.minutes`.
    pub offsets_retention_minutes: u64,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: u64,
    /// `max.connections`.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// `connections.max.idle.ms`.
    pub connections_max_idle_ms: u64,
}

impl RawConfig {
    /// Reads a TOML file of the same keys.
    ///
    /// # Errors
    /// The file is missing, malformed or has an unknown key.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let bad = |why: String| ConfigError::File { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
        Self::parse(&text).map_err(bad)
    }

    /// Reads TOML of the same keys.
    ///
    /// # Errors
    /// It is malformed or has an unknown key; the text is the parser's, or names the key that was probably meant.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())?;
        let settings = Self::augment_args(clap::Command::new("tidewater"));
        let names: Vec<&str> = settings.get_arguments().filter_map(clap::Arg::get_long).collect();
        if let Some(unknown) = table.keys().find(|key| !names.contains(&key.as_str())) {
            let hint = spelling::hint(unknown, names.iter().copied());
            let all = if hint.is_empty() { "; `tidewater serve --help` lists them" } else { "" };
            return Err(format!("there is no setting {unknown:?}{hint}{all}"));
        }
        toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())
    }

    /// Fills the gaps of `self` from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            cluster_name: self.cluster_name.or(below.cluster_name),
            bucket: self.bucket.or(below.bucket),
            kafka_addr: self.kafka_addr.or(below.kafka_addr),
            advertised_kafka_addr: self.advertised_kafka_addr.or(below.advertised_kafka_addr),
            admin_addr: self.admin_addr.or(below.admin_addr),
            catalog_addr: self.catalog_addr.or(below.catalog_addr),
            http_allowed_hosts: self.http_allowed_hosts.or(below.http_allowed_hosts),
            rpc_addr: self.rpc_addr.or(below.rpc_addr),
            advertised_rpc_addr: self.advertised_rpc_addr.or(below.advertised_rpc_addr),
            cluster_secret_file: self.cluster_secret_file.or(below.cluster_secret_file),
            rpc_tls_cert: self.rpc_tls_cert.or(below.rpc_tls_cert),
            rpc_tls_key: self.rpc_tls_key.or(below.rpc_tls_key),
            rpc_tls_ca: self.rpc_tls_ca.or(below.rpc_tls_ca),
            seed: self.seed.or(below.seed),
            replace: self.replace.or(below.replace),
            rack: self.rack.or(below.rack),
            default_replication_factor: self.default_replication_factor.or(below.default_replication_factor),
            shards: self.shards.or(below.shards),
            cache_bytes: self.cache_bytes.or(below.cache_bytes),
            disk_bytes: self.disk_bytes.or(below.disk_bytes),
            num_partitions: self.num_partitions.or(below.num_partitions),
            auto_create_topics_enable: self.auto_create_topics_enable.or(below.auto_create_topics_enable),
            group_initial_rebalance_delay_ms: self
                .group_initial_rebalance_delay_ms
                .or(below.group_initial_rebalance_delay_ms),
            group_min_session_timeout_ms: self.group_min_session_timeout_ms.or(below.group_min_session_timeout_ms),
            group_max_session_timeout_ms: self.group_max_session_timeout_ms.or(below.group_max_session_timeout_ms),
            group_max_size: self.group_max_size.or(below.group_max_size),
            offsets_retention_minutes: self.offsets_retention_minutes.or(below.offsets_retention_minutes),
            producer_id_expiration_ms: self.producer_id_expiration_ms.or(below.producer_id_expiration_ms),
            max_connections: self.max_connections.or(below.max_connections),
            max_connections_per_ip: self.max_connections_per_ip.or(below.max_connections_per_ip),
            connections_max_idle_ms: self.connections_max_idle_ms.or(below.connections_max_idle_ms),
        }
    }

    /// Fills in defaults and checks everything. Resolves host names of addresses to bind.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn resolve(self) -> Result<NodeConfig, ConfigError> {
        let data_dir = self.data_dir.unwrap_or_else(|| "tidewater-data".into());
        let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
        let kafka_addr = bind_address("--kafka-addr", self.kafka_addr.as_deref(), 9092)?;
        let advertised = match &self.advertised_kafka_addr {
            Some(text) => Some(host_port(text).ok_or_else(|| ConfigError::Address {
                setting: "--advertised-kafka-addr",
                value: text.clone(),
                port: 9092,
            })?),
            None if kafka_addr.ip().is_unspecified() => return Err(ConfigError::WildcardAdvertised(kafka_addr)),
            None => None,
        };
        let rpc_addr = bind_address("--rpc-addr", self.rpc_addr.as_deref(), RPC_PORT)?;
        let advertised_rpc = match &self.advertised_rpc_addr {
            Some(text) => Some(host_port(text).ok_or_else(|| ConfigError::Address {
                setting: "--advertised-rpc-addr",
                value: text.clone(),
                port: RPC_PORT,
            })?),
            None if rpc_addr.ip().is_unspecified() && self.seed.is_some() => {
                return Err(ConfigError::WildcardRpc(rpc_addr));
            }
            None => None,
        };
        let rpc_tls = match (self.rpc_tls_cert, self.rpc_tls_key, self.rpc_tls_ca) {
            (None, None, None) => None,
            (Some(cert), Some(key), Some(ca)) => Some(RpcTlsFiles { cert, key, ca }),
            _ => return Err(ConfigError::HalfTls),
        };
        let cluster_name = self.cluster_name.unwrap_or_else(|| "tidewater".into());
        if !is_cluster_name(&cluster_name) {
            return Err(ConfigError::ClusterName(cluster_name));
        }
        let allowed = self.http_allowed_hosts.unwrap_or_default().into_iter().map(allowed_host);
        let given = [&self.kafka_addr, &self.advertised_kafka_addr, &self.admin_addr, &self.catalog_addr];
        let own = given.into_iter().flatten().filter_map(|text| Some(host_port(text)?.0.to_ascii_lowercase()));
        let http_names = HttpNames { own: own.collect(), allowed: allowed.collect::<Result<_, _>>()? };
        let seeds: Vec<String> = self.seed.unwrap_or_default().into_iter().map(seed).collect::<Result<_, _>>()?;
        if let Some((_, twice)) = seeds.iter().enumerate().find(|(n, seed)| seeds.iter().take(*n).any(|s| s == *seed)) {
            return Err(ConfigError::SeedTwice(twice.clone()));
        }
        let rack = self.rack.filter(|rack| !rack.is_empty());
        if let Some(rack) = rack.as_ref().filter(|rack| rack.len() > 255 || rack.chars().any(char::is_control)) {
            return Err(ConfigError::Rack(rack.clone()));
        }
        match self.replace {
            Some(node) if node < 1 => return Err(ConfigError::Replace(node)),
            Some(_) if seeds.is_empty() => return Err(ConfigError::ReplaceWithoutSeed),
            _ => {}
        }
        let range = |setting, value: u64, ok: bool, expected| {
            if ok { Ok(()) } else { Err(ConfigError::Range { setting, value, expected }) }
        };
        let num_partitions = self.num_partitions.unwrap_or(1);
        range("--num-partitions", num_partitions.into(), (1..=100_000).contains(&num_partitions), "1 to 100000")?;
        if let Some(factor) = self.default_replication_factor {
            let factors = 1..=15;
            range("--default-replication-factor", factor.into(), factors.contains(&factor), "1 to 15")?;
        }
        if let Some(shards) = self.shards {
            range("--shards", shards.into(), (1..=1024).contains(&shards), "1 to 1024")?;
        }
        let session_min = self.group_min_session_timeout_ms.unwrap_or(6000);
        let session_max = self.group_max_session_timeout_ms.unwrap_or(30 * 60 * 1000);
        let sessions = session_min <= session_max && session_max <= i32::MAX as u64;
        let expected = "at least --group-min-session-timeout-ms and at most 2147483647";
        range("--group-max-session-timeout-ms", session_max, sessions, expected)?;
        let group_max_size = self.group_max_size.unwrap_or(GROUP_MEMBERS_MAX);
        let sizes = 1..=i32::MAX as usize;
        range("--group-max-size", group_max_size as u64, sizes.contains(&group_max_size), "1 to 2147483647")?;
        let retention = self.offsets_retention_minutes.unwrap_or(7 * 24 * 60);
        let minutes = 1..=u64::from(u32::MAX);
        range("--offsets-retention-minutes", retention, minutes.contains(&retention), "1 to 4294967295")?;
        let expiration = self.producer_id_expiration_ms.unwrap_or(crate::limits::PRODUCER_ID_EXPIRATION_MS);
        let range_ms = 1..=i64::MAX as u64;
        range("--producer-id-expiration-ms", expiration, range_ms.contains(&expiration), "at least 1")?;
        let max_connections = self.max_connections.unwrap_or(CONNECTIONS_MAX);
        range("--max-connections", max_connections as u64, max_connections > 0, "1 or more")?;
        let per_ip = self.max_connections_per_ip.unwrap_or(max_connections);
        range("--max-connections-per-ip", per_ip as u64, per_ip > 0, "1 or more")?;
        let idle = self.connections_max_idle_ms.unwrap_or(crate::limits::CONNECTIONS_MAX_IDLE_MS);
        range("--connections-max-idle-ms", idle, idle >= 1000, "at least 1000")?;
        Ok(NodeConfig {
            bucket_is_embedded: self.bucket.is_none(),
            bucket: self.bucket.unwrap_or_else(|| format!("file://{}", data_dir.join("bucket").display())),
            data_dir,
            cluster_name,
            kafka_addr,
            advertised,
            admin_addr: bind_address("--admin-addr", self.admin_addr.as_deref(), 9644)?,
            catalog_addr: bind_address("--catalog-addr", self.catalog_addr.as_deref(), 8181)?,
            http_names,
            rpc_addr,
            rpc_addr_is_given: self.rpc_addr.is_some(),
            advertised_rpc,
            cluster_secret_file: self.cluster_secret_file,
            rpc_tls,
            seeds,
            replace: self.replace,
            rack,
            default_replication_factor: self.default_replication_factor,
            shards: self.shards,
            cache_bytes: self.cache_bytes.map(|b| b.0),
            disk_bytes: self.disk_bytes.map(|b| b.0),
            num_partitions,
            auto_create_topics: self.auto_create_topics_enable.unwrap_or(true),
            group_initial_rebalance_delay_ms: self.group_initial_rebalance_delay_ms.unwrap_or(3000),
            group_min_session_timeout_ms: session_min,
            group_max_session_timeout_ms: session_max,
            group_max_size,
            offsets_retention_minutes: retention,
            producer_id_expiration_ms: expiration,
            max_connections,
            max_connections_per_ip: per_ip,
            connections_max_idle_ms: idle,
        })
    }
}

impl NodeConfig {
    /// One line for each listener that other machines can reach, and for a setting that lets web pages read answers.
    #[must_use]
    pub fn exposure_warnings(&self) -> Vec<String> {
        let addrs = [
            ("--kafka-addr", self.kafka_addr),
            ("--admin-addr", self.admin_addr),
            ("--catalog-addr", self.catalog_addr),
        ];
        let exposed = addrs.into_iter().filter(|(_, addr)| !addr.ip().is_loopback()).map(|(flag, addr)| {
            format!("{flag} {addr} can be reached from other machines and has no authentication: anyone may read, write and delete")
        });
        let open = self.cluster_secret_file.is_none() && self.rpc_tls.is_none() && !self.rpc_addr.ip().is_loopback();
        let open = open.then(|| {
            format!(
                "--rpc-addr {} can be reached from other machines, and has neither --cluster-secret-file nor \
                 --rpc-tls-cert: anyone may act as a broker of this cluster",
                self.rpc_addr
            )
        });
        let any = self.http_names.allowed.iter().any(|name| name == "*");
        let any = any.then(|| {
            "--http-allowed-hosts * accepts every host name: a web page can read the admin and catalog ports by DNS rebinding".to_owned()
        });
        exposed.chain(open).chain(any).collect()
    }
}

fn is_cluster_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len())
        && name.chars().all(legal)
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
}

fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
}

/// An entry of `--http-allowed-hosts`, in lower case.
fn allowed_host(text: String) -> Result<String, ConfigError> {
    let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = name.chars().all(legal) && !name.trim_start_matches('.').is_empty();
    if name == "*" || is_name || name.parse::<IpAddr>().is_ok() {
        Ok(name)
    } else {
        Err(ConfigError::AllowedHost(text))
    }
}

/// An entry of `--seed`, with the port that --rpc-addr has by default if it names none.
fn seed(text: String) -> Result<String, ConfigError> {
    let trimmed = text.trim();
    let has_port = trimmed.contains(':') && !trimmed.ends_with(']');
    let with_port = if has_port { trimmed.to_owned() } else { format!("{trimmed}:{RPC_PORT}") };
    match host_port(&with_port) {
        Some((_, port)) if port > 0 => Ok(with_port.to_ascii_lowercase()),
        _ => Err(ConfigError::Address { setting: "--seed", value: text, port: RPC_PORT }),
    }
}

fn bind_address(setting: &'static str, given: Option<&str>, port: u16) -> Result<SocketAddr, ConfigError> {
    use std::net::ToSocketAddrs;
    let Some(text) = given else { return Ok(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)) };
    let bad = || ConfigError::Address { setting, value: text.to_owned(), port };
    let (host, port) = host_port(text).ok_or_else(bad)?;
    (host.as_str(), port).to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1GiB", 1 << 30),
            ("10 MiB", 10 << 20),
            ("5kb", 5000),
            ("1_000", 1000),
            ("2g", 2 << 30),
            ("1.5KiB", 1536),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["many", "99999999TiB", "", "-1", "1 parsec"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_lie_over_the_file() {
        let file: RawConfig =
            toml::from_str("kafka-addr = \"127.0.0.1:1\"\nshards = 3\ncache-bytes = \"1GiB\"").expect("parses");
        let flags = RawConfig { kafka_addr: Some("127.0.0.1:2".into()), ..RawConfig::default() };
        let config = flags.over(file).resolve().expect("holds");
        assert_eq!((config.kafka_addr.port(), config.shards, config.cache_bytes), (2, Some(3), Some(1 << 30)));
    }

    #[test]
    fn the_error_for_a_mistyped_key_names_the_right_one() {
        let error = |text| RawConfig::parse(text).expect_err("refused");
        assert_eq!(error("kafka_addr = 'h:1'"), "there is no setting \"kafka_addr\"; did you mean kafka-addr?");
        assert!(error("replicas = 3").ends_with("`tidewater serve --help` lists them"));
        assert!(error("shards = 'x'").contains("expected u16"));
    }

    #[test]
    fn seeds_are_addresses_and_the_port_may_be_left_out() {
        let seeds = |list: &[&str]| {
            let raw = RawConfig { seed: Some(list.iter().map(ToString::to_string).collect()), ..RawConfig::default() };
            raw.resolve().map(|config| config.seeds)
        };
        assert_eq!(seeds(&["A:1", " b ", "[::1]:7"]), Ok(vec!["a:1".into(), "b:33145".into(), "[::1]:7".into()]));
        for bad in ["", ":", "a:x", "a:0"] {
            assert!(matches!(seeds(&[bad]), Err(ConfigError::Address { setting: "--seed", .. })), "{bad:?}");
        }
    }

    #[test]
    fn http_names_are_those_of_the_addresses_and_of_the_setting() {
        let raw = RawConfig {
            admin_addr: Some("LocalHost:9644".into()),
            advertised_kafka_addr: Some("Broker.example:9092".into()),
            http_allowed_hosts: Some(vec!["A.example".into(), " .b.example".into(), "*".into(), "::1".into()]),
            ..RawConfig::default()
        };
        let names = raw.resolve().expect("holds").http_names;
        assert_eq!(names.own, ["broker.example", "localhost"]);
        assert_eq!(names.allowed, ["a.example", ".b.example", "*", "::1"]);
        for bad in ["http://a.example", "a.example:80", "", ".", "*.example"] {
            let raw = RawConfig { http_allowed_hosts: Some(vec![bad.into()]), ..RawConfig::default() };
            assert_eq!(raw.resolve().expect_err("refused"), ConfigError::AllowedHost(bad.into()), "{bad}");
        }
    }

    #[test]
    fn a_limit_of_no_connections_is_refused() {
        for raw in [
            RawConfig { max_connections: Some(0), ..RawConfig::default() },
            RawConfig { max_connections_per_ip: Some(0), ..RawConfig::default() },
        ] {
            assert!(matches!(raw.resolve(), Err(ConfigError::Range { value: 0, .. })));
        }
    }

    #[test]
    fn what_other_brokers_need_is_checked() {
        let resolve = |change: fn(&mut RawConfig)| {
            let mut raw = RawConfig::default();
            change(&mut raw);
            raw.resolve()
        };
        let alone = resolve(|_| ()).expect("holds");
        assert_eq!((alone.rpc_addr.to_string(), alone.seeds.len()), ("127.0.0.1:33145".into(), 0));
        assert!(resolve(|raw| raw.rpc_addr = Some("127.0.0.1:0".into())).is_ok());
        let refused: [(fn(&mut RawConfig), &str); 7] = [
            (
                |raw| (raw.rpc_addr, raw.seed) = (Some("0.0.0.0:1".into()), Some(vec!["a:1".into()])),
                "--advertised-rpc-addr",
            ),
            (|raw| raw.seed = Some(vec!["a:1".into(), "A:1".into()]), "twice"),
            (|raw| raw.rack = Some("a\nb".into()), "--rack"),
            (|raw| raw.replace = Some(2), "--seed"),
            (|raw| (raw.replace, raw.seed) = (Some(0), Some(vec!["a:1".into()])), "node ids"),
            (|raw| raw.rpc_tls_key = Some("key.pem".into()), "--rpc-tls-cert"),
            (|raw| raw.default_replication_factor = Some(0), "1 to 15"),
        ];
        for (change, words) in refused {
            let error = resolve(change).expect_err("refused").to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn an_rpc_port_that_others_reach_needs_tls_or_a_secret() {
        let raw = RawConfig {
            rpc_addr: Some("0.0.0.0:1".into()),
            advertised_rpc_addr: Some("broker.example:1".into()),
            ..RawConfig::default()
        };
        let open = raw.clone().resolve().expect("holds").exposure_warnings();
        assert!(matches!(&open[..], [one] if one.contains("--cluster-secret-file")), "{open:?}");
        let secret = RawConfig { cluster_secret_file: Some("secret".into()), ..raw };
        assert_eq!(secret.resolve().expect("holds").exposure_warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_wildcard_needs_an_advertised_address() {
        let raw = RawConfig { kafka_addr: Some("0.0.0.0:9092".into()), ..RawConfig::default() };
        assert!(matches!(raw.clone().resolve(), Err(ConfigError::WildcardAdvertised(_))));
        let advertised = RawConfig { advertised_kafka_addr: Some("broker.example:9092".into()), ..raw };
        let config = advertised.resolve().expect("holds");
        assert_eq!(config.advertised, Some(("broker.example".into(), 9092)));
        assert_eq!(config.exposure_warnings().len(), 1);
    }
}
